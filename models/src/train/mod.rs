//! Training: one step on one screen.
//!
//! ```text
//!   samples ─> batch ─> forward ─> loss ─> adjoint ─> clip ─> update
//! ```
//!
//! [`Trainer`] holds a run: it can stop between any two steps, be saved, and go on bit for bit.
//! Same model, samples, settings and threads: same bytes.

mod batch;
mod checkpoint;
mod engine;
mod error;
mod evaluate;
mod executor;
mod footprint;
mod optimizer;
mod params;
mod plan;
mod precision;
mod predict;
mod trainable;

pub use batch::Augment;
pub use checkpoint::CheckpointError;
pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate};
pub use executor::{ExecuteError, Executor};
pub use footprint::Footprint;
pub use optimizer::{Optimizer, OptimizerConfig, clip_factor, global_norm};
pub use params::{Param, ParamError, ParamSet};
pub use precision::{Precision, UnknownPrecision};
pub use predict::{Predictor, predict};
pub use trainable::{Trainable, UnknownTrainable};

use std::ops::ControlFlow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::graph::{Checked, Graph};
use crate::kernel::elementwise;
use crate::lane::Lane;
use crate::model::Model;
use crate::ops::{NormMode, Op, positions, softmax_cross_entropy};
use crate::samples::Samples;
use batch::Intake;
use checkpoint::Position;

/// How the learning rate changes over the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// It stays.
    #[default]
    Constant,
    /// From the full rate down to zero along half a cosine over all steps of all epochs.
    Cosine,
}

impl Schedule {
    /// Share of the learning rate after this share of the run (0 to 1).
    #[must_use]
    pub fn factor(self, progress: f64) -> f32 {
        match self {
            Self::Constant => 1.0,
            Self::Cosine => {
                (0.5 * (1.0 + (std::f64::consts::PI * progress.clamp(0.0, 1.0)).cos())) as f32
            }
        }
    }
}

/// Settings of a training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the samples.
    pub epochs: usize,
    /// Samples in a step; the last step of an epoch may have fewer.
    pub batch: usize,
    /// Optimizer and its settings.
    pub optimizer: OptimizerConfig,
    /// Largest norm of all gradients together; longer ones are shortened to it.
    #[serde(default)]
    pub clip_norm: Option<f32>,
    /// Course of the learning rate.
    #[serde(default)]
    pub schedule: Schedule,
    /// Which parameters move.
    #[serde(default)]
    pub trainable: Trainable,
    /// Behaviour of batch norms.
    #[serde(default)]
    pub norm_mode: NormMode,
    /// Random changes to the raw samples.
    #[serde(default)]
    pub augment: Augment,
    /// In which numbers steps calculate. Not written where it is the usual one, so that saved training
    /// of that kind reads the same in every version.
    #[serde(default, skip_serializing_if = "Precision::is_usual")]
    pub precision: Precision,
    /// Seed of order and augmentation.
    pub seed: u64,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepReport {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Step within the epoch, from 0.
    pub step: usize,
    /// Steps of this epoch.
    pub steps_in_epoch: usize,
    /// Samples in the step.
    pub samples: usize,
    /// Mean loss of the batch before the update.
    pub loss: f64,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
}

/// What an epoch, or the part of it up to a stop, did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EpochReport {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Steps done of this epoch, those before an interruption included.
    pub steps: usize,
    /// Samples seen in this epoch, those before an interruption included.
    pub samples: usize,
    /// Mean loss over these samples, each before its step's update.
    pub loss: f64,
    /// Whether the epoch is complete; if not, the next call goes on with it.
    pub complete: bool,
}

/// A training run: model, settings, place, and the memory a step works in.
#[derive(Debug)]
pub struct Trainer {
    model: Model,
    config: TrainConfig,
    lane: Arc<dyn Lane>,
    executor: Executor,
    params: ParamSet,
    optimizer: Optimizer,
    intake: Intake,
    classes: usize,
    position: Position,
    /// Reused from step to step: input, labels, gradient of the logits, gradients of parameters.
    x: Vec<f32>,
    labels: Vec<u32>,
    logit_grad: Vec<f32>,
    grads: Vec<Vec<f32>>,
}

