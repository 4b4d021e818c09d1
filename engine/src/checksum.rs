//! The Internet checksum (RFC 1071) over words in any one byte order (RFC 1071 section 2.B), and its update (RFC 1624).

use crate::memory::Addr;
use crate::packet::Packet;

/// Folds a sum of 16- or 32-bit words and complements it.
///
/// `sum` must hold fewer than 2^31 words of 32 bits, so that it has not wrapped.
#[inline(always)]
pub const fn finish(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff).wrapping_add(sum >> 32);
    let sum = (sum & 0xffff).wrapping_add((sum >> 16) & 0xffff).wrapping_add(sum >> 32);
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    !(sum as u16)
}

/// The same for fewer than 8 words of 32 bits: half the instructions.
#[inline(always)]
pub const fn finish_few(sum: u64) -> u16 {
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    !(sum.wrapping_add(sum >> 16) as u16)
}

/// The sum of an even number of bytes, word by word of 32 bits as the machine loads them (a rest of two bytes as a word of
/// its own), for [`finish`].
#[inline(always)]
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let sum = words.iter().fold(0_u64, |sum, word| sum.wrapping_add(u32::from_ne_bytes(*word) as u64));
    match rest {
        [a, b, ..] => sum.wrapping_add(u16::from_ne_bytes([*a, *b]) as u64),
        _ => sum,
    }
}

/// Bytes of a frame that [`of_packet`] sums up at most.
const LONGEST: usize = 4096;

/// The sum of `len` bytes of a frame from offset `at`, for [`finish`]; `None`: the frame has not all of them.
#[inline(always)]
pub fn of_packet<P: Packet>(packet: &P, at: usize, len: usize) -> Option<u64> {
    let (mut sum, mut at, mut left) = (0_u64, at, len);
    for _ in 0..LONGEST / 16 {
        if left < 16 {
            break;
        }
        let bytes = packet.bytes_anywhere::<16>(at)?;
        sum = sum.wrapping_add(self::sum(bytes));
        at = at.wrapping_add(16);
        left = left.wrapping_sub(16);
    }
    if left >= 16 {
        return None;
    }
    if left & 8 != 0 {
        sum = sum.wrapping_add(self::sum(packet.bytes_anywhere::<8>(at)?));
        at = at.wrapping_add(8);
    }
    if left & 4 != 0 {
        sum = sum.wrapping_add(self::sum(packet.bytes_anywhere::<4>(at)?));
        at = at.wrapping_add(4);
    }
    if left & 2 != 0 {
        sum = sum.wrapping_add(self::sum(packet.bytes_anywhere::<2>(at)?));
        at = at.wrapping_add(2);
    }
    if left & 1 != 0 {
        // as if a 0 followed (RFC 1071 section 1)
        let [last] = *packet.bytes_anywhere::<1>(at)?;
        sum = sum.wrapping_add(u16::from_ne_bytes([last, 0]) as u64);
    }
    Some(sum)
}

/// The sum of an address of 16 bytes, for [`finish`].
#[inline(always)]
pub const fn address_sum([a, b]: Addr) -> u64 {
    let low = (a & 0xffff_ffff).wrapping_add(b & 0xffff_ffff);
    low.wrapping_add(a >> 32).wrapping_add(b >> 32)
}

/// A checksum (as on the wire) after one of its words grew by `by`: HC' = ~(~HC + by) (RFC 1624 section 3).
#[inline(always)]
pub const fn after_more(checksum: [u8; 2], by: u16) -> [u8; 2] {
    let sum = (!u16::from_be_bytes(checksum) as u32).wrapping_add(by as u32);
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    (!(sum as u16)).to_be_bytes()
}

/// A checksum (as on the wire) after one of its words shrank by `by`.
#[inline(always)]
pub const fn after_less(checksum: [u8; 2], by: u16) -> [u8; 2] {
    after_more(checksum, !by)
}

/// The IPv4 header checksum (as on the wire) after TTL was decremented: the checksum grows by 0x0100, with the end-around
/// carry; 0xffff becomes 0 as RFC 1624 section 3 wants. Calculated in the other byte order, where that is 1 (RFC 1071 section 2.B).
#[inline(always)]
pub const fn after_ttl_decrement(checksum: [u8; 2]) -> [u8; 2] {
    let sum = (u16::from_le_bytes(checksum) as u32).wrapping_add(1);
    // 1 from 0xffff on, without a jump
    let carry = sum.wrapping_add(1) >> 16;
    (sum.wrapping_add(carry) as u16).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 section 4.1, word by word in network order.
    fn rfc1071(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn equals_the_rfcs_algorithm(words in proptest::collection::vec(any::<u32>(), 0..64)) {
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
            let ours = finish(words.iter().map(|w| u64::from(*w)).sum());
            prop_assert_eq!(u16::from_be_bytes(ours.to_ne_bytes()), rfc1071(&bytes));
        }

        #[test]
        fn a_decremented_ttl_keeps_the_header_valid(mut header in any::<[u8; 20]>(), ttl in 1_u8..) {
            header[8] = ttl;
            header[10..12].fill(0);
            let sum = rfc1071(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            prop_assert_eq!(rfc1071(&header), 0);
            header[8] -= 1;
            header[10..12].copy_from_slice(&after_ttl_decrement(sum.to_be_bytes()));
            prop_assert_eq!(rfc1071(&header), 0);
            // RFC 1624 equation 3, and Linux's ip_decrease_ttl
            let (old, new) = (u16::from_be_bytes([ttl, header[9]]), u16::from_be_bytes([ttl - 1, header[9]]));
            let mut eqn3 = u32::from(!sum) + u32::from(!old) + u32::from(new);
            eqn3 = (eqn3 & 0xffff) + (eqn3 >> 16);
            eqn3 = (eqn3 & 0xffff) + (eqn3 >> 16);
            prop_assert_eq!(u16::from_be_bytes(after_ttl_decrement(sum.to_be_bytes())), !(eqn3 as u16));
        }

        #[test]
        fn few_words_are_folded_as_many(words in proptest::collection::vec(prop_oneof![any::<u32>(), Just(u32::MAX), Just(0xffff_0000)], 0..8)) {
            let sum = words.iter().map(|w| u64::from(*w)).sum();
            prop_assert_eq!(finish_few(sum), finish(sum));
        }
    }
}
