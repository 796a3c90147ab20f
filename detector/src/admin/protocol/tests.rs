//! The words of the control socket: written, read back, refused.

use super::*;
use crate::signals::Baseline;

const JA4: &str = "t13d1516h2_8daaf6152771_e5627efa2ab1";

#[test]
fn requests_read_as_documented() {
    let block = Request::Block {
        subject: "192.0.2.7".parse().unwrap(),
        ttl: "1h".parse().unwrap(),
        care: Care::default(),
        terms: Terms::default(),
    };
    let line = serde_json::to_string(&block).unwrap();
    assert_eq!(line, r#"{"verb":"block","subject":"192.0.2.7","ttl":"1h"}"#);
    assert_eq!(Request::decode(line.as_bytes()), Ok(block));
    assert_eq!(Request::decode(br#"{"verb":"list"}"#), Ok(Request::List { skip: 0 }));
    assert_eq!(Request::decode(br#"{"verb":"status"}"#), Ok(Request::Status));
    let line = format!(r#"{{"verb":"signals","ja4":"{JA4}"}}"#);
    assert_eq!(Request::decode(line.as_bytes()), Ok(Request::Signals { ja4: JA4.parse().unwrap() }));
}

#[test]
fn care_and_loads_read_as_documented() {
    let line = r#"{"verb":"block","subject":"192.0.2.7","ttl":"1h","care":{"force":true,"confirm_within_s":120}}"#;
    let Ok(Request::Block { care, .. }) = Request::decode(line.as_bytes()) else { panic!("a block") };
    assert_eq!(care, Care { force: true, confirm_within_s: Some(120), ssh_client: None });
    let line = r#"{"verb":"load","list":"block","ttl":"1h","total":1,"items":[{"subject":"192.0.2.7","ttl":"2h"}]}"#;
    let Ok(Request::Load(load)) = Request::decode(line.as_bytes()) else { panic!("a load") };
    assert_eq!((load.items.len(), load.more, load.skip), (1, false, false));
    let line = format!(r#"{{"verb":"load","list":"allow","ttl":"1h","total":1,"items":[{{"subject":"{JA4}"}}]}}"#);
    assert!(Request::decode(line.as_bytes()).unwrap_err().contains("not JA4 values"));
}

#[test]
fn what_is_no_request_is_an_error_of_one_line() {
    for line in [
        "",
        "{}",
        "[]",
        "null",
        r#"{"verb":"drop"}"#,
        r#"{"verb":"block","subject":"192.0.2.7"}"#,
        r#"{"verb":"block","subject":"10.0.0.1/8","ttl":"1h"}"#,
        r#"{"verb":"block","subject":"192.0.2.7","ttl":"1h","extra":1}"#,
        r#"{"verb":"list","skip":-1}"#,
        r#"{"verb":"signals","ja4":"t13d"}"#,
    ] {
        let error = Request::decode(line.as_bytes()).unwrap_err();
        assert_eq!(error.lines().count(), 1, "{line}");
    }
    let line = format!(r#"{{"verb":"allow","subject":"{JA4}","ttl":"forever"}}"#);
    assert!(Request::decode(line.as_bytes()).unwrap_err().contains("not JA4 values"));
}

#[test]
fn responses_go_there_and_back() {
    let changed = Changed::new(Change::Blocked, JA4.parse().unwrap(), Ttl::Forever, SystemTime::UNIX_EPOCH);
    let entry = Entry {
        action: Action::Block,
        at: Layer::Packets,
        subject: "2001:db8::/32".parse().unwrap(),
        until: "forever".to_owned(),
        ja4_r: None,
        expires_in_s: None,
        hits: u64::MAX,
        origin: Origin::Operator,
    };
    for response in [
        Response::Changed(changed),
        Response::Entries { entries: vec![entry], total: 1 },
        Response::Status(Box::default()),
        Response::Signals(Box::new(Figures { baseline_24h: Some(Baseline::default()), ..Figures::default() })),
        Response::Held { entries: 7 },
        Response::Confirmed { entries: 7 },
        Response::NotFound,
        Response::Refused { reason: "\u{1b}[31m\n".to_owned(), hint: String::new() },
        Response::Error { message: "no".to_owned() },
    ] {
        let line = response.encode();
        assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
        assert_eq!(serde_json::from_slice::<Response>(&line).unwrap(), response);
    }
}

#[test]
fn a_page_of_the_longest_entries_fits_a_frame() {
    let entry = Entry {
        action: Action::Challenge,
        at: Layer::Inline,
        subject: "2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap(),
        until: "2026-11-22T04:23:11Z".to_owned(),
        ja4_r: None,
        expires_in_s: Some(u64::MAX),
        hits: u64::MAX,
        origin: Origin::Operator,
    };
    let ja4_r = |codes: usize| {
        let (ciphers, extensions) = ("1301,".repeat(98), "000a,".repeat(codes - 2));
        format!("t13d99{codes:02}h2_{ciphers}1301_{extensions}000b")
    };
    let with = |ja4_r: String| Entry { ja4_r: Some(ja4_r.parse().unwrap()), ..entry.clone() };
    for (entry, least) in [(entry.clone(), PAGE), (with(ja4_r(20)), 70), (with(ja4_r(98)), 50)] {
        let entries = page(vec![entry; PAGE]);
        assert!(entries.len() >= least, "{}", entries.len());
        let page = Response::Entries { entries, total: usize::MAX };
        assert!(page.encode().starts_with(br#"{"response":"entries""#));
    }
    let long = Response::Error { message: "x".repeat(FRAME_MAX) }.encode();
    assert!(long.len() < 200 && long.starts_with(br#"{"message":"the response has"#));
}

#[test]
fn every_change_says_how_to_undo_it() {
    let undo = |action, subject: &str, ttl: &str| {
        Changed::new(action, subject.parse().unwrap(), ttl.parse().unwrap(), SystemTime::UNIX_EPOCH).undo
    };
    assert_eq!(undo(Change::Blocked, "192.0.2.7", "1h"), "detector unblock 192.0.2.7");
    assert_eq!(undo(Change::Blocked, JA4, "1h"), format!("detector unblock --ja4 {JA4}"));
    assert_eq!(undo(Change::Unblocked, JA4, "90s"), format!("detector block --ja4 {JA4} --ttl 1m30s"));
    assert_eq!(undo(Change::Allowed, "10.0.0.0/8", "forever"), "detector unallow 10.0.0.0/8");
    assert_eq!(undo(Change::Unallowed, "10.0.0.0/8", "forever"), "detector allow 10.0.0.0/8 --ttl forever");
    assert_eq!(until(Ttl::For(Duration::from_secs(60)), SystemTime::UNIX_EPOCH), "1970-01-01T00:01:00Z");
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_a_request_or_an_error(line in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        drop(Request::decode(&line));
    }

    #[test]
    fn any_text_in_a_request_is_read_or_refused(subject in "\\PC{0,40}", ttl in "\\PC{0,20}") {
        let line = serde_json::json!({ "verb": "block", "subject": subject, "ttl": ttl }).to_string();
        if let Ok(request) = Request::decode(line.as_bytes()) {
            let again = serde_json::to_vec(&request).unwrap();
            proptest::prop_assert_eq!(Request::decode(&again), Ok(request));
        }
    }
}
