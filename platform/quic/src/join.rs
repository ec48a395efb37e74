//! How a new node gets its certificate: it asks a member, whose authority it knows by the pin of a token, over QUIC.
//!
//! ```text
//! request     8 magic "APUSJOIN"  1 version  16 secret  32 public key  2 node's number  1 has address  16 address  6 mac
//!             4 weight  64 signature of everything before it by the key
//! answer      1 admitted: 1  certificate, authorities, and the configuration, each 4 length and bytes, authorities counted by 1 byte
//!             0 refused: text
//! ```
//! Big-endian. The socket is open only while a token waits to be used, on a port of its own: who knows no secret can do no more than
//! hold one of a few places for a few seconds.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use apus_engine::NodeId;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint, EndpointConfig, TokioRuntime, TransportConfig, VarInt};
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, UnparsedPublicKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, spki_for_anchor};

use crate::authority::NewKey;
use crate::bulk::admitted;
use crate::gate::{Gate, Paces};
use crate::name::Name;
use crate::quic::{endpoint_config, server_config};
use crate::token::Token;
use crate::trust::{SCHEMES, Trust, Why, no_tls12, tls13};
use crate::udp::{self, Counting};

const ALPN: &[u8] = b"apus-join/1";
const MAGIC: &[u8; 8] = b"APUSJOIN";
const VERSION: u8 = 1;
const SIGNATURE: usize = 64;
const LENGTH: usize = 8 + 1 + 16 + 32 + 2 + 1 + 16 + 6 + 4 + SIGNATURE;
/// An answer has at most so many bytes.
const LONGEST: usize = 1 << 20;
/// All a stranger has, from the first packet to the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Strangers at once.
const PLACES: usize = 4;
/// "Whichever number is free."
const ANY: u16 = u16::MAX;

/// SHA-256 of an authority's public key.
#[must_use]
pub fn pin(authority: &CertificateDer<'_>) -> Option<[u8; 32]> {
    let anchor = anchor_from_trusted_cert(authority).ok()?;
    digest(&SHA256, spki_for_anchor(&anchor).as_ref()).as_ref().try_into().ok()
}

/// What a new node wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The token's secret.
    pub secret: [u8; 16],
    /// The node's public key.
    pub public: [u8; 32],
    /// The number it wants; `None`: whichever is free.
    pub node: Option<NodeId>,
    /// Where peers reach it; `None`: whence it asks.
    pub address: Option<IpAddr>,
    /// The hardware address of its port.
    pub mac: [u8; 6],
    /// Its share of the clients.
    pub weight: u32,
}

impl Request {
    fn write(&self, key: &NewKey) -> Result<Vec<u8>, String> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.public);
        bytes.extend_from_slice(&self.node.map_or(ANY, |node| node.0).to_be_bytes());
        bytes.push(u8::from(self.address.is_some()));
        let address = match self.address {
            Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped(),
            Some(IpAddr::V6(v6)) => v6,
            None => Ipv6Addr::UNSPECIFIED,
        };
        bytes.extend_from_slice(&address.octets());
        bytes.extend_from_slice(&self.mac);
        bytes.extend_from_slice(&self.weight.to_be_bytes());
        bytes.extend(key.sign(&bytes)?);
        Ok(bytes)
    }

    /// Reads a request whose sender has the private key; `None`: it is none.
    fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != LENGTH {
            return None;
        }
        let (signed, signature) = bytes.split_at(LENGTH - SIGNATURE);
        let rest = signed.strip_prefix(MAGIC)?.strip_prefix(&[VERSION])?;
        let (secret, rest) = rest.split_first_chunk()?;
        let (public, rest) = rest.split_first_chunk()?;
        let (node, rest) = rest.split_first_chunk()?;
        let (given, rest) = rest.split_first()?;
        let (address, rest) = rest.split_first_chunk::<16>()?;
        let (mac, rest) = rest.split_first_chunk()?;
        let (weight, _) = rest.split_first_chunk()?;
        UnparsedPublicKey::new(&ED25519, public).verify(signed, signature).ok()?;
        let node = u16::from_be_bytes(*node);
        Some(Self {
            secret: *secret,
            public: *public,
            node: (node != ANY).then_some(NodeId(node)),
            address: (*given == 1).then(|| Ipv6Addr::from(*address).to_canonical()),
            mac: *mac,
            weight: u32::from_be_bytes(*weight),
        })
    }
}

