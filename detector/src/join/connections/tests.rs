use super::*;
use crate::join::Carrier;

const SECOND: u64 = 1_000_000_000;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(100 * SECOND + millis * 1_000_000)
}

fn tuple(port: u16) -> Tuple {
    Tuple {
        client: End::new(IpAddr::from([192, 0, 2, 7]), port, Carrier::Tcp),
        server: SocketAddr::from(([192, 0, 2, 1], 443)),
    }
}

/// The hello of client `who` that came at `hello`, of a connection that began 10 ms earlier.
fn identity(who: u64, hello: Timestamp) -> Identity {
    let ja4: Ja4 = format!("t13d1516h2_8daaf6152771_{who:012x}").parse().unwrap();
    Identity {
        ja4,
        ja4_stable: ja4,
        keys: Keys { key: who, stable: who },
        traits: Default::default(),
        syn_class: None,
        transport: Transport::Tcp,
        syn: Some(hello.before(Duration::from_millis(10))),
        hello,
        stream: hello.as_nanos() as u32,
        void: false,
    }
}

/// What a relayed report says that is written at `written` of a request that took 5 ms.
fn claim(tuple: Tuple, connected: Timestamp, written: Timestamp, number: u64) -> Claim {
    Claim {
        client: tuple.client,
        server: Some(tuple.server.ip()),
        server_port: Some(tuple.server.port()),
        arrived: written,
        request: written.before(Duration::from_millis(5)),
        connection: Some(connected),
        number: Some(number),
        name: None,
        relayed: true,
    }
}

/// Likewise of one that the server sent itself, and that tells nothing of its connection.
fn direct(tuple: Tuple, sent: Timestamp) -> Claim {
    Claim { connection: None, number: None, relayed: false, ..claim(tuple, sent, sent, 1) }
}

fn who(fit: Fit) -> Option<u64> {
    match fit {
        Fit::Sure(found) => Some(found.identity.keys.key),
        _ => None,
    }
}

fn small(connections: usize) -> Connections {
    Connections::new(Limits { connections, ..Limits::default() })
}

#[test]
fn a_request_finds_the_hello_of_its_own_connection() {
    let mut table = small(100);
    table.begin(tuple(1), identity(1, at(0)), at(0));
    table.begin(tuple(2), identity(2, at(0)), at(0));
    assert_eq!(who(table.fit(&claim(tuple(1), at(0), at(30), 1), false)), Some(1));
    assert_eq!(who(table.fit(&claim(tuple(2), at(0), at(30), 1), false)), Some(2));
    let third = Claim { client: tuple(3).client, ..claim(tuple(1), at(0), at(30), 1) };
    assert_eq!(table.fit(&third, true), Fit::Unknown, "the address alone says nothing");
    let elsewhere = Claim { server: Some(IpAddr::from([192, 0, 2, 2])), ..claim(tuple(1), at(0), at(30), 1) };
    assert_eq!(table.fit(&elsewhere, true), Fit::Unfitting);
    let unsaid = Claim { server: None, server_port: None, number: Some(2), ..claim(tuple(1), at(0), at(30), 1) };
    assert_eq!(who(table.fit(&unsaid, false)), Some(1), "a server may not know its own address");
    let udp = End { carrier: Carrier::Udp, ..tuple(1).client };
    assert_eq!(table.fit(&Claim { client: udp, ..claim(tuple(1), at(0), at(30), 1) }, true), Fit::Unknown);
}

#[test]
fn a_port_used_again_is_told_apart_by_time() {
    let mut table = small(100);
    table.begin(tuple(1), identity(1, at(0)), at(0));
    table.end(&tuple(1), at(500));
    table.begin(tuple(1), identity(2, at(1000)), at(1000));
    // A long download of the first connection is told of while the second goes on.
    let download = Claim { request: at(100), number: None, ..claim(tuple(1), at(0), at(1100), 9) };
    assert_eq!(who(table.fit(&download, false)), Some(1));
    assert_eq!(who(table.fit(&claim(tuple(1), at(995), at(1030), 1), false)), Some(2));
    // Without the connection's age, by the request's own begin.
    let bare = |written, number| Claim { connection: None, number, ..claim(tuple(1), at(0), written, 1) };
    assert_eq!(who(table.fit(&bare(at(480), None), false)), Some(1));
    assert_eq!(who(table.fit(&bare(at(1040), None), false)), Some(2));
}

