//! A node on Linux.

mod address;
mod apply;
mod cluster;
mod control;
mod fence;
#[cfg(target_arch = "x86_64")]
pub(crate) mod files;
#[cfg(not(target_arch = "x86_64"))]
#[path = "no_files.rs"]
pub(crate) mod files;
mod held;
mod http;
mod machine;
mod maintenance;
mod notes;
mod peers;
mod places;
mod plan;
mod programs;
pub(crate) mod remote;
mod services;
mod systemd;
mod telling;
mod trace;
mod view;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::os::unix::process::CommandExt as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use apus_engine::{ClusterId, Engine, Seed, Time};
use apus_host::Shell;
use apus_host::store::{Folder, OpenError, Settings, Store};
use apus_host::transport::{self, Book, Identity, Sockets, Tokio, Transport};
use apus_os::linux::{Guard, Vip, clock, exec};
use tokio::sync::{Notify, mpsc};

use crate::engine::{self, DISPATCHER};
use crate::view::{Entry, Journal};
use crate::{Config, Error};
use address::Address;
use held::Held;
use machine::{Live, LiveMachine, Signals};
use programs::Programs;
use systemd::Manager;
use telling::Telling;
use view::View;

/// Tells the operator.
pub(crate) type Say = Arc<dyn Fn(&str) + Send + Sync>;
/// Takes down what happened, and tells it, from any thread.
pub(crate) type Note = Arc<dyn Fn(Entry) + Send + Sync>;
/// Is given every new entry of the journal.
pub(crate) type Each = Box<dyn Fn(&Entry) + Send + Sync>;

fn now() -> Time {
    Time(clock::boot() / 1_000)
}

/// In the node's folder: which commands of operators run.
const COMMANDS: &str = "commands";
/// When a node has ended, commands of the operator's that still run have so long.
const REST: Duration = Duration::from_secs(2);

/// Runs a node until a signal ends it. On SIGHUP this process becomes whatever its program's file is now, in the same place: what it
/// runs goes on, as after any end.
pub(crate) fn run(config: &Config, say: Say, each: Option<Each>) -> Result<(), Error> {
    let program = std::env::current_exe().map_err(|error| Error::Failed(format!("this program: {error}")))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Failed(format!("starting: {error}")))?;
    let ended = tokio::task::LocalSet::new().block_on(&runtime, node(config, say, each));
    runtime.shutdown_timeout(REST);
    match ended? {
        Ended::ForGood => Ok(()),
        Ended::Anew => {
            let error = std::process::Command::new(&program).args(std::env::args_os().skip(1)).exec();
            Err(Error::Failed(format!("{}: {error}", program.display())))
        }
    }
}

/// How a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    ForGood,
    /// It shall take its own place.
    Anew,
}

/// Undoes what a killed node has left.
pub(crate) fn clear(config: &Config) -> Result<(), Error> {
    if std::os::unix::net::UnixStream::connect(&config.control).is_ok() {
        let place = config.control.display();
        return Err(Error::Usage(format!("{place}: the node runs: end it in order, and it clears up itself")));
    }
    let failed = |error: std::io::Error| Error::Failed(error.to_string());
    if let Some(vip) = &config.vip {
        Guard::clear(&vip.interface).map_err(failed)?;
        Vip::restore(&config.folder.join("address")).map_err(failed)?;
    }
    files::clear(config)?;
    let _ = std::fs::remove_file(&config.control);
    Ok(())
}

