use super::*;
use crate::fingerprint::Ja4;
use crate::session::{Hello, Hellos};

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(1_000_000_000_000_000 + millis * 1_000_000)
}

fn client(last: u8, ja4: u64) -> Subject {
    let ja4_stable: Ja4 = format!("t13d1516h2_8daaf6152771_{ja4:012x}").parse().unwrap();
    Subject::Client { address: IpAddr::from([192, 0, 2, last]), ja4_stable, proxy_suspected: false }
}

fn page(path: &str) -> Report<'_> {
    Report { path: Some(path.into()), status: Some(200), user_agent: Some("agent".into()), ..Report::default() }
}

/// One session and what it did after requests for `path(n)` at `at(n)` over `connection(n)`.
fn visit(
    requests: u64,
    path: impl Fn(u64) -> String,
    millis: impl Fn(u64) -> u64,
    connection: impl Fn(u64) -> u64,
) -> Summary {
    let mut sessions = Sessions::new(Limits::default());
    let mut summary = None;
    for number in 0..requests {
        let path = path(number);
        let report = page(&path);
        let key = sessions.key(&client(7, 1), &report);
        let now = at(millis(number));
        let request = sessions.request(&report, now, connection(number));
        sessions.note(key, &request, now);
        summary = sessions.summary(key, now);
    }
    assert_eq!(sessions.len(), 1);
    summary.unwrap()
}

#[test]
fn a_client_is_known_by_its_session_id_or_by_what_it_is() {
    let sessions = Sessions::new(Limits::default());
    let session = |id: &'static str| Report { session: Some(id.into()), ..page("/") };
    let key = |subject: &Subject, report: &Report<'_>| sessions.key(subject, report);
    assert_eq!(key(&client(7, 1), &session("a")), key(&client(8, 2), &session("a")), "wherever it comes from");
    assert_ne!(key(&client(7, 1), &session("a")), key(&client(7, 1), &session("b")));
    let elsewhere = Report { server_name: Some("other.example".into()), ..session("a") };
    assert_ne!(key(&client(7, 1), &session("a")), key(&client(7, 1), &elsewhere), "ids are a site's own");
    assert_eq!(key(&client(7, 1), &page("/a")), key(&client(7, 1), &page("/b")));
    assert!(!key(&client(7, 1), &page("/")).by_id && key(&client(7, 1), &session("a")).by_id);
    let other_agent = Report { user_agent: Some("other".into()), ..page("/") };
    for (subject, report) in [(client(8, 1), page("/")), (client(7, 2), page("/")), (client(7, 1), other_agent)] {
        assert_ne!(key(&client(7, 1), &page("/")), key(&subject, &report));
    }
    let forwarded = |address: &str| Subject::Forwarded { address: address.parse().unwrap(), agent: 1, headers: 2 };
    assert_eq!(key(&forwarded("2001:db8::1"), &page("/")), key(&forwarded("2001:db8::2"), &page("/")), "one /64");
    assert_ne!(key(&forwarded("2001:db8::1"), &page("/")), key(&forwarded("2001:db8:0:1::1"), &page("/")));
}

#[test]
fn counts_and_shares_of_an_hour() {
    let mut sessions = Sessions::new(Limits::default());
    let mut note = |report: &Report<'_>, millis: u64, connection| {
        let key = sessions.key(&client(7, 1), report);
        let request = sessions.request(report, at(millis), connection);
        sessions.note(key, &request, at(millis));
        sessions.summary(key, at(millis)).unwrap()
    };
    note(&page("/a/b/c"), 0, 1);
    note(&Report { referer: Some("x".into()), ..page("/a") }, 1000, 1);
    note(&Report { status: Some(404), ..page("/style.css") }, 1100, 2);
    let summary = note(&Report { status: Some(503), ..page("/") }, 120_000, 2);
    assert_eq!((summary.requests, summary.assets, summary.pages(), summary.connections), (4, 1, 3, 2));
    assert_eq!(summary.statuses, [2, 0, 1, 1]);
    assert_eq!((summary.error_share(), summary.asset_share(), summary.unreferred_share()), (0.5, 0.25, 2.0 / 3.0));
    assert_eq!((summary.first_page_depth, summary.per_minute()), (Some(3), 2.0));
    // Of four paths two may have one bit of 512, once in a hundred tables.
    assert!((3..=4).contains(&summary.paths), "{}", summary.paths);
    let summary = note(&page("/"), 3_299_000, 2);
    assert_eq!(summary.requests, 5);
    let summary = note(&page("/"), 3_600_000 + 300_000, 3);
    assert_eq!((summary.requests, summary.connections, summary.statuses), (2, 1, [2, 0, 0, 0]));
    assert_eq!((summary.first_page_depth, summary.age.as_secs()), (Some(3), 3900));
    assert_eq!(summary.paths, 1, "what was half an hour before is forgotten");
}

