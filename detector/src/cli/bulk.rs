//! `--from FILE`: a list of subjects in, one load of them out. A line is a subject and, if it is to hold for another time
//! than the rest, that; `#` begins a comment. Bound: 256 MiB of text, held while it is loaded.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write};
use std::path::Path;
use std::time::Duration;

use super::client::{Client, ControlArgs};
use super::{Exit, Failure, figures, printable};
use crate::admin::protocol::{Care, Change, FRAME_MAX, Item, List, Load, Loaded, Request, Response};
use crate::policy::subject::Subject;
use crate::policy::ttl::Ttl;

const TEXT_MAX: u64 = 256 << 20;
/// Of a frame, for what isn't items.
const FRAME_ROOM: usize = 1024;
/// The last frame is answered when all of the load is in force and on the disk.
const LOAD_DEADLINE: Duration = Duration::from_secs(60);
/// Wrong lines that are told.
const TOLD: usize = 2;

/// What to load, and how.
pub(super) struct Bulk<'a> {
    /// `-` is standard input.
    pub(super) from: &'a Path,
    pub(super) list: List,
    pub(super) ttl: Ttl,
    pub(super) care: Care,
    pub(super) skip_bad: bool,
}

/// Loads.
pub(super) fn load(bulk: Bulk<'_>, control: &ControlArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let name = bulk.from.display();
    let (items, wrong) = parse(&read(bulk.from)?, bulk.list);
    if !bulk.skip_bad && !wrong.is_empty() {
        let mut told: Vec<String> = wrong.iter().take(TOLD).map(|line| format!("{name}:{line}")).collect();
        let count = figures::count(wrong.len() as u64);
        told.push(format!("{count} wrong lines; nothing was changed. `--skip-bad` leaves them out"));
        return Err(Failure::new(
            Exit::Usage,
            told.iter().map(|line| printable::line(line)).collect::<Vec<_>>().join("\n"),
        ));
    }
    if items.is_empty() {
        return Err(Failure::new(Exit::Negative, format!("`{name}` names nothing to {}", bulk.list.verb())));
    }
    let mut client = Client::connect(control)?;
    client.patience(LOAD_DEADLINE)?;
    let loaded = send(&mut client, bulk, items)?;
    write!(out, "{}", printable::lines(&describe(&loaded, &wrong, &control.suffix())))?;
    Ok(Exit::Done)
}

fn read(from: &Path) -> Result<String, Failure> {
    let name = from.display();
    let fail = |error: io::Error| Failure::new(Exit::Usage, format!("can't read `{name}`: {error}"));
    let mut text = String::new();
    let length = if from == Path::new("-") {
        io::stdin().lock().take(TEXT_MAX + 1).read_to_string(&mut text).map_err(fail)?
    } else {
        File::open(from).map_err(fail)?.take(TEXT_MAX + 1).read_to_string(&mut text).map_err(fail)?
    };
    if length as u64 > TEXT_MAX {
        return Err(Failure::new(Exit::Usage, format!("`{name}` is longer than 256 MiB; load it in parts")));
    }
    Ok(text)
}

/// The items, and for each line that is none its number and why.
fn parse(text: &str, list: List) -> (Vec<Item>, Vec<String>) {
    let (mut items, mut wrong) = (Vec::new(), Vec::new());
    for (line, text) in (1_u32..).zip(text.lines()) {
        let mut words = text.split('#').next().unwrap_or_default().split_whitespace();
        let Some(word) = words.next() else { continue };
        match item(word, words.next(), words.next(), list) {
            Ok((subject, ttl)) => items.push(Item { subject, ttl, line }),
            Err(reason) => wrong.push(format!("{line}: {reason}")),
        }
    }
    (items, wrong)
}

fn item(word: &str, ttl: Option<&str>, more: Option<&str>, list: List) -> Result<(Subject, Option<Ttl>), String> {
    let subject: Subject = word.parse().map_err(|error: crate::policy::subject::SubjectError| error.to_string())?;
    if list == List::Allow && subject.as_ja4().is_some() {
        return Err("the allow list holds addresses and prefixes, not JA4 values".to_owned());
    }
    let ttl: Option<Ttl> =
        ttl.map(str::parse).transpose().map_err(|error: crate::policy::ttl::TtlError| error.to_string())?;
    match more {
        Some(more) => Err(format!("`{more}` is one word too many; a line is a subject and a time to live")),
        None => Ok((subject, ttl)),
    }
}

