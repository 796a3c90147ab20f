//! An old policy beside a new one: who would be hit.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use detector_tests::mmdb::systems;
use detector_tests::process::output;
use detector_tests::replay::{Line, Scene};
use serde_json::Value;

use crate::clients::{CLIENT, browser, letters, page, person, read_at, view};

/// A person and a scraper of nine pages with the same browser's hello, at two addresses.
fn scene() -> Result<Scene> {
    let mut scene = Scene::default();
    let over = scene.connect(&browser()?, CLIENT, 0.0);
    read_at(9).enumerate().for_each(|(number, at)| page(&mut scene, over, at, &letters(number)));
    person(&mut scene, [192, 0, 2, 9].into(), 0.0, 5)?;
    Ok(scene)
}

/// By what clients do alone: the scraper says that it is a browser, with a tool's hello.
const OLD: &str = "[score]\nlayers = { coherence = \"off\" }\n";
const NEW: &str = "[score]\nlayers = { coherence = \"off\" }\n[policy]\nsuspicious = \"challenge\"\n";

#[test]
fn a_new_policy_hits_the_scraper_and_not_the_person() -> Result<()> {
    let lines = scene()?.replay(OLD, NEW)?;
    let last = |person: bool| lines.iter().rfind(|line| (line.ip != CLIENT) == person).context("nobody");
    let scraper = last(false)?;
    assert_eq!((scraper.old.confidence.as_str(), scraper.old.action.as_str()), ("suspicious", "observe"));
    assert_eq!((scraper.new.confidence.as_str(), scraper.new.action.as_str()), ("suspicious", "challenge"));
    assert_eq!(scraper.new.axes, ["behaviour"]);
    let person = last(true)?;
    assert!(person.new.confidence.ends_with("_human"), "{person:?}");
    assert_eq!(person.new.action, "allow");
    Ok(())
}

#[test]
fn who_would_be_hit_is_told_by_family() -> Result<()> {
    let (directory, scene) = (tempfile::tempdir()?, scene()?);
    let printed = output(scene.command(directory.path(), OLD, NEW)?.args(["--format", "json"]))?;
    let rows: Vec<Value> = printed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let hit = rows.iter().find(|row| row["newly_hit"] == 1).context("nobody would be hit")?;
    assert_eq!(hit["new_challenge"], 1, "{hit}");
    assert_eq!(rows.iter().filter_map(|row| row["clients"].as_u64()).sum::<u64>(), 2, "{rows:?}");
    assert_eq!(rows.iter().filter_map(|row| row["old_challenge"].as_u64()).sum::<u64>(), 0);
    let table = output(scene.command(directory.path(), OLD, NEW)?.args(["--format", "table"]))?;
    assert!(table.lines().next().is_some_and(|head| head.contains("newly hit")), "{table}");
    let csv = output(scene.command(directory.path(), OLD, NEW)?.args(["--format", "csv"]))?;
    assert!(csv.starts_with("family,clients,requests,"), "{csv}");
    // A sheet lacks nothing that JSON says, whichever rows are asked for.
    for more in [&[][..], &["--requests"]] {
        let printed = |format| output(scene.command(directory.path(), OLD, NEW)?.args(["--format", format]).args(more));
        let (json, csv) = (printed("json")?, printed("csv")?);
        let first: Value = serde_json::from_str(json.lines().next().context("a row")?)?;
        let keys: BTreeSet<&str> = first.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
        let columns: BTreeSet<&str> = csv.lines().next().context("a header")?.split(',').collect();
        assert_eq!(columns, keys, "{more:?}");
    }
    Ok(())
}

/// What would be judged without a database that the policy names isn't what the daemon would do.
#[test]
fn a_broken_address_database_is_refused_with_what_to_do() -> Result<()> {
    let (directory, whole) = (tempfile::tempdir()?, systems(&[("192.0.2.0/24", 64_500)])?);
    let path = directory.path().join("asn.mmdb");
    let policy = format!("[reputation]\nasn_database = {path:?}\nhosting_asns = [64500]\n");
    for broken in [&whole[..whole.len() / 2], b"<html>Go away</html>"] {
        std::fs::write(&path, broken)?;
        let ended = scene()?.command(directory.path(), "", &policy)?.output()?;
        let said = String::from_utf8(ended.stderr)?;
        ensure!(ended.status.code() == Some(1) && said.contains("get it anew"), "{said}");
    }
    std::fs::write(&path, &whole)?;
    let speaks = |line: &Line| line.new.signals.iter().any(|found| found.name == "hosting-network");
    let lines = scene()?.replay("", &policy)?;
    assert!(lines.iter().all(speaks), "{lines:?}");
    Ok(())
}

#[test]
fn what_has_no_hello_is_counted_and_nothing_else() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut command = scene()?.command(directory.path(), "", "")?;
    std::fs::write(
        directory.path().join("access.log"),
        "no report\n{\"v\":1,\"ip\":\"192.0.2.7\",\"port\":9,\"t\":1767225601}\n",
    )?;
    let ended = command.output()?;
    let said = String::from_utf8(ended.stderr)?;
    ensure!(ended.status.code() == Some(2), "{said}");
    assert!(said.contains("requests judged: 0; without a hello: 1; lines that are no report with a time: 1"), "{said}");
    Ok(())
}

/// threats.md T46: a deny list that has people's addresses. Of those who are there since an hour it is seen.
#[test]
fn a_policy_that_stops_people_is_told_with_the_time_its_breaker_opens() -> Result<()> {
    let mut scene = Scene::default();
    for number in 0..8_u8 {
        let (client, begin) = (Ipv4Addr::new(192, 0, 2 + number, 7), f64::from(number) * 2.0);
        let over = scene.connect(&browser()?, client, begin);
        (0..8).for_each(|page: usize| view(&mut scene, over, begin + 1.0 + page as f64 * 520.0, &letters(page)));
    }
    let directory = tempfile::tempdir()?;
    let list = directory.path().join("denied.txt");
    std::fs::write(&list, "192.0.0.0/20\n")?;
    let lists = format!("[feeds]\nlists.own = {{ class = \"denied\", file = {list:?} }}\n");
    // Each page stops them anew.
    let policy = format!("{lists}[policy]\nblock_ttl = \"1m\"\n");
    let said = String::from_utf8(scene.command(directory.path(), "", &policy)?.output()?.stderr)?;
    let told = "by the new policy a circuit breaker would have opened for all at 2026-01-01T01:00:";
    ensure!(said.contains(told) && said.contains("; by `deny-listed` at 2026-01-01T01:00:"), "{said}");
    ensure!(!said.contains("by the old policy"), "{said}");
    Ok(())
}
