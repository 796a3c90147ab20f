//! Room 11: requests with where they come from in, how the networks and the fingerprint of each stand out.

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

mod view;

pub use view::{Rates, View};
