//! What a client does, within the last hour. Who polls a page or two (a feed reader, a health check) says nothing here:
//! but for traps, each check takes some variety of paths. What one person alone can do is looked at for each connection,
//! unless the session is one by the site's own id, or each of its requests has a connection of its own.

use super::evidence::{EvidenceList, Value};
use super::facts::Facts;
use super::signal::Signal;
use crate::agent::{Agent, Kind};
use crate::session::{Steps, Summary};

/// What an operator can change of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Pages a minute that a person doesn't read, for a minute or longer.
    pub pages_per_minute: f32,
    /// Pages of a single minute that nobody opens at once.
    pub burst: u32,
    /// Pages, and different paths, from which shares say something.
    pub least_pages: u32,
    /// Pauses from which their regularity does.
    pub intervals: u32,
    /// The variation of pauses below which they are a clock's.
    pub variation: f32,
    /// Steps of one stride in a row.
    pub sequence: u32,
    /// The share of pages without a referer.
    pub unreferred_share: f32,
    /// Path segments of a first page that is deep.
    pub depth: u8,
    /// The share of answers that are errors.
    pub error_share: f32,
    /// Different paths that are many.
    pub paths: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pages_per_minute: 30.0,
            burst: 60,
            least_pages: 5,
            intervals: 10,
            variation: 0.1,
            sequence: 8,
            unreferred_share: 0.8,
            depth: 3,
            error_share: 0.5,
            paths: 100,
        }
    }
}

/// The share of requests for assets below which there are as good as none.
const HARDLY: f32 = 0.05;
/// Pages of which none has assets, from which that says all it can.
const MANY_PAGES: f32 = 10.0;
/// The share of requests for assets from which a client shows pages to somebody.
const SHOWS: f32 = 0.3;
/// The part of a count that remains where all but one of what a person shows is there.
const COUNTED: f32 = 0.25;
/// Requests on each connection below which each has its own.
const SINGLE: f32 = 1.2;
/// How long a pace lasts, in seconds, that isn't the tabs of yesterday.
const KEPT_UP_S: f32 = 30.0;
/// Mean pause below which a browser may be at work that opens the tabs of yesterday.
const TABS_S: f32 = 1.0;
/// Pages on each connection that a crowd doesn't take.
const PAGES_OF_ONE: u32 = 20;
/// Below it pauses are too even for a person.
const UNEVEN: f32 = 0.2;

pub(super) fn assess(facts: &Facts<'_>, settings: &super::Settings, evidence: &mut EvidenceList) {
    let Some(session) = facts.session else { return };
    let bounds = &settings.behaviour;
    forbidden(session, settings, evidence);
    if session.pages() < bounds.least_pages || session.paths < bounds.least_pages {
        return reader(session, bounds, facts, settings, evidence);
    }
    let takes = Takes::of(session, facts);
    pace(session, bounds, takes, facts, settings, evidence);
    pages(session, bounds, takes, settings, evidence);
    breadth(session, bounds, facts, settings, evidence);
    reader(session, bounds, facts, settings, evidence);
}

/// What no page links to, or robots.txt forbids.
fn forbidden(session: &Summary, settings: &super::Settings, evidence: &mut EvidenceList) {
    if session.traps > 0 {
        evidence.add(settings, Signal::TrapPath, Value::Count(session.traps.into()), Value::Count(0));
    }
    if session.disobeyed > 0 {
        evidence.add(settings, Signal::RobotsDisobeyed, Value::Count(session.disobeyed.into()), Value::Count(0));
    }
}

/// How requests follow each other.
fn pace(
    session: &Summary,
    bounds: &Settings,
    takes: Takes,
    facts: &Facts<'_>,
    settings: &super::Settings,
    evidence: &mut EvidenceList,
) {
    let own = own_steps(session, facts);
    let pause = 60.0 / bounds.pages_per_minute;
    let kept_up = own.intervals as f32 * own.interval_mean_s >= KEPT_UP_S;
    let sustained = own.intervals as f32 >= bounds.pages_per_minute && own.interval_mean_s < pause && kept_up;
    if sustained || own.peak_pages > bounds.burst {
        let rate = if sustained { 60.0 / own.interval_mean_s.max(0.001) } else { own.peak_pages as f32 };
        let expected = Value::AtMost(bounds.pages_per_minute);
        evidence.add(settings, Signal::RequestRate, Value::PerMinute(rate), expected);
    }
    // Whoever else sends requests under the same key only hides a clock or a count.
    let each = [session.whole, session.worst_connection];
    let is_clock = |steps: &&Steps| {
        let regular = steps.intervals > bounds.intervals && steps.interval_variation < bounds.variation;
        regular && steps.interval_mean_s >= TABS_S
    };
    if let Some(steps) = each.iter().find(is_clock)
        && session.paths >= bounds.intervals
    {
        let (observed, expected) = (Value::Number(steps.interval_variation), Value::AtLeast(bounds.variation));
        evidence.add(settings, Signal::RegularTiming, observed, expected);
    }
    let sequence = session.whole.sequence.max(session.worst_connection.sequence);
    // People look through numbered pages too.
    let shown = [is_found(session), reads(own, bounds), takes == Takes::PagesAlone || session.asset_share() >= SHOWS];
    let share = match shown.into_iter().filter(|as_people| *as_people).count() {
        3 => 0.0,
        2 => COUNTED,
        _ => 1.0,
    };
    if sequence >= bounds.sequence && share > 0.0 {
        let expected = Value::AtMost(bounds.sequence as f32);
        evidence.add_share(settings, Signal::SequentialPaths, share, Value::Count(sequence.into()), expected);
    }
    let per_connection = session.requests as f32 / session.connections.max(1) as f32;
    if per_connection < SINGLE && session.asset_share() < HARDLY && takes == Takes::AllOfThem {
        let expected = Value::AtLeast(SINGLE);
        evidence.add(settings, Signal::ConnectionPerRequest, Value::Number(per_connection), expected);
    }
}

