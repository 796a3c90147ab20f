//! Room 13: what is judged and for how long. Values in, values out: no clock, no sockets; memory where a
//! file says so, and how much.

pub mod browsers;
pub mod decide;
pub mod exclusive;
pub mod families;
pub mod never_block;
pub mod requests;
pub mod rules;
pub mod subject;
pub mod terms;
pub mod ttl;
