//! `AF_XDP` sockets: frames come into memory of this process before the system makes packets of them.
//!
//! Only the receiving half: what is sent goes by a packet socket, whose frames the [`Guard`](super::Guard) sees. A frame that an
//! `AF_XDP` socket sends passes no rules, and a process that was frozen between look and send would send it without a lease.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use aya::Ebpf;
use aya::maps::{Array, XskMap};
use aya::programs::{self, XdpMode};

use super::choose::Port;
use super::packet::solicited;
use super::ring::{BEFORE, index_of, join, option};
use super::system::at;
use super::xdp::causes;

/// The program as it is committed; `drivers/oneip_xdp/build` makes it.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../drivers/oneip_xdp/sieve.o");

/// A place for a frame, and how many there are for each queue.
const CHUNK: usize = 2_048;
const CHUNKS: usize = 2_048;
/// The program's map has room for as many.
const QUEUES: u32 = 64;

/// Memory that is mapped.
struct Area {
    memory: NonNull<u8>,
    bytes: usize,
}

impl Area {
    fn new(bytes: usize, flags: libc::c_int, of: RawFd, offset: libc::off_t) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, of, offset) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("no memory for a ring"))?;
        Ok(Self { memory, bytes })
    }

    /// `many` bytes from `at` on.
    fn place(&self, at: usize, many: usize) -> *mut u8 {
        assert!(at.checked_add(many).is_some_and(|end| end <= self.bytes), "the kernel gave places inside");
        // SAFETY: it is inside.
        unsafe { self.memory.as_ptr().add(at) }
    }

    fn counter(&self, at: u64) -> &AtomicU32 {
        let word = self.place(usize::try_from(at).unwrap_or(usize::MAX), 4);
        // SAFETY: it is aligned, lives as long as this value, and both sides write it whole.
        unsafe { AtomicU32::from_ptr(word.cast()) }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's alone, and nothing of it is lent.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.bytes) };
    }
}

/// The socket of one receive queue, with its frames, a ring of those that came, and one of places for more.
struct Queue {
    socket: OwnedFd,
    frames: Area,
    came: Area,
    room: Area,
    offsets: libc::xdp_mmap_offsets,
    next: u32,
}

// SAFETY: the mappings are this value's alone.
unsafe impl Send for Queue {}

