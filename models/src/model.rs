//! A model: graph, parameters, and what goes in and comes out.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::graph::Graph;

/// Parameters by full name (`node.suffix`), F32, contiguous, on the CPU.
///
/// Sorted by name, so that every walk over them has one order.
pub type Params = BTreeMap<String, Tensor>;

/// What goes into a model and comes out of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelInfo {
    /// Architecture, e.g. `tcn`.
    pub architecture: String,
    /// Per-channel mean of the raw input, in the channel's unit; subtracted first.
    pub input_mean: Vec<f32>,
    /// Per-channel standard deviation of the raw input, in the channel's unit; divided by.
    pub input_std: Vec<f32>,
    /// Channel names with units, e.g. `acc_x [g]`; may be empty for images.
    pub channels: Vec<String>,
    /// Samples per second of the input windows; absent for images.
    pub sampling_rate_hz: Option<f64>,
    /// Class names in logit order.
    pub classes: Vec<String>,
}

/// A graph with its parameters and its description.
#[derive(Debug, Clone)]
pub struct Model {
    /// The computation.
    pub graph: Graph,
    /// The numbers.
    pub params: Params,
    /// Input and output description.
    pub info: ModelInfo,
}
