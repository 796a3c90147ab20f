//! Numbers with a fraction, and words of other rooms, as they are typed.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

/// A number from `MIN` to `MAX` thousandths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Real<const MIN: i64, const MAX: i64>(pub(super) f32);

/// The weight of a signal, -20 to 20, or "off".
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Weight(pub(super) Option<f32>);

/// A number within bounds.
struct Within<const MIN: i64, const MAX: i64>;

impl<const MIN: i64, const MAX: i64> Visitor<'_> for Within<MIN, MAX> {
    type Value = Real<MIN, MAX>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [least, most] = bounds(MIN, MAX);
        write!(out, "a number from {least} to {most}")
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Self::Value, E> {
        let [least, most] = bounds(MIN, MAX);
        if (least..=most).contains(&number) {
            return Ok(Real(number as f32));
        }
        Err(E::custom(format!("`{number}` is not in range; type a number from {least} to {most}")))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        self.visit_f64(number as f64)
    }
}

fn bounds(least: i64, most: i64) -> [f64; 2] {
    [least, most].map(|thousandths| thousandths as f64 / 1000.0)
}

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Real<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Within)
    }
}

/// A number, or a word.
struct NumberOrOff;

impl Visitor<'_> for NumberOrOff {
    type Value = Weight;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a number from -20 to 20, or \"off\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Weight, E> {
        if text == "off" { Ok(Weight(None)) } else { Err(E::invalid_type(de::Unexpected::Str(text), &self)) }
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Weight, E> {
        Within::<-20_000, 20_000>.visit_f64(number).map(|Real(weight)| Weight(Some(weight)))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Weight, E> {
        self.visit_f64(number as f64)
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(NumberOrOff)
    }
}
