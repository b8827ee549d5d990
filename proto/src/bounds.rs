//! How large a task may be.
//!
//! A coordinator refuses what goes beyond; whoever writes a task is told so before it is sent. Both
//! take the numbers from here.

/// Rounds of one task.
pub const MAX_ROUNDS: u32 = 100_000;
/// A round's longest deadline, and the longest time between the beginnings of two: a year, in seconds.
pub const MAX_SECONDS: u32 = 366 * 24 * 3600;
/// Nodes of one round: a release's manifest names each delta and must stay readable.
pub const MAX_COHORT: usize = 30_000;
/// Largest weight of one delta, in samples. With [`MAX_CONTRIBUTIONS`] deltas the sum of all weights
/// stays below `2^53`, exact as `f64`.
///
/// [`MAX_CONTRIBUTIONS`]: crate::release::MAX_CONTRIBUTIONS
pub const MAX_WEIGHT: u64 = 1 << 32;
