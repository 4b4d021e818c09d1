//! Internet checksums (RFC 1071), by the book: 16-bit big-endian words, added up, folded, complemented.

/// The sum of the words; an odd last byte is the high half of its word.
pub fn words(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum()
}

pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum of these bytes.
pub fn checksum(bytes: &[u8]) -> [u8; 2] {
    (!fold(words(bytes))).to_be_bytes()
}
