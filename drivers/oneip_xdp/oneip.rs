//! The dispatch core in the kernel's receive path.
//!
//! Copies nothing, decides nothing: [`Memory`] and [`Anywhere`] are a frame, [`Mapped`] a table over the bytes that a loader
//! published, and the core does the rest. What is here is what the kernel's verifier wants to see: each access to a packet follows a
//! comparison of the very same register with the packet's end, each access to a map an upper bound. `opaque` keeps the
//! optimiser from proving such a comparison needless by arithmetic that the verifier cannot follow.
//!
//! The usual frame goes a short way: the clock is asked first, so that nothing has to be kept on the stack while it is; of what
//! this node is, only what such a frame needs is read; the first 34 bytes are compared with the packet's end once.
#![no_std]
#![no_main]

use core::arch::asm;
use core::hint::assert_unchecked;
use core::ptr::{addr_of, addr_of_mut, read_unaligned, read_volatile, write_unaligned, write_volatile};
use core::sync::atomic::{AtomicU64, Ordering};

use apus_dispatch::{Flow, Frame, HEAD_BYTES, Head, Here, Hooks, Key, Mac, NOBODY, Slot, Table, Verdict, any, sign, usual};

/// `struct xdp_md` (linux/bpf.h).
#[repr(C)]
pub struct Context {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// Most slots of a table, a power of two.
const SLOTS: usize = 1 << 18;
/// Bytes of a table's map: so many slots, 4,096 servers.
const TABLE_BYTES: u64 = 64 + 4 * SLOTS as u64 + 8 * 4_096;
/// No frame of a network card is longer.
const FRAME_BYTES: usize = 0x3fff;

/// Ethernet and IPv4 headers.
const USUAL_BYTES: usize = 34;

/// Counters of a processor, by number.
const COUNTERS: usize = 32;
/// As many processors count for themselves, all others together.
const PROCESSORS: usize = 512;
/// After the counters of the verdicts: no table was published.
const NO_TABLE: u64 = 30;
/// What this node is was changed all the time while it was read.
const NO_STATE: u64 = 31;

#[repr(C)]
pub struct Map {
    _opaque: [u64; 0],
}

unsafe extern "C" {
    // Defined in `maps.c`.
    static oneip_table: Map;
    static oneip_state: [u64; 18];
    static mut oneip_counters: [[u64; COUNTERS]; PROCESSORS + 1];
    // The build renames it to `llvm.is.constant`: whether the value is known when the program is compiled.
    safe fn apus_is_constant(value: u64) -> bool;
}

/// A kernel function by its number (linux/bpf.h).
macro_rules! helper {
    ($number:literal, $name:ident($($arg:ident: $kind:ty),*) -> $out:ty) => {
        #[inline(always)]
        unsafe fn $name($($arg: $kind),*) -> $out {
            // SAFETY: the kernel's verifier replaces the number by the function that has this signature.
            let call: unsafe extern "C" fn($($kind),*) -> $out = unsafe { core::mem::transmute($number as usize) };
            // SAFETY: passed on to the caller; the verifier checks every argument.
            unsafe { call($($arg),*) }
        }
    };
}

helper!(1, map_lookup(map: *const Map, key: *const u32) -> *mut u8);
helper!(8, processor() -> u64);
helper!(23, redirect(port: u32, flags: u64) -> i64);
helper!(86, release(socket: *const Socket) -> i64);
helper!(99, socket_of(context: *const Context, tuple: *const u32, size: u32, namespace: u64, flags: u64) -> *const Socket);
helper!(125, boot_clock() -> u64);

/// The table that a record of what this node is names; none before the first.
#[inline(always)]
fn table(record: usize) -> Option<*const u8> {
    let key = addr_of!(oneip_state).cast::<u64>().wrapping_add(record + 6).cast();
    // SAFETY: both pointers are to what the kernel function reads.
    let value = unsafe { map_lookup(addr_of!(oneip_table), key) };
    if value.is_null() { None } else { Some(value) }
}

/// The same value, of which the optimiser knows nothing.
macro_rules! opaque {
    ($value:expr) => {{
        let mut value = $value;
        // SAFETY: a comment; the build empties it.
        unsafe { asm!("/* {0} */", inlateout(reg) value, options(pure, nomem, nostack, preserves_flags)) };
        value
    }};
}

/// A packet where the network card put it, at places that are known when the program is compiled.
struct Memory {
    start: *mut u8,
    end: *mut u8,
}

impl Memory {
    #[inline(always)]
    fn of(context: *const Context) -> Self {
        // SAFETY: the kernel gave the context.
        let start = unsafe { read_volatile(addr_of!((*context).data)) };
        // SAFETY: as above.
        let end = unsafe { read_volatile(addr_of!((*context).data_end)) };
        Self { start: start as usize as *mut u8, end: end as usize as *mut u8 }
    }

