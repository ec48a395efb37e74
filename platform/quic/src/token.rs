//! One-time tokens: who has one may join.

use std::fmt;
use std::net::SocketAddr;

use apus_engine::{ClusterId, NodeId};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::base64;
use crate::keys::{Keys, KeysError};

const PREFIX: &str = "apus1.";
/// Tokens that wait to be used, at most.
const MOST: usize = 64;

/// What an operator carries from a member to a new node: where to ask, whom to believe there, and a secret that works once.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The cluster.
    pub cluster: ClusterId,
    /// Where to ask.
    pub address: SocketAddr,
    /// SHA-256 of the authority's public key (`SubjectPublicKeyInfo`).
    pub pin: [u8; 32],
    /// The secret.
    pub secret: [u8; 16],
    /// Until when it works, in seconds since 1970.
    pub expires: u64,
}

/// Without the secret: tokens end up in logs otherwise.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("cluster", &self.cluster)
            .field("address", &self.address)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// No token, or one that was cut or changed on the way.
    Damaged,
    /// Its time is over.
    Expired,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Damaged => "no token, or not all of it: copy the whole word that `apus cluster token` said",
            Self::Expired => "the token's time is over: ask for a new one with `apus cluster token`",
        })
    }
}

impl std::error::Error for TokenError {}

impl Token {
    /// A new token with a random secret.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn make(cluster: ClusterId, address: SocketAddr, pin: [u8; 32], expires: u64) -> Result<Self, String> {
        let mut secret = [0; 16];
        SystemRandom::new().fill(&mut secret).map_err(|_| "no randomness".to_owned())?;
        Ok(Self { cluster, address, pin, secret, expires })
    }

    /// As one word.
    #[must_use]
    pub fn write(&self) -> String {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.cluster.0.to_be_bytes());
        bytes.extend_from_slice(&self.expires.to_be_bytes());
        bytes.extend_from_slice(&self.pin);
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(self.address.to_string().as_bytes());
        // A letter that was lost is noticed before anybody is asked.
        bytes.extend_from_slice(&digest(&SHA256, &bytes).as_ref()[..4]);
        format!("{PREFIX}{}", base64::url(&bytes))
    }

    /// Reads a word.
    ///
    /// # Errors
    /// If it is damaged, or too late at `now`.
    pub fn read(word: &str, now: u64) -> Result<Self, TokenError> {
        let token = || {
            let bytes = base64::from_url(word.trim().strip_prefix(PREFIX)?)?;
            let (bytes, sum) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
            if digest(&SHA256, bytes).as_ref()[..4] != *sum {
                return None;
            }
            let (cluster, rest) = bytes.split_first_chunk()?;
            let (expires, rest) = rest.split_first_chunk()?;
            let (pin, rest) = rest.split_first_chunk()?;
            let (secret, address) = rest.split_first_chunk()?;
            Some(Self {
                cluster: ClusterId(u32::from_be_bytes(*cluster)),
                expires: u64::from_be_bytes(*expires),
                pin: *pin,
                secret: *secret,
                address: str::from_utf8(address).ok()?.parse().ok()?,
            })
        };
        let token = token().ok_or(TokenError::Damaged)?;
        if token.expires <= now { Err(TokenError::Expired) } else { Ok(token) }
    }
}

