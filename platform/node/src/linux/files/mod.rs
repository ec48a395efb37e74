//! Groups of files on this node. Each has a thread of its own, which owns its disk and the ring of its programs; the engine's loop gives
//! orders, renews the programs' lease and lets them go on, and waits for nothing.

mod ask;
mod last;
mod mount;
mod past;
mod queue;
mod rows;
mod strangers;
mod worker;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use apus_engine::shipping::{Order, Work};
use apus_engine::{Copy, GroupId, GuardOrder, Input, ServiceId};
use apus_os::program::Spec;
use tokio::sync::mpsc;

use super::now;
use super::programs::Programs;
use super::{Note, Say};
use crate::{Capture, Config, Error, Group, LIBRARY};
use past::Past;
use queue::Queue;

/// One group, as the loop has it.
struct One {
    group: Group,
    queue: Arc<Queue>,
    past: RefCell<Past>,
    /// The program must be gone before its files are closed.
    closing: RefCell<Option<Work>>,
}

impl One {
    const fn copy(&self) -> Copy {
        Copy { service: self.group.service, slot: 0 }
    }
}

/// All groups of this node.
pub(super) struct Files {
    all: BTreeMap<GroupId, One>,
}

impl Files {
    /// Starts a thread for each group that this node has a copy of; what they tell goes to `inputs`.
    pub(super) fn start(
        config: &Config,
        inputs: &mpsc::UnboundedSender<Input>,
        say: &Say,
        note: &Note,
    ) -> Result<Self, Error> {
        let mut all = BTreeMap::new();
        for group in config.groups.iter().filter(|group| group.engine.copies.contains(&config.me)) {
            // Found here before anything begins: a program without it would change files that nobody learns of.
            library(group).map_err(Error::Usage)?;
            let queue = Arc::new(Queue::new(ring(config, group)));
            // What a process that was killed has left there is of no use to anybody; where programs may still run, another is put over it.
            if !queue.ring.exists()
                && apus_fuse::clear(&group.root).map_err(|error| Error::Failed(format!("`{}`: {error}", group.name)))?
            {
                say(&format!("files `{}`: a mount whose process had ended is taken away", group.name));
            }
            crate::here::group(group).map_err(Error::Usage)?;
            worker::start(worker::Settings {
                group: group.clone(),
                owner: owner(config, group.service),
                queue: queue.clone(),
                inputs: inputs.clone(),
                say: say.clone(),
                note: note.clone(),
            })
            .map_err(|error| Error::Failed(format!("`{}`: a thread: {error}", group.name)))?;
            let one = One { group: group.clone(), queue, past: RefCell::default(), closing: RefCell::new(None) };
            all.insert(group.engine.id, one);
        }
        Ok(Self { all })
    }

    /// Starts an order; what it needs of disks is done elsewhere.
    pub(super) fn order(&self, order: Order) {
        let Some(one) = self.all.get(&order.group) else { return };
        match order.work {
            close @ Work::Close { .. } => *one.closing.borrow_mut() = Some(close),
            work => {
                if let Work::Append { staged: false, records, .. } = &work {
                    one.past.borrow_mut().add(now(), records);
                }
                one.queue.post(work);
            }
        }
    }

    /// Files are closed once their program is gone, whoever ended it.
    pub(super) fn turn(&self, programs: &Programs) {
        for one in self.all.values().filter(|one| one.closing.borrow().is_some()) {
            if programs.is_gone(one.copy())
                && let Some(close) = one.closing.borrow_mut().take()
            {
                one.queue.post(close);
            }
        }
    }

    /// A program's right to change files lasts as long as its slot's lease.
    pub(super) fn guard(&self, order: GuardOrder) {
        if let GuardOrder::Arm { resource, until, .. } = order
            && let Some(one) = self.all.values().find(|one| one.group.engine.resource == resource)
        {
            one.queue.lease(until.0.saturating_mul(1_000));
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.all.values().for_each(|one| one.queue.end());
    }
}

/// Where programs of a group record: in memory, and gone with the machine's power.
fn ring(config: &Config, group: &Group) -> PathBuf {
    let usual = || format!("/dev/shm/apus.{}.{}.{}", config.cluster, config.me.0, group.name).into();
    group.ring.clone().unwrap_or_else(usual)
}

/// The library that captures.
pub(crate) fn library(group: &Group) -> Result<PathBuf, String> {
    let own = || std::env::current_exe().ok().map(|own| own.with_file_name(LIBRARY));
    let Some(library) = group.library.clone().or_else(own) else {
        return Err(format!("`{}`: write where {LIBRARY} is, as `library`", group.name));
    };
    if library.is_file() {
        return Ok(library);
    }
    let place = library.display();
    let mend = "install it there, or write where it is as `library`; `cargo build -p apus-interpose` makes it";
    Err(format!("`{}`: {place} is not there, without which its programs cannot be captured: {mend}", group.name))
}

/// The group of users that a service's programs run as, if not this daemon's.
fn owner(config: &Config, service: ServiceId) -> Option<u32> {
    let service = config.services.iter().find(|one| one.engine.id == service)?;
    let user = service.spec.user.as_ref()?;
    let of = |text: &str| {
        let mut fields = text.lines().find(|line| line.split(':').next() == Some(user))?.split(':');
        fields.nth(3)?.parse().ok()
    };
    std::fs::read_to_string("/etc/passwd").ok().and_then(|text| of(&text)).or_else(|| {
        // Others may come from elsewhere, by the system's name services.
        let said = std::process::Command::new("getent").args(["passwd", user]).output().ok()?;
        of(&String::from_utf8_lossy(&said.stdout))
    })
}

/// Takes away the mounts over trees of groups that a daemon has left.
pub(super) fn clear(config: &Config) -> Result<(), Error> {
    for group in config.groups.iter().filter(|group| group.engine.copies.contains(&config.me)) {
        let named = |error: std::io::Error| Error::Usage(format!("`{}`: {error}", group.name));
        apus_fuse::clear(&group.root).map_err(named)?;
        if apus_fuse::there(&group.root) == apus_fuse::There::Lives {
            apus_fuse::unmount(&group.root, false).map_err(named)?;
        }
    }
    Ok(())
}

/// How a service with files is run: captured.
pub(super) fn captured(config: &Config, service: ServiceId, spec: Spec) -> Spec {
    let mine = |group: &&Group| group.service == service && group.engine.copies.contains(&config.me);
    let Some(group) = config.groups.iter().find(mine).filter(|group| group.capture == Capture::Preload) else {
        return spec;
    };
    let Ok(library) = library(group) else { return spec };
    let text = |path: &Path| path.display().to_string();
    let mut environment = spec.environment.clone();
    // What the operator loads comes after it.
    let others = environment.iter().position(|(key, _)| key == "LD_PRELOAD").map(|at| environment.remove(at).1);
    let preload = [Some(text(&library)), others].into_iter().flatten().collect::<Vec<_>>().join(":");
    environment.retain(|(key, _)| key != "APUS_CAPTURE");
    environment.extend([("LD_PRELOAD".into(), preload), ("APUS_CAPTURE".into(), text(&ring(config, group)))]);
    Spec { environment, ..spec }
}
