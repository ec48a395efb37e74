//! Goals: what at least one seed of a scenario must reach, so that its run is not vacuous.

/// What a scenario must have before a goal can be reached at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// A supervised service.
    Service,
    /// A warm service.
    Warm,
    /// A workload.
    Load,
    /// Replicated files.
    Files,
    /// A fault of this name.
    Fault(&'static str),
    /// `availability = "prefer"`, or a planted bug.
    Unsafe,
}

/// One goal.
#[derive(Debug)]
pub struct Goal {
    /// Its name in scenario files.
    pub name: &'static str,
    /// When it is reached.
    pub about: &'static str,
    /// What it needs.
    pub needs: Needs,
}

macro_rules! goals {
    ($($name:literal $needs:expr, $about:literal;)*) => {
        /// Every goal.
        pub const GOALS: &[Goal] = &[$(Goal { name: $name, about: $about, needs: $needs },)*];
    };
}

goals! {
    "view-changed" Needs::Nothing, "a resource was granted";
    "view-changed-under-load" Needs::Load, "a resource was granted while clients worked";
    "leader-changed" Needs::Nothing, "another node leads the log";
    "holder-changed" Needs::Nothing, "another node holds the dispatcher";
    "takeover" Needs::Nothing, "the dispatcher was taken over from a holder that failed";
    "two-holders" Needs::Unsafe, "two nodes held one resource at the same instant";
    "no-quorum-pause" Needs::Nothing, "a leader stepped down because it heard no quorum";
    "refused-old-epoch" Needs::Nothing, "an order of an older epoch was refused";
    "suspected-and-cleared" Needs::Nothing, "a suspected node was found well";
    "stalled" Needs::Nothing, "a node noticed that it had been paused";
    "node-restarted" Needs::Nothing, "a node started a second time";
    "program-adopted" Needs::Service, "a restarted daemon took over a program that ran on";
    "readmitted" Needs::Nothing, "a node with an empty disk votes again";
    "snapshot-installed" Needs::Nothing, "a node caught up by a snapshot";
    "membership-changed" Needs::Nothing, "a membership change was completed";
    "version-mixed" Needs::Fault("upgrade"), "nodes of two wire versions worked together";
    "drained" Needs::Fault("drain"), "a node was drained";
    "flow-outlived-dispatcher" Needs::Load, "a connection went on under another dispatcher than the one it began under";
    "second-chance" Needs::Load, "a server sent a segment on to the former server of its slot";
    "stale-frame-refused" Needs::Load, "a server refused a frame of a dispatcher of an earlier epoch";
    "claim-answered" Needs::Fault("duplicate-address"), "the dispatcher heard another machine claim its address";
    "fragments-put-together" Needs::Fault("fragments"), "a datagram that travelled in fragments came back whole";
    "error-delivered" Needs::Fault("too-big"), "an ICMP error reached the server of its connection";
    "program-restarted" Needs::Service, "a program was restarted where it ran";
    "failed-over" Needs::Service, "a program that failed again and again was moved to another node";
    "escalated-to-reboot" Needs::Service, "the reboot hook of a node was used";
    "standby-promoted" Needs::Warm, "a warm standby became active";
    "files-opened" Needs::Files, "replicated files were opened for a program";
    "files-compared" Needs::Files, "a copy had its files compared while the program went on";
    "files-fetched" Needs::Files, "a new primary took a history that had come further from another copy";
    "files-let-go" Needs::Files, "a planned move gave the files back";
    "files-orphaned" Needs::Files, "what only one copy held was saved";
    "files-era-refused" Needs::Files, "who wrote in an earlier era was refused";
    "files-too-few" Needs::Files, "a new primary waited because too few copies answered";
    "files-lag-told" Needs::Files, "a copy that fell behind was told of";
    "files-trouble-told" Needs::Files, "a copy whose disk took nothing was told of";
    "files-log-cut" Needs::Files, "the log's bound was reached before a copy had its records";
    "files-differ" Needs::Files, "a scrub found a file that differed";
    "files-missed" Needs::Files, "changes that were not captured were noticed";
    "hang-detected" Needs::Service, "a program that hung was found by its missing heartbeat";
}

/// The goal of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Goal> {
    GOALS.iter().find(|goal| goal.name == name)
}
