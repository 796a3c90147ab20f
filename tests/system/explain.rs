//! Issue 6, "Done when" 5: `detector explain` of three clients of the lab, as an operator reads it: word for word but for
//! what no two runs have in common. What lifts the verdict is run as it is printed.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use detector_tests::curl::curl;
use detector_tests::daemon::{Daemon, DaemonOptions, control, control_ok, control_socket};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::lab::{Lab, LabOptions};
use detector_tests::process::output;
use detector_tests::reporters::Reporter;
use detector_tests::server::SERVER_NAME;
use detector_tests::visits::{Plan, Visits};
use detector_tests::{programs, site};
use serde_json::Value;

const CONFIG: &str = "[signals]\ngroup = \"www-data\"\n";

/// A tool and a library with the name of Chrome, and a tool with its own.
const CLIENTS: [&str; 3] = ["curl-forged", "urllib-forged", "wget"];
/// Of each.
const PAGES: u32 = 6;

/// As many lines and columns as a small terminal has.
const SCREEN: (usize, usize) = (24, 80);

struct Scene {
    daemon: Daemon,
    _server: Reporter,
    lab: Lab,
}

impl Scene {
    fn start() -> Result<Self> {
        let lab = Lab::new(LabOptions::default())?;
        let pages = lab.file("site");
        site::write(&pages)?;
        let daemon = Daemon::start(&lab, DaemonOptions { config: CONFIG, ..DaemonOptions::default() })?;
        let server = Reporter::nginx_serving(&lab, &pages)?;
        Ok(Self { daemon, _server: server, lab })
    }

    /// What is made of it once all its pages were told of.
    fn explained(&self, of: &str, assessments: u64) -> Result<Value> {
        until(&format!("the verdict on {of}"), PATIENCE, || {
            let done = control(&self.lab, &["explain", of, "--format", "json"])?;
            let known = done.status.success().then(|| serde_json::from_slice::<Value>(&done.stdout)).transpose()?;
            Ok(known.filter(|known| known["assessments"].as_u64() >= Some(assessments)))
        })
        .with_context(|| self.daemon.log())
    }

    /// Runs a command of an operator's as it was printed.
    fn run(&self, command: &str) -> Result<String> {
        let rest = command.strip_prefix("detector ").with_context(|| format!("no command of detector's: {command}"))?;
        let mut shell = self.lab.server().command("sh");
        shell.arg("-c").arg(format!("\"$0\" {rest}")).arg(programs::detector()?);
        output(shell.env("DETECTOR_CONTROL_SOCKET", control_socket(&self.lab)))
    }

    /// Whether a curl like the lab's gets its page from there.
    fn answered(&self, address: &str) -> Result<bool> {
        let mut curl = curl(&self.lab);
        curl.args(["--interface", address, "--http2", "--max-time", "2", "--output", "/dev/null"]);
        Ok(curl.arg(format!("https://{SERVER_NAME}/")).output()?.status.success())
    }
}

#[test]
fn three_clients_are_explained_as_an_operator_reads_it_and_lifted_by_what_is_printed() -> Result<()> {
    let scene = Scene::start()?;
    let visits = Visits::new(&scene.lab, &scene.lab.file("nginx").join("certificate.pem"), 8)?;
    let plans: Vec<Plan<'_>> =
        CLIENTS.iter().zip(0..).map(|(kind, number)| Plan { kind, number, pages: PAGES, pace: 0.05 }).collect();
    // As it is installed: they are all answered, and what is found only counts.
    for plan in &plans {
        let visit = visits.make(plan)?;
        ensure!(visit.error.is_none() && visit.pages == PAGES, "{}: {visit:?}", plan.kind);
        let known = scene.explained(&plan.address().to_string(), PAGES.into())?;
        ensure!(known["only_counts"] == "the mode is observe", "{known}");
    }
    control_ok(&scene.lab, &["mode", "enforce"])?;
    for plan in &plans {
        lifted(&scene, &visits, plan).with_context(|| plan.kind.to_owned())?;
    }
    let nobody = control(&scene.lab, &["explain", "192.0.2.99"])?;
    let said = String::from_utf8_lossy(&nobody.stderr);
    ensure!(nobody.status.code() == Some(2) && said.contains("no request of that client is remembered"), "{nobody:?}");
    Ok(())
}

