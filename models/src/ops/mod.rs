//! Operators: each knows its shapes, its parameters, its forward, its adjoint and its cost.
//!
//! Forward and adjoint work on slices that the caller owns: outputs, gradients and what one pass
//! leaves for the other are buffers passed in. Activations lie channels last ([`crate::kernel`]);
//! parameters lie as in model files (`[out, in, taps...]`).
//!
//! Gradients are **written**, not added; each is computed only when its buffer is given.

mod activation;
mod add;
mod cost;
mod flatten;
mod gru;
mod loss;
pub(crate) mod norm;
mod offload;
mod pool;
pub(crate) mod product;
mod spec;

pub use cost::Cost;
pub use loss::softmax_cross_entropy;
pub use spec::{
    BatchNorm, Conv1d, Conv2d, GroupNorm, Gru, GruOutput, Linear, Op, ParamRole, ParamSpec, Pool1d,
    Pool2d, ShapeError,
};

use serde::{Deserialize, Serialize};

use norm::Norm;
use product::Product;

use crate::graph::Shape;
use crate::kernel::cpu::Workspace;
use crate::lane::{Lane, LaneError, MatError};

/// Which statistics a batch norm uses, and what moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormMode {
    /// Statistics of the batch; running statistics follow; scale and shift are trained.
    Train,
    /// Running statistics, untouched; scale and shift are trained. What small or skewed data wants.
    #[default]
    Frozen,
    /// Running statistics, untouched; scale and shift stay too: inference.
    Eval,
}

/// A value an operator reads: shape of one sample, and the batch's numbers (channels last).
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    /// Shape of one sample, channels first as in the graph.
    pub shape: &'a [usize],
    /// `batch * product(shape)` values; empty in an adjoint that does not need them.
    pub data: &'a [f32],
}

/// What a forward leaves for its adjoint beside inputs and output.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Saved {
    /// Norms: mean and reciprocal deviation per channel or per sample and group. Recurrent layers that
    /// give on their last state: every state, `[B, L, H]`.
    pub values: Vec<f32>,
    /// Max pooling: where each maximum was.
    pub places: Vec<u32>,
}

/// Buffers an operator may scribble on; kept between calls so that steps do not allocate.
#[derive(Debug, Default)]
pub struct Scratch {
    /// What the host's kernels work in.
    pub(crate) workspace: Workspace,
    /// Patches of a tile of positions where products are offloaded, or gates: at most
    /// [`WORKSPACE_BYTES`].
    pub(crate) patches: Vec<f32>,
    /// Offloaded: weights or their gradient in channels-last order.
    pub(crate) weight: Vec<f32>,
    /// Recurrent layers: biases, states, partial sums.
    pub(crate) tiles: [Vec<f32>; 3],
    /// Recurrent layers: sums per gate.
    pub(crate) sums: Vec<f64>,
}

impl Saved {
    /// Bytes owned.
    pub(crate) fn held_bytes(&self) -> usize {
        size_of::<f32>() * self.values.capacity() + size_of::<u32>() * self.places.capacity()
    }
}

impl Scratch {
    /// Bytes owned.
    pub(crate) fn held_bytes(&self) -> usize {
        let floats = self.tiles.iter().chain([&self.patches, &self.weight]);
        let floats: usize = floats.map(Vec::capacity).sum();
        let sums = size_of::<f64>() * self.sums.capacity();
        self.workspace.held_bytes() + size_of::<f32>() * floats + sums
    }
}

pub use offload::WORKSPACE_BYTES;

/// Everything a forward reads and writes.
pub struct Forward<'a> {
    /// Samples in the batch.
    pub batch: usize,
    /// Values read.
    pub inputs: &'a [Operand<'a>],
    /// Parameters in the order of [`Op::params`].
    pub params: &'a [&'a [f32]],
    /// Behaviour of batch norms.
    pub mode: NormMode,
    /// Whether an adjoint may follow; without, `saved` can stay empty.
    pub keep: bool,
    /// The value made: `batch * product(output shape)`.
    pub output: &'a mut [f32],
    /// What the adjoint will need.
    pub saved: &'a mut Saved,
    /// Scribble space.
    pub scratch: &'a mut Scratch,
    /// Where products run.
    pub lane: &'a dyn Lane,
}

/// Everything an adjoint reads and writes.
pub struct Adjoint<'a> {
    /// Samples in the batch.
    pub batch: usize,
    /// Values the forward read; data may be empty where [`Op::keeps`] did not ask for it.
    pub inputs: &'a [Operand<'a>],
    /// The value the forward made; may be empty where [`Op::keeps`] did not ask for it.
    pub output: &'a [f32],
    /// Parameters in the order of [`Op::params`].
    pub params: &'a [&'a [f32]],
    /// The mode the forward ran in.
    pub mode: NormMode,
    /// What the forward saved.
    pub saved: &'a Saved,
    /// Gradient of the output.
    pub output_grad: &'a [f32],
    /// For each input, where its gradient is wanted.
    pub input_grads: &'a mut [Option<&'a mut [f32]>],
    /// For each parameter, where its gradient is wanted. Statistics have none.
    pub param_grads: &'a mut [Option<&'a mut [f32]>],
    /// Scribble space.
    pub scratch: &'a mut Scratch,
    /// Where products run.
    pub lane: &'a dyn Lane,
}

