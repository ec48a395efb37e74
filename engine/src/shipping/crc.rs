//! CRC-32C (Castagnoli, RFC 3720 appendix B.4): what storage and networks use, and processors have an instruction for.

/// Reflected polynomial.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Table `n` advances a byte by `n` more bytes, so that eight bytes are looked up at once.
const TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[table - 1][byte];
            tables[table][byte] = crc >> 8 ^ tables[0][(crc & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
};

/// The check of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c_of(&[bytes])
}

/// The check of some pieces, as if they were one.
#[must_use]
pub fn crc32c_of(pieces: &[&[u8]]) -> u32 {
    !pieces.iter().fold(u32::MAX, |crc, piece| advance(crc, piece))
}

fn advance(mut crc: u32, bytes: &[u8]) -> u32 {
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let low = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]) ^ crc;
        let [a, b, c, d] = low.to_le_bytes().map(usize::from);
        let [e, f, g, h] = [chunk[4], chunk[5], chunk[6], chunk[7]].map(usize::from);
        crc = TABLES[7][a] ^ TABLES[6][b] ^ TABLES[5][c] ^ TABLES[4][d];
        crc ^= TABLES[3][e] ^ TABLES[2][f] ^ TABLES[1][g] ^ TABLES[0][h];
    }
    for byte in chunks.remainder() {
        crc = crc >> 8 ^ TABLES[0][usize::from(crc as u8 ^ byte)];
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::{crc32c, crc32c_of};

    /// RFC 3720 appendix B.4, and the usual check value.
    #[test]
    fn known_values() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let up: [u8; 32] = core::array::from_fn(|at| at as u8);
        assert_eq!(crc32c(&up), 0x46dd_794e);
        assert_eq!(crc32c_of(&[&up[..7], &up[7..]]), 0x46dd_794e);
    }
}
