//! Where training begins: at the task's checkpoint, or at the base; and whether its memory suffices.
//!
//! The owner's [`Settings::precision`] counts for a task that begins. One that has a checkpoint goes on in
//! the numbers it began with: half a run in either would be a run that nobody could repeat, and to
//! start over would throw away what was learned.

use std::sync::Arc;

use lamplight_models::{
    lane::Lane,
    model::Model,
    samples::Samples,
    train::{Footprint, Precision, TrainConfig, TrainError, Trainer},
};
use lamplight_proto::{cause::Measure, offer::RoundOffer};

use super::{
    checkpoint::{self, Header},
    task::{LearnError, Settings, measure, train_config},
};

/// A task whose samples have been read.
pub(super) struct Task<'a> {
    pub(super) base: &'a Model,
    pub(super) offer: &'a RoundOffer,
    pub(super) settings: &'a Settings,
    pub(super) lane: &'a Arc<dyn Lane>,
    /// Under the model's class numbers.
    pub(super) train: &'a Samples,
    /// See `train`.
    pub(super) held_out: &'a Samples,
}

impl Task<'_> {
    /// A trainer at the task's checkpoint, whose header then replaces `header`, or at the beginning with
    /// the base evaluated.
    ///
    /// # Errors
    /// [`LearnError::Beyond`] when the memory does not suffice; otherwise as the base or the samples
    /// have it. A checkpoint of no use is none: it is logged, and the task starts over.
    pub(super) fn begin(&self, header: &mut Header) -> Result<Trainer, LearnError> {
        if let Some((trainer, saved)) = self.go_on(header)? {
            *header = saved;
            return Ok(trainer);
        }
        let config = self.config(self.settings.precision);
        self.fits(&config)?;
        header.before = measure("before", self.base, self.held_out, &**self.lane)?;
        let trainer = Trainer::new(self.base.clone(), config, self.lane.clone())?;
        let precision = trainer.config().precision;
        tracing::info!(round = %self.offer.round, %precision, "training begins");
        if precision == Precision::Bf16 && !self.lane.host().isa().multiplies_bf16() {
            tracing::warn!(
                "this processor has no instructions for bf16: it saves memory and costs time"
            );
        }
        Ok(trainer)
    }

    /// The trainer at the checkpoint and what the file says beside it; `None` where there is none of use.
    fn go_on(&self, header: &Header) -> Result<Option<(Trainer, Header)>, LearnError> {
        let round = self.offer.round;
        let over = |why: &dyn std::fmt::Display| {
            tracing::warn!(%round, "training starts over; its checkpoint is of no use: {why}");
            Ok(None)
        };
        let (saved, bytes) = match checkpoint::read(&self.settings.checkpoint, header) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(e) => return over(&e),
        };
        let precision = match Trainer::precision_of(&bytes) {
            Ok(precision) => precision,
            Err(e) => return over(&e),
        };
        let config = self.config(precision);
        self.fits(&config)?;
        let trainer = match Trainer::resume(self.base.clone(), config, self.lane.clone(), &bytes) {
            Ok(trainer) => trainer,
            Err(e) => return over(&e),
        };
        let (epoch, step) = trainer.position();
        tracing::info!(%round, epoch, step, %precision, "training goes on");
        let wanted = self.settings.precision;
        if wanted.settled(&**self.lane) != precision {
            tracing::info!(
                %round,
                "this task began in {precision} and keeps to it; training.precision is {wanted}, which \
                 counts from the next task on"
            );
        }
        Ok(Some((trainer, saved)))
    }

    fn config(&self, precision: Precision) -> TrainConfig {
        train_config(&self.offer.training, &self.base.info.channels, precision)
    }

    fn fits(&self, config: &TrainConfig) -> Result<(), LearnError> {
        within_memory(self.offer, self.settings, || {
            Footprint::of(self.base, config, self.lane, self.train, self.held_out)
        })
    }
}

/// Refuses what would not fit the memory in any case, before any of so many samples is read.
///
/// # Errors
/// [`LearnError::Beyond`], [`LearnError::Train`] where the base cannot be trained like this.
pub(super) fn least(
    base: &Model,
    offer: &RoundOffer,
    settings: &Settings,
    train: usize,
    held_out: usize,
) -> Result<(), LearnError> {
    // What lies there may have begun in either; of `auto` the least is that of the smaller one.
    let precision = if settings.checkpoint.exists() {
        Precision::Auto
    } else {
        settings.precision
    };
    let config = train_config(&offer.training, &base.info.channels, precision);
    within_memory(offer, settings, || {
        Footprint::least(base, &config, train, held_out)
    })
}

/// Refuses what is more than task and node allow, and asks for no footprint where nothing is bounded: a
/// process that is killed for memory loses more than a task.
fn within_memory(
    offer: &RoundOffer,
    settings: &Settings,
    footprint: impl FnOnce() -> Result<Footprint, TrainError>,
) -> Result<(), LearnError> {
    const MIB: u64 = 1 << 20;
    let Some(allowed) = settings.bounds.memory_bytes else {
        return Ok(());
    };
    let footprint = footprint()?;
    let needed = footprint.total();
    tracing::info!(round = %offer.round, needed, allowed, ?footprint, "memory of training, bytes");
    if needed > allowed {
        return Err(LearnError::Beyond {
            measure: Measure::MemoryMib,
            needed: needed.div_ceil(MIB),
            allowed: allowed / MIB,
        });
    }
    Ok(())
}
