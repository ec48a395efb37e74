//! A server: answers each eight bytes with its number and those bytes, by TCP and UDP.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

/// Port of both.
pub(crate) const PORT: u16 = 8_080;

/// A connection on which nobody asks for so long is ended.
const SILENT: Duration = Duration::from_secs(8);

pub(crate) fn serve(address: &str, number: u8) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        // The address comes with the node.
        let (tcp, udp) = loop {
            match (TcpListener::bind((address, PORT)).await, UdpSocket::bind((address, PORT)).await) {
                (Ok(tcp), Ok(udp)) => break (tcp, udp),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        tokio::task::spawn_local(async move {
            let mut bytes = [0; 64];
            loop {
                if let Ok((8, from)) = udp.recv_from(&mut bytes[1..]).await {
                    bytes[0] = number;
                    let _ = udp.send_to(&bytes[..9], from).await;
                }
            }
        });
        loop {
            let (mut stream, _) = tcp.accept().await?;
            stream.set_nodelay(true)?;
            tokio::task::spawn_local(async move {
                let mut bytes = [number; 9];
                // Who died without a word leaves half a connection, which a drain would wait for.
                while let Ok(Ok(_)) = tokio::time::timeout(SILENT, stream.read_exact(&mut bytes[1..])).await {
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            });
        }
    })
}
