//! The daemon on real traffic: real clients, nginx and the kernel, in network namespaces of their own.
//!
//! Each test makes its own lab (see `detector_tests::lab`) and leaves nothing behind. Needs root and fails with a
//! sentence without it. Run by `cargo xtask test`, one test at a time: the machine's cores are few, and deadlines are
//! meant for one lab.

mod agree;
mod basics;
mod blame;
mod block;
mod borrowed;
mod browsers;
mod bulk;
mod commands;
mod config;
mod control;
mod databases;
mod demo;
mod disorder;
mod distinct;
mod doctor;
mod expiry;
mod explain;
mod feeds;
#[path = "../pipeline/fixture.rs"]
#[expect(dead_code, reason = "the captures are wanted here, and no pipeline")]
mod fixture;
mod flood;
mod forged;
mod framing;
mod gateways;
mod inline;
mod join;
mod lab;
mod lifecycle;
mod live;
mod matrix;
mod never_block;
mod pins;
mod prometheus;
mod proxies;
mod quic;
mod reports;
mod reset;
mod scene;
mod scoring;
mod signature;
mod silent;
mod slow;
mod steer;
mod store;
mod terms;
mod threats;
mod threats_crowd;
mod threats_lists;
mod top;
mod visits;
