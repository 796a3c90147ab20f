//! What outlives the daemon (threats.md T49, T51 to T53, and the life cycle of part 3): programs, maps and verdicts that
//! are pinned; another build in their place without a gap; and nothing left once they are taken away.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use detector_tests::clients::{Kind, Report, Target, batch};
use detector_tests::daemon::{Daemon, DaemonOptions, control_ok};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::figures::show;
use detector_tests::forge::{FORGED_NETWORK, Forger};
use detector_tests::lab::{CLIENT_V4, Lab, LabOptions, OTHER_CLIENT_V4, SERVER_INTERFACE, SERVER_V4};
use detector_tests::link::{XdpMode, program, xdp};
use detector_tests::pins::{BpfMount, Passed, directory, pins, pins_ok};
use detector_tests::process::{Process, output};
use detector_tests::programs::{detector, detector_wide};
use detector_tests::server::{Nginx, SERVER_NAME};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::scene::{LONG, SHORT, ensure_answered, ensure_refused, from, ja4_of, script};

/// Dropped segments are only dropped, so that what gets past the programs is what wasn't.
const PLAIN_DROPS: &str = "[enforce]\nreset = false\n";
/// Single addresses that are blocked.
const BLOCKED: usize = 100;

fn scene() -> Result<(Lab, BpfMount)> {
    let lab = Lab::new(LabOptions::default())?;
    fs::write(detector_tests::daemon::configuration(&lab), PLAIN_DROPS)?;
    let mount = BpfMount::new(&lab)?;
    Ok((lab, mount))
}

fn attach(lab: &Lab, build: &Path) -> Result<String> {
    pins_ok(lab, build, &["attach", "--interface", SERVER_INTERFACE])
}

fn pinned_daemon(lab: &Lab, build: PathBuf) -> Result<Daemon> {
    Daemon::start_build(lab, build, DaemonOptions { config: PLAIN_DROPS, ..DaemonOptions::default() })
}

/// Killed, the daemon leaves the program where it is: an operator's block holds, one with an end ends by itself, and the
/// next daemon goes on with the same program. After `detach` nothing is left.
#[test]
fn what_is_pinned_outlives_a_killed_daemon() -> Result<()> {
    let (lab, mount) = scene()?;
    let _nginx = Nginx::start(&lab)?;
    attach(&lab, &detector()?)?;
    let daemon = pinned_daemon(&lab, detector()?)?;
    ensure_answered(&lab, &from(CLIENT_V4), "nothing is blocked")?;
    control_ok(&lab, &["block", &CLIENT_V4.to_string(), "--ttl", "forever"])?;
    control_ok(&lab, &["block", &OTHER_CLIENT_V4.to_string(), "--ttl", "4s"])?;
    daemon.stop(Signal::SIGKILL)?;
    let attached = program(lab.server(), SERVER_INTERFACE)?.context("no program after SIGKILL")?;
    ensure_refused(&lab, &from(OTHER_CLIENT_V4), "blocked for 4 s, with the daemon killed")?;
    until("the end of the block, with no daemon", PATIENCE, || {
        Ok(ensure_answered(&lab, &from(OTHER_CLIENT_V4), "after its end").is_ok().then_some(()))
    })?;
    ensure_refused(&lab, &from(CLIENT_V4), "blocked forever, with the daemon killed")?;

    let daemon = pinned_daemon(&lab, detector()?)?;
    assert_eq!(program(lab.server(), SERVER_INTERFACE)?, Some(attached), "an unchanged build replaces nothing");
    ensure_refused(&lab, &from(CLIENT_V4), "blocked forever, with the next daemon")?;
    ensure_answered(&lab, &from(OTHER_CLIENT_V4), "with the next daemon")?;
    let status: Value = serde_json::from_str(&control_ok(&lab, &["status", "--format", "json"])?)?;
    assert_eq!(status["interfaces"][0]["pinned"], true, "{status}");
    assert_eq!(status["interfaces"][0]["attached"], true, "{status}");
    daemon.stop(Signal::SIGTERM)?;
    assert_eq!(program(lab.server(), SERVER_INTERFACE)?, Some(attached), "a daemon that ends detaches nothing");
    ensure_refused(&lab, &from(CLIENT_V4), "blocked forever, with the daemon ended")?;

    pins_ok(&lab, &detector()?, &["detach"])?;
    nothing_left(&lab, &mount)
}

