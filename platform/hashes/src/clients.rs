//! Whom to serve: clients of a file, or drawn ones.

use std::net::IpAddr;

use apus_dispatch::hash_v6;

use crate::key;

/// Clients, each with its traffic.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Clients {
    /// Addresses as numbers.
    pub addresses: Vec<u32>,
    /// Packets of each, relative to the others'; the same length.
    pub traffic: Vec<u32>,
}

/// How clients are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Each anywhere, and all alike.
    Uniform,
    /// Each anywhere; the one of rank r sends a 1/r part of what the first does.
    Zipf,
    /// Whole blocks of 256 neighbours; every sixteenth block is of an operator that puts 1 to 255 subscribers behind each
    /// address.
    Nat,
}

/// Most packets of one client.
const MOST: u32 = 1 << 20;

impl Clients {
    /// Draws `many`, always the same.
    #[must_use]
    pub fn draw(shape: Shape, many: u32) -> Self {
        let draw = |i: u32| (key::pair(0x00c1_1e47, u64::from(i)) >> 32) as u32;
        let one = |i: u32| match shape {
            Shape::Uniform => (draw(i), 1),
            Shape::Zipf => (draw(i), (MOST / (i + 1)).max(1)),
            Shape::Nat => {
                let block = draw(i / 256);
                let subscribers = if block % 16 == 0 { 1 + draw(i) % 255 } else { 1 };
                ((block & !255) | (i % 256), subscribers)
            }
        };
        let (addresses, traffic) = (0..many).map(one).unzip();
        Self { addresses, traffic }
    }

    /// Reads them: a line each, an address and, if wanted, a number of packets. An IPv6 address is hashed to a number first.
    ///
    /// # Errors
    /// The line, counted from 1, and what is wrong with it; line 0 if there is no client at all.
    pub fn read(text: &str) -> Result<Self, (usize, String)> {
        let mut clients = Self::default();
        for (line, number) in text.lines().zip(1..) {
            let mut words =
                line.split('#').next().unwrap_or_default().split([' ', '\t', ',']).filter(|word| !word.is_empty());
            let Some(address) = words.next() else { continue };
            let wrong = |what: String| {
                (number, format!("{what}; want an address and, if wanted, its packets, such as `192.0.2.7 120`"))
            };
            let parsed = address.parse().map_err(|_| wrong(format!("`{address}` is no IP address")))?;
            let packets = match words.next() {
                None => 1,
                Some(word) => match word.parse() {
                    Ok(packets @ 1..=u32::MAX) => packets,
                    _ => return Err(wrong(format!("`{word}` is no number of packets from 1 to {}", u32::MAX))),
                },
            };
            if let Some(more) = words.next() {
                return Err(wrong(format!("`{more}` is too much")));
            }
            clients.addresses.push(match parsed {
                IpAddr::V4(v4) => u32::from(v4),
                IpAddr::V6(v6) => (hash_v6(key::SEED, v6.octets()) >> 32) as u32,
            });
            clients.traffic.push(packets);
        }
        if clients.addresses.is_empty() {
            return Err((0, "no client in it; want a line for each, such as `192.0.2.7 120`".into()));
        }
        Ok(clients)
    }

    /// How many.
    #[must_use]
    pub fn many(&self) -> usize {
        self.addresses.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_by_line() {
        let clients =
            Clients::read("# office\n192.0.2.7 120\r\n\n198.51.100.1,3 # two\n2001:db8::1\n").expect("it is good");
        assert_eq!(clients.traffic, [120, 3, 1]);
        assert_eq!(clients.addresses[..2], [0xc000_0207, 0xc633_6401]);
        for (text, line, what) in [
            ("1.2.3.4\n300.1.2.3", 2, "`300.1.2.3` is no IP address"),
            ("1.2.3.4 0", 1, "`0` is no number of packets"),
            ("1.2.3.4 -1", 1, "`-1` is no number of packets"),
            ("1.2.3.4 1 2", 1, "`2` is too much"),
            ("# nothing\n", 0, "no client"),
        ] {
            let (at, told) = Clients::read(text).expect_err(text);
            assert!(at == line && told.contains(what) && told.contains("such as"), "{at}: {told}");
        }
    }

    #[test]
    fn draws_have_their_shape() {
        let many = 100_000;
        let uniform = Clients::draw(Shape::Uniform, many);
        assert!(uniform.traffic.iter().all(|packets| *packets == 1));
        let high = uniform.addresses.iter().filter(|address| **address >= 1 << 31).count();
        assert!((49_000..51_000).contains(&high), "{high}");
        let zipf = Clients::draw(Shape::Zipf, many);
        assert_eq!(zipf.traffic[0], 10 * zipf.traffic[9] + 6);
        let nat = Clients::draw(Shape::Nat, many);
        let shared = nat.traffic.iter().filter(|packets| **packets > 1).count();
        assert!((4_000..9_000).contains(&shared), "{shared}");
        assert_eq!(nat.addresses[0] + 255, nat.addresses[255]);
        assert_eq!(Clients::draw(Shape::Nat, many), nat);
    }
}