    /// `place`, if that many bytes are there.
    #[inline(always)]
    fn inside(&self, place: *mut u8, many: usize) -> Option<*mut u8> {
        if place.wrapping_add(many) > self.end { None } else { Some(place) }
    }
}

impl Frame for Memory {
    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let place = self.inside(self.start.wrapping_add(at), N)?;
        // SAFETY: all `N` bytes are inside.
        Some(unsafe { read_unaligned(place.cast()) })
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> bool {
        let Some(place) = self.inside(self.start.wrapping_add(at), N) else { return false };
        // SAFETY: all `N` bytes are inside.
        unsafe { write_unaligned(place.cast(), bytes) };
        true
    }

    #[inline(always)]
    fn size(&self) -> usize {
        opaque!(self.end as usize - self.start as usize)
    }
}

/// A packet that has at least [`USUAL_BYTES`].
struct Usual(Memory);

impl Usual {
    #[inline(always)]
    fn of(context: *const Context) -> Option<Self> {
        let memory = Memory::of(context);
        memory.inside(memory.start, USUAL_BYTES)?;
        Some(Self(memory))
    }
}

impl Frame for Usual {
    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        if at + N > USUAL_BYTES {
            return self.0.read(at);
        }
        // SAFETY: so many bytes are there.
        Some(unsafe { read_unaligned(self.0.start.wrapping_add(at).cast()) })
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> bool {
        if at + N > USUAL_BYTES {
            return self.0.write(at, bytes);
        }
        // SAFETY: so many bytes are there.
        unsafe { write_unaligned(self.0.start.wrapping_add(at).cast(), bytes) };
        true
    }

    #[inline(always)]
    fn size(&self) -> usize {
        let size = self.0.size();
        // SAFETY: it was compared.
        unsafe { assert_unchecked(size >= USUAL_BYTES) };
        size
    }
}

/// The same, at any place. Everything is asked anew: what the verifier learned on one way must not keep it from seeing that
/// another leads to the same.
struct Anywhere {
    context: *const Context,
    /// Zero, which the verifier does not know: where it can tell how a comparison ends, it keeps the ways to it apart. Added it
    /// would be traced; the exclusive or is not.
    zero: usize,
}

impl Anywhere {
    #[inline(always)]
    fn place(&self, at: usize, many: usize) -> Option<*mut u8> {
        let memory = Memory::of(self.context);
        if apus_is_constant(at as u64) {
            return memory.inside(memory.start.wrapping_add(at), many);
        }
        let at = opaque!(at ^ self.zero);
        if at > FRAME_BYTES {
            return None;
        }
        // A bound that stays with the value: Linux 6.1 forgets what a comparison told once the value has a copy on the stack.
        let at = opaque!(at) & FRAME_BYTES;
        memory.inside(opaque!(memory.start.wrapping_add(at)), many)
    }
}

impl Frame for Anywhere {
    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let place = self.place(at, N)?;
        // SAFETY: all `N` bytes are inside.
        Some(unsafe { read_unaligned(place.cast()) })
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> bool {
        let Some(place) = self.place(at, N) else { return false };
        // SAFETY: all `N` bytes are inside.
        unsafe { write_unaligned(place.cast(), bytes) };
        true
    }

    #[inline(always)]
    fn size(&self) -> usize {
        Memory::of(self.context).size()
    }

    #[inline(always)]
    fn hide(&self, value: usize) -> usize {
        opaque!(value ^ self.zero)
    }
}

/// A published table, checked by its loader.
struct Mapped {
    bytes: *const u8,
    key: Key,
}

impl Mapped {
    #[inline(always)]
    fn key(bytes: *const u8) -> Key {
        // SAFETY: the head is there.
        match unsafe { *bytes.wrapping_add(33) } {
            0 => Key::Source,
            1 => Key::Ports,
            _ => Key::Quic,
        }
    }

    /// `N` bytes at a place inside the head.
    #[inline(always)]
    fn head<const N: usize>(&self, at: usize) -> [u8; N] {
        // SAFETY: the head is smaller than the map, and the callers' places are constant.
        unsafe { read_unaligned(self.bytes.wrapping_add(at).cast()) }
    }

    #[inline(always)]
    fn log2(&self) -> u64 {
        let [log2] = self.head::<1>(32);
        u64::from(log2)
    }

    /// `N` bytes at any place.
    #[inline(always)]
    fn read<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let at = opaque!(at);
        if at > TABLE_BYTES - N as u64 {
            return None;
        }
        // SAFETY: not more than the map has.
        Some(unsafe { read_unaligned(self.bytes.wrapping_add(at as usize).cast()) })
    }
}

