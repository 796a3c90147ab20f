//! docs/tutorial.md, typed on a fresh Debian from its first line to its last: each command succeeds, and prints what the
//! page shows.
//!
//! In the page's blocks a line after a prompt is a command (a backslash at its end takes in the next line), and the lines
//! after it are what it prints, on a terminal. Compared are lines, by these rules ([`is_shown`]):
//!
//! - any number is like any other, and so is any id of 16 hexadecimal digits; one space is like several;
//! - `…` stands for anything within a line, and alone on a line for any lines, or none;
//! - a command without output on the page may print what it likes.
//!
//! A command that only looks ([`LOOKS`]) is typed again until that is so, since what it looks at may be on its way. One
//! whose output begins with `curl: (` fails as curl does when nobody answers; all others exit with 0.

use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use detector_tests::{
    deadline::{PATIENCE, until},
    lab::{CLIENT_INTERFACE, Lab, LabOptions, SERVER_INTERFACE},
};

use crate::{VERSION, deb, machine::Machine};

const PAGE: &str = include_str!("../../docs/tutorial.md");
/// What stands before a command, and where it is typed.
const PROMPTS: [(&str, Place); 2] = [("edge# ", Place::Edge), ("laptop$ ", Place::Laptop)];
/// The most commands that are still ten minutes.
const MOST: usize = 25;
/// Beginnings of commands that change nothing.
const LOOKS: [&str; 7] = [
    "curl ",
    "journalctl ",
    "detector status",
    "detector reports",
    "detector explain",
    "detector feeds list",
    "detector replay",
];

/// The page's addresses and names.
const EDGE: &str = "192.0.2.10";
const LAPTOP: &str = "192.0.2.7";
const GATEWAY: &str = "192.0.2.254";
const SITE: &str = "shop.example";
const INTERFACE: &str = "eth0";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The server, as root.
    Edge,
    /// Another machine, with the same programs.
    Laptop,
}

#[derive(Debug)]
struct Step {
    place: Place,
    command: String,
    shown: Vec<String>,
}

/// The commands of a page, in their order.
fn steps(page: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let blocks = page.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    for block in blocks {
        let mut lines = block.lines().peekable();
        while let Some(line) = lines.next() {
            let prompted = PROMPTS.iter().find_map(|(prompt, place)| Some((*place, line.strip_prefix(prompt)?)));
            let Some((place, typed)) = prompted else {
                let step = steps.last_mut().with_context(|| format!("`{line}` is nobody's output"))?;
                step.shown.push(line.to_owned());
                continue;
            };
            let mut command = typed.to_owned();
            while command.ends_with('\\') {
                command = format!("{command}\n{}", lines.next().context("nothing after a backslash")?);
            }
            steps.push(Step { place, command, shown: Vec::new() });
        }
    }
    // What separates it from the next command is no output.
    for step in &mut steps {
        while step.shown.last().is_some_and(String::is_empty) {
            step.shown.pop();
        }
    }
    Ok(steps)
}

/// Numbers as `#`, ids too, and one space between words.
fn masked(line: &str) -> String {
    let is_id = |run: &str| run.len() >= 16 && run.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut text = String::new();
    for run in line.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric()) {
        let word = run.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
        text.push_str(&if is_id(word) { run.replacen(word, "0", 1) } else { run.to_owned() });
    }
    let mut masked = String::new();
    for letter in text.trim_end().chars() {
        let letter = if letter.is_ascii_digit() { '#' } else { letter };
        if !(matches!(letter, '#' | ' ') && masked.ends_with(letter)) {
            masked.push(letter);
        }
    }
    masked
}

