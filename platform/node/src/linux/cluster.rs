//! Who the cluster's nodes are, and how they are spoken to.
//!
//! The log says who is in ([`roster`]). Every node follows it: book, members, revocations, its own certificate. Whoever coordinates
//! makes the membership of the log follow it too, so that a node is added or removed by one setting that any node can make.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apus_engine::consensus::ViewState;
use apus_engine::{ClusterId, Command, NodeId, views::Order as Wish};
use apus_host::transport::Book;
use apus_quic::join::{self, Admission, Request};
use apus_quic::{Authority, Keys, Limits, NewKey, Quic, Token, Tokens, Trust, Why};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::control::Serving;
use super::{Say, now};
use crate::cluster::{DAYS, WARN_DAYS, days_left, failed, life, public_key, seconds};
use crate::roster::{self, AUTHORITIES, Entry};
use crate::{Config, Error, Member, Part, Wire};

/// How long an authority that is replaced is believed after the new one is used.
const GRACE: u64 = 86_400;
/// How long a token works, unless somebody says otherwise, and at most, in seconds.
const TOKEN_LIFE: (u64, u64) = (600, 86_400);

/// The nodes now: those of the configuration, changed by the log.
pub(super) type Nodes = Rc<RefCell<Vec<Member>>>;

/// Certificates and connections of a node that speaks QUIC.
#[derive(Clone)]
pub(super) struct Secure {
    pub(super) trust: Arc<Trust>,
    pub(super) quic: Quic,
}

/// How a node speaks to the others.
#[derive(Clone)]
pub(super) struct Members {
    pub(super) secure: Option<Secure>,
    pub(super) keys: Keys,
    pub(super) nodes: Nodes,
    book: Book,
    pub(super) config: Rc<Config>,
    pub(super) say: Say,
    /// A token was made.
    knock: Rc<Notify>,
}

impl Members {
    /// As the configuration says; if it says nothing, QUIC where there are keys.
    pub(super) fn new(config: &Config, book: Book, say: &Say) -> Result<Self, Error> {
        let keys = config.key_folder();
        let nodes = Rc::new(RefCell::new(config.nodes.clone()));
        let (knock, config_of, say_of) = (Rc::new(Notify::new()), Rc::new(config.clone()), say.clone());
        let members = |secure, book| Self {
            secure,
            keys: config.key_folder(),
            nodes,
            book,
            config: config_of,
            say: say_of,
            knock,
        };
        if config.wire() == Wire::Plain {
            say(
                "no certificates: nodes speak in the clear and believe each other's addresses; for tests and trusted networks",
            );
            return Ok(members(None, book));
        }
        if !keys.exist() {
            let mend = "`apus cluster init` makes a new cluster's, `apus cluster join` a new node's; or write \
                        `transport = \"plain\"` where every machine of the network is trusted";
            return Err(Error::Usage(format!("{}: no certificate; {mend}", config.keys.display())));
        }
        let heard = say.clone();
        let trust = keys.trust(config.name(config.me), move |refused| heard(&refused.to_string())).map_err(failed)?;
        trust.set_members(config.nodes.iter().map(|node| node.id));
        if let Some(days) = days_left(&trust.own(), seconds())
            && days < i64::try_from(WARN_DAYS).unwrap_or(i64::MAX)
        {
            say(&format!("this node's certificate ends in {days} days: `apus cluster rotate node` makes a new one"));
        }
        let quic = Quic::new(trust.clone(), book.clone(), Limits::default());
        Ok(members(Some(Secure { trust, quic }), book))
    }

    pub(super) fn quic(&self) -> Option<Quic> {
        self.secure.as_ref().map(|secure| secure.quic.clone())
    }

