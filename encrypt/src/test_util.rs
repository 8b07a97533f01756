//! What several tests need.

use crate::keys::{EXPORTER_SECRET, SessionSecret};

/// Bytes from hexadecimal digits; white space between them is ignored.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text
        .split_whitespace()
        .flat_map(str::chars)
        .map(|c| c.to_digit(16).unwrap())
        .collect();
    assert_eq!(digits.len() % 2, 0, "odd number of digits");
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap())
        .collect()
}

/// A session secret of the bytes `first`, `first + 1`, ...
pub(crate) fn secret(first: u8) -> SessionSecret {
    SessionSecret::export(|out, _, _| {
        assert_eq!(out.len(), EXPORTER_SECRET);
        for (index, byte) in (0u8..).zip(out) {
            *byte = first.wrapping_add(index);
        }
        Ok::<(), ()>(())
    })
    .unwrap()
}
