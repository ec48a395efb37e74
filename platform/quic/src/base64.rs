//! Base 64 (RFC 4648 §4 and §5), for PEM files and tokens.

const PLAIN: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn encode(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number = chunk.iter().chain(&[0, 0]).take(3).fold(0_usize, |number, byte| number << 8 | usize::from(*byte));
        for at in 0..=chunk.len() {
            text.push(char::from(alphabet[number >> (18 - 6 * at) & 63]));
        }
    }
    text
}

/// Without padding, for words on a command line.
pub(crate) fn url(bytes: &[u8]) -> String {
    encode(bytes, URL)
}

/// The bytes of [`url`]; `None`: this is no such text.
pub(crate) fn from_url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for chunk in text.as_bytes().chunks(4) {
        let mut number = 0;
        for letter in chunk {
            number = number << 6 | URL.iter().position(|known| known == letter)?;
        }
        number <<= 6 * (4 - chunk.len());
        if chunk.len() == 1 {
            return None;
        }
        let whole = [number >> 16, number >> 8, number].map(|byte| u8::try_from(byte & 255).unwrap_or(0));
        bytes.extend_from_slice(&whole[..chunk.len() - 1]);
    }
    (url(&bytes) == text).then_some(bytes)
}

/// A PEM block (RFC 7468).
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let mut text = encode(der, PLAIN);
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::{from_url, pem, url};

    /// RFC 4648 §10, without padding.
    #[test]
    fn the_vectors_of_the_standard() {
        for (bytes, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(url(bytes.as_bytes()), text);
            assert_eq!(from_url(text).as_deref(), Some(bytes.as_bytes()));
        }
        // Another text for the same bytes, a foreign letter, a lonely letter.
        for wrong in ["Zh", "Zm9v.A==", "Z", "Zm9vY"] {
            assert_eq!(from_url(wrong), None, "{wrong}");
        }
        assert_eq!(pem("X", b"f"), "-----BEGIN X-----\nZg==\n-----END X-----\n");
    }
}
