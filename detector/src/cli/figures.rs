//! Numbers as people read them.

/// `1234567` as `1,234,567`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Seconds in their two largest units: `3d 4h`, `59m 3s`, `0s`.
pub(super) fn seconds(secs: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let largest = UNITS.iter().position(|(unit, _)| secs >= *unit).unwrap_or(UNITS.len() - 1);
    let (unit, name) = UNITS[largest];
    let rest = UNITS.get(largest + 1).map(|(smaller, name)| (secs % unit / smaller, name));
    match rest {
        Some((count @ 1.., smaller)) => format!("{}{name} {count}{smaller}", secs / unit),
        _ => format!("{}{name}", secs / unit),
    }
}

/// Microseconds, or milliseconds from ten of them on.
pub(super) fn micros(micros: u64) -> String {
    if micros < 10_000 { format!("{} µs", count(micros)) } else { format!("{} ms", count(micros / 1000)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let counts = [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")];
        assert!(counts.iter().all(|(number, text)| count(*number) == *text));
        let times =
            [(0, "0s"), (59, "59s"), (60, "1m"), (3543, "59m 3s"), (3600, "1h"), (3605, "1h"), (100_000, "1d 3h")];
        assert!(times.iter().all(|(secs, text)| seconds(*secs) == *text));
        assert_eq!((micros(85), micros(9_999), micros(12_345)), ("85 µs".into(), "9,999 µs".into(), "12 ms".into()));
    }
}