/// In either mode; and beside a living daemon, which then says so.
#[test]
fn detach_leaves_nothing() -> Result<()> {
    let (lab, mount) = scene()?;
    let _nginx = Nginx::start(&lab)?;
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let arguments = ["attach", "--interface", SERVER_INTERFACE, "--xdp-mode", mode.argument()];
        pins_ok(&lab, &detector()?, &arguments)?;
        assert_eq!(xdp(lab.server(), SERVER_INTERFACE)?, Some(mode));
        let daemon = pinned_daemon(&lab, detector()?)?;
        assert_eq!(xdp(lab.server(), SERVER_INTERFACE)?, Some(mode), "the daemon keeps the mode");
        control_ok(&lab, &["block", &CLIENT_V4.to_string()])?;
        pins_ok(&lab, &detector()?, &["detach"])?;
        nothing_left(&lab, &mount)?;
        ensure!(control_ok(&lab, &["status"])?.contains("NOT ATTACHED"), "the daemon doesn't say that it is blind");
        daemon.stop(Signal::SIGTERM)?;
        let again = pins(&lab, &detector()?, &["detach"])?;
        assert_eq!(again.status.code(), Some(2), "{}", String::from_utf8_lossy(&again.stderr));
    }
    Ok(())
}

fn nothing_left(lab: &Lab, mount: &BpfMount) -> Result<()> {
    assert_eq!(xdp(lab.server(), SERVER_INTERFACE)?, None);
    let shown = output(lab.server().command("bpftool").args(["net", "show", "dev", SERVER_INTERFACE]))?;
    ensure!(!shown.contains("detector"), "{shown}");
    let left: Vec<_> = fs::read_dir(mount.path())?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    // The kernel's own two files.
    ensure!(left.iter().all(|name| name.to_string_lossy().ends_with(".debug")), "{left:?}");
    ensure_answered(lab, &from(CLIENT_V4), "detached")
}

/// A program of somebody else's stays, and of ours nothing does, in either mode.
#[test]
fn a_foreign_program_is_left_alone() -> Result<()> {
    for (mode, flag) in [(XdpMode::Native, "xdpdrv"), (XdpMode::Generic, "xdpgeneric")] {
        let (lab, mount) = scene()?;
        // The only program at hand is ours: bpftool puts it on the wire by another way.
        lab.server().ip("link add port7 type veth peer name port8")?;
        let daemon = Daemon::start(&lab, DaemonOptions { interface: Some("port7"), ..DaemonOptions::default() })?;
        let id = program(lab.server(), "port7")?.context("no program on `port7`")?;
        output(lab.server().command("bpftool").args([
            "net",
            "attach",
            flag,
            "id",
            &id.to_string(),
            "dev",
            SERVER_INTERFACE,
        ]))?;
        daemon.stop(Signal::SIGTERM)?;
        let refused = pins(&lab, &detector()?, &["attach", "--interface", SERVER_INTERFACE])?;
        let said = String::from_utf8(refused.stderr)?;
        ensure!(refused.status.code() == Some(1) && said.contains("isn't ours"), "{:?}: {said}", refused.status);
        assert_eq!(program(lab.server(), SERVER_INTERFACE)?, Some(id));
        assert_eq!(xdp(lab.server(), SERVER_INTERFACE)?, Some(mode));
        ensure!(!directory(&lab).exists(), "pins are left of an attach that failed");
        drop(mount);
    }
    Ok(())
}

