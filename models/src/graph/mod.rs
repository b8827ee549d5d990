//! The model as data: nodes that name the values they read and the one value they make.

mod check;

pub use check::{Checked, GraphError, MAX_NODES, MAX_VALUES, Source};

use serde::{Deserialize, Serialize};

use crate::ops::Op;

/// Dimensions of a value without the batch, e.g. `[C, L]` for a sensor window, `[C, H, W]` for an
/// image, `[F]` for features. Every value has a leading batch dimension `B` beside it.
pub type Shape = Vec<usize>;

/// One operator applied to named values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Unique name; also the prefix of its parameters (`name.weight`) and the name of its output value.
    pub name: String,
    /// What the node does.
    pub op: Op,
    /// Values read: names of earlier nodes, or [`Graph::INPUT`].
    pub inputs: Vec<String>,
}

/// A directed acyclic graph of operators with one input and one output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Graph {
    /// Shape of one input sample (no batch dimension).
    pub input: Shape,
    /// The operators. Any order; [`Graph`] validation finds the topological one.
    pub nodes: Vec<Node>,
    /// Name of the node whose value leaves the graph (the logits).
    pub output: String,
}

impl Graph {
    /// Name of the value that enters the graph.
    pub const INPUT: &'static str = "input";
}