/// Whether a line is the one shown, where `…` is anything.
fn is_line(shown: &str, printed: &str) -> bool {
    let (shown, printed) = (masked(shown), masked(printed));
    let mut pieces = shown.split('…');
    let Some(mut rest) = pieces.next().and_then(|first| printed.strip_prefix(first)) else { return false };
    let Some(last) = pieces.next_back() else { return rest.is_empty() };
    for piece in pieces {
        let Some((_, after)) = rest.split_once(piece) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

/// Whether lines are those shown; a line that is `…` is any lines.
fn is_shown(shown: &[String], printed: &[&str]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first == "…" => (0..=printed.len()).any(|from| is_shown(rest, &printed[from..])),
        Some((first, rest)) => {
            printed.split_first().is_some_and(|(line, after)| is_line(first, line) && is_shown(rest, after))
        }
    }
}

/// Types a command once: what it printed, if that isn't as it should be.
fn wrong(step: &Step, done: &Output) -> Option<String> {
    let printed = String::from_utf8_lossy(&done.stdout).replace('\r', "");
    let lines: Vec<&str> = printed.trim_end().lines().collect();
    let may_fail = step.shown.first().is_some_and(|line| line.starts_with("curl: ("));
    let right = done.status.success() != may_fail && (step.shown.is_empty() || is_shown(&step.shown, &lines));
    (!right).then(|| format!("{}\n{printed}", done.status))
}

#[test]
fn every_command_does_what_the_page_shows() -> Result<()> {
    let steps = steps(PAGE)?;
    ensure!((10..=MOST).contains(&steps.len()), "{} commands", steps.len());
    let lab = Lab::new(LabOptions::default())?;
    let server = lab.server();
    for change in ["down", &format!("name {INTERFACE}")] {
        server.ip(&format!("link set {SERVER_INTERFACE} {change}"))?;
    }
    server.ip(&format!("link set {INTERFACE} up"))?;
    server.ip(&format!("address add {EDGE}/24 dev {INTERFACE}"))?;
    server.ip(&format!("route add default via {GATEWAY}"))?;
    lab.client().ip(&format!("address add {LAPTOP}/24 dev {CLIENT_INTERFACE}"))?;
    let machine = Machine::boot(&lab)?;
    machine.bring(&deb(VERSION)?, &format!("/root/detector_{VERSION}_amd64.deb"))?;
    machine.run(&format!("echo {EDGE} {SITE} >>/etc/hosts"))?;

    for (number, step) in steps.iter().enumerate() {
        let typed = || machine.typed(&step.command, (step.place == Place::Laptop).then(|| lab.client()));
        let mut trouble = wrong(step, &typed()?);
        if trouble.is_some() && LOOKS.iter().any(|look| step.command.starts_with(look)) {
            let again = until("the page's output", PATIENCE, || {
                trouble = wrong(step, &typed()?);
                Ok(trouble.is_none().then_some(()))
            });
            ensure!(again.is_ok() || trouble.is_some(), "{again:?}");
        }
        if let Some(printed) = trouble {
            let shown = step.shown.join("\n");
            let journal = machine.look("journalctl --no-pager --lines 30");
            anyhow::bail!("{}. `{}`: {printed}\nthe page shows\n{shown}\n\n{journal}", number + 1, step.command);
        }
    }
    ensure!(!machine.file("/usr/bin/detector").exists(), "the page ends with nothing left");
    println!("{} commands", steps.len());
    Ok(())
}

#[test]
fn what_differs_is_told_from_what_may() {
    let shown = |page: &str, printed: &str| {
        let page: Vec<String> = page.lines().map(str::to_owned).collect();
        is_shown(&page, &printed.lines().collect::<Vec<_>>())
    };
    assert!(shown("a  12 b", "a 7   b  "));
    assert!(shown("id e17238e5e238e7a9-2, …", "id 0123456789abcdef-41, 3s ago"));
    assert!(shown("up …, mode x", "up 1m 3s, mode x"));
    assert!(shown("…\nlast", "first\nsecond\nlast"));
    assert!(shown("first\n…", "first"));
    assert!(!shown("a b", "a c"));
    assert!(!shown("a", "a\nb"));
    assert!(!shown("a\nb", "a"));
    assert!(!shown("…\nlast", "first\nlast\nafter"));
    assert!(!shown("up …, mode x", "up 1s, mode y"));
    assert!(!shown("t13d_e8f1e7e78f70", "t13d_e8f1e7e78f7a"));
}

#[test]
fn a_page_is_read_by_its_prompts() -> Result<()> {
    let page = "# p\n```console\nedge# a \\\n      b\nout\n\nmore\n\nlaptop$ c\n```\n```sh\nedge# no\n```\n";
    let read = steps(page)?;
    assert_eq!(read.len(), 2);
    assert_eq!((read[0].place, read[0].command.as_str()), (Place::Edge, "a \\\n      b"));
    assert_eq!(read[0].shown, ["out", "", "more"]);
    assert_eq!((read[1].place, read[1].command.as_str(), read[1].shown.len()), (Place::Laptop, "c", 0));
    ensure!(steps("```console\nnobody's\n```").is_err(), "output without a command");
    Ok(())
}
