//! New nodes, and who would like to be one.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use apus_engine::NodeId;
use apus_quic::join::{Admission, Request, ask, pin, serve};
use apus_quic::{Authority, Keys, NewKey, Token, Tokens, Trust, Why};
use tokio::time::{sleep, timeout};

use crate::common::{CLUSTER, DAY, addresses, authority, block_on, issue, name};

struct Door {
    token: Token,
    tokens: Rc<RefCell<Tokens>>,
    trust: Arc<Trust>,
    known: rustls::pki_types::CertificateDer<'static>,
    folder: std::path::PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn door(tag: &str) -> Door {
    let mut authority = authority();
    let known = authority.certificate().clone();
    let (certificate, key) = issue(&mut authority, name(0), SystemTime::now(), DAY);
    let trust = Trust::new(name(0), std::slice::from_ref(&known), certificate, key.pkcs8(), |_| {}).expect("a pair");
    let at = addresses(1)[&NodeId(0)];
    let token = Token::make(CLUSTER, at, pin(&known).expect("an authority"), seconds() + 60).expect("randomness");
    let folder = std::env::temp_dir().join(format!("apus-door-{tag}-{}", std::process::id()));
    let mut tokens = Tokens::open(&Keys::new(&folder), seconds()).expect("none yet");
    tokens.add(&token, None, seconds()).expect("room");
    let tokens = Rc::new(RefCell::new(tokens));
    let (mine, judge, authorities) = (tokens.clone(), trust.clone(), known.clone());
    let authority: RefCell<Authority> = RefCell::new(authority);
    let served = serve(trust.clone(), known.clone(), key.pkcs8().to_vec(), at, async move |request: Request, from| {
        if mine.borrow_mut().take(&request.secret, seconds()).map_err(|error| error.to_string())?.is_none() {
            judge.refuse(Why::BadToken, from);
            return Err("no such token, or it was used".into());
        }
        let node = name(request.node.map_or(9, |node| node.0));
        let issued = authority.borrow_mut().issue(node, &request.public, SystemTime::now(), DAY)?;
        Ok(Admission {
            certificate: issued.der,
            authorities: vec![authorities.clone()],
            config: format!("node = {}", node.node.0),
        })
    });
    let task = tokio::task::spawn_local(async move { served.await.expect("bound") });
    Door { token, tokens, trust, known, folder, task }
}

fn request() -> Request {
    Request { secret: [0; 16], public: [0; 32], node: None, address: None, mac: [2, 0, 0, 0, 0, 9], weight: 1 }
}

#[test]
fn a_token_lets_one_node_in_once() {
    block_on(async {
        let door = door("once");
        sleep(Duration::from_millis(50)).await;
        let key = NewKey::make().expect("randomness");
        // Somebody else's secret, and somebody else at the other end.
        let wrong = Token { secret: [1; 16], ..door.token.clone() };
        let said = ask(&wrong, &key, request()).await.expect_err("it is refused");
        assert!(said.contains("no such token"), "{said}");
        let spoof = Token { pin: [9; 32], ..door.token.clone() };
        let said = ask(&spoof, &key, request()).await.expect_err("it does not ask");
        assert!(said.contains("apus cluster token"), "{said}");
        assert_eq!(door.trust.refused().get(&Why::BadToken), Some(&1));
        let word = door.token.write();
        let token = Token::read(&word, seconds()).expect("a token");
        let admission = ask(&token, &key, request()).await.expect("it is let in");
        assert_eq!(admission.config, "node = 9");
        let own = Trust::new(name(9), &admission.authorities, admission.certificate.clone(), key.pkcs8(), |_| {});
        own.expect("certificate and key are a pair");
        let now = rustls::pki_types::UnixTime::now();
        let judged = door.trust.judge(&admission.certificate, &[], now, webpki::KeyUsage::client_auth());
        assert_eq!(judged, Ok(name(9)));
        assert_eq!(pin(&admission.authorities[0]), pin(&door.known));
        let said = ask(&token, &key, request()).await.expect_err("it was used");
        assert!(said.contains("it was used"), "{said}");
        assert_eq!(door.tokens.borrow().last(seconds()), None);
    });
}

/// Askers who hold their place and say nothing: there are few places, and each is free again after five seconds.
#[test]
fn slow_askers_keep_few_places() {
    use quinn::crypto::rustls::QuicClientConfig;
    block_on(async {
        let door = door("slow");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(door.known.clone()).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"apus-join/1".to_vec()];
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("a configuration")));
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let mut slow = Vec::new();
        for _ in 0..12 {
            let dialled = endpoint.connect_with(config.clone(), door.token.address, &name(0).to_string());
            let Ok(Ok(connection)) = timeout(Duration::from_millis(500), dialled.expect("it dials")).await else {
                continue;
            };
            if let Ok((mut send, _)) = connection.open_bi().await {
                let _ = send.write_all(b"APUS").await;
                slow.push((connection, send));
            }
        }
        assert!(slow.len() <= 4, "{} places", slow.len());
        assert!(door.trust.refused().get(&Why::TooMany).is_some_and(|times| *times >= 8), "{:?}", door.trust.refused());
        let key = NewKey::make().expect("randomness");
        let mut said = String::new();
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_secs(8) {
            match ask(&door.token, &key, request()).await {
                Ok(admission) => return assert_eq!(admission.config, "node = 9"),
                Err(error) => said = error,
            }
            sleep(Duration::from_millis(200)).await;
        }
        panic!("no place becomes free: {said}");
    });
}