    /// Certificates, connections, refusals.
    pub(super) fn status(&self) -> Value {
        let Some(Secure { trust, quic }) = &self.secure else {
            return json!({"transport": Wire::Plain.word(), "warning": "in the clear: for tests and trusted networks; `apus cluster init` makes certificates"});
        };
        let now = seconds();
        let left = |certificate: &[u8]| days_left(certificate, now);
        let authorities = self.keys.authorities().unwrap_or_default();
        let counters = quic.counters();
        let refused = trust.refused().into_iter().map(|(why, times)| (why.word().to_owned(), json!(times)));
        let days = left(&trust.own());
        json!({
            "transport": Wire::Quic.word(),
            "name": trust.me().to_string(),
            "serial": apus_quic::serial(&trust.own()),
            "days_left": days,
            "warning": days.filter(|days| *days < i64::try_from(WARN_DAYS).unwrap_or(i64::MAX)).map(|days| {
                format!("the certificate ends in {days} days: `apus cluster rotate node` makes a new one")
            }),
            "authorities_days_left": authorities.iter().map(|authority| left(authority)).collect::<Vec<_>>(),
            "issues": self.keys.can_issue(),
            "connected": quic.connected().iter().map(|node: &NodeId| node.0).collect::<Vec<_>>(),
            "refused": serde_json::Map::from_iter(refused),
            "counters": {
                "dialled": counters.dialled, "accepted": counters.accepted, "dial_failed": counters.dial_failed,
                "refused_by_peer": counters.refused_by_peer, "ended": counters.ended, "long": counters.long,
                "dropped": counters.dropped, "udp_received": counters.udp_received, "udp_sent": counters.udp_sent,
            },
        })
    }

    /// Takes in what the log says.
    fn follow(&self, state: &ViewState) {
        let entries = roster::entries(&state.settings);
        let nodes = roster::nodes(&self.config.nodes, &entries);
        self.book.set(nodes.iter().map(|node| (node.id, self.config.reach(node))).collect());
        let ids: Vec<NodeId> = nodes.iter().map(|node| node.id).collect();
        *self.nodes.borrow_mut() = nodes;
        let Some(Secure { trust, .. }) = &self.secure else { return };
        trust.set_members(ids);
        if let Err(error) = self.follow_certificates(trust, state, &entries) {
            (self.say)(&error);
        }
    }

    fn follow_certificates(
        &self,
        trust: &Trust,
        state: &ViewState,
        entries: &BTreeMap<NodeId, Entry>,
    ) -> Result<(), String> {
        let text = |error: apus_quic::KeysError| error.to_string();
        let mut revoked = self.keys.revoked().map_err(text)?;
        let before = revoked.clone();
        for (node, entry) in entries.iter().filter(|(_, entry)| entry.revoked > 0) {
            let last = revoked.entry(*node).or_default();
            *last = entry.revoked.max(*last);
            trust.revoke(*node, *last);
        }
        if revoked != before {
            self.keys.keep_revoked(&revoked).map_err(text)?;
        }
        let mut changed = false;
        if let Some(all) = roster::authorities(&state.settings) {
            let now = seconds();
            let believed: Vec<apus_quic::CertificateDer<'static>> =
                all.into_iter().filter(|(until, _)| *until > now).map(|(_, der)| der.into()).collect();
            if !believed.is_empty() && self.keys.authorities().map_err(text)? != believed {
                self.keys.keep_authorities(&believed).map_err(text)?;
                (self.say)(&format!("authorities now: {}", believed.len()));
                changed = true;
            }
        }
        let newest = entries.get(&self.config.me).map(|entry| &entry.certificate).filter(|der| !der.is_empty());
        if let Some(newest) = newest {
            let (own, pkcs8) = self.keys.node().map_err(text)?;
            let newer = apus_quic::serial(newest) > apus_quic::serial(&own);
            let key = NewKey::read(&pkcs8)?;
            if newer && public_key(newest).is_some_and(|public| public == key.public()) {
                let authorities = self.keys.authorities().map_err(text)?;
                self.keys.keep_node(&authorities, &newest.clone().into(), &key).map_err(text)?;
                (self.say)("this node's certificate is a new one");
                changed = true;
            }
        }
        if changed {
            self.keys.renew(trust).map_err(text)?;
        }
        Ok(())
    }
}

