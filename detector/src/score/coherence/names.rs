//! The names of a request's headers, in the order in which they came, as a report has them.

/// The names, with commas between.
#[derive(Clone, Copy)]
pub(super) struct Names<'a>(&'a str);

/// Bytes of a list that is looked at. Browsers send some 200; of more, a part may be missing, and what isn't in it says
/// nothing.
const MOST: usize = 511;

impl<'a> Names<'a> {
    /// Of a report's list.
    pub(super) fn of(list: &'a str) -> Option<Self> {
        (list.len() <= MOST).then_some(Self(list))
    }

    /// In their order.
    pub(super) fn iter(self) -> impl Iterator<Item = &'a str> {
        self.0.split(',').map(str::trim)
    }

    /// Whether this is one of them, in whatever case.
    pub(super) fn has(self, name: &str) -> bool {
        self.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// Whether a proxy between client and server says so.
    pub(super) fn tell_of_proxy(self) -> bool {
        ["via", "forwarded", "x-forwarded-for", "x-bluecoat-via"].into_iter().any(|name| self.has(name))
    }

    /// Whether it asks for a WebSocket: browsers make a connection of its own for it, with HTTP/1.1 alone.
    pub(super) fn ask_for_websocket(self) -> bool {
        self.has("sec-websocket-key")
    }
}
