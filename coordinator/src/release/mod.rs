//! Releases: made from base and deltas, signed, and recomputed by anyone who doubts them.
//!
//! ```text
//!   base + carry + mean(deltas) ──build──> model file + carry ──Draft──> ReleaseManifest ──sign──> envelope
//!                                    ^                                                                │
//!                                    └──────────────── verify, offline, from the files alone <────────┘
//! ```
//!
//! Reading order: [`build`](mod@build) (bytes from bytes, used by the coordinator and by verification
//! alike), [`sign`](mod@sign), [`files`] (where a state directory keeps things), [`verify`](mod@verify),
//! [`report`].

pub mod build;
pub mod files;
pub mod report;
pub mod sign;
pub mod verify;

#[cfg(test)]
pub(crate) mod fixture;

pub use build::{BuildError, Built, build, deltas_hold};
pub use files::StateFiles;
pub use report::{Match, Origin, VerifyReport};
pub use sign::{Draft, Lineage, SignError, sign};
pub use verify::{VerifyFailure, verify};
