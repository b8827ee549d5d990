//! How much memory a run will hold, told before it begins.

use std::sync::Arc;

use serde::Serialize;

use super::{
    Executor, ParamSet, Precision, TrainConfig, TrainError, batch::Intake, check_config,
    classes_of, trainable,
};
use crate::graph::Checked;
use crate::lane::Lane;
use crate::model::Model;
use crate::ops::WORKSPACE_BYTES;
use crate::samples::Samples;

const F32: u64 = size_of::<f32>() as u64;
/// Samples of the trial step: two, because batch norms that train want two.
const TRIAL: usize = 2;

/// Bytes a training run holds at its fullest, by what they are for. Whatever else the process holds
/// (its code, its database, its network) comes on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Footprint {
    /// The base, the model under training and the working copy of its parameters.
    pub parameters: u64,
    /// Gradients of the parameters that move.
    pub gradients: u64,
    /// Moments of the optimizer.
    pub moments: u64,
    /// Activations and their gradients, all of a batch kept.
    pub activations: u64,
    /// Patches and tiles of the kernels.
    pub workspace: u64,
    /// The samples, those held out as well, and one batch.
    pub samples: u64,
}

impl Footprint {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        [
            self.parameters,
            self.gradients,
            self.moments,
            self.activations,
            self.workspace,
            self.samples,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    /// What a run takes at least, over so many samples to train on and held out: told from sizes alone,
    /// before samples are read or anything runs. A run may take more, see [`Self::of`].
    ///
    /// # Errors
    /// [`TrainError`] as [`super::Trainer::new`] would have it.
    pub fn least(
        model: &Model,
        config: &TrainConfig,
        train: usize,
        held_out: usize,
    ) -> Result<Self, TrainError> {
        let prepared = Prepared::of(model, config)?;
        let batch = config.batch.min(train.max(1)).max(TRIAL) as u64;
        // Not knowing the machine, the smaller of both.
        let precision = match config.precision {
            Precision::Auto => Precision::Bf16,
            other => other,
        };
        let executor = prepared.executor(config, precision);
        Ok(Self {
            activations: executor.least_bytes().saturating_mul(batch),
            samples: bytes(train.saturating_add(held_out)).saturating_mul(prepared.input as u64),
            ..prepared.parameters(config)
        })
    }

    /// What a run of this configuration over these samples will hold.
    ///
    /// Activations are found by a trial step of two samples, whose buffers grow in proportion to the
    /// batch; everything else follows from sizes. The trial itself takes memory: ask [`Self::least`]
    /// first.
    ///
    /// # Errors
    /// [`TrainError`] as [`super::Trainer::new`] and a first step would have it.
    pub fn of(
        model: &Model,
        config: &TrainConfig,
        lane: &Arc<dyn Lane>,
        train: &Samples,
        held_out: &Samples,
    ) -> Result<Self, TrainError> {
        let prepared = Prepared::of(model, config)?;
        let (input, params) = (prepared.input, &prepared.params);
        let mut executor = prepared.executor(config, config.precision.settled(&**lane));
        let mut grads: Vec<Vec<f32>> = prepared.sizes.iter().map(|&n| vec![0.0; n]).collect();
        let x = vec![0.0; TRIAL * input];
        let lane = &**lane;
        executor.forward(params, &x, TRIAL, true, lane)?;
        let logit_grad = vec![0.0; TRIAL * prepared.classes];
        executor.adjoint(params, &x, &logit_grad, &mut grads, lane)?;

        let batch = config.batch.min(train.len().max(1)).max(TRIAL);
        let (buffers, scratch) = executor.held_bytes();
        let (one, held) = (buffers as u64 / TRIAL as u64, scratch as u64);
        Ok(Self {
            activations: one.saturating_mul(batch as u64),
            // A larger batch fills the patches up to their bound.
            workspace: held.saturating_add(WORKSPACE_BYTES as u64),
            samples: (bytes(train.x.len()))
                .saturating_add(bytes(held_out.x.len()))
                .saturating_add(bytes(batch.saturating_mul(input)).saturating_mul(2)),
            ..prepared.parameters(config)
        })
    }
}

fn bytes(values: usize) -> u64 {
    (values as u64).saturating_mul(F32)
}

/// A model and a configuration that were found to go together.
struct Prepared {
    graph: Checked,
    /// Values of one sample.
    input: usize,
    classes: usize,
    params: ParamSet,
    /// Which parameters move.
    moves: Vec<bool>,
    /// Values of each parameter that moves; 0 for others.
    sizes: Vec<usize>,
}

impl Prepared {
    fn of(model: &Model, config: &TrainConfig) -> Result<Self, TrainError> {
        let graph = model.graph.check()?;
        let classes = classes_of(&graph, model)?;
        check_config(config, &graph)?;
        Intake::new(&model.info, graph.input[0])?;
        let params = ParamSet::read(&graph, &model.params)?;
        let moves = trainable(&graph, &model.graph, config)?;
        let sizes = (params.all().iter().zip(&moves))
            .map(|(p, &moves)| if moves { p.values.len() } else { 0 })
            .collect();
        Ok(Self {
            input: graph.input.iter().product(),
            graph,
            classes,
            params,
            moves,
            sizes,
        })
    }

    fn executor(&self, config: &TrainConfig, precision: Precision) -> Executor {
        Executor::new(self.graph.clone(), &self.moves, config.norm_mode).with_precision(precision)
    }

    /// What follows from the parameters alone.
    fn parameters(&self, config: &TrainConfig) -> Footprint {
        let all: u64 = self
            .params
            .all()
            .iter()
            .map(|p| bytes(p.values.len()))
            .sum();
        let moving: u64 = self.sizes.iter().map(|&n| bytes(n)).sum();
        Footprint {
            parameters: all.saturating_mul(3),
            gradients: moving,
            moments: moving.saturating_mul(config.optimizer.moments().len() as u64),
            ..Footprint::default()
        }
    }
}
