//! Training in one place: the cloud's pretraining, and the baselines a demo compares with.

use std::{ops::ControlFlow, sync::Arc};

use clap::{
    ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use indicatif::ProgressBar;
use lamplight_agent::source::SourceInfo;
use lamplight_models::{
    lane::CpuLane,
    model::{Model, ModelInfo},
    ops::NormMode,
    samples::Samples,
    train::{Augment, OptimizerConfig, Precision, Schedule, TrainConfig, Trainer, evaluate},
    zoo::{Architecture, Norm},
};

/// Takes the names of networks, with what they are for.
fn architectures() -> impl TypedValueParser<Value = Architecture> {
    let known = Architecture::ALL.map(|a| PossibleValue::new(a.name()).help(a.about()));
    PossibleValuesParser::new(known).try_map(|name| name.parse::<Architecture>())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NormName {
    /// Group norm: nothing to freeze on nodes
    Group,
    /// Batch norm: frozen on nodes by default
    Batch,
}

/// How to train from scratch.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Recipe {
    /// The network
    #[arg(long, value_parser = architectures(), default_value = "tcn")]
    pub(crate) architecture: Architecture,
    /// Norm after each convolution
    #[arg(long, value_enum, default_value = "group")]
    pub(crate) norm: NormName,
    /// Passes over the samples
    #[arg(long, default_value_t = 30)]
    pub(crate) epochs: u32,
    /// Samples in a step
    #[arg(long, default_value_t = 32)]
    pub(crate) batch: u32,
    /// Step size of AdamW, falling to zero along half a cosine
    #[arg(long, default_value_t = 2e-3)]
    pub(crate) learning_rate: f32,
    /// Decoupled weight decay
    #[arg(long, default_value_t = 1e-2)]
    pub(crate) weight_decay: f32,
    /// Rotate every x, y, z channel triple by up to this angle, about a random axis per sample
    #[arg(long, default_value_t = 0.0)]
    pub(crate) rotate_deg: f32,
    /// Seed of initial parameters, shuffling and augmentation
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// CPU threads
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            architecture: Architecture::Tcn,
            norm: NormName::Group,
            epochs: 30,
            batch: 32,
            learning_rate: 2e-3,
            weight_decay: 1e-2,
            rotate_deg: 0.0,
            seed: 1,
            threads: 1,
        }
    }
}

/// Trains a fresh model on these samples; normalisation comes from them alone.
pub(crate) fn pretrain(
    recipe: &Recipe,
    source: &SourceInfo,
    samples: &Samples,
    bar: &ProgressBar,
) -> anyhow::Result<Model> {
    anyhow::ensure!(
        !samples.is_empty(),
        "the source has no samples to train on; name another, or leave out what limits it"
    );
    let norm = match recipe.norm {
        NormName::Group => Norm::Group { groups: 8 },
        NormName::Batch => Norm::Batch,
    };
    let name = recipe.architecture.name();
    let graph = (recipe.architecture).graph(&source.window, source.classes.len(), norm)?;
    let (input_mean, input_std) = samples.channel_statistics()?;
    let info = ModelInfo {
        architecture: name.to_owned(),
        input_mean,
        input_std,
        channels: source.channels.clone(),
        sampling_rate_hz: source.sampling_rate_hz,
        image: source.image,
        classes: source.classes.clone(),
        ..ModelInfo::default()
    };
    let model = Model::init(graph, info, recipe.seed)?;
    let config = TrainConfig {
        trainable: Default::default(),
        epochs: recipe.epochs as usize,
        batch: recipe.batch as usize,
        optimizer: OptimizerConfig::AdamW {
            learning_rate: recipe.learning_rate,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: recipe.weight_decay,
        },
        clip_norm: Some(1.0),
        schedule: Schedule::Cosine,
        norm_mode: NormMode::Train,
        augment: Augment::rotating(recipe.rotate_deg, &source.channels),
        precision: Precision::default(),
        seed: recipe.seed,
    };
    train(model, config, samples, recipe.threads, bar)
}

/// Trains a model for all its epochs, with a bar of steps.
pub(crate) fn train(
    model: Model,
    config: TrainConfig,
    samples: &Samples,
    threads: usize,
    bar: &ProgressBar,
) -> anyhow::Result<Model> {
    let epochs = config.epochs;
    let mut trainer = Trainer::new(model, config, Arc::new(CpuLane::new(threads)))?;
    for _ in 0..epochs {
        trainer.epoch(samples, &mut |step| {
            bar.set_length((epochs * step.steps_in_epoch) as u64);
            bar.inc(1);
            bar.set_message(format!("loss {:.3}", step.loss));
            ControlFlow::Continue(())
        })?;
    }
    Ok(trainer.into_model())
}

/// Share of samples classified as labelled.
pub(crate) fn accuracy(model: &Model, samples: &Samples) -> anyhow::Result<f64> {
    let samples = samples.in_classes_of(&model.info.classes)?;
    Ok(evaluate(model, &samples, &CpuLane::new(1))?.accuracy)
}
