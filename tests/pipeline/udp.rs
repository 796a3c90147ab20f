//! Datagrams for a pipeline, and what it says about them.

use std::time::Duration;

use detector::capture::{Datagram, Flow, Packet, Proof};
use detector::clock::Timestamp;
use detector::pipeline::{Limits, Outcome, Pipeline, Void};

use crate::fixture::{SEEDS, Said, flow};

/// One datagram on the wire.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) flow: Flow,
    pub(crate) at: Duration,
    pub(crate) bytes: Vec<u8>,
    /// Bytes that the capture cut off its end.
    pub(crate) cut: usize,
}

/// The flow of these tests, client first.
pub(crate) fn client() -> Flow {
    flow(1, 40_000)
}

/// From the client.
pub(crate) fn up(bytes: Vec<u8>) -> Sent {
    Sent { flow: client(), at: Duration::ZERO, bytes, cut: 0 }
}

/// From the server.
pub(crate) fn down(bytes: Vec<u8>) -> Sent {
    Sent { flow: client().reversed(), ..up(bytes) }
}

/// What a pipeline said, with what stands beside the fates.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) said: Said,
    /// Of [`client`].
    pub(crate) proven: Vec<Proof>,
    pub(crate) void: Vec<Void>,
    /// Whose those are.
    pub(crate) voided: Vec<u32>,
    /// The most bytes that were allocated for hellos in progress.
    pub(crate) allocated: usize,
}

/// Runs `datagrams` through a new pipeline to the end.
pub(crate) fn deliver<'a>(datagrams: impl IntoIterator<Item = &'a Sent>) -> Heard {
    let mut heard = Heard::default();
    let mut pipeline = Pipeline::seeded(Limits::default(), SEEDS);
    let mut pushed = 0;
    let mut allocated = 0;
    let mut note = |outcome: Outcome| match outcome {
        Outcome::Proven { flow, proof, .. } => heard.proven.extend((flow == client()).then_some(proof)),
        Outcome::Void { stream, why, .. } => {
            heard.void.push(why);
            heard.voided.push(stream);
        }
        other => heard.said.note(other),
    };
    for sent in datagrams {
        let datagram = Datagram {
            flow: sent.flow,
            at: Timestamp::from_nanos(sent.at.as_nanos() as u64),
            payload: &sent.bytes[..sent.bytes.len() - sent.cut],
            payload_len: sent.bytes.len(),
        };
        pipeline.take(&Packet::Datagram(datagram), &mut note);
        pushed += 1;
        allocated = allocated.max(pipeline.partial_bytes());
    }
    pipeline.finish(&mut note);
    assert_eq!((pipeline.partial_hellos(), pipeline.partial_bytes()), (0, 0), "nothing is left behind");
    assert_eq!(heard.said.segments(), pushed, "each datagram has one fate");
    heard.allocated = allocated;
    heard
}
