//! What an operator is (attributes), which parameters it owns, and which shape it makes.

use serde::{Deserialize, Serialize};

use crate::graph::{MAX_VALUES, Shape};

/// An operator and its attributes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// 1-D convolution over `[C, L]`.
    Conv1d(Conv1d),
    /// 2-D convolution over `[C, H, W]`.
    Conv2d(Conv2d),
    /// Fully connected layer over `[F]`.
    Linear(Linear),
    /// Gated recurrent unit over the positions of `[C, L]`.
    Gru(Gru),
    /// Batch normalisation over the channel dimension of `[C, ...]`.
    BatchNorm(BatchNorm),
    /// Group normalisation of `[C, ...]`.
    GroupNorm(GroupNorm),
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// Maximum over windows of `[C, L]`; padding never wins.
    MaxPool1d(Pool1d),
    /// Maximum over windows of `[C, H, W]`; padding never wins.
    MaxPool2d(Pool2d),
    /// Mean over windows of `[C, L]`; padding counts as zeros (PyTorch's `count_include_pad`).
    AvgPool1d(Pool1d),
    /// Mean over windows of `[C, H, W]`; padding counts as zeros (PyTorch's `count_include_pad`).
    AvgPool2d(Pool2d),
    /// Mean over all positions: `[C, ...] -> [C]`.
    GlobalAvgPool,
    /// Sum of two values of one shape.
    Add,
    /// `[d0, d1, ...] -> [d0 * d1 * ...]`.
    Flatten,
}

/// Attributes of a 1-D convolution. Weight `[out_channels, in_channels / groups, kernel]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conv1d {
    /// Channels read.
    pub in_channels: usize,
    /// Channels made.
    pub out_channels: usize,
    /// Taps.
    pub kernel: usize,
    /// Step between windows.
    pub stride: usize,
    /// Zeros added at each end.
    pub padding: usize,
    /// Distance between taps.
    pub dilation: usize,
    /// Independent channel groups.
    pub groups: usize,
    /// Whether a bias `[out_channels]` is added.
    pub bias: bool,
}

/// Attributes of a 2-D convolution. Weight `[out_channels, in_channels / groups, kh, kw]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conv2d {
    /// Channels read.
    pub in_channels: usize,
    /// Channels made.
    pub out_channels: usize,
    /// Taps (height, width).
    pub kernel: [usize; 2],
    /// Step between windows (height, width).
    pub stride: [usize; 2],
    /// Zeros added at each end (height, width).
    pub padding: [usize; 2],
    /// Distance between taps (height, width).
    pub dilation: [usize; 2],
    /// Independent channel groups.
    pub groups: usize,
    /// Whether a bias `[out_channels]` is added.
    pub bias: bool,
}

/// Attributes of a fully connected layer. Weight `[out_features, in_features]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// Features read.
    pub in_features: usize,
    /// Features made.
    pub out_features: usize,
    /// Whether a bias `[out_features]` is added.
    pub bias: bool,
}

/// Attributes of a gated recurrent unit, as PyTorch's `nn.GRU` of one layer and one direction has it.
///
/// The hidden state begins at 0. With `r`, `z` and `n` stacked in this order, the parameters are
/// `weight_ih` `[3 hidden, input]`, `weight_hh` `[3 hidden, hidden]`, `bias_ih` and `bias_hh`
/// `[3 hidden]`; PyTorch calls them the same with `_l0` behind.
///
/// ```text
/// r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
/// z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
/// n = tanh(W_in x + b_in + r (W_hn h + b_hn))
/// h' = (1 - z) n + z h
/// ```
///
/// # Shapes
/// `[input, L] -> [hidden, L]` ([`GruOutput::Sequence`]) or `[hidden]` ([`GruOutput::Last`])
/// # Source
/// Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder for statistical machine
/// translation", in PyTorch's variant: the reset gate stands behind the product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gru {
    /// Channels read.
    pub input: usize,
    /// Values of the hidden state.
    pub hidden: usize,
    /// Which states are made.
    pub output: GruOutput,
}

/// Which hidden states a recurrent layer gives on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GruOutput {
    /// That behind every time step.
    Sequence,
    /// That behind the last.
    Last,
}

/// Attributes of batch normalisation. Parameters `weight`, `bias`, `running_mean`, `running_var`: `[channels]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchNorm {
    /// Channels normalised.
    pub channels: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Share of the batch statistic in the running one (PyTorch's `momentum`).
    pub momentum: f32,
}

/// Attributes of group normalisation. Parameters `weight`, `bias`: `[channels]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupNorm {
    /// Channels normalised.
    pub channels: usize,
    /// Groups the channels are split into.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
}

