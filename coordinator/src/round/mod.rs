//! Rounds: a window over deltas, and what becomes of them.
//!
//! ```text
//!              target reached, or                                    task's next round
//!              deadline with the minimum                                    ^
//!   Collecting ───────────────> Aggregating ──> Evaluating ──> Publishing ──┴─> Published
//!       │                            │              │              │
//!       └── deadline or every node   └──────────────┴──────────────┘
//!           ended, below the minimum       cannot be done, now or later
//!                     └──────────────> Abandoned <─────────┘   the task stops, or waits until it recurs
//! ```
//!
//! **Collecting** waits for deltas; each that passes every check is an event. **Aggregating** adds the
//! accepted ones up; the same deltas give the same bytes, so a crash in between costs only time.
//! **Evaluating** tries the result on the operator's samples, if there are any. **Publishing** signs
//! the manifest and keeps the release; the round's end, the release and the task's next round are one
//! transaction.
//!
//! [`phase`] moves between phases without IO; [`engine`] persists each move before anyone hears of it
//! and keeps phases at hand; [`work`] does the steps; `request` reads what an operator asks for,
//! `start` begins tasks and opens rounds, `cohort` chooses whom a round asks, `series` says what
//! follows a round.
//! A restart reads the last committed row and goes on.

mod cohort;
pub mod engine;
pub mod phase;
mod request;
mod series;
mod start;
pub mod work;

#[cfg(test)]
mod histories;

pub use engine::Engine;
pub use phase::PhaseName;
pub use request::Start;
