//! The start of commands: how long each takes from its first instruction to its end, where there is next to nothing to do.
//! In: none. Out: the median of each command, with no daemon to wait for; `--json PATH` writes the figures too. The floor is
//! a program that does nothing.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

#[expect(dead_code, reason = "the hello of Chrome is for the other benchmarks")]
mod figure;
use figure::{Figure, median};

const ROUNDS: usize = 51;
const MILLISECONDS: f64 = 20.0;
const CAPTURE: &str = "../tests/fixtures/captures/pcaps/curl-openssl.pcap";

/// What is typed, and what it shows.
const COMMANDS: [(&str, &[&str]); 6] = [
    ("detector --version", &["--version"]),
    ("detector -h", &["-h"]),
    ("detector status, no daemon", &["status"]),
    ("detector explain, no daemon", &["explain", "192.0.2.7"]),
    ("detector block, no daemon", &["block", "192.0.2.7"]),
    ("detector config show", &["config", "show"]),
];

/// The median of the milliseconds from the call to the end.
fn milliseconds(command: &mut Command) -> f64 {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            command.status().expect("a program that runs");
            begun.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    median(&mut times)
}

fn main() {
    let floor = milliseconds(&mut Command::new("true"));
    let figure = |what, value: f64| Figure {
        id: "start",
        what,
        value,
        unit: "ms",
        against: "a program that does nothing",
        ratio: Some(value / floor),
        target: format!("{MILLISECONDS}"),
        met: Some(value <= MILLISECONDS),
    };
    let detector = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_detector"));
        // Of nobody's daemon.
        command.env("DETECTOR_CONTROL_SOCKET", "/nonexistent/control.sock");
        command
    };
    let mut figures: Vec<Figure> =
        COMMANDS.iter().map(|(what, words)| figure(what, milliseconds(detector().args(*words)))).collect();
    let capture: PathBuf = [env!("CARGO_MANIFEST_DIR"), CAPTURE].iter().collect();
    let fingerprint = milliseconds(detector().args(["fingerprint", "--format", "json"]).arg(capture));
    figures.push(figure("detector fingerprint of a capture with one hello", fingerprint));
    figures.push(Figure {
        id: "start.floor",
        target: "-".to_owned(),
        met: None,
        ratio: None,
        against: "",
        ..figure("a program that does nothing", floor)
    });
    figure::print(&figures);
}
