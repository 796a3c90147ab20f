//! DTLS: hellos made here by RFC 6347 and RFC 9147, in every fragmentation.

use detector::capture::Proof;
use detector::fingerprint::Transport;
use detector::fuzzing;
use detector::pipeline::{Cause, Ignored};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::fixture::{Dice, few};
use crate::udp::{Heard, Sent, deliver, down, up};

const DTLS_1_0: u16 = 0xfeff;
const DTLS_1_2: u16 = 0xfefd;
const DTLS_1_3: u16 = 0xfefc;

/// The ciphers, extensions and signature algorithms of the base hello of ja4-rules.md.
fn body(legacy: u16, versions: &[u16], random: u8, cookie: &[u8]) -> Vec<u8> {
    let two = |codes: &[u16]| codes.iter().flat_map(|code| code.to_be_bytes()).collect::<Vec<u8>>();
    let vector16 = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let extension = |code: u16, body: &[u8]| [&code.to_be_bytes()[..], &vector16(body)].concat();
    let mut extensions = vec![
        extension(0x0000, &vector16(&[&[0], &vector16(b"shop.test")[..]].concat())),
        extension(0x000a, &vector16(&two(&[0x001d]))),
        extension(0x000d, &vector16(&two(&[0x0403, 0x0804]))),
        extension(0x0010, &vector16(b"\x02h2")),
    ];
    if !versions.is_empty() {
        extensions.push(extension(0x002b, &[&[2 * versions.len() as u8], &two(versions)[..]].concat()));
    }
    [
        legacy.to_be_bytes().to_vec(),
        vec![random; 32],
        vec![4, 9, 9, 9, 9],
        [&[cookie.len() as u8], cookie].concat(),
        vector16(&two(&[0x1301, 0x1302])),
        vec![1, 0],
        vector16(&extensions.concat()),
    ]
    .concat()
}

/// The pieces of a message, by offset.
fn fragment(kind: u8, message_seq: u16, body: &[u8], from: usize, to: usize) -> Vec<u8> {
    let three = |number: usize| (number as u32).to_be_bytes()[1..].to_vec();
    [
        vec![kind],
        three(body.len()),
        message_seq.to_be_bytes().to_vec(),
        three(from),
        three(to - from),
        body[from..to].to_vec(),
    ]
    .concat()
}

fn record(kind: u8, version: u16, epoch: u16, payload: &[u8]) -> Vec<u8> {
    let version = version.to_be_bytes();
    let length = (payload.len() as u16).to_be_bytes();
    [&[kind], &version[..], &epoch.to_be_bytes(), &[0, 0, 0, 0, 0, 7], &length, payload].concat()
}

/// Records of at most `size` bytes of the hello `body` each.
fn records(message_seq: u16, body: &[u8], size: usize) -> Vec<Vec<u8>> {
    let starts = (0..body.len()).step_by(size);
    let fragment = |from: usize| fragment(1, message_seq, body, from, (from + size).min(body.len()));
    starts.map(|from| record(22, DTLS_1_2, 0, &fragment(from))).collect()
}

fn one(body: &[u8]) -> Sent {
    up(records(0, body, usize::MAX / 2).concat())
}

fn ja4(heard: &Heard) -> String {
    let [hello] = &heard.said.hellos[..] else { panic!("{heard:?}") };
    assert_eq!(hello.transport, Transport::Dtls);
    hello.fingerprint.ja4.to_string()
}

/// Rules 1, 2 and 4 of ja4-rules.md; the hashes are those of its examples with the same lists.
#[test]
fn the_versions_of_dtls() {
    let cases: [(u16, &[u16], &str); 4] = [
        (DTLS_1_0, &[], "dd1d0204h2_62ed6f6ca7ad_"),
        (DTLS_1_2, &[], "dd2d0204h2_62ed6f6ca7ad_"),
        (DTLS_1_2, &[DTLS_1_3, DTLS_1_2], "dd3d0205h2_62ed6f6ca7ad_fbabbea27ee8"),
        (DTLS_1_2, &[DTLS_1_2, DTLS_1_3, 0x1a1a], "dd3d0205h2_62ed6f6ca7ad_fbabbea27ee8"),
    ];
    for (legacy, versions, expected) in cases {
        let ja4 = ja4(&deliver([&one(&body(legacy, versions, 5, &[]))]));
        assert!(ja4.starts_with(expected), "{ja4} {expected}");
    }
}