/// What a new node is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    /// Whom it shall believe.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Its configuration.
    pub config: String,
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn get<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let (length, after) = rest.split_first_chunk()?;
    let (bytes, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *rest = after;
    Some(bytes)
}

fn write(answer: &Result<Admission, String>) -> Vec<u8> {
    let mut out = Vec::new();
    match answer {
        Ok(admission) => {
            out.push(1);
            put(&mut out, &admission.certificate);
            out.push(u8::try_from(admission.authorities.len()).unwrap_or(u8::MAX));
            admission.authorities.iter().for_each(|authority| put(&mut out, authority));
            put(&mut out, admission.config.as_bytes());
        }
        Err(why) => {
            out.push(0);
            out.extend_from_slice(why.as_bytes());
        }
    }
    out
}

fn read(bytes: &[u8]) -> Option<Result<Admission, String>> {
    let (kind, mut rest) = bytes.split_first()?;
    if *kind == 0 {
        return Some(Err(String::from_utf8_lossy(rest).into_owned()));
    }
    let certificate = get(&mut rest)?.to_vec().into();
    let (many, mut rest) = rest.split_first()?;
    let authorities = (0..*many).map(|_| Some(get(&mut rest)?.to_vec().into())).collect::<Option<_>>()?;
    let config = String::from_utf8(get(&mut rest)?.to_vec()).ok()?;
    Some(Ok(Admission { certificate, authorities, config }))
}

/// Lets new nodes in until it is dropped. `admit` checks the token and does all the rest.
///
/// # Errors
/// If the address cannot be bound.
pub async fn serve(
    trust: Arc<Trust>,
    authority: CertificateDer<'static>,
    pkcs8: Vec<u8>,
    at: SocketAddr,
    admit: impl AsyncFn(Request, SocketAddr) -> Result<Admission, String>,
) -> io::Result<()> {
    let provider = trust.provider().clone();
    let key = PrivateKeyDer::try_from(pkcs8).map_err(io::Error::other)?;
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![trust.own(), authority], key)
        .map_err(io::Error::other)?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(1_u32.into())
        .max_concurrent_uni_streams(0_u32.into())
        .stream_receive_window(4_096_u32.into())
        .receive_window(4_096_u32.into())
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(VarInt::from_u32(5_000).into()));
    // Everybody is a stranger here.
    let gate = Gate::new(&trust.secret(b"apus door"), Paces::default());
    let server = server_config(tls, ALPN, Arc::new(transport), &gate)?;
    let socket = Counting::new(udp::bind(at)?, Some(gate.clone()));
    let config = endpoint_config(&trust, &gate);
    let endpoint = Endpoint::new_with_abstract_socket(config, Some(server), socket, Arc::new(TokioRuntime))?;
    let places = Arc::new(Semaphore::new(PLACES));
    // One asker at a time is answered; the handshakes of others go on meanwhile.
    let (asks, mut asked) = tokio::sync::mpsc::channel(PLACES);
    let accepting = async {
        while let Some(incoming) = endpoint.accept().await {
            let Some((incoming, from, place)) = admitted(incoming, &places, &trust) else { continue };
            let (asks, trust) = (asks.clone(), trust.clone());
            tokio::spawn(async move {
                let ask = async {
                    let connection = incoming.accept().ok()?.await.ok()?;
                    let (send, mut receive) = connection.accept_bi().await.ok()?;
                    let bytes = receive.read_to_end(LENGTH).await.ok()?;
                    Some((connection, send, Request::read(&bytes)))
                };
                match timeout(PATIENCE, ask).await {
                    Ok(Some((connection, send, Some(request)))) => {
                        let _ = asks.send((connection, send, request, from, place)).await;
                    }
                    Ok(_) => trust.refuse(Why::HandshakeFailed, from),
                    Err(_) => trust.refuse(Why::HandshakeTimeout, from),
                }
            });
        }
    };
    let answering = async {
        while let Some((connection, mut send, request, from, _place)) = asked.recv().await {
            let answer = admit(request, from).await;
            let tell = async {
                send.write_all(&write(&answer)).await.ok()?;
                send.finish().ok()?;
                // Closed by the asker once it has read.
                connection.closed().await;
                Some(())
            };
            let _ = timeout(PATIENCE, tell).await;
        }
    };
    tokio::join!(accepting, answering);
    Ok(())
}

