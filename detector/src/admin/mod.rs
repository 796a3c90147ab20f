//! How an operator and a monitor reach the daemon: requests on a unix socket ([`control`], in the words of
//! [`protocol`]), and metrics over HTTP ([`metrics`]). Both bind before anything is spawned, so that a busy address
//! stops the start. Bound: 64 + 16 connections, a frame of 64 KiB each, seconds each.

pub mod control;
pub mod metrics;
pub mod protocol;
pub mod ssh;
