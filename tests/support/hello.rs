//! A hello as the daemon and `detector fingerprint` print it: in goes a JSON line, out comes where it was seen
//! ([`Place`]) and everything that must be the same live and offline ([`Forms`]).

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

/// The connection, and which hello of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Place {
    /// The client's address.
    pub src_ip: IpAddr,
    /// The client's port.
    pub src_port: u16,
    /// The server's address.
    pub dst_ip: IpAddr,
    /// The server's port.
    pub dst_port: u16,
    /// 0, or 1 for the one after a HelloRetryRequest.
    pub hello: u32,
}

/// What a hello says, in every form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Forms {
    /// MD5 of [`Forms::ja3_raw`], hex.
    pub ja3: String,
    /// JA3 before hashing.
    pub ja3_raw: String,
    /// JA3 with sorted extensions.
    pub ja3n: String,
    /// JA4.
    pub ja4: String,
    /// JA4, raw.
    pub ja4_r: String,
    /// JA4 in the original order.
    pub ja4_o: String,
    /// JA4 in the original order, raw.
    pub ja4_ro: String,
    /// JA4 without what changes from connection to connection of one client.
    pub ja4_stable: String,
    /// SNI.
    pub server_name: Option<String>,
    /// ALPN.
    pub alpn: Vec<String>,
}

/// One printed line.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Where it was seen.
    pub place: Place,
    /// What it says.
    pub forms: Forms,
    /// What was done with it, on a live line.
    pub action: Option<String>,
}

impl Hello {
    /// Reads a line.
    ///
    /// # Errors
    /// When a key is missing or has another type.
    pub fn read(line: &Value) -> Result<Self> {
        let place = Place::deserialize(line).with_context(|| format!("no 4-tuple in {line}"))?;
        let forms = Forms::deserialize(line).with_context(|| format!("a form is missing in {line}"))?;
        Ok(Self { place, forms, action: line["action"].as_str().map(str::to_owned) })
    }
}

/// Hellos by place. A place can hold several: a port may come back within a run.
///
/// # Errors
/// When a line is not a hello's.
pub fn by_place(lines: &[Value]) -> Result<BTreeMap<Place, Vec<Forms>>> {
    let mut places: BTreeMap<Place, Vec<Forms>> = BTreeMap::new();
    for line in lines {
        let hello = Hello::read(line)?;
        places.entry(hello.place).or_default().push(hello.forms);
    }
    places.values_mut().for_each(|forms| forms.sort());
    Ok(places)
}
