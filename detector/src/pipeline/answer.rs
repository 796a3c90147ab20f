//! What a server sends in, its [`Answer`] to a hello out.

use super::{Answer, Offer};
use crate::capture::Flow;
use crate::clock::Timestamp;
use crate::fingerprint::ja3s::ja3s;
use crate::tls::Parsed;
use crate::tls::server_hello::{first_message, parse};

const TLS13: u16 = 0x0304;

/// The answer that begins in the first byte of `payload`, which the server of `flow` sent at `at`; `flow` has the
/// server first. Only if the whole message is in `payload`: a server's answer isn't put together over segments.
#[must_use]
pub fn answer(flow: Flow, at: Timestamp, payload: &[u8]) -> Option<Answer> {
    let mut scratch = Vec::new();
    let Parsed::Complete(hello) = parse(first_message(payload, &mut scratch)?) else { return None };
    let (ja3s_raw, ja3s) = ja3s(&hello);
    Some(Answer {
        flow: flow.reversed(),
        at,
        retry: hello.retry,
        version: hello.version(),
        session_id: hello.session_id.into(),
        cipher_suite: hello.cipher_suite,
        ja3s_raw,
        ja3s,
    })
}

/// Whether a server that read this offer may have answered so: it chooses among the cipher suites offered, and in TLS
/// 1.3 it repeats the session id (RFC 8446 section 4.1.3). If not, it read another hello than we did.
#[must_use]
pub fn fits(offer: &Offer, answer: &Answer) -> bool {
    offer.cipher_suites.contains(&answer.cipher_suite)
        && (answer.version != TLS13 || offer.session_id == answer.session_id)
}
