//! threats.md T23: whatever a client writes in its names, a JA4 value keeps its alphabet and a hello is one line.

use detector::fingerprint::Ja4;
use detector::fingerprint::{Fingerprinter, Transport, ja4};
use detector::line::HelloLine;
use detector::tls::{Parsed, hello};

use crate::fixture::{Dice, few};

/// A hello whose server name and first protocol are `name`.
fn message(name: &[u8], out: &mut Vec<u8>) {
    let length = |length: usize| (length as u16).to_be_bytes();
    let sni = name.len() + 5;
    let alpn = name.len() + 3;
    let block = 4 + sni + 4 + alpn;
    out.clear();
    out.extend([1, 0]);
    out.extend(length(2 + 32 + 1 + 4 + 2 + 2 + block));
    out.extend([3, 3]);
    out.extend([5; 32]);
    out.extend([0, 0, 2, 0x13, 1, 1, 0]);
    out.extend(length(block));
    out.extend([0, 0]);
    out.extend(length(sni));
    out.extend(length(sni - 2));
    out.push(0);
    out.extend(length(name.len()));
    out.extend(name);
    out.extend([0, 16]);
    out.extend(length(alpn));
    out.extend(length(alpn - 2));
    out.push(name.len() as u8);
    out.extend(name);
}

#[test]
fn a_million_random_names() {
    let mut dice = Dice(4);
    let mut fingerprinter = Fingerprinter::default();
    let mut bytes = Vec::new();
    let mut template = few()[0].hello.clone();
    let mut line = Vec::new();
    for round in 0..1_000_000_u32 {
        let length = 1 + dice.below(12);
        let mut name: Vec<u8> = (0..length).map(|_| dice.next() as u8).collect();
        if round % 4 == 0 {
            // What bites a log, a terminal, a label or a page.
            name = [&b"\"\n\r\t\0\x1b[31m\\{}=,<>\x7f\xc2\x9b\xe2\x80\xa8"[dice.below(20)..], &name].concat();
        }
        message(&name, &mut bytes);
        let Parsed::Complete(hello) = hello::parse(&bytes) else { panic!("{name:?}") };
        assert_eq!(hello.server_name, Some(&name[..]));
        let ja4 = ja4::Parts::new(&hello, Transport::Tcp).ja4(ja4::Order::Sorted);
        assert_eq!(ja4.as_str().parse::<Ja4>(), Ok(ja4), "{name:?}");
        // The line of every eighth: it is the same code each time, and takes most of the time.
        if round % 8 == 0 {
            template.fingerprint = fingerprinter.fingerprint(&hello, Transport::Tcp);
            line.clear();
            serde_json::to_writer(&mut line, &HelloLine::from(&template)).expect("memory takes any bytes");
            assert!(line.iter().all(|byte| (b' '..=b'~').contains(byte)), "{name:?}");
            let read: serde_json::Value = serde_json::from_slice(&line).expect("one JSON object");
            assert_eq!(read["ja4"], ja4.as_str());
        }
    }
}
