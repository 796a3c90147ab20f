//! Every TCP hello of the captures, against the values that outside implementations confirm.

use std::collections::BTreeMap;

use detector::fingerprint::Transport;
use detector::pipeline::Hello;

use crate::fixture::{self, Expected};

fn check(expected: &Expected, hello: &Hello) {
    let at = format!("{} {}:{} hello {}", expected.pcap, expected.src, expected.sport, expected.hello);
    let fingerprint = &hello.fingerprint;
    assert_eq!((hello.flow.destination.ip(), hello.flow.destination.port()), (expected.dst, expected.dport), "{at}");
    assert_eq!(fingerprint.ja3_raw, expected.ja3, "{at}");
    assert_eq!(fingerprint.ja3, expected.ja3_hash, "{at}");
    assert_eq!(fingerprint.ja4.as_str(), expected.ja4, "{at}");
    assert_eq!(fingerprint.ja4_r, expected.ja4_r, "{at}");
}

#[test]
fn every_tcp_hello_is_right() {
    let mut right = 0;
    for (pcap, expected) in fixture::expected() {
        let said = fixture::run_capture(&fixture::bytes(&format!("captures/pcaps/{pcap}")));
        assert_eq!(said.lost, [], "{pcap}");
        let mut hellos: BTreeMap<_, _> = said
            .hellos
            .iter()
            .filter(|hello| hello.transport == Transport::Tcp)
            .map(|hello| ((hello.flow.source.ip(), hello.flow.source.port(), hello.index), hello))
            .collect();
        for expected in &expected {
            let hello = hellos
                .remove(&(expected.src, expected.sport, expected.hello))
                .unwrap_or_else(|| panic!("not found: {expected:?}"));
            check(expected, hello);
            right += 1;
        }
        assert!(hellos.is_empty(), "{pcap}: hellos nobody expects: {hellos:?}");
    }
    assert_eq!(right, 784);
}

#[test]
fn segments_are_counted_as_the_labels_say() {
    let labels: serde_json::Value =
        serde_json::from_slice(&fixture::bytes("captures/labels.json")).expect("labels.json");
    let mut compared = 0;
    for capture in labels.as_array().expect("an array") {
        let pcap = capture["pcap"].as_str().expect("a name");
        if capture["transport"] == "quic" {
            continue;
        }
        let said = fixture::run_capture(&fixture::bytes(&format!("captures/pcaps/{pcap}")));
        for flow in capture["flows"].as_array().expect("flows").iter().filter(|flow| flow["transport"] == "tcp") {
            for (index, label) in flow["hellos"].as_array().expect("hellos").iter().enumerate() {
                let hello = said
                    .hellos
                    .iter()
                    .find(|hello| flow["sport"] == hello.flow.source.port() && hello.index as usize == index)
                    .unwrap_or_else(|| panic!("{pcap}: no hello for {flow}"));
                assert_eq!(label["tcp_segments"], hello.segments, "{pcap} {flow}");
                assert_eq!(label["hello_bytes"], hello.bytes, "{pcap} {flow}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 784);
}
