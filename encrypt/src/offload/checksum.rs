//! The Internet checksum (RFC 1071).
//!
//! Sums are folded to 16 bits, of words in network byte order, and not complemented. Zero and
//! 0xffff stand for the same number; a sum is zero only if all that was added is.

use crate::userspace::sys;

/// Fewer bytes than this are not worth the choice between processors.
const SHORT: usize = 64;

/// Sum of these bytes; an odd one at the end is the high half of a word (RFC 1071 section 4.1).
pub fn sum(bytes: &[u8]) -> u16 {
    // Summed in the machine's byte order: the sum's bytes are in that order, too (RFC 1071
    // section 2 B).
    let total = if bytes.len() < SHORT {
        words(bytes)
    } else {
        sys::sum_words(bytes)
    };
    u16::from_be_bytes(fold(total).to_ne_bytes())
}

/// Sum of the words of 32 bits, in the machine's byte order, the last one filled up with zeros. A body
/// for functions that are compiled for one processor or another.
#[inline(always)]
pub(crate) fn words(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<64>();
    let (quarters, rest) = rest.as_chunks::<16>();
    let (words, tail) = rest.as_chunks::<4>();
    // Words of 32 bits in 64: neither a lane nor their sum overflows below 2^32 words.
    let mut total = if blocks.is_empty() {
        0
    } else {
        lanes::<16, 64>(blocks)
    };
    total += lanes::<4, 16>(quarters);
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    let mut last = [0u8; 4];
    for (to, from) in last.iter_mut().zip(tail) {
        *to = *from;
    }
    total + u64::from(u32::from_ne_bytes(last))
}

/// Sum of the words of blocks of `BYTES`, with a lane for each of the `LANES` words of a block.
#[inline(always)]
fn lanes<const LANES: usize, const BYTES: usize>(blocks: &[[u8; BYTES]]) -> u64 {
    let mut lanes = [0u64; LANES];
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    lanes.iter().sum()
}

/// Sum of two sums.
pub const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    // No second carry: with one, the sum is at most 0xfffe.
    sum + carry as u16
}

/// Sum of the pseudo-header (RFC 9293 section 3.1, RFC 768, RFC 8200 section 8.1): source and
/// destination address as they stand one behind the other in the IP header, protocol, and length of
/// transport header and payload.
pub fn pseudo(addresses: &[u8], protocol: u8, length: usize) -> u16 {
    let length = fold(length as u64);
    add(add(sum(addresses), u16::from(protocol)), length)
}

/// What goes into a UDP checksum field: the complement, and never zero, which means that there is
/// none (RFC 768). Where that has no meaning, the complement alone is right.
pub const fn finish(sum: u16) -> u16 {
    match !sum {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// Whether the sum over a range, its checksum field included, is that of a right one.
pub const fn is_right(sum: u16) -> bool {
    sum == 0xffff
}

const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(bytes: &[u8]) -> u16 {
        bytes.chunks(2).fold(0, |sum, pair| {
            let low = pair.get(1).copied().unwrap_or(0);
            let wide = u32::from(sum) + u32::from(u16::from_be_bytes([pair[0], low]));
            u16::try_from(wide % 0x1_0000 + wide / 0x1_0000).unwrap()
        })
    }

    #[test]
    fn the_example_of_the_rfc_comes_out() {
        // RFC 1071 section 3.
        assert_eq!(
            sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            0xddf2
        );
        assert_eq!(sum(&[]), 0);
        assert_eq!(sum(&[0xab]), 0xab00);
        assert_eq!(finish(0xffff), 0xffff);
        assert_eq!(finish(0), 0xffff);
        assert_eq!(finish(0xddf2), 0x220d);
    }

    #[test]
    fn the_longest_and_largest_do_not_overflow() {
        for length in [65_535, 65_536, 1 << 20, (1 << 20) + 3] {
            let bytes = vec![0xff; length];
            assert_eq!(sum(&bytes), naive(&bytes), "{length}");
        }
        assert_eq!(fold(u64::MAX), 0xffff);
        assert_eq!(add(0xffff, 0xffff), 0xffff);
        assert_eq!(add(0xffff, 1), 1);
        assert_eq!(pseudo(&[], 0, 0x1_0001), 2);
    }

    proptest! {
        #[test]
        fn it_is_what_a_word_by_word_sum_is(
            bytes in prop::collection::vec(any::<u8>(), 0..3000), from in 0usize..8,
        ) {
            let bytes = bytes.get(from..).unwrap_or(&[]);
            prop_assert_eq!(sum(bytes), naive(bytes));
        }

        #[test]
        fn parts_of_even_length_add_up(
            bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0usize..150,
        ) {
            let (a, b) = bytes.split_at((at * 2).min(bytes.len() / 2 * 2));
            prop_assert_eq!(add(sum(a), sum(b)), sum(&bytes));
        }
    }
}