#[test]
fn any_fragment_size_in_any_order() {
    let mut dice = Dice(30);
    let body = body(DTLS_1_2, &[DTLS_1_3], 5, &[]);
    let whole = ja4(&deliver([&one(&body)]));
    for size in 1..=body.len() {
        // 64 gaps are what a hello may have.
        let mut records = records(0, &body, size);
        let in_order = deliver(&records.iter().cloned().map(up).collect::<Vec<_>>());
        assert_eq!(ja4(&in_order), whole, "fragments of {size}");
        assert_eq!(in_order.said.hellos[0].segments as usize, records.len());
        assert_eq!(ja4(&deliver([&up(records.concat())])), whole, "fragments of {size} in one datagram");
        if records.len() <= 120 {
            dice.shuffle(&mut records);
            assert_eq!(ja4(&deliver(&records.iter().cloned().map(up).collect::<Vec<_>>())), whole, "shuffled {size}");
            // Twice, and with overlaps of another size.
            let wider = self::records(0, &body, size + 3);
            let sent: Vec<_> = records[1..].iter().chain(&wider).chain(&records).cloned().map(up).collect();
            assert_eq!(ja4(&deliver(&sent)), whole, "overlapping {size}");
        }
        if size < body.len() {
            records.remove(dice.below(records.len()));
            let heard = deliver(&records.into_iter().map(up).collect::<Vec<_>>());
            assert_eq!(heard.said.hellos, [], "a part of {size} has a fingerprint");
        }
    }
}

#[test]
fn several_fragments_in_one_record() {
    let body = body(DTLS_1_2, &[], 5, &[]);
    let end = body.len();
    let both = [fragment(1, 0, &body, 40, end), fragment(1, 0, &body, 0, 40)].concat();
    let heard = deliver([&up([record(21, DTLS_1_2, 0, &[1, 0]), record(22, DTLS_1_0, 0, &both)].concat())]);
    ja4(&heard);
    assert_eq!(heard.said.hellos[0].facts.records, 1);
}

#[test]
fn the_cookie_proves_the_address_and_is_no_part_of_the_fingerprint() {
    const COOKIE: &[u8] = b"twenty bytes of salt";
    let verify = |cookie: &[u8]| {
        let body = [&[0xfe, 0xff, cookie.len() as u8], cookie].concat();
        down(record(22, DTLS_1_0, 0, &fragment(3, 0, &body, 0, body.len())))
    };
    let first = one(&body(DTLS_1_2, &[], 5, &[]));
    let second = |cookie: &[u8]| up(records(1, &body(DTLS_1_2, &[], 5, cookie), 90).concat());
    for (from_server, echoed, proven) in
        [(COOKIE, COOKIE, true), (COOKIE, &COOKIE[1..], false), (&COOKIE[..3], &COOKIE[..3], false)]
    {
        let heard = deliver([&first, &verify(from_server), &second(echoed), &second(echoed), &first]);
        let [a, b] = &heard.said.hellos[..] else { panic!("{heard:?}") };
        assert_eq!((a.index, b.index), (0, 1));
        assert_eq!(a.fingerprint, b.fingerprint);
        assert_eq!((a.proof, b.proof), (None, proven.then_some(Proof::DtlsCookie)));
        assert_eq!(heard.proven, &[Proof::DtlsCookie][..usize::from(proven)]);
        assert_eq!(heard.said.ignored, [Ignored::NotHello, Ignored::Duplicate, Ignored::Duplicate]);
    }
    // A client nobody has seen, and a server's message from the client's side.
    let mut forged = verify(COOKIE);
    forged.flow = forged.flow.reversed();
    let heard = deliver([&verify(COOKIE), &forged, &first, &forged, &second(COOKIE)]);
    assert_eq!((heard.said.hellos.len(), heard.proven), (2, vec![]));
}

