//! The thread that carries bytes between control sockets, nodes and whoever does the work. It holds a block of each direction of each
//! session, and reads no more before that is written.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as Plain;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use apus_engine::NodeId;
use apus_quic::{Bulk, Door, Trust};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{sleep, timeout};

use super::frame::{self, Watch};
use super::{Seat, Shared, Ticket, session};
use crate::remote::{Asker, Grant, Wish};

/// What is under way in one direction of one session.
const PIECE: usize = 16 << 10;
/// From a stream to its ticket.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks whether an asker is still there.
const LOOK: Duration = Duration::from_millis(100);
/// What is said when all is over has so long to come.
const LAST: Duration = Duration::from_millis(300);
/// Who takes nothing for so long of what is said is gone. Longer than who says it waits, so that the reason is known there.
const TAKES: Duration = Duration::from_secs(40);

/// What the thread is given to do.
pub(super) enum Order {
    /// Somebody has a ticket for here.
    Listen,
    /// To be done here for somebody here.
    Here { stream: Plain, by: Asker, wish: Wish, grant: Grant, place: Seat },
    /// To be done elsewhere for somebody here.
    There {
        stream: Plain,
        node: NodeId,
        to: SocketAddr,
        ticket: [u8; 16],
        by: Asker,
        wish: Wish,
        place: OwnedSemaphorePermit,
    },
}

/// A line for who asked at the control socket. It fits into what the socket holds.
pub(super) fn answer(stream: &Plain, value: &Value) {
    let mut stream = stream;
    let _ = stream.write_all(format!("{value}\n").as_bytes());
}

/// Works until the node ends.
pub(super) fn work(shared: Arc<Shared>, orders: mpsc::UnboundedReceiver<Order>) {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(serve(shared, orders)),
        Err(error) => {
            let me = shared.me;
            shared.audit.tell("remote-failed", me, &format!("no thread for what is asked from elsewhere: {error}"));
        }
    }
}

async fn next(door: &mut Option<Door>) -> (NodeId, Bulk) {
    match door {
        Some(door) => door.next().await,
        None => std::future::pending().await,
    }
}

async fn serve(shared: Arc<Shared>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut door: Option<Door> = None;
    let mut idle = 0;
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                None => return,
                Some(Order::Listen) => {
                    idle = 0;
                    if door.is_none() && let Some(trust) = &shared.trust {
                        match Door::open(trust.clone(), shared.at) {
                            Ok(open) => door = Some(open),
                            Err(error) => {
                                let text = format!("`[remote]`: {}: {error}; is the port free?", shared.at);
                                shared.audit.tell("remote-failed", shared.me, &text);
                                // Nobody can come with them.
                                shared.tickets().clear();
                            }
                        }
                    }
                }
                Some(Order::Here { stream, by, wish, grant, place }) => {
                    tokio::spawn(here(shared.clone(), stream, by, wish, grant, place));
                }
                Some(Order::There { stream, node, to, ticket, by, wish, place }) => {
                    let asked = Asked { node, to, ticket, what: format!("{by} asked node {} to {wish}", node.0), kind: wish.kind() };
                    tokio::spawn(there(shared.clone(), stream, asked, place));
                }
            },
            (from, bulk) = next(&mut door) => {
                idle = 0;
                tokio::spawn(came(shared.clone(), from, bulk));
            }
            // The port is open only while somebody may come by it.
            () = sleep(Duration::from_secs(1)), if door.is_some() => {
                let quiet = shared.tickets().is_empty() && shared.sessions.available_permits() == super::AT_ONCE;
                idle = if quiet { idle + 1 } else { 0 };
                if idle >= 5 {
                    door = None;
                }
            }
        }
    }
}

/// Carries bytes until the end, or until they are not taken for as long as they may not be.
async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut watch: Option<&mut Watch>,
    within: Option<Duration>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let many = from.read(&mut piece).await?;
        if many == 0 {
            return Ok(());
        }
        if let Some(watch) = &mut watch {
            watch.pass(&piece[..many])?;
        }
        let write = to.write_all(&piece[..many]);
        match within {
            Some(within) => timeout(within, write).await??,
            None => write.await?,
        }
    }
}

/// Both of a socket's names in this thread: one carries, one is looked at.
fn both(stream: Plain) -> io::Result<(UnixStream, UnixStream)> {
    stream.set_nonblocking(true)?;
    Ok((UnixStream::from_std(stream.try_clone()?)?, UnixStream::from_std(stream)?))
}

/// Waits until the other end is closed, whether or not all that it sent was read.
async fn closed(eye: &UnixStream) {
    loop {
        if let Ok(Ok(ready)) = timeout(Duration::ZERO, eye.ready(Interest::READABLE)).await
            && ready.is_read_closed()
        {
            return;
        }
        sleep(LOOK).await;
    }
}