/// A pinned map that isn't what it should be is never used: each of its attributes altered, the map missing, or something
/// else in its place.
#[test]
fn a_map_of_another_shape_is_refused() -> Result<()> {
    let (lab, _mount) = scene()?;
    attach(&lab, &detector()?)?;
    let set = directory(&lab).join(fs::read_link(directory(&lab).join("current"))?);
    let map = set.join("ALLOW");
    let kept = set.with_file_name("kept");
    fs::rename(&map, &kept)?;
    let shape: Value = serde_json::from_str(&output(
        lab.server().command("bpftool").args(["-j", "map", "show", "pinned"]).arg(&kept),
    )?)?;
    let number = |what: &str| shape[what].as_u64().with_context(|| format!("no {what} in {shape}"));
    let (key, value, entries) = (number("bytes_key")?, number("bytes_value")?, number("max_entries")?);
    let altered: [(&str, u64, u64, u64, u64, &str); 6] = [
        ("hash", key, value, entries, 1, "type"),
        ("lpm_trie", key - 4, value, entries, 1, "key size"),
        ("lpm_trie", key, value + 8, entries, 1, "value size"),
        ("lpm_trie", key, 4096, entries, 1, "value size"),
        ("lpm_trie", key, value, entries + 1, 1, "max_entries"),
        // BPF_F_NO_PREALLOC with BPF_F_RDONLY_PROG.
        ("lpm_trie", key, value, entries, 1 | 1 << 7, "flags"),
    ];
    for (kind, key, value, entries, flags, what) in altered {
        let mut create = lab.server().command("bpftool");
        create.args(["map", "create"]).arg(&map).args(["type", kind, "name", "ALLOW"]);
        create.args(["key", &key.to_string(), "value", &value.to_string(), "entries", &entries.to_string()]);
        output(create.args(["flags", &flags.to_string()]))?;
        refuses(&lab, &["the map `ALLOW` has", what])?;
        fs::remove_file(&map)?;
    }
    refuses(&lab, &["the map `ALLOW` is missing"])?;
    output(lab.server().command("bpftool").args(["prog", "pin", "pinned"]).arg(a_program(&set)?).arg(&map))?;
    refuses(&lab, &["the map `ALLOW` has"])?;
    fs::remove_file(&map)?;
    // Itself again, it is taken.
    fs::rename(&kept, &map)?;
    attach(&lab, &detector()?)?;
    Ok(())
}

fn a_program(set: &Path) -> Result<PathBuf> {
    let found =
        fs::read_dir(set)?.filter_map(Result::ok).find(|entry| entry.file_name().to_string_lossy().starts_with("xdp-"));
    Ok(found.context("no pinned program")?.path())
}

/// Both commands that use pins refuse them, in three lines at most, and say so; what is attached stays.
fn refuses(lab: &Lab, words: &[&str]) -> Result<()> {
    let before = program(lab.server(), SERVER_INTERFACE)?;
    let socket = lab.file("refused.sock");
    let socket = socket.to_str().context("a path in UTF-8")?;
    for command in [&["attach"][..], &["run", "--metrics", "off", "--control-socket", socket]] {
        let done = pins(lab, &detector()?, command)?;
        let said = String::from_utf8(done.stderr)?;
        ensure!(done.status.code() == Some(1), "{command:?} for {words:?}: {:?}: {said}", done.status);
        let error = said.split_once("error: ").context("no error")?.1;
        ensure!(
            words.iter().all(|word| error.contains(word)) && error.contains("detector detach"),
            "{words:?}: {said}"
        );
        ensure!(error.trim_end().lines().count() <= 3, "{error}");
    }
    assert_eq!(program(lab.server(), SERVER_INTERFACE)?, before);
    Ok(())
}

/// The interfaces are those that are named, and without names those that were; one that was made anew has the program again.
#[test]
fn interfaces_come_and_go() -> Result<()> {
    let (lab, mount) = scene()?;
    let attached = || -> Result<[bool; 2]> {
        let on = |interface| Ok::<_, anyhow::Error>(program(lab.server(), interface)?.is_some());
        Ok([on(SERVER_INTERFACE)?, on("port7")?])
    };
    let add = || lab.server().ip("link add port7 type veth peer name port8");
    add()?;
    attach(&lab, &detector()?)?;
    assert_eq!(attached()?, [true, false]);
    pins_ok(&lab, &detector()?, &["attach", "--interface", SERVER_INTERFACE, "--interface", "port7"])?;
    assert_eq!(attached()?, [true, true]);
    pins_ok(&lab, &detector()?, &["attach", "--interface", "port7"])?;
    assert_eq!(attached()?, [false, true]);
    lab.server().ip("link delete port7")?;
    add()?;
    assert_eq!(attached()?, [false, false]);
    pins_ok(&lab, &detector()?, &["attach"])?;
    assert_eq!(attached()?, [false, true]);
    let said = pins_ok(&lab, &detector()?, &["detach"])?;
    ensure!(said.contains("detached from port7 (native)"), "{said}");
    assert_eq!(attached()?, [false, false]);
    drop(mount);
    Ok(())
}

