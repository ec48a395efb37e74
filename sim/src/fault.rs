//! Every fault the worlds can inject, as data: one row a kind.

use apus_engine::NodeId;

/// Nanoseconds of true time since the start of a run.
pub type Ns = u64;

/// One millisecond.
pub const MS: Ns = 1_000_000;
/// One second.
pub const S: Ns = 1_000_000_000;

/// What a kind's `size` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A duration, in nanoseconds.
    Time,
    /// Bytes.
    Bytes,
    /// Parts per million.
    Ppm,
    /// A plain number.
    Count,
    /// Bytes per second.
    Bandwidth,
}

/// What a kind is aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// All links to and from the target nodes (all links if the target is everything).
    Links,
    /// The links between the target nodes and the rest.
    Cut,
    /// The target nodes.
    Nodes,
    /// The disks of the target nodes.
    Disks,
    /// The clocks of the target nodes.
    Clocks,
    /// The programs on the target nodes.
    Programs,
    /// The cluster: membership, configuration, load.
    Cluster,
}

/// How much a kind counts against the fault budget, so that a quorum and one good copy survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Nothing is lost for good and no node stands still.
    Free,
    /// The node does not take part while the fault lasts.
    Down,
    /// The node's disk content is gone or damaged for good.
    Disk,
}

/// What one kind is.
#[derive(Debug)]
pub struct Spec {
    /// Code in the fault taxonomy.
    pub code: &'static str,
    /// Its name in scenario files.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    /// What its target means.
    pub aim: Aim,
    /// Default and greatest `rate` in parts per million; `None`: it has no rate.
    pub rate: Option<(u32, u32)>,
    /// Unit, default and greatest `size`; `None`: it has no size.
    pub size: Option<(Unit, u64, u64)>,
    /// Whether it lasts (`for`), or happens at once.
    pub lasts: bool,
    /// What it costs the fault budget.
    pub cost: Cost,
    /// Worlds that carry it: heap, turmoil, emulated.
    pub worlds: &'static [&'static str],
}

macro_rules! kinds {
    ($($variant:ident $code:literal $name:literal $aim:ident $rate:expr, $size:expr, $lasts:literal $cost:ident [$($world:literal)*] $about:literal;)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $(#[doc = $about] $variant,)* }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// What it is.
            #[must_use]
            pub const fn spec(self) -> &'static Spec {
                match self { $(Self::$variant => &Spec {
                    code: $code, name: $name, about: $about, aim: Aim::$aim, rate: $rate, size: $size,
                    lasts: $lasts, cost: Cost::$cost, worlds: &[$($world,)*],
                },)* }
            }
        }
    };
}

use Unit::{Bandwidth, Bytes, Count, Ppm, Time};