#[test]
fn regular_pauses_are_told_from_irregular_ones() {
    let robot = visit(30, |_| "/".into(), |number| number * 2000 + number % 2 * 20, |_| 1).worst_connection;
    assert_eq!((robot.intervals, robot.requests), (29, 30));
    assert!((1.9..2.1).contains(&robot.interval_mean_s) && robot.interval_variation < 0.05, "{robot:?}");
    assert_eq!(robot.peak_per_minute, 30);
    let human = visit(30, |_| "/".into(), |number| number * number * 700, |_| 1).worst_connection;
    assert!(human.interval_variation > 0.4, "{human:?}");
    // The images of a page say nothing about pauses.
    let path = |number: u64| if number.is_multiple_of(10) { "/".to_owned() } else { format!("/{number}.png") };
    let browser = visit(100, path, |number| number / 10 * 9000 + number % 10 * 3, |_| 1).worst_connection;
    assert_eq!((browser.intervals, browser.peak_per_minute), (9, 70));
}

#[test]
fn people_behind_one_address_are_not_one_robot() {
    // Fifty people ask for a page every minute or so, each over a connection of their own; together it is a machine's pace.
    let one_by_one = |number: u64| number * 1200;
    let crowd = visit(1000, |number| format!("/{}", number * 37 % 101), one_by_one, |number| number % 50);
    assert!(crowd.whole.interval_variation < 0.1 && crowd.whole.peak_per_minute >= 50);
    assert_eq!(crowd.worst_connection.peak_per_minute, 1);
    assert_eq!(crowd.worst_connection.intervals, 0);
}

#[test]
fn counting_through_paths_is_seen_with_any_stride() {
    let sequence = |path: fn(u64) -> String| visit(20, path, |number| number * 1000, |_| 1).worst_connection.sequence;
    assert_eq!(sequence(|number| format!("/page/{number}")), 20);
    assert_eq!(sequence(|number| format!("/list?offset={}&n=50", 1000 - number * 50)), 20);
    assert!(sequence(|number| format!("/item/{}", number * number % 17)) <= 3);
    assert_eq!(sequence(|_| "/page/7".into()), 0);
    assert_eq!(sequence(|number| format!("/{}/{number}", if number % 2 == 0 { "a" } else { "b" })), 0);
    // Images in between don't hide it, nor a new connection for the second half of it.
    let path =
        |number: u64| if number.is_multiple_of(3) { format!("/page/{}", number / 3) } else { format!("/{number}.png") };
    assert_eq!(visit(60, path, |number| number * 100, |_| 1).worst_connection.sequence, 20);
    let halves = visit(40, |number| format!("/page/{number}"), |number| number * 100, |number| number / 20);
    assert_eq!((halves.worst_connection.sequence, halves.whole.sequence), (20, 40));
}

#[test]
fn the_worst_of_earlier_connections_is_remembered_for_a_while() {
    // A connection that counts through pages, then many that don't.
    let path = |number: u64| if number < 20 { format!("/page/{number}") } else { "/".into() };
    let connection = |number: u64| if number < 20 { 0 } else { number };
    let steps = visit(60, path, |number| number * 100, connection).worst_connection;
    assert_eq!((steps.sequence, steps.intervals), (20, 19));
    let later = |number: u64| if number < 20 { number * 100 } else { 3_700_000 + number * 100 };
    assert_eq!(visit(60, path, later, connection).worst_connection.sequence, 0);
}

#[test]
fn different_paths_are_estimated() {
    for many in [1, 10, 100, 300_u64] {
        let paths = f64::from(visit(many * 3, |number| format!("/{}", number % many), |number| number, |_| 1).paths);
        assert!((paths - many as f64).abs() <= (many as f64 * 0.15).ceil(), "{paths} for {many}");
    }
    let most = visit(20_000, |number| format!("/{number}"), |number| number, |_| 1).paths;
    assert!(most > 2_000, "{most}");
}

#[test]
fn a_flood_of_clients_is_bounded_and_counted() {
    let mut sessions = Sessions::new(Limits { sessions: 1000, ..Limits::default() });
    for number in 0..10_000_u64 {
        let report = page("/");
        let key = sessions.key(&client((number % 250) as u8, number), &report);
        let request = sessions.request(&report, at(number), number);
        sessions.note(key, &request, at(number));
    }
    assert_eq!((sessions.len(), sessions.evicted(), sessions.expired()), (1000, 9000, 0));
    sessions.expire(at(9_500 + 3_600_000));
    assert_eq!((sessions.len(), sessions.expired()), (499, 501));
    let key = sessions.key(&client(1, 1), &page("/"));
    assert_eq!(sessions.summary(key, at(0)), None);
}

/// The hellos of these orders, each with two requests over its connection.
fn hellos(orders: &[(u64, bool)]) -> Hellos {
    let mut sessions = Sessions::new(Limits::default());
    let (report, subject) = (page("/"), client(7, 1));
    let key = sessions.key(&subject, &report);
    for round in [0, 500] {
        for (number, (order, resumes)) in (0..).zip(orders) {
            let hello = Some(Hello { at: at(number * 1000), order: *order, resumes: *resumes });
            let now = at(100_000 + round + number * 1000);
            let request = Request { hello, ..sessions.request(&report, now, number) };
            sessions.note(key, &request, now);
        }
    }
    sessions.summary(key, at(200_000)).unwrap().hellos
}

#[test]
fn each_connections_hello_counts_once() {
    let seen = |connections, in_first_order, resumed| Hellos { connections, in_first_order, resumed };
    assert_eq!(hellos(&[(7, false), (7, false), (7, true)]), seen(3, 3, 1));
    // More connections than are followed at a time.
    let many: Vec<_> = (0..20).map(|order| (order, order % 2 == 1)).collect();
    assert_eq!(hellos(&many), seen(20, 1, 10));
}
