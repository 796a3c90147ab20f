//! Room 11: the requests of each client in, what it did within the last hour out, kept up with each request. A client is
//! who has one session id of the site's; without one it is an address (of IPv6 a /64) with a hello and a User-Agent, and
//! may be many people. So what is one person's alone, rate and timing and the order of paths, is told of each connection.
//!
//! Memory: [`Limits::sessions`] of [`BYTES`] each. The one that was silent longest makes room, and each ends after an
//! hour of silence.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

mod hellos;
mod history;
mod paths;
mod request;
mod table;
mod track;

pub use hellos::Hellos;
pub use history::Summary;
pub use paths::{Paths, Pattern};
pub use request::{Hello, Request};
pub use table::{BYTES, Key, Limits, Reader, Sessions};
pub use track::Steps;
