//! What a daemon leaves to the next one where verdicts are pinned: which automatic verdicts stand in the kernel, and why
//! they were decided. A file in the state directory, one JSON line for each, written every ten seconds and at the end, and
//! read by whoever starts within the same boot of the host. A daemon that is killed loses ten seconds of it: those verdicts
//! end, and come again with their clients' next requests.
//!
//! Memory while it is written: some 150 bytes a verdict, and 2 KiB for each of [`DECISIONS`].

use std::fs::{self, File, OpenOptions};
use std::hash::Hasher as _;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::Error;
use super::assessor::Assessor;
use super::engine::Handle;
use super::every::Every;
use super::memory::Decided;
use crate::clock::{Timestamp, monotonic};
use crate::enforce::handover::Handed;
use crate::enforce::store::boot;
use crate::telemetry::logs::Limited;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(10);
/// The latest decisions that are kept with what they rest on: `explain` knows no more of the others than that they hold.
const DECISIONS: usize = 4096;
/// Of the lines; another one is not read.
const VERSION: u32 = 1;
/// The most bytes that are read, and of a line.
const FILE_MAX: u64 = 1 << 28;
const LINE_MAX: u64 = 64 * 1024;

/// A disk may refuse for long.
static FAILURES: Limited = Limited::per_minute(1);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The first.
    Handover {
        version: u32,
        /// Of the host: with another one nothing is pinned any more, and CLOCK_MONOTONIC begins anew.
        boot: String,
    },
    Verdict(Handed),
    Decision(Box<Decided>),
}

/// What an earlier daemon left.
#[derive(Default)]
pub(super) struct Left {
    pub(super) verdicts: Vec<Handed>,
    /// The latest first.
    pub(super) decisions: Vec<Decided>,
}

/// Reads it. Of what can't be read there is a line in the log; that is as if it weren't there.
pub(super) fn read(directory: &Path, now: Timestamp) -> Left {
    let file = path(directory);
    let lines = match File::open(&file) {
        Ok(file) => BufReader::new(file.take(FILE_MAX)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Left::default(),
        Err(error) => {
            warn!(%error, file = %file.display(), "what an earlier daemon left can't be read");
            return Left::default();
        }
    };
    let (left, damaged) = parse(lines, &boot(), now);
    if damaged > 0 {
        warn!(damaged, file = %file.display(), "not all that an earlier daemon left can be read");
    }
    left
}

/// What the lines say, and how many say nothing.
fn parse(mut lines: impl io::BufRead, boot: &str, now: Timestamp) -> (Left, usize) {
    let (mut left, mut damaged, mut line) = (Left::default(), 0, Vec::new());
    let mut is_ours = false;
    loop {
        line.clear();
        match lines.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) => return (left, damaged),
            Ok(_) => {}
            Err(_) => return (left, damaged + 1),
        }
        match serde_json::from_slice(&line) {
            Ok(Line::Handover { version, boot: its }) if !is_ours => {
                if version != VERSION || its != boot {
                    return (left, damaged);
                }
                is_ours = true;
            }
            Ok(Line::Verdict(verdict)) if is_ours => left.verdicts.push(verdict),
            Ok(Line::Decision(decided)) if is_ours && left.decisions.len() < DECISIONS => {
                if now < decided.until {
                    left.decisions.push(*decided);
                }
            }
            _ => damaged += 1,
        }
    }
}

/// The lines.
fn written(verdicts: Vec<Handed>, decisions: Vec<Decided>, boot: String) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let first = Line::Handover { version: VERSION, boot };
    let verdicts = verdicts.into_iter().map(Line::Verdict);
    let decisions = decisions.into_iter().map(|decided| Line::Decision(Box::new(decided)));
    for line in [first].into_iter().chain(verdicts).chain(decisions) {
        serde_json::to_writer(&mut text, &line)?;
        text.push(b'\n');
    }
    Ok(text)
}

fn path(directory: &Path) -> PathBuf {
    directory.join("handover")
}

/// A whole file or the old one. Not forced to the disk: after a crash of the host nobody reads it.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = file.with_extension("new");
    OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&draft)?.write_all(bytes)?;
    fs::rename(&draft, file)
}

/// Starts the thread that writes it.
pub(super) fn start(directory: &Path, engine: Handle, assessor: Arc<Assessor>) -> Result<Every, Error> {
    let (file, boot, mut before) = (path(directory), boot(), None);
    Every::start("handover", EVERY, move || {
        let saved = save(&file, &boot, &engine, &assessor, &mut before);
        if let Err(error) = saved
            && let Some(suppressed) = FAILURES.admit(monotonic())
        {
            let file = file.display();
            warn!(%error, %file, suppressed, "what is in force automatically would end with the next restart");
        }
    })
}

