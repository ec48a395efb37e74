//! Whom a node believes, and who it is itself. Changes are taken in at run time: every handshake looks anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use apus_engine::NodeId;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::name::Name;
use crate::{der, keys::KeysError};

/// Between two lines about the same reason: who floods a port does not flood the journal too.
const QUIET: Duration = Duration::from_secs(1);

/// Why somebody is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// No certificate, or none that can be read.
    Unreadable,
    /// An authority that this cluster does not have.
    UnknownAuthority,
    /// Its time is over.
    Expired,
    /// Its time has not come: one of the two clocks is wrong.
    NotYetValid,
    /// A signature that does not hold, or a certificate for another use.
    Invalid,
    /// A node of another cluster.
    OtherCluster,
    /// Another node than the one that was meant.
    OtherNode,
    /// No member of the cluster.
    NoMember,
    /// The certificate was taken back.
    Revoked,
    /// A handshake that was not finished in time.
    HandshakeTimeout,
    /// A handshake that failed otherwise: no common version or protocol, bytes that are no handshake.
    HandshakeFailed,
    /// Too many handshakes at once from there.
    TooMany,
    /// More first packets than are looked at in a second.
    Flood,
    /// Datagrams that are no QUIC of this version.
    Garbage,
    /// A request to join without a good token.
    BadToken,
}

impl Why {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Unreadable,
        Self::UnknownAuthority,
        Self::Expired,
        Self::NotYetValid,
        Self::Invalid,
        Self::OtherCluster,
        Self::OtherNode,
        Self::NoMember,
        Self::Revoked,
        Self::HandshakeTimeout,
        Self::HandshakeFailed,
        Self::TooMany,
        Self::Flood,
        Self::Garbage,
        Self::BadToken,
    ];

    /// A word for counters.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable_certificate",
            Self::UnknownAuthority => "unknown_authority",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Invalid => "invalid_certificate",
            Self::OtherCluster => "other_cluster",
            Self::OtherNode => "other_node",
            Self::NoMember => "no_member",
            Self::Revoked => "revoked",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HandshakeFailed => "handshake_failed",
            Self::TooMany => "too_many_handshakes",
            Self::Flood => "flood",
            Self::Garbage => "garbage",
            Self::BadToken => "bad_token",
        }
    }

    const fn alert(self) -> CertificateError {
        match self {
            Self::UnknownAuthority | Self::OtherCluster => CertificateError::UnknownIssuer,
            Self::Expired => CertificateError::Expired,
            Self::NotYetValid => CertificateError::NotValidYet,
            Self::OtherNode => CertificateError::NotValidForName,
            Self::Revoked | Self::NoMember => CertificateError::Revoked,
            _ => CertificateError::BadEncoding,
        }
    }
}

/// Somebody was refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Why.
    pub why: Why,
    /// Who it said it was, or where it came from.
    pub whom: String,
    /// How many of this reason so far.
    pub times: u64,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused {}: {} ({} so far)", self.whom, self.why.word(), self.times)
    }
}

/// What a node is told of somebody who was refused, at most once a second for each reason.
type Audit = Box<dyn Fn(&Refused) + Send + Sync>;

struct Inner {
    anchors: Vec<TrustAnchor<'static>>,
    own: Arc<CertifiedKey>,
    members: Option<BTreeSet<NodeId>>,
    /// Certificates up to these serial numbers are taken back.
    revoked: BTreeMap<NodeId, u64>,
    refused: BTreeMap<Why, (u64, Option<Instant>)>,
}

/// Whom a node believes, and who it is itself.
pub struct Trust {
    me: Name,
    provider: Arc<CryptoProvider>,
    inner: Mutex<Inner>,
    audit: Audit,
    changed: tokio::sync::Notify,
    /// Of the key at the start: what is the same in each life of the node.
    secret: ring::hmac::Key,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("me", &self.me).finish_non_exhaustive()
    }
}

