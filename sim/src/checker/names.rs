//! The names of all checkers, as scenario files and reports use them.

/// What a checker is called, and what it defends.
#[derive(Debug)]
pub struct Name {
    /// Its name in scenario files.
    pub name: &'static str,
    /// What must hold.
    pub property: &'static str,
    /// Where the property comes from.
    pub source: &'static str,
    /// Liveness: something good happens in the end. Otherwise safety: something bad never does.
    pub liveness: bool,
}

macro_rules! names {
    ($($name:literal $kind:ident $source:literal, $property:literal;)*) => {
        /// Every checker.
        pub const NAMES: &[Name] = &[$(Name {
            name: $name, property: $property, source: $source, liveness: names!(@ $kind),
        },)*];
    };
    (@ liveness) => { true };
    (@ safety) => { false };
}

names! {
    "one-holder" safety "NT-SwiFT 3.6; Gray and Cheriton 1989, leases", "at most one node holds a resource at any instant of true time";
    "epochs-grow" safety "Kleppmann 2016, fencing tokens", "each grant of a resource has a higher epoch than the one before";
    "old-epoch-refused" safety "Kleppmann 2016, fencing tokens", "an order of an older epoch is never obeyed";
    "guard-obeyed" safety "NT-SwiFT 3.6; Gray and Cheriton 1989, leases", "nobody acts for a resource whose guard is not armed";
    "election-safety" safety "Raft 5.2", "at most one leader in a term";
    "votes-once" safety "Raft 5.2", "a voter votes once in a term, also over restarts";
    "leader-kept" safety "Raft thesis 4.2.3, 9.6", "a leader that a quorum hears is not deposed by one that does not hear it";
    "joint-consensus" safety "Raft 6", "a change of the members is committed by majorities of the old and the new voters";
    "log-matching" safety "Raft 5.3", "entries of one index and term are the same in every log, and so is all before them";
    "leader-completeness" safety "Raft 5.4", "a committed entry is in the log of every later leader";
    "state-machine-safety" safety "Raft 5.4.3", "no two nodes apply different entries at one index";
    "diagnosis-complete" liveness "NT-SwiFT 3.1; Bianchini and Buskens 1992", "every running node comes to the true diagnosis of every node";
    "diagnosis-accurate" safety "NT-SwiFT 3.1; Chandra and Toueg 1996, accuracy", "no healthy node on a healthy network is diagnosed down";
    "diagnosis-bound" liveness "NT-SwiFT 3.1", "every running node knows of a crash within the bound";
    "news-bound" liveness "Bianchini and Buskens 1992, event-driven", "every running node knows of a crash within the bound after the first verdict";
    "no-resurrection" safety "SWIM 4.2, incarnations", "news of an earlier life of a node never replaces news of a later one";
    "old-life-refused" safety "SWIM 4.2, incarnations", "what an old instance of a node sends is refused";
    "clusters-apart" safety "own", "nodes of different clusters do not follow each other";
    "paused-accuses-nobody" safety "Dadgar and others 2018, Lifeguard", "a node that was itself paused accuses nobody by what it sent before";
    "grant-eligible" safety "NT-SwiFT 3.1", "a resource is granted to no arbiter, no drained node, and none that the leader holds for dead";
    "asks-end" liveness "own, rule R6 of views", "what a node asks of the leader is not asked for on and on once the log has answered it";
    "slots-apart" safety "NT-SwiFT 3.1, replication degree", "two slots of a service are never granted to one node";
    "one-active-copy" safety "NT-SwiFT 3.1, watchd", "a copy of a service is active on one node at a time";
    "restart-after-exit" safety "NT-SwiFT 3.1, watchd", "a program is started again only after its last run is gone";
    "programs-outlive-daemon" safety "NT-SwiFT 3.1, the UNIX daemons outlive each other", "a daemon's end stops no program; its successor takes over what runs and starts no second copy";
    "backoff-kept" safety "NT-SwiFT 3.1, watchd", "restarts are as far apart as the back-off asks";
    "escalation-kept" safety "NT-SwiFT 3.1, watchd", "N failures within T lead to the next rung, no sooner and no later";
    "hang-found" safety "NT-SwiFT 3.1, watchd", "a thread that does not beat is found out within its promise and a second";
    "grace-kept" safety "NT-SwiFT 3.1, watchd", "a program that is told to end is given its grace, unless its lease is lost";
    "degree-held" liveness "NT-SwiFT 3.1, replication degree", "a hot service is back at its degree after a loss";
    "dependency-order" safety "NT-SwiFT 3.1, watchd", "a program starts only when all it requires is ready on its node";
    "cause-true" safety "NT-SwiFT 3.1, program or machine", "the recorded cause of a failure is the true one";
    "drained-empty" safety "NT-SwiFT 3.1, rejuvenation", "a drained node holds nothing and runs nothing";
    "evidence-complete" safety "own", "every automatic act names events that led to it";
    "bounded-memory" safety "own", "state stays within what the configuration implies";
    "bounded-rate" safety "own", "messages a second stay within what the configuration implies";
    "cheap-at-rest" safety "own", "while nothing goes wrong nodes send no more packets than the scenario allows";
    "lease-kept" safety "own", "where the worst is one packet lost in a hundred, no lease runs out";
    "bounded-work" safety "own", "an engine is handed no more inputs a second than duties, faults and clients explain";
    "converges" liveness "own", "after healing there is one leader, an owner of each resource, and every program runs";
    "takeover-bound" liveness "NT-SwiFT 3.6", "after its holder failed the dispatcher is held again within the bound";
    "one-answerer" safety "NT-SwiFT 3.6; RFC 826, 5227", "who holds the lease, and nobody else, answers for the cluster's address or announces it";
    "one-dispatcher" safety "NT-SwiFT 3.6; Gray and Cheriton 1989, leases", "who holds the lease, and nobody else, takes clients' packets from the wire";
    "fenced" safety "Kleppmann 2016, fencing tokens", "a server takes no frame of a dispatcher of an earlier epoch than it knows of";
    "delivered-once" safety "NT-SwiFT 3.6", "no packet to the cluster's address is delivered twice";
    "delivered-or-counted" safety "NT-SwiFT 3.6", "every packet to the cluster's address is delivered or ends with a counted reason";
    "flow-kept" safety "NT-SwiFT 3.6; RFC 9293", "a connection never changes its server while that is in the table";
    "no-reset" safety "RFC 9293 3.5.2", "no connection is reset whose server runs and never left a table";
    "second-chance-once" safety "own", "a packet is sent on twice at most";
    "fragments-together" safety "RFC 791 3.2", "all fragments of a packet reach one server";
    "errors-reach-owner" safety "RFC 1191, 8201", "an ICMP error reaches the server of the connection that it tells about";
    "answers-true" safety "RFC 9293", "a client gets the answer to its own request";
    "drained-rests" safety "NT-SwiFT 3.1, rejuvenation", "a drained server gets no new connection";
    "blackout-bound" liveness "NT-SwiFT 3.6", "for no longer than the bound do all segments of a family fail to reach a server";
    "clients-served" liveness "own", "after healing every client is answered";
    "files-opened-first" safety "NT-SwiFT 2.2, REPL", "no program changes replicated files before they were opened for it";
    "files-one-writer" safety "NT-SwiFT 2.2, REPL; Kleppmann 2016, fencing tokens", "replicated files are written in one era at a time, and in an era by one node";
    "files-prefix" safety "NT-SwiFT 2.2, REPL", "the files that a copy publishes are the writer's at one earlier place of its history";
    "files-published-grow" safety "NT-SwiFT 2.2, REPL", "within an era what a copy publishes never goes back";
    "files-chain" safety "own", "a record follows in each log the one that it followed at its writer";
    "files-old-era" safety "Kleppmann 2016, fencing tokens", "a copy answers nobody in an era below the one that it has promised";
    "files-promise" safety "Lamport 1998, promises", "a copy answers in an era only once its promise is durable";
    "files-kept" safety "NT-SwiFT 2.2, REPL", "under sync what a program was told to be kept is on enough disks, and in every later history";
    "files-received" safety "own", "under semi-sync what a program was told to be kept has come to another copy";
    "files-nothing-lost" safety "NT-SwiFT 3.1, rejuvenation", "a planned move loses no change";
    "files-let-go" safety "NT-SwiFT 3.1, rejuvenation", "a planned move waits until the copies that follow have all, or for its bound";
    "files-furthest" safety "NT-SwiFT 2.2, REPL; Lamport 1998", "of the histories that a new primary was told of it takes the one of the newest era, and of those the longest whose files or records can be taken";
    "files-ack-true" safety "own", "what a copy tells to have is of the history of whom it tells";
    "files-logged-first" safety "Mohan and others 1992, write-ahead logging", "records are applied once they are durable in the log";
    "files-captured-once" safety "own", "each captured change becomes one record, in order";
    "files-closed-whole" safety "own", "files are closed once all that was captured has a record";
    "files-whole" safety "own", "no records are applied to files that lost something with the power before they were compared";
    "files-orphans" safety "own", "what only one copy holds is saved before its files are replaced";
    "files-cut" safety "own", "while there is room no record goes that a copy has not taken";
    "files-log-bound" safety "own", "a log is no longer than its bound and what is on its way";
    "files-told" safety "own", "who is behind by more than the bound, or whose disk takes nothing, is told of";
    "files-differ-true" safety "own", "a scrub tells of no difference that is not there";
    "files-equal" liveness "NT-SwiFT 2.2, REPL", "after healing all copies have the same files";
    "files-go-on" liveness "own", "after healing the program's files are kept again";
    "no-panic" safety "own", "no engine panics";
    "clean-wire" safety "own", "an engine sends nothing that another cannot decode";
}

/// The checker of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Name> {
    NAMES.iter().find(|row| row.name == name)
}
