//! GREASE (RFC 8701): values that clients send at random so that servers learn to ignore the unknown.

pub use detector_common::key::is_grease;

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
