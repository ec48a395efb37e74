//! A cluster's certificates: `apus cluster init`, `join`, and what `status` says of them.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use apus_dispatch::Mac;
use apus_engine::{ClusterId, NodeId};
use apus_quic::join::{Request, ask};
use apus_quic::{Authority, Keys, Name, NewKey, Token, validity};

use crate::config::quoted;
use crate::{Config, Error};

const DAY: u64 = 86_400;
/// How long a node's certificate is good unless somebody says otherwise.
pub const DAYS: u64 = 365;
/// From so many days before its end on, status warns.
pub const WARN_DAYS: u64 = 30;

/// Seconds since 1970.
#[must_use]
pub fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

pub(crate) fn failed(error: impl std::fmt::Display) -> Error {
    Error::Failed(error.to_string())
}

impl Config {
    /// This node's keys and certificates.
    #[must_use]
    pub fn key_folder(&self) -> Keys {
        Keys::new(&self.keys)
    }

    /// A node of this cluster, as certificates name it.
    #[must_use]
    pub const fn name(&self, node: NodeId) -> Name {
        Name { cluster: ClusterId(self.cluster), node }
    }

    /// Where new nodes ask: the port above that of the nodes.
    #[must_use]
    pub fn door(&self) -> SocketAddr {
        SocketAddr::new(self.own().address, self.port.saturating_add(1))
    }
}

/// Days until a certificate ends, less than zero after it; `None`: it is none.
#[must_use]
pub fn days_left(certificate: &[u8], now: u64) -> Option<i64> {
    let to = i64::try_from(validity(certificate)?.to).ok()?;
    Some((to - i64::try_from(now).ok()?).div_euclid(i64::try_from(DAY).ok()?))
}

pub(crate) fn life(days: u64) -> Duration {
    Duration::from_secs(days.saturating_mul(DAY))
}

/// The Ed25519 key that a certificate is for.
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux runs nodes"))]
pub(crate) fn public_key(certificate: &[u8]) -> Option<[u8; 32]> {
    apus_quic::public_key(certificate)
}

/// Makes a key and certificate, and keeps a copy of the certificate with the authority: what was given out can be taken back.
fn give(authority: &mut Authority, keys: &Keys, to: &Keys, whom: Name, days: u64) -> Result<(), Error> {
    let key = NewKey::make().map_err(failed)?;
    let issued = authority.issue(whom, key.public(), SystemTime::now(), life(days)).map_err(failed)?;
    // The number first: whatever is lost, none is given out twice.
    keys.keep_last(authority).map_err(failed)?;
    keys.keep_issued(whom.node, &issued.der).map_err(failed)?;
    let authorities =
        if keys.exist() { keys.authorities().map_err(failed)? } else { vec![authority.certificate().clone()] };
    to.keep_node(&authorities, &issued.der, &key).map_err(failed)
}

/// Makes the authority of a new cluster and this node's certificate, and with `others` a folder for each other node of the
/// configuration, to be carried there as its `keys`.
///
/// # Errors
/// If there are keys already, or a folder cannot be written.
pub fn init(config: &Config, others: Option<&Path>, days: u64) -> Result<Vec<String>, Error> {
    let keys = config.key_folder();
    let place = config.keys.display();
    if keys.exist() || keys.can_issue() {
        let mend = "`apus cluster rotate` renews certificates; remove the folder only if the whole cluster begins anew";
        return Err(Error::Usage(format!("{place}: there are keys already; {mend}")));
    }
    let mut folders = Vec::new();
    for node in config.nodes.iter().filter(|node| node.id != config.me) {
        let Some(others) = others else { continue };
        let folder = Keys::new(&others.join(format!("node-{}", node.id.0)));
        if folder.exist() {
            let mend = "name an empty folder";
            return Err(Error::Usage(format!("{}: there are keys already; {mend}", folder.folder().display())));
        }
        folders.push((node.id, folder));
    }
    let mut authority = Authority::make(ClusterId(config.cluster), SystemTime::now()).map_err(failed)?;
    keys.keep_authority(&authority).map_err(failed)?;
    give(&mut authority, &keys, &keys, config.name(config.me), days)?;
    let mut said =
        vec![format!("{place}: authority of cluster {} and the certificate of node {}", config.cluster, config.me.0)];
    for (node, folder) in folders {
        give(&mut authority, &keys, &folder, config.name(node), days)?;
        said.push(format!(
            "{}: the certificate of node {}: carry it there as its `keys`, and remove it here",
            folder.folder().display(),
            node.0
        ));
    }
    Ok(said)
}

/// What a new node says of itself.
#[derive(Clone, Copy, Debug)]
pub struct NewNode {
    /// Its number; `None`: the lowest that is free.
    pub node: Option<NodeId>,
    /// Where peers reach it; `None`: whence it asks.
    pub address: Option<IpAddr>,
    /// The hardware address of its port; zeroes where the cluster has no address.
    pub mac: Mac,
    /// Its share of the clients.
    pub weight: u32,
}

/// Asks a member to be let in; writes keys, configuration and a blank store. Returns the configuration.
///
/// # Errors
/// If the token is no good, the member refuses, or there is something already.
pub fn join(word: &str, file: &Path, folder: &Path, new: &NewNode) -> Result<Config, Error> {
    let place = file.display();
    let keys = Keys::new(&folder.join("keys"));
    for there in [file, keys.folder()] {
        if there.exists() {
            let mend = "a node joins once; name another, or remove it if that node is gone";
            return Err(Error::Usage(format!("{}: is there already; {mend}", there.display())));
        }
    }
    let token = Token::read(word, seconds()).map_err(|error| Error::Usage(error.to_string()))?;
    let key = NewKey::make().map_err(failed)?;
    let request = Request {
        secret: token.secret,
        public: [0; 32],
        node: new.node,
        address: new.address,
        mac: new.mac,
        weight: new.weight,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let admission = runtime.block_on(ask(&token, &key, request)).map_err(Error::Usage)?;
    let text = format!(
        "# Written by `apus cluster join`.\nfolder = {}\n{}",
        quoted(&folder.display().to_string()),
        admission.config
    );
    let config = Config::read(&place.to_string(), &text)?;
    keys.keep_node(&admission.authorities, &admission.certificate, &key).map_err(failed)?;
    // The configuration last: a node without it was not let in.
    std::fs::write(file, text).map_err(|error| Error::Failed(format!("{place}: {error}")))?;
    Ok(config)
}