impl Trainer {
    /// Begins a run. The parameters of [`TrainConfig::trainable`] move; in [`NormMode::Eval`] those
    /// of batch norms stay. [`Precision::Auto`] is settled here: [`Trainer::config`] tells on what.
    ///
    /// # Errors
    /// [`TrainError`] when the model is inconsistent or a setting out of range.
    pub fn new(
        model: Model,
        mut config: TrainConfig,
        lane: Arc<dyn Lane>,
    ) -> Result<Self, TrainError> {
        let graph = model.graph.check()?;
        let classes = classes_of(&graph, &model)?;
        check_config(&config, &graph)?;
        // A run that was saved goes on in the numbers it began with, or not at all.
        config.precision = config.precision.settled(&*lane);
        let params = ParamSet::read(&graph, &model.params)?;
        let intake = Intake::new(&model.info, graph.input[0])?;
        let trainable = trainable(&graph, &model.graph, &config)?;
        let sizes: Vec<usize> = params
            .all()
            .iter()
            .zip(&trainable)
            .map(|(p, &t)| if t { p.values.len() } else { 0 })
            .collect();
        Ok(Self {
            executor: Executor::new(graph, &trainable, config.norm_mode)
                .with_precision(config.precision),
            optimizer: Optimizer::new(config.optimizer, &sizes),
            grads: sizes.iter().map(|&n| vec![0.0; n]).collect(),
            model,
            config,
            lane,
            params,
            intake,
            classes,
            position: Position::default(),
            x: Vec::new(),
            labels: Vec::new(),
            logit_grad: Vec::new(),
        })
    }

    /// Goes on with a run saved by [`Trainer::save`]; `model` gives graph and description, the
    /// parameters come from `saved`. [`Precision::Auto`] is what the run was saved with.
    ///
    /// # Errors
    /// [`TrainError::Checkpoint`] when the bytes are malformed or belong to another model or other
    /// settings, and all errors of [`Trainer::new`].
    pub fn resume(
        model: Model,
        config: TrainConfig,
        lane: Arc<dyn Lane>,
        saved: &[u8],
    ) -> Result<Self, TrainError> {
        let mut config = config;
        if config.precision == Precision::Auto {
            config.precision = checkpoint::precision(saved)?;
        }
        let mut run = Self::new(model, config, lane)?;
        run.position = checkpoint::read(saved, &run.config, &mut run.params, &mut run.optimizer)?;
        run.model.params = run.params.tensors()?;
        Ok(run)
    }

    /// In which numbers a saved run calculates, before anything of it is built: its memory depends on
    /// that.
    ///
    /// # Errors
    /// [`TrainError::Checkpoint`] when the bytes are malformed.
    pub fn precision_of(saved: &[u8]) -> Result<Precision, TrainError> {
        Ok(checkpoint::precision(saved)?)
    }

    /// The run as a safetensors file: parameters, moments, place. The same state gives the same
    /// bytes.
    ///
    /// # Errors
    /// [`TrainError::Checkpoint`] when the file would be malformed.
    pub fn save(&self) -> Result<Vec<u8>, TrainError> {
        let position = Position {
            optimizer_steps: self.optimizer.steps(),
            ..self.position
        };
        Ok(checkpoint::write(
            &self.config,
            position,
            &self.params,
            &self.optimizer,
        )?)
    }

    /// The model as of the last finished call of [`Trainer::epoch`].
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The model, when training is over.
    #[must_use]
    pub fn into_model(self) -> Model {
        self.model
    }

    /// Settings of the run.
    #[must_use]
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Epochs done, and steps done in the running one.
    #[must_use]
    pub fn position(&self) -> (usize, usize) {
        (self.position.epoch, self.position.step)
    }