/// Own certificate and key, as rustls wants them.
fn certified(
    provider: &CryptoProvider,
    certificate: CertificateDer<'static>,
    pkcs8: &[u8],
) -> Result<Arc<CertifiedKey>, KeysError> {
    let wrong = |error: String| KeysError::new("the node's key", error, "issue a new certificate");
    let key = PrivateKeyDer::try_from(pkcs8.to_vec()).map_err(|error| wrong(error.to_owned()))?;
    let key = provider.key_provider.load_private_key(key).map_err(|error| wrong(error.to_string()))?;
    let own = CertifiedKey::new(vec![certificate], key);
    own.keys_match().map_err(|_| wrong("certificate and key are not of one pair".into()))?;
    Ok(Arc::new(own))
}

fn anchors(authorities: &[CertificateDer<'static>]) -> Result<Vec<TrustAnchor<'static>>, KeysError> {
    let read = |certificate: &CertificateDer<'static>| {
        let anchor = anchor_from_trusted_cert(certificate).map_err(|error| {
            KeysError::new("the authorities", format!("{error:?}"), "join anew, or copy the file from another node")
        })?;
        Ok(anchor.to_owned())
    };
    authorities.iter().map(read).collect()
}

impl Trust {
    /// Whom `me` believes: certificates of `authorities`. `audit` hears of refusals.
    ///
    /// # Errors
    /// If something is no certificate, or key and certificate are not of one pair.
    pub fn new(
        me: Name,
        authorities: &[CertificateDer<'static>],
        certificate: CertificateDer<'static>,
        pkcs8: &[u8],
        audit: impl Fn(&Refused) + Send + Sync + 'static,
    ) -> Result<Arc<Self>, KeysError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let inner = Inner {
            anchors: anchors(authorities)?,
            own: certified(&provider, certificate, pkcs8)?,
            members: None,
            revoked: BTreeMap::new(),
            refused: BTreeMap::new(),
        };
        let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, pkcs8);
        let changed = tokio::sync::Notify::new();
        Ok(Arc::new(Self { me, provider, inner: Mutex::new(inner), audit: Box::new(audit), changed, secret }))
    }

    /// Who this node is.
    #[must_use]
    pub const fn me(&self) -> Name {
        self.me
    }

    pub(crate) const fn provider(&self) -> &Arc<CryptoProvider> {
        &self.provider
    }

    /// A secret of this node's own for one use, the same in each of its lives.
    pub(crate) fn secret(&self, of: &[u8]) -> [u8; 32] {
        let mut secret = [0; 32];
        secret.copy_from_slice(ring::hmac::sign(&self.secret, of).as_ref());
        secret
    }

    /// Waits until somebody may be believed no more.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in other authorities and another certificate; new handshakes use them.
    ///
    /// # Errors
    /// As [`new`](Self::new); then nothing changes.
    pub fn renew(
        &self,
        authorities: &[CertificateDer<'static>],
        certificate: CertificateDer<'static>,
        pkcs8: &[u8],
    ) -> Result<(), KeysError> {
        let (anchors, own) = (anchors(authorities)?, certified(&self.provider, certificate, pkcs8)?);
        let mut inner = self.inner();
        (inner.anchors, inner.own) = (anchors, own);
        self.changed.notify_one();
        Ok(())
    }

    /// Only these are members from now on.
    pub fn set_members(&self, members: impl IntoIterator<Item = NodeId>) {
        self.inner().members = Some(members.into_iter().collect());
        self.changed.notify_one();
    }

    /// Takes back all certificates of a node up to a serial number.
    pub fn revoke(&self, node: NodeId, serial: u64) {
        let mut inner = self.inner();
        let last = inner.revoked.entry(node).or_default();
        *last = serial.max(*last);
        self.changed.notify_one();
    }

    /// This node's own certificate.
    #[must_use]
    pub fn own(&self) -> CertificateDer<'static> {
        self.inner().own.cert.first().cloned().unwrap_or_else(|| Vec::new().into())
    }

    /// Its serial number.
    pub(crate) fn serial(&self) -> u64 {
        self.inner().own.cert.first().and_then(|own| der::serial(own)).unwrap_or_default()
    }

    /// Refusals by reason.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<Why, u64> {
        self.inner().refused.iter().map(|(why, (times, _))| (*why, *times)).collect()
    }

    /// Counts a refusal, and tells of it unless one of this reason was told of just now.
    pub fn refuse(&self, why: Why, whom: impl fmt::Display) {
        self.refuse_many(why, 1, whom);
    }

    pub(crate) fn refuse_many(&self, why: Why, many: u64, whom: impl fmt::Display) {
        if many == 0 {
            return;
        }
        let mut inner = self.inner();
        let (times, told) = inner.refused.entry(why).or_default();
        *times += many;
        if told.is_some_and(|told| told.elapsed() < QUIET) {
            return;
        }
        *told = Some(Instant::now());
        let refused = Refused { why, whom: whom.to_string(), times: *times };
        drop(inner);
        (self.audit)(&refused);
    }

    /// Who a certificate is for, if it is to be believed at `now`; else why not, and who it says it is.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn judge(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<Name, (Why, Option<Name>)> {
        let cert = EndEntityCert::try_from(certificate).map_err(|_| (Why::Unreadable, None))?;
        let name = cert.valid_dns_names().find_map(Name::read);
        let inner = self.inner();
        let algorithms = self.provider.signature_verification_algorithms.all;
        let path = cert.verify_for_usage(algorithms, &inner.anchors, between, now, usage, None, None);
        if let Err(error) = path {
            let why = match error {
                webpki::Error::UnknownIssuer => Why::UnknownAuthority,
                webpki::Error::CertExpired { .. } => Why::Expired,
                webpki::Error::CertNotValidYet { .. } => Why::NotYetValid,
                webpki::Error::BadDer | webpki::Error::BadDerTime => Why::Unreadable,
                // Two authorities of clusters with one number may have one name: their keys differ.
                webpki::Error::InvalidSignatureForPublicKey => Why::UnknownAuthority,
                _ => Why::Invalid,
            };
            return Err((why, name));
        }
        let Some(name) = name else { return Err((Why::Invalid, None)) };
        let refuse = |why| Err((why, Some(name)));
        if name.cluster != self.me.cluster {
            return refuse(Why::OtherCluster);
        }
        let serial = der::serial(certificate).unwrap_or_default();
        if inner.revoked.get(&name.node).is_some_and(|last| serial <= *last) {
            return refuse(Why::Revoked);
        }
        if name.node == self.me.node || inner.members.as_ref().is_some_and(|members| !members.contains(&name.node)) {
            return refuse(Why::NoMember);
        }
        Ok(name)
    }

    /// As [`judge`](Self::judge), for a connection that is there already.
    pub(crate) fn still(&self, certificate: &CertificateDer<'_>) -> Result<(), Why> {
        self.judge(certificate, &[], UnixTime::now(), KeyUsage::client_auth()).map(|_| ()).map_err(|(why, _)| why)
    }

    fn verdict(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
        expected: Option<&str>,
    ) -> Result<(), rustls::Error> {
        let verdict = self.judge(certificate, between, now, usage).and_then(|name| match expected {
            Some(expected) if expected != name.to_string() => Err((Why::OtherNode, Some(name))),
            _ => Ok(()),
        });
        verdict.map_err(|(why, name)| {
            match name {
                Some(name) => self.refuse(why, name),
                None => self.refuse(why, "somebody"),
            }
            why.alert().into()
        })
    }
}

