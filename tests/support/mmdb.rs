//! Address databases in MaxMind's format 2.0 (<https://maxmind.github.io/MaxMind-DB/>), as small as a test needs them. In:
//! prefixes and what is to be said of each. Out: the bytes of a file. Memory: a node for each bit of each prefix.

use std::net::IpAddr;

use anyhow::{Context as _, Result};

/// What begins the metadata.
const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";
/// Zeros between tree and data.
const SEPARATOR: usize = 16;
/// Bits that the tree has before an IPv4 address.
const MAPPED: u8 = 96;

/// A value, as far as they are wanted.
enum Value<'a> {
    Text(&'a str),
    /// Type 5.
    Short(u16),
    /// Type 6.
    Word(u32),
    /// Type 9.
    Long(u64),
    /// Type 11.
    List(&'a [Value<'a>]),
    Map(&'a [(&'a str, Value<'a>)]),
}

/// With the autonomous system of each prefix.
///
/// # Errors
/// One is no prefix.
pub fn systems(prefixes: &[(&str, u32)]) -> Result<Vec<u8>> {
    let record = |number: &u32| encoded(&Value::Map(&[("autonomous_system_number", Value::Word(*number))]));
    let records: Vec<_> = prefixes.iter().map(|(prefix, number)| (*prefix, record(number))).collect();
    database("ASN", &records)
}

/// With the country of each prefix.
///
/// # Errors
/// Likewise.
pub fn countries(prefixes: &[(&str, &str)]) -> Result<Vec<u8>> {
    let record = |code: &str| encoded(&Value::Map(&[("country", Value::Map(&[("iso_code", Value::Text(code))]))]));
    let records: Vec<_> = prefixes.iter().map(|(prefix, code)| (*prefix, record(code))).collect();
    database("Country", &records)
}

/// Where a bit leads.
#[derive(Clone, Copy)]
enum Branch {
    Nowhere,
    Node(usize),
    /// An offset into the data.
    Data(usize),
}

fn database(kind: &str, records: &[(&str, Vec<u8>)]) -> Result<Vec<u8>> {
    let (mut nodes, mut data) = (vec![[Branch::Nowhere; 2]], Vec::new());
    for (prefix, record) in records {
        let (bits, length) = prefix_bits(prefix)?;
        let mut node = 0;
        for depth in 0..length - 1 {
            let side = bit(bits, depth);
            node = match nodes[node][side] {
                Branch::Node(next) => next,
                _ => {
                    nodes.push([Branch::Nowhere; 2]);
                    let next = nodes.len() - 1;
                    nodes[node][side] = Branch::Node(next);
                    next
                }
            };
        }
        nodes[node][bit(bits, length - 1)] = Branch::Data(data.len());
        data.extend_from_slice(record);
    }
    let mut out = Vec::new();
    for branch in nodes.as_flattened() {
        let number = match branch {
            Branch::Nowhere => nodes.len(),
            Branch::Node(node) => *node,
            Branch::Data(offset) => nodes.len() + SEPARATOR + offset,
        };
        out.extend_from_slice(&u32::try_from(number)?.to_be_bytes()[1..]);
    }
    out.extend_from_slice(&[0; SEPARATOR]);
    out.extend_from_slice(&data);
    out.extend_from_slice(MARKER);
    out.extend_from_slice(&encoded(&Value::Map(&[
        ("node_count", Value::Word(u32::try_from(nodes.len())?)),
        ("record_size", Value::Short(24)),
        ("ip_version", Value::Short(6)),
        ("database_type", Value::Text(kind)),
        ("languages", Value::List(&[Value::Text("en")])),
        ("binary_format_major_version", Value::Short(2)),
        ("binary_format_minor_version", Value::Short(0)),
        ("build_epoch", Value::Long(1_767_225_600)),
        ("description", Value::Map(&[("en", Value::Text("a test's"))])),
    ])));
    Ok(out)
}

/// As the tree has it: an IPv4 prefix is one of `::/96`.
fn prefix_bits(prefix: &str) -> Result<(u128, u8)> {
    let (address, length) = prefix.split_once('/').with_context(|| format!("`{prefix}` is no prefix"))?;
    let length: u8 = length.parse()?;
    Ok(match address.parse()? {
        IpAddr::V4(address) => (u128::from(address.to_bits()), length + MAPPED),
        IpAddr::V6(address) => (address.to_bits(), length),
    })
}

fn bit(bits: u128, depth: u8) -> usize {
    (bits >> (127 - depth) & 1) as usize
}

/// A control byte (three bits of type, five of size; types from 8 on in a byte of their own), then the value.
fn encoded(value: &Value<'_>) -> Vec<u8> {
    let head = |kind: u8, size: usize| {
        let size = u8::try_from(size).unwrap_or(u8::MAX).min(28);
        if kind > 7 { vec![size, kind - 7] } else { vec![kind << 5 | size] }
    };
    let with = |mut head: Vec<u8>, body: &[u8]| {
        head.extend_from_slice(body);
        head
    };
    match value {
        Value::Text(text) => with(head(2, text.len()), text.as_bytes()),
        Value::Short(number) => with(head(5, 2), &number.to_be_bytes()),
        Value::Word(number) => with(head(6, 4), &number.to_be_bytes()),
        Value::Long(number) => with(head(9, 8), &number.to_be_bytes()),
        Value::List(values) => with(head(11, values.len()), &values.iter().flat_map(encoded).collect::<Vec<_>>()),
        Value::Map(pairs) => {
            let pair = |(name, value): &(&str, Value<'_>)| [encoded(&Value::Text(name)), encoded(value)].concat();
            with(head(7, pairs.len()), &pairs.iter().flat_map(pair).collect::<Vec<_>>())
        }
    }
}
