//! From a JSON object to the fields of a report. One pass, borrowing; what nobody wants is walked over. Bound:
//! [`DEPTH_MAX`] values within each other, so that a hostile frame can't use up the stack.

use std::{borrow::Cow, fmt};

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{
    Frame, Rejected, Report, VERSION, caddy,
    schema::{self, Place},
    value::Scalar,
};

/// The most objects and arrays within each other, the report itself included.
pub const DEPTH_MAX: u32 = 16;

/// What is known while reading.
#[derive(Default)]
struct Reading<'a> {
    frame: Frame<'a>,
    version: Option<u64>,
    caddy: bool,
    /// [`DEPTH_MAX`] was reached.
    deep: bool,
}

/// Reads the text of one object.
pub(super) fn read(text: &str) -> Result<Frame<'_>, Rejected> {
    if !text.trim_start().starts_with('{') {
        let json = serde_json::from_str::<IgnoredAny>(text).is_ok();
        return Err(if json { Rejected::NotObject } else { Rejected::Malformed });
    }
    let mut reading = Reading::default();
    let mut json = serde_json::Deserializer::from_str(text);
    let object = Object { reading: &mut reading, names: schema::field, depth: 1 };
    let done = object.deserialize(&mut json).and_then(|()| json.end());
    match done {
        Err(_) if reading.deep => Err(Rejected::Deep),
        Err(_) => Err(Rejected::Malformed),
        Ok(()) if reading.version == Some(VERSION.into()) => Ok(reading.frame),
        Ok(()) if reading.version.is_none() && reading.caddy => Ok(reading.frame),
        Ok(()) => Err(Rejected::Version),
    }
}

/// An object whose names mean something.
struct Object<'r, 'a> {
    reading: &'r mut Reading<'a>,
    names: fn(&str) -> Option<Place>,
    depth: u32,
}

impl<'de> DeserializeSeed<'de> for Object<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Object<'_, 'de> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { reading, names, depth } = self;
        while let Some(place) = map.next_key_seed(Name(names))? {
            let list = match place {
                Some(Place::Listed(_)) => List::First,
                Some(Place::Joined(_)) => List::Joined,
                _ => List::Unwanted,
            };
            let inner = Any { deep: &mut reading.deep, depth: depth + 1, list };
            match place {
                Some(Place::Field(set) | Place::Listed(set) | Place::Joined(set)) => {
                    let value = map.next_value_seed(inner)?;
                    take(&mut reading.frame, set, value);
                }
                Some(Place::Object(names)) => map.next_value_seed(Object { reading, names, depth: depth + 1 })?,
                Some(Place::Version) => reading.version = whole(&map.next_value_seed(inner)?),
                Some(Place::Logger) => reading.caddy = caddy::is_access(&map.next_value_seed(inner)?),
                Some(Place::Unused) => drop(map.next_value_seed(inner)?),
                None => {
                    map.next_value_seed(inner)?;
                    reading.frame.unknown = reading.frame.unknown.saturating_add(1);
                }
            }
        }
        Ok(())
    }

    // An object was wanted here: what is none is walked over, and counts as wrong.
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        self.reading.frame.wrong = self.reading.frame.wrong.saturating_add(1);
        Any { deep: &mut self.reading.deep, depth: self.depth, list: List::Unwanted }.visit_seq(seq).map(drop)
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        self.not_an_object()
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        self.not_an_object()
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        self.not_an_object()
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.not_an_object()
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.not_an_object()
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }
}

impl Object<'_, '_> {
    fn not_an_object<E>(self) -> Result<(), E> {
        self.reading.frame.wrong = self.reading.frame.wrong.saturating_add(1);
        Ok(())
    }
}

fn take<'a>(frame: &mut Frame<'a>, set: for<'b> fn(&mut Report<'b>, Scalar<'b>) -> bool, value: Scalar<'a>) {
    if !set(&mut frame.report, value) {
        frame.wrong = frame.wrong.saturating_add(1);
    }
}

fn whole(value: &Scalar<'_>) -> Option<u64> {
    match value {
        Scalar::Whole(number) => Some(*number),
        Scalar::Text(text) => text.parse().ok(),
        _ => None,
    }
}

/// A key, looked up at once: most are never kept.
struct Name(fn(&str) -> Option<Place>);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<Place>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<Place>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok((self.0)(name))
    }
}

/// Any value: a scalar is kept, anything else walked over, at most to [`DEPTH_MAX`].
struct Any<'r> {
    deep: &'r mut bool,
    /// That an array or object here would have.
    depth: u32,
    list: List,
}

/// What is wanted of an array.
#[derive(Clone, Copy)]
enum List {
    Unwanted,
    /// Its first value.
    First,
    /// Its texts as one, with commas.
    Joined,
}

impl Any<'_> {
    fn within(&mut self) -> Any<'_> {
        Any { deep: self.deep, depth: self.depth + 1, list: List::Unwanted }
    }

    fn check<E: de::Error>(&mut self) -> Result<(), E> {
        if self.depth > DEPTH_MAX {
            *self.deep = true;
            return Err(E::custom("too deep"));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Any<'_> {
    type Value = Scalar<'de>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Scalar<'de>, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any<'_> {
    type Value = Scalar<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Whole(number))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Number(number as f64))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Number(number))
    }

    fn visit_bool<E: de::Error>(self, truth: bool) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Truth(truth))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Scalar<'de>, A::Error> {
        self.check()?;
        let mut taken = None;
        while let Some(value) = seq.next_element_seed(self.within())? {
            match (self.list, &mut taken, value) {
                (List::Joined, Some(Scalar::Text(all)), Scalar::Text(text)) => {
                    *all = [all, ",", &*text].concat().into()
                }
                (_, Some(_), _) => {}
                (_, none, value) => *none = Some(value),
            }
        }
        // An empty list of a header's values is as good as none.
        Ok(if matches!(self.list, List::Unwanted) { Scalar::Other } else { taken.unwrap_or(Scalar::Null) })
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Scalar<'de>, A::Error> {
        self.check()?;
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(self.within())?;
        }
        Ok(Scalar::Other)
    }
}
