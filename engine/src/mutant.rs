//! Planted bugs, one per rule that a checker defends. They show that the worlds and checkers bite.

macro_rules! mutants {
    ($($part:ident { $($variant:ident $name:literal $about:literal $(equivalent $why:literal)?,)* })*) => {
        /// A planted bug. Without the feature `mutants` none can be switched on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum Mutant { $($(#[doc = $about] $variant,)*)* }

        impl Mutant {
            /// Every planted bug.
            pub const ALL: &'static [Self] = &[$($(Self::$variant,)*)*];

            /// The name used by `--mutant`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $($(Self::$variant => $name,)*)* }
            }

            /// What is wrong with the engine that carries it.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self { $($(Self::$variant => $about,)*)* }
            }

            /// The part of the engine it lives in.
            #[must_use]
            pub const fn part(self) -> &'static str {
                match self { $($(Self::$variant => stringify!($part),)*)* }
            }

            /// Why it changes nothing that can be seen, if so: no scenario can catch it.
            #[must_use]
            pub const fn equivalent(self) -> Option<&'static str> {
                match self { $($(Self::$variant => mutants!(@ $($why)?),)*)* }
            }

            /// The mutant of this name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|mutant| mutant.name() == name)
            }
        }
    };
    (@) => { None };
    (@ $why:literal) => { Some($why) };
}

