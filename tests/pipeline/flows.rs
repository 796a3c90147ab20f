//! What comes before, after and instead of a hello on its 4-tuple.

use detector::capture::{Segment, TcpFlags};
use detector::pipeline::{Cause, Ignored};

use crate::fixture::{data, few, flow, run, samples, syn};

const CCS: &[u8] = &[20, 3, 3, 0, 1, 1];

fn with(segment: Segment<'_>, flags: TcpFlags) -> Segment<'_> {
    Segment { flags, ..segment }
}

const FIN: TcpFlags = TcpFlags { syn: false, ack: true, rst: false, fin: true };
const RST: TcpFlags = TcpFlags { syn: false, ack: false, rst: true, fin: false };

#[test]
fn a_retransmitted_hello_is_reported_once() {
    let sample = few()[0];
    let flow = flow(1, 1);
    let whole = || data(flow, 9, &sample.stream);
    let said = run([whole(), whole(), data(flow, 109, &sample.stream[100..200])]);
    assert_eq!(said.hellos.len(), 1);
    assert_eq!(said.ignored, [Ignored::Duplicate, Ignored::Duplicate]);
}

#[test]
fn a_new_syn_starts_over_and_the_same_one_does_not() {
    let sample = few()[0];
    let flow = flow(1, 1);
    let said = run([
        syn(flow, 9),
        data(flow, 9, &sample.stream),
        syn(flow, 9),
        data(flow, 9, &sample.stream),
        syn(flow, 1009),
        data(flow, 1009, &sample.stream[..700]),
        syn(flow, 2009),
        data(flow, 2009, &sample.stream),
    ]);
    assert_eq!(said.hellos.iter().map(|hello| (hello.first_seq, hello.index)).collect::<Vec<_>>(), [(9, 0), (2009, 0)]);
    assert_eq!(said.causes(), [Cause::Replaced]);
    assert_eq!(
        said.ignored,
        [Ignored::NoPayload, Ignored::NoPayload, Ignored::Duplicate, Ignored::NoPayload, Ignored::NoPayload]
    );
}

#[test]
fn a_stale_flow_does_not_blind_a_new_hello_without_a_syn() {
    let sample = few()[0];
    let flow = flow(1, 1);
    let far = 0x4000_0000;
    // After a whole hello, after one in progress, and after one lost for cause.
    for before in [&sample.stream[..], &sample.stream[..700], &[22, 3, 1, 0, 9, 1, 255, 255, 255]] {
        for cut in [sample.stream.len(), 700] {
            let (head, tail) = sample.stream.split_at(cut);
            let said = run([data(flow, 9, before), data(flow, far, head), data(flow, far + cut as u32, tail)]);
            let last = said.hellos.last().unwrap_or_else(|| panic!("{} bytes before, cut at {cut}", before.len()));
            assert_eq!((last.first_seq, last.index), (far, 0));
        }
    }
}

/// RFC 8446 section 4.1.4 and appendix D.4.
#[test]
fn a_second_hello_follows_the_first_however_it_is_cut() {
    let sample = few()[2];
    let flow = flow(1, 1);
    let length = sample.stream.len() as u32;
    for prefix in [&[][..], CCS] {
        let second = [prefix, &sample.stream].concat();
        for cut in 0..second.len() {
            for reversed in [false, true] {
                let mut pieces = [(0, &second[..cut]), (cut as u32, &second[cut..])];
                if reversed {
                    pieces.reverse();
                }
                let pieces = pieces.into_iter().filter(|(_, bytes)| !bytes.is_empty());
                let after = pieces.map(|(offset, bytes)| data(flow, 9 + length + offset, bytes));
                let said = run([syn(flow, 9), data(flow, 9, &sample.stream)].into_iter().chain(after));
                let indexes: Vec<u32> = said.hellos.iter().map(|hello| hello.index).collect();
                assert_eq!(indexes, [0, 1], "{} bytes before, cut at {cut}, reversed {reversed}", prefix.len());
                assert_eq!(said.hellos[1].first_seq, 9 + length + prefix.len() as u32);
                assert_eq!(said.lost, []);
            }
        }
    }
}

#[test]
fn what_else_follows_a_hello_is_no_hello() {
    let sample = few()[0];
    let flow = flow(1, 1);
    let end = 9 + sample.stream.len() as u32;
    let finished = [CCS, &[23, 3, 3, 0, 53], &[9; 53]].concat();
    // A TLS 1.2 client's key exchange, and the encrypted Finished of a resumed session.
    let key_exchange = [&[22, 3, 3, 0, 70, 16, 0, 0, 66], &[9; 66][..]].concat();
    let encrypted = [CCS, &[22, 3, 3, 0, 40, 1, 77], &[9; 38]].concat();
    for after in [&finished, &key_exchange, &encrypted] {
        let cut = after.len() / 2;
        let said = run([
            data(flow, 9, &sample.stream),
            data(flow, end + cut as u32, &after[cut..]),
            data(flow, end, &after[..cut]),
            data(flow, end + 5000, &sample.stream[..3]),
        ]);
        assert_eq!(said.hellos.len(), 1);
        assert_eq!(said.lost.iter().filter(|(_, cause)| *cause != Cause::Oversize).count(), 0, "{said:?}");
    }
}

#[test]
fn a_connection_that_ends_takes_its_hello_with_it() {
    let sample = few()[0];
    let flow = flow(1, 1);
    let head = &sample.stream[..700];
    let said = run([data(flow, 9, head), with(data(flow, 709, &[]), FIN)]);
    assert_eq!(said.causes(), [Cause::Truncated]);
    let said = run([data(flow, 9, head), with(data(flow, 709, &[]), RST)]);
    assert_eq!(said.causes(), [Cause::Reset]);
    // A reset elsewhere is one that the server doesn't believe.
    let forged = with(data(flow, 7090, &[]), RST);
    let said = run([data(flow, 9, head), forged, data(flow, 709, &sample.stream[700..])]);
    assert_eq!(said.hellos.len(), 1);
    let said = run([with(data(flow, 9, &sample.stream), FIN)]);
    assert_eq!((said.hellos.len(), said.lost.len()), (1, 0));
}

#[test]
fn data_on_the_syn_is_data() {
    let sample = few()[0];
    let flow = flow(1, 1);
    let flags = TcpFlags { syn: true, ..TcpFlags::default() };
    let opening = with(data(flow, 8, &sample.stream[..700]), flags);
    let said = run([opening, data(flow, 709, &sample.stream[700..])]);
    assert_eq!(said.hellos.len(), 1);
}

#[test]
fn other_protocols_are_counted_and_forgotten() {
    let flow = flow(1, 1);
    let sslv2 = [0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10];
    let said = run([
        syn(flow, 9),
        data(flow, 9, b"GET / HTTP/1.1\r\n"),
        data(flow, 25, b"Host: example.com\r\n"),
        syn(flow, 900),
        data(flow, 900, &sslv2),
        data(flow, 5000, &[22, 3, 3, 0, 90, 2, 0, 0, 86]),
    ]);
    assert_eq!(said.hellos, []);
    assert_eq!(said.lost, []);
    assert_eq!(said.ignored.iter().filter(|why| **why == Ignored::NotTls).count(), 3);
    assert_eq!(said.ignored.last(), Some(&Ignored::NotHello));
}

#[test]
fn a_flow_begun_in_its_middle_begins_again_at_its_beginning() {
    // A byte of the hello that looks like the first one of a record comes first.
    let sample = samples().iter().find(|sample| sample.stream[1..].contains(&22)).expect("a hello with such a byte");
    let at = 1 + sample.stream[1..].iter().position(|byte| *byte == 22).expect("that byte");
    let flow = flow(1, 1);
    let said = run([
        data(flow, 9 + at as u32, &sample.stream[at..=at]),
        data(flow, 9, &sample.stream[..at]),
        data(flow, 10 + at as u32, &sample.stream[at + 1..]),
    ]);
    let [hello] = &said.hellos[..] else { panic!("{said:?}") };
    assert_eq!(hello.fingerprint, sample.hello.fingerprint);
}
