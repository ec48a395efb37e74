//! Which plane runs here: the best that starts.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use apus_dispatch::Mac;

use super::packet::PacketPlane;
use super::xdp::Xdp;
use crate::plane::Plane;

/// Where a plane runs, and for which addresses.
#[derive(Clone, Debug)]
pub struct Port {
    /// Name of the interface.
    pub name: String,
    /// Its hardware address.
    pub mac: Mac,
    /// The cluster's IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// The cluster's IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// Its tables will have 2 to this power slots.
    pub log2_slots: u8,
}

/// A plane, and why it is this one.
pub struct Choice {
    /// The plane.
    pub plane: Box<dyn Plane + Send>,
    /// What was tried, best first: name, and why it was not taken, or that it was.
    pub tried: Vec<(&'static str, String)>,
}

impl std::fmt::Debug for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Choice").field("plane", &self.plane.name()).field("tried", &self.tried).finish()
    }
}

/// Starts a plane; the flag says that it was asked for by name.
type Start = fn(&Port, bool) -> io::Result<Box<dyn Plane + Send>>;

/// Best first.
const PLANES: [(&str, Start); 5] = [
    ("xdp", |port, asked| Ok(Box::new(Xdp::on(port, true, asked)?))),
    ("xdp-generic", |port, asked| Ok(Box::new(Xdp::on(port, false, asked)?))),
    ("af-xdp", |port, asked| Ok(Box::new(PacketPlane::early(port, asked)?))),
    ("af-packet", |port, _| Ok(Box::new(PacketPlane::new(port)?))),
    ("tap", |port, _| Ok(Box::new(PacketPlane::handed(port)?))),
];

/// Starts the best plane that runs on this port, or the one that is asked for.
///
/// # Errors
/// If none starts: with the reason of each.
pub fn choose(port: &Port, only: Option<&str>) -> io::Result<Choice> {
    let mut tried = Vec::new();
    for (name, start) in PLANES {
        if only.is_some_and(|only| only != name) {
            tried.push((name, "another one was asked for".into()));
            continue;
        }
        match start(port, only.is_some()) {
            Ok(plane) => {
                tried.push((name, "in use".into()));
                return Ok(Choice { plane, tried });
            }
            Err(error) => tried.push((name, error.to_string())),
        }
    }
    let known: Vec<String> = tried.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    Err(io::Error::other(format!("no data plane runs on {}; {}", port.name, known.join("; "))))
}
