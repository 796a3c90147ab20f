//! What servers answered in the captures: the JA3S of each ServerHello is tshark's, and each answer fits the hello of
//! its connection and no other client's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use detector::capture::{Packet, frame, pcap};
use detector::pipeline::{Answer, answer, fits};
use serde::Deserialize;

use crate::fixture::{self, expected, run_capture};

/// One ServerHello of `ja3s.json`.
#[derive(Clone, Debug, Deserialize)]
struct Told {
    pcap: String,
    client: IpAddr,
    port: u16,
    ja3s_raw: String,
    ja3s: String,
}

/// By capture, in order.
fn told() -> BTreeMap<String, Vec<Told>> {
    let all: Vec<Told> = serde_json::from_slice(&fixture::bytes("captures/ja3s.json")).expect("ja3s.json");
    let mut by_pcap = BTreeMap::<_, Vec<_>>::new();
    for told in all {
        by_pcap.entry(told.pcap.clone()).or_default().push(told);
    }
    by_pcap
}

/// The answers in a capture, whichever side sent them, and the segments that begin with a ServerHello but lack its end.
fn answers(name: &str) -> (Vec<Answer>, usize) {
    let (mut answers, mut cut) = (Vec::new(), 0);
    pcap::read(&fixture::bytes(&format!("captures/pcaps/{name}"))[..], |frame| {
        let Ok(Packet::Segment(segment)) = frame::packet(frame) else { return };
        match answer(segment.flow, segment.at, segment.payload) {
            Some(answer) => answers.push(answer),
            None => cut += usize::from(matches!(segment.payload, [22, 3, _, _, _, 2, ..])),
        }
    })
    .expect("a readable capture");
    (answers, cut)
}

#[test]
fn ja3s_is_what_tshark_says() {
    let (mut same, mut missed, mut retries) = (0, 0, 0);
    for (pcap, told) in told() {
        let (answers, cut) = answers(&pcap);
        let mut told = told.iter();
        for answer in &answers {
            let told = told
                .find(|told| answer.flow.source.port() == told.port && answer.ja3s_raw == told.ja3s_raw)
                .unwrap_or_else(|| panic!("{pcap}: tshark hasn't {answer:?}"));
            assert_eq!((told.ja3s.as_str(), told.client), (answer.ja3s.as_str(), answer.flow.source.ip()), "{pcap}");
            same += 1;
            retries += usize::from(answer.retry);
        }
        missed += cut;
    }
    // No server of the captures needed two segments.
    assert_eq!((same, missed, retries), (766, 0, 9));
}

#[test]
fn an_answer_fits_its_own_hello() {
    let (mut fitting, mut strange) = (0, 0);
    let mut before: Option<Answer> = None;
    for pcap in expected().keys() {
        let hellos = run_capture(&fixture::bytes(&format!("captures/pcaps/{pcap}"))).hellos;
        for answer in answers(pcap).0 {
            let of_flow: Vec<_> = hellos.iter().filter(|hello| hello.flow == answer.flow).collect();
            assert!(!of_flow.is_empty(), "{pcap}: nobody asked for {answer:?}");
            for hello in of_flow {
                assert!(fits(&hello.offer, &answer), "{pcap}: {answer:?} to {:?}", hello.offer);
                fitting += 1;
                // What another client was answered repeats another session id.
                if let Some(other) = &before
                    && other.flow != answer.flow
                    && !other.session_id.is_empty()
                    && other.version == 0x0304
                {
                    assert!(!fits(&hello.offer, other), "{pcap}");
                    strange += 1;
                }
            }
            before = Some(answer);
        }
    }
    assert!(fitting >= 766 && strange > 500, "{fitting} fitting, {strange} strange");
}