    /// Whether all epochs are done.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.position.epoch >= self.config.epochs
    }

    /// Most bytes of activations and their gradients alive at once so far.
    #[must_use]
    pub fn peak_activation_bytes(&self) -> usize {
        self.executor.peak_bytes()
    }

    /// Runs one epoch, or the rest of an interrupted one. `after_step` sees every step; `Break`
    /// stops cleanly behind it, and the run can be saved or go on.
    ///
    /// # Errors
    /// [`TrainError`] when the samples do not fit, an operator fails, all epochs are done, or a loss
    /// or gradient is not finite; parameters are then those after the last good step.
    pub fn epoch(
        &mut self,
        samples: &Samples,
        after_step: &mut dyn FnMut(StepReport) -> ControlFlow<()>,
    ) -> Result<EpochReport, TrainError> {
        let done = self.run_epoch(samples, after_step);
        // Also after a failed step: the good ones before it count.
        self.model.params = self.params.tensors()?;
        done
    }

    fn run_epoch(
        &mut self,
        samples: &Samples,
        after_step: &mut dyn FnMut(StepReport) -> ControlFlow<()>,
    ) -> Result<EpochReport, TrainError> {
        let batches = self.begin_epoch(samples)?;
        let order = batch::shuffled(samples.len(), self.config.seed, self.position.epoch);
        for step in self.position.step..batches.len() {
            let places = &order[batches[step].clone()];
            let (loss, grad_norm) = self.step(samples, places, batches.len())?;
            self.position.step = step + 1;
            self.position.seen += places.len();
            let sum = f64::from_bits(self.position.loss_bits) + loss * places.len() as f64;
            self.position.loss_bits = sum.to_bits();
            let report = StepReport {
                epoch: self.position.epoch,
                step,
                steps_in_epoch: batches.len(),
                samples: places.len(),
                loss,
                grad_norm,
            };
            if after_step(report).is_break() && step + 1 < batches.len() {
                return Ok(self.epoch_report(false));
            }
        }
        let report = self.epoch_report(true);
        self.position = Position {
            epoch: self.position.epoch + 1,
            ..Position::default()
        };
        Ok(report)
    }

    /// One step: batch, forward, loss, adjoint, clip, update. Nothing moves unless all of it is
    /// finite.
    fn step(
        &mut self,
        samples: &Samples,
        places: &[usize],
        steps_in_epoch: usize,
    ) -> Result<(f64, f64), TrainError> {
        let Position { epoch, step, .. } = self.position;
        let (lane, n) = (&*self.lane, places.len());
        let not_finite = |what: String| TrainError::NonFinite { epoch, step, what };

        // Batch.
        let draw = (&self.config.augment, self.config.seed, epoch, step);
        self.intake.fill(samples, places, Some(draw), &mut self.x);
        self.labels.clear();
        self.labels.extend(places.iter().map(|&i| samples.y[i]));

        // Forward and loss.
        let logits = self
            .executor
            .forward(&self.params, &self.x, n, true, lane)?;
        self.logit_grad.resize(logits.len(), 0.0);
        let grad = Some(self.logit_grad.as_mut_slice());
        let loss = softmax_cross_entropy(logits, &self.labels, self.classes, grad)?;
        if !loss.is_finite() {
            return Err(not_finite("the loss".to_owned()));
        }

        // Adjoint.
        self.executor.adjoint(
            &self.params,
            &self.x,
            &self.logit_grad,
            &mut self.grads,
            lane,
        )?;
        let norm = global_norm(self.grads.iter().map(Vec::as_slice));
        if !norm.is_finite() {
            let named = self.params.all().iter().zip(&self.grads);
            let culprit = named
                .filter(|(_, g)| g.iter().any(|v| !v.is_finite()))
                .map(|(p, _)| p.name.as_str())
                .next()
                .unwrap_or("all parameters together");
            return Err(not_finite(format!("the gradient of `{culprit}`")));
        }

        // Clip.
        if let Some(max) = self.config.clip_norm {
            let factor = clip_factor(norm, max);
            if factor < 1.0 {
                self.grads
                    .iter_mut()
                    .for_each(|g| elementwise::scale(g, factor));
            }
        }

        // Update.
        let progress =
            (epoch as f64 + step as f64 / steps_in_epoch as f64) / self.config.epochs as f64;
        let rate_factor = self.config.schedule.factor(progress);
        let statistics = self.executor.next_statistics(&self.params, n);
        self.optimizer.begin_step();
        for (i, (p, g)) in self
            .params
            .all_mut()
            .iter_mut()
            .zip(&self.grads)
            .enumerate()
        {
            if !g.is_empty() {
                self.optimizer
                    .update(i, p.role, &mut p.values, g, rate_factor);
            }
        }
        for (place, values) in statistics {
            self.params.all_mut()[place].values = values;
        }
        Ok((loss, norm))
    }

    /// Checks the samples and cuts them into this epoch's batches.
    fn begin_epoch(
        &mut self,
        samples: &Samples,
    ) -> Result<Vec<std::ops::Range<usize>>, TrainError> {
        if self.is_finished() {
            return Err(TrainError::Finished {
                epochs: self.config.epochs,
            });
        }
        let graph = self.executor.graph();
        batch::check_samples(samples, &graph.input, &self.model.info.classes)?;
        // A last sample alone joins the batch before, unless all are alone.
        let pairs = self.config.batch > 1 && uses_batch_statistics(graph, self.config.norm_mode);
        let (want, got) = (1 + usize::from(pairs), samples.len());
        if got < want {
            return Err(TrainError::TooFewSamples { want, got });
        }
        if self.position.step == 0 && self.position.seen == 0 {
            self.position.epoch_samples = got;
        } else if self.position.epoch_samples != got {
            return Err(TrainError::SamplesChanged {
                want: self.position.epoch_samples,
                got,
            });
        }
        Ok(batch::cut(got, self.config.batch, pairs))
    }

    fn epoch_report(&self, complete: bool) -> EpochReport {
        let p = &self.position;
        EpochReport {
            epoch: p.epoch,
            steps: p.step,
            samples: p.seen,
            loss: f64::from_bits(p.loss_bits) / p.seen.max(1) as f64,
            complete,
        }
    }
}

