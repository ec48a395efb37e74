//! The dispatch core as a program in the kernel's receive path (`drivers/oneip_xdp`).

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use apus_dispatch::{Block, BlockError, Here, NOBODY, Reason, Table};
use aya::Ebpf;
use aya::maps::{Array, ArrayOfMaps, MapData};
use aya::programs::{self, TestRun, TestRunOptions, XdpMode};

use crate::{Counters, Plane};

/// The program as it is committed; `drivers/oneip_xdp/build` makes it.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../drivers/oneip_xdp/oneip.o");

/// Bytes of a table's map: 2^16 slots, 4,096 servers.
const TABLE_BYTES: usize = 64 + 4 * 65_536 + 8 * 4_096;
/// The program has no room for larger tables.
const MOST_LOG2: u8 = 16;

#[allow(clippy::cast_possible_truncation, reason = "17")]
const AF_PACKET: u16 = libc::AF_PACKET as u16;
#[allow(clippy::cast_possible_truncation, reason = "20")]
const SOCKADDR_BYTES: u32 = size_of::<libc::sockaddr_ll>() as u32;

type TableMap = Array<MapData, [u8; TABLE_BYTES]>;

/// A version and a zero; then a record each for even and odd versions.
type State = [u64; 18];

/// 32 counters for each of 512 processors, and for all others together.
type Counts = [[u64; 32]; 513];

/// How a program is on its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attached {
    /// On none; only [`Xdp::test_run`] runs it.
    Nowhere,
    /// In the port's driver, before the system makes a packet of a frame.
    Native,
    /// After that: the driver cannot, for this reason.
    Generic(String),
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => write!(f, "not attached"),
            Self::Native => write!(f, "native"),
            Self::Generic(reason) => write!(f, "generic (native: {reason})"),
        }
    }
}

/// The dispatch core in the kernel. A frozen or dead daemon's lease ends there too: the program looks at the boot clock for
/// each frame.
pub struct Xdp {
    program: Ebpf,
    attached: Attached,
    port: i32,
    socket: Option<OwnedFd>,
    table: ArrayOfMaps<MapData, TableMap>,
    /// The map that no processor reads: the next table is written there.
    spare: TableMap,
    /// The one that was published last.
    used: TableMap,
    state: Array<MapData, State>,
    now: State,
    counters: Array<MapData, Counts>,
}

impl Xdp {
    /// Loads the committed program, and attaches it to a port: native, or else generic. Until a table is published all
    /// frames pass.
    ///
    /// # Errors
    /// Without the right to load programs (`CAP_NET_ADMIN`, `CAP_BPF`), or if the kernel can do neither.
    pub fn new(port: &str) -> io::Result<Self> {
        let mut xdp = Self::committed()?;
        xdp.attach(port)?;
        Ok(xdp)
    }

    /// Loads the committed program.
    ///
    /// # Errors
    /// As [`Xdp::new`].
    pub fn committed() -> io::Result<Self> {
        Self::load(OBJECT)
    }

    /// Loads a program that has the maps of the committed one.
    ///
    /// # Errors
    /// As [`Xdp::new`]; with the verifier's words if it refuses the program.
    pub fn load(object: &[u8]) -> io::Result<Self> {
        let mut program = Ebpf::load(object).map_err(io::Error::other)?;
        entry(&mut program)?.load().map_err(io::Error::other)?;
        let mut map = |name: &str| program.take_map(name).ok_or_else(|| missing(name));
        let table = ArrayOfMaps::try_from(map("oneip_table")?).map_err(io::Error::other)?;
        let state = Array::try_from(map(".data")?).map_err(io::Error::other)?;
        let counters = Array::try_from(map(".bss")?).map_err(io::Error::other)?;
        let spare = TableMap::create(1, 0).map_err(io::Error::other)?;
        let used = TableMap::create(1, 0).map_err(io::Error::other)?;
        let (attached, now) = (Attached::Nowhere, [0; 18]);
        let mut xdp = Self { program, attached, port: 0, socket: None, table, spare, used, state, now, counters };
        xdp.stand(&Here { now: 0, lease: 0, epoch: 0, fence: 0, server: NOBODY, id: 0, fresh: false, mac: [0; 6] })?;
        Ok(xdp)
    }

    /// Attaches a loaded program to a port.
    ///
    /// # Errors
    /// If there is no such port, or it has a program already.
    pub fn attach(&mut self, port: &str) -> io::Result<()> {
        let name = std::ffi::CString::new(port)?;
        // SAFETY: the name ends with a zero.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        let program = entry(&mut self.program)?;
        self.attached = match program.attach_to_if_index(index, XdpMode::Driver) {
            Ok(_) => Attached::Native,
            Err(native) => {
                program.attach_to_if_index(index, XdpMode::Skb).map_err(io::Error::other)?;
                Attached::Generic(causes(&native))
            }
        };
        self.port = index.cast_signed();
        self.socket = Some(packet_socket()?);
        Ok(())
    }

