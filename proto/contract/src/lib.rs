//! Old peers, for tests: what programs of earlier versions said, and what they would have
//! understood of today's words. No program depends on this crate.
//!
//! ```text
//!   proto/tests/golden/v0.1/   proto/             the protocol of 0.1, frozen
//!                              *.jsonl            conversations of programs of 0.1, recorded
//!
//!   agent, operator ──TLS──> Relay ──TLS──> coordinator        real programs at both ends
//!                              │ keeps the conversation (recording), or
//!                              │ drops what 0.1 did not know and names version 0.1.0 (aging)
//! ```
//!
//! Reading order: [`schema`] (one version's descriptors, and what it would drop), [`tape`] (recorded
//! calls), [`relay`], [`lock`] (every number the protocol ever used). `docs/compatibility.md` says
//! what is promised and how to record.
//!
//! Everything here panics with a sentence when something is amiss: that panic is a test's report.

pub mod lock;
pub mod relay;
pub mod schema;
pub mod tape;

pub use relay::{Aged, Plan, Relay};
pub use schema::{Frozen, Schema};
