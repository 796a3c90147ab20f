//! QUIC: the captures of real clients.

use std::collections::BTreeMap;

use detector::fingerprint::Transport;

use crate::fixture::{self, expected_over};

/// The hello that `expected.json` knows of but has no values for: no other implementation reads it, since the capture
/// holds two datagrams of it in one (UDP segmentation offload). Its client is the same as that of its neighbours.
const UNCONFIRMED: (&str, u16) = ("firefox-esr-gro.pcap", 44585);

#[test]
fn every_quic_hello_of_the_captures_is_right() {
    let mut right = 0;
    for (pcap, expected) in expected_over("quic") {
        let said = fixture::run_capture(&fixture::bytes(&format!("captures/pcaps/{pcap}")));
        assert_eq!(said.lost, [], "{pcap}");
        let over_quic = said.hellos.iter().filter(|hello| hello.transport == Transport::Quic);
        let mut hellos: BTreeMap<_, _> =
            over_quic.map(|hello| ((hello.flow.source, hello.flow.destination, hello.index), hello)).collect();
        for expected in &expected {
            let place = ((expected.src, expected.sport).into(), (expected.dst, expected.dport).into(), expected.hello);
            let hello = hellos.remove(&place).unwrap_or_else(|| panic!("not found: {expected:?}"));
            let fingerprint = &hello.fingerprint;
            let said = [&fingerprint.ja3_raw, &fingerprint.ja3, &fingerprint.ja4.to_string(), &fingerprint.ja4_r];
            assert_eq!(said, [&expected.ja3, &expected.ja3_hash, &expected.ja4, &expected.ja4_r], "{expected:?}");
            right += 1;
        }
        hellos.retain(|(client, ..), hello| {
            let is_it = (pcap.as_str(), client.port()) == UNCONFIRMED;
            if is_it {
                assert!(expected.iter().any(|neighbour| neighbour.ja4 == hello.fingerprint.ja4.as_str()));
                right += 1;
            }
            !is_it
        });
        assert!(hellos.is_empty(), "{pcap}: hellos nobody expects: {hellos:?}");
    }
    assert_eq!(right, 60);
}
