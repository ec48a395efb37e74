//! A server that answers each byte with its number, and clients whose connections stay and ask again and again.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

const PORT: u16 = 8_080;
/// Between two questions on one connection.
const ASK: Duration = Duration::from_millis(100);
/// A question without an answer for so long: the connection is broken.
const GIVE_UP: Duration = Duration::from_secs(10);
/// The same for a connection that is only tried.
const TRY: Duration = Duration::from_millis(700);
/// Connections of one try, for each address.
pub(crate) const TRIED: u64 = 6;

fn address(text: &str) -> Result<SocketAddr, String> {
    let address: IpAddr = text.parse().map_err(|error| format!("{text}: {error}"))?;
    Ok((address, PORT).into())
}

pub(crate) fn serve(addresses: [&str; 2], number: u8) -> Result<(), String> {
    let threads = addresses.map(|text| {
        let address = address(text);
        std::thread::spawn(move || {
            let address = address?;
            // The address comes with the node.
            let listener = loop {
                match TcpListener::bind(address) {
                    Ok(listener) => break listener,
                    Err(_) => sleep(Duration::from_millis(20)),
                }
            };
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&[number]).is_ok() {}
                });
            }
            Ok(())
        })
    });
    threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a server panicked".to_owned())?)
}

#[derive(Clone, Default)]
struct Connection {
    server: Option<u8>,
    broken: Option<String>,
}

fn ask(stream: &mut TcpStream) -> io::Result<u8> {
    stream.write_all(b"?")?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    Ok(answer[0])
}

fn open(to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    Ok(stream)
}

fn stay(to: SocketAddr, set: impl Fn(io::Result<u8>) -> io::Result<()>) -> io::Result<()> {
    let mut stream = open(to, GIVE_UP)?;
    loop {
        set(ask(&mut stream))?;
        sleep(ASK);
    }
}

/// Obeys words on its standard input: `report` and `fresh`, each answered by a line of JSON; ends with it.
pub(crate) fn talk(addresses: [&str; 2], many: usize) -> Result<(), String> {
    let [v4, v6] = addresses.map(address);
    let to = [v4?, v6?];
    let all = Arc::new(Mutex::new(vec![[const { None::<Connection> }; 2]; many]));
    for number in 0..many {
        for (family, to) in to.into_iter().enumerate() {
            let all = all.clone();
            std::thread::spawn(move || {
                let put = |connection: Connection| {
                    all.lock().unwrap_or_else(PoisonError::into_inner)[number][family] = Some(connection);
                };
                let first = std::cell::Cell::new(None);
                let result = stay(to, |answer| {
                    let server = answer?;
                    if first.replace(Some(server)).is_some_and(|before| before != server) {
                        return Err(io::Error::other("another server answered"));
                    }
                    put(Connection { server: Some(server), broken: None });
                    Ok(())
                });
                put(Connection { server: first.get(), broken: result.err().map(|error| error.to_string()) });
            });
        }
    }
    for word in io::stdin().lines().map_while(Result::ok) {
        let answer = if word == "fresh" {
            fresh(to)
        } else {
            let all = all.lock().unwrap_or_else(PoisonError::into_inner).clone();
            report(&all)
        };
        println!("{answer}");
    }
    Ok(())
}

/// Connections that are open, by address, and what broke, with its server.
fn report(all: &[[Option<Connection>; 2]]) -> Value {
    let mut open = [0, 0];
    let mut broken = Vec::new();
    for (family, connection) in all.iter().flat_map(|both| both.iter().enumerate()) {
        match connection {
            Some(Connection { broken: Some(why), server }) => {
                broken.push(json!({"family": family, "server": server, "why": why}));
            }
            Some(_) => open[family] += 1,
            None => {}
        }
    }
    json!({"open": open, "broken": broken})
}

/// How many new connections are answered, by address.
fn fresh(to: [SocketAddr; 2]) -> Value {
    let threads = to.map(|to| {
        let all = (0..TRIED).map(move |_| std::thread::spawn(move || open(to, TRY).and_then(|mut one| ask(&mut one))));
        all.collect::<Vec<_>>()
    });
    let answered = threads.map(|all| all.into_iter().filter_map(|one| one.join().ok()).filter(Result::is_ok).count());
    json!(answered)
}