async fn node(config: &Config, print: Say, each: Option<Each>) -> Result<Ended, Error> {
    let hear = || Signals::new().map_err(|error| Error::Failed(format!("signals: {error}")));
    let (signals, mut late) = (hear()?, hear()?);
    let listener = control::listen(&config.control).await?;
    let place = config.folder.display();
    let failed = |error: std::io::Error| Error::Failed(format!("{place}: {error}"));
    let (store, durable) = match Store::open(Folder::new(&config.folder).map_err(failed)?, Settings::default()).await {
        Ok(opened) => opened,
        Err(OpenError::Disk(error)) => return Err(failed(error)),
        Err(error) => {
            let mend = "remove its files but `keys`: the node's peers take it in again";
            return Err(Error::Failed(format!("{place}: {error}; {mend}")));
        }
    };
    let journal = Arc::new(Journal::open(config.me.0, &view::folder(config), each).map_err(failed)?);
    let told = Arc::<view::Place>::default();
    let say: Say = {
        let (journal, told, print) = (journal.clone(), told.clone(), print.clone());
        Arc::new(move |line| {
            view::said(&journal, &told, line);
            print(line);
        })
    };
    if !durable.formatted {
        say(&format!(
            "{place}: a blank store; this node votes once its peers have taken it in (`apus node init` formats one)"
        ));
    }
    // Nothing else has begun yet.
    let left = exec::end_noted(&config.folder.join(COMMANDS));
    if left > 0 {
        say(&format!("{left} processes of commands that an earlier daemon ran were left: they are ended"));
    }
    let seed = Seed(RandomState::new().build_hasher().finish());
    let engine_config = engine::config(config).map_err(|error| Error::Usage(error.to_string()))?;
    let engine = Held::new(Engine::new(engine_config, durable, seed, now()), config, &say);
    let identity = Identity { cluster: ClusterId(config.cluster), me: config.me, incarnation: engine.incarnation() };
    let book: BTreeMap<_, _> = config.nodes.iter().map(|node| (node.id, config.reach(node))).collect();
    let book = Book::from(book);
    let at = config.reach(config.own());
    let members = cluster::Members::new(config, book.clone(), &say)?;
    let nudge = Rc::new(Notify::new());
    let view = Rc::new(View::new(config, journal, told.clone(), nudge.clone()));
    let trust = members.secure.as_ref().map(|secure| secure.trust.clone());
    let far = Rc::new(remote::Far::new(config, trust.clone(), view.journal.clone(), told, print.clone()));
    let web = match &config.http {
        Some(http) => Some((http, http::listen(http, trust.as_ref()).await?)),
        None => None,
    };
    let outside = Outside { listener, web, print, view, nudge, far, signals };
    let ended = match members.quic() {
        Some(quic) => {
            let transport = Transport::start(quic, identity, at, book, apus_quic::transport_settings()).await;
            live(config, say.clone(), outside, store, engine, transport, members).await
        }
        None => {
            let transport = Transport::start(Tokio, identity, at, book, transport::Settings::default()).await;
            live(config, say.clone(), outside, store, engine, transport, members).await
        }
    };
    if !matches!(ended, Ok(Ended::Anew)) {
        return ended;
    }
    if !late.give_way().await {
        return ended;
    }
    say("ended all the same");
    if let Some(watchdog) = &config.watchdog {
        systemd::disarm(watchdog, &say);
    }
    Ok(Ended::ForGood)
}

/// What a node shows, and where it is asked.
struct Outside<'c> {
    listener: tokio::net::UnixListener,
    web: Option<(&'c crate::Http, http::Open)>,
    print: Say,
    view: Rc<View>,
    nudge: Rc<Notify>,
    far: Rc<remote::Far>,
    signals: Signals,
}