#[test]
fn a_port_used_again_at_once_is_told_apart_by_the_number_of_the_request() {
    let mut table = small(100);
    table.begin(tuple(1), identity(1, at(0)), at(0));
    assert_eq!(who(table.fit(&claim(tuple(1), at(0), at(15), 1), false)), Some(1));
    table.end(&tuple(1), at(16));
    table.begin(tuple(1), identity(2, at(40)), at(40));
    assert_eq!(who(table.fit(&claim(tuple(1), at(31), at(55), 1), false)), Some(2));
    let neither = claim(tuple(1), at(31), at(56), 3);
    assert_eq!(table.fit(&neither, false), Fit::Ambiguous, "nobody knows");
    assert_eq!(who(table.fit(&claim(tuple(1), at(31), at(400), 3), false)), Some(2), "later everybody does");
}

/// A server writes its log before it ends a connection, and the kernel tells when each was.
#[test]
fn a_port_used_again_at_once_is_told_apart_by_when_the_server_spoke() {
    let mut table = small(100);
    table.begin(tuple(1), identity(1, at(0)), at(0));
    table.end(&tuple(1), at(16));
    table.begin(tuple(1), identity(2, at(30)), at(30));
    for sent in [6, 15, 17] {
        assert_eq!(who(table.fit(&direct(tuple(1), at(sent)), false)), Some(1), "{sent}");
    }
    for sent in [31, 36, 400] {
        assert_eq!(who(table.fit(&direct(tuple(1), at(sent)), false)), Some(2), "{sent}");
    }
}

#[test]
fn a_connection_that_lingers_is_known_by_when_its_request_began() {
    let mut table = small(100);
    table.begin(tuple(1), identity(1, at(0)), at(0));
    table.end(&tuple(1), at(200));
    table.begin(tuple(1), identity(2, at(220)), at(220));
    let lingered = Claim { request: at(100), ..direct(tuple(1), at(5000)) };
    assert_eq!(who(table.fit(&lingered, false)), Some(1));
}

#[test]
fn of_a_connection_whose_hello_is_missing_the_one_before_is_not_taken() {
    let mut table = small(100);
    table.begin(tuple(1), identity(1, at(0)), at(0));
    table.end(&tuple(1), at(16));
    for sent in [117, 3000] {
        assert_eq!(table.fit(&direct(tuple(1), at(sent)), true), Fit::Unfitting, "{sent}");
    }
}

/// HAProxy ends a connection, is interrupted, and writes its log 20 ms later.
#[test]
fn a_log_that_was_written_late_is_nobody_elses() {
    let numbered = |sent, number| Claim { number: Some(number), ..direct(tuple(1), at(sent)) };
    let ended = || {
        let mut table = small(100);
        table.begin(tuple(1), identity(1, at(0)), at(0));
        assert_eq!(who(table.fit(&numbered(6, 1), false)), Some(1));
        table.end(&tuple(1), at(16));
        table
    };
    let mut alone = ended();
    assert!(matches!(alone.fit(&numbered(36, 2), false), Fit::Doubtful(_)), "a hello may still come");
    assert_eq!(who(alone.fit(&numbered(36, 2), true)), Some(1));
    let mut table = ended();
    table.begin(tuple(1), identity(2, at(30)), at(30));
    assert_eq!(table.fit(&numbered(36, 2), false), Fit::Ambiguous);
    assert_eq!(who(table.fit(&numbered(37, 1), false)), Some(2));
    assert_eq!(who(table.fit(&numbered(38, 2), false)), Some(2), "that one tells its own by now");
}

/// HAProxy on busy processors: a thread of it is interrupted between the end of a request and its log, or takes a connection
/// long after it looked at the clock. What can't be told apart by times and numbers, can be by names.
#[test]
fn a_connection_that_has_a_name_is_known_by_it() {
    let named = |sent, number, name| Claim { number: Some(number), name: Some(name), ..direct(tuple(1), at(sent)) };
    let mut table = small(100);
    table.begin(tuple(1), identity(1, at(0)), at(0));
    assert_eq!(who(table.fit(&named(6, 1, 7), false)), Some(1));
    table.end(&tuple(1), at(15));
    table.begin(tuple(1), identity(2, at(16)), at(16));
    assert_eq!(who(table.fit(&named(17, 2, 7), false)), Some(1), "its last, told late");
    assert_eq!(who(table.fit(&named(17, 3, 8), false)), Some(2), "of another name is the other");
    assert_eq!(who(table.fit(&named(90, 3, 7), false)), Some(1), "however late");
    table.end(&tuple(1), at(99));
    assert_eq!(who(table.fit(&named(150, 4, 8), false)), Some(2));
    let third = table.fit(&named(100, 1, 9), true);
    assert_eq!(third, Fit::Unfitting, "its hello was never seen, and it is neither of the two");
    let elsewhere = Claim { server: Some(IpAddr::from([192, 0, 2, 2])), ..named(17, 4, 8) };
    assert_eq!(table.fit(&elsewhere, true), Fit::Unfitting, "another server's names are its own");
    let unnamed = Claim { name: None, ..named(17, 5, 0) };
    assert_eq!(table.fit(&unnamed, true), Fit::Ambiguous);
}

