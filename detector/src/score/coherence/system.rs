//! The system that sent the SYN, against the one that the User-Agent names. VPNs carry a client's own SYN; relays,
//! HTTP proxies and what speeds up mobile and satellite links send one of theirs, for people too.

use super::super::evidence::{EvidenceList, Value};
use super::super::settings::Settings;
use super::super::signal::Signal;
use super::Said;
use crate::agent::{Engine, Kind, Os};
use crate::signature::Class;

pub(super) fn assess(said: &Said<'_>, settings: &Settings, evidence: &mut EvidenceList) {
    // A stranger's hello has a stranger's SYN: it is one cue, and may be an interceptor's.
    if said.relayed || said.agent.kind != Kind::Browser || evidence.has(Signal::UaTlsMismatch) {
        return;
    }
    let class = said.identity.and_then(|identity| identity.syn_class).filter(|class| *class != Class::Unknown);
    let (Some(class), Some(os)) = (class, said.agent.os) else { return };
    let own = class_of(os);
    if class == own {
        return;
    }
    // Apple's relay for Safari sends from Linux.
    let relay = said.agent.engine == Some(Engine::WebKit) && class == Class::Linux;
    let share = match class {
        Class::Scanner => 1.0,
        _ if relay => 0.5,
        _ => 0.8,
    };
    evidence.add_share(settings, Signal::UaOsMismatch, share, Value::Word(class.label()), Value::Word(os.label()));
}

const fn class_of(os: Os) -> Class {
    match os {
        Os::Linux | Os::Android | Os::ChromeOs => Class::Linux,
        Os::Windows => Class::Windows,
        Os::Mac | Os::Ios => Class::Apple,
        Os::Bsd => Class::Bsd,
    }
}
