//! The replay window (RFC 4303 section 3.4.3) and the high half of the sequence number (appendix
//! A2.2).

use crate::Refusal;

/// Words of the bitmap. One of them is always partly ahead of the window (RFC 6479 section 2), so
/// the window is one word shorter than the bitmap.
pub const WORDS: usize = 64;
/// Sequence numbers that the window spans: 4,032. With 1,408-byte packets at 10 Gbit/s that is 4.5
/// ms of reordering; the RFC asks for 32 at least, the design for 1,024.
pub const WINDOW: u64 = Window::<WORDS>::SPAN;

const WORD_BITS: u64 = u64::BITS as u64;

/// Which sequence numbers of one inbound SA were received: everything up to the highest, as far as
/// the window goes.
///
/// A ring of bits in the manner of RFC 6479: moving the window forward clears whole words and never
/// shifts. `N` is the number of words.
#[derive(Clone, Debug)]
pub struct Window<const N: usize = WORDS> {
    /// Highest sequence number received and authenticated; zero before the first.
    top: u64,
    bits: [u64; N],
}

impl<const N: usize> Default for Window<N> {
    fn default() -> Self {
        Self {
            top: 0,
            bits: [0; N],
        }
    }
}

impl<const N: usize> Window<N> {
    /// Sequence numbers that the window spans, the highest received included.
    pub const SPAN: u64 = {
        assert!(N >= 2, "a window needs a word ahead of it");
        (N as u64 - 1) * WORD_BITS
    };

    /// A window that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A window that goes on where another one, of another process, left off.
    pub(crate) fn resume(top: u64, bits: [u64; N]) -> Self {
        Self { top, bits }
    }

    /// What [`Window::resume`] takes.
    pub(crate) fn bits(&self) -> &[u64; N] {
        &self.bits
    }

    /// Highest sequence number received, zero before the first.
    pub fn top(&self) -> u64 {
        self.top
    }

    /// The 64-bit sequence number whose low half was received (RFC 4303 appendix A2.2).
    ///
    /// It is the one in the window or, failing that, the next one to the right of it.
    /// Nothing when there is no such number: left of the window of an association that has not used
    /// up its first 2^32, or right of the last. A guess only: the ICV says whether it is right.
    /// More than 2^32 lost packets in a row are not recovered from (appendix A3); keys change long
    /// before.
    pub fn reconstruct(&self, low: u32) -> Option<u64> {
        let (top_high, top_low) = ((self.top >> 32) as u32, self.top as u32);
        // Wraps below zero when the window spans two subspaces: the RFC compares with that.
        let bottom = top_low.wrapping_sub(Self::SPAN as u32 - 1);
        let spans_two = u64::from(top_low) < Self::SPAN - 1;
        let high = match (spans_two, low >= bottom) {
            (false, true) | (true, false) => Some(top_high),
            (false, false) => top_high.checked_add(1),
            (true, true) => top_high.checked_sub(1),
        }?;
        Some(u64::from(high) << 32 | u64::from(low))
    }

    /// Whether a reconstructed number whose packet failed its integrity check was likelier left of
    /// the window than so far ahead.
    ///
    /// A packet that comes too late is taken for one of the next subspace, since only the low half
    /// of its number is sent, and then fails its check. More than 2^31 ahead it is nearer to being
    /// late, and is reported as that.
    pub(crate) fn is_rather_late(&self, sequence: u64) -> bool {
        sequence >> 32 > 0 && sequence.saturating_sub(self.top) > 1 << 31
    }

    /// Whether this sequence number may still be received. Changes nothing.
    ///
    /// # Errors
    /// [`Refusal::Replayed`] if it was received, or is zero, which no sender uses (RFC 4303 section
    /// 3.3.3); [`Refusal::TooOld`] if it is left of the window.
    pub fn check(&self, sequence: u64) -> Result<(), Refusal> {
        if sequence == 0 {
            return Err(Refusal::Replayed);
        }
        if sequence > self.top {
            return Ok(());
        }
        if self.top - sequence >= Self::SPAN {
            return Err(Refusal::TooOld);
        }
        let (word, bit) = Self::place(sequence);
        if self.bits[word] & bit == 0 {
            Ok(())
        } else {
            Err(Refusal::Replayed)
        }
    }

    /// Takes note of a sequence number. Only after its packet's ICV was found right (RFC 4303
    /// section 3.4.3).
    ///
    /// # Errors
    /// As [`Window::check`], and then nothing has changed.
    pub fn accept(&mut self, sequence: u64) -> Result<(), Refusal> {
        self.check(sequence)?;
        if sequence > self.top {
            let first = self.top / WORD_BITS;
            let ahead = (sequence / WORD_BITS - first).min(N as u64);
            for word in 1..=ahead {
                self.bits[Self::slot(first + word)] = 0;
            }
            self.top = sequence;
        }
        let (word, bit) = Self::place(sequence);
        self.bits[word] |= bit;
        Ok(())
    }

    fn slot(word: u64) -> usize {
        (word % N as u64) as usize
    }

    fn place(sequence: u64) -> (usize, u64) {
        (
            Self::slot(sequence / WORD_BITS),
            1 << (sequence % WORD_BITS),
        )
    }
}

#[cfg(test)]
mod tests;
