//! `detector reports`: what web servers told last, as it was understood. Bound: a page of the daemon's at a time, and the
//! reports that are to be shown.

use std::collections::VecDeque;
use std::io::Write;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::client::{Client, ControlArgs};
use super::{Exit, Failure, Format, print, printable};
use crate::admin::protocol::{Request, Response, Seen};
use crate::report::KEYS;
use crate::sheet::{self, Sheet};

const EXAMPLES: &str = "\
Examples:
  detector reports                          the last ten
  detector reports --follow --client 192.0.2.7
  detector reports --lines 256 --format json | jq -r '.ja4 + \" \" + .report.ua'

In place of the JA4 of a request's connection stands why it isn't known: the outcomes of
detector_join_reports_total in docs/metrics.md; `waiting`: it may still come, for five
seconds. With --follow a report is shown once that is settled. Keys of a report:
docs/reports.md. Long texts are cut short, sessions shown by their beginning.";

/// Between two questions while following.
const AGAIN: Duration = Duration::from_millis(250);

/// `detector reports`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ReportsArgs {
    /// How many of the last ones
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 10)]
    lines: usize,
    /// Go on with those that come
    #[arg(long, short)]
    follow: bool,
    /// Only those of this client
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// How to print
    #[arg(long, value_enum, value_name = print::CHOICE, hide_possible_values = true, default_value_t)]
    format: Format,
    #[command(flatten)]
    control: ControlArgs,
}

/// Prints them.
///
/// # Errors
/// When the daemon can't be asked.
pub fn run(args: &ReportsArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let mut client = Client::reader(&args.control)?;
    let (mut after, mut last) = (0, VecDeque::new());
    loop {
        let page = args.ask(&mut client, after)?;
        let Some(newest) = page.last() else { break };
        after = newest.number;
        for seen in page.into_iter().filter(|seen| args.wants(seen)) {
            last.push_back(seen);
            if last.len() > args.lines {
                last.pop_front();
            }
        }
    }
    let found = !last.is_empty();
    let mut printer = Printer::new(args.format, &mut *out);
    last.iter().try_for_each(|seen| printer.print(seen))?;
    if args.follow {
        return args.follow(&mut client, after, &mut printer);
    }
    printer.flush()?;
    drop(printer);
    if !found && args.format == Format::Table {
        writeln!(out, "no report has come yet; `detector doctor{}` says what is in the way", args.control.suffix())?;
    }
    Ok(if found { Exit::Done } else { Exit::Negative })
}

impl ReportsArgs {
    /// Prints what comes, until it can't.
    fn follow<W: Write>(&self, client: &mut Client, mut after: u64, out: &mut Printer<W>) -> Result<Exit, Failure> {
        loop {
            out.flush()?;
            let before = after;
            for seen in self.ask(client, after)? {
                after = seen.number;
                if self.wants(&seen) {
                    out.print(&seen)?;
                }
            }
            if after == before {
                thread::sleep(AGAIN);
            }
        }
    }

    /// Some of those after this number. Who follows gets each once, and so when all is known of it.
    fn ask(&self, client: &mut Client, after: u64) -> Result<Vec<Seen>, Failure> {
        match client.ask(&Request::Reports { after })? {
            Response::Reports { reports } if self.follow => {
                Ok(reports.into_iter().take_while(|seen| seen.join.is_some()).collect())
            }
            Response::Reports { reports } => Ok(reports),
            _ => Err(Failure::new(Exit::Failed, "the daemon answers something else; is it of another version?")),
        }
    }

    fn wants(&self, seen: &Seen) -> bool {
        let client = || seen.report.get("ip")?.as_str()?.parse::<IpAddr>().ok();
        self.client.is_none_or(|wanted| client() == Some(wanted.to_canonical()))
    }
}

/// Prints each as it comes.
enum Printer<W: Write> {
    Lines(W),
    Objects(W),
    Sheet(Box<Sheet<W>>),
}