mutants! {
    wire {
        ChecksumIgnored "checksum-ignored" "a packet is decoded although its checksum is wrong",
        ClusterIgnored "cluster-ignored" "packets of another cluster are taken for our own",
        SenderIncarnationIgnored "sender-incarnation-ignored" "a packet from a sender's earlier life is taken as current",
        VersionMisread "version-misread" "a version 1 body is decoded with the version 2 layout",
    }
    diagnosis {
        StaleIncarnationAccepted "stale-incarnation-accepted" "news about an earlier incarnation overwrites newer news",
        LowerCounterWins "lower-counter-wins" "of two news items of one incarnation the lower counter wins",
        NoRefutation "no-refutation" "a suspected node does not contradict",
        RefuteWithoutRaise "refute-without-raise" "a node contradicts without raising its counter, so old news wins",
        SingleObserverConvicts "single-observer-convicts" "one accuser is enough for a verdict of down",
        IndirectIgnored "indirect-ignored" "answers to indirect probes are thrown away",
        AccuseAfterStall "accuse-after-stall" "a node that was itself paused keeps its running verdicts",
        NoChords "no-chords" "news travels along the ring only",
        NewsSentOnce "news-sent-once" "news is sent once and never again",
        DigestIgnored "digest-ignored" "differing digests do not start a comparison of tables",
        WalkStops "walk-stops" "a dead successor is not skipped: the arc behind it is untested",
        ArcKept "arc-kept" "a returned successor never gets its arc back",
        TimeoutFixed "timeout-fixed" "the deadline never adapts to measured delay",
        DownNeverProbed "down-never-probed" "a node judged down is never probed again",
        SuspectNeverProbed "suspect-never-probed" "a node that others accuse is never probed, so an accusation whose end was missed stays",
        DeadObserversTold "dead-observers-told" "an accusation goes to the neighbours in the ring although they are dead, so accusers do not meet",
        EchoBelieved "echo-believed" "an accusation that a node has taken back returns to it from others and counts as its own",
        LoneVerdictSpread "lone-verdict-spread" "a verdict that a node reaches alone is told to the others as one of many",
        NoBuddy "no-buddy" "the suspect is not told that it is suspected",
        AnyAckCounts "any-ack-counts" "an answer of any node clears the oldest probe",
        SelfAccusation "self-accusation" "a node believes news of its own death",
        RingsNeverRest "rings-never-rest" "observers test nodes that the leader watches as often as those that nobody does",
        BeatUnwatched "beat-unwatched" "a heartbeat that is not answered says nothing about who was to answer it",
        LeaderUnwatched "leader-unwatched" "who follows a leader does not test it when it falls silent",
        ForgedLifeKept "forged-life-kept" "a node does not contradict news of a life of its own that never was",
    }
    consensus {
        QuorumOffByOne "quorum-off-by-one" "a quorum is half of the voters, not more than half",
        JointIgnoresOld "joint-ignores-old" "in a joint configuration only the new voters are counted",
        VotesTwice "votes-twice" "a voter grants two candidates in one term",
        VoteBeforePersist "vote-before-persist" "a vote is sent before it is durable",
        AckBeforePersist "ack-before-persist" "an append is acknowledged before it is durable",
        DoneOutOfOrder "done-out-of-order" "a record counts as durable although one before it is not",
        NoPreVote "no-pre-vote" "a candidate raises its term without asking first",
        NoCheckQuorum "no-check-quorum" "a leader that hears no quorum stays leader",
        NoStickiness "no-stickiness" "a voter that hears a leader still helps to depose it",
        StaleTermAccepted "stale-term-accepted" "an append of an older term is taken",
        UpToDateIgnored "up-to-date-ignored" "a candidate with a shorter log gets the vote",
        CommitsOldTerm "commits-old-term" "an entry of an earlier term is committed by counting copies (Raft figure 8)",
        CommitBeyondMatch "commit-beyond-match" "a follower commits beyond what it has checked against the leader",
        NoPrevCheck "no-prev-check" "entries are appended without checking the entry before them",
        ConflictKept "conflict-kept" "a conflicting suffix is not truncated",
        LearnerCounted "learner-counted" "learners count towards the quorum",
        BlankVotes "blank-votes" "a node whose disk was wiped votes at once",
        VoteForgotten "vote-forgotten" "a restarted node forgets its vote",
        TermForgotten "term-forgotten" "a restarted node starts at term zero",
        TwoChangesAtOnce "two-changes-at-once" "a membership change starts before the last one is complete",
        TimeoutNotRandom "timeout-not-random" "all voters use the same election timeout",
        OldSnapshotTaken "old-snapshot-taken" "a snapshot older than the log is installed",
        CommitUntold "commit-untold" "a follower learns of a commit with the leader's next heartbeat, not at once",
        VotersUnheard "voters-unheard" "a new leader counts its predecessor's leases from its own last heartbeat, not from its voters'",
        LedForgotten "led-forgotten" "a voter that led until just now does not say so to the one it votes for",
        StartForgotten "start-forgotten" "a restarted voter says that it never served a leader",
        NeverRests "never-rests" "a leader repeats heartbeats that were answered as soon as those that were not",
        RestAssumed "rest-assumed" "a leader sends heartbeats of a cluster at rest also to who speaks a version that does not know them",
        LeaderRewrites "leader-rewrites" "a new leader drops its own uncommitted suffix",
    }
    views {
        LeaseFromReceiveTime "lease-from-receive-time" "a lease is counted from when the renewal's answer came, not from when it was asked",
        LeaseForEver "lease-for-ever" "the holder never lets its lease run out",
        GrantWithoutWait "grant-without-wait" "the leader grants a resource before the old lease can have run out",
        GrantWaitTooShort "grant-wait-too-short" "the leader waits for seven tenths of the lease",
        RenewWithoutQuorum "renew-without-quorum" "the leader renews leases while it hears no quorum",
        RenewBeforeOwnTerm "renew-before-own-term" "a new leader renews before it has committed an entry of its own term"
            equivalent "a renewal is also checked against the newest grant in the log, and a leader's log holds every committed grant from the start",
        RenewAppliedOnly "renew-applied-only" "a renewal is checked against applied grants, not against the newest in the log",
        LeftIsWholeLease "left-is-whole-lease" "a renewal's answer grants a whole lease whatever the age of the quorum contact",
        ReleaseBeforeStop "release-before-stop" "a holder releases before its guard is disarmed",
        OldEpochAccepted "old-epoch-accepted" "the release of an earlier grant ends the present one",
        GrantToArbiter "grant-to-arbiter" "an arbiter is made a holder",
        GrantToDown "grant-to-down" "a resource is granted to a node diagnosed down",
        GrantToDraining "grant-to-draining" "a resource is granted to a draining node",
        GuardOutlivesLease "guard-outlives-lease" "the guard is armed for a third longer than the lease",
        CarriedUncounted "carried-uncounted" "a leader does not wait for leases that its heartbeats have prolonged",
        DriftIgnored "drift-ignored" "neither the lease nor the leader's wait has a margin for clock drift",
        ElectedTimeIgnored "elected-time-ignored" "a new leader does not wait for leases that its predecessor renewed",
        RemovedKeepsHolding "removed-keeps-holding" "a node removed from the cluster keeps renewing",
        PlacedBlind "placed-blind" "the leader places a slot without regard to what it proposed a moment ago",
        LapsedKept "lapsed-kept" "a leader lets a holder that is up keep what it does not renew",
        NeverGivesUp "never-gives-up" "a holder that cannot keep a lease does not ask for another one",
        LimpsOn "limps-on" "a holder that loses its lease again and again does not ask for another one",
        LeaverRenewed "leaver-renewed" "a leader renews without end for a holder that has asked for another one",
        OvertakenAsked "overtaken-asked" "a release that the log has overtaken is asked for without end",
        DeadHolderKept "dead-holder-kept" "a resource whose holder is down is never granted again",
    }
    supervision {
        HangUnseen "hang-unseen" "a missed heartbeat has no consequence",
        AnyThreadFeeds "any-thread-feeds" "a heartbeat of one thread counts for all threads",
        HangIsCrash "hang-is-crash" "a hang is recorded as a crash",
        NoBackOff "no-back-off" "a crashed program is restarted at once, every time",
        BackOffForgotten "back-off-forgotten" "a stop and a new wish while a copy backs off start it at once",
        BackOffKept "back-off-kept" "the back-off is not reset after a stable run",
        NeverEscalates "never-escalates" "a program that fails again and again is only ever restarted",
        EscalatesLate "escalates-late" "one failure more than the limit is needed to escalate",
        WindowNotSliding "window-not-sliding" "old failures count towards the limit for ever",
        StartBeforeExit "start-before-exit" "the new copy is started before the old one is gone",
        StandbyActive "standby-active" "a warm standby is started active",
        DependencyIgnored "dependency-ignored" "a program is started before what it requires is ready",
        DrainForgets "drain-forgets" "a drained node keeps its programs",
        DegreeNotRestored "degree-not-restored" "a lost replica of a hot service is not replaced",
        MachineIsCrash "machine-is-crash" "a machine's failure is recorded as the program's",
        NoGrace "no-grace" "a program is killed without the grace it was promised",
        ReadinessIgnored "readiness-ignored" "a program counts as ready as soon as it runs",
        StopsWhatItFinds "stops-what-it-finds" "a daemon that starts a program ends first what an earlier daemon left running",
        KeepsAfterLoss "keeps-after-loss" "a program runs on after its grant was lost",
    }
    shipping {
        OldEraTaken "old-era-taken" "a copy follows who writes in an era below the one that it has promised",
        EraInMemory "era-in-memory" "a copy answers in an era before its promise is durable",
        AsksNobody "asks-nobody" "a new primary opens the files without asking the other copies",
        LengthBeforeEra "length-before-era" "of two histories the longer one is taken for the more advanced, whatever its era",
        BestIgnored "best-ignored" "a new primary opens its own files although another copy has come further",
        TornModel "torn-model" "a new primary waits for the files of a copy that has lost some of them, because its records are the furthest",
        BlankCounts "blank-counts" "a copy that has lost its disk counts among those that were asked",
        FetchForgotten "fetch-forgotten" "who fails to take over a history forgets that it was granted the files",
        OpensEarly "opens-early" "a program is started before its files are those of the grant",
        EraUnmarked "era-unmarked" "a new primary does not mark where its era begins",
        FreshForgotten "fresh-forgotten" "files that lost what was not durable are opened as if they were what the log leads to",
        FreshFollowed "fresh-followed" "a copy goes on by records although the files were taken as they were found in between",
        TornIsWhole "torn-is-whole" "a primary that lost power takes its files for what its log leads to",
        TornFollows "torn-follows" "a copy whose files lost what was not durable goes on by records",
        DivergedFollows "diverged-follows" "a copy that holds records which the others do not goes on by records",
        OrphansForgotten "orphans-forgotten" "what only this copy holds is not saved before its files are replaced",
        OrphansLate "orphans-late" "what only this copy holds is saved after its files were replaced",
        NeedIgnored "need-ignored" "under sync a program goes on once its own machine has the files",
        SemiAtOnce "semi-at-once" "under semi-sync a program goes on before another copy has received anything",
        StagedCounts "staged-counts" "a copy whose files are still being compared counts as one that holds the records",
        FollowCounts "follow-counts" "what a copy has only received counts as durable once it asks to go on from there",
        AckBeforeDurable "ack-before-durable" "a copy says that records are durable as soon as they have come",
        AppliesBeforeDurable "applies-before-durable" "a copy applies records before they are durable in its log",
        GapTaken "gap-taken" "a copy takes records that do not follow those that it has",
        TakenTwice "taken-twice" "a copy takes its last record a second time",
        CacheKept "cache-kept" "who writes again sends records that it kept in memory from when it wrote before",
        NumberedTwice "numbered-twice" "a captured change is now and then given two numbers",
        NeverResends "never-resends" "records that were lost on the way are not sent again",
        FirstPageOnly "first-page-only" "only the first stretch of the files is compared",
        SwitchesEarly "switches-early" "compared files are published before the records that came meanwhile are there",
        FullSkipped "full-skipped" "a record that did not fit on the disk is skipped, the next one is taken",
        TroubleUntold "trouble-untold" "a copy does not say that its disk takes nothing",
        LagUntold "lag-untold" "nobody is told that a copy is behind by more than the bound",
        CutByFastest "cut-by-fastest" "the log is cut where the fastest copy is",
        LetsGoEarly "lets-go-early" "a planned move does not wait for the other copies to have what was written",
        TailUnread "tail-unread" "what was captured last before files are closed is not logged",
        MissedIgnored "missed-ignored" "changes that were not captured have no consequence",
        ScrubHasty "scrub-hasty" "a scrub calls a file different that was changed while it looked",
        ScrubIgnored "scrub-ignored" "what a scrub finds is forgotten",
    }
    dispatch {
        LeaseIgnored "lease-ignored" "the data plane does not look at when the lease ends",
        EverybodyAnswers "everybody-answers" "every node answers who has the cluster's address",
        TagWithoutEpoch "tag-without-epoch" "what the dispatcher sends on does not carry its epoch",
        FenceIgnored "fence-ignored" "a server takes what a dispatcher of an earlier epoch sent on",
        FenceUntold "fence-untold" "a new grant is not told to the data planes of the servers",
        NoSecondChance "no-second-chance" "a server keeps a segment of a connection that it has no socket for",
        HopForgotten "hop-forgotten" "a segment sent on a second time looks as if it were the first",
        FormersIgnored "formers-ignored" "the former server of a slot is not looked at",
        SeedOfEpoch "seed-of-members" "the seed of the table changes with the number of servers",
        FirstTableKept "first-table-kept" "the first table is never replaced",
        DownKept "down-kept" "a server that is diagnosed down keeps its slots",
        DrainIgnored "drain-ignored" "a drained server keeps its slots",
        FragmentsScattered "fragments-scattered" "the later fragments of a packet are hashed differently from the first",
        ErrorsByRouter "errors-by-router" "an ICMP error goes where its router's own address hashes to",
        OwnShareSentOn "own-share-sent-on" "the dispatcher sends its own share of the flows out of its port",
        NoAnnouncement "no-announcement" "a new dispatcher does not announce the address",
        NoAnnouncementV6 "no-announcement-v6" "a new dispatcher announces the IPv4 address only",
        AnnouncesAnother "announces-another" "the announcement carries the hardware address of another node",
        ClaimBelieved "claim-believed" "a dispatcher gives way to whoever claims the address",
        ClaimUnanswered "claim-unanswered" "a foreign claim to the address is dropped and forgotten",
    }
}