/// Which values an adjoint reads again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keeps {
    /// The operator's inputs.
    pub inputs: bool,
    /// The operator's output.
    pub output: bool,
}

/// Why an operator did not run.
#[derive(Debug, thiserror::Error)]
pub enum OpError {
    /// A buffer has the wrong length: the caller's mistake.
    #[error("{what} has {got} values, expected {want}")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// Values expected.
        want: usize,
        /// Values found.
        got: usize,
    },
    /// The operator does not take these shapes.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A label is no class.
    #[error("sample {sample} has label {label}, but there are {classes} classes")]
    Label {
        /// Place in the batch.
        sample: usize,
        /// The label.
        label: u32,
        /// Number of classes.
        classes: usize,
    },
    /// The batch statistic of one single value is meaningless.
    #[error("batch norm in training mode wants more than one value per channel")]
    OneValue,
    /// A product failed.
    #[error(transparent)]
    Lane(#[from] LaneError),
}

impl From<MatError> for OpError {
    fn from(e: MatError) -> Self {
        Self::Lane(e.into())
    }
}

pub(crate) fn expect_len(what: &'static str, got: usize, want: usize) -> Result<(), OpError> {
    if got == want {
        Ok(())
    } else {
        Err(OpError::Length { what, want, got })
    }
}

/// Positions of a value: the product of all dimensions but the channels.
pub(crate) fn positions(shape: &[usize]) -> usize {
    shape.iter().skip(1).product()
}

impl Op {
    /// Runs the operator.
    ///
    /// # Errors
    /// [`OpError`] when a buffer does not fit the shapes or the lane fails.
    pub fn forward(&self, mut cx: Forward<'_>) -> Result<(), OpError> {
        self.check_forward(&cx)?;
        let cx = &mut cx;
        match self {
            Self::Conv1d(_) | Self::Conv2d(_) | Self::Linear(_) => {
                match Product::of(self, cx.inputs[0].shape)? {
                    Some(product) => product::forward(&product, cx),
                    None => Ok(()),
                }
            }
            Self::Gru(g) => gru::forward(g, cx),
            Self::BatchNorm(n) => norm::forward(Norm::Batch(n), cx),
            Self::GroupNorm(n) => norm::forward(Norm::Group(n), cx),
            Self::Relu | Self::Relu6 => {
                activation::forward(cx, self.rectifies_to().unwrap_or(f32::INFINITY));
                Ok(())
            }
            Self::MaxPool1d(_) | Self::MaxPool2d(_) | Self::AvgPool1d(_) | Self::AvgPool2d(_) => {
                pool::forward(self, cx)
            }
            Self::GlobalAvgPool => {
                pool::global_forward(cx);
                Ok(())
            }
            Self::Add => {
                add::forward(cx);
                Ok(())
            }
            Self::Flatten => {
                flatten::forward(cx);
                Ok(())
            }
        }
    }

    /// Runs the adjoint: writes the gradients whose buffers are given.
    ///
    /// # Errors
    /// [`OpError`] when a buffer does not fit the shapes or the lane fails.
    pub fn adjoint(&self, mut cx: Adjoint<'_>) -> Result<(), OpError> {
        self.check_adjoint(&cx)?;
        let cx = &mut cx;
        match self {
            Self::Conv1d(_) | Self::Conv2d(_) | Self::Linear(_) => {
                match Product::of(self, cx.inputs[0].shape)? {
                    Some(product) => product::adjoint(&product, cx),
                    None => Ok(()),
                }
            }
            Self::Gru(g) => gru::adjoint(g, cx),
            Self::BatchNorm(n) => norm::adjoint(Norm::Batch(n), cx),
            Self::GroupNorm(n) => norm::adjoint(Norm::Group(n), cx),
            Self::Relu | Self::Relu6 => {
                activation::adjoint(cx, self.rectifies_to().unwrap_or(f32::INFINITY));
                Ok(())
            }
            Self::MaxPool1d(_) | Self::MaxPool2d(_) | Self::AvgPool1d(_) | Self::AvgPool2d(_) => {
                pool::adjoint(self, cx)
            }
            Self::GlobalAvgPool => {
                pool::global_adjoint(cx);
                Ok(())
            }
            Self::Add => {
                add::adjoint(cx);
                Ok(())
            }
            Self::Flatten => {
                flatten::adjoint(cx);
                Ok(())
            }
        }
    }

