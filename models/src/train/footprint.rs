//! How much memory a run will hold, told before it begins.

use std::sync::Arc;

use serde::Serialize;

use super::{
    Executor, ParamSet, TrainConfig, TrainError, batch::Intake, check_config, classes_of, trainable,
};
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

    /// What a run of this configuration over these samples will hold.
    ///
    /// Activations are found by a trial step of two samples, whose buffers grow in proportion to the
    /// batch; everything else follows from sizes.
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
        let graph = model.graph.check()?;
        let classes = classes_of(&graph, model)?;
        check_config(config, &graph)?;
        Intake::new(&model.info, graph.input[0])?;
        let params = ParamSet::read(&graph, &model.params)?;
        let moves = trainable(&graph, &model.graph, config)?;
        let sizes: Vec<usize> = (params.all().iter().zip(&moves))
            .map(|(p, &moves)| if moves { p.values.len() } else { 0 })
            .collect();

        let input: usize = graph.input.iter().product();
        let mut executor = Executor::new(graph, &moves, config.norm_mode);
        let mut grads: Vec<Vec<f32>> = sizes.iter().map(|&n| vec![0.0; n]).collect();
        let x = vec![0.0; TRIAL * input];
        let lane = &**lane;
        executor.forward(&params, &x, TRIAL, true, lane)?;
        let logit_grad = vec![0.0; TRIAL * classes];
        executor.adjoint(&params, &x, &logit_grad, &mut grads, lane)?;

        let bytes = |values: usize| values as u64 * F32;
        let batch = config.batch.min(train.len().max(1)).max(TRIAL);
        let all: u64 = params.all().iter().map(|p| bytes(p.values.len())).sum();
        let moving: u64 = sizes.iter().map(|&n| bytes(n)).sum();
        let (buffers, scratch) = executor.held_bytes();
        let (one, held) = (buffers as u64 / TRIAL as u64, scratch as u64);
        Ok(Self {
            parameters: all.saturating_mul(3),
            gradients: moving,
            moments: moving.saturating_mul(config.optimizer.moments().len() as u64),
            activations: one.saturating_mul(batch as u64),
            // A larger batch fills the patches up to their bound.
            workspace: held.saturating_add(WORKSPACE_BYTES as u64),
            samples: (bytes(train.x.len()))
                .saturating_add(bytes(held_out.x.len()))
                .saturating_add(bytes(batch.saturating_mul(input)).saturating_mul(2)),
        })
    }
}
