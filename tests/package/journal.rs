//! The log in systemd's journal (docs/events.md): each event arrives with the level and the fields that are documented and
//! no others, what a stranger or a file says stays one value of one event, a place that could log with every frame does so
//! a few times, and what is logged changes while the daemon runs.

use std::{collections::BTreeMap, os::unix::net::UnixDatagram};

use anyhow::{Context as _, Result, bail, ensure};
use detector_tests::{
    deadline::{PATIENCE, until},
    lab::{Lab, SERVER_INTERFACE, SERVER_V4},
    metrics::Metrics,
    process::output,
};
use serde_json::Value;

use crate::{
    VERSION,
    installed::{install, lab},
    machine::Machine,
};

const EVENTS: &str = include_str!("../../docs/events.md");
/// As syslog(3) numbers levels; tracing-journald leaves a notice for what others call information.
const PRIORITIES: [(&str, &str); 5] = [("error", "3"), ("warn", "4"), ("info", "5"), ("debug", "6"), ("trace", "7")];
/// What every entry of the daemon has beside its fields; the journal's own begin with an underscore.
const ALWAYS: [&str; 6] = ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "TARGET", "CODE_FILE", "CODE_LINE"];
/// Frames that are no reports.
const FRAMES: usize = 500;

/// The documented events: the priority and the fields, by message.
fn documented() -> BTreeMap<&'static str, (&'static str, Vec<String>)> {
    let mut events = BTreeMap::new();
    for line in EVENTS.lines() {
        let [_, level, message, fields, ..] = *line.split('|').map(str::trim).collect::<Vec<_>>() else { continue };
        let Some((_, priority)) = PRIORITIES.iter().find(|(name, _)| *name == level) else { continue };
        let fields = fields.split_whitespace().map(|field| field.trim_matches('`').to_uppercase()).collect();
        events.insert(message, (*priority, fields));
    }
    events
}

