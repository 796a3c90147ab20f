//! GREASE (RFC 8701): values that clients send at random so that servers learn to ignore the unknown.

/// Whether `code` is one of the sixteen GREASE values: both bytes equal, low nibble `a`. 0x1a2a and 0xeeee are not.
#[must_use]
pub const fn is_grease(code: u16) -> bool {
    code & 0x0f0f == 0x0a0a && code >> 8 == code & 0xff
}

#[cfg(test)]
mod tests {
    use super::is_grease;

    #[test]
    fn there_are_sixteen() {
        let values: Vec<u16> = (0..=u16::MAX).filter(|code| is_grease(*code)).collect();
        let expected: Vec<u16> = (0..16).map(|nibble| nibble * 0x1010 + 0x0a0a).collect();
        assert_eq!(values, expected);
    }
}
