//! Room 10: what a connection's hello said, and the requests that its web server tells of, put together by their 4-tuple
//! and by time.

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

mod claim;
mod connections;
mod lately;
mod lookup;
mod miss;
mod proxies;
mod subject;
mod suspected;
mod trusted;
mod tuple;
mod waiting;

pub use claim::Claim;
pub use connections::{Connections, Fit, Found, Identity, Limits, PER_END};
pub use lookup::Lookup;
pub use miss::{Counts, Miss, Outcome};
pub use proxies::{Apart, Proxies};
pub use subject::{Reach, Subject};
pub use suspected::{FAMILIES, Suspected, WINDOW};
pub use trusted::{HOPS_MAX, Source, Trusted, hops};
pub use tuple::{Carrier, End, Tuple};
pub use waiting::{Bounds, Join};
