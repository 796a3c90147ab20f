//! What a verdict that an operator asks for is to do: text in (`10/s`), [`Terms`] out.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The most connections of a rate, and of a burst.
const COUNT_MAX: u32 = 1_000_000;

/// How fast new connections may come: so many in a second, minute or hour, and so many at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RateLimit {
    count: u32,
    unit: Unit,
    burst: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Unit {
    Second,
    Minute,
    Hour,
}

impl RateLimit {
    /// So many in a minute, one at least, and one at once.
    #[must_use]
    pub const fn per_minute(count: u32) -> Self {
        Self { count: if count == 0 { 1 } else { count }, unit: Unit::Minute, burst: 1 }
    }

    /// From one connection to the next.
    #[must_use]
    pub fn interval(self) -> Duration {
        let unit = match self.unit {
            Unit::Second => 1,
            Unit::Minute => 60,
            Unit::Hour => 3600,
        };
        Duration::from_secs(unit) / self.count
    }

    /// How far ahead of that a burst runs: of `n` connections at once, `n - 1` intervals.
    #[must_use]
    pub fn tolerance(self) -> Duration {
        self.interval() * (self.burst - 1)
    }
}

/// A text that is no rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no rate of new connections; type for example `10/s`, `100/m`, or `10/s:50` for 50 at once")]
pub struct NotARate(String);

impl FromStr for RateLimit {
    type Err = NotARate;

    fn from_str(text: &str) -> Result<Self, NotARate> {
        let read = || {
            let (rate, burst) = text.split_once(':').map_or((text, None), |(rate, burst)| (rate, Some(burst)));
            let (count, unit) = rate.split_once('/')?;
            let number = |text: &str| {
                let digits = text.bytes().all(|byte| byte.is_ascii_digit());
                text.parse().ok().filter(|number| digits && (1..=COUNT_MAX).contains(number))
            };
            let unit = match unit {
                "s" => Unit::Second,
                "m" => Unit::Minute,
                "h" => Unit::Hour,
                _ => return None,
            };
            let count = number(count)?;
            // A second's worth, one at least.
            let own = if unit == Unit::Second { count } else { 1 };
            Some(Self { count, unit, burst: burst.map_or(Some(own), number)? })
        };
        read().ok_or_else(|| NotARate(text.to_owned()))
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Second => 's',
            Unit::Minute => 'm',
            Unit::Hour => 'h',
        };
        write!(out, "{}/{unit}:{}", self.count, self.burst)
    }
}

impl TryFrom<String> for RateLimit {
    type Error = NotARate;

    fn try_from(text: String) -> Result<Self, NotARate> {
        text.parse()
    }
}

impl From<RateLimit> for String {
    fn from(rate: RateLimit) -> String {
        rate.to_string()
    }
}

/// What a verdict does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Drops what comes.
    #[default]
    Block,
    /// Drops new connections beyond a rate.
    RateLimit(RateLimit),
    /// Counts what a block would drop.
    Observe,
}

/// What a verdict is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Packets, in the kernel.
    #[default]
    Packets,
    /// Requests, of which a web server asks the daemon.
    Inline,
}

impl Layer {
    /// Whether it is the one that needs no word.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// As a flag, with a space before it.
impl fmt::Display for Layer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Packets => "",
            Self::Inline => " --at inline",
        })
    }
}

/// What a verdict does, to what, and in whose name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Terms {
    /// What it does.
    pub measure: Measure,
    /// To what.
    #[serde(skip_serializing_if = "Layer::is_default")]
    pub at: Layer,
    /// Nobody ordered it by hand: it holds only in mode enforce, and makes room for others.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub automatic: bool,
}

impl Terms {
    /// Whether they are those of a plain block.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// As flags of `detector block`, each with a space before it.
impl fmt::Display for Terms {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.measure {
            Measure::Block => {}
            Measure::RateLimit(rate) => write!(out, " --limit {rate}")?,
            Measure::Observe => out.write_str(" --observe")?,
        }
        self.at.fmt(out)?;
        out.write_str(if self.automatic { " --automatic" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_are_intervals_and_bursts() {
        let rate = |text: &str| text.parse::<RateLimit>().map(|rate| (rate.interval(), rate.tolerance()));
        let ms = Duration::from_millis;
        assert_eq!(rate("10/s"), Ok((ms(100), ms(900))));
        assert_eq!(rate("10/s:1"), Ok((ms(100), ms(0))));
        assert_eq!(rate("60/m"), Ok((ms(1000), ms(0))));
        assert_eq!(rate("1/h:3"), Ok((ms(3_600_000), ms(7_200_000))));
        for wrong in ["", "10", "10/", "/s", "0/s", "10/d", "10/s:", "10/s:0", "1e3/s", "+1/s", "1000001/s", "10/s:1:1"]
        {
            assert!(rate(wrong).is_err_and(|error| error.to_string().contains("type for example")), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(text in "[0-9]{1,7}/[smh](:[0-9]{1,7})?") {
            if let Ok(rate) = text.parse::<RateLimit>() {
                prop_assert_eq!(rate.to_string().parse(), Ok(rate));
                prop_assert!(rate.interval() > Duration::ZERO);
            }
        }

        #[test]
        fn any_text_is_a_rate_or_an_error(text: String) {
            let _ = text.parse::<RateLimit>();
        }
    }
}
