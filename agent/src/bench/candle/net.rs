//! A network of candle's layers, made of a graph.

use candle_core::{D, Result, Tensor, Var};
use candle_nn::{
    BatchNorm, Conv1d, Conv1dConfig, Conv2d, Conv2dConfig, GroupNorm, Linear, Module as _,
    ModuleT as _,
};
use lamplight_models::{
    graph::{Checked, Source},
    model::Params,
    ops::{Op, ParamRole, Pool2d},
};

use crate::bench::Mode;

/// A node, ready to run.
enum Layer {
    Conv1d(Conv1d),
    Conv2d(Conv2d),
    Linear(Linear),
    BatchNorm(BatchNorm),
    GroupNorm(GroupNorm),
    Relu,
    Relu6,
    MaxPool(Pool2d),
    AvgPool(Pool2d),
    GlobalAvgPool,
    Add,
    Flatten,
}

pub(super) struct Net {
    graph: Checked,
    layers: Vec<Layer>,
    /// Last node that reads each value: behind it the network lets it go, as a program's variables
    /// would.
    last_reader: Vec<usize>,
}

/// What of a graph candle does not do, if anything: a reason for people.
pub(super) fn lacks(graph: &Checked, mode: Mode, batch: usize) -> Option<String> {
    let trains = mode == Mode::Step;
    let nodes = graph.nodes.iter().zip(&graph.sources);
    for (node, sources) in nodes {
        let why = match &node.op {
            Op::Conv1d(_) if trains && batch > 1 => {
                Some("its gradients of 1-D convolutions are wrong for batches above 1".to_owned())
            }
            Op::Conv2d(c)
                if [c.stride, c.padding, c.dilation]
                    .iter()
                    .any(|a| a[0] != a[1]) =>
            {
                Some(
                    "its convolutions take one stride, padding and dilation for both axes"
                        .to_owned(),
                )
            }
            Op::MaxPool2d(p) if p.padding != [0, 0] && !pads_with_zeros(graph, sources[0]) => {
                Some("its pooling has no padding".to_owned())
            }
            Op::AvgPool2d(p) if p.padding != [0, 0] => {
                Some("its pooling has no padding".to_owned())
            }
            Op::MaxPool2d(p) | Op::AvgPool2d(p) if trains => {
                let shape = graph.shape(sources[0]);
                let fits = (shape[1..].iter().zip(p.kernel)).all(|(n, k)| n.is_multiple_of(k));
                if p.kernel != p.stride || p.padding != [0, 0] {
                    Some(
                        "its autograd takes no max pooling whose kernel differs from its stride"
                            .to_owned(),
                    )
                } else if !fits {
                    Some("its autograd takes no pooling that leaves a rest of the image".to_owned())
                } else {
                    None
                }
            }
            Op::Conv1d(_)
            | Op::Conv2d(_)
            | Op::Linear(_)
            | Op::BatchNorm(_)
            | Op::GroupNorm(_)
            | Op::Relu
            | Op::Relu6
            | Op::MaxPool2d(_)
            | Op::AvgPool2d(_)
            | Op::GlobalAvgPool
            | Op::Add
            | Op::Flatten => None,
            other => Some(format!(
                "the bench has no {} written in candle",
                other.kind()
            )),
        };
        if let Some(why) = why {
            return Some(format!("{why} (`{}`)", node.name));
        }
    }
    None
}

/// Whether zeros around a value are like the padding of a maximum, which never wins: behind a rectifier
/// nothing is below them.
fn pads_with_zeros(graph: &Checked, source: Source) -> bool {
    matches!(source, Source::Node(j) if graph.nodes[j].op.rectifies_to().is_some())
}

impl Net {
    /// The network over these parameters, which [`lacks`] nothing; for training also what an optimizer
    /// moves.
    pub(super) fn new(graph: Checked, params: &Params, mode: Mode) -> Result<(Self, Vec<Var>)> {
        let mut moving = Vec::new();
        let mut layers = Vec::with_capacity(graph.nodes.len());
        let mut last_reader: Vec<usize> = (0..graph.nodes.len()).collect();
        for (i, (node, sources)) in graph.nodes.iter().zip(&graph.sources).enumerate() {
            for &source in sources {
                if let Source::Node(j) = source {
                    last_reader[j] = i;
                }
            }
            let mut own = Vec::new();
            for spec in node.op.params() {
                let name = format!("{}.{}", node.name, spec.suffix);
                let tensor = params
                    .get(&name)
                    .ok_or_else(|| candle_core::Error::Msg(format!("no parameter `{name}`")))?;
                if mode == Mode::Step && spec.role != ParamRole::Statistic {
                    let var = Var::from_tensor(tensor)?;
                    own.push(var.as_tensor().clone());
                    moving.push(var);
                } else {
                    own.push(tensor.clone());
                }
            }
            layers.push(layer(&node.op, own)?);
        }
        last_reader[graph.output] = graph.nodes.len();
        let net = Self {
            graph,
            layers,
            last_reader,
        };
        Ok((net, moving))
    }

