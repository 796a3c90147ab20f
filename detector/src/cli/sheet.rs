//! Objects in, CSV for a spreadsheet out (RFC 4180): a header line with the keys of the first, then a line for each.
//! Lists are joined with spaces, what is absent is empty.

use std::fmt;
use std::io::{self, Write};

use csv::{Terminator, Writer, WriterBuilder};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::Serialize;
use serde_json::Value;

/// Writes lines.
pub(super) struct Sheet<W: Write> {
    writer: Writer<W>,
    begun: bool,
}

impl<W: Write> Sheet<W> {
    pub(super) fn new(out: W) -> Self {
        Self { writer: WriterBuilder::new().terminator(Terminator::CRLF).from_writer(out), begun: false }
    }

    /// Writes `object`, whose keys are those of all others.
    pub(super) fn row(&mut self, object: &impl Serialize) -> io::Result<()> {
        let fields = fields(object)?;
        if !self.begun {
            self.writer.write_record(fields.iter().map(|(key, _)| key))?;
            self.begun = true;
        }
        self.writer.write_record(fields.into_iter().map(|(_, text)| cell(text)))?;
        Ok(())
    }

    /// Lets the reader have what was written so far.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }

    pub(super) fn end(mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// The fields of `object` in their order, each as text.
pub(super) fn fields(object: &impl Serialize) -> io::Result<Vec<(String, String)>> {
    let Fields(fields) = serde_json::from_str(&serde_json::to_string(object)?)?;
    Ok(fields.into_iter().map(|(key, value)| (key, text(value))).collect())
}

/// What a spreadsheet would take for a formula gets an apostrophe before it, which makes it text (threats.md T24).
fn cell(text: String) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text }
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
        let mut sheet = Sheet::new(&mut out);
        lines.iter().for_each(|line| sheet.row(line).unwrap());
        sheet.end().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn keys_keep_their_order_and_cells_are_harmless() {
        let lines = [
            Line { name: "a,b", bytes: 7, alpn: &["h2", "http/1.1"], known: Some(true) },
            Line { name: "=1+\"1\"", bytes: 0, alpn: &[], known: None },
        ];
        let wanted = "name,bytes,alpn,known\r\n\"a,b\",7,h2 http/1.1,true\r\n\"'=1+\"\"1\"\"\",0,,\r\n";
        assert_eq!(sheet(&lines), wanted);
        assert_eq!(sheet(&[]), "");
        for formula in ["=a", "+a", "-a", "@a", "\ta", "\ra"] {
            assert_eq!(cell(formula.to_owned()), format!("'{formula}"));
        }
        assert_eq!(cell("a=".to_owned()), "a=");
    }
}
