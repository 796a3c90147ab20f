//! Whether hello, SYN and headers are of one client: each checked against what the User-Agent says, by the catalogue of
//! families. What the catalogue doesn't know abstains: a browser, or a version of one, that nobody recorded is nobody's
//! fault. Where something stands between client and server, and opens connections of its own, hello and SYN are that
//! one's.

mod headers;
mod hello;
mod language;
mod names;
mod system;
mod traits;

use names::Names;

use super::evidence::EvidenceList;
use super::facts::Facts;
use super::settings::Settings;
use crate::agent::{Agent, Hints, Kind, Os};
use crate::join::{Identity, Reach, Subject};

/// What a request says of its client, read once.
struct Said<'a> {
    agent: Agent,
    hints: Hints,
    names: Option<Names<'a>>,
    /// What the hello said, where it says something about who sent the request.
    identity: Option<&'a Identity>,
    /// Its packets may be a proxy's.
    relayed: bool,
}

impl<'a> Said<'a> {
    fn of(facts: &Facts<'a>) -> Self {
        let report = facts.report;
        let hints = [&report.client_hints, &report.client_hints_mobile, &report.client_hints_platform];
        let [brands, mobile, platform] = hints.map(|hint| hint.as_deref());
        let names = report.header_names.as_deref().and_then(Names::of);
        Self {
            agent: report.user_agent.as_deref().map_or(Agent::UNKNOWN, Agent::of),
            hints: Hints::of(brands, mobile, platform),
            names,
            identity: facts.identity.filter(|identity| !identity.void && facts.subject.reach() == Reach::Packets),
            relayed: matches!(facts.subject, Subject::Forwarded { .. }) || names.is_some_and(Names::tell_of_proxy),
        }
    }

    /// Whether it says it is a browser on a desk; phones get some things later.
    fn is_on_desk(&self) -> bool {
        let desks = [Os::Windows, Os::Mac, Os::Linux, Os::ChromeOs];
        !self.agent.mobile && self.agent.os.is_some_and(|os| desks.contains(&os))
    }

    /// Whether it says it is a library or a tool.
    fn is_script(&self) -> bool {
        matches!(self.agent.kind, Kind::Library | Kind::Tool)
    }
}

pub(super) fn assess(facts: &Facts<'_>, settings: &Settings, evidence: &mut EvidenceList) {
    let said = Said::of(facts);
    hello::assess(facts, &said, settings, evidence);
    system::assess(&said, settings, evidence);
    headers::assess(facts, &said, settings, evidence);
    language::assess(facts, &said, settings, evidence);
}