/// Follows the log; while this node coordinates, members follow it too.
pub(super) async fn follow(serving: Serving) {
    let mut seen = None;
    let mut looked = 0_u32;
    loop {
        sleep(Duration::from_millis(200)).await;
        let state = serving.engine.borrow().look().map(|(_, log, ..)| log.state().clone());
        let Some(state) = state else { continue };
        looked += 1;
        // Now and then even without a change: the time of an old authority runs out.
        if seen.as_ref() != Some(&state.settings) || looked.is_multiple_of(300) {
            serving.members.follow(&state);
            seen = Some(state.settings.clone());
        }
        let entries = roster::entries(&state.settings);
        let mut engine = serving.engine.borrow_mut();
        let wanted = engine.look().filter(|(_, log, ..)| log.leads().is_some()).and_then(|(_, log, ..)| {
            let is_member = |node: &NodeId| log.membership().contains(*node);
            entries.iter().find(|(node, entry)| entry.is_in != is_member(node)).map(|(node, entry)| {
                if entry.is_in { Command::AddNode { node: *node, voter: true } } else { Command::RemoveNode(*node) }
            })
        });
        if let Some(command) = wanted {
            // Refused while another change runs: tried again soon.
            let _ = engine.submit(now(), command);
            serving.nudge.notify_one();
        }
    }
}

/// Keeps the door for new nodes open while a token waits to be used.
pub(super) async fn door(serving: Serving) {
    let members = &serving.members;
    let Some(secure) = &members.secure else { return };
    let waits = || Tokens::open(&members.keys, seconds()).is_ok_and(|tokens| tokens.last(seconds()).is_some());
    loop {
        if !members.keys.can_issue() || !waits() {
            members.knock.notified().await;
            continue;
        }
        let at = members.config.door();
        let (Ok((_, pkcs8)), Ok(authority)) =
            (members.keys.node(), members.keys.authority(ClusterId(members.config.cluster)))
        else {
            (members.say)("no key or no authority: nobody can join");
            members.knock.notified().await;
            continue;
        };
        let served =
            join::serve(secure.trust.clone(), authority.certificate().clone(), pkcs8, at, async |request, from| {
                serving.admit(&secure.trust, request, from).await
            });
        let closed = async {
            while waits() {
                sleep(Duration::from_secs(1)).await;
            }
            // The last one is told before the door closes.
            sleep(Duration::from_secs(2)).await;
        };
        tokio::select! {
            ended = served => {
                if let Err(error) = ended {
                    (members.say)(&format!("{at}: {error}: nobody can join; is the port free?"));
                }
                members.knock.notified().await;
            }
            () = closed => {}
        }
    }
}

impl Serving {
    /// Makes a token.
    pub(super) fn token(&self, question: &Value) -> Result<Value, String> {
        let members = &self.members;
        if members.secure.is_none() {
            return Err("nodes speak in the clear here: a new node needs no token, only the configuration".into());
        }
        let authority = members.keys.authority(ClusterId(members.config.cluster)).map_err(|error| error.to_string())?;
        let life = question["life"].as_u64().unwrap_or(TOKEN_LIFE.0);
        if !(1..=TOKEN_LIFE.1).contains(&life) {
            return Err(format!("a token works for 1 to {} seconds", TOKEN_LIFE.1));
        }
        let address = match question["address"].as_str() {
            Some(text) => text.parse().map_err(|_| format!("`{text}` is no address with a port"))?,
            None => members.config.door(),
        };
        let pin = join::pin(authority.certificate()).ok_or("the authority's certificate cannot be read")?;
        let node = match question["node"].as_u64() {
            None => None,
            Some(node) => {
                let node = u8::try_from(node).map_err(|_| "a node's number is 0 to 255".to_owned())?;
                Some(NodeId(node.into()))
            }
        };
        let token = Token::make(ClusterId(members.config.cluster), address, pin, seconds() + life)?;
        let mut tokens = Tokens::open(&members.keys, seconds()).map_err(|error| error.to_string())?;
        tokens.add(&token, node, seconds()).map_err(|error| error.to_string())?;
        members.knock.notify_one();
        (members.say)(&format!(
            "a token for {} was made, good for {life} s",
            node.map_or("any new node".into(), |node| format!("node {}", node.0))
        ));
        Ok(json!({"token": token.write(), "expires": token.expires}))
    }

