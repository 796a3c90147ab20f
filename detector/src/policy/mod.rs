//! Room 10: what is judged and for how long. Values in, values out: no clock, no sockets; memory where a
//! file says so, and how much.

pub mod exclusive;
pub mod rules;
pub mod subject;
pub mod ttl;
