//! A [`Hello`] and what became of it in, its line for people and programs out: the same keys in the same order wherever
//! a hello is reported, so that a live line and one from a capture of the same packets can be compared. Untrusted text
//! comes escaped from `fingerprint`; JSON escapes it once more. Points in time are left out: a live clock and a capture's
//! have nothing in common.

use std::net::IpAddr;

use serde::Serialize;

use crate::capture::Proof;
use crate::connection::Settled;
use crate::family;
use crate::fingerprint::{Fingerprint, Ja4};
use crate::pipeline::{Hello, Void};

/// One hello as one JSON object.
#[derive(Clone, Debug, Serialize)]
pub struct HelloLine<'a> {
    /// The client's address.
    pub src_ip: IpAddr,
    /// The client's port.
    pub src_port: u16,
    /// The server's address.
    pub dst_ip: IpAddr,
    /// The server's port.
    pub dst_port: u16,
    /// `tcp`, `quic` or `dtls`.
    pub transport: &'static str,
    /// Which hello of its connection, from 0.
    pub hello: u32,
    /// MD5 of `ja3_raw`.
    pub ja3: &'a str,
    /// The JA3 string.
    pub ja3_raw: &'a str,
    /// MD5 of the JA3 string with sorted extensions.
    pub ja3n: &'a str,
    /// JA4.
    pub ja4: Ja4,
    /// JA4, unhashed.
    pub ja4_r: &'a str,
    /// JA4 in wire order.
    pub ja4_o: Ja4,
    /// JA4 in wire order, unhashed.
    pub ja4_ro: &'a str,
    /// JA4 without what resumption changes.
    pub ja4_stable: Ja4,
    /// The family that sends such hellos, if it is known.
    pub family: Option<&'static str>,
    /// What that is: `browser`, `library`, `tool`, `scanner`, `proxy`, `imitator`; `drift` if a browser's next release may be.
    pub family_kind: Option<&'static str>,
    /// The server's name, escaped.
    pub server_name: Option<&'a str>,
    /// The protocols offered, escaped.
    pub alpn: &'a [String],
    /// TCP segments, or UDP datagrams, that brought it.
    pub segments: u32,
    /// TLS or DTLS records, or QUIC Initial packets, it was spread over.
    pub records: u32,
    /// Bytes of the handshake message.
    pub bytes: u32,
    /// legacy_version, four hex digits.
    pub legacy_version: String,
    /// Cipher suites, GREASE included.
    pub cipher_suites: u32,
    /// Extensions, GREASE included.
    pub extensions: u32,
    /// It sends GREASE.
    pub grease: bool,
    /// It offers to resume a session.
    pub resumption: bool,
    /// It announces early data.
    pub early_data: bool,
    /// What is odd about it.
    pub signals: Vec<&'static str>,
    /// The signature of the SYN before it, if that was seen.
    pub syn: Option<String>,
    /// The kind of system that sent that SYN.
    pub syn_class: Option<&'static str>,
    /// Microseconds between the SYN and the hello's first segment.
    pub syn_to_hello_us: Option<u64>,
    /// JA3S of the server's answer, if that was seen.
    pub ja3s: Option<&'a str>,
    /// Why it is sure that the client has its address, if it is.
    pub confirmed: Option<&'static str>,
    /// Why the fingerprint says nothing about the client, if so.
    pub void: Option<&'static str>,
}

impl<'a> From<&'a Settled> for HelloLine<'a> {
    fn from(settled: &'a Settled) -> Self {
        Self::new(&settled.hello, Some(settled))
    }
}

impl<'a> From<&'a Hello> for HelloLine<'a> {
    fn from(hello: &'a Hello) -> Self {
        Self::new(hello, None)
    }
}

