//! The dispatch core as a program in the kernel's receive path (`drivers/oneip_xdp`).

use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, FromRawFd, OwnedFd};

use apus_dispatch::{Block, BlockError, Claim, Here, NOBODY, Reason, Table};
use aya::Ebpf;
use aya::maps::{Array, Map, MapData};
use aya::programs::{self, TestRun, TestRunOptions, XdpMode};

use super::choose::Port;
use super::packet::solicited;
use super::ring::{index_of, join};
use super::system::{at as place, driver};
use super::table::{MOST_LOG2, Tables, barrier};
use crate::{Counters, Plane};

/// The program as it is committed; `drivers/oneip_xdp/build` makes it.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../drivers/oneip_xdp/oneip.o");

#[allow(clippy::cast_possible_truncation, reason = "17")]
const AF_PACKET: u16 = libc::AF_PACKET as u16;
#[allow(clippy::cast_possible_truncation, reason = "20")]
const SOCKADDR_BYTES: u32 = size_of::<libc::sockaddr_ll>() as u32;

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
    /// After that, for this reason.
    Generic(String),
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => write!(f, "not attached"),
            Self::Native => write!(f, "native"),
            Self::Generic(reason) => write!(f, "generic ({reason})"),
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
    tables: Tables,
    /// Keeps the tables' map.
    _map: MapData,
    state: Array<MapData, State>,
    now: State,
    counters: Array<MapData, Counts>,
    /// Foreign claims that were told of.
    claims: u64,
}

impl Xdp {
    /// Loads the committed program, and attaches it to a port, in its driver or behind it.
    ///
    /// # Errors
    /// As [`Xdp::new`]; if the port's driver cannot do it, or would lose what the program sends; if the cluster's tables are too
    /// large.
    pub(super) fn on(port: &Port, native: bool, asked: bool) -> io::Result<Self> {
        if port.log2_slots > MOST_LOG2 {
            return Err(too_large(port.log2_slots));
        }
        let reason = match (native, driver(&port.name)) {
            (true, Ok(name)) if name == "veth" && !asked => return Err(cable("xdp")),
            (false, Ok(name)) => format!("driver {name}"),
            (false, Err(error)) => format!("driver unknown: {error}"),
            (true, _) => String::new(),
        };
        barrier().map_err(place("membarrier, by which a table is known to be free"))?;
        let mut xdp = Self::committed()?;
        let how = if native { Attached::Native } else { Attached::Generic(reason) };
        xdp.attach_as(&port.name, how)?;
        if let (Some(v6), Some(socket)) = (port.v6, &xdp.socket) {
            join(socket.as_raw_fd(), xdp.port, solicited(v6))?;
        }
        Ok(xdp)
    }

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
        let Map::Array(map_of_tables) = map("oneip_table")? else { return Err(missing("oneip_table")) };
        let tables = Tables::new(map_of_tables.fd().as_fd().as_raw_fd())?;
        let state = Array::try_from(map(".data")?).map_err(io::Error::other)?;
        let counters = Array::try_from(map(".bss")?).map_err(io::Error::other)?;
        let (attached, now) = (Attached::Nowhere, [0; 18]);
        let mut xdp = Self {
            program,
            attached,
            port: 0,
            socket: None,
            tables,
            _map: map_of_tables,
            state,
            now,
            counters,
            claims: 0,
        };
        xdp.stand(&Here { now: 0, lease: 0, epoch: 0, fence: 0, server: NOBODY, id: 0, mac: [0; 6] })?;
        Ok(xdp)
    }

    /// Attaches a loaded program to a port: native, or else generic.
    ///
    /// # Errors
    /// If there is no such port, or it has a program already.
    pub fn attach(&mut self, port: &str) -> io::Result<()> {
        self.attach_as(port, Attached::Native).or_else(|native| {
            let reason = format!("native: {native}");
            self.attach_as(port, Attached::Generic(reason))
        })
    }

    fn attach_as(&mut self, port: &str, how: Attached) -> io::Result<()> {
        let index = index_of(port)?;
        let mode = if how == Attached::Native { XdpMode::Driver } else { XdpMode::Skb };
        let program = entry(&mut self.program)?;
        program.attach_to_if_index(index.cast_unsigned(), mode).map_err(|error| io::Error::other(causes(&error)))?;
        self.attached = how;
        self.port = index;
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

    /// The first half of [`Plane::publish`]: checks a table and writes it where no processor looks. Gives its number.
    ///
    /// # Errors
    /// As there.
    pub fn prepare(&mut self, block: &[u8]) -> io::Result<u64> {
        let wrong = |error: BlockError| io::Error::new(io::ErrorKind::InvalidInput, error);
        let log2 = Block::new(block).map_err(wrong)?.head().log2_slots;
        if log2 > MOST_LOG2 {
            return Err(too_large(log2));
        }
        self.tables.write(block)
    }

    /// The second half: a prepared table is in use, and this is what the node is, for every frame from some instant of this
    /// call on.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn flip(&mut self, table: u64, here: &Here) -> io::Result<()> {
        self.change(self.words(here, table))?;
        self.tables.flipped(table);
        Ok(())
    }

    /// After that: has the table before waited for, aside, so that the next [`Xdp::prepare`] need not.
    pub fn settle(&mut self) {
        self.tables.settle();
    }

    fn words(&self, here: &Here, table: u64) -> [u64; 8] {
        let [a, b, c, d, e, f] = here.mac;
        let place = u64::from(here.server) | u64::from(here.id) << 16;
        let mac = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        [here.lease, here.epoch, here.fence, place, mac, self.record()[5], table, 0]
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
        if matches!(self.attached, Attached::Generic(_)) { "xdp-generic" } else { "xdp" }
    }

    fn publish(&mut self, block: &[u8], here: &Here) -> io::Result<()> {
        let table = self.prepare(block)?;
        self.flip(table, here)?;
        self.settle();
        Ok(())
    }

    fn stand(&mut self, here: &Here) -> io::Result<()> {
        self.change(self.words(here, self.tables.used()))
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

    /// The program only counts claims: what was in them stays unknown, but it counts none of a dispatcher that is obeyed.
    fn claims(&mut self) -> Vec<Option<Claim>> {
        let heard = self
            .counters
            .get(&0, 0)
            .map_or(self.claims, |values| values.iter().map(|of| of[3 + Reason::ForeignClaim as usize]).sum());
        let fresh = std::mem::replace(&mut self.claims, heard) != heard;
        fresh.then_some(None).into_iter().collect()
    }
}

/// Why this plane is not taken on a virtual cable, unless it is asked for.
pub(super) fn cable(plane: &str) -> io::Error {
    let what = if plane == "xdp" {
        "loses what the program sends unless its other end polls"
    } else {
        "leaves checksums unfinished and segments joined"
    };
    io::Error::other(format!("a virtual cable (veth) {what}; `plane = \"{plane}\"` takes it all the same"))
}

fn too_large(log2: u8) -> io::Error {
    let text = format!("a table in the kernel has at most 2^{MOST_LOG2} slots, this one has 2^{log2}");
    io::Error::new(io::ErrorKind::InvalidInput, text)
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
pub(super) fn causes(error: &dyn std::error::Error) -> String {
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