impl<W: Write> Printer<W> {
    /// A sheet has a column for every key that a report may have: what comes isn't known when the first line is written.
    fn new(format: Format, out: W) -> Self {
        let own = ["number", "arrived", "uid", "pid", "join", "ja4"].map(str::to_owned);
        let columns = own.into_iter().chain(KEYS.iter().map(|key| format!("report.{key}")));
        match format {
            Format::Table => Self::Lines(out),
            Format::Json => Self::Objects(out),
            Format::Csv => Self::Sheet(Box::new(Sheet::new(out, columns))),
        }
    }

    fn print(&mut self, seen: &Seen) -> Result<(), Failure> {
        match self {
            Self::Lines(out) => Ok(writeln!(out, "{}", printable::line(&line(seen)))?),
            Self::Objects(out) => print::json(seen, out),
            Self::Sheet(sheet) => {
                let fields = sheet::fields(seen)?.into_iter();
                Ok(sheet.fields(fields.map(|(key, text)| (key, printable::line(&text))).collect())?)
            }
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        match self {
            Self::Lines(out) | Self::Objects(out) => Ok(out.flush()?),
            Self::Sheet(sheet) => Ok(sheet.flush()?),
        }
    }
}

/// When, who, with which hello, what for, with what result, by which program.
fn line(seen: &Seen) -> String {
    let text = |key: &str| match seen.report.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => "-".to_owned(),
    };
    let client = format!("{} {}", text("ip"), text("port"));
    let what = format!("{} {} {}{}", text("status"), text("method"), text("host"), text("path"));
    let hello = seen.ja4.as_ref().or(seen.join.as_ref()).map_or("waiting", String::as_str);
    format!("{} {client:<22} {hello:<36} {what}  {}", seen.arrived, text("ua"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(report: Value) -> Seen {
        let Value::Object(report) = report else { panic!("an object is wanted") };
        Seen {
            number: 1,
            arrived: "2026-11-22T16:00:00.125Z".to_owned(),
            uid: 33,
            pid: None,
            join: None,
            ja4: None,
            report,
        }
    }

    #[test]
    fn a_line_has_no_byte_that_a_terminal_obeys() {
        let report = serde_json::json!({
            "ip": "192.0.2.7", "port": 40_000, "status": 200, "method": "GET", "host": "shop.example", "path": "/\u{1b}[2J\n",
        });
        let mut out = Vec::new();
        Printer::new(Format::Table, &mut out).print(&seen(report)).unwrap();
        let line = String::from_utf8(out).unwrap();
        let (begin, end) =
            ("2026-11-22T16:00:00.125Z 192.0.2.7 40000        waiting ", " 200 GET shop.example/\\u{1b}[2J\\u{a}  -\n");
        assert!(line.starts_with(begin) && line.ends_with(end), "{line}");
    }

    #[test]
    fn a_line_says_which_hello_or_why_none() {
        let shown = |join: &str, ja4: Option<&str>| {
            let mut seen = seen(serde_json::json!({}));
            (seen.join, seen.ja4) = (Some(join.to_owned()), ja4.map(str::to_owned));
            line(&seen)
        };
        assert!(
            shown("joined", Some("t13d1516h2_8daaf6152771_e5627efa2ab1"))
                .contains(" t13d1516h2_8daaf6152771_e5627efa2ab1 ")
        );
        assert!(shown("no_hello", None).contains(" no_hello "));
    }

    #[test]
    fn one_client_is_found_by_its_address() {
        let mut args = ReportsArgs {
            lines: 10,
            follow: false,
            client: Some([192, 0, 2, 7].into()),
            format: Format::Json,
            control: ControlArgs::default(),
        };
        let (its, other) = (serde_json::json!({"ip": "192.0.2.7"}), serde_json::json!({"ip": "192.0.2.70"}));
        assert!(args.wants(&seen(its)) && !args.wants(&seen(other)) && !args.wants(&seen(serde_json::json!({}))));
        args.client = None;
        assert!(args.wants(&seen(serde_json::json!({}))));
    }
}
