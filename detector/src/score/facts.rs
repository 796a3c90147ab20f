//! All that an assessment looks at: plain data and references, gathered by whoever asks.

use crate::clock::Timestamp;
use crate::family::Share;
use crate::join::{Identity, Subject};
use crate::network::View;
use crate::report::Report;
use crate::reputation::Standing;
use crate::session::Summary;

/// What is known of a request and its client.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// When it is asked.
    pub now: Timestamp,
    /// The request.
    pub report: &'a Report<'a>,
    /// Whose it is.
    pub subject: &'a Subject,
    /// What its connection's hello said; `None` behind a proxy, and if none was seen.
    pub identity: Option<&'a Identity>,
    /// What the client did within the last hour, this request included.
    pub session: Option<&'a Summary>,
    /// That is one session of the site's own; else many people may be behind it.
    pub by_id: bool,
    /// What its networks and its fingerprint do.
    pub network: Option<&'a View>,
    /// What is known of its address.
    pub standing: Option<&'a Standing>,
    /// How many share its browser's characteristics.
    pub share: Option<Share>,
}

impl<'a> Facts<'a> {
    /// A request of which nothing else is known.
    #[must_use]
    pub const fn new(now: Timestamp, report: &'a Report<'a>, subject: &'a Subject) -> Self {
        Self {
            now,
            report,
            subject,
            identity: None,
            session: None,
            by_id: false,
            network: None,
            standing: None,
            share: None,
        }
    }
}
