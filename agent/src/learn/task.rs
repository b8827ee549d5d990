//! The task itself: load, evaluate, fine-tune, evaluate, subtract.

use std::{
    fs, io,
    ops::ControlFlow,
    path::PathBuf,
    time::{Duration, Instant},
};

use lamplight_models::{
    delta::{Delta, DeltaError, table_of},
    image::ImageInput,
    lane::{Lane, LaneError, LaneKind, open},
    model::Model,
    ops::NormMode as Norms,
    quant::gguf::{self, GgufError},
    samples::{Aside, Samples, SamplesError},
    train::{
        Augment, Evaluation, OptimizerConfig, Precision, Schedule as Course, TrainConfig,
        TrainError, Trainable, Trainer, evaluate,
    },
};
use lamplight_proto::{
    budget::Bounds,
    cause::Measure,
    delta::{MAX_NAME_BYTES, MAX_TENSORS, Metrics, TensorEntry},
    ids::{Digest, Hasher},
    offer::{self, Codec, NormMode, Optimizer, RoundOffer, Schedule, Training},
};

use super::{
    begin::{self, Task},
    checkpoint::{self, Header},
    fit::{self, Misfit},
};
use crate::{
    power::Meter,
    source::{SampleSource, SourceError},
};

/// What a task needs from the node.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The base model's file, whole and checked.
    pub base: PathBuf,
    /// Where training under way is kept.
    pub checkpoint: PathBuf,
    /// How often, beside the end of every epoch.
    pub checkpoint_every: Duration,
    /// Where matrix products run.
    pub device: LaneKind,
    /// Threads of the CPU a product may use.
    pub threads: usize,
    /// In which numbers steps calculate. A task that has a checkpoint keeps those it began with.
    pub precision: Precision,
    /// What task and node together allow.
    pub bounds: Bounds,
    /// What the machine draws where no counter tells. Watts.
    pub assumed_power_watts: Option<f64>,
    /// Where the kernel shows its power counters.
    pub powercap: PathBuf,
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Progress {
    /// Steps done over all epochs.
    pub step: u32,
    /// Steps of all epochs.
    pub steps: u32,
    /// Mean loss of the last batch.
    pub loss: f64,
}

/// What a task came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Learned {
    /// The delta's file.
    pub delta: Vec<u8>,
    /// What is inside.
    pub tensors: Vec<TensorEntry>,
    /// Samples trained on.
    pub sample_count: u64,
    /// Samples, to train on and held out, of classes that the base does not have.
    pub aside: Aside,
    /// On the held-out samples, before and after; absent when there are none.
    pub before: Option<Metrics>,
    /// See `before`.
    pub after: Option<Metrics>,
    /// In which numbers training calculated: never [`Precision::Auto`].
    pub precision: Precision,
    /// Wall time of training, interruptions left out.
    pub training_seconds: f64,
}