/// What pages come with.
fn pages(session: &Summary, bounds: &Settings, takes: Takes, settings: &super::Settings, evidence: &mut EvidenceList) {
    let reads_pages = takes == Takes::AllOfThem;
    if session.unreferred_share() > bounds.unreferred_share && !withholds(session) && reads_pages {
        let expected = Value::AtMost(bounds.unreferred_share);
        evidence.add(settings, Signal::MissingReferers, Value::Share(session.unreferred_share()), expected);
    }
    if session.asset_share() < HARDLY && takes != Takes::PagesAlone {
        // A few pages may be plain text, or have all they need from an earlier visit; a style and an icon may do for many.
        let sure = (session.pages() as f32 / MANY_PAGES).min(1.0) * (1.0 - session.asset_share() / HARDLY);
        let observed = Value::Share(session.asset_share());
        evidence.add_share(settings, Signal::NoAssets, sure, observed, Value::AtLeast(HARDLY));
        if let Some(depth) = session.first_page_depth.filter(|depth| *depth >= bounds.depth)
            && !session.first_page_referred
            && reads_pages
        {
            let expected = Value::AtMost(bounds.depth.into());
            evidence.add(settings, Signal::DeepFirstPage, Value::Count(depth.into()), expected);
        }
    }
}

/// How much of the site it asks for, and how much of that is there.
fn breadth(
    session: &Summary,
    bounds: &Settings,
    facts: &Facts<'_>,
    settings: &super::Settings,
    evidence: &mut EvidenceList,
) {
    let answers = session.statuses.iter().fold(0_u32, |sum, count| sum.saturating_add(*count));
    if session.error_share() > bounds.error_share && answers >= bounds.least_pages.saturating_mul(2) {
        let expected = Value::AtMost(bounds.error_share);
        evidence.add(settings, Signal::ErrorRatio, Value::Share(session.error_share()), expected);
    }
    let of_one = facts.by_id
        || is_single(session)
        || session.pages().checked_div(session.connections).is_some_and(|pages| pages >= PAGES_OF_ONE);
    let spread = session.paths as f32 / session.requests.max(1) as f32;
    if session.paths >= bounds.paths && spread > 1.0 - HARDLY * 2.0 && session.asset_share() < HARDLY && of_one {
        let expected = Value::AtMost(bounds.paths as f32);
        evidence.add(settings, Signal::PathSpread, Value::Count(session.paths.into()), expected);
    }
}

/// What speaks for a person.
fn reader(
    session: &Summary,
    bounds: &Settings,
    facts: &Facts<'_>,
    settings: &super::Settings,
    evidence: &mut EvidenceList,
) {
    let own = own_steps(session, facts);
    let uneven = own.intervals <= bounds.intervals || own.interval_variation > UNEVEN;
    if session.pages() >= 3 && session.traps == 0 && uneven && is_shown(session, own, bounds) {
        let (observed, expected) = (Value::Share(session.asset_share()), Value::AtLeast(SHOWS));
        evidence.add(settings, Signal::BrowsesLikeAPerson, observed, expected);
    }
}

/// How requests of one person follow each other, as far as they can be told from those of others.
fn own_steps<'a>(session: &'a Summary, facts: &Facts<'_>) -> &'a Steps {
    if facts.by_id || is_single(session) { &session.whole } else { &session.worst_connection }
}

/// Whether each request has a connection of its own, and none is for what belongs to a page: one program does so.
fn is_single(session: &Summary) -> bool {
    session.requests as f32 / (session.connections.max(1) as f32) < SINGLE && session.asset_share() < HARDLY
}

/// What a client takes of pages, by its own name. It is believed as long as it takes hardly an asset.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// With what belongs to them: it says that it is a browser, a script that gets pages, or nothing.
    AllOfThem,
    /// No pages to look at, perhaps: it has a name of its own, and who knows what it is for.
    Unknown,
    /// Without what belongs to them: a browser in text, an app, a reader of feeds.
    PagesAlone,
}

impl Takes {
    fn of(session: &Summary, facts: &Facts<'_>) -> Self {
        let Some(name) = facts.report.user_agent.as_deref().filter(|_| session.asset_share() < HARDLY) else {
            return Self::AllOfThem;
        };
        let agent = Agent::of(name);
        match agent.kind {
            Kind::App | Kind::Service => Self::PagesAlone,
            Kind::Browser if agent.engine.is_none() => Self::PagesAlone,
            // Whoever begins like this wants to be served as a browser is.
            Kind::Unknown if !name.is_empty() && !name.starts_with("Mozilla/") => Self::Unknown,
            Kind::Browser | Kind::Library | Kind::Tool | Kind::Crawler | Kind::Unknown => Self::AllOfThem,
        }
    }
}

/// A browser, or a site, that withholds where pages are found does so for assets too.
const fn withholds(session: &Summary) -> bool {
    session.assets > 0 && session.referred == 0
}

/// Whether most pages are found on pages, or nobody may know.
fn is_found(session: &Summary) -> bool {
    session.unreferred_share() <= 0.5 || withholds(session)
}

/// Whether pages follow each other no faster than a person reads.
fn reads(own: &Steps, bounds: &Settings) -> bool {
    own.intervals < 2 || own.interval_mean_s >= 60.0 / bounds.pages_per_minute
}

/// Whether pages are shown to somebody, who goes from one to the next at their pace.
fn is_shown(session: &Summary, own: &Steps, bounds: &Settings) -> bool {
    session.asset_share() >= SHOWS && session.unreferred_share() <= 0.5 && reads(own, bounds)
}
