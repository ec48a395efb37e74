//! A packet socket whose frames come in a ring of memory shared with the kernel (`TPACKET_V2`).

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use apus_dispatch::Mac;

/// Bytes of `virtio_net_hdr`, which precedes each frame, in both directions: what the network card would still have to do.
pub(super) const BEFORE: usize = 10;
/// A place in the ring, and how many there are. A longer frame is queued by the socket, whole.
const SLOT: usize = 2_048;
const SLOTS: usize = 4_096;
const BLOCK: usize = 64 * 1_024;
/// The longest frame: the system joins packets of a stream to this size.
const LONGEST: usize = 1 << 17;

/// The socket and its ring.
#[derive(Debug)]
pub(super) struct Ring {
    socket: OwnedFd,
    memory: NonNull<u8>,
    next: usize,
    long: Vec<u8>,
}

// SAFETY: the memory is a mapping of its own that only this value knows.
unsafe impl Send for Ring {}

/// A 32-bit word's low bits, as a `c_int` that a socket option takes.
pub(super) fn option<T>(socket: RawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default();
    // SAFETY: the value outlives the call, and its size is given.
    if unsafe { libc::setsockopt(socket, level, name, std::ptr::from_ref(value).cast(), length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The number of a network interface.
pub(super) fn index_of(port: &str) -> io::Result<i32> {
    let name = CString::new(port).map_err(io::Error::other)?;
    // SAFETY: the text outlives the call and ends with a zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => i32::try_from(index).map_err(io::Error::other),
    }
}

/// As long as this packet socket is open, the port takes in what is sent to a group.
pub(super) fn join(socket: RawFd, index: i32, group: Mac) -> io::Result<()> {
    // SAFETY: zeros are a valid request.
    let mut join: libc::packet_mreq = unsafe { std::mem::zeroed() };
    join.mr_ifindex = index;
    join.mr_type = u16::try_from(libc::PACKET_MR_MULTICAST).unwrap_or_default();
    join.mr_alen = 6;
    join.mr_address[..6].copy_from_slice(&group);
    option(socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &join)
}

impl Ring {
    /// Listens on a port to what is about these addresses. `group` is the hardware address by which the IPv6 one is asked for.
    pub(super) fn new(port: &str, v4: [u8; 4], group: Option<Mac>) -> io::Result<Self> {
        let index = index_of(port)?;
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was just opened, and nobody else knows it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let packet = libc::SOL_PACKET;
        option(fd, packet, libc::PACKET_VERSION, &(libc::tpacket_versions::TPACKET_V2 as i32))?;
        option(fd, packet, libc::PACKET_VNET_HDR, &1_i32)?;
        option(fd, packet, libc::PACKET_IGNORE_OUTGOING, &1_i32)?;
        option(fd, packet, libc::PACKET_COPY_THRESH, &1_i32)?;
        option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(16_i32 << 20))?;
        filter(fd, v4, group.is_some())?;
        if let Some(group) = group {
            join(fd, index, group)?;
        }
        let number = |many: usize| libc::c_uint::try_from(many).unwrap_or_default();
        let ring = libc::tpacket_req {
            tp_block_size: number(BLOCK),
            tp_block_nr: number(SLOT * SLOTS / BLOCK),
            tp_frame_size: number(SLOT),
            tp_frame_nr: number(SLOTS),
        };
        option(fd, packet, libc::PACKET_RX_RING, &ring)?;
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at a place of the kernel's choice.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), SLOT * SLOTS, access, shared, fd, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("no memory for the ring"))?;
        bind(fd, index, libc::ETH_P_ALL)?;
        Ok(Self { socket, memory, next: 0, long: vec![0; BEFORE + LONGEST] })
    }

    /// The socket.
    pub(super) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Another handle of the socket, to send by.
    pub(super) fn sender(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    fn status(&self, slot: usize) -> &AtomicU32 {
        // SAFETY: the slot is inside the mapping.
        let word = unsafe { self.memory.as_ptr().add((slot % SLOTS) * SLOT) };
        // SAFETY: it is aligned, lives as long as this value, and the kernel writes it whole.
        unsafe { AtomicU32::from_ptr(word.cast()) }
    }

    /// The next frame and what precedes it, if one is there.
    pub(super) fn take(&mut self, mut act: impl FnMut(&mut [u8])) -> bool {
        let slot = self.next % SLOTS;
        let status = self.status(slot).load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return false;
        }
        if status & libc::TP_STATUS_COPY != 0 {
            self.take_long(&mut act);
        } else {
            // SAFETY: the slot is inside the mapping.
            let start = unsafe { self.memory.as_ptr().add(slot * SLOT) };
            // SAFETY: until its status is given back, the slot is this value's alone.
            let bytes = unsafe { std::slice::from_raw_parts_mut(start, SLOT) };
            let length = u32::from_ne_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize;
            let from = usize::from(u16::from_ne_bytes([bytes[12], bytes[13]]));
            if let Some(frame) = bytes.get_mut(from.saturating_sub(BEFORE)..from + length) {
                act(frame);
            }
        }
        self.status(slot).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = slot + 1;
        true
    }

    /// A frame that is longer than a slot. None if the socket had no room for it.
    fn take_long(&mut self, act: &mut impl FnMut(&mut [u8])) {
        let (fd, buffer) = (self.socket.as_raw_fd(), &mut self.long);
        // SAFETY: the buffer outlives the call and is as long as is said.
        let got = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        if let Some(frame) = usize::try_from(got).ok().and_then(|got| buffer.get_mut(..got)) {
            act(frame);
        }
    }

    /// Frames that found the ring full, since the last question.
    pub(super) fn lost(socket: RawFd) -> u64 {
        let mut told = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = libc::socklen_t::try_from(size_of::<libc::tpacket_stats>()).unwrap_or_default();
        // SAFETY: both places outlive the call, and the size is given.
        let answer = unsafe {
            libc::getsockopt(socket, libc::SOL_PACKET, libc::PACKET_STATISTICS, (&raw mut told).cast(), &raw mut length)
        };
        if answer < 0 { 0 } else { u64::from(told.tp_drops) }
    }

    /// Waits for a frame, until `other` can be read, or so long. False if the port is down for now.
    pub(super) fn wait(&self, other: RawFd, most: Duration) -> bool {
        let both = wait([self.fd(), other], most);
        if both[0].revents & libc::POLLERR == 0 {
            return true;
        }
        let (mut error, mut length) = (0_i32, libc::socklen_t::try_from(size_of::<i32>()).unwrap_or_default());
        // SAFETY: both places outlive the call, and the size is given.
        unsafe {
            libc::getsockopt(self.fd(), libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut error).cast(), &raw mut length)
        };
        false
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's alone, and nothing of it is lent.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), SLOT * SLOTS) };
    }
}