/// Why there is no delta.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// Somebody asked to stop. Training under way is saved.
    #[error("stopped on request")]
    Stopped,
    /// The device is not there.
    #[error(transparent)]
    Lane(#[from] LaneError),
    /// A file of the task could not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// Which file.
        what: String,
        /// What the system says.
        source: io::Error,
    },
    /// The base model is no model.
    #[error("the base model cannot be read: {0}")]
    Base(#[from] GgufError),
    /// The node's data cannot be had.
    #[error("the node's data: {0}")]
    Source(#[from] SourceError),
    /// Model and data do not fit.
    #[error("the node's data does not fit the model: {0}")]
    Misfit(#[from] Misfit),
    /// The node's samples are not what they should be.
    #[error("the node's samples: {0}")]
    Samples(#[from] SamplesError),
    /// Nothing to learn from.
    #[error("the source has no samples to train on")]
    NoSamples,
    /// Nothing to learn from as long as the model has these classes.
    #[error(
        "all {samples} samples to train on are of classes that the model does not have: {}; they are \
         kept aside until a release has one of them",
        listed(aside)
    )]
    AllAside {
        /// Samples to train on.
        samples: u64,
        /// All samples kept aside, the held-out ones among them.
        aside: Aside,
    },
    /// More than task and node allow.
    #[error(
        "{needed} {measure} are needed, {allowed} are allowed; raise the budget of the task or the limits of this node, or train less at once"
    )]
    Beyond {
        /// Of what.
        measure: Measure,
        /// How much.
        needed: u64,
        /// The bound.
        allowed: u64,
    },
    /// An energy budget that nothing can measure.
    #[error(
        "the task may draw {0} J, and this machine has no power counters; set limits.assumed_power_watts"
    )]
    NoMeter(f64),
    /// Training failed, e.g. by a loss that is not finite.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The model is of no use, though every step was finite.
    #[error("the loss on held-out samples {when} training is {loss}; try a lower learning rate")]
    NonFinite {
        /// `before` or `after`.
        when: &'static str,
        /// The loss.
        loss: f64,
    },
    /// The delta could not be made.
    #[error("the delta: {0}")]
    Delta(#[from] DeltaError),
    /// The delta is larger than the offer allows.
    #[error("the delta has {got} bytes, the offer allows {max}")]
    TooLarge {
        /// Bytes of the delta.
        got: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// The model has more, or longer named, tensors than a manifest may list.
    #[error(
        "the model's delta has {got} tensors; a manifest lists at most {MAX_TENSORS}, with names of at most {MAX_NAME_BYTES} bytes"
    )]
    Table {
        /// Tensors of the delta.
        got: usize,
    },
}

fn listed(aside: &Aside) -> String {
    let names: Vec<&str> = aside.keys().map(String::as_str).collect();
    names.join(", ")
}

/// The trainer's settings for an offer. The numbers are not the offer's: a node's owner chooses them.
#[must_use]
pub fn train_config(t: &Training, channels: &[String], precision: Precision) -> TrainConfig {
    let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    TrainConfig {
        epochs: size(t.epochs),
        batch: size(t.batch),
        optimizer: match t.optimizer {
            Optimizer::Sgd {
                learning_rate,
                momentum,
                weight_decay,
            } => OptimizerConfig::Sgd {
                learning_rate,
                momentum,
                weight_decay,
            },
            Optimizer::AdamW {
                learning_rate,
                beta1,
                beta2,
                eps,
                weight_decay,
            } => OptimizerConfig::AdamW {
                learning_rate,
                beta1,
                beta2,
                eps,
                weight_decay,
            },
        },
        clip_norm: t.clip_norm,
        schedule: match t.schedule {
            Schedule::Constant => Course::Constant,
            Schedule::Cosine => Course::Cosine,
        },
        trainable: moving(t.trainable),
        norm_mode: match t.norm_mode {
            NormMode::Train => Norms::Train,
            NormMode::Frozen => Norms::Frozen,
        },
        augment: Augment::rotating(t.rotate_deg, channels),
        precision,
        seed: t.seed,
    }
}

/// The parameters that move, as the trainer knows them.
fn moving(set: offer::Trainable) -> Trainable {
    match set {
        offer::Trainable::All => Trainable::All,
        offer::Trainable::Head => Trainable::Head,
        offer::Trainable::Bias => Trainable::Bias,
        offer::Trainable::Norm => Trainable::Norm,
    }
}

/// Opens the node's data as the model wants it: images scaled and cropped by its rule.
pub type OpenSource<'a> =
    dyn Fn(Option<&ImageInput>) -> Result<Box<dyn SampleSource>, SourceError> + 'a;

