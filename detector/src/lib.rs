//! detector: bot detection below HTTP.
//!
//! The rooms, in the order data passes them; a room uses only those above it (`cargo xtask layers`).

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test that can't go on should stop where it stands"))]

pub mod clock;
pub mod config;
pub mod telemetry;

pub mod kernel;

pub mod capture;
pub mod flow;
pub mod quic;
pub mod tls;

pub mod fingerprint;
pub mod signature;

pub mod pipeline;

pub mod connection;
pub mod sheet;

pub mod door;
pub mod report;

pub mod agent;
pub mod family;
pub mod intake;
pub mod join;
pub mod line;

pub mod breaker;
pub mod network;
pub mod reputation;
pub mod session;
pub mod signals;

pub mod feeds;
pub mod score;

pub mod policy;

pub mod broker;
pub mod enforce;

pub mod admin;
pub mod daemon;
pub mod inline;

pub mod cli;
pub mod fuzzing;
