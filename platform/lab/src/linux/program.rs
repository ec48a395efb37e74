//! What runs in a lab besides daemons: servers, the programs of scenarios' services, clients.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use apus_os::linux::clock;
use apus_os::linux::program::tell;

use super::writer::{Kind, write};
use crate::Error;
use crate::judge::Asked;

/// Port of servers.
pub(crate) const PORT: u16 = 80;

/// Serves a line by HTTP to everybody, for ever.
///
/// # Errors
/// If the port is taken.
pub fn serve(name: &str) -> Result<(), Error> {
    let failed = |error: io::Error| Error::Failed(format!("port {PORT}: {error}"));
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).map_err(failed)?;
    let body = format!("{name}\n");
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let answer = answer.clone();
        spawn(move || respond(stream, &answer));
    }
    Ok(())
}

fn respond(mut stream: TcpStream, answer: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let (mut head, mut bytes) = (Vec::new(), [0; 1_024]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < 16_384 {
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            got => head.extend_from_slice(&bytes[..got]),
        }
    }
    stream.write_all(answer.as_bytes())
}

/// A service's program in a live run: it is ready after a while, beats for its threads, and does what files in `folder` ask. With `writes`
/// (what, where, rows a second) it writes replicated files, and is ready once it has seen what is there.
///
/// | file | with | it |
/// |---|---|---|
/// | `slow` | milliseconds | takes so long to be ready |
/// | `hang` | – | beats no longer |
/// | `poison` | milliseconds | is aborted so long after its start |
/// | `crash` | a number | ends with code 1 once it is another one than at the start |
///
/// # Errors
/// If its keeper does not listen.
pub fn program(
    folder: &Path,
    starts_in: Duration,
    beats: &[Duration],
    writes: Option<(Kind, PathBuf, u32)>,
) -> Result<(), Error> {
    let began = Instant::now();
    let socket = std::env::var_os("NOTIFY_SOCKET").ok_or_else(|| {
        Error::Usage("`NOTIFY_SOCKET` is not set: this is for programs that a node supervises".into())
    })?;
    let say = |lines: &str| tell(Path::new(&socket), lines).map_err(|error| Error::Failed(error.to_string()));
    let number = |name: &str| -> Option<u64> { fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok() };
    let crashes = number("crash");
    let (mut ready, mut beaten) = (false, None::<Instant>);
    let every = beats.iter().min().map(|least| *least / 4);
    let looked = Arc::new(AtomicBool::new(writes.is_none()));
    if let Some((kind, root, rate)) = writes {
        let (folder, looked) = (folder.to_path_buf(), looked.clone());
        spawn(move || {
            if let Err(error) = write((kind, &root, rate), &folder, &|| looked.store(true, Ordering::SeqCst)) {
                eprintln!("{error}");
            }
            // Without its files it is of no use.
            std::process::exit(1);
        });
    }
    loop {
        if number("poison").is_some_and(|after| began.elapsed() >= Duration::from_millis(after)) {
            std::process::abort();
        }
        if number("crash") != crashes {
            std::process::exit(1);
        }
        let wait = number("slow").map_or(starts_in, Duration::from_millis);
        if !ready && began.elapsed() >= wait && looked.load(Ordering::SeqCst) {
            ready = true;
            say("READY=1\n")?;
        }
        let due = beaten.is_none_or(|last| every.is_some_and(|every| last.elapsed() >= every));
        if ready && due && !beats.is_empty() && !folder.join("hang").exists() {
            for (thread, promise) in beats.iter().enumerate() {
                say(&format!("HBEAT={thread}\nTIMEOUT_USEC={}\n", promise.as_micros()))?;
            }
            beaten = Some(Instant::now());
        }
        sleep(Duration::from_millis(10));
    }
}

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_millis(400);

/// Clients at a steady pace, for ever: a line for each request with the client, when it was sent and when it was over, on the boot
/// clock in nanoseconds, and 1 if it was answered.
///
/// # Errors
/// If a line cannot be written.
pub fn load(target: SocketAddr, clients: u16, rate: u32) -> Result<(), Error> {
    let every = Duration::from_secs(1) / rate.max(1);
    let out = Mutex::new(io::stdout());
    std::thread::scope(|scope| {
        for client in 0..clients {
            let out = &out;
            scope.spawn(move || {
                let mut due = Instant::now() + every.mul_f64(f64::from(client) / f64::from(clients));
                loop {
                    sleep(due.saturating_duration_since(Instant::now()));
                    let from = clock::boot();
                    let answered = request(target).is_ok();
                    let line = format!("{client} {from} {} {}\n", clock::boot(), u8::from(answered));
                    let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
                    if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
                        return;
                    }
                    drop(out);
                    // What came too late is not made up for.
                    due = (due + every).max(Instant::now());
                }
            });
        }
    });
    Err(Error::Failed("nobody listens to the clients".into()))
}

/// A line that a client of [`load`] wrote; times since `start`.
pub(crate) fn asked(line: &str, start: u64) -> Option<Asked> {
    let words: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [client, from, to, answered] = words[..] else { return None };
    Some(Asked {
        client: u16::try_from(client).ok()?,
        from: from.saturating_sub(start),
        to: to.saturating_sub(start),
        answered: answered == 1,
    })
}

fn request(target: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: apus\r\nConnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    if &head == b"HTTP/1.1 200" { Ok(()) } else { Err(io::Error::other("another answer")) }
}