/// Somebody's work, and where it is spoken with. Its place is free once it has ended, and so has who carries what it says.
fn begin(
    shared: &Arc<Shared>,
    about: NodeId,
    what: &(&'static str, String),
    grant: Grant,
    place: Seat,
) -> io::Result<(UnixStream, Arc<AtomicBool>)> {
    let (ours, theirs) = Plain::pair()?;
    ours.set_nonblocking(true)?;
    let ours = UnixStream::from_std(ours)?;
    let gone = Arc::new(AtomicBool::new(false));
    let (flag, shared, (kind, what)) = (gone.clone(), shared.clone(), what.clone());
    std::thread::Builder::new().name("remote-work".into()).spawn(move || {
        let end = session::run(theirs, &grant, &flag, &shared.notes);
        shared.ended(about, kind, &what, &end);
        drop(place);
    })?;
    Ok((ours, gone))
}

/// For somebody here.
async fn here(shared: Arc<Shared>, stream: Plain, by: Asker, wish: Wish, grant: Grant, place: Seat) {
    let what = (wish.kind(), format!("{by}: {wish}"));
    let carry = async {
        let (asker, eye) = both(stream.try_clone()?)?;
        let (mut work, gone) = begin(&shared, by.node, &what, grant, place.clone())?;
        answer(&stream, &json!({ "go": true }));
        let (mut from, mut to) = asker.into_split();
        let (mut out, mut into) = work.split();
        let down = pump(&mut out, &mut to, None, Some(TAKES));
        let up = async {
            let _ = pump(&mut from, &mut into, None, None).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = down => {}
            () = closed(&eye) => {}
            () = up => {}
        }
        gone.store(true, Ordering::Relaxed);
        io::Result::Ok(())
    };
    // It did not begin.
    if let Err(error) = carry.await {
        let end = json!({ "error": error.to_string() });
        shared.ended(by.node, what.0, &what.1, &end);
        answer(&stream, &end);
    }
}

struct Asked {
    node: NodeId,
    to: SocketAddr,
    ticket: [u8; 16],
    what: String,
    kind: &'static str,
}

/// For somebody here, elsewhere.
async fn there(shared: Arc<Shared>, stream: Plain, asked: Asked, place: OwnedSemaphorePermit) {
    let mut watch = Watch::default();
    let carried = match &shared.trust {
        Some(trust) => carry(trust, shared.at, &stream, &asked, &mut watch, place).await,
        None => Err(io::ErrorKind::Unsupported.into()),
    };
    let end = match (watch.end(), carried) {
        (Some(end), _) => end,
        (None, Ok(())) => json!({ "error": "it broke off before its end" }),
        (None, Err(error)) => {
            let why = format!("node {} at {}: {error}", asked.node.0, asked.to);
            answer(&stream, &json!({ "error": why }));
            json!({ "error": why })
        }
    };
    shared.ended(asked.node, asked.kind, &asked.what, &end);
}

async fn carry(
    trust: &Arc<Trust>,
    own: SocketAddr,
    stream: &Plain,
    asked: &Asked,
    watch: &mut Watch,
    place: OwnedSemaphorePermit,
) -> io::Result<()> {
    let (asker, eye) = both(stream.try_clone()?)?;
    let mut bulk = apus_quic::dial(trust, own.ip(), asked.to, asked.node).await?;
    let standing = bulk.standing(trust);
    bulk.send.write_all(&asked.ticket).await.map_err(io::Error::other)?;
    answer(stream, &json!({ "go": true }));
    let (mut from, mut to) = asker.into_split();
    {
        let down = pump(&mut bulk.receive, &mut to, Some(watch), Some(TAKES));
        tokio::pin!(down);
        let up = async {
            // Who does it may have ended, and hears no more: what it said last is on its way.
            if pump(&mut from, &mut bulk.send, None, None).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let over = tokio::select! {
            biased;
            _ = &mut down => true,
            () = up => false,
            () = closed(&eye) => false,
            () = standing.lost() => false,
        };
        if !over {
            let _ = timeout(LAST, &mut down).await;
        }
    }
    let _ = to.shutdown().await;
    tokio::spawn(async move {
        bulk.finish().await;
        drop(place);
    });
    Ok(())
}

/// Somebody's stream: does what its ticket is for.
async fn came(shared: Arc<Shared>, from: NodeId, mut bulk: Bulk) {
    let mut word = [0; 16];
    let read = timeout(PATIENCE, bulk.receive.read_exact(&mut word)).await;
    let ticket = {
        let mut tickets = shared.tickets();
        let found = tickets.iter().position(|ticket| ticket.word == word && ticket.by.node == from);
        found.filter(|_| matches!(read, Ok(Ok(_)))).map(|at| tickets.swap_remove(at))
    };
    let Some(Ticket { by, wish, grant, place, .. }) = ticket else {
        return shared.refuse(from, "no ticket", &format!("node {} brings no ticket that is good here", from.0));
    };
    let Some(standing) = shared.trust.as_ref().map(|trust| bulk.standing(trust)) else { return };
    let what = (wish.kind(), format!("{by}: {wish}"));
    let (mut work, gone) = match begin(&shared, from, &what, grant, place.clone()) {
        Ok(begun) => begun,
        Err(error) => {
            let (end, mut frame) = (json!({ "error": error.to_string() }), Vec::new());
            shared.ended(from, what.0, &what.1, &end);
            let _ = frame::end(&mut frame, &end);
            if matches!(timeout(PATIENCE, bulk.send.write_all(&frame)).await, Ok(Ok(()))) {
                bulk.finish().await;
            }
            return;
        }
    };
    let over = {
        let (mut out, mut into) = work.split();
        let down = pump(&mut out, &mut bulk.send, None, Some(TAKES));
        tokio::pin!(down);
        let up = async {
            // Work that hears no more has something to say yet.
            if pump(&mut bulk.receive, &mut into, None, None).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            _ = &mut down => true,
            () = up => false,
            () = standing.lost() => false,
        }
    };
    gone.store(true, Ordering::Relaxed);
    drop(work);
    if over {
        bulk.finish().await;
    }
    // Until here it is under way: the port stays open, and its place is taken.
    drop(place);
}
