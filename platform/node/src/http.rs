//! `[http]`: where a node shows how it is.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::section::{Section, Value, Wrong, text};

/// A token has at least so many characters.
const TOKEN: usize = 16;

/// Where a node shows how it is, and to whom.
#[derive(Clone, PartialEq, Eq)]
pub struct Http {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What who asks must know; none where only this machine can ask.
    pub token: Option<String>,
    /// How it shows who it is, if it does.
    pub tls: Option<Tls>,
}

/// How a page shows who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// By the node's certificate of the cluster.
    Cluster,
    /// By a certificate, with those between it and its authority, and its key: files of PEM.
    Files {
        /// The certificates.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
}

/// The token is nobody's to see.
impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http")
            .field("listen", &self.listen)
            .field("token", &self.token.is_some())
            .field("tls", &self.tls)
            .finish()
    }
}

/// Reads `[http]`; `None`: with a mistake that was put down.
pub(crate) fn http<'t>(file: &Section<'t>, value: &'t Value<'t>) -> Result<Option<Http>, Wrong> {
    let section = file.below(value, "`http`", "[http]")?;
    section.known(&["listen", "token", "token_file", "tls", "cert", "key"]);
    let listen = section.must("listen", "\"127.0.0.1:7480\"", |value, key| {
        let word = text(value, key)?;
        word.parse::<SocketAddr>().map_err(|_| {
            (value.span(), format!("`{key}` is `{word}`, and must be address and port, such as `127.0.0.1:7480`"))
        })
    });
    let token = section.ok(token(&section)).flatten();
    let tls = section.ok(tls(&section)).flatten();
    let Some(listen) = listen else { return Ok(None) };
    let asks = section.get("token").or(section.get("token_file")).is_some();
    if !asks && !listen.ip().is_loopback() {
        let what = format!(
            "`listen` is `{listen}`, which others can reach: write `token_file` too, or listen on 127.0.0.1. Without `tls`, or \
             `cert` and `key`, who listens on the way reads the token"
        );
        return Err((section.place("listen"), what));
    }
    Ok(Some(Http { listen, token, tls }))
}

fn token(section: &Section<'_>) -> Result<Option<String>, Wrong> {
    let (span, token) = match (section.get("token"), section.get("token_file")) {
        (Some(_), Some(file)) => return Err((file.span(), "give `token` or `token_file`, not both".into())),
        (Some(token), None) => (token.span(), text(token, "token")?.to_owned()),
        (None, Some(file)) => {
            let path = text(file, "token_file")?;
            let read = std::fs::read_to_string(path);
            let token = read.map_err(|error| (file.span(), format!("`token_file`: {path}: {error}")))?;
            (file.span(), token.trim().to_owned())
        }
        (None, None) => return Ok(None),
    };
    let plain = token.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~+/=".contains(c));
    if token.len() < TOKEN || !plain {
        let what = format!(
            "a token must have {TOKEN} letters, digits or -_.~+/= at least, such as what `openssl rand -hex 16` prints"
        );
        return Err((span, what));
    }
    Ok(Some(token))
}

fn tls(section: &Section<'_>) -> Result<Option<Tls>, Wrong> {
    let file = |key| section.get(key).map(|value| Ok((value.span(), text(value, key)?.into()))).transpose();
    let both = "`cert` and `key` go together: the certificate's file and the key's, both PEM";
    match (section.get("tls"), file("cert")?, file("key")?) {
        (None, None, None) => Ok(None),
        (None, Some((_, cert)), Some((_, key))) => Ok(Some(Tls::Files { cert, key })),
        (None, Some((span, _)), None) | (None, None, Some((span, _))) => Err((span, both.into())),
        (Some(value), None, None) if value.get_ref().as_str() == Some("cluster") => Ok(Some(Tls::Cluster)),
        (Some(value), None, None) => {
            let what =
                "`tls` must be \"cluster\", for the node's own certificate; for another one write `cert` and `key`";
            Err((value.span(), what.into()))
        }
        (Some(value), ..) => Err((value.span(), "give `tls`, or `cert` and `key`, not both".into())),
    }
}

#[cfg(test)]
mod tests {
    use crate::Config;

    fn read(http: &str) -> Result<Option<super::Http>, String> {
        let text = format!(
            "cluster = 7\nnode = 0\n[[nodes]]\nid = 0\naddress = \"127.0.0.1\"\n[[services]]\nname = \"web\"\n\
             command = [\"/bin/true\"]\n[http]\n{http}\n"
        );
        Config::read("x", &text).map(|config| config.http).map_err(|error| error.to_string())
    }

    #[test]
    fn a_loopback_needs_no_token_and_all_else_does() {
        assert!(read("listen = \"127.0.0.1:7480\"").is_ok_and(|http| http.is_some_and(|http| http.token.is_none())));
        assert!(read("listen = \"[::1]:7480\"").is_ok());
        let token = "token = \"0123456789abcdef\"";
        assert!(read(&format!("listen = \"10.0.0.1:7480\"\n{token}")).is_ok());
        for (http, said) in [
            (
                "listen = \"10.0.0.1:7480\"",
                "x:10: `listen` is `10.0.0.1:7480`, which others can reach: write `token_file`",
            ),
            ("listen = \"0.0.0.0:7480\"", "which others can reach"),
            ("listen = \"127.0.0.1:7400\"", "x:10: `listen` is where this node speaks with the others"),
            ("listen = \"localhost\"", "x:10: `listen` is `localhost`, and must be address and port"),
            ("port = 5", "`port` is not known in `http`; known are listen, token, token_file, tls, cert, key"),
            ("listen = \"127.0.0.1:1\"\ntls = true", "x:11: `tls` must be \"cluster\""),
            ("listen = \"127.0.0.1:1\"\ncert = \"/a\"", "x:11: `cert` and `key` go together"),
            ("listen = \"127.0.0.1:1\"\nkey = \"/a\"", "x:11: `cert` and `key` go together"),
            ("listen = \"127.0.0.1:1\"\ntls = \"cluster\"\ncert = \"/a\"\nkey = \"/a\"", "x:11: give `tls`, or `cert`"),
            ("listen = \"10.0.0.1:1\"\ntls = \"cluster\"", "which others can reach: write `token_file`"),
            ("", "`http` lacks `listen`; write such as"),
            ("listen = \"10.0.0.1:1\"\ntoken = \"short\"", "x:11: a token must have 16"),
            ("listen = \"10.0.0.1:1\"\ntoken = \"with space in it, long\"", "x:11: a token must have 16"),
            ("listen = \"10.0.0.1:1\"\ntoken_file = \"/no/such\"", "`token_file`: /no/such: "),
        ] {
            let error = read(http).expect_err(http);
            assert!(error.contains(said), "{http}: {error}");
        }
        let shown = format!("{:?}", read(&format!("listen = \"10.0.0.1:7480\"\n{token}")));
        assert!(!shown.contains("0123456789abcdef"), "{shown}");
    }
}
