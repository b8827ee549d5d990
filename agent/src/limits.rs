//! What this node allows, whatever a task asks.
//!
//! A task states a budget, the node's own configuration states limits; [`Limits::bounds`] brings them
//! together, and it can only take away.

use std::collections::BTreeSet;

use lamplight_proto::{
    budget::{Bounds, Budget, Hours},
    cause::{Exceeded, Limit, Measure, Told},
    ids::ModelName,
    offer::RoundOffer,
};

/// What the node's owner allows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Limits {
    /// What one task may use, at most.
    pub budget: Budget,
    /// Models whose tasks are taken up; `None` means any.
    pub models: Option<BTreeSet<ModelName>>,
    /// What this machine draws while it trains, where no counter tells. Watts.
    pub assumed_power_watts: Option<f64>,
}

/// Why an offer goes beyond what may be used here. The node's configuration is its owner's, and what
/// it says in full stays here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Beyond {
    /// The owner does not lend the node to this model.
    #[error("this node's limits.models does not name {0}; add it there to take part")]
    Model(ModelName),
    /// Model and delta are too much for the network.
    #[error(
        "the task moves {needed} bytes, {allowed} are allowed; raise transfer_mib in the task or in this node's limits"
    )]
    Transfer {
        /// Bytes of model and delta.
        needed: u64,
        /// Bytes allowed.
        allowed: u64,
    },
    /// Task and node never both allow training.
    #[error("training is allowed {0}, which is never; change the task's or this node's hours")]
    Never(Hours),
    /// An energy budget that nothing can measure.
    #[error(
        "the task has an energy budget, and this machine has no power counters; set limits.assumed_power_watts"
    )]
    NoMeter,
}

impl Beyond {
    /// What of it leaves the node.
    #[must_use]
    pub fn told(&self) -> Told {
        match self {
            Self::Model(_) => Told::Limits(Some(Limit::Model)),
            Self::Never(_) => Told::Limits(Some(Limit::Hours)),
            Self::NoMeter => Told::Limits(Some(Limit::NoMeter)),
            Self::Transfer { needed, allowed } => Told::Budget(Some(Exceeded {
                measure: Measure::TransferBytes,
                needed: *needed,
                allowed: *allowed,
            })),
        }
    }
}

impl Limits {
    /// What a task with this budget may use here.
    #[must_use]
    pub fn bounds(&self, task: &Budget) -> Bounds {
        task.narrowed(&self.budget)
    }

    /// Whether a task may be begun here at all, with what is known before it is: whether its base is here
    /// already, and whether anything measures energy.
    ///
    /// # Errors
    /// [`Beyond`], saying what is too much.
    pub fn allow(
        &self,
        offer: &RoundOffer,
        has_base: bool,
        has_meter: impl FnOnce() -> bool,
    ) -> Result<(), Beyond> {
        if let Some(models) = &self.models
            && !models.contains(&offer.model)
        {
            return Err(Beyond::Model(offer.model.clone()));
        }
        let bounds = self.bounds(&offer.budget);
        let pulled = if has_base { 0 } else { offer.base_size };
        let needed = pulled.saturating_add(offer.max_delta_bytes);
        if let Some(allowed) = bounds.transfer_bytes
            && needed > allowed
        {
            return Err(Beyond::Transfer { needed, allowed });
        }
        if !bounds.hours.ever() {
            return Err(Beyond::Never(bounds.hours));
        }
        if bounds.energy_joules.is_some() && !has_meter() {
            return Err(Beyond::NoMeter);
        }
        Ok(())
    }
}