/// The client is stopped and explained so, and no longer when the command was run that the screen shows.
fn lifted(scene: &Scene, visits: &Visits<'_>, plan: &Plan<'_>) -> Result<()> {
    let address = plan.address().to_string();
    let known = until("what was decided to be in force", PATIENCE, || {
        Ok(Some(scene.explained(&address, PAGES.into())?).filter(|known| known.get("only_counts").is_none()))
    })?;
    let screen = control_ok(&scene.lab, &["explain", &address])?;
    check(plan.kind, &known, &screen)?;
    by_other_names(scene, &known, &address)?;
    let lift = known["lift"].as_str().context("a command that lifts it")?;
    ensure!(screen.contains(&format!("  lift    {lift}\n")), "the screen has it: {screen}");
    if plan.kind == "curl-forged" {
        until("the kernel to refuse it", PATIENCE, || Ok((!scene.answered(&address)?).then_some(())))?;
    }
    scene.run(lift)?;
    if plan.kind == "curl-forged" {
        ensure!(scene.answered(&address)?, "lifted by: {lift}");
    }
    let again = visits.make(&Plan { pages: 1, ..*plan })?;
    ensure!(again.error.is_none() && again.pages == 1, "lifted by {lift}: {again:?}");
    let welcome = until("the welcome", PATIENCE, || {
        Ok(Some(scene.explained(&address, 1)?).filter(|known| known["settled_by"] == "allow-listed"))
    })?;
    ensure!(welcome["action"] == "allow", "{welcome}");
    let screen = control_ok(&scene.lab, &["explain", &address])?;
    let (ordered, back) =
        (format!("  ordered allow {address}, "), format!(" left\n  lift    detector unallow {address}\n"));
    ensure!(screen.contains(&ordered) && screen.contains(&back), "no `{ordered}…{back}` in {screen}");
    Ok(())
}

/// By its JA4 and by the decision's ID it is the same.
fn by_other_names(scene: &Scene, known: &Value, address: &str) -> Result<()> {
    for name in ["ja4", "id"] {
        let of = known[name].as_str().with_context(|| format!("no {name}: {known}"))?;
        let other = scene.explained(of, 1)?;
        for same in ["id", "address", "unit", "action", "score", "signals", "lift"] {
            ensure!(other[same] == known[same], "of {of}: {other}\nof {address}: {known}");
        }
    }
    Ok(())
}

/// It is the golden one, and names what an operator needs.
fn check(kind: &str, known: &Value, screen: &str) -> Result<()> {
    let names = |key: &str| known[key].as_array().map(Vec::len).unwrap_or_default();
    ensure!(known["action"] == "block" || known["action"] == "challenge", "{kind}: {known}");
    ensure!(names("axes") >= 2 && names("signals") >= 3, "{kind}: {known}");
    let heaviest = known["signals"].as_array().into_iter().flatten().take(3);
    let wanted = heaviest.filter_map(|signal| signal["signal"].as_str()).chain(known["unit"].as_str());
    for name in wanted {
        ensure!(screen.contains(name), "{kind}: no `{name}` in:\n{screen}");
    }
    let (lines, columns) = (screen.lines().count(), screen.lines().map(|line| line.chars().count()).max());
    ensure!(lines <= SCREEN.0 && columns <= Some(SCREEN.1), "{kind}: {lines} lines, {columns:?} columns:\n{screen}");
    let path = golden(kind);
    if env::var_os("DETECTOR_TEST_WRITE").is_some() {
        fs::write(&path, mask(screen))?;
    }
    let written = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    assert_eq!(mask(screen), written, "{kind} is explained so:\n{screen}");
    Ok(())
}

fn golden(kind: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/explain/{kind}.txt"))
}

/// The text with `JA4-1`, `JA4-2`, … for fingerprints in the order they come (which they are depends on the machine's
/// OpenSSL), and `ID`, `TIME`, `SCORE` for what no two runs have in common.
fn mask(text: &str) -> String {
    let mut ja4_values = BTreeMap::new();
    let mut word = |word: &str| {
        let parts: Vec<usize> = word.split('_').map(str::len).collect();
        if parts == [10, 12, 12] {
            let next = ja4_values.len() + 1;
            return format!("JA4-{}", ja4_values.entry(word.to_owned()).or_insert(next));
        }
        let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = word.trim_end_matches(',').split_once('-');
        if id.is_some_and(|(daemon, number)| daemon.len() == 16 && is_hex(daemon) && is_hex(number)) {
            return word.replace(word.trim_end_matches(','), "ID");
        }
        word.to_owned()
    };
    let line = |line: &str| {
        let words: Vec<String> = line.split(' ').map(&mut word).collect();
        let line = words.join(" ");
        match line.split_once(", score ") {
            Some((confidence, rest)) => {
                format!("{confidence}, score SCORE:{}", rest.split_once(':').unwrap_or_default().1)
            }
            None if line.starts_with("  expires in ") => "  expires in TIME, unless it goes on".to_owned(),
            None if line.starts_with("  id ") => {
                line.split_once(", ").map_or(line.clone(), |(id, _)| format!("{id}, TIME ago"))
            }
            None => line,
        }
    };
    text.lines().map(line).map(|line| line + "\n").collect()
}

#[test]
fn the_mask_keeps_all_that_two_runs_share() {
    let ja4 = "t13d1516h2_8daaf6152771_02713d6af862";
    let text = format!(
        "10.80.0.7  {ja4}\n\nlikely_bot, score 0.987: block\n  unit    10.80.0.7 with {ja4}\n  expires in 59m 59s, unless \
         it goes on\n  id      5f3c0a12b7e4d901-2a, 3s ago\n"
    );
    let masked = "10.80.0.7  JA4-1\n\nlikely_bot, score SCORE: block\n  unit    10.80.0.7 with JA4-1\n  expires in TIME, \
                  unless it goes on\n  id      ID, TIME ago\n";
    assert_eq!(mask(&text), masked);
}
