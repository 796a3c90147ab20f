//! `detector list`: what is blocked and allowed. Bound: a table and a sheet hold all entries; JSON holds a page.

use std::io::Write;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::client::{Client, ControlArgs};
use super::print::{self, json};
use super::{Exit, Failure, Format, figures, printable};
use crate::admin::protocol::{Entry, Request, Response};
use crate::policy::terms::Layer;

const EXAMPLES: &str = "\
Examples:
  detector list
  detector list --format json
  detector list --format json | jq -r 'select(.action == \"block\") | .subject'";

/// Of an entry, also those which it may lack.
const COLUMNS: &[&str] = &["action", "at", "subject", "ja4_r", "until", "expires_in_s", "hits", "origin"];

/// `detector list`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ListArgs {
    /// How to print
    #[arg(long, value_enum, value_name = print::CHOICE, hide_possible_values = true, default_value_t)]
    format: Format,
    #[command(flatten)]
    control: ControlArgs,
}

/// Prints every entry.
///
/// # Errors
/// When the daemon can't be asked.
pub fn run(args: &ListArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let mut client = Client::reader(&args.control)?;
    let (mut skip, mut all) = (0, Vec::new());
    loop {
        let Response::Entries { entries, total } = client.ask(&Request::List { skip })? else {
            return Err(Failure::new(Exit::Failed, "the daemon answers something else; is it of another version?"));
        };
        skip += entries.len();
        let last = entries.is_empty() || skip >= total;
        match args.format {
            Format::Table | Format::Csv => all.extend(entries),
            Format::Json => entries.iter().try_for_each(|entry| json(entry, out))?,
        }
        if last {
            break;
        }
    }
    match args.format {
        Format::Table if all.is_empty() => writeln!(
            out,
            "nothing is blocked or allowed\nblock an address: detector block ADDRESS{}",
            args.control.suffix()
        )?,
        Format::Table => writeln!(out, "{}", table(&all))?,
        Format::Json => {}
        Format::Csv => print::rows(&all, COLUMNS, Format::Csv, out)?,
    }
    Ok(Exit::Done)
}

/// A table without lines or colour, each column as wide as its widest cell.
pub(super) fn bare_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

fn table(entries: &[Entry]) -> String {
    let mut table = bare_table(["ACTION", "SUBJECT", "UNTIL", "LEFT", "HITS", "ORIGIN"]);
    if let Some(hits) = table.column_mut(4) {
        hits.set_cell_alignment(CellAlignment::Right);
    }
    for entry in entries {
        let word = |value: serde_json::Result<serde_json::Value>| {
            value.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
        };
        let action = word(serde_json::to_value(entry.action));
        table.add_row([
            if entry.at == Layer::Inline { format!("{action} inline") } else { action },
            printable::line(&entry.subject.to_string()),
            printable::line(&entry.until),
            entry.expires_in_s.map(figures::seconds).unwrap_or_default(),
            figures::count(entry.hits),
            word(serde_json::to_value(entry.origin)),
        ]);
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::admin::control::{Access, Handler, Peer, serve};
    use crate::admin::protocol::{Action, Origin, PAGE};
    use crate::door::socket::{CONTROL, Socket};
    use crate::policy::subject::Subject;
    use crate::telemetry::counters::Count;

    /// A daemon with this many entries.
    struct Full(u32);

    impl Handler for Full {
        fn handle(&self, request: Request, _: Peer) -> Response {
            let Request::List { skip } = request else { return Response::NotFound };
            let entry = |number: u32| Entry {
                action: Action::Block,
                at: Layer::Packets,
                subject: Subject::Address(std::net::Ipv4Addr::from(number).into()),
                until: "forever".to_owned(),
                ja4_r: None,
                expires_in_s: None,
                hits: 0,
                origin: Origin::Rule,
            };
            let page = (0..self.0).skip(skip).take(PAGE).map(entry);
            Response::Entries { entries: page.collect(), total: self.0 as usize }
        }
    }

    #[test]
    fn every_page_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let control = Socket::listener(CONTROL, &path, "no-such-group").unwrap();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let server = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let ended = [("done", Count::default()), ("slow", Count::default())].into_iter().collect();
            runtime.block_on(serve((control, Access::Write), Arc::new(Full(600)), ended, stop)).unwrap();
        });
        let args = |format| ListArgs { format, control: ControlArgs { control_socket: Some(path.clone()) } };
        let mut out = Vec::new();
        assert_eq!(run(&args(Format::Json), &mut out), Ok(Exit::Done));
        let lines: Vec<Entry> =
            out.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let number = |index: u32| Subject::Address(std::net::Ipv4Addr::from(index).into());
        assert_eq!(
            lines.into_iter().map(|entry| entry.subject).collect::<Vec<_>>(),
            (0..600).map(number).collect::<Vec<_>>()
        );
        out.clear();
        assert_eq!(run(&args(Format::Table), &mut out), Ok(Exit::Done));
        assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), 601);
        shutdown.cancel();
        server.join().unwrap();
    }

    #[test]
    fn columns_are_aligned() {
        let entry = |subject: &str, action, expires_in_s: Option<u64>, hits| Entry {
            action,
            at: if hits > 0 { Layer::Packets } else { Layer::Inline },
            subject: subject.parse().unwrap(),
            ja4_r: None,
            until: expires_in_s.map_or("forever", |_| "2026-11-22T04:23:11Z").to_owned(),
            expires_in_s,
            hits,
            origin: Origin::Operator,
        };
        let entries =
            [entry("192.0.2.7", Action::Block, Some(3543), 1_234_567), entry("2001:db8::/32", Action::Block, None, 0)];
        let expected = "\
ACTION        SUBJECT        UNTIL                 LEFT         HITS  ORIGIN
block         192.0.2.7      2026-11-22T04:23:11Z  59m 3s  1,234,567  operator
block inline  2001:db8::/32  forever                               0  operator";
        assert_eq!(table(&entries), expected);
    }
}
