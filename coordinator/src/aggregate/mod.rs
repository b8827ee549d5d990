//! From the deltas of a round to one mean, in memory bounded by the model, not by the fleet.
//!
//! ```text
//!   pass one, as a delta arrives:   file ──> inspect ──> norm, or a refusal
//!   pass two, once it is kept:      file ──blocks──> clip, weigh ──> fold ──> FixedSum ──> Mean
//! ```
//!
//! Reading order: [`inspect()`], [`clip`] (what one node's delta may count), [`fedavg`] (the rule),
//! [`fixed`] (why the order of arrival leaves no trace), `hashing` (digests of what streams past).
//!
//! Invariants: what passes [`inspect()`] can be folded; a file that changed in between is noticed,
//! because the second pass hashes what it reads; nothing here holds a delta whole.

pub mod clip;
pub mod fedavg;
pub mod fixed;
mod hashing;
pub mod inspect;

pub use clip::{clip_factor, weight};
pub use fedavg::{AggregateError, FedAvg, Mean};
pub use inspect::{InspectError, Inspected, inspect};
