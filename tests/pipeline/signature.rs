//! The SYN of every TCP connection in the captures, against what the recordings' labels say of it.

use std::collections::BTreeMap;

use detector::capture::{Packet, frame, pcap};
use detector::signature::{Class, Quirk, SynSignature};
use serde_json::{Value, json};

use crate::fixture;

#[test]
fn every_syn_is_what_its_label_says() {
    let labels: Value = serde_json::from_slice(&fixture::bytes("captures/labels.json")).expect("labels.json");
    let mut compared = 0;
    for capture in labels.as_array().expect("an array") {
        let name = capture["pcap"].as_str().expect("a name");
        let syns = syns(name);
        for flow in capture["flows"].as_array().expect("flows").iter().filter(|flow| flow["transport"] == "tcp") {
            let port = flow["sport"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
            let syn = syns.get(&port).unwrap_or_else(|| panic!("{name}: no SYN from port {port}"));
            let kinds: Vec<String> = syn.options.iter().map(u8::to_string).collect();
            let df = (syn.ip_version == 4).then_some(syn.quirks.has(Quirk::DontFragment));
            let read = json!({
                "options": kinds.join("-"), "win": syn.window, "ttl": syn.ttl, "df": df, "mss": syn.mss,
                "wscale": syn.window_scale,
            });
            assert_eq!(read, flow["syn"], "{name} {port}: {syn}");
            // All of them were recorded on Linux, some with another TTL.
            assert_eq!(syn.class(), Class::Linux, "{name} {port}: {syn}");
            assert!(syn.tsval().is_some() && syn.ip_options == 0, "{name} {port}: {syn}");
            compared += 1;
        }
    }
    assert_eq!(compared, 779);
}

/// By the client's port.
fn syns(name: &str) -> BTreeMap<u16, SynSignature> {
    let mut syns = BTreeMap::new();
    pcap::read(&fixture::bytes(&format!("captures/pcaps/{name}"))[..], |frame| {
        if let Ok(Packet::Segment(segment)) = frame::packet(frame)
            && segment.flags.syn
            && !segment.flags.ack
        {
            let syn = SynSignature::parse(&segment.network, segment.header).expect("a whole header");
            syns.insert(segment.flow.source.port(), syn);
        }
    })
    .expect("a readable capture");
    syns
}
