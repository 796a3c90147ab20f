//! P9 of the performance targets, by stage: what one report of a web server costs. `parse`: from its frame to its fields;
//! `socket`: from the datagram to the callback, all counting included. Thread CPU time, since the machine is shared: of
//! parsing the median of 61 runs of about 2 ms each. `--json PATH` writes the figures too.

use std::hint::black_box;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::mpsc::channel;

use detector::config::{Mode, Signals};
use detector::intake::Intake;
use detector::report;
use detector::telemetry::Metrics;
use detector::telemetry::metrics::Labels;
use serde::de::IgnoredAny;

mod clock;
#[expect(dead_code, reason = "no hello is wanted here")]
mod figure;
use clock::{cpu, measure};
use figure::Figure;

/// What one core is to read in a second.
const WANTED: f64 = 300_000.0;

/// As nginx writes it of a Chrome's request, 1.1 KB; and without what a browser says of itself, as of an API's client.
const BROWSER: &str = r#"<190>Nov 22 16:00:00 web nginx: {"v":1,"ip":"192.0.2.7","port":"40000","sip":"198.51.100.1","sport":"443","t":"1763827200.125","dur":"0.003","age":"12.512","n":"3","host":"shop.example","method":"GET","path":"/catalogue/shoes?page=7&sort=price","proto":"HTTP/2.0","status":"200","bytes":"18231","cache":"MISS","ua":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/136.0.0.0 Safari/537.36","ref":"https://shop.example/catalogue/shoes?page=6&sort=price","acc":"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8","lang":"de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7","enc":"gzip, deflate, br, zstd","ch":"\"Chromium\";v=\"136\", \"Not.A/Brand\";v=\"99\"","ch_mobile":"?0","ch_platform":"\"Linux\"","sf_site":"same-origin","sf_mode":"navigate","sf_dest":"document","sf_user":"?1","hdr":"host,sec-ch-ua,sec-ch-ua-mobile,sec-ch-ua-platform,user-agent,accept,sec-fetch-site,sec-fetch-mode,referer,cookie","cookie":"1","sid":"","xff":""}"#;
const PLAIN: &str = r#"<190>Nov 22 16:00:00 web nginx: {"v":1,"ip":"192.0.2.7","port":"40000","sip":"198.51.100.1","sport":"443","t":"1763827200.125","dur":"0.003","age":"12.512","n":"3","host":"shop.example","method":"GET","path":"/catalogue/shoes?page=7&sort=price","proto":"HTTP/2.0","status":"200","bytes":"18231","cache":"MISS","ua":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/136.0.0.0 Safari/537.36","ref":"https://shop.example/catalogue/shoes?page=6","acc":"*/*","lang":"de-DE,de;q=0.9","enc":"gzip, deflate, br","ch":"","ch_mobile":"","ch_platform":"","sf_site":"same-origin","sf_mode":"cors","sf_dest":"","sf_user":"","hdr":"","cookie":"1","sid":"","xff":""}"#;

/// Datagrams through the real socket.
const SENT: usize = 300_000;

/// CPU nanoseconds of the thread that reads, for each datagram. The sender waits when the queue is full, as no web server
/// does, so that each is read.
fn through_the_socket() -> f64 {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("signals.sock");
    let settings = Signals { sockets: vec![path.clone()], datagrams_per_second: u32::MAX, ..Signals::default() };
    let metrics = Arc::new(Metrics::new(Mode::Observe, Labels::default()).expect("metrics"));
    let (done, ended) = channel();
    let (mut count, mut begun) = (0, 0.0);
    let take = move |report: &report::Report<'_>, _, _| {
        black_box(report.status);
        if count == 0 {
            begun = cpu();
        }
        count += 1;
        if count == SENT {
            let _ = done.send((cpu() - begun) / SENT as f64);
        }
    };
    let _reading = Intake::bind(&settings).and_then(|intake| intake.start(metrics, take)).expect("a socket");
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.connect(&path).expect("somebody who reads");
    for _ in 0..SENT {
        socket.send(PLAIN.as_bytes()).expect("a datagram sent");
    }
    ended.recv().expect("all of them read")
}

fn main() {
    let mut mended = String::new();
    let mut parse = |frame: &str| {
        let read = report::read(black_box(frame.as_bytes()), &mut mended).expect("a report");
        black_box(read.report.status);
    };
    let plain_ns = measure(|| parse(PLAIN));
    let browser_ns = measure(|| parse(BROWSER));
    let allocations = allocation_counter::measure(|| parse(PLAIN)).count_total;
    // What no program that reads JSON can do without.
    let json = PLAIN.split_once(": ").map_or(PLAIN, |(_, json)| json);
    let floor_ns = measure(|| drop(black_box(serde_json::from_str::<IgnoredAny>(black_box(json)))));
    let per_second = 1e9 / plain_ns;
    let socket_ns = through_the_socket();
    println!("P9: reports of {} and {} bytes", PLAIN.len(), BROWSER.len());
    let told = |id, what, ns: f64| Figure {
        id,
        what,
        value: ns / 1e3,
        unit: "us",
        against: "nothing kept",
        ratio: Some(ns / floor_ns),
        target: "-".to_owned(),
        met: None,
    };
    figure::print(&[
        Figure {
            id: "P9.parse",
            what: "reports of 700 bytes read in a second",
            value: per_second,
            unit: "1/s",
            against: "wanted",
            ratio: Some(per_second / WANTED),
            target: format!(">= {WANTED}"),
            met: Some(per_second >= WANTED),
        },
        Figure {
            id: "P9.allocations",
            what: "allocations of one",
            value: allocations as f64,
            unit: "",
            against: "-",
            ratio: None,
            target: "0".to_owned(),
            met: Some(allocations == 0),
        },
        told("P9.plain", "one of them", plain_ns),
        told("P9.browser", "one of a browser, with escapes", browser_ns),
        told("P9.socket", "one from the socket to the callback", socket_ns),
        told("P9.floor", "its JSON read, nothing kept", floor_ns),
    ]);
}