fn hash(secret: &[u8; 16]) -> String {
    digest(&SHA256, secret).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The tokens that wait to be used, in the file `tokens`: lines of the secret's SHA-256, the last second, and the number of the node
/// that it is for, if it is for one. Who reads the file can use none of them.
#[derive(Debug)]
pub struct Tokens {
    keys: Keys,
    waiting: Vec<(String, u64, Option<NodeId>)>,
}

impl Tokens {
    /// Those of a folder that are still good.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn open(keys: &Keys, now: u64) -> Result<Self, KeysError> {
        let mut waiting = Vec::new();
        if keys.folder().join("tokens").exists() {
            let bytes = keys.read("tokens")?;
            for line in String::from_utf8_lossy(&bytes).lines() {
                // A line that is none opens no door.
                let words: Vec<&str> = line.split(' ').collect();
                let node = |word: &&str| word.parse().ok().map(NodeId);
                let read = match &words[..] {
                    [hash, expires] => expires.parse().ok().map(|expires| ((*hash).to_owned(), expires, None)),
                    [hash, expires, bound] => expires
                        .parse()
                        .ok()
                        .zip(node(bound))
                        .map(|(expires, bound)| ((*hash).to_owned(), expires, Some(bound))),
                    _ => None,
                };
                waiting.extend(read);
            }
        }
        let mut tokens = Self { keys: keys.clone(), waiting };
        tokens.waiting.retain(|(_, expires, _)| *expires > now);
        Ok(tokens)
    }

    fn save(&self) -> Result<(), KeysError> {
        let line = |(hash, expires, node): &(String, u64, Option<NodeId>)| match node {
            Some(node) => format!("{hash} {expires} {}\n", node.0),
            None => format!("{hash} {expires}\n"),
        };
        let text: String = self.waiting.iter().map(line).collect();
        self.keys.write("tokens", text.as_bytes())
    }

    /// Lets a token work: for any new node, or for one node only, which may be known already.
    ///
    /// # Errors
    /// If too many wait, or the file cannot be written.
    pub fn add(&mut self, token: &Token, node: Option<NodeId>, now: u64) -> Result<(), KeysError> {
        self.waiting.retain(|(_, expires, _)| *expires > now);
        if self.waiting.len() >= MOST {
            return Err(KeysError::new("tokens", format!("{MOST} of them wait to be used"), "wait until some expire"));
        }
        self.waiting.push((hash(&token.secret), token.expires, node));
        self.save()
    }

    /// Uses a secret up, and says for which node it is; `None` if it is none, was used, or is too late. It is gone from the disk before anybody is let in.
    ///
    /// # Errors
    /// If the file cannot be written; then it is not used.
    pub fn take(&mut self, secret: &[u8; 16], now: u64) -> Result<Option<Option<NodeId>>, KeysError> {
        self.waiting.retain(|(_, expires, _)| *expires > now);
        let hash = hash(secret);
        // Hashes are compared, so the time it takes tells nothing of a secret.
        let Some(at) = self.waiting.iter().position(|(known, ..)| *known == hash) else { return Ok(None) };
        let taken = self.waiting.remove(at);
        let node = taken.2;
        match self.save() {
            Ok(()) => Ok(Some(node)),
            Err(error) => {
                self.waiting.push(taken);
                Err(error)
            }
        }
    }

    /// When the last of them expires; `None`: none waits.
    #[must_use]
    pub fn last(&self, now: u64) -> Option<u64> {
        self.waiting.iter().map(|(_, expires, _)| *expires).filter(|expires| *expires > now).max()
    }
}

#[cfg(test)]
mod tests {
    use apus_engine::{ClusterId, NodeId};

    use super::{Token, TokenError, Tokens};
    use crate::keys::Keys;

    fn token() -> Token {
        let address = "[fd00::1]:7401".parse().expect("an address");
        Token::make(ClusterId(7), address, [3; 32], 1_000).expect("randomness")
    }

    #[test]
    fn a_word_is_the_token_or_none() {
        let token = token();
        let word = token.write();
        assert_eq!(Token::read(&format!(" {word}\n"), 999), Ok(token.clone()));
        assert_eq!(Token::read(&word, 1_000), Err(TokenError::Expired));
        for at in 0..word.len() {
            let mut damaged = word.clone();
            damaged.replace_range(at..=at, if &word[at..=at] == "A" { "B" } else { "A" });
            assert_eq!(Token::read(&damaged, 0), Err(TokenError::Damaged), "letter {at}");
            assert_eq!(Token::read(&word[..at], 0), Err(TokenError::Damaged), "cut at {at}");
        }
        assert!(!format!("{token:?}").contains(&format!("{:?}", token.secret)));
    }

    #[test]
    fn a_secret_works_once_and_in_time_and_is_not_in_the_file() {
        let folder = std::env::temp_dir().join(format!("apus-tokens-{}", std::process::id()));
        let keys = Keys::new(&folder);
        let (one, two) = (token(), token());
        let mut tokens = Tokens::open(&keys, 0).expect("none");
        tokens.add(&one, None, 0).expect("room");
        tokens.add(&two, Some(NodeId(3)), 0).expect("room");
        let file = std::fs::read(folder.join("tokens")).expect("a file");
        assert!(!file.windows(16).any(|window| window == one.secret));
        let mut tokens = Tokens::open(&keys, 0).expect("a restart");
        assert_eq!(tokens.take(&[9; 16], 0), Ok(None));
        assert_eq!(tokens.take(&one.secret, 0), Ok(Some(None)));
        assert_eq!(tokens.take(&one.secret, 0), Ok(None));
        let mut tokens = Tokens::open(&keys, 0).expect("another restart");
        assert_eq!(tokens.take(&one.secret, 0), Ok(None));
        assert_eq!(tokens.last(0), Some(1_000));
        let mut later = Tokens::open(&keys, 0).expect("another restart");
        assert_eq!(later.take(&two.secret, 999), Ok(Some(Some(NodeId(3)))));
        assert_eq!(tokens.take(&two.secret, 1_000), Ok(None));
        std::fs::remove_dir_all(folder).expect("the folder goes");
    }
}
