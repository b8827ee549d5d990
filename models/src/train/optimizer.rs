//! Optimizers with PyTorch's semantics, and gradient clipping.

use serde::{Deserialize, Serialize};

use crate::kernel::{elementwise, simd};
use crate::ops::ParamRole;

/// Which optimizer, with its settings. Weight decay acts on [`ParamRole::Weight`] only.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// Stochastic gradient descent: `v = momentum v + (g + decay p)`, `p -= rate v`.
    Sgd {
        /// Step length.
        learning_rate: f32,
        /// Share of the old velocity; 0 for none.
        momentum: f32,
        /// L2 decay added to the gradient; 0 for none.
        weight_decay: f32,
    },
    /// AdamW (Loshchilov and Hutter 2019): decay is applied to the parameter, not the gradient.
    #[serde(rename = "adamw")]
    AdamW {
        /// Step length.
        learning_rate: f32,
        /// Share of the old first moment.
        beta1: f32,
        /// Share of the old second moment.
        beta2: f32,
        /// Added to the root of the second moment.
        eps: f32,
        /// Decay per unit of step length; 0 for none.
        weight_decay: f32,
    },
}

impl OptimizerConfig {
    /// Step length before the schedule.
    #[must_use]
    pub fn learning_rate(&self) -> f32 {
        match *self {
            Self::Sgd { learning_rate, .. } | Self::AdamW { learning_rate, .. } => learning_rate,
        }
    }

    /// Names of the values kept per parameter.
    #[must_use]
    pub fn moments(&self) -> &'static [&'static str] {
        match self {
            Self::Sgd { momentum, .. } if *momentum == 0.0 => &[],
            Self::Sgd { .. } => &["velocity"],
            Self::AdamW { .. } => &["first", "second"],
        }
    }

    /// What is wrong with the settings, if anything.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let share = |name: &str, v: f32| {
            (!(0.0..1.0).contains(&v)).then(|| format!("{name} must be in 0..1, got {v}"))
        };
        let positive = |name: &str, v: f32, may_be_zero: bool| {
            let fits = v.is_finite() && (v > 0.0 || (may_be_zero && v == 0.0));
            (!fits).then(|| format!("{name} must be positive and finite, got {v}"))
        };
        match *self {
            Self::Sgd {
                learning_rate,
                momentum,
                weight_decay,
            } => positive("learning_rate", learning_rate, false)
                .or_else(|| share("momentum", momentum))
                .or_else(|| positive("weight_decay", weight_decay, true)),
            Self::AdamW {
                learning_rate,
                beta1,
                beta2,
                eps,
                weight_decay,
            } => positive("learning_rate", learning_rate, false)
                .or_else(|| share("beta1", beta1))
                .or_else(|| share("beta2", beta2))
                .or_else(|| positive("eps", eps, false))
                .or_else(|| positive("weight_decay", weight_decay, true)),
        }
    }
}

/// An optimizer with its moments.
#[derive(Debug, Clone, PartialEq)]
pub struct Optimizer {
    config: OptimizerConfig,
    /// Steps taken.
    steps: u64,
    /// For each parameter the moments of [`OptimizerConfig::moments`]; empty for those at rest.
    moments: Vec<Vec<Vec<f32>>>,
}

impl Optimizer {
    /// An optimizer at rest; `lens[i]` is the length of parameter `i`, 0 for one that never moves.
    #[must_use]
    pub fn new(config: OptimizerConfig, lens: &[usize]) -> Self {
        let each = config.moments().len();
        let moments = lens
            .iter()
            .map(|&n| {
                if n == 0 {
                    Vec::new()
                } else {
                    vec![vec![0.0; n]; each]
                }
            })
            .collect();
        Self {
            config,
            steps: 0,
            moments,
        }
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    /// Steps taken.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Moments of parameter `i`, in the order of [`OptimizerConfig::moments`].
    #[must_use]
    pub fn moments(&self, i: usize) -> &[Vec<f32>] {
        &self.moments[i]
    }

    /// Puts saved state back.
    pub(super) fn restore(&mut self, steps: u64, moments: Vec<Vec<Vec<f32>>>) {
        self.steps = steps;
        self.moments = moments;
    }

    /// Opens a step; [`Optimizer::update`] follows for each parameter.
    pub fn begin_step(&mut self) {
        self.steps += 1;
    }

    /// Moves parameter `i`; `rate_factor` is the schedule's share of the learning rate.
    pub fn update(
        &mut self,
        i: usize,
        role: ParamRole,
        p: &mut [f32],
        g: &[f32],
        rate_factor: f32,
    ) {
        let decays = role == ParamRole::Weight;
        match self.config {
            OptimizerConfig::Sgd {
                learning_rate,
                momentum,
                weight_decay,
            } => {
                let rate = learning_rate * rate_factor;
                let decay = if decays { weight_decay } else { 0.0 };
                match self.moments[i].as_mut_slice() {
                    [velocity] => sgd_with_momentum(p, g, velocity, rate, momentum, decay),
                    _ => simd(
                        #[inline(always)]
                        || {
                            for (p, g) in p.iter_mut().zip(g) {
                                *p -= rate * (g + decay * *p);
                            }
                        },
                    ),
                }
            }
            OptimizerConfig::AdamW {
                learning_rate,
                beta1,
                beta2,
                eps,
                weight_decay,
            } => {
                let rate = learning_rate * rate_factor;
                let decay = if decays { weight_decay } else { 0.0 };
                let correction = |beta: f32| 1.0 - f64::from(beta).powf(self.steps as f64);
                let step = (f64::from(rate) / correction(beta1)) as f32;
                let root = correction(beta2).sqrt() as f32;
                let shrink = 1.0 - rate * decay;
                let [first, second] = self.moments[i].as_mut_slice() else {
                    return;
                };
                simd(
                    #[inline(always)]
                    || {
                        let moments = first.iter_mut().zip(second.iter_mut());
                        for ((p, &g), (m, v)) in p.iter_mut().zip(g).zip(moments) {
                            *p *= shrink;
                            *m = beta1 * *m + (1.0 - beta1) * g;
                            *v = beta2 * *v + (1.0 - beta2) * g * g;
                            *p -= step * *m / (v.sqrt() / root + eps);
                        }
                    },
                );
            }
        }
    }
}

fn sgd_with_momentum(
    p: &mut [f32],
    g: &[f32],
    velocity: &mut [f32],
    rate: f32,
    momentum: f32,
    decay: f32,
) {
    simd(
        #[inline(always)]
        || {
            for ((p, g), v) in p.iter_mut().zip(g).zip(velocity.iter_mut()) {
                *v = momentum * *v + (g + decay * *p);
                *p -= rate * *v;
            }
        },
    );
}

/// Euclidean norm over all gradients together.
#[must_use]
pub fn global_norm<'a>(grads: impl IntoIterator<Item = &'a [f32]>) -> f64 {
    grads
        .into_iter()
        .map(elementwise::sum_of_squares)
        .sum::<f64>()
        .sqrt()
}

/// Factor that brings a gradient of this norm down to `max` (PyTorch's `clip_grad_norm_`).
#[must_use]
pub fn clip_factor(norm: f64, max: f32) -> f32 {
    (f64::from(max) / (norm + 1e-6)).min(1.0) as f32
}
