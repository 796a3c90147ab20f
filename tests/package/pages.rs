//! Every line that README, SECURITY.md and docs/*.md tell to type, typed where the package is installed, page by page:
//! each does what it says, or tells that there is nothing.
//!
//! Not typed are those of [`ELSEWHERE`], each for its reason; docs/tutorial.md has a test of its own.

use anyhow::{Result, ensure};
use detector_tests::{
    figures::show,
    lab::{Lab, LabOptions, SERVER_INTERFACE},
    pages,
    replay::{Recorded, Scene},
};
use serde_json::json;

use crate::{VERSION, deb, machine::Machine};

/// How lines begin that aren't typed here; what tries them, or why nothing does.
const ELSEWHERE: [(&str, &str); 12] = [
    ("cargo xtask ", "needs the checkout; CI itself runs setup, test and package, and system/demo.rs the demo"),
    ("apt install ", "installed.rs, tutorial.rs"),
    ("apt purge ", "tutorial.rs"),
    ("dnf install ", "scratch.rs, by rpm"),
    ("detector run", "the service does; so does each test of the suite `system`"),
    ("detector fingerprint --interface ", "system/live.rs, without a daemon"),
    ("detector attach", "the service does each time it starts; system/pins.rs"),
    ("detector detach", "what comes after it would find nothing; system/pins.rs, and each purge"),
    ("detector reports --follow", "goes on until Ctrl-C; support/mixed.rs reads so"),
    ("detector top", "wants a terminal; system/top.rs has one"),
    ("mount -t bpf ", "systemd has done it"),
    ("curl -s http://127.0.0.1:9464/metrics > first.txt; sleep 60", "takes a minute; another page has the same curl"),
];

/// How a line may end but with 0: detector's exit code for nothing there, and journalctl's without an entry.
const NOTHING: [(&str, i32); 2] = [("detector ", 2), ("journalctl ", 1)];

#[test]
fn every_line_of_the_pages_does_what_it_says() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    lab.server().ip("route add default via 10.77.0.254")?;
    let machine = Machine::boot(&lab)?;
    // What the pages take to be there: a web server, users, an hour's packets with its log, a list.
    machine
        .run("DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends nginx curl procps 2>&1")?;
    machine.run("useradd alice && useradd monitoring")?;
    machine.bring(&deb(VERSION)?, "/root/detector.deb")?;
    machine.run("dpkg --install /root/detector.deb 2>&1")?;
    let mut scene = Scene::default();
    let visit = scene.connect(&Recorded::read("curl-openssl")?, [192, 0, 2, 7], 0.0);
    scene.request(visit, 0.1, json!({ "path": "/", "ua": "curl/7.88.1" }));
    let directory = tempfile::tempdir()?;
    scene.command(directory.path(), "", "[policy]\ndefinitely_bot = \"observe\"\n")?;
    for (from, to) in [
        ("capture.pcap", "today.pcap"),
        ("capture.pcap", "capture.pcapng"),
        ("access.log", "access.log"),
        ("new.toml", "new.toml"),
    ] {
        machine.bring(&directory.path().join(from), &format!("/root/{to}"))?;
    }
    machine.run("printf '198.51.100.9\\n203.0.113.0/24\\n' >/root/feed.txt")?;

    let (mut typed, mut left) = (0, 0);
    let mut wrong = Vec::new();
    for page in pages::all()? {
        for line in page.lines() {
            if ELSEWHERE.iter().any(|(begin, _)| line.starts_with(begin)) {
                left += 1;
                continue;
            }
            let done = machine.try_run(&format!("cd /root; {line}"))?;
            let nothing =
                NOTHING.iter().any(|(begin, code)| line.starts_with(begin) && done.status.code() == Some(*code));
            if !done.status.success() && !nothing {
                wrong.push(format!(
                    "{}: `{line}`: {}\n{}",
                    page.name,
                    done.status,
                    String::from_utf8_lossy(&done.stderr)
                ));
            }
            typed += 1;
        }
    }
    // Which one a reader may try all the same.
    let beside = machine.try_run(&format!("detector fingerprint --interface {SERVER_INTERFACE} --count 1"))?;
    let said = String::from_utf8_lossy(&beside.stderr).into_owned();
    ensure!(beside.status.code() == Some(1) && said.contains("detector status"), "{said}");
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(typed > 60, "only {typed} lines are typed");
    show(&format!("lines of the pages that do what they say: {typed}; tried elsewhere: {left}"));
    Ok(())
}