/// Does the task: `after_step` sees every step; `Break` saves and ends it as
/// [`LearnError::Stopped`].
///
/// `open_source` opens the node's data for a model that takes images like this.
///
/// A usable checkpoint of the same task is gone on from; an unusable one is logged and the task
/// starts over.
///
/// # Errors
/// [`LearnError`]; all but `Stopped` end the task.
pub fn learn(
    offer: &RoundOffer,
    settings: &Settings,
    open_source: &OpenSource<'_>,
    after_step: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Learned, LearnError> {
    // 1. The base, exactly as its file says: what the delta is taken against.
    let bytes = fs::read(&settings.base).map_err(|source| LearnError::Io {
        what: settings.base.display().to_string(),
        source,
    })?;
    let base = gguf::read(&bytes)?;
    drop(bytes);

    // 2. The node's samples, as the model wants images and under its class numbers; those whose class
    //    it does not have stay aside. What would not fit the memory in any case is not even read.
    let image = base.image_input().map_err(|e| GgufError::Model(e.into()))?;
    let source = open_source(image.as_ref())?;
    fit::check(&base, &source.describe())?;
    let (to_train, to_hold) = source.counts();
    begin::least(&base, offer, settings, to_train, to_hold)?;
    let Sorted {
        train,
        held_out,
        aside,
    } = sort(offer, &*source, &base.info.classes)?;

    // 3. Begin, or go on where the last checkpoint stands.
    let lane = open(settings.device, settings.threads)?;
    let mut header = Header::new(offer.lease, offer.base_digest, digest(&train), None);
    let mut meter = match settings.bounds.energy_joules {
        None => None,
        Some(joules) => Some((
            joules,
            Meter::open(&settings.powercap, settings.assumed_power_watts)
                .ok_or(LearnError::NoMeter(joules))?,
        )),
    };
    let task = Task {
        base: &base,
        offer,
        settings,
        lane: &lane,
        train: &train,
        held_out: &held_out,
    };
    let mut trainer = task.begin(&mut header)?;
    let precision = trainer.config().precision;

    // 4. Fine-tune.
    let first = after_step(progress(&trainer, &train, 0.0));
    if first.is_break() {
        return Err(LearnError::Stopped);
    }
    run(
        &mut trainer,
        settings,
        &train,
        &mut header,
        offer,
        meter.as_mut(),
        after_step,
    )?;

    // 5. Is it any better?
    let tuned = trainer.into_model();
    let after = measure("after", &tuned, &held_out, &*lane)?;

    // 6. What leaves the node.
    let table = table_of(&base, moving(offer.training.trainable));
    let delta = Delta::over(&table, &base, &tuned)?;
    let tensors: Vec<TensorEntry> = delta
        .tensors
        .iter()
        .map(|(name, (shape, _))| TensorEntry {
            name: name.clone(),
            shape: shape.iter().map(|&d| d as u64).collect(),
        })
        .collect();
    let long = tensors.iter().any(|t| t.name.len() > MAX_NAME_BYTES);
    if long || tensors.is_empty() || tensors.len() > MAX_TENSORS {
        return Err(LearnError::Table { got: tensors.len() });
    }
    let delta = match offer.codec {
        Codec::F32 => delta.to_bytes(),
    };
    let (got, max) = (delta.len() as u64, offer.max_delta_bytes);
    if got > max {
        return Err(LearnError::TooLarge { got, max });
    }
    Ok(Learned {
        delta,
        tensors,
        sample_count: train.len() as u64,
        aside,
        before: header.before,
        after,
        precision,
        training_seconds: header.training_seconds,
    })
}

/// A node's samples as a model can use them.
struct Sorted {
    /// Under the model's class numbers, never empty.
    train: Samples,
    /// Under the model's class numbers.
    held_out: Samples,
    /// The rest.
    aside: Aside,
}

/// Reads the samples and puts those aside whose class the base does not have. The source is not
/// touched, so they are there again when a later release has their class.
fn sort(
    offer: &RoundOffer,
    source: &dyn SampleSource,
    classes: &[String],
) -> Result<Sorted, LearnError> {
    let (train, mut aside) = source.train()?.set_aside(classes)?;
    let samples = aside.values().sum();
    let (held_out, more) = source.held_out()?.set_aside(classes)?;
    for (class, samples) in more {
        *aside.entry(class).or_default() += samples;
    }
    for (class, samples) in &aside {
        tracing::warn!(
            round = %offer.round,
            "kept aside: {samples} samples of `{class}`, not a class of {} version {}",
            offer.model,
            offer.base_version
        );
    }
    if !train.is_empty() {
        return Ok(Sorted {
            train,
            held_out,
            aside,
        });
    }
    Err(match samples {
        0 => LearnError::NoSamples,
        samples => LearnError::AllAside { samples, aside },
    })
}

/// All epochs, with checkpoints; fewer when the energy is spent, for what was learned with it is worth
/// sending.
fn run(
    trainer: &mut Trainer,
    settings: &Settings,
    train: &Samples,
    header: &mut Header,
    offer: &RoundOffer,
    mut meter: Option<&mut (f64, Meter)>,
    after_step: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), LearnError> {
    let before = header.energy_joules;
    let mut since = Instant::now();
    let mut checkpointed = Instant::now();
    while !trainer.is_finished() {
        let (mut stop, mut spent) = (false, false);
        let mut drawn = before;
        if let Some((allowed, _)) = meter.as_deref()
            && before >= *allowed
        {
            break;
        }
        let (epochs, every) = (trainer.config().epochs, settings.checkpoint_every);
        trainer.epoch(train, &mut |report| {
            let done = report.epoch * report.steps_in_epoch + report.step + 1;
            let progress = Progress {
                step: small(done),
                steps: small(epochs * report.steps_in_epoch),
                loss: report.loss,
            };
            stop = after_step(progress).is_break();
            if let Some((allowed, meter)) = meter.as_deref_mut() {
                drawn = before + meter.joules();
                spent = drawn >= *allowed;
            }
            if stop || spent || checkpointed.elapsed() >= every {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        header.training_seconds += since.elapsed().as_secs_f64();
        since = Instant::now();
        header.energy_joules = drawn;
        // Here at the end of every epoch, and whenever the loop was left: time is up, or a stop.
        let bytes = trainer.save()?;
        checkpoint::write(&settings.checkpoint, header, &bytes).map_err(|source| {
            LearnError::Io {
                what: settings.checkpoint.display().to_string(),
                source,
            }
        })?;
        checkpointed = Instant::now();
        if stop {
            tracing::info!(round = %offer.round, "training stopped and saved");
            return Err(LearnError::Stopped);
        }
        if spent && !trainer.is_finished() {
            let (epoch, step) = trainer.position();
            tracing::warn!(round = %offer.round, epoch, step, drawn, "the energy budget is spent; training ends here");
            break;
        }
    }
    if trainer.position() == (0, 0)
        && let Some((allowed, _)) = meter
    {
        return Err(LearnError::Beyond {
            measure: Measure::EnergyJoules,
            needed: before.ceil() as u64,
            allowed: *allowed as u64,
        });
    }
    Ok(())
}

fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn progress(trainer: &Trainer, train: &Samples, loss: f64) -> Progress {
    let config = trainer.config();
    let per_epoch = train.len().div_ceil(config.batch);
    let (epoch, step) = trainer.position();
    Progress {
        step: small(epoch * per_epoch + step),
        steps: small(config.epochs * per_epoch),
        loss,
    }
}

pub(super) fn measure(
    when: &'static str,
    model: &Model,
    held_out: &Samples,
    lane: &dyn Lane,
) -> Result<Option<Metrics>, LearnError> {
    if held_out.is_empty() {
        return Ok(None);
    }
    let e: Evaluation = evaluate(model, held_out, lane)?;
    if !e.loss.is_finite() {
        return Err(LearnError::NonFinite { when, loss: e.loss });
    }
    Ok(Some(Metrics {
        samples: e.samples as u64,
        // A sum of rounding errors may fall a hair below nothing.
        loss: e.loss.max(0.0),
        accuracy: e.accuracy,
    }))
}

/// Tells one set of samples from another: a checkpoint belongs to the samples it was made on.
fn digest(samples: &Samples) -> Digest {
    let mut hasher = Hasher::new();
    for d in &samples.shape {
        hasher.update(&(*d as u64).to_le_bytes());
    }
    // In blocks: one call per value costs more than the hashing.
    let mut block = Vec::with_capacity(1 << 16);
    for part in samples.x.chunks(1 << 14) {
        block.clear();
        block.extend(part.iter().flat_map(|v| v.to_le_bytes()));
        hasher.update(&block);
    }
    for part in samples.y.chunks(1 << 14) {
        block.clear();
        block.extend(part.iter().flat_map(|v| v.to_le_bytes()));
        hasher.update(&block);
    }
    hasher.finish()
}