kinds! {
    // Packets.
    Loss "N01" "loss" Links Some((10_000, 900_000)), None, true Free ["heap" "turmoil" "emulated"] "each packet is lost with this rate";
    BurstLoss "N02" "burst-loss" Links Some((500_000, 1_000_000)), Some((Time, 50 * MS, 2 * S)), true Free ["heap" "turmoil" "emulated"] "packets are lost at this rate in bursts of about this length (Gilbert-Elliott)";
    Duplicate "N03" "duplicate" Links Some((50_000, 900_000)), None, true Free ["heap" "turmoil" "emulated"] "each packet arrives twice with this rate";
    ReplayLate "N04" "replay-late" Links Some((20_000, 500_000)), Some((Time, 2 * S, 20 * S)), true Free ["heap" "turmoil" "emulated"] "copies of packets arrive again this much later, also after the sender restarted";
    Jitter "N05" "jitter" Links None, Some((Time, 5 * MS, 500 * MS)), true Free ["heap" "turmoil" "emulated"] "each packet is delayed by up to this much more, so that packets overtake each other";
    ReorderGap "N06" "reorder-gap" Links Some((50_000, 900_000)), Some((Time, 10 * MS, 500 * MS)), true Free ["heap" "turmoil" "emulated"] "packets are held back for a fixed gap with this rate";
    Lifo "N07" "lifo" Links None, Some((Time, 20 * MS, 500 * MS)), true Free ["heap" "turmoil" "emulated"] "packets are collected for this long and delivered newest first";
    Corrupt "N08" "corrupt" Links Some((20_000, 900_000)), None, true Free ["heap" "turmoil" "emulated"] "bits of packets are flipped on the way; the check catches it";
    CorruptUnseen "N09" "corrupt-unseen" Links Some((20_000, 900_000)), None, true Free ["heap" "turmoil" "emulated"] "bits of diagnosis packets are flipped and the check is made right again";
    Truncate "N10" "truncate" Links Some((20_000, 900_000)), None, true Free ["heap" "turmoil" "emulated"] "packets lose their end";
    Mtu "N11" "mtu" Links None, Some((Bytes, 1_200, 65_536)), true Free ["heap" "turmoil" "emulated"] "packets longer than this vanish";
    DropKind "N12" "drop-kind" Links Some((1_000_000, 1_000_000)), Some((Count, 0x10, 0xff)), true Free ["heap" "turmoil" "emulated"] "packets of one kind are lost at this rate; `size` is the kind byte";
    Spoof "N13" "spoof" Links Some((20_000, 900_000)), None, true Free ["heap" "turmoil" "emulated"] "packets are delivered as if another node had sent them";
    // Links.
    Latency "N20" "latency" Links None, Some((Time, 5 * MS, 2 * S)), true Free ["heap" "turmoil" "emulated"] "every packet takes this much longer";
    SlowPair "N21" "slow-pair" Cut None, Some((Time, 20 * MS, S)), true Free ["heap" "turmoil" "emulated"] "the target's links are this much slower, all the time";
    Bandwidth "N22" "bandwidth" Links None, Some((Bandwidth, 64_000, 1 << 30)), true Free ["heap" "turmoil" "emulated"] "links carry this many bytes a second; the rest waits";
    QueueCap "N23" "queue-cap" Links None, Some((Count, 8, 1_000)), true Free ["heap" "turmoil" "emulated"] "links hold this many packets at once; the rest is lost";
    Clog "N24" "clog" Links None, None, true Free ["heap" "turmoil" "emulated"] "packets wait until the end of the fault and arrive all at once";
    Partition "N25" "partition" Cut None, None, true Down ["heap" "turmoil" "emulated"] "the target nodes and the rest do not hear each other";
    OneWay "N26" "one-way" Cut None, None, true Down ["heap" "turmoil" "emulated"] "what the target nodes send to the rest is lost; the other way works";
    OneWayIn "N26" "one-way-in" Cut None, None, true Down ["heap" "turmoil" "emulated"] "what the rest sends to the target nodes is lost; the other way works";
    Bridge "N27" "bridge" Cut None, None, true Down ["heap" "turmoil" "emulated"] "two halves hear each other only through one node";
    Swizzle "N28" "swizzle" Nodes None, None, true Down ["heap" "turmoil" "emulated"] "links stop one by one and heal in another order";
    Flap "N29" "flap" Cut None, Some((Time, 150 * MS, 5 * S)), true Down ["heap" "turmoil" "emulated"] "the target's links go down and up with this period";
    SlowPartition "N30" "slow-partition" Cut None, Some((Time, 2 * S, 20 * S)), true Down ["heap" "turmoil" "emulated"] "packets across the cut arrive, but this much later";
    NicDown "N31" "nic-down" Nodes None, None, true Down ["heap" "turmoil" "emulated"] "the target's network card is down: sending fails at once";
    Flood "N32" "flood" Nodes None, Some((Count, 200, 20_000)), true Free ["heap" "turmoil" "emulated"] "garbage packets hit the target at this many a second";
    // Streams: below the transport.
    RefuseConnect "N40" "refuse-connect" Links Some((500_000, 1_000_000)), None, true Free ["turmoil"] "attempts to connect are refused at this rate";
    HangConnect "N40" "hang-connect" Links None, None, true Free ["turmoil"] "attempts to connect are neither accepted nor refused";
    StreamReset "N41" "stream-reset" Links Some((20_000, 500_000)), None, true Free ["turmoil"] "each write resets its stream with this rate";
    HalfClose "N42" "half-close" Links Some((20_000, 500_000)), None, true Free ["turmoil"] "each write closes one way of its stream with this rate; the other way stays open";
    HalfOpen "N43" "half-open" Links Some((20_000, 500_000)), None, true Free ["turmoil"] "each write makes its stream a silent one with this rate: nothing arrives, nobody is told";
    Slice "N44" "slice" Links None, Some((Bytes, 7, 1_000)), true Free ["turmoil"] "reads and writes of streams take this many bytes at most";
    CloseAfter "N45" "close-after" Links None, Some((Bytes, 2_000, 1 << 20)), true Free ["turmoil"] "streams are closed after this many bytes, in the middle of a frame";
    SlowClose "N46" "slow-close" Links None, Some((Time, 2 * S, 20 * S)), true Free ["turmoil"] "that a stream was closed is heard this much later";
    // Frames of the virtual Ethernet.
    NoBroadcast "N33" "no-broadcast" Links Some((1_000_000, 1_000_000)), None, true Free ["emulated"] "frames to everybody or to a group are lost at this rate; those to one machine arrive";
    PortSecurity "N12" "port-security" Links None, None, true Free ["emulated"] "the switch lets each port send by the first address it is seen to send by, and by no other";
    SwitchForgets "N31" "switch-forgets" Cluster None, Some((Time, 50 * MS, S)), true Free ["emulated"] "the switch forgets all addresses, again and again, so that it floods";
    ArpStorm "N32" "arp-storm" Cluster None, Some((Count, 1_000, 20_000)), true Free ["emulated"] "strangers ask who has the cluster's address, this many times a second";
    SpoofedFlood "N32" "spoofed-flood" Cluster None, Some((Count, 2_000, 20_000)), true Free ["emulated"] "segments from addresses that nobody has, this many a second";
    DuplicateAddress "N13" "duplicate-address" Cluster None, Some((Time, 200 * MS, 5 * S)), true Free ["emulated"] "another machine claims the cluster's address, again and again with this period";
    TooBig "N11" "too-big" Cluster None, Some((Count, 50, 2_000)), true Free ["emulated"] "a router tells of packets on clients' connections that were too big, this many times a second";
    Fragments "N06" "fragments" Cluster None, Some((Bytes, 2_600, 3_900)), true Free ["emulated"] "each client's machine sends ten datagrams of this size a second, which travel in fragments";
    // Clocks.
    Drift "C02" "drift" Clocks None, Some((Ppm, 400, 100_000)), true Free ["heap" "turmoil" "emulated"] "the clock runs faster or slower by this rate";
    JumpForward "C03" "jump-forward" Clocks None, Some((Time, S, 60 * S)), false Free ["heap" "turmoil" "emulated"] "the monotonic clock jumps forward: to the node it looks like a pause";
    JumpBackward "C04" "jump-backward" Clocks None, Some((Time, 5 * MS, 8 * MS)), false Free ["heap" "turmoil" "emulated"] "the clock source steps back a little (processors that disagree); the engine must hold its time";
    Strobe "C05" "strobe" Clocks None, Some((Time, 4 * MS, 8 * MS)), true Free ["heap" "turmoil" "emulated"] "the clock jumps ahead and back again and again";
    Slew "C06" "slew" Clocks None, Some((Ppm, 300, 100_000)), true Free ["heap" "turmoil" "emulated"] "the clock is slewed: fast, then as slow";
    Suspend "C07" "suspend" Clocks None, None, true Down ["heap" "turmoil" "emulated"] "the whole machine stands still; when it wakes its clock has caught up";
    CoarseTimer "C08" "coarse-timer" Clocks None, Some((Time, 16 * MS, 100 * MS)), true Free ["heap" "turmoil" "emulated"] "timers fire on a coarse grid only (15.6 ms on Windows)";
    LateTimer "C09" "late-timer" Clocks None, Some((Time, 10 * MS, 500 * MS)), true Free ["heap" "turmoil" "emulated"] "timers fire up to this much late";
    ClockOrigin "C10" "clock-origin" Clocks None, None, true Down ["heap" "turmoil" "emulated"] "after the reboot the monotonic clock starts somewhere else";
    // Processes.
    Crash "P01" "crash" Nodes None, None, true Down ["heap" "turmoil" "emulated"] "the node's process dies and is restarted at the end of the fault; its programs run on while their leases last";
    PowerOff "P02" "power-off" Nodes None, None, true Down ["heap" "turmoil" "emulated"] "the machine loses power: no farewell, guards and programs gone, unsynced writes lost";
    GracefulStop "P03" "graceful-stop" Nodes None, None, true Down ["heap" "turmoil" "emulated"] "the node's process ends in order, the machine runs on";
    CrashLoop "P04" "crash-loop" Nodes None, Some((Time, 300 * MS, 10 * S)), true Down ["heap" "turmoil" "emulated"] "the node's process dies again and again with this period";
    Freeze "P05" "freeze" Nodes None, None, true Down ["heap" "turmoil" "emulated"] "the node's process is paused and wakes; its kernel runs on";
    SlowNode "P06" "slow-node" Nodes None, Some((Time, 5 * MS, 500 * MS)), true Free ["heap" "turmoil" "emulated"] "each input takes this long to be worked on";
    Starve "P07" "starve" Nodes Some((200_000, 950_000)), Some((Time, 20 * MS, S)), true Free ["heap" "turmoil" "emulated"] "the process gets no processor in random slices of this length";
    CrashAtPoint "P08" "crash-at-point" Nodes None, Some((Count, 3, 1_000)), true Down ["heap" "turmoil" "emulated"] "the process dies between two effects: after the n-th output";
    CrashAll "P09" "crash-all" Nodes None, None, true Down ["heap" "turmoil" "emulated"] "all target machines lose power together";
    CrashInRecovery "P10" "crash-in-recovery" Nodes None, Some((Count, 2, 20)), true Down ["heap" "turmoil" "emulated"] "the process dies again while it recovers, this many times";
    Wipe "P11" "wipe" Nodes None, None, true Disk ["heap" "turmoil" "emulated"] "the machine comes back with an empty disk";
    StaleDisk "P12" "stale-disk" Nodes None, None, true Disk ["heap" "turmoil" "emulated"] "the machine comes back with a disk that is detected as not its own: it is treated as wiped";
    NewAddress "P13" "new-address" Nodes None, None, true Down ["heap" "turmoil" "emulated"] "the machine comes back under another address; peers must learn it";
    Zombie "P14" "zombie" Nodes None, None, true Down ["heap" "turmoil" "emulated"] "an old instance of the node wakes beside the new one and sends";
    Upgrade "P15" "upgrade" Nodes None, None, true Down ["heap" "turmoil" "emulated"] "the node is restarted with the other wire version";
    PermanentLoss "P16" "permanent-loss" Nodes None, None, false Disk ["heap" "turmoil" "emulated"] "the machine never comes back";
    Garbled "P18" "garbled-peer" Nodes Some((200_000, 1_000_000)), None, true Down ["heap" "turmoil" "emulated"] "the target sends garbage in place of its packets";
    // Memory and operating system.
    OutOfMemory "M01" "out-of-memory" Programs None, None, false Free ["heap" "turmoil" "emulated"] "a program is ended by the system for want of memory";
    NoSockets "M02" "no-sockets" Nodes Some((500_000, 1_000_000)), None, true Free ["heap" "turmoil" "emulated"] "sending fails at this rate for want of sockets";
    // Disks.
    LoseUnsynced "D01" "lose-unsynced" Disks None, None, true Down ["heap" "turmoil" "emulated"] "power loss: all writes after the last sync are gone";
    TornWrite "D02" "torn-write" Disks None, None, true Down ["heap" "turmoil" "emulated"] "power loss: the last write is there in part";
    ReorderWrites "D03" "reorder-writes" Disks None, None, true Down ["heap" "turmoil" "emulated"] "power loss: of the unsynced writes a random subset is there";
    DiskError "D04" "disk-error" Disks Some((100_000, 1_000_000)), None, true Down ["heap" "turmoil" "emulated"] "writes fail with an I/O error at this rate; the node must stop deciding";
    PhantomWrite "D06" "phantom-write" Disks None, None, true Disk ["heap" "turmoil" "emulated"] "a write is acknowledged and never happens; found at the next start";
    Misdirect "D07" "misdirect" Disks None, None, true Disk ["heap" "turmoil" "emulated"] "a write lands elsewhere; found at the next start";
    BitRot "D08" "bit-rot" Disks None, Some((Count, 1, 64)), true Disk ["heap" "turmoil" "emulated"] "stored bits flip; found at the next start";
    StaleChunk "D09" "stale-chunk" Disks None, None, true Disk ["heap" "turmoil" "emulated"] "a part of the disk holds what it held before; found at the next start";
    DiskFull "D10" "disk-full" Disks None, None, true Free ["heap" "turmoil" "emulated"] "no write fits";
    SlowDisk "D11" "slow-disk" Disks None, Some((Time, 50 * MS, 5 * S)), true Free ["heap" "turmoil" "emulated"] "each write takes this much longer";
    TruncatedFile "D13" "truncated-file" Disks None, None, true Disk ["heap" "turmoil" "emulated"] "the file lost its end; found at the next start";
    ReadOnly "D14" "read-only" Disks None, None, true Free ["heap" "turmoil" "emulated"] "the disk is mounted read-only for a while";
    FilesFull "D15" "files-full" Disks None, None, true Free ["heap" "turmoil"] "the disk has no room for replicated files and their log";
    FilesError "D16" "files-error" Disks Some((500_000, 1_000_000)), None, true Free ["heap" "turmoil"] "writes of replicated files and their log fail at this rate";
    FilesRot "D17" "files-rot" Disks None, None, false Free ["heap" "turmoil"] "a bit of a replicated file turns on a backup";
    FilesMissed "D18" "files-missed" Disks None, Some((Count, 1, 1_000)), true Free ["heap" "turmoil"] "programs change replicated files and the capture misses it";
    // Programs.
    ProgramCrash "S01" "program-crash" Programs None, None, false Free ["heap" "turmoil" "emulated"] "a program ends by itself";
    ProgramHang "S02" "program-hang" Programs None, None, true Free ["heap" "turmoil" "emulated"] "a thread of a program stops beating; the process lives";
    ProgramSlowStart "S03" "program-slow-start" Programs None, Some((Time, 3 * S, 60 * S)), true Free ["heap" "turmoil" "emulated"] "programs take this long to be ready";
    ProgramPoison "S04" "program-poison" Programs None, Some((Time, 200 * MS, 20 * S)), true Free ["heap" "turmoil" "emulated"] "programs die this long after every start on the target nodes";
    ProgramWontStart "S05" "program-wont-start" Programs None, None, true Free ["heap" "turmoil" "emulated"] "programs cannot be started on the target nodes";
    // Configuration, membership, load.
    AddNode "G01" "add-node" Cluster None, None, false Free ["heap" "turmoil" "emulated"] "an operator adds the target as a voter";
    RemoveNode "G01" "remove-node" Cluster None, None, false Down ["heap" "turmoil" "emulated"] "an operator removes the target from the cluster";
    DivergentConfig "G02" "divergent-config" Nodes None, None, true Down ["heap" "turmoil" "emulated"] "the target is restarted with other knobs than the rest";
    WrongCluster "G03" "wrong-cluster" Nodes None, None, true Down ["heap" "turmoil" "emulated"] "the target is restarted as a node of another cluster with the same numbers";
    Knobs "G04" "knobs" Cluster None, None, false Free ["heap" "turmoil" "emulated"] "timeouts and batch sizes are drawn per seed";
    LoadSpike "G06" "load-spike" Cluster None, Some((Count, 500, 20_000)), true Free ["heap" "turmoil" "emulated"] "clients submit this many notes a second";
    RetryStorm "G07" "retry-storm" Cluster None, Some((Count, 8, 100)), true Free ["heap" "turmoil" "emulated"] "each client command is submitted this many times, to all nodes";
    OddSizes "G09" "odd-sizes" Cluster None, None, true Free ["heap" "turmoil" "emulated"] "notes of zero and of the greatest length";
    Drain "G10" "drain" Cluster None, None, true Free ["heap" "turmoil" "emulated"] "an operator drains the target and ends the drain later";
    MoveHolder "G11" "move" Cluster None, None, false Free ["heap" "turmoil" "emulated"] "an operator moves the dispatcher to the target";
}