/// Window of a 1-D pooling operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool1d {
    /// Window length.
    pub kernel: usize,
    /// Step between windows.
    pub stride: usize,
    /// Padding at each end; at most `kernel / 2`.
    pub padding: usize,
}

/// Window of a 2-D pooling operator (height, width).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool2d {
    /// Window size.
    pub kernel: [usize; 2],
    /// Step between windows.
    pub stride: [usize; 2],
    /// Padding at each end; at most `kernel / 2`.
    pub padding: [usize; 2],
}

/// What a parameter is for: decides quantization and training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParamRole {
    /// Weight of a convolution, linear or recurrent layer: quantized in model files, decayed by optimizers.
    Weight,
    /// Bias of a convolution, linear or recurrent layer: F32, not decayed.
    Bias,
    /// Scale or shift of a norm: F32, not decayed.
    Norm,
    /// Running statistic of a batch norm: F32, never moved by an optimizer.
    Statistic,
}

/// One parameter of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamSpec {
    /// Name below the node's: the full name is `node.suffix`.
    pub suffix: &'static str,
    /// Shape.
    pub shape: Shape,
    /// What it is for.
    pub role: ParamRole,
}

/// Why an operator cannot take its inputs. [`crate::graph`] adds the node's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Wrong number of inputs.
    #[error("takes {want} input(s), got {got}")]
    Arity {
        /// Inputs wanted.
        want: usize,
        /// Inputs found.
        got: usize,
    },
    /// Wrong number of dimensions.
    #[error("wants an input of {want} dimension(s) (batch aside), got shape {got:?}")]
    Rank {
        /// Dimensions wanted.
        want: usize,
        /// Shape found.
        got: Shape,
    },
    /// Channel or feature count differs from the attribute.
    #[error("wants {want} channels, got {got} in shape {shape:?}")]
    Channels {
        /// Channels wanted.
        want: usize,
        /// Channels found.
        got: usize,
        /// Shape found.
        shape: Shape,
    },
    /// The two inputs of an addition differ.
    #[error("inputs differ: {left:?} and {right:?}")]
    Unequal {
        /// First input.
        left: Shape,
        /// Second input.
        right: Shape,
    },
    /// The window does not fit into the padded input.
    #[error("window of {window} does not fit input of {input} with padding {padding}")]
    Window {
        /// Extent of the (dilated) window.
        window: usize,
        /// Extent of the input.
        input: usize,
        /// Padding at each end.
        padding: usize,
    },
    /// An attribute is out of range.
    #[error("{0}")]
    Attribute(String),
}

fn attribute<T>(message: impl Into<String>) -> Result<T, ShapeError> {
    Err(ShapeError::Attribute(message.into()))
}

fn one<'a>(inputs: &[&'a Shape]) -> Result<&'a Shape, ShapeError> {
    match inputs {
        [x] => Ok(x),
        _ => Err(ShapeError::Arity {
            want: 1,
            got: inputs.len(),
        }),
    }
}

fn ranked<'a>(inputs: &[&'a Shape], want: usize) -> Result<&'a Shape, ShapeError> {
    let x = one(inputs)?;
    if x.len() == want {
        Ok(x)
    } else {
        Err(ShapeError::Rank {
            want,
            got: x.clone(),
        })
    }
}

fn channels(shape: &Shape, want: usize) -> Result<(), ShapeError> {
    match shape.first() {
        Some(&got) if got == want => Ok(()),
        Some(&got) => Err(ShapeError::Channels {
            want,
            got,
            shape: shape.clone(),
        }),
        None => Err(ShapeError::Rank {
            want: 1,
            got: shape.clone(),
        }),
    }
}

/// Extent after sliding a window: `floor((n + 2p - d(k-1) - 1) / s) + 1`.
fn slide(
    input: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
) -> Result<usize, ShapeError> {
    if kernel == 0 || stride == 0 || dilation == 0 {
        return attribute("kernel, stride and dilation must be at least 1");
    }
    let overflow = || ShapeError::Attribute("window overflows the address space".to_owned());
    let window = (kernel - 1)
        .checked_mul(dilation)
        .and_then(|w| w.checked_add(1))
        .ok_or_else(overflow)?;
    let padded = padding
        .checked_mul(2)
        .and_then(|p| p.checked_add(input))
        .ok_or_else(overflow)?;
    if window > padded || input == 0 {
        return Err(ShapeError::Window {
            window,
            input,
            padding,
        });
    }
    Ok((padded - window) / stride + 1)
}

