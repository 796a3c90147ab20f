//! `detector families learn`: labelled captures in, the catalogue of clients out. Offline, without root. Memory: the
//! hellos of all captures.

use std::{
    fs::File,
    io::{BufReader, Write},
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::Deserialize;

use super::{Exit, Failure};
use crate::{
    capture::{frame, pcap},
    family::{
        Kind,
        learn::{Class, Observation, learn},
    },
    pipeline::{Hello, Limits, Outcome, Pipeline},
};

/// Make the catalogue of client families
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  detector families learn captures/labels.json captures/pcaps > clients.toml\n  \
    detector families learn --as-of 2026-11-22 labels.json new.pcap > clients.toml\n  \
    detector families learn --help           what LABELS has to say",
    disable_help_subcommand = true
)]
pub struct FamiliesArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Action {
    /// Learn what clients send, from captures whose labels say who sent what
    Learn(LearnArgs),
}

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  detector families learn captures/labels.json captures/pcaps > clients.toml
  detector families learn --as-of 2026-11-22 labels.json new.pcap | diff data/clients.toml -
  detector families learn labels.json a.pcap b.pcap more/ > clients.toml

LABELS is a JSON array: for each capture its `pcap`, `family`, `client`, `version`, `class` (browser,
automation-browser, impersonator, library, tool, scanner), `mimics`, and `flows`, each with `src`,
`sport`, `user_agent` (of the capture) and `http.headers`. The catalogue is built into detector:
put it in place of detector/data/clients.toml and build.

Exit codes: 0 done, 1 a file can't be read, 64 wrong usage")]
struct LearnArgs {
    /// Who sent what
    labels: PathBuf,

    /// Captures, or directories with them
    #[arg(required = true)]
    pcaps: Vec<PathBuf>,

    /// The date that the catalogue tells
    #[arg(long, value_name = "DATE")]
    as_of: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Label {
    pcap: String,
    family: String,
    client: String,
    version: String,
    class: String,
    mimics: Option<String>,
    user_agent: Option<String>,
    flows: Vec<Flow>,
}

#[derive(Debug, Deserialize)]
struct Flow {
    src: IpAddr,
    sport: u16,
    http: Option<Http>,
}

#[derive(Debug, Deserialize)]
struct Http {
    #[serde(default)]
    headers: Vec<(String, String)>,
}

/// Runs the command.
///
/// # Errors
/// A file can't be read, or `out` can't be written to.
pub fn run(args: &FamiliesArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    made(args, out).map_err(|error| Failure::new(Exit::Failed, format!("{error:#}")))
}

fn made(args: &FamiliesArgs, out: &mut impl Write) -> anyhow::Result<Exit> {
    let Action::Learn(args) = &args.action;
    let place = || format!("`{}`: can't be read as labels", args.labels.display());
    let file = File::open(&args.labels).with_context(place)?;
    let labels: Vec<Label> = serde_json::from_reader(BufReader::new(file)).with_context(place)?;
    let mut observations = Vec::new();
    for label in &labels {
        let Some(path) = args.pcaps.iter().map(|given| capture(given, &label.pcap)).find(|path| path.is_file()) else {
            continue;
        };
        for hello in hellos(&path)? {
            observations.extend(observe(label, &hello));
        }
    }
    anyhow::ensure!(
        !observations.is_empty(),
        "no capture that the labels speak of is in what you gave\ngive the directory with the captures, or their files"
    );
    out.write_all(learn(&observations, args.as_of.clone())?.as_bytes())?;
    Ok(Exit::Done)
}

/// Where the capture with this name would be.
fn capture(given: &Path, name: &str) -> PathBuf {
    if given.is_dir() { given.join(name) } else { given.with_file_name(name) }
}

/// The first hellos of all connections in a capture.
fn hellos(path: &Path) -> anyhow::Result<Vec<Hello>> {
    let place = || format!("`{}`: can't be read as a capture", path.display());
    let file = File::open(path).with_context(place)?;
    let mut pipeline = Pipeline::new(Limits::default());
    let mut hellos = Vec::new();
    let mut keep = |outcome| {
        if let Outcome::Hello(hello) = outcome {
            hellos.extend((hello.index == 0).then_some(*hello));
        }
    };
    pcap::read(BufReader::new(file), |frame| {
        if let Ok(packet) = frame::packet(frame) {
            pipeline.take(&packet, &mut keep);
        }
    })
    .with_context(place)?;
    pipeline.finish(&mut keep);
    Ok(hellos)
}

fn observe(label: &Label, hello: &Hello) -> Option<Observation> {
    let source = (hello.flow.source.ip(), hello.flow.source.port());
    let flow = label.flows.iter().find(|flow| (flow.src, flow.sport) == source)?;
    // Apps use OkHttp honestly, and nobody can tell who imitates it.
    let okhttp = label.mimics.as_deref().is_some_and(|mimics| mimics.to_ascii_lowercase().starts_with("okhttp"));
    let (class, program) = match label.class.as_str() {
        "browser" | "automation-browser" => (Class::Browser, &*label.family),
        "impersonator" if okhttp => (Class::Other(Kind::Library), "okhttp"),
        "impersonator" => (Class::Imitator, &*label.family),
        // It opens connections for others, browsers among them.
        "tool" if label.family == "mitmproxy" => (Class::Other(Kind::Proxy), &*label.family),
        "tool" => (Class::Other(Kind::Tool), &*label.family),
        "scanner" => (Class::Other(Kind::Scanner), &*label.family),
        _ => (Class::Other(Kind::Library), &*label.family),
    };
    let seen = match &label.mimics {
        Some(mimics) => {
            format!("{} {} as {}", label.family, label.version, mimics.trim_matches(';'))
        }
        _ => format!("{} {}", label.client, label.version),
    };
    let headers = flow.http.as_ref().map(|http| &*http.headers).unwrap_or_default();
    let names = headers.iter().map(|(name, _)| name).filter(|name| !name.starts_with(':'));
    let own_agent = headers.iter().find(|(name, _)| name == "user-agent").map(|(_, value)| value.clone());
    Some(Observation {
        class,
        program: program.to_owned(),
        seen,
        user_agent: own_agent.or_else(|| label.user_agent.clone()),
        fingerprint: hello.fingerprint.clone(),
        transport: hello.transport,
        recording: label.pcap.clone(),
        headers: names.map(|name| name.to_ascii_lowercase()).collect(),
        navigation: headers.iter().any(|(name, value)| name == "sec-fetch-mode" && value == "navigate"),
    })
}
