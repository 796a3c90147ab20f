//! `detector top` beside a live daemon: its screens as an operator reads them, word for word but for what no two runs have
//! in common, and its keys on a real terminal.

use std::env;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use detector::admin::protocol::{Request, Response, Status};
use detector::cli::client::{Client, ControlArgs};
use detector::cli::top::view::Wish;
use detector::cli::top::{View, draw};
use detector::clock::Timestamp;
use detector_tests::daemon::{Daemon, DaemonOptions, control_ok, control_socket};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::drafts::Dice;
use detector_tests::lab::{Lab, LabOptions};
use detector_tests::programs;
use detector_tests::terminal::Terminal;
use detector_tests::traffic::{Arrivals, Hello, Site, Visit, send};
use nix::sys::signal::Signal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent};

/// Captures whose first hello comes so many times.
const CLIENTS: [(&str, usize); 6] = [
    ("curl_cffi-chrome146", 24),
    ("firefox-esr", 12),
    ("py-requests", 9),
    ("curl-openssl", 5),
    ("java17-httpclient", 3),
    ("node-got", 2),
];
/// The third's, which is looked at.
const LIBRARY: &str = "py-requests";
const SIZES: [(u16, u16); 2] = [(80, 24), (200, 50)];
const REQUEST: &str = "\"path\":\"/\",\"acc\":\"*/*\",\"hdr\":\"user-agent,accept\",\"ua\":\"python-requests/2.32\"";

/// A daemon that has seen a few clients and been told of their requests.
pub(crate) struct Scene {
    daemon: Daemon,
    _site: Site,
    pub(crate) lab: Lab,
    /// Of [`LIBRARY`].
    pub(crate) ja4: String,
}

impl Scene {
    pub(crate) fn start() -> Result<Self> {
        let lab = Lab::new(LabOptions::default())?;
        let daemon = Daemon::start(&lab, DaemonOptions::default())?;
        let site = Site::start(&lab)?;
        let mut dice = Dice(1);
        let mut visits = Vec::new();
        for (number, (name, count)) in (1..).zip(CLIENTS) {
            let hello = Hello::recorded(name, false)?;
            let source = Ipv4Addr::new(10, 80, 0, number).into();
            visits.extend((0..count).map(|_| Visit {
                who: 0,
                source,
                hello: hello.bytes(&mut dice),
                requests: vec![REQUEST.to_owned()],
                patience: PATIENCE,
            }));
        }
        let sent = visits.len() as u64;
        send(&lab, 100.0, Arrivals::Even, visits)?;
        let mut scene = Self { daemon, _site: site, lab, ja4: String::new() };
        let status = until("every hello to be counted", PATIENCE, || {
            let status = scene.status()?;
            Ok((status.fingerprints.iter().map(|seen| seen.hellos).sum::<u64>() == sent).then_some(status))
        })
        .with_context(|| scene.daemon.log())?;
        let count = |name| CLIENTS.iter().find(|(other, _)| *other == name).map_or(0, |(_, count)| *count as u64);
        let its = status.fingerprints.iter().find(|seen| seen.hellos == count(LIBRARY));
        scene.ja4 = its.context("the library's value")?.ja4.clone();
        until("its request to be assessed", PATIENCE, || {
            Ok(matches!(scene.ask(&Request::Explain { of: scene.of()? })?, Response::Explained(_)).then_some(()))
        })?;
        Ok(scene)
    }

    fn of(&self) -> Result<detector::admin::protocol::ExplainOf> {
        Ok(detector::admin::protocol::ExplainOf::Ja4(self.ja4.parse()?))
    }

    fn ask(&self, request: &Request) -> Result<Response> {
        let control = ControlArgs { control_socket: Some(control_socket(&self.lab)) };
        Ok(Client::connect(&control)?.ask(request)?)
    }

    fn status(&self) -> Result<Box<Status>> {
        let Response::Status(status) = self.ask(&Request::Top)? else { bail!("no status") };
        Ok(status)
    }

