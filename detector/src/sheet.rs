//! Objects in, CSV for a spreadsheet out (RFC 4180): a header line with the columns, also where nothing follows, then a
//! line for each. A column is a key; an object in an object has its keys behind the outer one's and a dot; lists are joined
//! with spaces; what is absent is empty. Memory: a line.

use std::fmt;
use std::io::{self, Write};

use csv::{Terminator, Writer, WriterBuilder};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::Serialize;
use serde_json::Value;

/// Writes lines.
pub struct Sheet<W: Write> {
    writer: Writer<W>,
    columns: Vec<String>,
    begun: bool,
}

impl<W: Write> Sheet<W> {
    /// One with these columns: what an object has besides is left out.
    pub fn new(out: W, columns: impl IntoIterator<Item: Into<String>>) -> Self {
        let writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(out);
        Self { writer, columns: columns.into_iter().map(Into::into).collect(), begun: false }
    }

    /// Writes `object`.
    ///
    /// # Errors
    /// When it isn't one, or can't be written.
    pub fn row(&mut self, object: &impl Serialize) -> io::Result<()> {
        self.fields(fields(object)?)
    }

    /// Writes one whose fields are known.
    ///
    /// # Errors
    /// Likewise.
    pub fn fields(&mut self, mut fields: Vec<(String, String)>) -> io::Result<()> {
        self.begin()?;
        let cells = self.columns.iter().enumerate().map(|(place, column)| {
            // Mostly it has all of them, in this order.
            let at = |field: &(String, String)| field.0 == *column;
            let there = if fields.get(place).is_some_and(at) { Some(place) } else { fields.iter().position(at) };
            match there.map(|there| &mut fields[there]) {
                Some((_, text)) => cell(std::mem::take(text)),
                None => String::new(),
            }
        });
        self.writer.write_record(cells)?;
        Ok(())
    }

    fn begin(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            self.writer.write_record(&self.columns)?;
        }
        Ok(())
    }

    /// Lets the reader have what was written so far, at least the header.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.begin()?;
        self.writer.flush()
    }

    /// The same, for the last time.
    ///
    /// # Errors
    /// Likewise.
    pub fn end(mut self) -> io::Result<()> {
        self.flush()
    }
}

/// The fields of `object` in their order, each as text.
///
/// # Errors
/// When it is no object.
pub fn fields(object: &impl Serialize) -> io::Result<Vec<(String, String)>> {
    let Fields(fields) = serde_json::from_str(&serde_json::to_string(object)?)?;
    let mut flat = Vec::with_capacity(fields.len());
    fields.into_iter().for_each(|(key, value)| flatten(key, value, &mut flat));
    Ok(flat)
}

fn flatten(key: String, value: Value, flat: &mut Vec<(String, String)>) {
    match value {
        Value::Object(inner) => {
            inner.into_iter().for_each(|(name, value)| flatten(format!("{key}.{name}"), value, flat));
        }
        value => flat.push((key, text(value))),
    }
}

/// What a spreadsheet would take for a formula gets an apostrophe before it, which makes it text (threats.md T24); a number
/// below zero is none.
fn cell(text: String) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err();
    if formula { format!("'{text}") } else { text }
}

fn text(value: Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text,
        Value::Array(values) => values.into_iter().map(text).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// An object's fields in the order they are written, which a map of serde_json's loses.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields, M::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        from.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Serialize)]
    struct Line<'a> {
        name: &'a str,
        bytes: u32,
        alpn: &'a [&'a str],
        known: Option<bool>,
    }

    fn sheet(lines: &[Line<'_>]) -> String {
        let mut out = Vec::new();
        let mut sheet = Sheet::new(&mut out, ["name", "bytes", "alpn", "known"]);
        lines.iter().for_each(|line| sheet.row(line).unwrap());
        sheet.end().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn there_is_a_header_and_cells_are_harmless() {
        let lines = [
            Line { name: "a,b", bytes: 7, alpn: &["h2", "http/1.1"], known: Some(true) },
            Line { name: "=1+\"1\"", bytes: 0, alpn: &[], known: None },
        ];
        let wanted = "name,bytes,alpn,known\r\n\"a,b\",7,h2 http/1.1,true\r\n\"'=1+\"\"1\"\"\",0,,\r\n";
        assert_eq!(sheet(&lines), wanted);
        assert_eq!(sheet(&[]), "name,bytes,alpn,known\r\n");
        for formula in ["=a", "+a", "-a", "@a", "\ta", "\ra"] {
            assert_eq!(cell(formula.to_owned()), format!("'{formula}"));
        }
        for harmless in ["a=", "-2.0", "-7"] {
            assert_eq!(cell(harmless.to_owned()), harmless);
        }
    }

    #[test]
    fn an_object_in_an_object_has_columns_of_its_own_and_what_is_absent_is_empty() {
        let mut out = Vec::new();
        let mut sheet = Sheet::new(&mut out, ["a", "in.x", "in.y", "z"]);
        for object in [
            serde_json::json!({"a": 1, "in": {"x": "u", "y": {"deep": 1}}, "else": 2}),
            serde_json::json!({"in": {"y": 7}, "z": [1, 2]}),
        ] {
            sheet.row(&object).unwrap();
        }
        sheet.end().unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a,in.x,in.y,z\r\n1,u,,\r\n,,7,1 2\r\n");
        let deep = fields(&serde_json::json!({"in": {"y": {"deep": 1}}, "none": {}})).unwrap();
        assert_eq!(deep, [("in.y.deep".to_owned(), "1".to_owned())]);
    }
}
