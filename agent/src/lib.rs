//! The sensor node: pulls, fine-tunes, sends signed deltas, keeps receipts; for years, unattended,
//! through power cuts.
//!
//! ```text
//!                    ┌──────────────────────── agent ───────────────────────────┐
//!   coordinator <──> link ──events──> node (phases) ──effects──> store (SQLite) │
//!                    │  │                                                       │
//!                    │  └─ pull ─> models/  ─┐                                  │
//!                    │   source (samples) ───┴─> learn ─> deltas/ ─> link       │
//!                    └──────────────────────────────────────────────────────────┘
//! ```
//!
//! Reading order: [`node`] (what a node is doing, and what can happen to it), [`store`] (what
//! survives a power cut), [`link`] (the coordinator, seen from here), [`pull`] (the base model),
//! [`learn`] (one task), [`source`] (sensor data), [`limits`] (what the node's owner allows), [`run`]
//! (the loop over all of these), [`enrol`], [`token_file`] (how a node joins), [`dir`], [`home`],
//! [`lock`] (its directory), [`settings`] (what its owner writes), [`doctor`] (what is wrong), [`mod@bench`]
//! (how fast it is), [`stop`], [`cli`].
//!
//! Invariants:
//! - A phase is on disk before anything is done about it; doing it again harms nothing.
//! - Nothing from the network is used before its signature or digest has been checked.
//! - A lease has one counter and one manifest; after a crash the same bytes are sent again.
//! - Samples never leave: only deltas, metrics and reasons do.
//! - An idle agent holds neither model nor samples in memory.

pub mod bench;
pub mod cli;
pub mod dir;
pub mod doctor;
pub mod enrol;
pub mod home;
pub mod learn;
pub mod limits;
pub mod link;
pub mod lock;
pub mod node;
pub mod power;
pub mod pull;
pub mod run;
pub mod settings;
pub mod source;
pub mod stop;
pub mod store;
pub mod token_file;