/// Believes whoever has a certificate of the cluster by an authority with the token's pin.
#[derive(Debug)]
struct Pinned {
    token: Token,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::from(CertificateError::UnknownIssuer);
        let authority = others.iter().find(|other| pin(other) == Some(self.token.pin)).ok_or_else(unknown)?;
        let anchor = anchor_from_trusted_cert(authority).map_err(|_| unknown())?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let cert = EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        cert.verify_for_usage(algorithms, &[anchor], &[], now, KeyUsage::server_auth(), None, None).map_err(
            |error| match error {
                webpki::Error::CertExpired { .. } => CertificateError::Expired,
                webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
                _ => CertificateError::UnknownIssuer,
            },
        )?;
        match cert.valid_dns_names().find_map(Name::read) {
            Some(name) if name.cluster == self.token.cluster => Ok(ServerCertVerified::assertion()),
            _ => Err(CertificateError::NotValidForName.into()),
        }
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
        tls13(&self.provider, message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.into()
    }
}

/// Asks to be let in. The request's secret and public key are those of `token` and `key`.
///
/// # Errors
/// If nobody answers, somebody else does, or the member refuses: with what to do.
pub async fn ask(token: &Token, key: &NewKey, mut request: Request) -> Result<Admission, String> {
    request.secret = token.secret;
    request.public = key.public().try_into().map_err(|_| "a key of another kind".to_owned())?;
    let place = token.address;
    let failed = |what: String| {
        format!(
            "{place}: {what}; the member's node must run, its port be open, and the token be new (`apus cluster token`)"
        )
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { token: token.clone(), provider }))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.into()];
    tls.resumption = rustls::client::Resumption::disabled();
    tls.enable_sni = false;
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?));
    let any: SocketAddr = if place.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = Counting::new(udp::bind(any).map_err(|error| failed(error.to_string()))?, None);
    let mut endpoint =
        Endpoint::new_with_abstract_socket(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))
            .map_err(|error| failed(error.to_string()))?;
    endpoint.set_default_client_config(config);
    let talk = async {
        let name = format!("cluster-{}.apus.internal", token.cluster.0);
        let connection = endpoint.connect(place, &name).map_err(|error| error.to_string())?;
        let connection = connection.await.map_err(|error| error.to_string())?;
        let (mut send, mut receive) = connection.open_bi().await.map_err(|error| error.to_string())?;
        send.write_all(&request.write(key)?).await.map_err(|error| error.to_string())?;
        send.finish().map_err(|error| error.to_string())?;
        let answer = receive.read_to_end(LONGEST).await.map_err(|error| error.to_string())?;
        connection.close(0_u32.into(), b"");
        read(&answer).ok_or_else(|| "an answer that is none".to_owned())
    };
    let answer = match timeout(PATIENCE * 3, talk).await {
        Ok(answer) => answer.map_err(failed)?,
        Err(_) => return Err(failed("no answer".into())),
    };
    let _ = timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
    answer
}

#[cfg(test)]
mod tests {
    use super::{Admission, LENGTH, Request, read, write};
    use crate::authority::NewKey;
    use apus_engine::NodeId;

    #[test]
    fn a_request_is_its_signers_or_none() {
        let key = NewKey::make().expect("randomness");
        let public = key.public().try_into().expect("32 bytes");
        let plain = Request { secret: [1; 16], public, node: None, address: None, mac: [2; 6], weight: 3 };
        for request in [
            Request { node: Some(NodeId(9)), address: "10.0.0.1".parse().ok(), ..plain.clone() },
            Request { address: "fd00::1".parse().ok(), ..plain.clone() },
            plain,
        ] {
            let bytes = request.write(&key).expect("it signs");
            assert_eq!(bytes.len(), LENGTH);
            assert_eq!(Request::read(&bytes).as_ref(), Some(&request));
            for at in (0..LENGTH).step_by(3) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 4;
                assert_eq!(Request::read(&damaged), None, "byte {at}");
            }
            assert_eq!(Request::read(&bytes[1..]), None);
        }
    }

    #[test]
    fn an_answer_is_whole_or_none() {
        let certificate = vec![1; 300].into();
        let admission = Ok(Admission {
            certificate,
            authorities: vec![vec![2; 200].into(), vec![].into()],
            config: "x = 1".into(),
        });
        let bytes = write(&admission);
        assert_eq!(read(&bytes), Some(admission));
        assert!((0..bytes.len()).all(|cut| read(&bytes[..cut]).is_none()));
        let refusal = Err("no such token".to_owned());
        assert_eq!(read(&write(&refusal)), Some(refusal));
    }
}