    /// Logits of a batch.
    ///
    /// # Shapes
    /// x `[batch, channels, ...] -> [batch, classes]`
    pub(super) fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mut values: Vec<Option<Tensor>> = vec![None; self.layers.len()];
        for (i, (layer, sources)) in self.layers.iter().zip(&self.graph.sources).enumerate() {
            let value = |source: Source| match source {
                Source::Input => Ok(x),
                Source::Node(j) => values[j].as_ref().ok_or_else(|| {
                    candle_core::Error::Msg("a value was let go too early".to_owned())
                }),
            };
            let input = value(sources[0])?;
            let made = match layer {
                Layer::Add => (input + value(sources[1])?)?,
                one => one.forward(input, train)?,
            };
            for &source in sources {
                if let Source::Node(j) = source
                    && self.last_reader[j] == i
                {
                    values[j] = None;
                }
            }
            values[i] = Some(made);
        }
        values
            .swap_remove(self.graph.output)
            .ok_or_else(|| candle_core::Error::Msg("the network has no output".to_owned()))
    }
}

/// A node's layer over its parameters, in the order of [`Op::params`].
fn layer(op: &Op, own: Vec<Tensor>) -> Result<Layer> {
    let mut own = own.into_iter();
    let mut next = || {
        own.next()
            .ok_or_else(|| candle_core::Error::Msg("a parameter is missing".to_owned()))
    };
    Ok(match op {
        Op::Conv1d(c) => {
            let config = Conv1dConfig {
                padding: c.padding,
                stride: c.stride,
                dilation: c.dilation,
                groups: c.groups,
                ..Conv1dConfig::default()
            };
            let weight = next()?;
            let bias = if c.bias { Some(next()?) } else { None };
            Layer::Conv1d(Conv1d::new(weight, bias, config))
        }
        Op::Conv2d(c) => {
            let config = Conv2dConfig {
                padding: c.padding[0],
                stride: c.stride[0],
                dilation: c.dilation[0],
                groups: c.groups,
                ..Conv2dConfig::default()
            };
            let weight = next()?;
            let bias = if c.bias { Some(next()?) } else { None };
            Layer::Conv2d(Conv2d::new(weight, bias, config))
        }
        Op::Linear(l) => {
            let weight = next()?;
            let bias = if l.bias { Some(next()?) } else { None };
            Layer::Linear(Linear::new(weight, bias))
        }
        Op::BatchNorm(n) => {
            let (weight, bias, mean, var) = (next()?, next()?, next()?, next()?);
            let (eps, momentum) = (f64::from(n.eps), f64::from(n.momentum));
            Layer::BatchNorm(BatchNorm::new_with_momentum(
                n.channels, mean, var, weight, bias, eps, momentum,
            )?)
        }
        Op::GroupNorm(n) => {
            let (weight, bias) = (next()?, next()?);
            let eps = f64::from(n.eps);
            Layer::GroupNorm(GroupNorm::new(weight, bias, n.channels, n.groups, eps)?)
        }
        Op::Relu => Layer::Relu,
        Op::Relu6 => Layer::Relu6,
        Op::MaxPool2d(p) => Layer::MaxPool(p.clone()),
        Op::AvgPool2d(p) => Layer::AvgPool(p.clone()),
        Op::GlobalAvgPool => Layer::GlobalAvgPool,
        Op::Add => Layer::Add,
        Op::Flatten => Layer::Flatten,
        other => candle_core::bail!("no {} here", other.kind()),
    })
}

impl Layer {
    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        match self {
            Self::Conv1d(layer) => layer.forward(x),
            Self::Conv2d(layer) => layer.forward(x),
            Self::Linear(layer) => layer.forward(x),
            Self::BatchNorm(layer) => layer.forward_t(x, train),
            Self::GroupNorm(layer) => layer.forward(x),
            Self::Relu => x.relu(),
            Self::Relu6 => x.clamp(0_f32, 6_f32),
            Self::MaxPool(p) => {
                let [h, w] = p.padding;
                let mut x = x.clone();
                if [h, w] != [0, 0] {
                    x = x.pad_with_zeros(2, h, h)?.pad_with_zeros(3, w, w)?;
                }
                x.max_pool2d_with_stride((p.kernel[0], p.kernel[1]), (p.stride[0], p.stride[1]))
            }
            Self::AvgPool(p) => {
                x.avg_pool2d_with_stride((p.kernel[0], p.kernel[1]), (p.stride[0], p.stride[1]))
            }
            Self::GlobalAvgPool => x.flatten_from(2)?.mean(D::Minus1),
            Self::Flatten => x.flatten_from(1),
            Self::Add => candle_core::bail!("a sum has two inputs"),
        }
    }
}