impl Table for Mapped {
    #[inline(always)]
    fn head(&self) -> Head {
        let [log2_slots] = self.head(32);
        let [a, b, c, d, e, f, _, _] = self.head(56);
        Head {
            epoch: u64::from_le_bytes(self.head(16)),
            seed: u64::from_le_bytes(self.head(24)),
            log2_slots,
            key: self.key,
            v4: self.head(36),
            v6: self.head(40),
            claim: [a, b, c, d, e, f],
        }
    }

    #[inline(always)]
    fn slot(&self, number: u32) -> Slot {
        // `slot_of` gave a number below that for every table that fits.
        let number = u64::from(number) & (SLOTS as u64 - 1);
        let place = self.bytes.wrapping_add(HEAD_BYTES + 2 * number as usize);
        // SAFETY: the head and so many slots of two bytes are there.
        let server: [u8; 2] = unsafe { read_unaligned(place.cast()) };
        let former = HEAD_BYTES as u64 + (2_u64.wrapping_shl(self.log2() as u32)) + 2 * number;
        Slot { server: u16::from_le_bytes(server), former: self.read(former).map_or(NOBODY, u16::from_le_bytes) }
    }

    #[inline(always)]
    fn server(&self, place: u16) -> Option<Mac> {
        let count = u16::from_le_bytes(self.head(34));
        if place >= count {
            return None;
        }
        let at = HEAD_BYTES as u64 + (4_u64.wrapping_shl(self.log2() as u32)) + 8 * u64::from(place);
        let [a, b, c, d, e, f, _, _] = self.read(at)?;
        Some([a, b, c, d, e, f])
    }

    /// The loader has seen that every slot names a server that is there, or nobody.
    #[inline(always)]
    fn port(&self, number: usize) -> Option<(u16, [u8; 8])> {
        let place = self.bytes.wrapping_add(HEAD_BYTES + 2 * (number & (SLOTS - 1)));
        // SAFETY: the head and so many slots of two bytes are there.
        let server: u16 = unsafe { read_unaligned(place.cast()) };
        if server == NOBODY {
            return None;
        }
        let at = HEAD_BYTES as u64 + (4_u64.wrapping_shl(self.log2() as u32)) + 8 * u64::from(server);
        Some((server, self.read(at)?))
    }
}

/// `struct bpf_sock` (linux/bpf.h), as far as it is read.
#[repr(C)]
struct Socket {
    _before: [u32; 18],
    state: u32,
}

/// `struct bpf_sock_tuple`; the stack takes aligned words only.
#[repr(C, align(8))]
struct Tuple([u32; 10]);

/// `TCP_LISTEN` (linux/tcp.h).
const LISTEN: u32 = 10;

/// The sockets of the port's network namespace.
struct Sockets<'t> {
    context: *const Context,
    table: &'t Mapped,
}

impl Hooks for Sockets<'_> {
    /// A listening socket is not a connection's.
    #[inline(always)]
    fn has_socket(&self, flow: &Flow) -> bool {
        let part = |at: usize| {
            let [a, b, c, d] = [flow.client[at], flow.client[at + 1], flow.client[at + 2], flow.client[at + 3]];
            u32::from_ne_bytes([a, b, c, d])
        };
        let word = |at: usize| u32::from_ne_bytes(self.table.head(at));
        // Addresses and ports as on the wire; the ports in one word.
        let ports = u32::from(flow.port.to_be()) | u32::from(flow.cluster_port.to_be()) << 16;
        let mut tuple = core::mem::MaybeUninit::<Tuple>::uninit();
        let mut set = |at: usize, word: u32| {
            // SAFETY: there are ten words; one at a time, or the optimiser makes an unaligned pair of two.
            unsafe { write_volatile(tuple.as_mut_ptr().cast::<u32>().wrapping_add(at), word) };
        };
        let bytes = if flow.v6 {
            set(0, part(0));
            set(1, part(4));
            set(2, part(8));
            set(3, part(12));
            set(4, word(40));
            set(5, word(44));
            set(6, word(48));
            set(7, word(52));
            set(8, ports);
            36
        } else {
            set(0, part(12));
            set(1, word(36));
            set(2, ports);
            12
        };
        // SAFETY: as many bytes of the tuple were set.
        let socket = unsafe { socket_of(self.context, tuple.as_ptr().cast(), bytes, u64::MAX, 0) };
        if socket.is_null() {
            return false;
        }
        // SAFETY: the kernel gave it, and counts it as in use until it is released.
        let state = unsafe { read_volatile(addr_of!((*socket).state)) };
        // SAFETY: it was acquired above, once.
        unsafe { release(socket) };
        state != LISTEN
    }
}

