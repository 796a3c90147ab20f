//! What a frame says, and that no frame does harm.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::schema::{READ, field};
use super::*;

const DOCS: &str = include_str!("../../../docs/reports.md");

const NGINX: &str = r#"<190>Nov 22 16:00:00 web nginx: {"v":1,"ip":"192.0.2.7","port":"40000","sip":"198.51.100.1","sport":"443","t":"1763827200.125","dur":"0.250","age":"12.5","n":"3","host":"shop.example","method":"GET","path":"/a?b=\"c\"","proto":"HTTP/2.0","status":"200","bytes":"512","cache":"","ua":"Mozilla/5.0","ref":"-","hdr":"host,user-agent","cookie":"1"}"#;

fn nginx() -> Report<'static> {
    Report {
        client: Some(Ipv4Addr::new(192, 0, 2, 7).into()),
        client_port: Some(40_000),
        server: Some(Ipv4Addr::new(198, 51, 100, 1).into()),
        server_port: Some(443),
        time: Some(1_763_827_200.125),
        duration: Some(Duration::from_millis(250)),
        connection_age: Some(Duration::from_millis(12_500)),
        connection_requests: Some(3),
        server_name: Some("shop.example".into()),
        method: Some("GET".into()),
        path: Some("/a?b=\"c\"".into()),
        protocol: Some("HTTP/2.0".into()),
        status: Some(200),
        bytes: Some(512),
        user_agent: Some("Mozilla/5.0".into()),
        header_names: Some("host,user-agent".into()),
        cookie: Some(true),
        ..Report::default()
    }
}

fn rejected(frame: &[u8]) -> Rejected {
    read(frame, &mut String::new()).unwrap_err()
}

/// What one field of a frame says, of a report of this version.
fn with(fields: &str) -> Frame<'static> {
    let text = format!("{{\"v\":1,{fields}}}").leak();
    read(text.as_bytes(), Box::leak(Box::default())).unwrap()
}

#[test]
fn a_frame_of_nginx_is_borrowed_but_for_escapes() {
    let mut mended = String::new();
    let frame = read(NGINX.as_bytes(), &mut mended).unwrap();
    assert_eq!(frame, Frame { report: nginx(), unknown: 0, wrong: 0 });
    assert!(matches!(frame.report.user_agent, Some(Cow::Borrowed(_))));
    assert!(matches!(frame.report.path, Some(Cow::Owned(_))));
}

#[test]
fn every_header_of_syslog_is_skipped() {
    let json = NGINX.split_once(": ").unwrap().1;
    for header in [
        "",
        "<134>",
        "<134>Nov 22 16:00:00 haproxy[7]: ",
        "<134>Nov  2 16:00:00 web.example haproxy[7]: ",
        "<134>1 2026-11-22T16:00:00.000000+00:00 web haproxy 7 - - ",
        "<134>1 2026-11-22T16:00:00Z web haproxy 7 id [a@1 k=\"]{\\\"\"][b@1] \u{feff}",
        "<134>1 - - - - - - ",
    ] {
        for end in ["", "\n", "\0", "\r\n"] {
            let frame = format!("{header}{json}{end}");
            assert_eq!(read(frame.as_bytes(), &mut String::new()).map(|frame| frame.report), Ok(nginx()), "{header}");
        }
    }
}

