//! From a frame to its JSON. Syslog puts a header before it: RFC 3164 as nginx and HAProxy write it (`<190>Nov 22 16:00:00
//! web nginx: {`), RFC 5424 (`<134>1 2026-11-22T16:00:00Z web haproxy 7 - - {`), or the priority alone.

use super::{FRAME_MAX, Frame, Rejected, object};

/// Reads one frame. `mended` is where its text goes if that isn't JSON as it stands: nginx hands on bytes that aren't
/// UTF-8, and Apache writes such bytes as `\xc3`. A client chooses them, so they must not cost the report.
///
/// # Errors
/// Why it is no report.
pub fn read<'a>(frame: &'a [u8], mended: &'a mut String) -> Result<Frame<'a>, Rejected> {
    if frame.len() > FRAME_MAX {
        return Err(Rejected::Long);
    }
    let json = message(frame);
    // Checked once as a whole, which is several times as fast as text by text.
    let text = std::str::from_utf8(json).map_err(|_| Rejected::Malformed);
    match text.and_then(object::read) {
        Err(Rejected::Malformed) => {}
        read => return read,
    }
    *mended = mend(json).ok_or(Rejected::Malformed)?;
    object::read(mended)
}

/// What follows the header, if there is one.
fn message(frame: &[u8]) -> &[u8] {
    // rsyslog ends a message with a NUL, others with a line's end.
    let end = frame.iter().rposition(|byte| !matches!(byte, 0 | b'\n' | b'\r' | b' ')).map_or(0, |last| last + 1);
    let frame = frame.get(..end).unwrap_or_default();
    let Some(rest) = after_priority(frame) else { return frame };
    match rest.strip_prefix(b"1 ") {
        Some(rest) => after_rfc5424(rest).unwrap_or_default(),
        // RFC 3164 section 4.1: time, host and tag are words without a brace.
        None => rest.iter().position(|&byte| byte == b'{').and_then(|start| rest.get(start..)).unwrap_or(rest),
    }
}

/// Behind `<134>`.
fn after_priority(frame: &[u8]) -> Option<&[u8]> {
    let rest = frame.strip_prefix(b"<")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let rest = rest.get(digits..)?.strip_prefix(b">")?;
    (1..=3).contains(&digits).then_some(rest)
}

/// RFC 5424 section 6: behind the version come five words, the structured data, and the message.
fn after_rfc5424(mut rest: &[u8]) -> Option<&[u8]> {
    for _ in 0..5 {
        rest = rest.get(rest.iter().position(|&byte| byte == b' ')? + 1..)?;
    }
    rest = match rest.strip_prefix(b"-") {
        Some(rest) => rest,
        None => after_structured_data(rest)?,
    };
    let rest = rest.strip_prefix(b" ")?;
    Some(rest.strip_prefix("\u{feff}".as_bytes()).unwrap_or(rest))
}

/// Behind `[id name="value"][id …]`; a value has `"`, `\` and `]` behind a backslash.
fn after_structured_data(mut rest: &[u8]) -> Option<&[u8]> {
    while rest.first() == Some(&b'[') {
        let (mut quoted, mut escaped) = (false, false);
        let end = rest.iter().position(|&byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b']' if !quoted => return true,
                _ => {}
            }
            false
        });
        rest = rest.get(end? + 1..)?;
    }
    Some(rest)
}

/// The text with Apache's escapes as JSON has them, and with what no text can hold replaced: bytes that aren't UTF-8, halves
/// of surrogate pairs. Nothing if there is no such thing.
fn mend(json: &[u8]) -> Option<String> {
    let mut mended = Vec::with_capacity(json.len() + 64);
    let (mut rest, mut changed) = (json, false);
    while let Some(at) = rest.iter().position(|&byte| byte == b'\\') {
        let (before, escape) = rest.split_at(at);
        mended.extend_from_slice(before);
        let (taken, instead) = mended_escape(escape);
        changed |= !matches!(instead, Instead::Same);
        match instead {
            Instead::Byte(byte) => mended.push(byte),
            Instead::Text(text) => mended.extend_from_slice(text.as_bytes()),
            Instead::Same => mended.extend_from_slice(escape.get(..taken).unwrap_or(escape)),
        }
        rest = escape.get(taken..).unwrap_or_default();
    }
    mended.extend_from_slice(rest);
    match String::from_utf8(mended) {
        Ok(text) => changed.then_some(text),
        Err(error) => Some(String::from_utf8_lossy(error.as_bytes()).into_owned()),
    }
}

/// What stands in place of an escape.
enum Instead {
    Byte(u8),
    Text(String),
    Same,
}

/// How many bytes the escape has that `text` begins with, and what stands in its place.
fn mended_escape(text: &[u8]) -> (usize, Instead) {
    let hex = |from: usize, digits: usize| {
        let digits = std::str::from_utf8(text.get(from..from + digits)?).ok()?;
        // `from_str_radix` alone would take a sign.
        digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok()).flatten()
    };
    match text.get(1) {
        Some(b'x') => match hex(2, 2) {
            Some(byte @ 0x80..=0xff) => (4, Instead::Byte(byte as u8)),
            Some(control) => (4, Instead::Text(format!("\\u{control:04x}"))),
            None => (2, Instead::Same),
        },
        Some(b'v') => (2, Instead::Text("\\u000b".to_owned())),
        Some(b'u') => match hex(2, 4) {
            Some(0xd800..=0xdbff) if text.get(6..8) == Some(b"\\u") && matches!(hex(8, 4), Some(0xdc00..=0xdfff)) => {
                (12, Instead::Same)
            }
            Some(0xd800..=0xdfff) => (6, Instead::Text("\\ufffd".to_owned())),
            _ => (2, Instead::Same),
        },
        _ => (2, Instead::Same),
    }
}
