//! What must hold of replicated files, looked at with each step: I1 to I19 of the design, as far as one group in memory shows them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use apus_engine::shipping::{Change, Fact, Head, Record};
use apus_engine::{Epoch, GroupConfig, Lsn, Mode, NodeId};

use super::tree::Tree;
use super::vault::Vault;
use crate::fault::{MS, Ns, S};

/// What is wrong: the checker's name, and what was seen.
pub(super) type Wrong = (&'static str, String);
type Seen = Result<(), Wrong>;

/// A holder that was told to let go waits for the others for at least so long.
const PARTING: Ns = 2_900 * MS;

/// A place in the history: era and position.
type Spot = (Epoch, Lsn);

/// What the writers of an era wrote.
#[derive(Clone, Debug)]
struct Era {
    writer: NodeId,
    tree: Tree,
    end: Lsn,
}

#[derive(Clone, Debug)]
pub(super) struct Judge {
    config: GroupConfig,
    eras: BTreeMap<Epoch, Era>,
    /// The files after each record.
    truth: BTreeMap<Spot, u128>,
    /// Records that were seen before those that they follow.
    early: BTreeMap<Spot, Record>,
    /// What was captured and has no record yet, in order, and the barriers that have one.
    captured: BTreeMap<NodeId, VecDeque<(u64, Change)>>,
    numbered: BTreeMap<(NodeId, u64), Spot>,
    /// What a node that asks was answered: when, and how far who answers has come.
    answers: BTreeMap<(NodeId, Epoch), BTreeMap<NodeId, (Ns, Spot)>>,
    /// Who has chosen its history already.
    chose: BTreeSet<(NodeId, Epoch)>,
    /// When a program that changed files was stopped.
    stopped: BTreeMap<NodeId, Ns>,
    granted: BTreeSet<Spot>,
    received: BTreeMap<NodeId, BTreeMap<Epoch, Lsn>>,
    published: BTreeMap<NodeId, Spot>,
    /// What each opened, by what it told.
    opened: BTreeMap<NodeId, Epoch>,
    told_lag: BTreeSet<NodeId>,
    lags_since: BTreeMap<NodeId, Ns>,
    told_trouble: BTreeSet<NodeId>,
    troubled_since: BTreeMap<NodeId, Ns>,
    told_dropped: BTreeMap<NodeId, Lsn>,
    /// Whose files are being compared: they need no record before that.
    compares: BTreeSet<NodeId>,
    /// Who was heard to follow whom, and in which era.
    follows: BTreeMap<(NodeId, NodeId), Epoch>,
    /// Nothing goes wrong but what is planned: nothing may be lost.
    planned: bool,
    pub(super) healed: bool,
    pub(super) granted_healed: u64,
}

fn wrong<T>(checker: &'static str, what: String) -> Result<T, Wrong> {
    Err((checker, what))
}

impl Judge {
    /// All copies begin with `tree`.
    pub(super) fn new(config: GroupConfig, planned: bool, tree: &Tree) -> Self {
        Self {
            config,
            eras: BTreeMap::new(),
            truth: BTreeMap::from([((Epoch(0), Lsn(0)), tree.hash())]),
            early: BTreeMap::new(),
            captured: BTreeMap::new(),
            numbered: BTreeMap::new(),
            answers: BTreeMap::new(),
            chose: BTreeSet::new(),
            stopped: BTreeMap::new(),
            granted: BTreeSet::new(),
            received: BTreeMap::new(),
            published: BTreeMap::new(),
            opened: BTreeMap::new(),
            told_lag: BTreeSet::new(),
            lags_since: BTreeMap::new(),
            told_trouble: BTreeSet::new(),
            troubled_since: BTreeMap::new(),
            told_dropped: BTreeMap::new(),
            compares: BTreeSet::new(),
            follows: BTreeMap::new(),
            planned,
            healed: false,
            granted_healed: 0,
        }
    }

    /// A program changes a file.
    pub(super) fn captured(&mut self, node: NodeId, vault: &Vault, number: u64, change: &Change) -> Seen {
        if !vault.writes {
            return wrong("files-opened-first", format!("{node}: a program changes files that were not opened for it"));
        }
        let newest = self.opened.values().max().copied().unwrap_or_default();
        let mine = self.opened.get(&node).copied().unwrap_or_default();
        if mine < newest {
            return wrong("files-one-writer", format!("{node} writes in {mine} while {newest} is open elsewhere"));
        }
        self.captured.entry(node).or_default().push_back((number, change.clone()));
        Ok(())
    }

    /// Whether a record was seen before.
    pub(super) fn knows(&self, head: &Head) -> bool {
        self.truth.contains_key(&(head.era, head.lsn))
    }

    /// A mark is written; its record may reach no disk for long.
    fn mark(&mut self, node: NodeId, (era, lsn): Spot, fresh: bool, vaults: &BTreeMap<NodeId, Vault>) -> Seen {
        if lsn == Lsn(0) {
            // Nothing was marked.
            return Ok(());
        }
        let record = Record { group: self.config.id, era, lsn, prev: 0, change: Change::Era { fresh } };
        vaults.get(&node).map_or(Ok(()), |vault| self.learn(node, vault, &record))
    }

    /// Whether a node is the writer of an era.
    pub(super) fn writes(&self, node: NodeId, era: Epoch) -> bool {
        self.opened.get(&node) == Some(&era)
    }

    /// A writer's record is seen for the first time: in its log, or on its way.
    pub(super) fn learn(&mut self, node: NodeId, vault: &Vault, record: &Record) -> Seen {
        let spot = (record.era, record.lsn);
        if self.truth.contains_key(&spot) {
            return Ok(());
        }
        if !self.eras.contains_key(&record.era) {
            self.begin(node, vault, record)?;
        }
        let Some(era) = self.eras.get_mut(&record.era) else { return Ok(()) };
        if era.writer != node {
            let what = format!("{node} and {} both write in {}", era.writer, record.era);
            return wrong("files-one-writer", what);
        }
        if record.lsn != era.end.next() {
            self.early.insert(spot, record.clone());
            return Ok(());
        }
        if matches!(record.change, Change::Era { fresh: true }) {
            era.tree = vault.tree.clone();
        } else {
            era.tree.apply(&record.change);
        }
        era.end = record.lsn;
        self.truth.insert(spot, era.tree.hash());
        if !matches!(record.change, Change::Era { .. }) {
            match self.captured.get_mut(&node).and_then(VecDeque::pop_front) {
                Some((number, change)) if change == record.change => {
                    if matches!(change, Change::Barrier { .. }) {
                        self.numbered.insert((node, number), spot);
                    }
                }
                next => {
                    let next = next.map_or("nothing".to_owned(), |(number, _)| format!("change {number}"));
                    let what = format!("{} of {} at {node} is not what was captured next: {next}", spot.1, spot.0);
                    return wrong("files-captured-once", what);
                }
            }
        }
        match self.early.remove(&(spot.0, spot.1.next())) {
            Some(next) => self.learn(node, vault, &next),
            None => Ok(()),
        }
    }

    /// An era begins: on the files that the history before leads to, or on files that are taken as they are.
    fn begin(&mut self, node: NodeId, vault: &Vault, record: &Record) -> Seen {
        let before = Lsn(record.lsn.0 - 1);
        let parent = (vault.log.era(before), before);
        let ended = self.eras.get(&parent.0);
        let fresh = matches!(record.change, Change::Era { fresh: true });
        if !matches!(record.change, Change::Era { .. }) {
            return wrong("files-chain", format!("{} of {node} begins without a mark", record.era));
        }
        let newest = self.eras.last_key_value().map(|(era, known)| (*era, known.end));
        if self.planned && newest.is_some_and(|newest| newest != parent) {
            let what =
                format!("{node} begins {} after {} of {}, nothing went wrong before", record.era, before, parent.0);
            return wrong("files-nothing-lost", what);
        }
        // Under sync one that was granted is in every later history.
        let history = vault.log.history();
        let era_of = |lsn: Lsn| history.eras.iter().rev().find(|start| start.first <= lsn).map(|start| start.era);
        let lost = self.granted.iter().find(|(era, lsn)| *lsn > before || era_of(*lsn) != Some(*era));
        if let Some((era, lsn)) = lost.filter(|_| self.config.mode == Mode::Sync) {
            let what =
                format!("{node} begins {} without {lsn} of {era}, which a program was told to be kept", record.era);
            return wrong("files-kept", what);
        }
        let tree = match ended {
            _ if fresh => vault.tree.clone(),
            Some(ended) if ended.end == before => ended.tree.clone(),
            _ if self.truth.get(&parent) == Some(&vault.tree.hash()) => vault.tree.clone(),
            _ => {
                let what =
                    format!("{node} begins {} on files that are not those of {} of {}", record.era, before, parent.0);
                return wrong("files-prefix", what);
            }
        };
        // Who opens with files that it has not captured all changes of must have captured the rest.
        if !fresh && vault.ring.is_empty() && self.truth.get(&parent) != Some(&vault.tree.hash()) {
            let what = format!("{node} opens files that are not those of {} of {}", before, parent.0);
            return wrong("files-prefix", what);
        }
        self.eras.insert(record.era, Era { writer: node, tree, end: before });
        Ok(())
    }

    /// Records go behind a log's end.
    pub(super) fn appends(&self, node: NodeId, vault: &Vault, staged: bool, records: &[u8]) -> Seen {
        let log = match &vault.staged {
            Some((_, log)) if staged => log,
            _ => &vault.log,
        };
        let (mut end, mut check) = (log.end(), log.check());
        let mut rest = records;
        while let Ok(head) = Head::read(rest) {
            if head.lsn != end.next() || head.prev != check {
                return wrong("files-chain", format!("{node} puts {} of {} behind {end}", head.lsn, head.era));
            }
            (end, check) = (head.lsn, head.check);
            rest = rest.get(head.size()..).unwrap_or_default();
        }
        Ok(())
    }

    /// Its log may not be longer than it was told.
    pub(super) fn log_length(&self, node: NodeId, vault: &Vault) -> Seen {
        let (bytes, limit) = (vault.log.bytes(), self.config.log_bytes);
        if bytes > limit + limit / 2 {
            return wrong("files-log-bound", format!("{node}: a log of {bytes} bytes, {limit} are allowed"));
        }
        Ok(())
    }

    /// Files of a copy are published: they must be what the writer's were at one place.
    pub(super) fn publishes(&mut self, node: NodeId, vault: &Vault) -> Seen {
        if vault.doubtful && !vault.writes {
            let what = format!("{node} applies records to files that may have lost something with the power");
            return wrong("files-whole", what);
        }
        if vault.loose || vault.writes || vault.torn || vault.rotten {
            return Ok(());
        }
        let spot = (vault.log.era(vault.applied), vault.applied);
        match self.truth.get(&spot) {
            Some(truth) if *truth == vault.tree.hash() => {}
            Some(_) => {
                let what = format!("{node} publishes files that are not those of {} of {}", spot.1, spot.0);
                return wrong("files-prefix", what);
            }
            None if self.early.contains_key(&spot) || self.is_unseen(spot) => return Ok(()),
            None => {
                return wrong("files-prefix", format!("{node} publishes {} of {}, which nobody wrote", spot.1, spot.0));
            }
        }
        let before = self.published.insert(node, spot);
        if before.is_some_and(|(era, lsn)| era == spot.0 && lsn > spot.1) {
            let what = format!("{node} publishes {} of {} after {}", spot.1, spot.0, before.unwrap_or_default().1);
            return wrong("files-published-grow", what);
        }
        Ok(())
    }

    /// Whether it may be a record that is neither in a log nor was sent, because the writer's disk takes nothing.
    fn is_unseen(&self, (era, lsn): Spot) -> bool {
        self.eras.get(&era).is_some_and(|known| {
            let left = self.captured.get(&known.writer).map_or(0, VecDeque::len) as u64;
            lsn > known.end && lsn.0 <= known.end.0 + left
        })
    }

    /// What was captured and has no record is lost, and nobody waits any more.
    pub(super) fn forgets(&mut self, node: NodeId) {
        self.captured.remove(&node);
        self.numbered.retain(|(at, _), _| *at != node);
    }

    /// The disk is another one.
    pub(super) fn wiped(&mut self, node: NodeId) {
        self.published.remove(&node);
        for answers in self.answers.values_mut() {
            answers.remove(&node);
        }
    }

    /// Records are to be applied: they are durable in the log by then.
    pub(super) fn applies(&self, node: NodeId, vault: &Vault, upto: Lsn) -> Seen {
        let durable = vault.log.durable;
        if upto > durable {
            return wrong("files-logged-first", format!("{node} applies {upto}, durable in its log is {durable}"));
        }
        Ok(())
    }

    /// A copy tells how far it is with the history of who writes in `era`.
    pub(super) fn tells(&self, node: NodeId, era: Epoch, lsn: Lsn, vaults: &BTreeMap<NodeId, Vault>) -> Seen {
        let Some(mine) = vaults.get(&node).filter(|mine| lsn <= mine.log.end()) else { return Ok(()) };
        let Some((writer, theirs)) = vaults.iter().find(|(other, vault)| **other != node && vault.open == Some(era))
        else {
            return Ok(());
        };
        // Records may have come here before they were in the writer's own log.
        let expected = if lsn <= theirs.log.end() { theirs.log.era(lsn) } else { era };
        let has = mine.log.era(lsn);
        if has != expected {
            let what =
                format!("{node} tells {writer} that it has {lsn}, which is of {has} here and of {expected} there");
            return wrong("files-ack-true", what);
        }
        Ok(())
    }

    /// A node hears that another follows it.
    pub(super) fn followed(&mut self, node: NodeId, by: NodeId, era: Epoch) {
        self.follows.insert((node, by), era);
    }

    /// A node that asks is answered.
    pub(super) fn answered(&mut self, now: Ns, node: NodeId, from: NodeId, era: Epoch, rank: Spot) {
        if !self.chose.contains(&(node, era)) {
            self.answers.entry((node, era)).or_default().insert(from, (now, rank));
        }
    }

    /// A node stood still: who knows what it has looked at.
    pub(super) fn stood_still(&mut self, node: NodeId) {
        self.answers.retain(|(asks, _), _| *asks != node);
    }

    /// The history of a new era is chosen: no answer was better.
    fn chooses(&mut self, now: Ns, node: NodeId, era: Epoch, takes: Spot) -> Seen {
        if !self.chose.insert((node, era)) {
            return Ok(());
        }
        let answers = self.answers.remove(&(node, era)).unwrap_or_default();
        // What has just come may not have been looked at.
        let mut known = answers.iter().filter(|(_, (at, _))| at + 20 * MS < now);
        if let Some((other, (_, (best, end)))) = known.find(|(_, (_, rank))| *rank > takes) {
            let what = format!(
                "{node} begins {era} with {} of {}, {other} had answered that it has {end} of {best}",
                takes.1, takes.0
            );
            return wrong("files-furthest", what);
        }
        Ok(())
    }

    /// A program of the files is gone.
    pub(super) fn program_stopped(&mut self, node: NodeId, now: Ns) {
        self.stopped.insert(node, now);
    }

    /// The grant is given back as planned: whoever follows has all.
    fn lets_go(&self, now: Ns, node: NodeId, (at, whole): (Lsn, bool), vaults: &BTreeMap<NodeId, Vault>) -> Seen {
        let early = self.stopped.get(&node).is_some_and(|stopped| now < stopped + PARTING);
        if whole {
            let era = self.opened.get(&node).copied();
            if vaults.get(&node).map(|vault| vault.promised_durable) != era {
                // Somebody else is at work already.
                return Ok(());
            }
            let lacks = |(other, vault): &(&NodeId, &Vault)| {
                let follows = self.follows.get(&(node, **other)).copied() == era;
                follows && !self.told_dropped.contains_key(other) && vault.log.end() < at
            };
            return match vaults.iter().find(lacks) {
                Some((other, vault)) => {
                    let what = format!("{node} lets go with {at}, {other} has {} only", vault.log.end());
                    wrong("files-let-go", what)
                }
                None => Ok(()),
            };
        }
        if early {
            wrong("files-let-go", format!("{node} lets go with {at} before the others have it"))
        } else {
            Ok(())
        }
    }

    /// Another history takes a log's place: what is in no other must be saved.
    pub(super) fn switches(&self, node: NodeId, vault: &Vault) -> Seen {
        let Some((_, staged)) = &vault.staged else { return Ok(()) };
        let goes = staged.history();
        let era_of = |lsn: Lsn| goes.eras.iter().rev().find(|start| start.first <= lsn).map(|start| start.era);
        for kept in &vault.log.kept {
            let (era, lsn) = (kept.head.era, kept.head.lsn);
            let known = lsn <= staged.end() && era_of(lsn) == Some(era);
            let saved = vault.orphans.iter().any(|orphan| orphan.records.contains(&(era, lsn)));
            if !known && !saved {
                return wrong(
                    "files-orphans",
                    format!("{node} loses {lsn} of {era}, which no other copy has, unsaved"),
                );
            }
        }
        if vault.torn && !vault.orphans.iter().any(|orphan| orphan.files == vault.tree.hash()) {
            return wrong("files-orphans", format!("{node} replaces files that only it has, unsaved"));
        }
        Ok(())
    }

    /// A packet of shipping leaves.
    pub(super) fn promised(&self, node: NodeId, vault: &Vault, era: Epoch) -> Seen {
        let kept = vault.promised_durable;
        if era < kept {
            return wrong("files-old-era", format!("{node} serves {era}, it has promised {kept}"));
        }
        if era > kept {
            return wrong("files-promise", format!("{node} answers in {era}, durably it has promised {kept} only"));
        }
        Ok(())
    }

    /// Files that were compared came to a copy.
    pub(super) fn switched(&mut self, node: NodeId, vault: &Vault) {
        self.receives(node, vault.log.era(vault.applied), vault.applied);
    }

    /// Records came to a copy.
    pub(super) fn receives(&mut self, node: NodeId, era: Epoch, lsn: Lsn) {
        let far = self.received.entry(node).or_default().entry(era).or_default();
        *far = (*far).max(lsn);
    }

    /// Programs that wait for barriers up to this one go on.
    pub(super) fn releases(&mut self, node: NodeId, captured: u64, vaults: &BTreeMap<NodeId, Vault>) -> Seen {
        let done: Vec<(u64, Spot)> =
            self.numbered.range((node, 0)..=(node, captured)).map(|((_, number), spot)| (*number, *spot)).collect();
        for (number, (era, lsn)) in done {
            self.numbered.remove(&(node, number));
            let has = |vault: &&Vault| lsn <= vault.log.durable && vault.log.era(lsn) == era;
            let durable = vaults.values().filter(has).count();
            if self.config.mode == Mode::Sync && durable < usize::from(self.config.need) {
                let what = format!("a program at {node} goes on with {lsn} of {era}, which {durable} copies hold");
                return wrong("files-kept", what);
            }
            let came = |(other, eras): (&NodeId, &BTreeMap<Epoch, Lsn>)| {
                *other != node && eras.range(era..).any(|(_, far)| *far >= lsn)
            };
            if self.config.mode == Mode::SemiSync && !self.received.iter().any(came) {
                let what = format!("a program at {node} goes on with {lsn} of {era}, which came to no other copy");
                return wrong("files-received", what);
            }
            self.granted.insert((era, lsn));
            self.granted_healed += u64::from(self.healed);
        }
        Ok(())
    }

    /// A log is cut.
    pub(super) fn cuts(&self, node: NodeId, vaults: &BTreeMap<NodeId, Vault>, upto: Lsn) -> Seen {
        let Some(vault) = vaults.get(&node).filter(|vault| vault.open.is_some()) else { return Ok(()) };
        if vault.log.bytes() >= self.config.log_bytes / 10 * 7 {
            return Ok(());
        }
        for (other, copy) in vaults.iter().filter(|(other, copy)| **other != node && !copy.blank) {
            // Who follows another era, or was told of before, has its files compared.
            let told = self.told_dropped.get(other).is_some_and(|dropped| *dropped < upto)
                || self.compares.contains(other)
                || Some(copy.log.era(copy.log.end())) != vault.open;
            let holds = copy.staged.as_ref().map_or(copy.log.end(), |(_, log)| log.end());
            if holds < upto && !told {
                let what = format!("{node} cuts its log at {upto}, {other} has {holds} only, and there is room");
                return wrong("files-cut", what);
            }
        }
        Ok(())
    }

    /// Something is told.
    pub(super) fn fact(&mut self, now: Ns, node: NodeId, fact: &Fact, vaults: &BTreeMap<NodeId, Vault>) -> Seen {
        match *fact {
            Fact::Opened { era, at, fresh, .. } => {
                self.opened.insert(node, era);
                self.mark(node, (era, at), fresh, vaults)?;
                self.follows.retain(|(source, _), _| *source != node);
                if let Some(vault) = vaults.get(&node) {
                    let before = Lsn(at.0.saturating_sub(1));
                    self.chooses(now, node, era, (vault.log.era(before), before))?;
                }
                self.told_lag.clear();
                self.lags_since.clear();
                self.told_trouble.clear();
            }
            Fact::Lagging { node, .. } => {
                self.told_lag.insert(node);
            }
            Fact::CaughtUp { node, .. } => {
                self.told_lag.remove(&node);
            }
            Fact::Troubled { node, .. } => {
                self.told_trouble.insert(node);
            }
            Fact::Recovered { node, .. } => {
                self.told_trouble.remove(&node);
                self.troubled_since.remove(&node);
            }
            Fact::Dropped { node, upto, .. } => {
                self.told_dropped.insert(node, upto);
            }
            Fact::Synced { .. } => {
                self.told_dropped.remove(&node);
                self.compares.remove(&node);
            }
            Fact::Fetching { era, from, .. } => {
                let answers = self.answers.get(&(node, era));
                if let Some((_, takes)) = answers.and_then(|answers| answers.get(&from)).copied() {
                    let mine = vaults.get(&node).filter(|vault| !vault.blank).map(|vault| vault.log.history().rank());
                    if let Some(mine) = mine.filter(|mine| *mine > takes) {
                        let what =
                            format!("{node} takes {} of {} though it has {} of {}", takes.1, takes.0, mine.1, mine.0);
                        return wrong("files-furthest", what);
                    }
                    self.chooses(now, node, era, takes)?;
                }
            }
            Fact::Missed { after, .. } => {
                let era = self.opened.get(&node).copied().unwrap_or_default();
                self.mark(node, (era, after.next()), true, vaults)?;
            }
            Fact::Following { compares: true, .. } => {
                self.compares.insert(node);
            }
            Fact::Following { .. } => {
                self.compares.remove(&node);
            }
            Fact::Closed { at, .. } => {
                let left = self.captured.get(&node).map_or(0, VecDeque::len) as u64;
                let era = self.opened.get(&node).and_then(|era| self.eras.get(era));
                if let Some(end) = era.map(|era| era.end).filter(|end| end.0 + left > at.0) {
                    let what = format!("{node} closes at {at}: records reach to {end}, {left} changes have none");
                    return wrong("files-closed-whole", what);
                }
            }
            Fact::LetGo { at, whole, .. } => {
                self.lets_go(now, node, (at, whole), vaults)?;
            }
            Fact::Promised { .. }
            | Fact::Orphaned { .. }
            | Fact::Refused { .. }
            | Fact::Differs { .. }
            | Fact::NoModel { .. }
            | Fact::TooFew { .. } => {}
        }
        Ok(())
    }

    /// A copy's disk takes nothing, or takes again.
    pub(super) fn disk(&mut self, node: NodeId, now: Ns, fine: bool) {
        if fine {
            self.troubled_since.remove(&node);
        } else {
            self.troubled_since.entry(node).or_insert(now);
        }
    }

    /// Ten times a second: who is behind, or in trouble, is told of. `steady`: nothing else disturbs the writer or the copies.
    pub(super) fn looks(
        &mut self,
        now: Ns,
        writer: Option<NodeId>,
        vaults: &BTreeMap<NodeId, Vault>,
        steady: bool,
    ) -> Seen {
        let Some(writer) = writer else {
            self.lags_since.clear();
            self.troubled_since.clear();
            return Ok(());
        };
        let end = vaults.get(&writer).map(|vault| vault.log.end()).unwrap_or_default();
        for (node, vault) in vaults.iter().filter(|(node, _)| **node != writer) {
            let same = self.opened.get(&writer) == Some(&vault.log.era(vault.applied));
            let has = if same { vault.applied } else { Lsn(0) };
            if end.0.saturating_sub(has.0) <= self.config.lag {
                self.lags_since.remove(node);
                continue;
            }
            let since = *self.lags_since.entry(*node).or_insert(now);
            if now > since + 1_500 * MS && !self.told_lag.contains(node) {
                let what =
                    format!("{node} is behind {writer} by more than {} records, and nobody is told", self.config.lag);
                return wrong("files-told", what);
            }
        }
        if !steady {
            self.troubled_since.clear();
        }
        let long = |since: &&Ns| now > **since + 2 * S;
        if let Some((node, _)) =
            self.troubled_since.iter().find(|(node, since)| long(since) && !self.told_trouble.contains(node))
        {
            return wrong("files-told", format!("the disk of {node} takes no records, and nobody is told"));
        }
        Ok(())
    }

    /// After healing all copies are the same.
    pub(super) fn ends(
        &self,
        writer: Option<NodeId>,
        vaults: &BTreeMap<NodeId, Vault>,
        lost: impl Fn(NodeId) -> bool,
    ) -> Seen {
        let Some(writer) = writer else {
            return wrong("files-go-on", "nobody has the files open at the end".into());
        };
        if self.granted_healed == 0 {
            return wrong("files-go-on", "no program was told after healing that its files are kept".into());
        }
        let Some(open) = vaults.get(&writer) else { return Ok(()) };
        for (node, vault) in vaults.iter().filter(|(node, _)| !lost(**node)) {
            if vault.tree != open.tree {
                let what = format!(
                    "{node} has {} of {}, {writer} {}: the files differ",
                    vault.applied,
                    vault.log.era(vault.applied),
                    open.log.end()
                );
                return wrong("files-equal", what);
            }
        }
        Ok(())
    }
}
