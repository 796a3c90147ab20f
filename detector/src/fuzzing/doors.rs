//! The doors that local processes knock at: streams of reports, questions of web servers, requests of the
//! control socket, and what the daemon and the socket broker say to each other.

use std::net::IpAddr;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::report;
use crate::admin::protocol::{FRAME_MAX, Request, Response};
use crate::broker::protocol as broker_protocol;
use crate::clock::Timestamp;
use crate::inline::Question;
use crate::intake::Lines;
use crate::join::{Claim, Source, Trusted};
use crate::report::FRAME_MAX as LINE_MAX;

/// What the client's header of earlier hops is called.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A stream of reports in pieces: one byte says how long the next piece is, and how often it is repeated. Whatever
/// the pieces, the lines are those of the whole, up to the one that is too long.
pub fn stream(script: &[u8]) {
    let (mut lines, mut told, mut whole, mut fits) = (Lines::default(), Vec::new(), Vec::new(), true);
    let mut rest = script;
    while let Some((&byte, next)) = rest.split_first()
        && whole.len() < 2 * LINE_MAX
    {
        let (piece, next) = next.split_at(usize::from(byte & 0x3f).min(next.len()));
        rest = next;
        let piece = piece.repeat(1 << ((byte >> 6) * 3));
        whole.extend_from_slice(&piece);
        fits = lines.push(&piece, Timestamp::default(), |line| told.push(line.to_vec()));
        if !fits {
            break;
        }
    }
    let ended = told.len();
    lines.end(|line| told.push(line.to_vec()));
    assert!(told.len() <= ended + 1, "one line is begun at most");
    let last = told.get(ended).map_or(0, Vec::len);
    assert_eq!(fits, last <= LINE_MAX, "what is held is bounded");
    let mut expected: Vec<&[u8]> = whole.split(|&byte| byte == b'\n').collect();
    if expected.last().is_some_and(|line| line.is_empty()) {
        expected.pop();
    }
    assert_eq!(told, expected, "pieces change what the lines are");
    told.iter().for_each(|line| report(line));
}

/// A question, its headers a line each. What a client can write doesn't name another one: left of what the proxies
/// wrote stands what anybody wrote.
pub fn question(head: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in head.split(|&byte| byte == b'\n') {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let trusted = Trusted::new([[127, 0, 0, 1], [10, 0, 0, 1]].map(|address| IpNet::from(IpAddr::from(address))));
    let source = Question::new(&headers).source(&trusted);
    if let Some(Source::Client(address) | Source::Forwarded(address)) = source {
        assert!(!trusted.has(address), "a proxy is nobody's client");
        assert_eq!(address, address.to_canonical(), "one address has one form");
        let forged = forged(&headers);
        assert_eq!(Question::new(&forged).source(&trusted), source, "a client named another one");
    }
    let question = Question::new(&headers);
    let report = question.report();
    if let Some(claim) = Claim::of(&report, Timestamp::from_nanos(1 << 60)) {
        assert!(claim.connection.is_none_or(|connection| connection <= claim.arrived), "from the future");
    }
    assert!(
        question
            .site()
            .is_none_or(|site| headers.values().any(|value| value.to_str().is_ok_and(|text| text.starts_with(site))))
    );
}

/// The same headers with an address before all others in `X-Forwarded-For`, if that is there.
fn forged(headers: &HeaderMap) -> HeaderMap {
    let mut lines = headers.get_all(FORWARDED_FOR).iter();
    let Some(first) = lines.next() else { return headers.clone() };
    let line = HeaderValue::from_bytes(&[b"203.0.113.77, ", first.as_bytes()].concat()).expect("two values are one");
    let mut forged = headers.clone();
    forged.insert(FORWARDED_FOR, line);
    lines.for_each(|line| assert!(forged.append(FORWARDED_FOR, line.clone())));
    forged
}

/// Requests of the control socket, a line each: what is read is written and read as the same, and what is refused is
/// refused in one line that fits.
pub fn control(stream: &[u8]) {
    for line in stream.split(|&byte| byte == b'\n') {
        match Request::decode(line) {
            Ok(request) => {
                let written = serde_json::to_vec(&request).expect("a request is plain data");
                let again = Request::decode(&written).expect("a written request is one");
                assert_eq!(serde_json::to_vec(&again).ok().as_ref(), Some(&written), "written and read, it is another");
                assert_eq!((request.verb(), request.layer()), (again.verb(), again.layer()));
                assert!(request.audited().is_none_or(|subject| !subject.contains('\n')), "the audit's line is one");
            }
            Err(message) => {
                let response = Response::Error { message }.encode();
                assert!(response.len() <= FRAME_MAX && response.ends_with(b"\n"), "a response fits");
                assert_eq!(response.iter().filter(|&&byte| byte == b'\n').count(), 1, "a response is one line");
            }
        }
    }
}

/// Requests and responses of the socket broker, a line each: what is read is written and read as the same, and fits.
pub fn broker(stream: &[u8]) {
    for line in stream.split(|&byte| byte == b'\n') {
        if let Ok(request) = broker_protocol::Request::decode(line) {
            let written = request.encode();
            assert!(written.len() <= broker_protocol::FRAME_MAX && written.ends_with(b"\n"), "a request fits");
            let again = broker_protocol::Request::decode(written.trim_ascii_end());
            assert_eq!(again, Ok(request), "written and read, it is another");
        }
        if let Ok(response) = broker_protocol::Response::decode(line) {
            let written = response.encode();
            assert_eq!(written.iter().filter(|&&byte| byte == b'\n').count(), 1, "a response is one line");
            assert_eq!(broker_protocol::Response::decode(written.trim_ascii_end()), Ok(response));
        }
    }
}
