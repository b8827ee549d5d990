//! Small steps all architectures share: add a node, get back its name.

use super::{Norm, ZooError};
use crate::graph::{Graph, Node, Shape};
use crate::ops::{BatchNorm, GroupNorm, Linear, Op};

/// Added to the variance of every norm; PyTorch's default.
const EPS: f32 = 1e-5;

/// Share of the batch statistic in the running one; PyTorch's default.
const MOMENTUM: f32 = 0.1;

/// A graph in the making.
pub(super) struct Builder {
    input: Shape,
    nodes: Vec<Node>,
    norm: Norm,
}

impl Builder {
    pub(super) fn new(input: Shape, norm: Norm) -> Self {
        Self {
            input,
            nodes: Vec::new(),
            norm,
        }
    }

    /// Adds a node reading `inputs` and returns its name.
    pub(super) fn node(&mut self, name: String, op: Op, inputs: &[&str]) -> String {
        self.nodes.push(Node {
            name: name.clone(),
            op,
            inputs: inputs.iter().map(|&i| i.to_owned()).collect(),
        });
        name
    }

    /// Adds the configured norm over `channels`.
    pub(super) fn norm(
        &mut self,
        name: String,
        channels: usize,
        from: &str,
    ) -> Result<String, ZooError> {
        let op = match self.norm {
            Norm::Batch => Op::BatchNorm(BatchNorm {
                channels,
                eps: EPS,
                momentum: MOMENTUM,
            }),
            Norm::Group { groups } if groups == 0 || !channels.is_multiple_of(groups) => {
                return Err(ZooError::Groups {
                    node: name,
                    groups,
                    channels,
                });
            }
            Norm::Group { groups } => Op::GroupNorm(GroupNorm {
                channels,
                groups,
                eps: EPS,
            }),
        };
        Ok(self.node(name, op, &[from]))
    }

    /// Global average pooling and a linear layer with one logit per class, then validation.
    pub(super) fn classify(
        mut self,
        from: &str,
        features: usize,
        classes: usize,
    ) -> Result<Graph, ZooError> {
        let pool = self.node("pool".into(), Op::GlobalAvgPool, &[from]);
        let head = Op::Linear(Linear {
            in_features: features,
            out_features: classes,
            bias: true,
        });
        let output = self.node("head".into(), head, &[&pool]);
        let graph = Graph {
            input: self.input,
            nodes: self.nodes,
            output,
        };
        graph.check()?;
        Ok(graph)
    }
}