/// Number of logits, one per class.
fn classes_of(graph: &Checked, model: &Model) -> Result<usize, TrainError> {
    let output = &graph.shapes[graph.output];
    let classes = model.info.classes.len();
    match output.as_slice() {
        &[n] if n == classes => Ok(n),
        _ => Err(TrainError::Output {
            output: output.clone(),
            classes,
        }),
    }
}

fn uses_batch_statistics(graph: &Checked, mode: NormMode) -> bool {
    let mut nodes = graph.nodes.iter();
    mode == NormMode::Train && nodes.any(|n| matches!(n.op, Op::BatchNorm(_)))
}

/// Whether a batch norm would take the statistics of one single value from a batch of one sample.
fn wants_pairs(graph: &Checked, mode: NormMode) -> bool {
    let mut nodes = graph.nodes.iter().zip(&graph.shapes);
    mode == NormMode::Train
        && nodes.any(|(n, shape)| matches!(n.op, Op::BatchNorm(_)) && positions(shape) < 2)
}

/// Which parameters move, in the order of [`Checked::params`].
fn trainable(
    checked: &Checked,
    graph: &Graph,
    config: &TrainConfig,
) -> Result<Vec<bool>, TrainError> {
    let names = config.trainable.names(graph);
    let mut moves = Vec::new();
    for node in &checked.nodes {
        let rests = config.norm_mode == NormMode::Eval && matches!(node.op, Op::BatchNorm(_));
        let params = node.op.params().into_iter();
        moves.extend(
            params.map(|p| !rests && names.contains(&format!("{}.{}", node.name, p.suffix))),
        );
    }
    if !moves.contains(&true) {
        return Err(TrainError::Config(format!(
            "trainable set `{}` names no parameter of this model",
            config.trainable
        )));
    }
    Ok(moves)
}

fn check_config(config: &TrainConfig, graph: &Checked) -> Result<(), TrainError> {
    let refuse = |what: &str| Err(TrainError::Config(what.to_owned()));
    if config.batch == 0 {
        return refuse("batch must be at least 1");
    }
    if config.batch == 1 && wants_pairs(graph, config.norm_mode) {
        return refuse(
            "batch must be at least 2 while a batch norm of single values trains, or use norm_mode `frozen`",
        );
    }
    if config.clip_norm.is_some_and(|c| !c.is_finite() || c <= 0.0) {
        return refuse("clip_norm must be positive and finite");
    }
    let fault = config.optimizer.fault();
    match fault.or_else(|| config.augment.fault(graph.input[0])) {
        Some(fault) => Err(TrainError::Config(fault)),
        None => Ok(()),
    }
}
