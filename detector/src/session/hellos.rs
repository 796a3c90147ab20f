//! The hellos of a session's connections: whether their extensions come in one order always, whether one resumes another.

use super::request::Request;
use crate::clock::Timestamp;

/// What the hellos of a client's connections have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hellos {
    /// Connections whose hello was seen.
    pub connections: u32,
    /// Those among them, the first included, whose extensions stood in the first one's order.
    pub in_first_order: u32,
    /// Those that resumed a session.
    pub resumed: u32,
}

/// The hellos so far, in constant space.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Followed {
    hellos: Hellos,
    first_order: u64,
    /// When the latest came: each counts once, however many connections there are at a time.
    latest: Option<Timestamp>,
}

impl Followed {
    pub(super) fn note(&mut self, request: &Request) {
        let Some(hello) = request.hello.filter(|hello| Some(hello.at) > self.latest) else { return };
        self.latest = Some(hello.at);
        if self.hellos.connections == 0 {
            self.first_order = hello.order;
        }
        let Hellos { connections, in_first_order, resumed } = &mut self.hellos;
        *connections = connections.saturating_add(1);
        *in_first_order = in_first_order.saturating_add(u32::from(hello.order == self.first_order));
        *resumed = resumed.saturating_add(u32::from(hello.resumes));
    }

    pub(super) const fn hellos(&self) -> Hellos {
        self.hellos
    }
}