fn pooled(input: usize, kernel: usize, stride: usize, padding: usize) -> Result<usize, ShapeError> {
    if padding > kernel / 2 {
        return attribute(format!(
            "pooling padding {padding} exceeds half the kernel {kernel}"
        ));
    }
    slide(input, kernel, stride, padding, 1)
}

/// What is added to a variance must keep it positive, and finite.
fn usable_eps(eps: f32) -> bool {
    eps > 0.0 && eps.is_finite()
}

/// Every state of a sample must be held, even if only the last is given on: `hidden * length` values.
fn recurrent(g: &Gru, length: usize) -> Result<(), ShapeError> {
    if g.input == 0 || g.hidden == 0 || length == 0 {
        return attribute("input, hidden and the number of time steps must be at least 1");
    }
    match g.hidden.checked_mul(length) {
        Some(values) if values <= MAX_VALUES => Ok(()),
        _ => attribute(format!(
            "{} hidden values over {length} time steps are more than {MAX_VALUES}",
            g.hidden
        )),
    }
}

fn grouped(in_channels: usize, out_channels: usize, groups: usize) -> Result<(), ShapeError> {
    if groups == 0 || in_channels == 0 || out_channels == 0 {
        return attribute("groups and channels must be at least 1");
    }
    if !in_channels.is_multiple_of(groups) || !out_channels.is_multiple_of(groups) {
        return attribute(format!(
            "{in_channels} -> {out_channels} channels do not divide into {groups} groups"
        ));
    }
    Ok(())
}

impl Op {
    /// The most a rectifier lets through; `None` for other operators.
    #[must_use]
    pub fn rectifies_to(&self) -> Option<f32> {
        match self {
            Self::Relu => Some(f32::INFINITY),
            Self::Relu6 => Some(6.0),
            _ => None,
        }
    }