    fn top(&self, size: (u16, u16)) -> Result<Terminal> {
        let mut command = self.lab.server().command("setsid");
        command.arg("--ctty").arg(programs::detector()?).arg("top");
        command.env("DETECTOR_CONTROL_SOCKET", control_socket(&self.lab));
        Terminal::start(command, size)
    }
}

fn screen(view: &View, (columns, lines): (u16, u16)) -> Result<String> {
    let mut terminal = ratatui::Terminal::new(TestBackend::new(columns, lines))?;
    terminal.draw(|frame| draw(view, frame))?;
    let buffer = terminal.backend().buffer();
    let line = |line: &[ratatui::buffer::Cell]| line.iter().map(|cell| cell.symbol()).collect::<String>();
    let drawn: Vec<String> = buffer.content().chunks(columns.into()).map(line).collect();
    Ok(drawn.iter().map(|line| line.trim_end().to_owned() + "\n").collect())
}

#[test]
fn its_screens_are_the_golden_ones() -> Result<()> {
    let scene = Scene::start()?;
    let mut view = View::new(false, String::new());
    let at = |second| Timestamp::default().plus(Duration::from_secs(second));
    view.told(scene.status()?, at(1));
    view.told(scene.status()?, at(2));
    // In the order of their numbers, however long ago they came.
    let press = |view: &mut View, key| view.key(KeyEvent::from(key));
    press(&mut view, KeyCode::Char('s'));
    let mut all = SIZES.map(|_| String::new());
    let mut show = |view: &View, what: &str| -> Result<()> {
        for (text, size) in all.iter_mut().zip(SIZES) {
            text.push_str(&format!("== {what}\n{}", mask(&screen(view, size)?)));
        }
        Ok(())
    };
    show(&view, "the table")?;
    press(&mut view, KeyCode::Down);
    press(&mut view, KeyCode::Down);
    press(&mut view, KeyCode::Char('a'));
    show(&view, "a: allow?")?;
    press(&mut view, KeyCode::Esc);
    press(&mut view, KeyCode::Char('b'));
    show(&view, "b: block?")?;
    let Some(Wish::Ask(request)) = press(&mut view, KeyCode::Char('y')) else { bail!("nothing is asked for") };
    view.answered(&request, Ok(scene.ask(&request)?));
    view.told(scene.status()?, at(3));
    show(&view, "y: blocked")?;
    let Some(Wish::Ask(request)) = press(&mut view, KeyCode::Enter) else { bail!("nothing is asked for") };
    view.answered(&request, Ok(scene.ask(&request)?));
    show(&view, "e: explained")?;
    for (text, (columns, lines)) in all.iter().zip(SIZES) {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/top/{columns}x{lines}.txt"));
        if env::var_os("DETECTOR_TEST_WRITE").is_some() {
            fs::create_dir_all(path.parent().context("a directory")?)?;
            fs::write(&path, text)?;
        }
        let written = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        assert_eq!(*text, written, "{}", path.display());
    }
    Ok(())
}

/// The text with `#` for the digits of what no two runs have in common, `~` for sparklines; where their width may differ,
/// without the space behind them.
fn mask(text: &str) -> String {
    let mut masked = String::new();
    for (number, line) in text.lines().enumerate() {
        let mut line = if number < 4 { figures(line) } else { line.split(' ').map(word).collect::<Vec<_>>().join(" ") };
        for (mark, rest) in [("  id      ", "ID"), (" until ", "TIME")] {
            if let Some((before, _)) = line.split_once(mark) {
                line = format!("{before}{mark}{rest}");
            }
        }
        masked.push_str(line.trim_end());
        masked.push('\n');
    }
    masked
}

/// A line of figures.
fn figures(line: &str) -> String {
    let mut out = String::new();
    for c in line.chars() {
        let c = match c {
            '0'..='9' | ',' | '.' => '#',
            '▁'..='█' => '~',
            c => c,
        };
        if !(matches!(c, '#' | '~' | ' ') && out.ends_with(c)) {
            out.push(c);
        }
    }
    // An unit goes with its figure.
    out.replace("µs", "ms")
}