/// A second daemon with another control socket finds the pins taken.
#[test]
fn two_daemons_never_share_pins() -> Result<()> {
    let (lab, _mount) = scene()?;
    attach(&lab, &detector()?)?;
    let _daemon = pinned_daemon(&lab, detector()?)?;
    let (code, said) = detector_tests::daemon::refusal(&lab, SERVER_INTERFACE)?;
    ensure!(code == Some(1) && said.contains("another detector is using them"), "{code:?}: {said}");
    let done = pins(&lab, &detector()?, &["attach"])?;
    assert_eq!(done.status.code(), Some(1));
    control_ok(&lab, &["status"])?;
    Ok(())
}

/// Where there is no BPF file system, the error has the command that makes one.
#[test]
fn without_a_bpf_file_system_it_says_what_to_type() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    fs::write(detector_tests::daemon::configuration(&lab), "")?;
    let done = pins(&lab, &detector()?, &["attach", "--interface", SERVER_INTERFACE])?;
    let said = String::from_utf8(done.stderr)?;
    ensure!(done.status.code() == Some(1) && said.contains("mount -t bpf bpf "), "{said}");
    assert_eq!(xdp(lab.server(), SERVER_INTERFACE)?, None);
    Ok(())
}

/// Other sizes in the configuration: other maps, and what is in force stays in force.
#[test]
fn a_table_of_another_size_has_the_same_entries() -> Result<()> {
    let (lab, _mount) = scene()?;
    let passed = Passed::of(&lab, &forged())?;
    attach(&lab, &detector()?)?;
    let daemon = pinned_daemon(&lab, detector()?)?;
    block_many(&lab)?;
    daemon.stop(Signal::SIGTERM)?;
    sends(&lab, 0)?;
    assert_eq!(passed.take()?, 0);
    let config = "[limits]\naddresses = 70000\nprefixes = 1000\nallow = 20000\nhandshakes = 1000\n";
    fs::write(detector_tests::daemon::configuration(&lab), format!("{PLAIN_DROPS}{config}"))?;
    attach(&lab, &detector()?)?;
    sends(&lab, 0)?;
    assert_eq!(passed.take()?, 0, "blocked packets passed after a change of sizes");
    // Too small for what is there: refused, and nothing changes.
    let before = program(lab.server(), SERVER_INTERFACE)?;
    fs::write(detector_tests::daemon::configuration(&lab), format!("{PLAIN_DROPS}[limits]\nprefixes = 1\n"))?;
    let done = pins(&lab, &detector()?, &["attach"])?;
    let said = String::from_utf8(done.stderr)?;
    ensure!(done.status.code() == Some(1) && said.contains("`limits`"), "{said}");
    assert_eq!(program(lab.server(), SERVER_INTERFACE)?, before);
    sends(&lab, 0)?;
    assert_eq!(passed.take()?, 0);
    Ok(())
}

/// A build whose entries have one more field: to it and back, no entry is lost.
#[test]
fn a_build_with_one_more_field_loses_no_entry() -> Result<()> {
    let (lab, _mount) = scene()?;
    let nginx = Nginx::start(&lab)?;
    let passed = Passed::of(&lab, &forged())?;
    attach(&lab, &detector()?)?;
    let daemon = pinned_daemon(&lab, detector()?)?;
    block_many(&lab)?;
    control_ok(&lab, &["block", "10.77.0.0/24"])?;
    control_ok(&lab, &["allow", &OTHER_CLIENT_V4.to_string()])?;
    daemon.stop(Signal::SIGKILL)?;
    let set = || fs::read_link(directory(&lab).join("current"));
    for build in [detector_wide()?, detector()?, detector_wide()?] {
        let before = set()?;
        let daemon = pinned_daemon(&lab, build)?;
        ensure!(set()? != before, "the other build uses the same maps: this tests nothing");
        sends(&lab, 0)?;
        assert_eq!(passed.take()?, 0, "packets of blocked addresses passed");
        ensure_refused(&lab, &from(CLIENT_V4), "in the blocked prefix")?;
        ensure_answered(&lab, &from(OTHER_CLIENT_V4), "allowed")?;
        daemon.stop(Signal::SIGTERM)?;
    }
    drop(nginx);
    Ok(())
}