/// Runs a node over a transport.
async fn live<S: Sockets>(
    config: &Config,
    say: Say,
    outside: Outside<'_>,
    store: Store<Folder>,
    engine: Held,
    transport: std::io::Result<Transport<S>>,
    members: cluster::Members,
) -> Result<Ended, Error> {
    let at = config.reach(config.own());
    let transport = transport
        .map_err(|error| Error::Failed(format!("{at}: {error}; `nodes` must give this machine's own address")))?;
    let telling = config.told.as_deref().map(|file| Telling::open(file, engine.incarnation())).transpose();
    let telling = telling.map_err(|error| Error::Failed(format!("`told`: {error}")))?;
    let manager = Manager::new(config.watchdog.as_ref(), say.clone())?;
    let (answers, done) = mpsc::unbounded_channel();
    let address = match &config.vip {
        Some(vip) => {
            Some(Address::start(config, vip, answers, say.clone()).map_err(|error| Error::Failed(error.to_string()))?)
        }
        None => None,
    };
    let orders = address.as_ref().map(Address::orders);
    let (act, inputs) = mpsc::unbounded_channel();
    let note = outside.view.notes(outside.print.clone());
    let files = Rc::new(files::Files::start(config, &act, &say, &note)?);
    let programs = Rc::new(Programs::start(config, &act, &say));
    let engine = Rc::new(RefCell::new(engine));
    outside.view.watch(transport.watch());
    let serving = control::Serving {
        engine: engine.clone(),
        nudge: outside.nudge,
        address: orders.clone(),
        nodes: members.nodes.clone(),
        me: config.me,
        services: config.services.iter().map(|service| service.engine.clone()).collect(),
        programs: programs.clone(),
        files: files.clone(),
        first: config.vip.as_ref().map(crate::Setup::from),
        members,
        cluster: config.cluster,
        lease: config.lease.unwrap_or(apus_engine::ViewsConfig::default().lease),
        view: outside.view,
        far: outside.far,
        anew: Rc::new(Cell::new(false)),
        fencing: Rc::default(),
    };
    let nodes = serving.nodes.clone();
    let apart = tokio::task::spawn_local(apart(serving.clone()));
    let slim = tokio::task::spawn_local(slim());
    let unclaimed = tokio::task::spawn_local(services::unclaimed(serving.clone()));
    let follow = tokio::task::spawn_local(cluster::follow(serving.clone()));
    let door = tokio::task::spawn_local(cluster::door(serving.clone()));
    let control = tokio::task::spawn_local(control::serve(outside.listener, serving.clone()));
    let fencing = tokio::task::spawn_local(fence::follow(serving.clone()));
    let web = outside.web.map(|(http, open)| http::Web::start(http, open, serving.clone(), &say));
    let (reboot, anew) = (config.reboot.clone(), serving.anew.clone());
    let cared = (manager, outside.signals);
    let machine =
        LiveMachine::new(orders.clone(), done, (programs, files, inputs), reboot, outside.print, serving, cared)
            .map_err(|error| Error::Failed(format!("a timer: {error}")))?
            .telling(telling);
    say(&format!("node {} runs on {at}", config.me.0));
    let shell = Shell::new(machine, transport, store.spawn());
    let live = Live::new(engine, orders, nodes, config.me);
    let ended: Result<(), std::convert::Infallible> = apus_host::run(live, shell).await;
    for task in [control, apart, slim, unclaimed, follow, door, fencing] {
        task.abort();
    }
    drop(web);
    drop(address);
    let _ = std::fs::remove_file(&config.control);
    say(if anew.get() { "takes its own place" } else { "ended" });
    match ended {
        Ok(()) => Ok(if anew.get() { Ended::Anew } else { Ended::ForGood }),
        Err(never) => match never {},
    }
}

/// A start, and now and then a change or an operator's question, need memory that a node at rest does not.
async fn slim() {
    let mut wait = Duration::from_secs(5);
    tokio::time::sleep(wait).await;
    apus_os::linux::memory::unmap_program();
    loop {
        apus_os::linux::memory::give_back();
        tokio::time::sleep(wait).await;
        wait = (wait * 4).min(Duration::from_mins(10));
    }
}

/// Keeps dispatcher and coordinator on two nodes, once both are settled: a node that is both takes two lease times to replace, one
/// for the new coordinator to be sure and one for the address.
async fn apart(serving: control::Serving) {
    let mut together = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        together = if serving.is_both() { together + 1 } else { 0 };
        if together >= 3 {
            serving.step_aside();
            together = 0;
        }
    }
}