#[test]
fn connections_that_say_the_same_need_not_be_told_apart() {
    let mut table = small(100);
    table.begin(tuple(1), identity(1, at(0)), at(0));
    table.end(&tuple(1), at(16));
    table.begin(tuple(1), identity(1, at(40)), at(40));
    assert_eq!(who(table.fit(&claim(tuple(1), at(31), at(55), 7), false)), Some(1));
}

#[test]
fn a_request_after_the_end_waits_for_the_hello_that_explains_it() {
    let mut table = small(100);
    table.begin(tuple(1), identity(1, at(0)), at(0));
    table.end(&tuple(1), at(100));
    let request = claim(tuple(1), at(700), at(720), 1);
    assert!(matches!(table.fit(&request, false), Fit::Doubtful(_)));
    table.begin(tuple(1), identity(2, at(705)), at(730));
    assert_eq!(who(table.fit(&request, false)), Some(2));
}

#[test]
fn a_hello_is_never_that_of_a_request_before_it() {
    let mut table = small(100);
    table.begin(tuple(1), identity(1, at(1000)), at(1000));
    let earlier = claim(tuple(1), at(0), at(900), 1);
    assert_eq!(table.fit(&earlier, true), Fit::Unfitting);
    let behind = claim(tuple(1), at(990), at(1001), 1);
    assert_eq!(who(table.fit(&behind, false)), Some(1), "the server's clock was a few milliseconds behind");
}

#[test]
fn hellos_confirmed_out_of_order_are_in_order_here() {
    let mut table = small(100);
    table.begin(tuple(1), identity(2, at(1000)), at(1000));
    table.begin(tuple(1), identity(1, at(0)), at(1010));
    assert_eq!(table.at(&tuple(1), at(1020)).unwrap().keys.key, 2);
    assert_eq!(who(table.fit(&claim(tuple(1), at(991), at(1500), 1), false)), Some(2));
    table.void(&tuple(1), at(5));
    assert!(!table.at(&tuple(1), at(1020)).unwrap().void, "another one's hello");
    table.void(&tuple(1), at(1000));
    assert!(table.at(&tuple(1), at(1020)).unwrap().void);
}

#[test]
fn the_end_of_a_connection_is_not_the_end_of_the_next_one() {
    let mut table = small(100);
    table.begin(tuple(1), identity(1, at(0)), at(0));
    table.begin(tuple(1), identity(2, at(1000)), at(1000));
    table.end(&tuple(1), at(900));
    assert_eq!(table.at(&tuple(1), at(5000)).unwrap().keys.key, 2);
    assert_eq!(table.at(&tuple(1), at(500)).unwrap().keys.key, 1);
    assert_eq!(table.at(&tuple(2), at(500)), None);
}

#[test]
fn connections_live_until_their_end_and_a_grace_or_an_hour_of_silence() {
    let mut table = small(100);
    table.begin(tuple(1), identity(1, at(0)), at(0));
    table.begin(tuple(2), identity(2, at(0)), at(0));
    table.begin(tuple(3), identity(3, at(0)), at(0));
    table.end(&tuple(1), at(1000));
    table.expire(at(10_999));
    assert_eq!(table.len(), 3);
    table.expire(at(11_000));
    assert_eq!(table.len(), 2);
    let hour = 3_600_000;
    assert_eq!(who(table.fit(&claim(tuple(2), at(0), at(hour / 2), 1), true)), Some(2));
    table.expire(at(hour));
    assert_eq!(table.len(), 1, "the silent one is gone");
    table.expire(at(hour / 2 + hour));
    assert!(table.is_empty());
    assert_eq!(table.evicted(), 0);
}

#[test]
fn a_flood_of_connections_is_bounded_and_counted() {
    let mut table = small(1000);
    for number in 0..100_000_u64 {
        let port = (number % 60_000) as u16;
        let begun = at(number);
        table.begin(tuple(port), identity(number, begun), begun);
        if number % 2 == 0 {
            table.end(&tuple(port), begun);
        }
    }
    assert_eq!(table.len(), 1000);
    assert!(table.ended.len() <= 1000);
    assert!(table.evicted() > 90_000, "{}", table.evicted());
    // And of one client's end.
    for server in 0..100_u8 {
        let tuple = Tuple { server: SocketAddr::from(([192, 0, 2, server], 443)), ..tuple(7) };
        table.begin(tuple, identity(u64::from(server), at(100_000)), at(100_000));
    }
    assert_eq!(table.clients.peek(&tuple(7).client).unwrap().connections.len(), PER_END);
}