impl Kind {
    /// The kind of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.spec().name == name)
    }
}

/// Whom a fault is aimed at; resolved when it starts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Everything.
    All,
    /// These nodes.
    Nodes(Vec<NodeId>),
    /// One node, drawn per seed.
    Random,
    /// One voter, drawn per seed.
    Voter,
    /// This many nodes, drawn per seed.
    Some(u16),
    /// A drawn minority of the voters.
    Minority,
    /// About half of the nodes, drawn per seed.
    Half,
    /// Who leads the log at that moment.
    Leader,
    /// A voter that does not lead.
    Follower,
    /// Who holds the dispatcher at that moment.
    Dispatcher,
    /// Who holds this resource at that moment.
    Holder(u16),
    /// Some node that holds nothing.
    Bystander,
}

/// One fault of a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fault {
    /// When it starts.
    pub at: Ns,
    /// How long it lasts; zero for what happens at once.
    pub lasts: Ns,
    /// What.
    pub kind: Kind,
    /// Whom.
    pub target: Target,
    /// See [`Spec::rate`].
    pub rate_ppm: u32,
    /// See [`Spec::size`].
    pub size: u64,
    /// Which `[[fault]]` of the scenario's script it is, counted from 0; none if the swarm drew it.
    pub scripted: Option<u16>,
}
