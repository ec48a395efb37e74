//! What a node's server says: bytes go back as they came, unless a connection begins as HTTP/1.1 does (RFC 9112). Then each
//! request is answered with who answers.

use smoltcp::socket::tcp;

/// How HTTP may begin.
const METHODS: [&str; 3] = ["GET ", "HEAD ", "POST "];
/// Bytes of a request's head at most.
const LONGEST: usize = 8_192;
/// So much waits to be sent before more is read.
const WAITING: usize = 4_096;

/// What is known of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Speaks {
    /// Too little was heard.
    #[default]
    Unknown,
    Http,
    /// Anything else.
    Echo,
}

/// One connection's conversation.
#[derive(Clone, Debug, Default)]
pub(super) struct Talk {
    speaks: Speaks,
    heard: Vec<u8>,
    to_say: Vec<u8>,
    /// Bytes of a request's body that are still to come.
    body: u64,
    requests: u32,
    /// After what is to say the connection ends.
    last: bool,
}

impl Talk {
    /// Lets the conversation go on. `who` are the lines of an answer.
    pub(super) fn go_on(&mut self, socket: &mut tcp::Socket<'_>, who: &str) {
        while socket.can_recv() && self.to_say.len() < WAITING {
            let took = socket.recv(|data| {
                self.heard.extend_from_slice(data);
                (data.len(), data.len())
            });
            if took.is_err() {
                break;
            }
            self.answer(who);
            if self.last {
                self.heard.clear();
            }
        }
        while !self.to_say.is_empty() && socket.can_send() {
            match socket.send_slice(&self.to_say) {
                Ok(sent) if sent > 0 => drop(self.to_say.drain(..sent)),
                _ => break,
            }
        }
        let nothing_comes = socket.state() == tcp::State::CloseWait && !socket.can_recv();
        if self.to_say.is_empty() && (self.last || nothing_comes) {
            socket.close();
        }
    }

    /// Answers what was heard whole.
    fn answer(&mut self, who: &str) {
        if self.speaks == Speaks::Unknown {
            let begins = |method: &&str| self.heard.iter().zip(method.as_bytes()).all(|(a, b)| a == b);
            self.speaks = match METHODS.iter().find(|method| begins(method)) {
                Some(method) if self.heard.len() < method.len() => return,
                Some(_) => Speaks::Http,
                None => Speaks::Echo,
            };
        }
        if self.speaks == Speaks::Echo {
            return self.to_say.append(&mut self.heard);
        }
        while !self.last {
            let skipped = self.heard.len().min(usize::try_from(self.body).unwrap_or(usize::MAX));
            self.heard.drain(..skipped);
            self.body -= skipped as u64;
            if self.body > 0 || self.heard.is_empty() {
                return;
            }
            let Some(end) = self.heard.windows(4).position(|four| four == b"\r\n\r\n") else {
                if self.heard.len() > LONGEST {
                    self.last = true;
                    self.say("431 Request Header Fields Too Large", "a request's head has 8192 bytes at most\n", true);
                }
                return;
            };
            let head: Vec<u8> = self.heard.drain(..end + 4).collect();
            self.request(&String::from_utf8_lossy(&head), who);
        }
    }

    fn request(&mut self, head: &str, who: &str) {
        let mut lines = head.split("\r\n");
        let mut first = lines.next().unwrap_or_default().split(' ');
        let (method, version) = (first.next().unwrap_or_default(), first.next_back().unwrap_or_default());
        let fields: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_ascii_lowercase()))
            .collect();
        let field = |name: &str| fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let length = field("content-length").map_or(Ok(0), str::parse::<u64>);
        let known = METHODS.iter().any(|known| known.trim_end() == method);
        let refused = match length {
            _ if !version.starts_with("HTTP/1.") || !known => Some("400 Bad Request"),
            Err(_) => Some("400 Bad Request"),
            _ if field("transfer-encoding").is_some() => Some("411 Length Required"),
            Ok(_) => None,
        };
        self.requests += 1;
        self.last = refused.is_some() || version == "HTTP/1.0" || field("connection") == Some("close");
        self.body = length.unwrap_or(0);
        let text = match refused {
            Some(status) => format!("{status}\n"),
            None => format!("{who}request {} of this connection\n", self.requests),
        };
        self.say(refused.unwrap_or("200 OK"), &text, method != "HEAD");
    }

    fn say(&mut self, status: &str, text: &str, with_text: bool) {
        let ends = if self.last { "Connection: close\r\n" } else { "" };
        let length = text.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nServer: apus\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n{ends}\r\n"
        );
        self.to_say.extend(head.bytes());
        if with_text {
            self.to_say.extend(text.bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(pieces: &[&[u8]]) -> (String, bool) {
        let mut talk = Talk::default();
        for piece in pieces {
            talk.heard.extend_from_slice(piece);
            talk.answer("server n2\n");
        }
        (String::from_utf8_lossy(&talk.to_say).into_owned(), talk.last)
    }

    #[test]
    fn requests_are_answered_in_pieces_and_in_a_row() {
        let (said, last) = hear(&[b"GE", b"T / HTTP/1.1\r\nHo", b"st: a\r\n\r\nHEAD /x HTTP/1.1\r\n\r\n"]);
        let answers: Vec<&str> = said.split("HTTP/1.1 200 OK").collect();
        assert_eq!((answers.len(), last), (3, false), "{said}");
        assert!(answers[1].ends_with("server n2\nrequest 1 of this connection\n"), "{said}");
        assert!(answers[2].ends_with("\r\n\r\n"), "{said}");
    }

    #[test]
    fn a_body_is_stepped_over() {
        let (said, _) = hear(&[b"POST / HTTP/1.1\r\ncontent-length: 6\r\n\r\nGET", b" /a", b"GET / HTTP/1.1\r\n\r\n"]);
        assert_eq!(said.matches("200 OK").count(), 2, "{said}");
        assert!(said.contains("request 2 "), "{said}");
    }

    #[test]
    fn what_is_no_http_goes_back() {
        for bytes in [&b"GEt / HTTP/1.1\r\n\r\n"[..], &[71, 72, 73], b"\0\xff"] {
            assert_eq!(hear(&[bytes]), (String::from_utf8_lossy(bytes).into_owned(), false));
        }
    }

    #[test]
    fn bad_requests_end_the_connection() {
        for (bytes, status) in [
            (&b"GET /\r\n\r\n"[..], "400"),
            (b"POST / HTTP/1.1\r\nContent-Length: 1x\r\n\r\n", "400"),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "411"),
            (&[&b"GET / HTTP/1.1\r\n"[..], &[b'a'; 9_000]].concat()[..], "431"),
        ] {
            let (said, last) = hear(&[bytes]);
            assert!(said.starts_with(&format!("HTTP/1.1 {status}")) && last, "{said}");
        }
        let (said, last) = hear(&[b"GET / HTTP/1.0\r\n\r\n"]);
        assert!(said.contains("Connection: close") && last, "{said}");
    }
}
