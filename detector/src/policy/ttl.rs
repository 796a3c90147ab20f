//! How long a verdict lasts: text as an operator types it (`90s`, `1h`, `7d`, `forever`) in, [`Ttl`] out.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longer is typed as `forever`: nanoseconds of CLOCK_MONOTONIC in 64 bits end after 584 years.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

/// A time to live, one second at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Ttl {
    /// Until this much time has passed.
    For(Duration),
    /// Until an operator takes it back.
    Forever,
}

impl Ttl {
    /// Whole seconds, one at least, rounded up: what remains of another can be typed again. `None` is forever.
    #[must_use]
    pub fn as_secs(self) -> Option<u64> {
        match self {
            Ttl::For(duration) => Some((duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).max(1)),
            Ttl::Forever => None,
        }
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_secs() {
            Some(secs) => {
                let text = humantime::format_duration(Duration::from_secs(secs)).to_string();
                out.write_str(&text.replace(' ', ""))
            }
            None => out.write_str("forever"),
        }
    }
}

/// Not a time to live.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no time to live: {reason}; type for example `90s`, `1h`, `7d` or `forever`")]
pub struct TtlError {
    text: String,
    reason: String,
}

impl FromStr for Ttl {
    type Err = TtlError;

    fn from_str(text: &str) -> Result<Self, TtlError> {
        let refuse = |reason: String| TtlError { text: text.to_owned(), reason };
        if text == "forever" {
            return Ok(Ttl::Forever);
        }
        let duration = humantime::parse_duration(text).map_err(|error| {
            let unitless = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            refuse(if unitless { "it has no unit".to_owned() } else { error.to_string() })
        })?;
        if duration < Duration::from_secs(1) {
            return Err(refuse("it is shorter than one second".to_owned()));
        }
        if duration > LONGEST {
            return Err(refuse("it is longer than 100 years".to_owned()));
        }
        Ok(Ttl::For(duration))
    }
}

impl TryFrom<String> for Ttl {
    type Error = TtlError;

    fn try_from(text: String) -> Result<Self, TtlError> {
        text.parse()
    }
}

impl From<Ttl> for String {
    fn from(ttl: Ttl) -> String {
        ttl.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_operators_type() {
        assert_eq!("1h".parse(), Ok(Ttl::For(Duration::from_secs(3600))));
        assert_eq!("1h 30m".parse(), Ok(Ttl::For(Duration::from_secs(5400))));
        assert_eq!("7d".parse(), Ok(Ttl::For(Duration::from_secs(7 * 86_400))));
        assert_eq!("forever".parse(), Ok(Ttl::Forever));
    }

    #[test]
    fn display_parses_back() {
        for text in ["1s", "1h30m", "7days", "forever"] {
            let ttl: Ttl = text.parse().unwrap();
            assert_eq!(ttl.to_string(), text);
        }
        assert_eq!(Ttl::For(Duration::from_millis(1500)).to_string(), "2s");
        assert_eq!(Ttl::For(Duration::ZERO).to_string(), "1s");
    }

    #[test]
    fn refusals_say_what_to_type() {
        let error = "10".parse::<Ttl>().unwrap_err().to_string();
        assert_eq!(error, "`10` is no time to live: it has no unit; type for example `90s`, `1h`, `7d` or `forever`");
        for text in ["", "0s", "999ms", "tomorrow", "-1h", "200years", "99999999999999999999s", "1h forever"] {
            assert!(text.parse::<Ttl>().is_err(), "{text}");
        }
    }
}
