//! The beginning of a header in lower case, on the stack.

use super::LOOKED_AT;

/// Text in lower case (ASCII), [`LOOKED_AT`] bytes at most.
pub(super) struct Lowercase {
    bytes: [u8; LOOKED_AT],
    length: usize,
}

impl Lowercase {
    pub(super) fn of(text: &str) -> Self {
        let cut = text.get(..text.floor_char_boundary(LOOKED_AT)).unwrap_or_default();
        let mut bytes = [0; LOOKED_AT];
        for (place, byte) in bytes.iter_mut().zip(cut.bytes()) {
            *place = byte.to_ascii_lowercase();
        }
        Self { bytes, length: cut.len() }
    }

    pub(super) fn as_str(&self) -> &str {
        // It was text, and ASCII letters became other ASCII letters.
        self.bytes.get(..self.length).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}