/// A word of a row: a rate, an age or a score is no two runs'.
fn word(word: &str) -> String {
    let of = |text: &str, wanted: fn(char) -> bool| !text.is_empty() && text.chars().all(wanted);
    let decimal = word.matches('.').count() == 1 && of(word, |c| c.is_ascii_digit() || c == '.');
    let age = word.strip_suffix('s').is_some_and(|digits| of(digits, |c| c.is_ascii_digit()));
    if decimal || age {
        word.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect()
    } else {
        word.to_owned()
    }
}

#[test]
fn its_keys_explain_block_and_unblock_on_a_real_terminal() -> Result<()> {
    let scene = Scene::start()?;
    for size in SIZES {
        let mut top = scene.top(size)?;
        top.wait_for(&scene.ja4)?;
        top.wait_for("q quit")?;
        ensure!(top.is_taken() && top.is_coloured(), "{}", top.text());
        // By their numbers, it is the third.
        top.press("sjj")?;
        top.wait_for("HELLOS▾")?;
        top.press("e")?;
        top.wait_for("definitely_bot")?;
        top.press("\u{1b}")?;
        top.wait_for("q quit")?;
        top.press("b")?;
        top.wait_for("Block?")?;
        ensure!(!control_ok(&scene.lab, &["list"])?.contains(&scene.ja4), "blocked without a yes");
        top.press("y")?;
        top.wait_for(&format!("undo: detector unblock --ja4 {}", scene.ja4))?;
        ensure!(control_ok(&scene.lab, &["list"])?.contains(&scene.ja4), "it says what isn't");
        top.press("u")?;
        top.wait_for("Unblock?")?;
        top.press("y")?;
        top.wait_for("unblocked")?;
        ensure!(!control_ok(&scene.lab, &["list"])?.contains(&scene.ja4), "it says what isn't");
        top.press("q")?;
        ensure!(top.end()?.code() == Some(0));
        // What was done stays to be read when the screen is gone.
        top.wait_for(&format!("undo: detector unblock --ja4 {}", scene.ja4))?;
    }
    Ok(())
}

#[test]
fn it_ends_cleanly_whatever_ends_it() -> Result<()> {
    let scene = Scene::start()?;
    let mut top = scene.top(SIZES[0])?;
    top.wait_for(&scene.ja4)?;
    top.press("\u{3}")?;
    ensure!(top.end()?.code() == Some(0), "Ctrl-C");
    let mut top = scene.top(SIZES[0])?;
    top.wait_for(&scene.ja4)?;
    top.signal(Signal::SIGTERM)?;
    ensure!(top.end()?.code() == Some(0), "SIGTERM");
    let mut piped = scene.lab.server().command(programs::detector()?);
    piped.arg("top").env("DETECTOR_CONTROL_SOCKET", control_socket(&scene.lab)).stdin(Stdio::null());
    let piped = piped.output()?;
    let said = String::from_utf8(piped.stderr)?;
    ensure!(piped.status.code() == Some(64) && said.contains("detector status --format json"), "{said}");
    let mut top = scene.top(SIZES[0])?;
    top.wait_for(&scene.ja4)?;
    scene.daemon.signal(Signal::SIGKILL)?;
    ensure!(top.end()?.code() == Some(69), "a lost daemon: {}", top.text());
    top.wait_for("can't reach the daemon")
}

#[test]
fn the_mask_keeps_all_that_two_runs_share() {
    let text = "detector 0.1.0 (pid 12), up 3s    mode observe\nhellos    0.0/s ▁▂█\nlatency 85 µs\npackets\n\n\
                t13d_a_b  curl   12.3  1,000  block  59s ago  10.80.0.7\n  id      5f3c-2a, 3s ago\n";
    let masked = "detector # (pid #)# up #s mode observe\nhellos #/s ~\nlatency # ms\npackets\n\n\
                  t13d_a_b  curl   ##.#  1,000  block  ##s ago  10.80.0.7\n  id      ID\n";
    assert_eq!(mask(text), masked);
}