/// Writes what there is, unless it is what was written `before`, of which that is a hash.
fn save(file: &Path, boot: &str, engine: &Handle, assessor: &Assessor, before: &mut Option<u64>) -> io::Result<()> {
    let Some(verdicts) = engine.automatics() else { return Err(io::ErrorKind::TimedOut.into()) };
    let bytes = written(verdicts, assessor.decided(DECISIONS), boot.to_owned())?;
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(&bytes);
    let now = Some(hasher.finish());
    if *before != now {
        replace(file, &bytes)?;
        *before = now;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;

    use super::super::wanted::Target;
    use super::*;
    use crate::inline::Id;
    use crate::join::Reach;
    use crate::kernel::Slot;
    use crate::policy::decide::{Action, Decision, Unit};
    use crate::score::{
        Assessment, Axes, Axis, Confidence, Evidence, EvidenceList, Layer, LayerScore, Mode, Signal, Value,
    };

    fn decided(seconds: u64) -> Decided {
        let ja4 = "t13d1516h2_8daaf6152771_d8a2da3f94cd".parse().unwrap();
        let unit: IpNet = "192.0.2.7/32".parse().unwrap();
        let evidence = vec![
            Evidence {
                signal: Signal::UaTlsMismatch,
                weight: 4.5,
                observed: Value::Word("go"),
                expected: Value::Version("Chrome", 156),
            },
            Evidence { signal: Signal::Crowd, weight: -1.5, observed: Value::Count(9), expected: Value::AtMost(0.1) },
        ];
        let assessment = Assessment {
            score: 0.98,
            confidence: Confidence::DefinitelyBot,
            axes: Axes::default().with(Axis::Tls).with(Axis::Http),
            settled: None,
            layers: Layer::ALL.map(|layer| LayerScore { layer, mode: Mode::On, sum: Some(0.25) }),
            evidence: EvidenceList::from(evidence),
        };
        let at = Timestamp::default();
        Decided {
            id: Id { daemon: 7, number: 9 },
            decision: Decision {
                action: Action::Block,
                ttl: Duration::from_secs(3600),
                unit: Unit::Pair(unit, ja4),
                reach: Reach::Packets,
                reason: Some(Signal::UaTlsMismatch),
                axes: assessment.axes,
            },
            until: at.plus(Duration::from_secs(seconds)),
            target: Target { unit, key: u64::MAX - 5, ja4 },
            assessment: Arc::new(assessment),
            at,
            address: unit.addr(),
            ja4: Some(ja4),
            asn: Some(64_496),
            country: None,
        }
    }

    fn slots() -> Vec<Handed> {
        let ja4 = Some("t13d1516h2_8daaf6152771_d8a2da3f94cd".parse().unwrap());
        let pair = Handed { slot: Slot::StablePair("2001:db8::/64".parse().unwrap(), u64::MAX), rate: None, ja4 };
        let rate = Some("10/s:50".parse().unwrap());
        vec![pair, Handed { slot: Slot::Address([192, 0, 2, 1].into()), rate, ja4: None }]
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = written(slots(), vec![decided(50), decided(9)], "this".to_owned()).unwrap();
        let (left, damaged) = parse(&bytes[..], "this", Timestamp::default().plus(Duration::from_secs(10)));
        assert_eq!((left.verdicts, damaged), (slots(), 0));
        let [read] = &left.decisions[..] else { panic!("the other one has ended") };
        let wrote = decided(50);
        assert_eq!(format!("{read:?}"), format!("{wrote:?}"));
        assert_eq!(read.assessment, wrote.assessment);
    }

    #[test]
    fn of_another_boot_nothing_is_read() {
        let bytes = written(slots(), vec![decided(50)], "that".to_owned()).unwrap();
        let (left, damaged) = parse(&bytes[..], "this", Timestamp::default());
        assert!(left.verdicts.is_empty() && left.decisions.is_empty());
        assert_eq!(damaged, 0);
    }

    #[test]
    fn a_damaged_line_costs_itself_alone() {
        let bytes = written(slots(), vec![decided(50)], "this".to_owned()).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for damaged in 1..lines.len() {
            for cut in (1..lines[damaged].len()).step_by(7) {
                let mut lines = lines.clone();
                lines[damaged] = &lines[damaged][..cut];
                let (left, bad) = parse(lines.join("\n").as_bytes(), "this", Timestamp::default());
                assert_eq!((left.verdicts.len() + left.decisions.len(), bad), (2, 1), "{damaged} {cut}");
            }
        }
        // Without its first line nobody knows of which boot it is.
        let (left, bad) = parse(lines[1..].join("\n").as_bytes(), "this", Timestamp::default());
        assert_eq!((left.verdicts.len() + left.decisions.len(), bad), (0, 3));
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        assert!(read(directory.path(), Timestamp::default()).verdicts.is_empty());
        for count in [2, 1] {
            let verdicts = slots().into_iter().take(count).collect();
            replace(&path(directory.path()), &written(verdicts, Vec::new(), boot()).unwrap()).unwrap();
            assert_eq!(read(directory.path(), Timestamp::default()).verdicts.len(), count);
        }
    }
}