    /// How it is on its port.
    #[must_use]
    pub const fn attached(&self) -> &Attached {
        &self.attached
    }

    /// Frames for other servers leave by the port with this index from now on; 0: by the one they come in by.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn leave_by(&mut self, port: u32) -> io::Result<()> {
        let mut record = self.record();
        record[5] = port.into();
        self.change(record)
    }

    /// Runs the program on one frame, as if it had come in. Gives its answer (1 drop, 2 pass, 3 transmit, 4 redirect) and how
    /// many bytes of the frame are in `out`. Counts it.
    ///
    /// # Errors
    /// If the kernel does not take such a frame: shorter than 14 bytes, or larger than a page.
    pub fn test_run(&mut self, frame: &[u8], out: &mut [u8]) -> io::Result<(u32, usize)> {
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(out), ..TestRunOptions::new() };
        let result = entry(&mut self.program)?.test_run(options).map_err(io::Error::other)?;
        Ok((result.return_value, result.data_size_out as usize))
    }

    fn record(&self) -> [u64; 8] {
        let mut record = [0; 8];
        record.copy_from_slice(&self.now[at(self.now[0])..][..8]);
        record
    }

    /// Writes the record that is not in use, and only then raises the version.
    fn change(&mut self, record: [u64; 8]) -> io::Result<()> {
        let mut next = self.now;
        let version = next[0].wrapping_add(1);
        next[at(version)..][..8].copy_from_slice(&record);
        self.state.set(0, next, 0).map_err(io::Error::other)?;
        next[0] = version;
        self.state.set(0, next, 0).map_err(io::Error::other)?;
        self.now = next;
        Ok(())
    }
}

impl Plane for Xdp {
    fn name(&self) -> &'static str {
        "xdp"
    }

    fn publish(&mut self, block: &[u8]) -> io::Result<()> {
        let wrong = |error: BlockError| io::Error::new(io::ErrorKind::InvalidInput, error);
        let log2 = Block::new(block).map_err(wrong)?.head().log2_slots;
        if log2 > MOST_LOG2 {
            let text = format!("a table in the kernel has at most 2^{MOST_LOG2} slots, this one has 2^{log2}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let mut bytes = vec![0; TABLE_BYTES];
        bytes[..block.len()].copy_from_slice(block);
        let bytes: Box<[u8; TABLE_BYTES]> = bytes.try_into().map_err(|_| missing("memory"))?;
        self.spare.set(0, bytes, 0).map_err(io::Error::other)?;
        // The kernel returns from this when no processor can still be in the old table: it is then the spare one.
        self.table.set(0, &self.spare, 0).map_err(io::Error::other)?;
        std::mem::swap(&mut self.spare, &mut self.used);
        Ok(())
    }

    fn stand(&mut self, here: &Here) -> io::Result<()> {
        let [a, b, c, d, e, f] = here.mac;
        let place = u64::from(here.server) | u64::from(here.id) << 16 | u64::from(here.fresh) << 24;
        let mac = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        self.change([here.lease, here.epoch, here.fence, place, mac, self.record()[5], 0, 0])
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Err(io::ErrorKind::NotConnected.into()) };
        // SAFETY: all zeros are an address.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = AF_PACKET;
        to.sll_ifindex = self.port;
        let size = SOCKADDR_BYTES;
        let to = (&raw const to).cast();
        // SAFETY: both pointers are to as many bytes as the lengths say.
        let sent = unsafe { libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, to, size) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn counters(&mut self) -> io::Result<Counters> {
        let values = self.counters.get(&0, 0).map_err(io::Error::other)?;
        let sum = |which: usize| values.iter().map(|of| of[which]).sum();
        let drops = Reason::ALL.iter().map(|reason| (3 + *reason as usize, reason.name()));
        let others = [(0, "pass"), (1, "local"), (2, "transmit"), (30, "no-table"), (31, "no-state")];
        Ok(others.into_iter().chain(drops).map(|(which, name)| (name.to_owned(), sum(which))).collect())
    }
}

/// Where the record of a version is.
const fn at(version: u64) -> usize {
    if version.is_multiple_of(2) { 2 } else { 10 }
}

fn entry(program: &mut Ebpf) -> io::Result<&mut programs::Xdp> {
    let entry = program.program_mut("oneip").ok_or_else(|| missing("oneip"))?;
    entry.try_into().map_err(io::Error::other)
}

fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the program has no `{name}`"))
}

/// An error and what it came from, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Sends, and receives nothing.
fn packet_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointer.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was opened above, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}