/// Blocks [`BLOCKED`] single addresses, of the forged ones the first, and two prefixes.
fn block_many(lab: &Lab) -> Result<()> {
    for last in 1..=BLOCKED {
        control_ok(lab, &["block", &format!("{FORGED_NETWORK}0.{last}"), "--ttl", "forever"])?;
    }
    for prefix in ["198.18.1.0/24", "198.18.2.0/24"] {
        control_ok(lab, &["block", prefix, "--ttl", "forever"])?;
    }
    Ok(())
}

fn forged() -> String {
    format!("{FORGED_NETWORK}0.0/15")
}

/// Each of the blocked addresses sends a SYN and a hello.
fn sends(lab: &Lab, seconds: u32) -> Result<f64> {
    let count = BLOCKED.to_string();
    let arguments = ["--sources", &count, "--count", &count, "--seconds", &seconds.to_string()];
    let sent = Forger::start(lab, &arguments)?.finish(LONG)?;
    Ok(sent.hellos as f64 + sent.syns as f64)
}

/// threats.md T51: two builds take turns, under a flood of blocked packets and with a thousand connections open. Not a
/// packet of the flood gets past, and not a connection ends. 20 turns; 100 with `DETECTOR_TEST_FULL=1`.
#[test]
fn builds_take_turns_without_a_gap() -> Result<()> {
    const CONNECTIONS: usize = 1000;
    let turns = if std::env::var_os("DETECTOR_TEST_FULL").is_some_and(|full| full == "1") { 100 } else { 20 };
    let (lab, _mount) = scene()?;
    let _nginx = Nginx::start(&lab)?;
    let passed = Passed::of(&lab, &forged())?;
    attach(&lab, &detector()?)?;
    sends(&lab, 0)?;
    ensure!(passed.take()? > 0, "nothing is counted that isn't blocked: this tests nothing");
    let daemon = pinned_daemon(&lab, detector()?)?;
    block_many(&lab)?;
    daemon.stop(Signal::SIGKILL)?;

    let (address, count) = (SERVER_V4.to_string(), CONNECTIONS.to_string());
    let mut held = script(lab.client(), "held.py", &["--address", &address, "--name", SERVER_NAME, "--count", &count])?;
    let mut said = BufReader::new(held.child().stdout.take().context("no pipe")?).lines();
    assert_eq!(said.next().transpose()?.as_deref(), Some("open"));
    let flood = Forger::start(&lab, &["--sources", &BLOCKED.to_string(), "--count", "1", "--seconds", "3600"])?;
    let builds = [detector_wide()?, detector()?];
    let mut programs = Vec::new();
    for build in builds.iter().cycle().take(turns) {
        attach(&lab, build)?;
        programs.push(program(lab.server(), SERVER_INTERFACE)?.context("no program")?);
    }
    programs.dedup();
    assert_eq!(programs.len(), turns, "each turn is another program's");
    drop(flood);
    assert_eq!(passed.take()?, 0, "packets of blocked addresses passed");
    let told = end_of(held, said)?;
    let number = |what: &str| told[what].as_u64().with_context(|| format!("no {what} in {told}"));
    assert_eq!((number("open")?, number("ended")?), (CONNECTIONS as u64, 0), "{told}");
    ensure!(number("pages")? >= CONNECTIONS as u64, "{told}");
    let dropped = dropped(&lab)?;
    show(&format!(
        "{turns} turns of two builds: 0 of {dropped} blocked packets passed, 0 of {CONNECTIONS} connections ended"
    ));
    ensure!(dropped > 10_000.0, "a flood of {dropped} packets only");
    pins_ok(&lab, &detector()?, &["detach"])?;
    Ok(())
}

/// What the programs dropped, as the next daemon reads it.
fn dropped(lab: &Lab) -> Result<f64> {
    let daemon = pinned_daemon(lab, detector()?)?;
    let dropped = daemon.metrics(lab)?.sum("detector_kernel_packets_total", &[("verdict", "drop")]);
    daemon.stop(Signal::SIGTERM)?;
    Ok(dropped)
}