impl Queue {
    fn new(index: i32, queue: u32) -> io::Result<Self> {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was just opened, and nobody else knows it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let frames = Area::new(CHUNK * CHUNKS, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE, -1, 0)?;
        let number = |many: usize| u32::try_from(many).unwrap_or_default();
        let memory = libc::xdp_umem_reg {
            addr: frames.memory.as_ptr().addr() as u64,
            len: frames.bytes as u64,
            chunk_size: number(CHUNK),
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        option(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &memory)?;
        for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING] {
            option(fd, libc::SOL_XDP, ring, &number(CHUNKS))?;
        }
        let ring = || libc::xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };
        let mut offsets = libc::xdp_mmap_offsets { rx: ring(), tx: ring(), fr: ring(), cr: ring() };
        ask(fd, libc::XDP_MMAP_OFFSETS, &mut offsets)?;
        let ring = |first: u64, entry: usize, page: libc::off_t| {
            let bytes = usize::try_from(first).unwrap_or(usize::MAX).saturating_add(CHUNKS * entry);
            Area::new(bytes, libc::MAP_SHARED | libc::MAP_POPULATE, fd, page)
        };
        let came = ring(offsets.rx.desc, size_of::<libc::xdp_desc>(), libc::XDP_PGOFF_RX_RING)?;
        let fill = libc::off_t::try_from(libc::XDP_UMEM_PGOFF_FILL_RING).map_err(io::Error::other)?;
        let room = ring(offsets.fr.desc, size_of::<u64>(), fill)?;
        let this = Self { socket, frames, came, room, offsets, next: 0 };
        for chunk in 0..CHUNKS {
            this.give((chunk * CHUNK) as u64);
        }
        this.bind(index, queue)?;
        Ok(this)
    }

    fn bind(&self, index: i32, queue: u32) -> io::Result<()> {
        let address = libc::sockaddr_xdp {
            sxdp_family: u16::try_from(libc::AF_XDP).unwrap_or_default(),
            sxdp_flags: libc::XDP_COPY,
            sxdp_ifindex: index.cast_unsigned(),
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_xdp>()).unwrap_or_default();
        // SAFETY: the address outlives the call, and its size is given.
        if unsafe { libc::bind(self.socket.as_raw_fd(), (&raw const address).cast(), length) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Gives the kernel a place for a frame. There is room: there are as many places as entries.
    fn give(&self, address: u64) {
        let producer = self.room.counter(self.offsets.fr.producer);
        let number = producer.load(Ordering::Relaxed);
        let entry = number as usize % CHUNKS * size_of::<u64>();
        let first = usize::try_from(self.offsets.fr.desc).unwrap_or(usize::MAX);
        let place = self.room.place(first.saturating_add(entry), size_of::<u64>());
        // SAFETY: it is inside, aligned, and the kernel does not read it before the number is raised.
        unsafe { place.cast::<u64>().write(address) };
        producer.store(number.wrapping_add(1), Ordering::Release);
    }

    fn take(&mut self, act: &mut impl FnMut(&mut [u8])) -> bool {
        let came = self.came.counter(self.offsets.rx.producer).load(Ordering::Acquire);
        if came == self.next {
            return false;
        }
        let entry = self.next as usize % CHUNKS * size_of::<libc::xdp_desc>();
        let first = usize::try_from(self.offsets.rx.desc).unwrap_or(usize::MAX);
        let place = self.came.place(first.saturating_add(entry), size_of::<libc::xdp_desc>());
        // SAFETY: it is inside, aligned, and was written before the number was raised.
        let libc::xdp_desc { addr, len, .. } = unsafe { place.cast::<libc::xdp_desc>().read() };
        let (start, many) = (usize::try_from(addr).unwrap_or(usize::MAX), len as usize + BEFORE);
        // The kernel leaves more room in front of a frame than this.
        if let Some(start) = start.checked_sub(BEFORE) {
            let memory = self.frames.place(start, many);
            // SAFETY: it is inside, and until its place is given back, the frame is this value's alone.
            let bytes = unsafe { std::slice::from_raw_parts_mut(memory, many) };
            bytes[..BEFORE].fill(0);
            act(bytes);
        }
        self.give(addr & !(CHUNK as u64 - 1));
        self.next = self.next.wrapping_add(1);
        self.came.counter(self.offsets.rx.consumer).store(self.next, Ordering::Release);
        true
    }
}

fn ask<T>(socket: RawFd, name: i32, into: &mut T) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default();
    let into = std::ptr::from_mut(into).cast();
    // SAFETY: both places outlive the call, and the size is given.
    if unsafe { libc::getsockopt(socket, libc::SOL_XDP, name, into, &raw mut length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Frames that these sockets had no room for, so far.
pub(super) fn lost(sockets: &[OwnedFd]) -> u64 {
    let of = |socket: &OwnedFd| {
        // SAFETY: all zeros are such numbers.
        let mut told: libc::xdp_statistics = unsafe { std::mem::zeroed() };
        match ask(socket.as_raw_fd(), libc::XDP_STATISTICS, &mut told) {
            Ok(()) => told.rx_dropped + told.rx_ring_full,
            Err(_) => 0,
        }
    };
    sockets.iter().map(of).sum()
}

/// All receive queues of a port, and the program that fills them.
pub(super) struct Xsk {
    queues: Vec<Queue>,
    _program: Ebpf,
}

impl Xsk {
    /// Takes from a port what is about the cluster's addresses; `sender` is a packet socket that goes with it.
    pub(super) fn new(port: &Port, sender: RawFd) -> io::Result<Self> {
        let index = index_of(&port.name)?;
        let mut program = Ebpf::load(OBJECT).map_err(io::Error::other)?;
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "the program is not whole");
        let mut address = [0; 24];
        address[..4].copy_from_slice(&port.v4.map_or([0; 4], |v4| v4.octets()));
        address[8..].copy_from_slice(&port.v6.map_or([0; 16], |v6| v6.octets()));
        let data = program.map_mut(".data").ok_or_else(missing)?;
        Array::<_, [u8; 24]>::try_from(data).and_then(|mut data| data.set(0, address, 0)).map_err(io::Error::other)?;
        let mut queues = Vec::new();
        for number in 0..QUEUES {
            match Queue::new(index, number) {
                Ok(queue) => queues.push(queue),
                // There is no such queue.
                Err(error) if number > 0 && error.kind() == io::ErrorKind::InvalidInput => break,
                Err(error) => return Err(at("AF_XDP socket")(error)),
            }
        }
        let sockets = program.map_mut("sieve_sockets").ok_or_else(missing)?;
        let mut sockets = XskMap::try_from(sockets).map_err(io::Error::other)?;
        for (number, queue) in (0..).zip(&queues) {
            sockets.set(number, queue.socket.as_raw_fd(), 0).map_err(io::Error::other)?;
        }
        let entry: &mut programs::Xdp =
            program.program_mut("sieve").ok_or_else(missing)?.try_into().map_err(io::Error::other)?;
        entry.load().map_err(|error| io::Error::other(causes(&error)))?;
        entry
            .attach_to_if_index(index.cast_unsigned(), XdpMode::Driver)
            .or_else(|_| entry.attach_to_if_index(index.cast_unsigned(), XdpMode::Skb))
            .map_err(|error| io::Error::other(causes(&error)))?;
        if let Some(v6) = port.v6 {
            join(sender, index, solicited(v6))?;
        }
        Ok(Self { queues, _program: program })
    }

    /// Other handles of its sockets, for [`lost`].
    pub(super) fn handles(&self) -> io::Result<Vec<OwnedFd>> {
        self.queues.iter().map(|queue| queue.socket.try_clone()).collect()
    }

    /// At most one frame of each queue, with room for what precedes a frame on a packet socket: zeros. Whether there was any.
    pub(super) fn take(&mut self, mut act: impl FnMut(&mut [u8])) -> bool {
        let mut any = false;
        for queue in &mut self.queues {
            any |= queue.take(&mut act);
        }
        any
    }

    /// Waits for a frame, or until `other` can be read.
    pub(super) fn wait(&self, other: RawFd) {
        let mut all = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; QUEUES as usize + 1];
        let sockets = self.queues.iter().map(|queue| queue.socket.as_raw_fd());
        for (entry, fd) in all.iter_mut().zip(sockets.chain([other])) {
            entry.fd = fd;
        }
        // SAFETY: the entries outlive the call, and there are as many; those without a file are passed over.
        unsafe { libc::poll(all.as_mut_ptr(), all.len() as libc::nfds_t, 1_000) };
    }
}
