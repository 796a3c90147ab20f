//! Room 10: what is known of an address before it asks for anything. In: lists of prefixes, address databases, a User-Agent's
//! claim to be a crawler, what DNS said of such claims. Out: a [`Standing`].
//!
//! A list says something about an address, and never drops it. Only an address makes a claim true: a User-Agent or a
//! fingerprint alone never does (threats.md T6).

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

mod book;
mod class;
mod confirm;
mod crawlers;
mod list;

pub use book::{Book, Crawler, Database, Databases, Standing};
pub use class::{Class, Classes, Country};
pub use confirm::{Answer, Check, Confirm, Limits};
pub use crawlers::{CrawlerId, Crawlers, Ranges};
pub use list::{Bounds, List, Refused, changed_percent};
