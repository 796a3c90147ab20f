//! One value of a JSON object, and what a field makes of it. Servers write numbers as numbers or as text; text that is empty
//! or `-`, and the number -1, is what they write who can't leave a field out: it counts as absent.

use std::{borrow::Cow, net::IpAddr, time::Duration};

/// A value, of whatever type.
pub(super) enum Scalar<'a> {
    Text(Cow<'a, str>),
    Whole(u64),
    Number(f64),
    Truth(bool),
    Null,
    /// An array or an object.
    Other,
}

/// What a field does with a value: `false` if it is of a wrong type.
pub(super) type Taken = bool;

/// The text of a value, or nothing if that is absent; `Err` is the value itself, of another type.
fn present(value: Scalar<'_>) -> Result<Option<Cow<'_, str>>, Scalar<'_>> {
    match value {
        Scalar::Null => Ok(None),
        Scalar::Text(text) => Ok(Some(text).filter(|text| !matches!(&**text, "" | "-"))),
        other => Err(other),
    }
}

pub(super) fn text<'a>(field: &mut Option<Cow<'a, str>>, value: Scalar<'a>) -> Taken {
    match present(value) {
        Ok(text) => *field = text,
        Err(_) => return false,
    }
    true
}

/// Sets a field to what `from_text` or `from_other` makes of a value.
fn set<T>(
    field: &mut Option<T>,
    value: Scalar<'_>,
    from_text: impl Fn(&str) -> Option<T>,
    from_other: impl Fn(Scalar<'_>) -> Option<T>,
) -> Taken {
    let absent = |field: &mut Option<T>| {
        *field = None;
        true
    };
    let made = match present(value) {
        Ok(None) => return absent(field),
        // As HAProxy says of what never came to be.
        Ok(Some(text)) if text == "-1" => return absent(field),
        Err(Scalar::Number(-1.0)) => return absent(field),
        Ok(Some(text)) => from_text(&text),
        Err(other) => from_other(other),
    };
    let taken = made.is_some();
    *field = made;
    taken
}

pub(super) fn address(field: &mut Option<IpAddr>, value: Scalar<'_>) -> Taken {
    let parse = |text: &str| {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        // A socket for both families writes an IPv4 client as ::ffff:192.0.2.7; on the wire it has the other form.
        bare.parse::<IpAddr>().ok().map(|address| address.to_canonical())
    };
    set(field, value, parse, |_| None)
}

pub(super) fn port(field: &mut Option<u16>, value: Scalar<'_>) -> Taken {
    let fits = |port: u64| u16::try_from(port).ok().filter(|port| *port > 0);
    set(
        field,
        value,
        |text| fits(text.parse().ok()?),
        |other| if let Scalar::Whole(n) = other { fits(n) } else { None },
    )
}

pub(super) fn status(field: &mut Option<u16>, value: Scalar<'_>) -> Taken {
    let fits = |status: u64| u16::try_from(status).ok();
    set(
        field,
        value,
        |text| fits(text.parse().ok()?),
        |other| if let Scalar::Whole(n) = other { fits(n) } else { None },
    )
}

pub(super) fn whole(field: &mut Option<u64>, value: Scalar<'_>) -> Taken {
    set(field, value, |text| text.parse().ok(), |other| if let Scalar::Whole(n) = other { Some(n) } else { None })
}

fn number(value: Scalar<'_>) -> Option<f64> {
    match value {
        Scalar::Whole(number) => Some(number as f64),
        Scalar::Number(number) => Some(number),
        _ => None,
    }
}

pub(super) fn time(field: &mut Option<f64>, value: Scalar<'_>) -> Taken {
    let fits = |time: f64| (time.is_finite() && time >= 0.0).then_some(time);
    set(field, value, |text| fits(text.parse().ok()?), |other| fits(number(other)?))
}

fn span(field: &mut Option<Duration>, value: Scalar<'_>, unit: f64) -> Taken {
    // Division by a power of ten keeps what is exact in decimal; multiplication by its inverse doesn't.
    let fits = |time: f64| Duration::try_from_secs_f64(time / unit).ok();
    set(field, value, |text| fits(text.parse().ok()?), |other| fits(number(other)?))
}

pub(super) fn seconds(field: &mut Option<Duration>, value: Scalar<'_>) -> Taken {
    span(field, value, 1.0)
}

pub(super) fn milliseconds(field: &mut Option<Duration>, value: Scalar<'_>) -> Taken {
    span(field, value, 1e3)
}

pub(super) fn microseconds(field: &mut Option<Duration>, value: Scalar<'_>) -> Taken {
    span(field, value, 1e6)
}

pub(super) fn truth(field: &mut Option<bool>, value: Scalar<'_>) -> Taken {
    let parse = |text: &str| match text {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    };
    let from = |other: Scalar<'_>| match other {
        Scalar::Truth(truth) => Some(truth),
        Scalar::Whole(number @ 0..=1) => Some(number == 1),
        _ => None,
    };
    set(field, value, parse, from)
}