    /// Lets a new node in.
    async fn admit(&self, trust: &Trust, request: Request, from: SocketAddr) -> Result<Admission, String> {
        let members = &self.members;
        let text = |error: apus_quic::KeysError| error.to_string();
        let mut tokens = Tokens::open(&members.keys, seconds()).map_err(text)?;
        let Some(bound) = tokens.take(&request.secret, seconds()).map_err(text)? else {
            trust.refuse(Why::BadToken, from);
            return Err("there is no such token, or it was used: ask for a new one with `apus cluster token`".into());
        };
        let nodes = members.nodes.borrow().clone();
        let free = |node: NodeId| !nodes.iter().any(|known| known.id == node);
        let node = match (bound, request.node) {
            (Some(bound), wanted) if wanted.is_none_or(|wanted| wanted == bound) => bound,
            (Some(bound), _) => return Err(format!("the token is for node {}", bound.0)),
            (None, Some(wanted)) if wanted.0 > 255 => return Err("a node's number is 0 to 255".into()),
            (None, Some(wanted)) if free(wanted) => wanted,
            (None, Some(wanted)) => {
                let mend = format!("another number, or a token for it: `apus cluster token --node {}`", wanted.0);
                return Err(format!("node {} is known already: take {mend}", wanted.0));
            }
            (None, None) => (0..256).map(NodeId).find(|node| free(*node)).ok_or("all 256 numbers are taken")?,
        };
        let address = request.address.unwrap_or_else(|| from.ip());
        let others = nodes.iter().filter(|known| known.id != node);
        let none = request.mac == [0; 6];
        let is_anothers = !none && others.clone().any(|known| known.mac == request.mac);
        if request.mac[0] & 1 != 0 || none && members.config.vip.is_some() || is_anothers {
            return Err("the `mac` is that of another node, or of no port: see `ip link`".into());
        }
        if others.clone().any(|known| known.address == address) || request.weight > apus_dispatch::MAX_WEIGHT {
            return Err(format!("{address} is another node's, or the weight is beyond {}", apus_dispatch::MAX_WEIGHT));
        }
        let name = members.config.name(node);
        let mut authority = members.keys.authority(name.cluster).map_err(text)?;
        let issued = authority.issue(name, &request.public, SystemTime::now(), life(DAYS))?;
        members.keys.keep_last(&authority).map_err(text)?;
        members.keys.keep_issued(node, &issued.der).map_err(text)?;
        let known = self.entry(node).map_or(0, |entry| entry.revoked);
        let entry = Entry {
            is_in: true,
            address,
            mac: request.mac,
            weight: request.weight,
            // Whoever had this number before is nobody now.
            revoked: known.max(if bound.is_some() { issued.serial - 1 } else { 0 }),
            certificate: issued.der.to_vec(),
        };
        self.put(node, &entry).await?;
        (members.say)(&format!("node {} was let in, at {address}", node.0));
        let new = Member {
            id: node,
            address,
            mac: request.mac,
            weight: request.weight,
            joined: free(node),
            part: Part::Voter,
        };
        let mut all: Vec<Member> = others.cloned().collect();
        all.push(new);
        Ok(Admission {
            certificate: issued.der,
            authorities: members.keys.authorities().map_err(text)?,
            config: members.config.text_for(node, &all),
        })
    }

    pub(super) fn entry(&self, node: NodeId) -> Option<Entry> {
        let engine = self.engine.borrow();
        let (_, log, ..) = engine.look()?;
        let entry = log.state().settings.get(&roster::setting(node)).and_then(|bytes| Entry::read(bytes));
        entry.or_else(|| self.members.config.nodes.iter().find(|known| known.id == node).map(Entry::of))
    }

    pub(super) async fn put(&self, node: NodeId, entry: &Entry) -> Result<Value, String> {
        let (resource, value) = (roster::setting(node), entry.bytes());
        let wanted = value.clone();
        self.order(Wish::Set { resource, value }, move |state| state.settings.get(&resource) == Some(&wanted)).await
    }

    /// Takes a node out: its certificates are taken back by the same setting.
    pub(super) async fn leave(&self, node: NodeId) -> Result<Value, String> {
        let known = self.members.nodes.borrow().iter().any(|known| known.id == node);
        let Some(mut entry) = self.entry(node).filter(|_| known) else {
            return Err(format!("node {} is not in the cluster", node.0));
        };
        entry.is_in = false;
        // Serial numbers are milliseconds of the authority's clock: all until now, and what its clock may be ahead.
        entry.revoked = (seconds() + 1) * 1_000;
        if let Some(newest) = apus_quic::serial(&entry.certificate) {
            entry.revoked = entry.revoked.max(newest);
        }
        entry.certificate = Vec::new();
        self.put(node, &entry).await
    }

