//! The hand-made cases of `ja4-vectors.json`: each is written out as a ClientHello, and read again.

use detector::fingerprint::{Fingerprint, Fingerprinter, Transport};
use detector::tls::{Parsed, hello};
use serde::Deserialize;

use crate::fixture;

#[derive(Deserialize)]
struct Vector {
    name: String,
    transport: String,
    r#in: Input,
    ja4: String,
    ja4_r: String,
    ja4_o: String,
    ja4_ro: String,
}

#[derive(Deserialize)]
struct Input {
    legacy: u16,
    ciphers: Vec<u16>,
    exts: Vec<u16>,
    sv: Option<Vec<u16>>,
    alpn: Option<Vec<String>>,
    sig: Option<Vec<u16>>,
}

fn codes(codes: &[u16]) -> Vec<u8> {
    codes.iter().flat_map(|code| code.to_be_bytes()).collect()
}

fn vector8(body: &[u8]) -> Vec<u8> {
    [&[u8::try_from(body.len()).expect("short")], body].concat()
}

fn vector16(body: &[u8]) -> Vec<u8> {
    [&u16::try_from(body.len()).expect("short").to_be_bytes(), body].concat()
}

/// `hex:0a0a` is bytes, anything else is itself.
fn protocol(text: &str) -> Vec<u8> {
    let Some(hex) = text.strip_prefix("hex:") else { return text.as_bytes().to_vec() };
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
}

fn message(input: &Input) -> Vec<u8> {
    let body = |code: u16| match code {
        0 => vector16(&[&[0], &vector16(b"example.com")[..]].concat()),
        10 => vector16(&codes(&[0x001d, 0x0017])),
        13 => vector16(&codes(input.sig.as_deref().unwrap_or_default())),
        16 => {
            let names = input.alpn.as_deref().unwrap_or_default();
            vector16(&names.iter().flat_map(|name| vector8(&protocol(name))).collect::<Vec<_>>())
        }
        43 => vector8(&codes(input.sv.as_deref().unwrap_or_default())),
        _ => Vec::new(),
    };
    let extensions: Vec<u8> =
        input.exts.iter().flat_map(|code| [&code.to_be_bytes(), &vector16(&body(*code))[..]].concat()).collect();
    let fields = [
        &input.legacy.to_be_bytes()[..],
        &[7; 32],
        &vector8(&[]),
        &vector16(&codes(&input.ciphers)),
        &vector8(&[0]),
        &vector16(&extensions),
    ]
    .concat();
    let length = u32::try_from(fields.len()).expect("short").to_be_bytes();
    [&[1], &length[1..], &fields].concat()
}

#[test]
fn all_four_forms_are_right() {
    let vectors: Vec<Vector> = serde_json::from_slice(&fixture::bytes("ja4-vectors.json")).expect("ja4-vectors.json");
    assert_eq!(vectors.len(), 23);
    let mut fingerprinter = Fingerprinter::default();
    for vector in vectors {
        let message = message(&vector.r#in);
        let Parsed::Complete(hello) = hello::parse(&message) else { panic!("{}", vector.name) };
        let transport = match vector.transport.as_str() {
            "t" => Transport::Tcp,
            "q" => Transport::Quic,
            "d" => Transport::Dtls,
            other => panic!("transport {other}"),
        };
        // Twice: the second time the cache answers.
        for _ in 0..2 {
            let fingerprint = fingerprinter.fingerprint(&hello, transport);
            assert_eq!(fingerprint.ja4.to_string(), vector.ja4, "{}", vector.name);
            assert_eq!(fingerprint.ja4_r, vector.ja4_r, "{}", vector.name);
            assert_eq!(fingerprint.ja4_o.to_string(), vector.ja4_o, "{}", vector.name);
            assert_eq!(fingerprint.ja4_ro, vector.ja4_ro, "{}", vector.name);
        }
    }
}

/// Of more clients than any cache holds, in another order of extensions each time.
#[test]
fn a_fingerprinter_that_has_seen_many_hellos_says_what_a_new_one_says() {
    let mut seasoned = Fingerprinter::default();
    for round in 0..3 {
        for number in 0..600 {
            let mut exts = vec![0, 10, 13, 16, 43, 0x1000 + number];
            exts.rotate_left(round);
            let input = Input {
                legacy: 0x0303,
                ciphers: vec![0x1301, 0x1302],
                exts,
                sv: Some(vec![0x0304]),
                alpn: Some(vec!["h2".to_owned()]),
                sig: Some(vec![0x0403]),
            };
            let message = message(&input);
            let Parsed::Complete(hello) = hello::parse(&message) else { panic!("{number}") };
            let said = seasoned.fingerprint(&hello, Transport::Tcp);
            let anew = Fingerprinter::default().fingerprint(&hello, Transport::Tcp);
            // The keys mean something to their own process only.
            assert_eq!(Fingerprint { keys: anew.keys, ..said }, anew, "{round} {number}");
        }
    }
}

/// Rule 17: as if the extensions of resumption had never been sent.
#[test]
fn the_stable_form_does_not_change_when_a_client_resumes() {
    let base = Input {
        legacy: 0x0303,
        ciphers: vec![0x1301, 0x1302],
        exts: vec![0, 10, 13, 16, 43],
        sv: Some(vec![0x0304, 0x0303]),
        alpn: Some(vec!["h2".to_owned()]),
        sig: Some(vec![0x0403, 0x0804]),
    };
    let stable = |exts: &[u16]| {
        let message = message(&Input { exts: exts.to_vec(), ..base_of(&base) });
        let Parsed::Complete(hello) = hello::parse(&message) else { panic!("{exts:?}") };
        Fingerprinter::default().fingerprint(&hello, Transport::Tcp)
    };
    let plain = stable(&base.exts);
    assert_eq!(plain.ja4_stable, plain.ja4);
    for added in [&[0x23][..], &[0x29], &[0x2a], &[0x15], &[0x15, 0x23, 0x2a, 0x29]] {
        let resumed = stable(&[&base.exts, added].concat());
        assert_eq!(resumed.ja4_stable, plain.ja4, "{added:?}");
        assert_ne!(resumed.ja4, plain.ja4, "{added:?}");
    }
    assert!(stable(&[0, 10, 13, 16, 43, 43]).signals.duplicate_extension);
}

fn base_of(input: &Input) -> Input {
    Input {
        ciphers: input.ciphers.clone(),
        exts: Vec::new(),
        sv: input.sv.clone(),
        alpn: input.alpn.clone(),
        sig: input.sig.clone(),
        ..*input
    }
}
