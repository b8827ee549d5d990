//! Small steps all architectures share: add a node, get back its name.

use super::{Norm, ZooError};
use crate::graph::{Graph, Node, Shape};
use crate::ops::{BatchNorm, Conv2d, GroupNorm, Linear, Op, Pool2d};

/// Added to the variance of every norm; PyTorch's default.
const EPS: f32 = 1e-5;

/// Share of the batch statistic in the running one; PyTorch's default.
const MOMENTUM: f32 = 0.1;

/// Refuses sizes of nothing.
pub(super) fn at_least_one(input: [usize; 3], classes: usize) -> Result<(), ZooError> {
    let [channels, height, width] = input;
    let counts = [
        ("classes", classes),
        ("channels", channels),
        ("height", height),
        ("width", width),
    ];
    match counts.into_iter().find(|(_, n)| *n == 0) {
        Some((what, _)) => Err(ZooError::Zero(what)),
        None => Ok(()),
    }
}

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

    /// A square convolution without bias, padded by half its kernel, and its norm. Nodes are
    /// `{prefix}.conv{number}` and `{prefix}.norm{number}`.
    pub(super) fn conv_norm(
        &mut self,
        prefix: &str,
        number: &str,
        [in_channels, out_channels]: [usize; 2],
        kernel: usize,
        stride: usize,
        from: &str,
    ) -> Result<String, ZooError> {
        let conv = Op::Conv2d(Conv2d {
            in_channels,
            out_channels,
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [kernel / 2; 2],
            dilation: [1; 2],
            groups: 1,
            bias: false,
        });
        let conv = self.node(format!("{prefix}.conv{number}"), conv, &[from]);
        self.norm(format!("{prefix}.norm{number}"), out_channels, &conv)
    }

    /// A 3 x 3 convolution of every channel by itself, and its norm; nodes as in [`Self::conv_norm`].
    pub(super) fn depthwise_norm(
        &mut self,
        prefix: &str,
        channels: usize,
        stride: usize,
        from: &str,
    ) -> Result<String, ZooError> {
        let conv = Op::Conv2d(Conv2d {
            in_channels: channels,
            out_channels: channels,
            kernel: [3; 2],
            stride: [stride; 2],
            padding: [1; 2],
            dilation: [1; 2],
            groups: channels,
            bias: false,
        });
        let conv = self.node(format!("{prefix}.conv"), conv, &[from]);
        self.norm(format!("{prefix}.norm"), channels, &conv)
    }

    /// Square max pooling.
    pub(super) fn max_pool(
        &mut self,
        name: String,
        kernel: usize,
        stride: usize,
        padding: usize,
        from: &str,
    ) -> String {
        let op = Op::MaxPool2d(Pool2d {
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [padding; 2],
        });
        self.node(name, op, &[from])
    }

    /// A fully connected layer with bias.
    pub(super) fn linear(
        &mut self,
        name: String,
        [in_features, out_features]: [usize; 2],
        from: &str,
    ) -> String {
        let op = Op::Linear(Linear {
            in_features,
            out_features,
            bias: true,
        });
        self.node(name, op, &[from])
    }

    /// Global average pooling and a linear layer with one logit per class, then validation.
    pub(super) fn classify(
        mut self,
        from: &str,
        features: usize,
        classes: usize,
    ) -> Result<Graph, ZooError> {
        let pool = self.node("pool".into(), Op::GlobalAvgPool, &[from]);
        let output = self.linear("head".into(), [features, classes], &pool);
        self.finish(output)
    }

    /// Values that each sample has at this point, all positions of all channels.
    pub(super) fn values(&self, from: &str) -> Result<usize, ZooError> {
        let checked = Graph {
            input: self.input.clone(),
            nodes: self.nodes.clone(),
            output: from.to_owned(),
        }
        .check()?;
        Ok(checked.shapes[checked.output].iter().product())
    }

    /// The graph, validated.
    pub(super) fn finish(self, output: String) -> Result<Graph, ZooError> {
        let graph = Graph {
            input: self.input,
            nodes: self.nodes,
            output,
        };
        graph.check()?;
        Ok(graph)
    }
}
