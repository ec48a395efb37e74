//! What of a certificate is wanted and `webpki` keeps to itself: its serial number and its times. Read only of certificates whose
//! signature holds, or of our own files; still, nothing here trusts a length.

/// When a certificate is good, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From.
    pub from: u64,
    /// To, itself included.
    pub to: u64,
}

/// Takes one element off the front: its tag, its content.
fn take<'d>(rest: &mut &'d [u8]) -> Option<(u8, &'d [u8])> {
    let (tag, after) = rest.split_first()?;
    let (first, mut after) = after.split_first()?;
    let mut length = usize::from(*first);
    if length >= 0x80 {
        let many = length & 0x7f;
        if !(1..=3).contains(&many) {
            return None;
        }
        let (digits, behind) = after.split_at_checked(many)?;
        length = digits.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        after = behind;
    }
    let (content, behind) = after.split_at_checked(length)?;
    *rest = behind;
    Some((*tag, content))
}

/// Serial number and what follows it in the part that is signed.
fn signed(certificate: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, whole) = take(&mut &*certificate)?;
    let (_, mut rest) = take(&mut &*whole)?;
    let (mut tag, mut content) = take(&mut rest)?;
    if tag == 0xa0 {
        // The version comes first.
        (tag, content) = take(&mut rest)?;
    }
    (tag == 0x02).then_some((content, rest))
}

/// The serial number; ours have at most eight bytes.
#[must_use]
pub fn serial(certificate: &[u8]) -> Option<u64> {
    let (mut digits, _) = signed(certificate)?;
    while let [0, rest @ ..] = digits {
        digits = rest;
    }
    (digits.len() <= 8).then(|| digits.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// When the certificate is good.
#[must_use]
pub fn validity(certificate: &[u8]) -> Option<Validity> {
    let (_, mut rest) = signed(certificate)?;
    take(&mut rest)?; // algorithm
    take(&mut rest)?; // issuer
    let (_, mut times) = take(&mut rest)?;
    let (from, to) = (take(&mut times)?, take(&mut times)?);
    Some(Validity { from: time(from)?, to: time(to)? })
}

/// The Ed25519 key that the certificate is for.
#[must_use]
pub fn public_key(certificate: &[u8]) -> Option<[u8; 32]> {
    /// `SEQUENCE { OID 1.3.101.112 }`, `BIT STRING` of 32 bytes (RFC 8410 §4).
    const ED25519: [u8; 10] = [0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 33, 0];
    let (_, mut rest) = signed(certificate)?;
    for _ in 0..4 {
        take(&mut rest)?; // algorithm, issuer, times, subject
    }
    let (_, key) = take(&mut rest)?;
    key.strip_prefix(&ED25519)?.try_into().ok()
}

/// `UTCTime` (tag 23, years 1950 to 2049) or `GeneralizedTime` (tag 24), always ending in `Z` (RFC 5280 §4.1.2.5).
fn time((tag, text): (u8, &[u8])) -> Option<u64> {
    let digits: Vec<u64> =
        text.strip_suffix(b"Z")?.iter().map(|c| char::from(*c).to_digit(10).map(u64::from)).collect::<Option<_>>()?;
    let (year, rest) = match (tag, digits.len()) {
        (23, 12) => {
            let year = digits[0] * 10 + digits[1];
            (if year < 50 { 2_000 + year } else { 1_900 + year }, &digits[2..])
        }
        (24, 14) => (digits[..4].iter().fold(0, |year, digit| year * 10 + digit), &digits[4..]),
        _ => return None,
    };
    let pair = |at: usize| rest[at] * 10 + rest[at + 1];
    let (month, day) = (pair(0), pair(2));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year < 1_970 {
        return None;
    }
    // Days since 1970, with years that begin in March (Hinnant's civil calendar).
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + pair(4) * 3_600 + pair(6) * 60 + pair(8))
}

#[cfg(test)]
mod tests {
    use super::{take, time};

    #[test]
    fn times_are_those_of_the_calendar() {
        for (tag, text, seconds) in [
            (23, "700101000000Z", 0),
            (23, "260301000000Z", 1_772_323_200),
            (24, "20240229235959Z", 1_709_251_199),
            (24, "21000301000000Z", 4_107_542_400),
        ] {
            assert_eq!(time((tag, text.as_bytes())), Some(seconds), "{text}");
        }
        for (tag, text) in [(23, "260301000000"), (23, "2603010000Z"), (24, "26030100000000Z"), (23, "261301000000Z")] {
            assert_eq!(time((tag, text.as_bytes())), None, "{text}");
        }
    }

    #[test]
    fn a_length_beyond_the_end_is_none() {
        for wrong in [&[0x30][..], &[0x30, 5, 1], &[0x30, 0x80], &[0x30, 0x84, 1, 1, 1, 1], &[0x30, 0x82, 1]] {
            assert_eq!(take(&mut &*wrong), None);
        }
        let mut rest = &[2, 1, 7, 5][..];
        assert_eq!(take(&mut rest), Some((2, &[7][..])));
        assert_eq!(rest, [5]);
    }
}