impl<'a> HelloLine<'a> {
    /// Its keys, in their order.
    pub const KEYS: [&'static str; 34] = [
        "src_ip",
        "src_port",
        "dst_ip",
        "dst_port",
        "transport",
        "hello",
        "ja3",
        "ja3_raw",
        "ja3n",
        "ja4",
        "ja4_r",
        "ja4_o",
        "ja4_ro",
        "ja4_stable",
        "family",
        "family_kind",
        "server_name",
        "alpn",
        "segments",
        "records",
        "bytes",
        "legacy_version",
        "cipher_suites",
        "extensions",
        "grease",
        "resumption",
        "early_data",
        "signals",
        "syn",
        "syn_class",
        "syn_to_hello_us",
        "ja3s",
        "confirmed",
        "void",
    ];

    /// The line of `hello`, with what was found out about it since it came.
    #[must_use]
    pub fn new(hello: &'a Hello, settled: Option<&'a Settled>) -> Self {
        let Hello { flow, fingerprint, facts, .. } = hello;
        let syn = hello.syn.as_ref();
        let syn_to_hello = syn.map(|syn| hello.at.since(syn.at).as_micros());
        let proof = settled.map_or(hello.proof, |settled| settled.standing.proof());
        let answer = settled.and_then(|settled| settled.answer.as_ref());
        let (family, family_kind) = named(fingerprint).unzip();
        Self {
            src_ip: flow.source.ip(),
            src_port: flow.source.port(),
            dst_ip: flow.destination.ip(),
            dst_port: flow.destination.port(),
            transport: hello.transport.label(),
            hello: hello.index,
            ja3: &fingerprint.ja3,
            ja3_raw: &fingerprint.ja3_raw,
            ja3n: &fingerprint.ja3n,
            ja4: fingerprint.ja4,
            ja4_r: &fingerprint.ja4_r,
            ja4_o: fingerprint.ja4_o,
            ja4_ro: &fingerprint.ja4_ro,
            ja4_stable: fingerprint.ja4_stable,
            family,
            family_kind,
            server_name: fingerprint.server_name.as_deref(),
            alpn: &fingerprint.alpn,
            segments: hello.segments,
            records: facts.records,
            bytes: hello.bytes,
            legacy_version: format!("{:04x}", facts.legacy_version),
            cipher_suites: facts.cipher_suites,
            extensions: facts.extensions,
            grease: facts.grease,
            resumption: facts.resumption,
            early_data: facts.early_data,
            signals: fingerprint.signals.labels().collect(),
            syn: syn.map(|syn| syn.signature.to_string()),
            syn_class: syn.map(|syn| syn.signature.class().label()),
            syn_to_hello_us: syn_to_hello.map(|micros| u64::try_from(micros).unwrap_or(u64::MAX)),
            ja3s: answer.map(|answer| answer.ja3s.as_str()),
            confirmed: proof.map(Proof::label),
            void: settled.and_then(|settled| settled.void).map(Void::label),
        }
    }
}

/// The columns of the table for people, beside [`row`].
pub const COLUMNS: [&str; 7] = ["client", "server", "hello", "JA4", "family", "server name", "ALPN"];

/// Longer names are cut in the table; the JSON line has them whole.
const NAME_MAX: usize = 48;

/// One line of the table for people.
#[must_use]
pub fn row(hello: &Hello) -> [String; 7] {
    let fingerprint = &hello.fingerprint;
    let name = fingerprint.server_name.as_deref().unwrap_or("-");
    let alpn = if fingerprint.alpn.is_empty() { "-".to_owned() } else { fingerprint.alpn.join(",") };
    [
        hello.flow.source.to_string(),
        hello.flow.destination.to_string(),
        hello.index.to_string(),
        fingerprint.ja4.to_string(),
        match named(fingerprint) {
            Some((family, "drift")) => format!("like {family}"),
            Some((family, _)) => family.to_owned(),
            None => "-".to_owned(),
        },
        short(name),
        short(&alpn),
    ]
}

/// Who sends such hellos, and what that is.
fn named(fingerprint: &Fingerprint) -> Option<(&'static str, &'static str)> {
    family::shipped().find(fingerprint.ja4_stable, &fingerprint.traits).named()
}

fn short(text: &str) -> String {
    // Escaped text is ASCII, so any byte is a boundary.
    match text.get(..NAME_MAX) {
        Some(start) if text.len() > NAME_MAX => format!("{start}…"),
        _ => text.to_owned(),
    }
}
