//! Quantized weights and the model files that hold them.
//!
//! ```text
//!   Model (exact f32) ── requantize ──> GGUF bytes ── gguf::read ──> Model (exact base)
//!            └── minus ────────────────────────────────────^  = rounding error, kept
//! ```
//!
//! A model read from a file is the **exact base** of deltas: every weight is `f32(scale) * q`, so
//! all who hold the file hold the same numbers, and writing them again gives the same file.

pub mod gguf;
pub mod q8_0;
mod requantize;

pub use requantize::{Requantized, requantize};
