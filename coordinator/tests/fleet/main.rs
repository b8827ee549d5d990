//! A coordinator over real TLS, with nodes whose deltas are made by hand.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: their panic is the test's report"
)]

mod access;
mod crash;
mod hostile;
mod node;
mod old;
mod roster;
mod rounds;
mod server;
#[path = "../small/mod.rs"]
mod small;
mod tasks;