    /// Name of the operator as written in files and listings.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Conv1d(_) => "conv1d",
            Self::Conv2d(_) => "conv2d",
            Self::Linear(_) => "linear",
            Self::Gru(_) => "gru",
            Self::BatchNorm(_) => "batch_norm",
            Self::GroupNorm(_) => "group_norm",
            Self::Relu => "relu",
            Self::Relu6 => "relu6",
            Self::MaxPool1d(_) => "max_pool1d",
            Self::MaxPool2d(_) => "max_pool2d",
            Self::AvgPool1d(_) => "avg_pool1d",
            Self::AvgPool2d(_) => "avg_pool2d",
            Self::GlobalAvgPool => "global_avg_pool",
            Self::Add => "add",
            Self::Flatten => "flatten",
        }
    }

    /// Number of values the operator reads.
    #[must_use]
    pub fn arity(&self) -> usize {
        match self {
            Self::Add => 2,
            _ => 1,
        }
    }

    /// Shape of the output (no batch dimension) for inputs of these shapes.
    ///
    /// # Errors
    /// [`ShapeError`] when number, rank, channels, window or attributes do not fit.
    pub fn output_shape(&self, inputs: &[&Shape]) -> Result<Shape, ShapeError> {
        match self {
            Self::Conv1d(c) => {
                let x = ranked(inputs, 2)?;
                grouped(c.in_channels, c.out_channels, c.groups)?;
                channels(x, c.in_channels)?;
                let l = slide(x[1], c.kernel, c.stride, c.padding, c.dilation)?;
                Ok(vec![c.out_channels, l])
            }
            Self::Conv2d(c) => {
                let x = ranked(inputs, 3)?;
                grouped(c.in_channels, c.out_channels, c.groups)?;
                channels(x, c.in_channels)?;
                let mut shape = vec![c.out_channels];
                for d in 0..2 {
                    shape.push(slide(
                        x[d + 1],
                        c.kernel[d],
                        c.stride[d],
                        c.padding[d],
                        c.dilation[d],
                    )?);
                }
                Ok(shape)
            }
            Self::Linear(l) => {
                let x = ranked(inputs, 1)?;
                if l.in_features == 0 || l.out_features == 0 {
                    return attribute("features must be at least 1");
                }
                channels(x, l.in_features)?;
                Ok(vec![l.out_features])
            }
            Self::Gru(g) => {
                let x = ranked(inputs, 2)?;
                recurrent(g, x[1])?;
                channels(x, g.input)?;
                Ok(match g.output {
                    GruOutput::Sequence => vec![g.hidden, x[1]],
                    GruOutput::Last => vec![g.hidden],
                })
            }
            Self::BatchNorm(n) => {
                let x = one(inputs)?;
                channels(x, n.channels)?;
                if n.channels == 0 || !usable_eps(n.eps) || !(0.0..=1.0).contains(&n.momentum) {
                    return attribute(
                        "batch norm wants channels >= 1, eps > 0 and momentum in 0..=1",
                    );
                }
                Ok(x.clone())
            }
            Self::GroupNorm(n) => {
                let x = one(inputs)?;
                channels(x, n.channels)?;
                if n.groups == 0 || !n.channels.is_multiple_of(n.groups) || !usable_eps(n.eps) {
                    return attribute(format!(
                        "{} channels do not divide into {} groups, or eps is not positive",
                        n.channels, n.groups
                    ));
                }
                Ok(x.clone())
            }
            Self::Relu | Self::Relu6 => Ok(one(inputs)?.clone()),
            Self::MaxPool1d(p) | Self::AvgPool1d(p) => {
                let x = ranked(inputs, 2)?;
                Ok(vec![x[0], pooled(x[1], p.kernel, p.stride, p.padding)?])
            }
            Self::MaxPool2d(p) | Self::AvgPool2d(p) => {
                let x = ranked(inputs, 3)?;
                let mut shape = vec![x[0]];
                for d in 0..2 {
                    shape.push(pooled(x[d + 1], p.kernel[d], p.stride[d], p.padding[d])?);
                }
                Ok(shape)
            }
            Self::GlobalAvgPool => {
                let x = one(inputs)?;
                if x.len() < 2 {
                    return Err(ShapeError::Rank {
                        want: 2,
                        got: x.clone(),
                    });
                }
                Ok(vec![x[0]])
            }
            Self::Add => match inputs {
                [a, b] if a == b => Ok((*a).clone()),
                [a, b] => Err(ShapeError::Unequal {
                    left: (*a).clone(),
                    right: (*b).clone(),
                }),
                _ => Err(ShapeError::Arity {
                    want: 2,
                    got: inputs.len(),
                }),
            },
            Self::Flatten => {
                let x = one(inputs)?;
                let n = x
                    .iter()
                    .try_fold(1_usize, |n, &d| n.checked_mul(d))
                    .ok_or_else(|| ShapeError::Attribute("flattened size overflows".to_owned()))?;
                Ok(vec![n])
            }
        }
    }

    /// The operator's parameters in a fixed order: weights, biases, then statistics.
    #[must_use]
    pub fn params(&self) -> Vec<ParamSpec> {
        let spec = |suffix, shape, role| ParamSpec {
            suffix,
            shape,
            role,
        };
        let affine = |shape: Shape, bias: bool| {
            let out = shape[0];
            let mut p = vec![spec("weight", shape, ParamRole::Weight)];
            if bias {
                p.push(spec("bias", vec![out], ParamRole::Bias));
            }
            p
        };
        match self {
            Self::Conv1d(c) => affine(
                vec![c.out_channels, c.in_channels / c.groups.max(1), c.kernel],
                c.bias,
            ),
            Self::Conv2d(c) => affine(
                vec![
                    c.out_channels,
                    c.in_channels / c.groups.max(1),
                    c.kernel[0],
                    c.kernel[1],
                ],
                c.bias,
            ),
            Self::Linear(l) => affine(vec![l.out_features, l.in_features], l.bias),
            Self::Gru(g) => {
                // Sizes of a graph that nobody has checked yet may be absurd.
                let gates = g.hidden.saturating_mul(3);
                vec![
                    spec("weight_ih", vec![gates, g.input], ParamRole::Weight),
                    spec("weight_hh", vec![gates, g.hidden], ParamRole::Weight),
                    spec("bias_ih", vec![gates], ParamRole::Bias),
                    spec("bias_hh", vec![gates], ParamRole::Bias),
                ]
            }
            Self::BatchNorm(n) => vec![
                spec("weight", vec![n.channels], ParamRole::Norm),
                spec("bias", vec![n.channels], ParamRole::Norm),
                spec("running_mean", vec![n.channels], ParamRole::Statistic),
                spec("running_var", vec![n.channels], ParamRole::Statistic),
            ],
            Self::GroupNorm(n) => vec![
                spec("weight", vec![n.channels], ParamRole::Norm),
                spec("bias", vec![n.channels], ParamRole::Norm),
            ],
            Self::Relu
            | Self::Relu6
            | Self::MaxPool1d(_)
            | Self::MaxPool2d(_)
            | Self::AvgPool1d(_)
            | Self::AvgPool2d(_)
            | Self::GlobalAvgPool
            | Self::Add
            | Self::Flatten => Vec::new(),
        }
    }
}
