//! What the suites that need a network share: two network namespaces with a wire between them ([`lab`]), and in them
//! web servers ([`server`], [`datagrams`], [`reporters`]), real clients ([`clients`], [`mixed`], [`curl`]), tcpdump ([`capture`]) and the daemon
//! ([`daemon`]).
//!
//! In: the programs `ip`, `nginx`, `openssl`, `curl`, `tcpdump`, `chromium`, the Python of `cargo xtask setup`, and the
//! `detector` binary. Out: values to assert on. Everything that is started is a [`process::Process`], which ends with
//! its value; every wait has a deadline ([`deadline`]). A missing program is an error that says how to get it, never a
//! skip. Memory: what the programs print in one test. [`copies`] needs none of this: it makes large captures of small
//! ones.

pub mod capture;
pub mod clients;
pub mod copies;
pub mod curl;
pub mod daemon;
pub mod datagrams;
pub mod deadline;
pub mod drafts;
pub mod figures;
pub mod findings;
pub mod forge;
pub mod hello;
pub mod lab;
pub mod link;
pub mod metrics;
pub mod mixed;
pub mod mmdb;
pub mod pages;
pub mod pins;
pub mod process;
pub mod programs;
pub mod replay;
pub mod reporters;
pub mod server;
pub mod site;
pub mod stalls;
pub mod sums;
pub mod terminal;
pub mod traffic;
pub mod visits;
