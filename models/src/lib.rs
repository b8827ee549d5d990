//! Pure computation for Lamplight: models as graphs of operators, training, quantized files, deltas.
//!
//! A model is a [`graph::Graph`] of operators, and each operator knows its forward, its adjoint
//! and its cost; everything else reads that one structure.
//!
//! ```text
//!   zoo ──> Graph ──┬─> train     forward, adjoint, update
//!   GGUF <──> Model ┴─> Op::cost  FLOP and bytes
//!                   └─> delta     tuned - exact dequantized base
//! ```
//!
//! Reading order: [`graph`] (the data), [`ops`] (what a node does), [`kernel`] (its loops), [`lane`]
//! (where its matrix products run), [`model`] (graph + parameters + what goes in and comes out),
//! [`image`] (how an image becomes an input), [`samples`] (labelled windows), [`train`] (a step on
//! one screen), [`layers`] (its products one by one), [`quant`] (GGUF), [`delta`] (what leaves a node), [`container`] (their file form),
//! [`zoo`].
//!
//! Invariants: no network, no SQL, no clock, no async here; `unsafe` only in `kernel`.

pub mod container;
pub mod delta;
pub mod graph;
pub mod image;
pub mod kernel;
pub mod lane;
pub mod layers;
pub mod model;
pub mod ops;
pub mod quant;
pub mod samples;
pub mod train;
pub mod zoo;