/// The daemon's entries that have these fields, the oldest first.
fn entries(machine: &Machine, matching: &str) -> Result<Vec<Value>> {
    let lines = machine.run(&format!("journalctl --identifier detector --output json --no-pager {matching}"))?;
    lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The one that comes.
fn entry(machine: &Machine, matching: &str) -> Result<Value> {
    let found = until(&format!("an entry with {matching}"), PATIENCE, || {
        let found = entries(machine, matching)?;
        Ok((!found.is_empty()).then_some(found))
    })?;
    let [entry] = &found[..] else { bail!("not one entry with {matching}: {found:?}") };
    Ok(entry.clone())
}

/// A field's value. What holds control characters the journal tells as numbers.
fn text(value: &Value) -> String {
    let byte = |byte: &Value| byte.as_u64().and_then(|byte| u8::try_from(byte).ok());
    let bytes = |bytes: &Vec<Value>| String::from_utf8_lossy(&bytes.iter().filter_map(byte).collect::<Vec<_>>()).into();
    value.as_array().map_or_else(|| value.as_str().unwrap_or_default().to_owned(), bytes)
}

/// What the daemon has counted.
fn counted(lab: &Lab, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    Ok(metrics(lab)?.sum(name, labels))
}

/// Its metrics page.
pub(crate) fn metrics(lab: &Lab) -> Result<Metrics> {
    let mut scrape = lab.server().command("curl");
    scrape.args(["-sS", "--fail", "--noproxy", "*", "--max-time", "5", "http://127.0.0.1:9464/metrics"]);
    Metrics::parse(&output(&mut scrape)?)
}

#[test]
fn events_arrive_in_the_journal_with_their_fields() -> Result<()> {
    let lab = lab()?;
    let machine = Machine::boot(&lab)?;
    install(&machine, VERSION)?;
    machine.run("sed -i 's/^format = \"auto\"/format = \"journald\"/' /etc/detector/detector.toml")?;
    machine.run("systemctl restart detector")?;

    machine.run("detector block 198.51.100.7 --ttl 1h")?;
    let block = entry(&machine, "VERB=block SUBJECT=198.51.100.7")?;
    for (field, value) in [("PRIORITY", "5"), ("MESSAGE", "change asked for"), ("OUTCOME", "changed"), ("UID", "0")] {
        assert_eq!(block[field], value, "{block}");
    }
    ensure!(block["TARGET"] == "detector::audit" && block["UNTIL"].as_str().is_some_and(|until| until.ends_with('Z')));
    ensure!(block["_SYSTEMD_UNIT"] == "detector.service", "{block}");

    // A file's text with what a terminal would obey, and with what looks like another entry.
    let hostile = r#"printf '"a\\u001b[31mb\\nMESSAGE=forged" = 1\n' >>/etc/detector/detector.toml"#;
    machine.run(hostile)?;
    ensure!(!machine.try_run("systemctl reload detector")?.status.success(), "a wrong configuration is taken");
    let refused = entry(&machine, "MESSAGE='the new configuration is refused; the one before stays in force'")?;
    ensure!(text(&refused["ERROR"]).contains("MESSAGE=forged") && refused["PRIORITY"] == "3", "{refused}");
    ensure!(entries(&machine, "MESSAGE=forged")?.is_empty(), "a file can forge an entry");

    // A stranger who could make it log with every frame.
    let stranger = UnixDatagram::unbound()?;
    stranger.connect(machine.file("/run/detector/signals.sock"))?;
    for _ in 0..FRAMES {
        stranger.send(b"no report\x1b[2J")?;
    }
    until("all frames to be counted", PATIENCE, || {
        Ok((counted(&lab, "detector_intake_frames_total", &[("outcome", "malformed")])? == FRAMES as f64).then_some(()))
    })?;
    let told = || entries(&machine, "MESSAGE='a frame is no report'");
    let left_out = counted(&lab, "detector_queue_items_total", &[("queue", "log")])? as usize;
    ensure!(left_out >= FRAMES - 12, "only {left_out} of {FRAMES} lines are left out");
    until("the others to be there", PATIENCE, || Ok((told()?.len() + left_out == FRAMES).then_some(())))?;

    // Less, and as before.
    machine
        .run("detector log error && detector block 198.51.100.8 && detector log info && detector block 198.51.100.9")?;
    entry(&machine, "VERB=block SUBJECT=198.51.100.9")?;
    ensure!(entries(&machine, "VERB=block SUBJECT=198.51.100.8")?.is_empty(), "logged although only errors are");
    // More, of something that changes nothing.
    let unchanged = "MESSAGE=\"this host's addresses are as they were\"";
    let change = || lab.server().ip(&format!("address change {SERVER_V4}/24 dev {SERVER_INTERFACE} metric 7"));
    machine.run("detector log debug")?;
    change()?;
    // The kernel tells such a change in three messages, two of them about routes; the daemon may read them in several goes,
    // and says it for each.
    let said = until("the addresses to be looked at", PATIENCE, || {
        let said = entries(&machine, unchanged)?;
        Ok((!said.is_empty()).then_some(said))
    })?;
    ensure!(said.iter().all(|entry| entry["PRIORITY"] == "6"), "another level: {said:?}");

    let documented = documented();
    let mut all = entries(&machine, "")?;
    // Before it was told to write there it wrote lines.
    all.retain(|entry| text(&entry["TARGET"]).starts_with("detector"));
    ensure!(all.len() > 10, "only {} entries", all.len());
    for entry in &all {
        let message = entry["MESSAGE"].as_str().context("no message")?;
        let (priority, fields) = documented.get(message).with_context(|| format!("undocumented: {entry}"))?;
        ensure!(entry["PRIORITY"] == **priority, "{entry}");
        let own = entry.as_object().context("no entry")?.keys().filter(|key| !key.starts_with('_'));
        let unknown: Vec<_> = own.filter(|key| !ALWAYS.contains(&key.as_str()) && !fields.contains(key)).collect();
        ensure!(unknown.is_empty(), "{unknown:?} of {entry}");
    }
    Ok(())
}
