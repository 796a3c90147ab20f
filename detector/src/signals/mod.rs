//! Room 11: requests with the JA4 value of their connection in, ten signals of each value over the last hour out, and
//! its means over a day and a week. The window has 60 minutes of the clock, the one that goes on included.
//!
//! Requests and their shares are exact, numbers of different addresses, User-Agents and paths are sketches of bounded
//! size ([`ERROR`]). JA4 values are as many as [`Signals::new`] is told; which they are, Space-Saving decides (Metwally
//! 2005): one that is new takes the place of the one with the fewest requests, and its weight, so that what comes often
//! stays, however many values somebody makes up.
//!
//! Memory: 9 KiB for a JA4 value with few clients, 47 KiB at most: see [`Signals::allocated`].

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

mod distinct;
mod figures;
mod minutes;
mod ranking;
mod request;
mod snapshot;
mod table;

pub use distinct::ERROR;
pub use figures::{Baseline, Figures, Ten, Volume};
pub use ranking::Ranking;
pub use request::Request;
pub use snapshot::{Draft, Header, NotASnapshot};
pub use table::Signals;
