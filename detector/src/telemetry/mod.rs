//! What the daemon tells about itself: counters in, Prometheus text out ([`metrics`]); log lines on stderr ([`logs`]).
//! Bound: every label set is closed, so no packet can make a series.

pub mod counters;
pub mod enforce;
pub mod hellos;
pub mod kernel;
pub mod logs;
pub mod metrics;
pub mod requests;
pub mod resources;

pub use metrics::Metrics;
