//! What the hellos of the captures show beside their JA4, against what the recordings' labels say of them.

use std::collections::BTreeMap;

use detector::fingerprint::{Trait, Traits, Transport};
use serde_json::Value;

use crate::fixture;

/// The codes of a label's list, GREASE included.
fn codes(list: &Value) -> Vec<u16> {
    let code = |text: &Value| u16::from_str_radix(text.as_str().expect("a code"), 16).expect("four hex digits");
    list.as_array().expect("a list").iter().map(code).collect()
}

fn is_grease(code: &u16) -> bool {
    code & 0x0f0f == 0x0a0a && code >> 8 == code & 0xff
}

fn length(value: &Value) -> Option<u16> {
    value.as_u64().map(|length| u16::try_from(length).expect("a length"))
}

/// Every trait that a label speaks of.
fn check(at: &str, fields: &Value, traits: &Traits) {
    let has = |one: Trait| traits.has.has(one);
    let (groups, signatures) = (codes(&fields["groups"]), codes(&fields["sigalgs"]));
    let shares: Vec<u16> =
        codes(&fields["key_shares"].as_array().expect("shares").iter().map(|s| s[0].clone()).collect());
    let lists = [
        (Trait::GreaseCiphers, &codes(&fields["ciphers"])),
        (Trait::GreaseExtensions, &codes(&fields["extensions"])),
        (Trait::GreaseGroups, &groups),
        (Trait::GreaseVersions, &codes(&fields["versions"])),
        (Trait::GreaseSignatures, &signatures),
        (Trait::GreaseShares, &shares),
    ];
    for (one, list) in lists {
        assert_eq!(has(one), list.iter().any(is_grease), "{at}: {}", one.label());
    }
    let plain: Vec<u16> = shares.iter().copied().filter(|code| !is_grease(code)).collect();
    let read: Vec<u16> = traits.shares.iter().copied().filter(|code| *code != 0).collect();
    assert_eq!(read, plain, "{at}");
    assert_eq!(has(Trait::MlKem), groups.contains(&0x11ec), "{at}");
    assert_eq!(has(Trait::MlKemShare), shares.contains(&0x11ec), "{at}");
    assert_eq!(has(Trait::KyberShare), shares.contains(&0x6399), "{at}");
    assert_eq!(has(Trait::MlDsa), signatures.iter().any(|code| (0x0904..=0x0906).contains(code)), "{at}");
    assert_eq!(traits.ech, length(&fields["ech"]["len"]), "{at}");
    assert_eq!(traits.padding, length(&fields["padding_len"]), "{at}");
    let settings = fields["alps"][0].as_u64();
    assert_eq!((has(Trait::SettingsOld), has(Trait::Settings)), (settings == Some(0x4469), settings == Some(0x44cd)));
    assert_eq!(has(Trait::RecordSizeLimit), fields["record_size_limit"].is_u64(), "{at}");
    assert_eq!(has(Trait::DelegatedCredentials), fields["delegated"].is_array(), "{at}");
    assert_eq!(has(Trait::CompressCertificate), fields["cert_comp"].is_array(), "{at}");
    let ticket = fields["ticket_len"].as_u64().unwrap_or(0) > 0;
    assert_eq!(has(Trait::Resumes), ticket || fields["psk"] == true, "{at}");
    assert_eq!(has(Trait::EarlyData), fields["early_data"] == true, "{at}");
    let offers = |name: &str| fields["alpn"].as_array().expect("protocols").iter().any(|protocol| protocol == name);
    assert_eq!((has(Trait::OffersHttp1), has(Trait::OffersHttp2)), (offers("http/1.1"), offers("h2")), "{at}");
    assert_eq!(has(Trait::OffersHttp3), offers("h3"), "{at}");
}

#[test]
fn every_hello_has_the_traits_of_its_label() {
    let labels: Value = serde_json::from_slice(&fixture::bytes("captures/labels.json")).expect("labels.json");
    let mut compared = 0;
    for capture in labels.as_array().expect("an array") {
        let name = capture["pcap"].as_str().expect("a name");
        let said = fixture::run_capture(&fixture::bytes(&format!("captures/pcaps/{name}")));
        for flow in capture["flows"].as_array().expect("flows") {
            for (index, label) in flow["hellos"].as_array().expect("hellos").iter().enumerate() {
                // One of them has none: two datagrams in one.
                let Some(fields) = label.get("fields") else { continue };
                let quic = flow["transport"] == "quic";
                let hello = said.hellos.iter().find(|hello| {
                    flow["sport"] == hello.flow.source.port()
                        && hello.index as usize == index
                        && (hello.transport == Transport::Quic) == quic
                });
                let hello = hello.unwrap_or_else(|| panic!("{name}: no hello for {flow}"));
                check(&format!("{name} {}", flow["sport"]), fields, &hello.fingerprint.traits);
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 843);
}

/// Chromium draws its order anew for each connection, Firefox over TCP and libraries have one.
#[test]
fn who_permutes_is_seen_by_the_order() {
    let orders = |name: &str| {
        let said = fixture::run_capture(&fixture::bytes(&format!("captures/pcaps/{name}.pcap")));
        let mut orders = BTreeMap::<u64, usize>::new();
        for hello in said.hellos.iter().filter(|hello| hello.transport == Transport::Tcp && hello.index == 0) {
            *orders.entry(hello.fingerprint.traits.order).or_default() += 1;
        }
        (orders.len(), orders.values().sum::<usize>())
    };
    assert_eq!(orders("chromium-h2-ipv6"), (6, 6));
    assert_eq!(orders("puppeteer-core-resume"), (4, 4), "resumed or not");
    assert_eq!(orders("firefox-esr"), (1, 3));
    assert_eq!(orders("curl-resume"), (1, 6), "resumed or not");
}
