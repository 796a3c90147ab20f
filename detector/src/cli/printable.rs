//! Text that came from elsewhere, made harmless for a terminal (threats.md T23, T24): what a terminal or a reader's
//! eye obeys becomes a visible escape.

use std::fmt::Write;

/// Whether a terminal prints it as one thing, where it stands: no control characters (C0, DEL, C1), no marks that
/// turn the direction of writing (Unicode Standard Annex 9), nothing that is invisible or ends a line.
fn is_harmless(c: char) -> bool {
    !(c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'))
}

fn escape(text: &str, keep: impl Fn(char) -> bool, escape: impl Fn(&mut String, char)) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if keep(c) || is_harmless(c) { out.push(c) } else { escape(&mut out, c) }
    }
    out
}

/// Writing into a `String` can't fail.
fn rust_escape(out: &mut String, c: char) {
    let _ = write!(out, "{}", c.escape_unicode());
}

/// One line: `\u{1b}` for an ESC.
#[must_use]
pub fn line(text: &str) -> String {
    escape(text, |_| false, rust_escape)
}

/// The same, with line ends left in.
#[must_use]
pub fn lines(text: &str) -> String {
    escape(text, |c| c == '\n', rust_escape)
}

/// A JSON text without raw line ends: such characters stand in its strings only, where JSON has an escape for them.
#[must_use]
pub fn json(text: &str) -> String {
    escape(
        text,
        |_| false,
        |out, c| {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_terminal_obeys_is_left() {
        assert_eq!(line("a\u{1b}[31m\n\u{9b}b\u{202e}é"), r"a\u{1b}[31m\u{a}\u{9b}b\u{202e}é");
        assert_eq!(lines("a\n\u{7}b"), "a\n\\u{7}b");
    }

    proptest::proptest! {
        #[test]
        fn json_stays_the_same_json(text in "(?s).{0,60}") {
            let value = serde_json::Value::from(text);
            let escaped = json(&value.to_string());
            proptest::prop_assert!(escaped.chars().all(is_harmless));
            proptest::prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
        }
    }
}
