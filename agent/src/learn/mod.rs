//! One task, from base model to signed delta.
//!
//! ```text
//!   base.gguf ─ read ─> model ──fits──> source          [`fit`]
//!      └─> evaluate ─> fine-tune ─> evaluate ─> delta   [`task`], from where `begin` says on; [`checkpoint`]
//!                                                └─> manifest, signed   [`sign`]
//! ```
//!
//! Everything here runs on a thread that may block, and looks after every step whether it should
//! stop. Nothing here knows the coordinator or the store.

mod begin;
pub mod checkpoint;
pub mod fit;
pub mod sign;
pub mod task;

pub use fit::Misfit;
pub use sign::manifest;
pub use task::{LearnError, Learned, Progress, Settings, learn};
