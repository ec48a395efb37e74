//! A node on Linux.

mod address;
mod cluster;
mod control;
mod held;
mod http;
mod machine;
mod notes;
mod peers;
mod programs;
mod services;
mod telling;
mod trace;
mod view;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use apus_engine::{Availability, Bootstrap, ClusterId, Engine, NodeId, ResourceConfig, ResourceId, Role, Seed, Time};
use apus_host::Shell;
use apus_host::store::{Folder, OpenError, Settings, Store};
use apus_host::transport::{self, Book, Identity, Sockets, Tokio, Transport};
use apus_os::linux::{Guard, Vip, clock};
use tokio::sync::{Notify, mpsc};

use crate::view::{Entry, Journal};
use crate::{Config, Error, Part, Service};
use address::Address;
use held::Held;
use machine::{Live, LiveMachine};
use programs::Programs;
use telling::Telling;
use view::View;

/// Whoever owns it answers for the cluster's address.
pub(crate) const DISPATCHER: ResourceId = ResourceId(1);

/// Tells the operator.
pub(crate) type Say = Arc<dyn Fn(&str) + Send + Sync>;
/// Is given every new entry of the journal.
pub(crate) type Each = Box<dyn Fn(&Entry) + Send + Sync>;

fn now() -> Time {
    Time(clock::boot() / 1_000)
}

/// Runs a node until a signal ends it.
pub(crate) fn run(config: &Config, say: Say, each: Option<Each>) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Failed(format!("starting: {error}")))?;
    tokio::task::LocalSet::new().block_on(&runtime, node(config, say, each))
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
    let _ = std::fs::remove_file(&config.control);
    Ok(())
}

fn engine_config(config: &Config) -> Result<apus_engine::Config, Error> {
    let of = |such: fn(Part) -> bool| -> Vec<NodeId> {
        config.nodes.iter().filter(|node| !node.joined && such(node.part)).map(|node| node.id).collect()
    };
    let bootstrap = Bootstrap {
        voters: of(|part| part != Part::Learner),
        arbiters: of(|part| part == Part::Arbiter),
        learners: of(|part| part == Part::Learner),
    };
    let mut engine = apus_engine::Config::new(config.me, bootstrap);
    engine.cluster = ClusterId(config.cluster);
    config.knobs.apply(&mut engine);
    engine.views.lease = config.lease.unwrap_or(engine.views.lease);
    if config.vip.is_some() {
        engine.resources.push(ResourceConfig {
            id: DISPATCHER,
            role: Role::Dispatcher,
            availability: Availability::Safe,
            candidates: Vec::new(),
        });
    }
    engine.resources.extend(config.services.iter().flat_map(Service::resources));
    engine.services.extend(config.services.iter().map(|service| service.engine.clone()));
    engine.check().map_err(|error| Error::Usage(error.to_string()))?;
    Ok(engine)
}

async fn node(config: &Config, print: Say, each: Option<Each>) -> Result<(), Error> {
    let listener = control::listen(&config.control).await?;
    let web = match &config.http {
        Some(http) => Some((http, http::listen(http).await?)),
        None => None,
    };
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
    let seed = Seed(RandomState::new().build_hasher().finish());
    let engine = Held::new(Engine::new(engine_config(config)?, durable, seed, now()), config, &say);
    let identity = Identity { cluster: ClusterId(config.cluster), me: config.me, incarnation: engine.incarnation() };
    let book: BTreeMap<_, _> = config.nodes.iter().map(|node| (node.id, config.reach(node))).collect();
    let book = Book::from(book);
    let at = config.reach(config.own());
    let members = cluster::Members::new(config, book.clone(), &say)?;
    let nudge = Rc::new(Notify::new());
    let view = Rc::new(View::new(config, journal, told, nudge.clone()));
    let outside = Outside { listener, web, print, view, nudge };
    match members.quic() {
        Some(quic) => {
            let transport = Transport::start(quic, identity, at, book, apus_quic::transport_settings()).await;
            live(config, say, outside, store, engine, transport, members).await
        }
        None => {
            let transport = Transport::start(Tokio, identity, at, book, transport::Settings::default()).await;
            live(config, say, outside, store, engine, transport, members).await
        }
    }
}

/// What a node shows, and where it is asked.
struct Outside<'c> {
    listener: tokio::net::UnixListener,
    web: Option<(&'c crate::Http, tokio::net::TcpListener)>,
    print: Say,
    view: Rc<View>,
    nudge: Rc<Notify>,
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
) -> Result<(), Error> {
    let at = config.reach(config.own());
    let transport = transport
        .map_err(|error| Error::Failed(format!("{at}: {error}; `nodes` must give this machine's own address")))?;
    let telling = config.told.as_deref().map(|file| Telling::open(file, engine.incarnation())).transpose();
    let telling = telling.map_err(|error| Error::Failed(format!("`told`: {error}")))?;
    let (answers, done) = mpsc::unbounded_channel();
    let address = match &config.vip {
        Some(vip) => {
            Some(Address::start(config, vip, answers, say.clone()).map_err(|error| Error::Failed(error.to_string()))?)
        }
        None => None,
    };
    let orders = address.as_ref().map(Address::orders);
    let (act, inputs) = mpsc::unbounded_channel();
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
        first: config.vip.as_ref().map(crate::Setup::from),
        members,
        cluster: config.cluster,
        lease: config.lease.unwrap_or(apus_engine::ViewsConfig::default().lease),
        view: outside.view,
    };
    let nodes = serving.nodes.clone();
    let apart = tokio::task::spawn_local(apart(serving.clone()));
    let slim = tokio::task::spawn_local(slim());
    let unclaimed = tokio::task::spawn_local(services::unclaimed(serving.clone()));
    let follow = tokio::task::spawn_local(cluster::follow(serving.clone()));
    let door = tokio::task::spawn_local(cluster::door(serving.clone()));
    let control = tokio::task::spawn_local(control::serve(outside.listener, serving.clone()));
    let web = outside.web.map(|(http, listener)| http::Web::start(http, listener, serving.clone(), &say));
    let reboot = config.reboot.clone();
    let machine = LiveMachine::new(orders.clone(), done, (programs, inputs), reboot, outside.print, serving)
        .map_err(|error| Error::Failed(format!("signals: {error}")))?
        .telling(telling);
    say(&format!("node {} runs on {at}", config.me.0));
    let shell = Shell::new(machine, transport, store.spawn());
    let live = Live::new(engine, orders, nodes, config.me);
    let ended: Result<(), std::convert::Infallible> = apus_host::run(live, shell).await;
    for task in [control, apart, slim, unclaimed, follow, door] {
        task.abort();
    }
    drop(web);
    drop(address);
    let _ = std::fs::remove_file(&config.control);
    say("ended");
    match ended {
        Ok(()) => Ok(()),
        Err(never) => match never {},
    }
}

/// A start, and now and then a change or an operator's question, need memory that a node at rest does not.
async fn slim() {
    let mut wait = Duration::from_secs(5);
    loop {
        tokio::time::sleep(wait).await;
        apus_os::linux::memory::give_back();
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