    /// Which values the adjoint will read, when it is asked for the input gradients (`inputs`) and
    /// for these parameters' gradients (in the order of [`Op::params`]).
    #[must_use]
    pub fn keeps(&self, inputs: bool, params: &[bool], mode: NormMode) -> Keeps {
        let weight = params.first().copied().unwrap_or(false);
        let any = inputs || params.contains(&true);
        match self {
            Self::Conv1d(_) | Self::Conv2d(_) | Self::Linear(_) => Keeps {
                inputs: weight,
                output: false,
            },
            // Gates are made anew from the input and the hidden states.
            Self::Gru(g) => Keeps {
                inputs: any,
                output: any && g.output == GruOutput::Sequence,
            },
            Self::BatchNorm(_) if mode != NormMode::Train => Keeps {
                inputs: weight,
                output: false,
            },
            Self::BatchNorm(_) | Self::GroupNorm(_) => Keeps {
                inputs: any,
                output: false,
            },
            Self::Relu | Self::Relu6 => Keeps {
                inputs: false,
                output: any,
            },
            Self::MaxPool1d(_)
            | Self::MaxPool2d(_)
            | Self::AvgPool1d(_)
            | Self::AvgPool2d(_)
            | Self::GlobalAvgPool
            | Self::Add
            | Self::Flatten => Keeps::default(),
        }
    }

    /// Values that a forward leaves in [`Saved`] for each sample of these shapes, the few statistics of
    /// norms aside.
    #[must_use]
    pub fn saves(&self, inputs: &[&Shape]) -> u64 {
        match (self, inputs) {
            (Self::Gru(g), [x]) if g.output == GruOutput::Last => {
                let steps = positions(x) as u64;
                steps.saturating_mul(g.hidden as u64)
            }
            _ => 0,
        }
    }

    /// The running statistics after a forward in [`NormMode::Train`], as `(parameter place, values)`:
    /// `(1 - momentum) * running + momentum * batch`, the variance unbiased as in PyTorch. Applied by
    /// the caller once the step is known to be sound.
    #[must_use]
    pub fn next_statistics(
        &self,
        batch: usize,
        input: &[usize],
        params: &[&[f32]],
        saved: &Saved,
    ) -> Vec<(usize, Vec<f32>)> {
        match self {
            Self::BatchNorm(n) => norm::next_statistics(n, batch, input, params, saved),
            _ => Vec::new(),
        }
    }

    fn check_forward(&self, cx: &Forward<'_>) -> Result<(), OpError> {
        let out = self.check_common(cx.inputs, cx.params)?;
        for x in cx.inputs {
            expect_len(
                "an input",
                x.data.len(),
                cx.batch * x.shape.iter().product::<usize>(),
            )?;
        }
        expect_len("the output", cx.output.len(), cx.batch * out)
    }

    fn check_adjoint(&self, cx: &Adjoint<'_>) -> Result<(), OpError> {
        let out = self.check_common(cx.inputs, cx.params)?;
        expect_len("the output gradient", cx.output_grad.len(), cx.batch * out)?;
        expect_len("the input gradients", cx.input_grads.len(), cx.inputs.len())?;
        expect_len(
            "the parameter gradients",
            cx.param_grads.len(),
            cx.params.len(),
        )?;
        for (g, x) in cx.input_grads.iter().zip(cx.inputs) {
            if let Some(g) = g {
                expect_len(
                    "an input gradient",
                    g.len(),
                    cx.batch * x.shape.iter().product::<usize>(),
                )?;
            }
        }
        for (g, p) in cx.param_grads.iter().zip(cx.params) {
            if let Some(g) = g {
                expect_len("a parameter gradient", g.len(), p.len())?;
            }
        }
        let wanted: Vec<bool> = cx.param_grads.iter().map(Option::is_some).collect();
        let keeps = self.keeps(cx.input_grads.iter().any(Option::is_some), &wanted, cx.mode);
        if keeps.inputs {
            for x in cx.inputs {
                expect_len(
                    "a kept input",
                    x.data.len(),
                    cx.batch * x.shape.iter().product::<usize>(),
                )?;
            }
        }
        if keeps.output {
            expect_len("the kept output", cx.output.len(), cx.batch * out)?;
        }
        Ok(())
    }

    /// Checks shapes and parameters; returns the values in one sample of the output.
    fn check_common(&self, inputs: &[Operand<'_>], params: &[&[f32]]) -> Result<usize, OpError> {
        let shapes: Vec<Shape> = inputs.iter().map(|x| x.shape.to_vec()).collect();
        let out = self.output_shape(&shapes.iter().collect::<Vec<_>>())?;
        let specs = self.params();
        expect_len("the parameter list", params.len(), specs.len())?;
        for (p, spec) in params.iter().zip(&specs) {
            expect_len("a parameter", p.len(), spec.shape.iter().product())?;
        }
        Ok(out.iter().product())
    }
}