    /// New certificates, or one step to a new authority.
    pub(super) async fn rotate(&self, what: &str) -> Result<Value, String> {
        let keys = &self.members.keys;
        let text = |error: apus_quic::KeysError| error.to_string();
        let cluster = ClusterId(self.members.config.cluster);
        if self.members.secure.is_none() {
            return Err("nodes speak in the clear here: there are no certificates".into());
        }
        let mut authority = keys.authority(cluster).map_err(text)?;
        let next = keys.next();
        match what {
            "node" => self.issue_all(&mut authority).await,
            "install" => {
                if next.can_issue() {
                    return Err("a new authority is installed already: go on with `use`".into());
                }
                let new = Authority::make(cluster, SystemTime::now())?;
                let all = [(u64::MAX, new.certificate().to_vec()), (u64::MAX, authority.certificate().to_vec())];
                next.keep_authority(&new).map_err(text)?;
                self.set_authorities(&all).await
            }
            "use" => {
                if !next.can_issue() {
                    return Err("no new authority: `apus cluster rotate install` makes one".into());
                }
                self.all_show(false)?;
                let mut new = next.authority(cluster).map_err(text)?;
                let until = seconds() + GRACE;
                let all = [(u64::MAX, new.certificate().to_vec()), (until, authority.certificate().to_vec())];
                self.set_authorities(&all).await?;
                keys.keep_authority(&new).map_err(text)?;
                next.remove_authority().map_err(text)?;
                self.issue_all(&mut new).await
            }
            "remove" => {
                if next.can_issue() {
                    return Err("the new authority is not used yet: `apus cluster rotate use` first".into());
                }
                self.all_show(true)?;
                self.set_authorities(&[(u64::MAX, authority.certificate().to_vec())]).await
            }
            other => Err(format!("`{other}`: rotate node, install, use or remove")),
        }
    }

    /// Whether all nodes are connected, and show their newest certificates: who is not there for a step is locked out by the next one.
    fn all_show(&self, newest: bool) -> Result<(), String> {
        let Some(Secure { trust, quic }) = &self.members.secure else { return Ok(()) };
        let mut shown = quic.shown();
        shown.extend(apus_quic::serial(&trust.own()).map(|serial| (self.me, serial)));
        for node in self.members.nodes.borrow().iter().map(|node| node.id) {
            let last = self.entry(node).and_then(|entry| apus_quic::serial(&entry.certificate));
            let what = match shown.get(&node) {
                None => "is not connected",
                Some(serial) if newest && last.is_none_or(|last| *serial < last) => {
                    "does not show its newest certificate"
                }
                Some(_) => continue,
            };
            let mend = "start it and try again in a few seconds, or take it out: `apus cluster leave`";
            return Err(format!("node {} {what}: {mend}", node.0));
        }
        Ok(())
    }

    async fn set_authorities(&self, all: &[(u64, Vec<u8>)]) -> Result<Value, String> {
        let value = roster::put_authorities(all);
        let wanted = value.clone();
        self.order(Wish::Set { resource: AUTHORITIES, value }, move |state| {
            state.settings.get(&AUTHORITIES) == Some(&wanted)
        })
        .await
    }

    /// New certificates for all nodes, for the keys that they have.
    async fn issue_all(&self, authority: &mut Authority) -> Result<Value, String> {
        let keys = &self.members.keys;
        let text = |error: apus_quic::KeysError| error.to_string();
        let nodes: Vec<NodeId> = self.members.nodes.borrow().iter().map(|node| node.id).collect();
        let (mut done, mut unknown) = (Vec::new(), Vec::new());
        for node in nodes {
            let (Some(old), Some(mut entry)) = (keys.issued(node).map_err(text)?, self.entry(node)) else {
                unknown.push(node.0);
                continue;
            };
            let public = public_key(&old).ok_or("a certificate that cannot be read")?.to_vec();
            let name = self.members.config.name(node);
            let issued = authority.issue(name, &public, SystemTime::now(), life(DAYS))?;
            keys.keep_last(authority).map_err(text)?;
            keys.keep_issued(node, &issued.der).map_err(text)?;
            entry.certificate = issued.der.to_vec();
            self.put(node, &entry).await?;
            done.push(node.0);
        }
        Ok(json!({"done": true, "issued": done, "unknown": unknown}))
    }
}
