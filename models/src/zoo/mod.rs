//! Architectures as graphs; names are readable and the same for the same configuration.

mod architecture;
mod build;
mod gru;
mod lenet;
mod mobilenet;
mod resnet;
mod resnet_deep;
mod tcn;
mod vgg;

pub use architecture::{Architecture, UnknownArchitecture};
pub use gru::{GruConfig, gru};
pub use lenet::lenet;
pub use mobilenet::mobilenet_v2;
pub use resnet::{resnet20, resnet20_for};
pub use resnet_deep::{Depth, resnet};
pub use tcn::{TcnConfig, tcn};
pub use vgg::{Layers, vgg};

use serde::{Deserialize, Serialize};

use crate::graph::GraphError;

/// Which norm follows a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Norm {
    /// Group normalisation: no statistic to keep, so nodes with skewed labels do not spoil it.
    Group {
        /// Groups the channels are split into; must divide every width.
        groups: usize,
    },
    /// Batch normalisation with PyTorch's momentum of 0.1.
    Batch,
}

/// Values of the parameters that an optimizer moves.
#[cfg(test)]
fn moving_values(graph: &crate::graph::Graph) -> usize {
    let roles = crate::model::roles(graph);
    let moving = roles
        .values()
        .filter(|p| p.role != crate::ops::ParamRole::Statistic);
    moving.map(|p| p.shape.iter().product::<usize>()).sum()
}

/// Why a configuration makes no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZooError {
    /// A count that must be at least one is zero.
    #[error("`{0}` must be at least 1")]
    Zero(&'static str),
    /// The network takes another kind of input.
    #[error("{architecture} takes {want}, not {got:?}; {other} takes those")]
    Input {
        /// The network.
        architecture: &'static str,
        /// What it takes.
        want: &'static str,
        /// Shape found.
        got: Vec<usize>,
        /// A network that takes it.
        other: &'static str,
    },
    /// The network would have no block.
    #[error("`widths` is empty, at least one block is needed")]
    NoBlocks,
    /// Lists that describe the same blocks differ in length.
    #[error("`{field}` has {got} entries for {want} blocks")]
    Blocks {
        /// The list.
        field: &'static str,
        /// Its entries.
        got: usize,
        /// Blocks, as `widths` says.
        want: usize,
    },
    /// Group normalisation cannot split a width.
    #[error("{groups} norm groups do not divide {channels} channels of `{node}`")]
    Groups {
        /// The norm's node.
        node: String,
        /// Groups asked for.
        groups: usize,
        /// Channels there.
        channels: usize,
    },
    /// Shapes do not fit, e.g. a dilated kernel wider than a short window.
    #[error(transparent)]
    Graph(#[from] GraphError),
}