#[test]
fn numbers_may_be_text_and_units_are_the_keys() {
    assert_eq!(with(r#""dur":0.25"#), with(r#""dur":"0.250""#));
    assert_eq!(with(r#""dur_ms":250"#), with(r#""dur":0.25"#));
    assert_eq!(with(r#""dur_us":"250000""#), with(r#""dur":0.25"#));
    assert_eq!(with(r#""age_ms":1500"#).report.connection_age, Some(Duration::from_millis(1500)));
    assert_eq!(with(r#""cookie":true"#), with(r#""cookie":"1""#));
    assert_eq!(with(r#""ip":"::ffff:192.0.2.7""#), with(r#""ip":"192.0.2.7""#));
    assert_eq!(with(r#""ip":"[2001:db8::1]""#), with(r#""ip":"2001:db8::1""#));
}

#[test]
fn what_servers_write_for_nothing_is_absent() {
    assert_eq!(with(r#""status":-1,"dur_ms":"-1""#), Frame::default(), "HAProxy, of a request that was broken off");
    for nothing in ["\"\"", "\"-\"", "null"] {
        for key in READ.iter().filter(|key| **key != "v") {
            assert_eq!(with(&format!("\"{key}\":{nothing}")), Frame::default(), "{key}");
        }
    }
}

#[test]
fn a_wrong_type_costs_its_field_alone() {
    for (key, value) in [
        ("ip", "\"unix:\""),
        ("port", "0"),
        ("port", "65536"),
        ("status", "-2"),
        ("dur", "-0.1"),
        ("dur", "\"NaN\""),
        ("n", "1.5"),
        ("ua", "7"),
        ("ua", "[\"curl\"]"),
        ("cookie", "\"yes\""),
        ("host", "{\"a\":1}"),
        ("request", "\"GET / HTTP/1.1\""),
    ] {
        let frame = with(&format!("\"{key}\":{value},\"bytes\":5"));
        let expected = Frame { report: Report { bytes: Some(5), ..Report::default() }, unknown: 0, wrong: 1 };
        assert_eq!(frame, expected, "{key}: {value}");
    }
}

#[test]
fn unknown_fields_are_counted() {
    let frame = with(r#""x":1,"y":[{"z":[]}],"\u0070ort":7,"bytes":5"#);
    assert_eq!((frame.unknown, frame.wrong, frame.report.bytes), (2, 0, Some(5)));
    assert_eq!(frame.report.client_port, Some(7), "a name with an escape is the same name");
}

#[test]
fn why_a_frame_is_no_report() {
    let deep = |depth: usize| format!("{{\"v\":1,\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    let depth_max = DEPTH_MAX as usize;
    assert!(read(deep(depth_max - 1).as_bytes(), &mut String::new()).is_ok());
    assert_eq!(rejected(deep(depth_max).as_bytes()), Rejected::Deep);
    assert_eq!(rejected("[".repeat(FRAME_MAX).as_bytes()), Rejected::Malformed);
    assert_eq!(rejected(&[b' '; FRAME_MAX + 1]), Rejected::Long);
    assert_eq!(rejected(b"{\"v\":1,\"ua\":\"cut o"), Rejected::Malformed);
    assert_eq!(rejected(b"{\"v\":1}{\"v\":1}"), Rejected::Malformed);
    assert_eq!(rejected(b""), Rejected::Malformed);
    assert_eq!(rejected(b"<190>Nov 22 16:00:00 web nginx: 192.0.2.7 GET /"), Rejected::Malformed);
    assert_eq!(rejected(b"[1,2]"), Rejected::NotObject);
    for version in ["{}", "{\"v\":2}", "{\"v\":null}", "{\"logger\":\"admin.api\"}"] {
        assert_eq!(rejected(version.as_bytes()), Rejected::Version, "{version}");
    }
}

/// A client chooses these bytes: they must not keep its request from being told.
#[test]
fn text_that_is_no_json_is_mended() {
    let cases: [(&[u8], &str); 6] = [
        (b"caf\xc3\xa9", "café"),
        (b"\xff\x41", "\u{fffd}A"),
        (b"caf\\xc3\\xa9 \\x01", "café \u{1}"),
        (b"a\\vb", "a\u{b}b"),
        (b"\\ud83d \\ude00", "\u{fffd} \u{fffd}"),
        (b"\\ud83d\\ude00\\xff\\\\x41\\\"", "\u{1f600}\u{fffd}\\x41\""),
    ];
    for (bytes, text) in cases {
        let frame = [&b"{\"v\":1,\"ua\":\""[..], bytes, b"\"}"].concat();
        let mut mended = String::new();
        let read = read(&frame, &mut mended).unwrap();
        assert_eq!(read.report.user_agent.as_deref(), Some(text));
    }
}

#[test]
fn caddys_own_log_is_read() {
    let frame = br#"{"level":"info","ts":1763827200.5,"logger":"http.log.access.log0","msg":"handled request","request":{"remote_ip":"192.0.2.7","remote_port":"40000","proto":"HTTP/2.0","method":"GET","host":"shop.example","uri":"/a?b","headers":{"User-Agent":["curl/8"],"Cookie":["REDACTED"],"X-Odd":["1","2"],"Accept":[]},"tls":{"resumed":false}},"user_id":"","duration":0.25,"size":512,"status":200,"resp_headers":{"Server":["Caddy"]}}"#;
    let expected = Report {
        client: Some(Ipv4Addr::new(192, 0, 2, 7).into()),
        client_port: Some(40_000),
        time: Some(1_763_827_200.5),
        duration: Some(Duration::from_millis(250)),
        server_name: Some("shop.example".into()),
        method: Some("GET".into()),
        path: Some("/a?b".into()),
        protocol: Some("HTTP/2.0".into()),
        status: Some(200),
        bytes: Some(512),
        user_agent: Some("curl/8".into()),
        cookie: Some(true),
        ..Report::default()
    };
    let frame = read(frame, Box::leak(Box::default()));
    assert_eq!(frame, Ok(Frame { report: expected, unknown: 0, wrong: 0 }));
}

/// The lines of one header are one list (RFC 9110 section 5.3): the last one is the nearest proxy's.
#[test]
fn caddys_lines_of_forwarded_for_are_one_list() {
    let told = |lines: &str| {
        let frame = format!(
            r#"{{"logger":"http.log.access","request":{{"headers":{{"X-Forwarded-For":{lines},"Accept":["a","b"]}}}}}}"#
        );
        let Frame { report, wrong, .. } = read(frame.as_bytes(), Box::leak(Box::default())).unwrap();
        (report.forwarded_for.map(String::from), report.accept.map(String::from), wrong)
    };
    let accept = || Some("a".to_owned());
    assert_eq!(told(r#"["203.0.113.9","192.0.2.7, 10.0.0.2"]"#).0.as_deref(), Some("203.0.113.9,192.0.2.7, 10.0.0.2"));
    assert_eq!(told(r#"["192.0.2.7"]"#), (Some("192.0.2.7".to_owned()), accept(), 0));
    assert_eq!(told("[]"), (None, accept(), 0));
    assert_eq!(told(r#"["","192.0.2.7"]"#).0.as_deref(), Some(",192.0.2.7"));
}

#[test]
fn every_key_is_documented_and_none_else() {
    let rows = DOCS.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut documented: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    let mut known = READ.to_vec();
    documented.sort_unstable();
    known.sort_unstable();
    assert_eq!(documented, known);
    assert!(known.iter().all(|key| field(key).is_some()));
}

/// Text as clients send it, but for what stands for nothing.
fn text() -> impl Strategy<Value = Option<Cow<'static, str>>> {
    let some = any::<String>().prop_filter("stands for nothing", |text| !matches!(text.as_str(), "" | "-"));
    proptest::option::of(some.prop_map(Cow::Owned))
}

fn span() -> impl Strategy<Value = Option<Duration>> {
    proptest::option::of((0..4_000_000_000_u64).prop_map(Duration::from_micros))
}

prop_compose! {
    fn report()(
        (client, server) in any::<(Option<Ipv4Addr>, Option<Ipv6Addr>)>(),
        (client_port, server_port) in (proptest::option::of(1_u16..), proptest::option::of(1_u16..)),
        time in proptest::option::of(0..4_000_000_000_000_u64),
        (duration, connection_age) in (span(), span()),
        (connection_requests, connection, status, bytes) in any::<(Option<u64>, Option<u64>, Option<u16>, Option<u64>)>(),
        texts in proptest::collection::vec(text(), 18),
        (cookie, relayed) in any::<(Option<bool>, Option<bool>)>(),
        (proxied_client, proxied_server) in any::<(Option<Ipv6Addr>, Option<Ipv4Addr>)>(),
        (proxied_client_port, proxied_server_port) in (proptest::option::of(1_u16..), proptest::option::of(1_u16..)),
    ) -> Report<'static> {
        let mut texts = texts.into_iter().flatten();
        Report {
            client: client.map(IpAddr::from), client_port, server: server.map(|ip| IpAddr::from(ip).to_canonical()),
            server_port, time: time.map(|ms| ms as f64 / 1e3), duration, connection_age, connection_requests, connection,
            server_name: texts.next(), method: texts.next(), path: texts.next(), protocol: texts.next(), status, bytes,
            cache: texts.next(), user_agent: texts.next(), referer: texts.next(), accept: texts.next(),
            accept_language: texts.next(), accept_encoding: texts.next(), client_hints: texts.next(),
            client_hints_mobile: texts.next(), client_hints_platform: texts.next(), fetch_site: texts.next(),
            fetch_mode: texts.next(), fetch_dest: texts.next(), fetch_user: texts.next(), header_names: texts.next(),
            cookie, session: texts.next(), forwarded_for: texts.next(), relayed,
            proxied_client: proxied_client.map(|ip| IpAddr::from(ip).to_canonical()), proxied_client_port,
            proxied_server: proxied_server.map(IpAddr::from), proxied_server_port,
        }
    }
}

/// Any JSON: names of ours and others, values of every type, within each other.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let names = proptest::sample::select([READ, &["request", "headers", "logger", "odd"]].concat());
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::vec((names.clone(), inner), 0..8).prop_map(|entries| {
                entries
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect::<serde_json::Map<_, _>>()
                    .into()
            }),
        ]
    })
}

proptest! {
    #[test]
    fn a_report_written_and_read_is_equal(report in report()) {
        let text = serde_json::to_string(&report).unwrap();
        let mut mended = String::new();
        let frame = read(text.as_bytes(), &mut mended);
        prop_assert_eq!(frame, Ok(Frame { report, unknown: 0, wrong: 0 }));
    }

    #[test]
    fn any_object_of_this_version_is_a_report(value in json()) {
        let mut value = value;
        let object = value.is_object();
        if let Some(object) = value.as_object_mut() {
            object.insert("v".to_owned(), 1.into());
        }
        let text = value.to_string();
        let mut mended = String::new();
        let read = read(text.as_bytes(), &mut mended);
        prop_assert_eq!(read.map(drop), if object { Ok(()) } else { Err(Rejected::NotObject) });
    }

    #[test]
    fn no_bytes_do_harm(bytes in any::<Vec<u8>>(), at in 0..NGINX.len()) {
        let _ = read(&bytes, &mut String::new());
        let mut frame = NGINX.as_bytes().to_vec();
        frame.splice(at.., bytes);
        let _ = read(&frame, &mut String::new());
    }
}