fn send(client: &mut Client, bulk: Bulk<'_>, items: Vec<Item>) -> Result<Loaded, Failure> {
    let total = items.len();
    let progress = io::stderr().is_terminal();
    let (mut sent, mut items) = (0, items.into_iter().peekable());
    loop {
        let (mut frame, mut bytes) = (Vec::new(), FRAME_ROOM);
        while let Some(item) = items.peek() {
            // Text and numbers: serde_json has no reason to fail.
            bytes += serde_json::to_vec(item).map_or(0, |json| json.len() + 1);
            if bytes >= FRAME_MAX {
                break;
            }
            frame.extend(items.next());
        }
        sent += frame.len();
        let (care, more) = (bulk.care.clone(), items.peek().is_some());
        let load = Load { list: bulk.list, ttl: bulk.ttl, care, skip: bulk.skip_bad, total, items: frame, more };
        let answer = client.ask(&Request::Load(Box::new(load)))?;
        if progress {
            let end = if more { "\r" } else { "\n" };
            // When stderr is gone there is nobody left to tell.
            let _ =
                write!(io::stderr(), "{} of {} sent{end}", figures::count(sent as u64), figures::count(total as u64));
        }
        match answer {
            Response::Held { entries } if more && entries == sent => {}
            Response::Loaded(loaded) if !more => return Ok(loaded),
            _ => {
                let what = "the daemon answers something else; is it of another version?";
                return Err(Failure::new(Exit::Failed, what));
            }
        }
    }
}

/// How many, how to undo it, what was left out, a note if there is one.
fn describe(loaded: &Loaded, wrong: &[String], suffix: &str) -> String {
    let Loaded { action, entries, new, skipped, skipped_total, note } = loaded;
    let count = |number: usize| figures::count(number as u64);
    let (done, undo) = match action {
        Change::Allowed | Change::Unallowed => ("allowed", "unallow"),
        _ => ("blocked", "unblock"),
    };
    let mut text = format!("{done} {} entries, {} of them new\n", count(*entries), count(*new));
    text.push_str(&format!("undo: detector {undo} SUBJECT{suffix}, for each\n"));
    let left_out = wrong.len() + skipped_total;
    if left_out > 0 {
        let told: Vec<&str> =
            wrong.iter().map(String::as_str).chain(skipped.iter().map(String::as_str)).take(TOLD).collect();
        text.push_str(&format!("left out: {} lines: {}\n", count(left_out), told.join("; ")));
    }
    if let Some(note) = note {
        text.push_str(&format!("note: {note}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_subjects_times_and_comments() {
        let text = "# feed\n192.0.2.7\n\n 2001:db8::/32  2h # theirs\nt13d0205h2_1301,1302_000a,000d,002b_0403,0804\n";
        let (items, wrong) = parse(text, List::Block);
        let read: Vec<(u32, String, Option<u64>)> = items
            .into_iter()
            .map(|item| (item.line, item.subject.short().to_string(), item.ttl.and_then(Ttl::as_secs)))
            .collect();
        assert_eq!(
            read,
            [
                (2, "192.0.2.7".to_owned(), None),
                (4, "2001:db8::/32".to_owned(), Some(7200)),
                (5, "t13d0205h2_62ed6f6ca7ad_fbabbea27ee8".to_owned(), None)
            ]
        );
        assert_eq!(wrong, Vec::<String>::new());
    }

    #[test]
    fn wrong_lines_are_told_by_number() {
        let text = "10.0.0.256\n192.0.2.1 soon\n192.0.2.1 1h 2h\nt13d1516h2_8daaf6152771_e5627efa2ab1\n";
        let (items, wrong) = parse(text, List::Allow);
        assert!(items.is_empty());
        let begins: Vec<&str> = wrong.iter().filter_map(|line| line.split(':').next()).collect();
        assert_eq!(begins, ["1", "2", "3", "4"]);
        assert!(wrong[0].contains("`256` is over 255") && wrong[2].contains("one word too many"));
    }
}
