//! How groups stand, for people.

use std::path::Path;

use apus_engine::shipping::{Doing, Place, Stand, Trouble};
use apus_engine::{Engine, FileId, Lsn, NodeId};
use serde_json::{Value, json};

use super::super::now;
use super::{Files, One};
use crate::group::mode_word;

const fn trouble(why: Option<Trouble>) -> Option<&'static str> {
    match why {
        None => None,
        Some(Trouble::Full) => Some("its disk is full"),
        Some(Trouble::Failed) => Some("its disk fails"),
    }
}

/// What a copy does in a word, and with whom.
fn doing(doing: &Doing) -> (&'static str, Option<NodeId>) {
    match doing {
        Doing::Starting => ("starting", None),
        Doing::Waiting => ("waits", None),
        Doing::Asking => ("asks the others", None),
        Doing::Fetching(_) => ("fetches", None),
        Doing::Opening => ("opens", None),
        Doing::Writing => ("writes", None),
        Doing::Following(of) => ("follows", Some(*of)),
        Doing::Comparing(of, _) => ("compares", Some(*of)),
    }
}

/// How far a comparison is, in thousandths of the files that there are: names come after all of them.
fn compared(place: &Place, files: u64) -> u64 {
    match place {
        Place::File(file, _) if files > 0 => (file.0.min(files) * 950 / files).min(950),
        Place::File(..) => 0,
        Place::Name(..) => 975,
        Place::End => 1_000,
    }
}

impl Files {
    /// A row for each group that this node has a copy of, by its own word.
    pub(in super::super) fn rows(&self, engine: &Engine, me: NodeId) -> Value {
        let stand = |one: &One| {
            let shipping = engine.files()?;
            shipping.groups().find(|(id, _)| *id == one.group.engine.id).map(|(_, group)| group.stand(me))
        };
        self.all.values().map(|one| one.row(stand(one))).collect()
    }

    /// The group of a name.
    pub(in super::super) fn named(&self, name: &str) -> Option<(apus_engine::GroupId, apus_engine::ResourceId)> {
        self.all.values().find(|one| one.group.name == name).map(|one| (one.group.engine.id, one.group.engine.resource))
    }

    /// What those that there are are called.
    pub(in super::super) fn names(&self) -> Vec<&str> {
        self.all.values().map(|one| &*one.group.name).collect()
    }

    /// Paths of files by their numbers, of those that are known by now; of the others it is found out meanwhile.
    pub(in super::super) fn paths(&self, group: &str, files: &[FileId]) -> Value {
        let Some(one) = self.all.values().find(|one| one.group.name == group) else { return Value::Null };
        let known = one.queue.state().paths;
        if files.iter().any(|file| !known.contains_key(file)) {
            one.queue.change(|state| state.wanted = files.to_vec());
            one.queue.wake();
            return Value::Null;
        }
        files.iter().map(|file| (file.0.to_string(), json!(known[file]))).collect::<serde_json::Map<_, _>>().into()
    }

    /// What was saved here, of one group or of all.
    pub(in super::super) fn orphans(&self, only: Option<&str>) -> Value {
        let such = self.all.values().filter(|one| only.is_none_or(|only| only == one.group.name));
        such.flat_map(|one| {
            let saved = one.queue.state().store.map(|status| status.orphans).unwrap_or_default();
            saved.into_iter().map(|saved| {
                json!({
                    "group": one.group.name, "path": text(&saved.path), "era": saved.era.0, "from": saved.from.0,
                    "upto": saved.upto.0, "files": saved.files, "bytes": saved.bytes,
                })
            })
        })
        .collect()
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl One {
    fn row(&self, stand: Option<Stand>) -> Value {
        let (group, state) = (&self.group, self.queue.state());
        let mut row = json!({
            "group": group.name, "id": group.engine.id.0, "mode": mode_word(group.engine.mode), "need": group.engine.need,
            "root": text(&group.root), "doing": "starting", "trouble": state.trouble, "guard": group.guard.word(),
            "resource": group.engine.resource.0,
            "strangers": json!({ "refused": state.strangers.0, "let-through": state.strangers.1 }),
            "log_limit": group.engine.log_bytes, "captured": group.capture.word(),
        });
        if let Some(last) = &state.stranger {
            row["stranger"] = json!({
                "process": last.process, "program": last.program, "path": last.path, "allowed": last.allowed,
                "times": last.times, "ago_us": now().since(last.at).0,
            });
        }
        if let Some(mount) = &state.mount {
            row["mount"] = json!({ "process": mount.process, "again": mount.again, "trouble": mount.trouble });
        }
        if let Some(ring) = self.queue.captured() {
            let status = ring.status();
            row["capture"] = json!({
                "in_order": status.reasons.in_order(), "why": status.reasons.words(), "untracked": status.untracked,
                "lost": status.lost.saturating_sub(1), "waiting_bytes": status.waiting, "copied_bytes": status.copied,
            });
        }
        let files = state.store.as_ref().map_or(0, |status| status.files.0);
        if let Some(status) = &state.store {
            row["files"] = status.files.0.into();
            row["orphans"] = status.orphans.len().into();
            row["checkpoint"] = status.checkpoint.0.into();
        }
        let Some(stand) = stand else { return row };
        let (what, of) = doing(&stand.doing);
        row["doing"] = what.into();
        row["of"] = of.map(|node| node.0).into();
        row["era"] = stand.era.0.into();
        row["base"] = stand.base.0.into();
        row["end"] = stand.end.0.into();
        row["durable"] = stand.durable.0.into();
        row["applied"] = stand.applied.0.into();
        row["log_bytes"] = stand.bytes.into();
        row["whole"] = stand.whole.into();
        row["waiting"] = stand.waiting.into();
        if let Some(why) = trouble(stand.trouble) {
            row["trouble"] = why.into();
        }
        match &stand.doing {
            Doing::Comparing(_, place) => row["compared_thousandths"] = compared(place, files).into(),
            Doing::Fetching(upto) => row["upto"] = upto.0.into(),
            _ => {}
        }
        let (past, now) = (self.past.borrow(), now());
        let copy = |copy: &apus_engine::shipping::Copy| {
            let behind = past.behind(copy.applied, stand.end, now);
            json!({
                "node": copy.node.0, "follows": copy.follows, "compares": copy.compares,
                "received": copy.received.0, "durable": copy.durable.0, "applied": copy.applied.0,
                "behind": stand.end.0.saturating_sub(copy.applied.0), "behind_bytes": behind.bytes,
                "behind_us": behind.us, "behind_more": behind.more || copy.applied == Lsn(0),
                "trouble": trouble(copy.trouble), "lags": copy.lags, "left_behind": copy.left_behind,
                "scrubs": copy.scrubs, "scrubbing": copy.scrubbing,
            })
        };
        row["copies"] = stand.copies.iter().map(copy).collect();
        row
    }
}
