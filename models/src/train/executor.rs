//! Runs a graph forward and back over buffers it owns and reuses.

use half::bf16;

use crate::graph::Checked;
use crate::lane::Lane;
use crate::ops::{NormMode, OpError, expect_len};

use super::engine::{Engine, Failure};
use super::params::ParamSet;
use super::precision::Precision;

/// An operator failed.
#[derive(Debug, thiserror::Error)]
#[error("node `{node}`: {source}")]
pub struct ExecuteError {
    /// The node.
    pub node: String,
    /// What went wrong.
    pub source: OpError,
}

/// A graph with its working memory.
#[derive(Debug)]
pub struct Executor {
    engine: Kind,
    /// Values of each parameter.
    param_lens: Vec<usize>,
}

/// What activations and their gradients are stored as.
#[derive(Debug)]
enum Kind {
    Floats(Engine<f32>),
    Halves(Engine<bf16>),
}

/// Calls the same method of whichever engine it is.
macro_rules! either {
    ($kind:expr, $engine:ident => $call:expr) => {
        match $kind {
            Kind::Floats($engine) => $call,
            Kind::Halves($engine) => $call,
        }
    };
}

impl Executor {
    /// An executor for this graph; `trainable` says, in the order of [`Checked::params`], which
    /// parameters get a gradient. Missing entries count as not trainable.
    #[must_use]
    pub fn new(graph: Checked, trainable: &[bool], mode: NormMode) -> Self {
        let lens = graph.params().map(|(_, p)| p.shape.iter().product());
        let param_lens: Vec<usize> = lens.collect();
        let mut trainable = trainable.to_vec();
        trainable.resize(param_lens.len(), false);
        Self {
            param_lens,
            engine: Kind::Floats(Engine::new(graph, trainable, mode)),
        }
    }

    /// The same, calculating in other numbers; [`Precision::Auto`] counts as F32.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        let (graph, trainable, mode) = either!(self.engine, e => e.into_parts());
        let engine = match precision {
            Precision::F32 | Precision::Auto => Kind::Floats(Engine::new(graph, trainable, mode)),
            Precision::Bf16 => Kind::Halves(Engine::new(graph, trainable, mode)),
        };
        Self { engine, ..self }
    }

    /// The graph.
    #[must_use]
    pub fn graph(&self) -> &Checked {
        either!(&self.engine, e => e.graph())
    }

    /// Which parameters get a gradient, in the order of [`Checked::params`].
    #[must_use]
    pub fn trainable(&self) -> &[bool] {
        either!(&self.engine, e => e.trainable())
    }

    /// Most bytes of activations and gradients that were alive at once so far, and what operators
    /// hold for their adjoints.
    #[must_use]
    pub fn peak_bytes(&self) -> usize {
        either!(&self.engine, e => e.peak_bytes())
    }

    /// Bytes of the buffers owned now, in use or waiting to be used again, and of the kernels'
    /// scratch.
    #[must_use]
    pub fn held_bytes(&self) -> (usize, usize) {
        either!(&self.engine, e => e.held_bytes())
    }

    /// Bytes of one sample's values that are in memory together when a forward that keeps them is
    /// done, or that the largest node makes, whichever is more: no step takes less. Known before
    /// anything runs.
    #[must_use]
    pub fn least_bytes(&self) -> u64 {
        either!(&self.engine, e => e.least_bytes())
    }

    /// Runs the graph and returns its output (`[batch, output]`, channels last).
    ///
    /// With `keep`, what [`Executor::adjoint`] needs stays in memory; without, values go as soon as
    /// their last reader is done, and norms with fixed statistics become part of the product they
    /// follow.
    ///
    /// # Shapes
    /// x `[batch, ...]`, channels last
    /// # Errors
    /// [`ExecuteError`] naming the node.
    pub fn forward(
        &mut self,
        params: &ParamSet,
        x: &[f32],
        batch: usize,
        keep: bool,
        lane: &dyn Lane,
    ) -> Result<&[f32], ExecuteError> {
        let want = batch * self.graph().input.iter().product::<usize>();
        let check = expect_len("the graph's input", x.len(), want);
        check.map_err(|e| self.name((0, e)))?;
        self.expect_params(params)?;
        let done = either!(&mut self.engine, e => e.forward(params, x, batch, keep, lane));
        done.map_err(|failure| self.name(failure))?;
        Ok(either!(&self.engine, e => e.output()))
    }

    /// Walks back from the output's gradient and writes the gradients of the trainable parameters
    /// into `param_grads` (one buffer per parameter, in the order of [`Checked::params`]; those of
    /// others are left alone). Must follow a [`Executor::forward`] with `keep` over the same input
    /// and parameters.
    ///
    /// # Shapes
    /// output_grad like the output
    /// # Errors
    /// [`ExecuteError`] naming the node.
    pub fn adjoint(
        &mut self,
        params: &ParamSet,
        x: &[f32],
        output_grad: &[f32],
        param_grads: &mut [Vec<f32>],
        lane: &dyn Lane,
    ) -> Result<(), ExecuteError> {
        self.expect_params(params)?;
        for (i, (p, grad)) in params.all().iter().zip(param_grads.iter()).enumerate() {
            if self.trainable()[i] {
                let check = expect_len("a parameter's gradient", grad.len(), p.values.len());
                check.map_err(|e| self.name((params.node_of(i), e)))?;
            }
        }
        let (have, want) = (param_grads.len(), params.all().len());
        let check = expect_len("the list of gradients", have, want);
        check.map_err(|e| self.name((0, e)))?;
        let done =
            either!(&mut self.engine, e => e.adjoint(params, x, output_grad, param_grads, lane));
        done.map_err(|failure| self.name(failure))
    }

    /// The running statistics after the last training forward: `(place in the parameter set, values)`.
    #[must_use]
    pub fn next_statistics(&self, params: &ParamSet, batch: usize) -> Vec<(usize, Vec<f32>)> {
        either!(&self.engine, e => e.next_statistics(params, batch))
    }

    /// Kernels index by what the graph says: the parameters have to be of this graph.
    fn expect_params(&self, params: &ParamSet) -> Result<(), ExecuteError> {
        let (have, want) = (params.all().len(), self.param_lens.len());
        let check = expect_len("the list of parameters", have, want);
        check.map_err(|e| self.name((0, e)))?;
        for (i, (p, &want)) in params.all().iter().zip(&self.param_lens).enumerate() {
            let check = expect_len("a parameter", p.values.len(), want);
            check.map_err(|e| self.name((params.node_of(i), e)))?;
        }
        Ok(())
    }

    fn name(&self, (node, source): Failure) -> ExecuteError {
        ExecuteError {
            node: self.graph().nodes[node].name.clone(),
            source,
        }
    }
}