#[test]
fn another_handshake_on_the_same_ports_is_another_hello() {
    let (first, second) = (one(&body(DTLS_1_2, &[], 5, &[])), one(&body(DTLS_1_0, &[], 6, &[])));
    let heard = deliver([&first, &second, &first]);
    let indexes: Vec<_> = heard.said.hellos.iter().map(|hello| hello.index).collect();
    assert_eq!(indexes, [0, 0, 0]);
}

#[test]
fn what_is_no_hello_or_contradicts_itself() {
    let body = body(DTLS_1_2, &[], 5, &[]);
    let end = body.len();
    let handshake = |payload: &[u8]| record(22, DTLS_1_2, 0, payload);
    let ignored = [
        (record(23, DTLS_1_2, 1, b"data"), Ignored::NotHello),
        (record(22, DTLS_1_2, 1, &fragment(1, 0, &body, 0, end)), Ignored::NotHello),
        (handshake(&fragment(16, 2, &body, 0, end)), Ignored::NotHello),
        (handshake(&fragment(1, 7, &body, 0, end)), Ignored::NotHello),
        (handshake(&fragment(1, 0, &body, 0, end)[..30]), Ignored::NotHello),
        (record(22, 0x0303, 0, &fragment(1, 0, &body, 0, end)), Ignored::NotQuic),
    ];
    for (datagram, why) in ignored {
        let heard = deliver([&up(datagram)]);
        assert_eq!((heard.said.hellos, heard.said.lost, heard.said.ignored), (vec![], vec![], vec![why]));
    }
    let longer = [&body[..], &[0]].concat();
    let mut other = body.clone();
    other[20] ^= 1;
    let part = |body: &[u8], from, to| handshake(&fragment(1, 0, body, from, to));
    let huge = |length: [u8; 3]| handshake(&[&[1][..], &length, &[0; 5], &[0, 0, 1, 0xfe]].concat());
    let lost = [
        (vec![part(&body, 0, 50), part(&longer, 50, 60)], Cause::Malformed),
        (vec![part(&body, 0, 50), part(&other, 10, 60)], Cause::OverlapConflict),
        (vec![part(&longer, 0, end + 1)], Cause::Malformed),
        (vec![huge([0, 0xff, 0xff])], Cause::Evasive),
        (vec![huge([1, 0, 0])], Cause::Oversize),
    ];
    for (datagrams, cause) in lost {
        let mut sent: Vec<_> = datagrams.into_iter().map(up).collect();
        sent.push(up(part(&body, 0, end)));
        let heard = deliver(&sent);
        assert_eq!((heard.said.hellos.len(), heard.said.causes()), (0, vec![cause]));
        assert_eq!(heard.said.ignored, [Ignored::AfterLost]);
        assert!(heard.allocated < 20_000, "memory by claims");
    }
}

/// The lists of real hellos, carried over DTLS.
#[test]
fn the_fields_are_those_of_the_same_hello_over_tls() {
    for sample in few() {
        let message = &sample.stream[9..];
        let cookie_at = 35 + usize::from(message[34]);
        let body = [&message[..cookie_at], &[2, 1, 2], &message[cookie_at..]].concat();
        let heard = deliver(&records(0, &body, 300).into_iter().map(up).collect::<Vec<_>>());
        assert_eq!(ja4(&heard)[1..], sample.hello.fingerprint.ja4.as_str()[1..], "{}", sample.name);
    }
}

proptest! {
    #[test]
    fn damaged_records_have_their_fates(
        size in 1_usize..200,
        damage in prop::collection::vec((any::<Index>(), any::<Index>(), any::<u8>()), 0..6),
        order in any::<u64>(),
    ) {
        let mut records = records(0, &body(DTLS_1_2, &[DTLS_1_3], 5, &[]), size);
        records.extend(self::records(1, &body(DTLS_1_2, &[], 5, b"cookie"), size));
        Dice(order).shuffle(&mut records);
        for (which, at, byte) in damage {
            let which = which.index(records.len());
            let record = &mut records[which];
            let at = at.index(record.len());
            record[at] = byte;
        }
        let sent: Vec<_> = records.iter().cloned().map(up).collect();
        deliver(&sent);
        fuzzing::dtls(&records.concat());
    }
}
