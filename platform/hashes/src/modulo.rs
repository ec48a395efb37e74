//! A hash and the number of servers: no table, and a new number for nearly every client at each change.

use crate::{Contender, Server, key, live};

macro_rules! modulo {
    ($(#[$doc:meta])* $name:ident, $place:expr) => {
        $(#[$doc])*
        pub(crate) struct $name {
            ids: Vec<u32>,
            many: u32,
        }

        impl $name {
            pub(crate) fn new(servers: &[Server]) -> Self {
                let ids = live(servers);
                Self { many: crate::place(ids.len()).max(1), ids }
            }
        }

        impl Contender for $name {
            #[inline]
            fn place_of(&self, client: u32) -> u32 {
                $place(client, self.many)
            }
            fn ids(&self) -> &[u32] {
                &self.ids
            }
            fn change(&mut self, servers: &[Server]) {
                *self = Self::new(servers);
            }
            fn bytes(&self) -> usize {
                4
            }
        }
    };
}

modulo!(
    /// The address itself is divided.
    Modulo,
    |client: u32, many: u32| client % many
);
modulo!(
    /// Its CRC-32 (polynomial of IEEE 802.3) is divided.
    Crc,
    |client: u32, many: u32| crc32(client.to_be_bytes()) % many
);
modulo!(
    /// Knuth's multiplicative hash, scaled.
    Fibonacci,
    |client: u32, many: u32| key::scale(u64::from(client.wrapping_mul(0x9e37_79b9)) << 32, many)
);

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_u32;
    while byte < 256 {
        let mut rest = byte;
        let mut bit = 0;
        while bit < 8 {
            rest = if rest & 1 == 1 { 0xedb8_8320 ^ (rest >> 1) } else { rest >> 1 };
            bit += 1;
        }
        table[byte as usize] = rest;
        byte += 1;
    }
    table
};

fn crc32(bytes: [u8; 4]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_that_of_ethernet() {
        // The first four bytes of the usual check string "123456789", and zeros.
        assert_eq!(crc32(*b"1234"), 0x9be3_e0a3);
        assert_eq!(crc32([0; 4]), 0x2144_df1c);
    }
}
