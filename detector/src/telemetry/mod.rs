//! What the daemon tells about itself: counters in, Prometheus text out ([`metrics`]); log lines on stderr ([`logs`]).
//! Bound: every label set is closed, so no packet can make a series.

pub mod counters;
pub mod logs;
pub mod metrics;
pub mod score;

pub use metrics::Metrics;