/// A word of what this node is.
///
/// The loader writes the record that is not in use, then raises the version: even and odd versions have a record each. A
/// version that is the same after the reading as before means that nobody wrote in between. The table is part of it: it
/// changes together with this node's place among its servers.
#[inline(always)]
fn word(at: usize) -> u64 {
    // SAFETY: 18 words are there; places are constant but for one bit of the version.
    unsafe { read_volatile(addr_of!(oneip_state).cast::<u64>().wrapping_add(at)) }
}

/// Where the record of a version is.
#[inline(always)]
fn record(version: u64) -> usize {
    2 + 8 * (version & 1) as usize
}

/// An address from its word.
#[inline(always)]
fn mac(word: u64) -> Mac {
    let [a, b, c, d, e, f, _, _] = word.to_le_bytes();
    [a, b, c, d, e, f]
}

/// What this node is.
struct State {
    here: Here,
    /// The port that frames leave by; 0: the one they came by.
    out: u32,
    /// The table in use.
    table: Option<*const u8>,
}

/// What this node is, if it could be read whole.
#[inline(always)]
fn state(now: u64) -> Option<State> {
    for _ in 0..2 {
        let version = word(0);
        let at = record(version);
        let table = table(at);
        let (lease, epoch, fence, place, own, out) =
            (word(at), word(at + 1), word(at + 2), word(at + 3), word(at + 4), word(at + 5));
        if word(0) == version {
            let here = Here { now, lease, epoch, fence, server: place as u16, id: (place >> 16) as u8, mac: mac(own) };
            return Some(State { here, out: out as u32, table });
        }
    }
    None
}

/// The short way: the port that the frame leaves by. None, and nothing written, for a frame that is not usual, or if what
/// this node is was changed while it was read.
#[inline(always)]
fn short(context: *const Context, now: u64) -> Option<u32> {
    let version = word(0);
    let at = record(version);
    let bytes = table(at)?;
    let (lease, epoch, place, own, out) = (word(at), word(at + 1), word(at + 3), word(at + 4), word(at + 5));
    if word(0) != version {
        return None;
    }
    // Usual frames are judged without the fence.
    let here = Here { now, lease, epoch, fence: 0, server: place as u16, id: (place >> 16) as u8, mac: mac(own) };
    let mut frame = Usual::of(context)?;
    match Mapped::key(bytes) {
        Key::Source => usual(&here, &Mapped { bytes, key: Key::Source }, &mut frame)?,
        Key::Ports => usual(&here, &Mapped { bytes, key: Key::Ports }, &mut frame)?,
        Key::Quic => return None,
    }
    Some(out as u32)
}

#[inline(always)]
fn count(which: u64) {
    let which = (which as usize) & (COUNTERS - 1);
    // SAFETY: it only reads a number.
    let processor = unsafe { processor() } as usize;
    let counters = addr_of_mut!(oneip_counters).cast::<u64>();
    if processor < PROCESSORS {
        let counter = counters.wrapping_add(COUNTERS * processor + which);
        // SAFETY: it is there, and no other processor has this copy.
        unsafe { *counter += 1 };
    } else {
        let counter = counters.wrapping_add(COUNTERS * PROCESSORS + which);
        // SAFETY: it is there, after the others.
        let counter = unsafe { AtomicU64::from_ptr(counter) };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A frame for another server, by this port.
#[inline(always)]
fn transmit(out: u32) -> u32 {
    count(2);
    if out == 0 {
        return XDP_TX;
    }
    // SAFETY: it only notes where the frame goes.
    (unsafe { redirect(out, 0) }) as u32
}

/// A frame comes in.
///
/// # Safety
/// Called by the kernel alone.
#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
pub unsafe extern "C" fn oneip(context: *mut Context) -> u32 {
    // SAFETY: it only reads a clock. CLOCK_BOOTTIME: it goes on while the machine sleeps, as leases do.
    let now = unsafe { boot_clock() };
    if let Some(out) = short(context, now) {
        return transmit(out);
    }
    let Some(State { here, out, table }) = state(now) else {
        count(NO_STATE);
        return XDP_DROP;
    };
    let Some(bytes) = table else {
        count(NO_TABLE);
        return XDP_PASS;
    };
    let table = Mapped { bytes, key: Mapped::key(bytes) };
    let hooks = Sockets { context, table: &table };
    let mut frame = Anywhere { context, zero: word(1) as usize };
    let verdict = any(&here, &table, &hooks, &mut frame);
    match verdict {
        Verdict::Pass => {
            count(0);
            XDP_PASS
        }
        Verdict::Local => {
            // The system's guard lets in only what a dispatcher sent.
            sign(&here, &mut frame);
            count(1);
            XDP_PASS
        }
        Verdict::Transmit => transmit(out),
        Verdict::Drop(reason) => {
            count(3 + reason as u64);
            XDP_DROP
        }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // The build refuses an object that could come here.
    unsafe extern "C" {
        safe fn apus_never() -> !;
    }
    apus_never()
}