/// Ends the script after its round, and reads what it tells.
fn end_of(mut script: Process, mut said: impl Iterator<Item = std::io::Result<String>>) -> Result<Value> {
    drop(script.child().stdin.take());
    let told = said.next().context("held.py told nothing")??;
    script.wait(Duration::from_secs(60))?;
    Ok(serde_json::from_str(&told)?)
}

/// An operator's word on the mode: at once, with the daemon hung; for a time, and then as before by the kernel alone; and
/// over a restart, whatever the configuration says.
#[test]
fn the_mode_is_changed_with_the_daemon_hung() -> Result<()> {
    let (lab, _mount) = scene()?;
    let _nginx = Nginx::start(&lab)?;
    let bot = Target { timeout: SHORT, ..from(CLIENT_V4) };
    let visit = || -> Result<Report> { Ok(batch(&lab, &bot, &[Kind::Python], 1)?.remove(0)) };
    attach(&lab, &detector()?)?;
    let daemon = pinned_daemon(&lab, detector()?)?;
    let ja4 = ja4_of(&daemon, &visit()?)?;
    daemon.stop(Signal::SIGTERM)?;

    let rule: &'static str = format!("{PLAIN_DROPS}[deny]\nja4 = [\"{ja4}\"]\n").leak();
    let start = || Daemon::start(&lab, DaemonOptions { config: rule, ..DaemonOptions::default() });
    let daemon = start()?;
    // The first one tells the program which fingerprint that is.
    daemon.hello_from(visit()?.port.context("no port")?)?;
    ensure!(visit()?.answered(), "the configuration says observe");
    daemon.signal(Signal::SIGSTOP)?;
    let asked = Instant::now();
    let said = pins_ok(&lab, &detector()?, &["mode", "enforce", "--for", "4s"])?;
    show(&format!("mode enforce with the daemon stopped: {} ms", asked.elapsed().as_millis()));
    ensure!(said.contains("enforce (by an operator, for 4s, then observe)"), "{said}");
    ensure!(!visit()?.answered(), "answered in mode enforce");
    until("the end of the mode, with the daemon stopped", PATIENCE, || Ok(visit()?.answered().then_some(())))?;
    ensure!(pins_ok(&lab, &detector()?, &["mode"])?.contains("observe (configured)"));

    pins_ok(&lab, &detector()?, &["mode", "enforce"])?;
    daemon.signal(Signal::SIGCONT)?;
    until("the daemon to tell of it", PATIENCE, || {
        Ok(control_ok(&lab, &["status"])?.contains("mode enforce (by an operator)").then_some(()))
    })?;
    ensure!(daemon.log().contains("changed in the pinned map"), "no line of the change: {}", daemon.log());
    daemon.stop(Signal::SIGTERM)?;
    let daemon = start()?;
    ensure!(!visit()?.answered(), "the configuration overruled an operator");
    ensure!(control_ok(&lab, &["status"])?.contains("mode enforce (by an operator)"));
    pins_ok(&lab, &detector()?, &["mode", "observe"])?;
    ensure!(visit()?.answered(), "in mode observe again");
    daemon.stop(Signal::SIGTERM)?;
    Ok(())
}

/// Without pins the daemon changes it; without a daemon too, the error says so.
#[test]
fn without_pins_the_daemon_changes_the_mode() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    fs::write(detector_tests::daemon::configuration(&lab), "")?;
    let refused = pins(&lab, &detector()?, &["mode", "enforce"])?;
    assert_eq!(refused.status.code(), Some(69), "{}", String::from_utf8_lossy(&refused.stderr));
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let said = pins_ok(&lab, &detector()?, &["mode", "enforce", "--for", "1h"])?;
    ensure!(said.contains("enforce (by an operator, for 1h, then observe)"), "{said}");
    let status: Value = serde_json::from_str(&control_ok(&lab, &["status", "--format", "json"])?)?;
    assert_eq!((&status["mode"], &status["mode_by_operator"]), (&"enforce".into(), &true.into()), "{status}");
    let audited = until("the audit line", PATIENCE, || Ok(daemon.log().contains("change asked for").then_some(())));
    audited.with_context(|| daemon.log())?;
    assert_eq!(daemon.metrics(&lab)?.sum("detector_daemon_info", &[("mode", "enforce")]), 1.0);
    Ok(())
}
