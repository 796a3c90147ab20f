//! How evidence becomes a score and a confidence.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::Timestamp;
use crate::join::Subject;
use crate::report::Report;
use crate::session::Summary;

fn assessed(settings: &Settings, signals: &[Signal], by_id: bool) -> Assessment {
    let report = Report::default();
    let subject = Subject::Forwarded { address: [192, 0, 2, 7].into(), agent: 1, headers: 2 };
    let facts = Facts { by_id, ..Facts::new(Timestamp::default(), &report, &subject) };
    let mut evidence = EvidenceList::default();
    signals.iter().for_each(|signal| evidence.add(settings, *signal, Value::Nothing, Value::Nothing));
    Engine::new(settings.clone()).weigh(&facts, evidence)
}

fn confidence(signals: &[Signal]) -> Confidence {
    assessed(&Settings::default(), signals, false).confidence
}

#[test]
fn evidence_adds_up_to_five_confidences() {
    assert_eq!(confidence(&[Signal::BrowsesLikeAPerson]), Confidence::DefinitelyHuman);
    assert_eq!(confidence(&[]), Confidence::LikelyHuman);
    assert_eq!(confidence(&[Signal::NoAssets, Signal::MissingReferers]), Confidence::Suspicious);
    assert_eq!(confidence(&[Signal::UaTlsMismatch]), Confidence::LikelyBot);
    assert_eq!(confidence(&[Signal::UaTlsMismatch, Signal::HeadersMismatch]), Confidence::DefinitelyBot);
}

#[test]
fn certainty_takes_two_axes() {
    let many = [Signal::UaTlsMismatch, Signal::StaleHello, Signal::NoPostQuantum, Signal::GreaseMismatch];
    assert_eq!(confidence(&many), Confidence::LikelyBot);
    let faint = [&many[..], &[Signal::LanguageMismatch]].concat();
    assert_eq!(confidence(&faint), Confidence::LikelyBot, "an axis must be loud enough");
    assert_eq!(confidence(&[&many[..], &[Signal::UaOsMismatch]].concat()), Confidence::DefinitelyBot);
}

#[test]
fn volume_alone_is_never_more_than_suspicious_where_many_may_be_behind_a_key() {
    let mut settings = Settings::default();
    settings.set_weight(Signal::RequestRate, Some(9.0));
    let volume = [Signal::RequestRate, Signal::PrefixRate, Signal::FingerprintSpread];
    assert_eq!(assessed(&settings, &volume, false).confidence, Confidence::Suspicious);
    assert_eq!(assessed(&settings, &volume, true).confidence, Confidence::DefinitelyBot);
}

#[test]
fn layers_are_capped_switched_off_and_in_the_shadow() {
    let all = [Signal::TrapPath, Signal::RobotsDisobeyed, Signal::RequestRate];
    let on = assessed(&Settings::default(), &all, true);
    let sum = |assessment: &Assessment| assessment.layers[Layer::Behaviour as usize].sum;
    assert_eq!(sum(&on), Some(4.0), "the cap");
    assert_eq!(on.reason(), Some(Signal::TrapPath));
    let mut shadow = Settings::default();
    shadow.set_mode(Layer::Behaviour, Mode::Shadow);
    let shadowed = assessed(&shadow, &all, true);
    assert_eq!((sum(&shadowed), shadowed.evidence.len()), (Some(4.0), 3), "it is told");
    assert_eq!((shadowed.confidence, shadowed.axes.count(), shadowed.reason()), (confidence(&[]), 0, None));
    let mut off = Settings::default();
    off.set_weight(Signal::TrapPath, None);
    assert!(!assessed(&off, &all, true).evidence.has(Signal::TrapPath));
    assert_eq!(on.layers[Layer::Model as usize].sum, None, "it abstains");
}

#[test]
fn what_is_known_settles_it_and_good_wins() {
    let bad = assessed(&Settings::default(), &[Signal::DenyListed, Signal::BrowsesLikeAPerson], false);
    assert_eq!((bad.score, bad.confidence), (1.0, Confidence::DefinitelyBot));
    let good = assessed(&Settings::default(), &[Signal::DenyListed, Signal::VerifiedBot, Signal::TrapPath], false);
    assert_eq!((good.score, good.settled), (0.0, Some(Signal::VerifiedBot)));
    let mut shadow = Settings::default();
    shadow.set_mode(Layer::Reputation, Mode::Shadow);
    assert_eq!(assessed(&shadow, &[Signal::DenyListed], false).settled, None);
}

#[test]
fn credit_is_for_those_who_come_back_to_read() {
    let mut sessions = crate::session::Sessions::new(crate::session::Limits::default());
    let subject = Subject::Forwarded { address: [192, 0, 2, 7].into(), agent: 1, headers: 2 };
    let mut read = |after: u64, referer: bool| -> Summary {
        let now = Timestamp::default().plus(Duration::from_secs(100_000 + after));
        let report = |path: &'static str| Report {
            path: Some(path.into()),
            referer: referer.then(|| "https://shop.test/".into()),
            ..Report::default()
        };
        let key = sessions.key(&subject, &report("/"));
        for path in ["/a", "/a.css", "/a.js", "/b", "/b.png"] {
            let request = sessions.request(&report(path), now, 1);
            sessions.note(key, &request, now);
        }
        sessions.summary(key, now).unwrap()
    };
    let credit = |session: &Summary, signals: &[Signal]| {
        let report = Report::default();
        let facts = Facts { session: Some(session), ..Facts::new(Timestamp::default(), &report, &subject) };
        has_credit(&facts, &assessed(&Settings::default(), signals, false), Duration::from_secs(3600))
    };
    let first = read(0, true);
    assert!(!credit(&first, &[]) && credit(&first, &[Signal::VerifiedBot]));
    read(1800, true);
    assert!(credit(&read(3700, true), &[]));
    let unreferred = (0..20).map(|_| read(3800, false)).last().unwrap();
    assert!(!credit(&unreferred, &[]));
}

proptest! {
    /// Whatever speaks: a score is a share, a confidence fits it, and nobody is certain by one axis.
    #[test]
    fn any_evidence_gives_a_score(which in proptest::collection::vec(0..Signal::ALL.len(), 0..40), by_id: bool) {
        let signals: Vec<Signal> = which.into_iter().map(|index| Signal::ALL[index]).collect();
        let settings = Settings::default();
        let assessment = assessed(&settings, &signals, by_id);
        prop_assert!((0.0..=1.0).contains(&assessment.score));
        prop_assert!(assessment.confidence <= settings.thresholds.confidence(assessment.score));
        let certain = assessment.confidence == Confidence::DefinitelyBot;
        prop_assert!(!certain || assessment.axes.count() >= 2 || assessment.settled.is_some());
        prop_assert!(assessment.evidence.len() <= 32);
    }
}