/// [`Trust`] as rustls asks it.
#[derive(Debug)]
pub(crate) struct Verifier(pub(crate) Arc<Trust>);

/// The one scheme that certificates of the cluster use.
pub(crate) const SCHEMES: [SignatureScheme; 1] = [SignatureScheme::ED25519];

/// QUIC knows TLS 1.3 only.
pub(crate) fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::PeerIncompatible::Tls13RequiredForQuic.into())
}

/// Whether the other end has the key of its certificate.
pub(crate) fn tls13(
    provider: &CryptoProvider,
    message: &[u8],
    cert: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    rustls::crypto::verify_tls13_signature(message, cert, dss, &provider.signature_verification_algorithms)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let name = server_name.to_str();
        self.0.verdict(end_entity, intermediates, now, KeyUsage::server_auth(), Some(&name))?;
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        tls13(&self.0.provider, message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.into()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0.verdict(end_entity, intermediates, now, KeyUsage::client_auth(), None)?;
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        tls13(&self.0.provider, message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.into()
    }
}

/// The own certificate as rustls asks for it.
#[derive(Debug)]
pub(crate) struct Own(pub(crate) Arc<Trust>);

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.inner().own.clone())
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.inner().own.clone())
    }
    fn has_certs(&self) -> bool {
        true
    }
}
