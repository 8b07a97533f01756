//! What the targets have in common.

/// Takes what libFuzzer made up, piece by piece; what is behind its end is zero.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// Whether all was taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// A number of 16 bits.
    pub fn short(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    /// A number of 64 bits.
    pub fn long(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    /// As many bytes as two bytes say, or as are left.
    pub fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.short()).min(self.0.len());
        let (taken, left) = self.0.split_at(length);
        self.0 = left;
        taken
    }

    /// So many bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let length = N.min(self.0.len());
        array[..length].copy_from_slice(&self.0[..length]);
        self.0 = &self.0[length..];
        array
    }
}