/// Waits until one of two can be read, or so long.
pub(super) fn wait(both: [RawFd; 2], most: Duration) -> [libc::pollfd; 2] {
    let mut both = both.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    let most = i32::try_from(most.as_millis()).unwrap_or(i32::MAX).saturating_add(1);
    // SAFETY: the entries outlive the call, and there are two.
    unsafe { libc::poll(both.as_mut_ptr(), 2, most) };
    both
}

/// A packet socket that only sends, by a port; as [`send`] wants it.
pub(super) fn sender(port: &str) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    option(fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1_i32)?;
    bind(fd, index_of(port)?, 0)?;
    Ok(socket)
}

fn bind(socket: RawFd, index: i32, protocol: i32) -> io::Result<()> {
    // SAFETY: zeros are a valid address.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
    address.sll_protocol = u16::try_from(protocol).unwrap_or_default().to_be();
    address.sll_ifindex = index;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or_default();
    // SAFETY: the address outlives the call, and its size is given.
    if unsafe { libc::bind(socket, (&raw const address).cast(), length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sends a frame, behind what precedes it.
pub(super) fn send(socket: RawFd, frame: &[u8]) -> io::Result<()> {
    // SAFETY: the buffer outlives the call and is as long as is said.
    let sent = unsafe { libc::send(socket, frame.as_ptr().cast(), frame.len(), libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Only what may be about the cluster's address comes to the ring: ARP, packets to the IPv4 address, all of IPv6 if it has one.
fn filter(socket: RawFd, v4: [u8; 4], v6: bool) -> io::Result<()> {
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt,
        jf,
        k,
    };
    let (half, word) = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
    let (equal, end) = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::BPF_RET | libc::BPF_K);
    let mut program = [
        op(half, 0, 0, 12),
        op(equal, 4, 0, 0x0806),
        op(equal, if v6 { 3 } else { 4 }, 0, 0x86dd),
        op(equal, 0, 3, 0x0800),
        op(word, 0, 0, 30),
        op(equal, 0, 1, u32::from_be_bytes(v4)),
        op(end, 0, 0, u32::MAX),
        op(end, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: 8, filter: program.as_mut_ptr() };
    option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}
