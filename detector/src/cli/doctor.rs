//! `detector doctor`: what is in the way, and what to type about it. In: this host, the configuration, and the daemon's
//! status, if one answers. Out: a line for each thing that was looked at, with what to type below it.

mod configured;
mod finding;
mod host;
mod interfaces;
mod joined;
mod losses;
mod pins;
mod reports;
mod snippets;
mod sockets;

use std::io::Write;
use std::path::{Path, PathBuf};

use self::finding::{Finding, State, problem, well};
use super::attach::PinsArgs;
use super::client::{Client, ControlArgs};
use super::config::running;
use super::print::{self, Format};
use super::{Exit, Failure, colour, figures, printable};
use crate::admin::protocol::{Request, Response, Status};
use crate::config::{Config, Loaded, Overrides};

const EXAMPLES: &str = "\
Looks at kernel, interfaces, offloads, configuration, daemon, sockets, pins, losses
and web servers. Without a daemon it looks at the rest. As root it sees most.

Examples:
  detector doctor
  detector doctor --config /etc/detector/test.toml
  detector doctor --format json | jq -r 'select(.state != \"ok\") | .help'

Exit codes: 0 no problem (warnings are none), 1 problems";

/// `detector doctor`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// The configuration [default: /etc/detector/detector.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "DETECTOR_CONFIG", hide_env = true)]
    config: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, value_name = print::CHOICE, hide_possible_values = true, default_value_t)]
    format: Format,
    #[command(flatten)]
    pins: PinsArgs,
    #[command(flatten)]
    control: ControlArgs,
}

/// Looks at everything.
///
/// # Errors
/// When nothing can be printed.
pub fn run(args: &DoctorArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let findings = look(args);
    match args.format {
        Format::Table => table(&findings, colour::wanted(), out)?,
        format => print::rows(&findings, &["check", "state", "what", "help"], format, out)?,
    }
    let ill = findings.iter().any(|finding| finding.state == State::Problem);
    Ok(if ill { Exit::Failed } else { Exit::Done })
}

fn look(args: &DoctorArgs) -> Vec<Finding> {
    let overrides = Overrides {
        file: args.config.clone(),
        control_socket: args.control.control_socket.clone(),
        pins: args.pins.pins.clone(),
        ..Overrides::default()
    };
    let loaded = Loaded::read(&overrides);
    let asked = status(&args.control);
    let status = asked.as_deref().ok();
    let mut findings = host::look(status.is_some());
    // Of a daemon that is there; what else is wrong with it is told by its own line.
    let settings = status.and_then(|_| running(&mut Client::reader(&args.control).ok()?).ok());
    findings.push(configured::file(&loaded, settings.as_ref()));
    // What the file can't say, the defaults do.
    let config = loaded.map_or_else(|_| Config::default(), |loaded| loaded.config);
    findings.push(daemon(&asked));
    findings.extend(interfaces::look(&config, status));
    findings.push(pins::look(&config.admin.pins, status));
    findings.extend(sockets::look(&config, &args.control.path(), status));
    if let Some(status) = status {
        findings.extend(losses::look(status));
    }
    findings.extend(reports::look(&config, status.map(|status| &status.signals)));
    findings.extend(snippets::look(Path::new("/")));
    findings
}

fn status(control: &ControlArgs) -> Result<Box<Status>, Failure> {
    match Client::reader(control)?.ask(&Request::Status)? {
        Response::Status(status) => Ok(status),
        _ => Err(Failure::new(Exit::Failed, "the daemon answers something else\nis it of another version? restart it")),
    }
}

fn daemon(asked: &Result<Box<Status>, Failure>) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    match asked {
        Ok(status) if status.version != own => finding::warning(
            "daemon",
            format!(
                "the daemon is detector {}, this is {own}: it may not understand all that is asked",
                status.version
            ),
            "systemctl restart detector",
        ),
        Ok(status) => {
            let up = figures::seconds(status.uptime_s);
            well("daemon", format!("detector {own} (pid {}) has been running for {up}", status.pid))
        }
        Err(failure) => {
            let mut lines = failure.message.lines().map(str::to_owned);
            let what = lines.next().unwrap_or_default();
            problem(
                "daemon",
                format!("{what}; what only it knows is left out here"),
                lines.collect::<Vec<_>>().join("; "),
            )
        }
    }
}

/// The widest word of a state, and of a check.
const WIDTHS: (usize, usize) = (7, 10);

fn table(findings: &[Finding], coloured: bool, out: &mut impl Write) -> Result<(), Failure> {
    let (state, check) = WIDTHS;
    let indent = " ".repeat(state + check + 2);
    for finding in findings {
        let word = format!("{:<state$}", finding.state.label());
        let word = match finding.state {
            _ if !coloured => word,
            State::Ok => colour::paint(colour::GREEN, &word),
            State::Warning => colour::paint(colour::YELLOW, &word),
            State::Problem => colour::paint(colour::RED, &word),
        };
        writeln!(out, "{word} {:<check$} {}", finding.check, printable::line(&finding.what))?;
        if let Some(help) = &finding.help {
            writeln!(out, "{indent}{}", printable::line(help))?;
        }
    }
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let sum = match (count(State::Problem), count(State::Warning)) {
        (0, 0) => "all is well".to_owned(),
        (0, warnings) => format!("no problem, {warnings} to know of"),
        (problems, warnings) => format!("{problems} to mend, {warnings} to know of"),
    };
    Ok(writeln!(out, "\n{sum}")?)
}

#[cfg(test)]
mod tests {
    use super::finding::warning;
    use super::*;

    #[test]
    fn each_finding_stands_on_a_line_with_what_to_type_below() {
        let findings = [well("kernel", "fine"), warning("offloads", "eth0 merges\u{1b}", "ethtool -K eth0 lro off")];
        let mut out = Vec::new();
        table(&findings, false, &mut out).unwrap();
        let expected = "\
ok      kernel     fine
warning offloads   eth0 merges\\u{1b}
                   ethtool -K eth0 lro off

no problem, 1 to know of
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        table(&findings, true, &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("\u{1b}["));
    }

    #[test]
    fn a_daemon_that_is_not_there_is_a_problem_with_what_to_do() {
        let failure = Failure::new(Exit::Unavailable, "can't reach it\nis it running? start it with `detector run`");
        let found = daemon(&Err(failure));
        assert_eq!(found.state, State::Problem);
        assert_eq!(found.help.as_deref(), Some("is it running? start it with `detector run`"));
        let other = Status { version: "0.0.1".to_owned(), ..Status::default() };
        assert_eq!(daemon(&Ok(Box::new(other))).state, State::Warning);
    }
}
