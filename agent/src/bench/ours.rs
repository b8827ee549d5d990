//! Our side: the trainer or the predictor over noise.

use std::{ops::ControlFlow, sync::Arc, time::Instant};

use lamplight_models::{
    lane::Lane,
    ops::NormMode,
    samples::Samples,
    train::{Augment, OptimizerConfig, Predictor, Schedule, TrainConfig, Trainable, Trainer},
};

use super::{BenchError, Mode, Plan, process::Process, report::Memory, timing::Side};

/// Steps before anything is timed: buffers and caches are then as they stay.
const WARM_UP: usize = 3;

/// Values of all samples at most, unless two batches have more: 64 MiB.
const VALUES: usize = 16 << 20;

/// Batches at most; more would make no difference to a step.
const BATCHES: usize = 8;

enum Work<'a> {
    Step(Box<Trainer>),
    Infer(Box<Predictor<'a>>),
}

pub(super) struct Ours<'a> {
    work: Work<'a>,
    samples: Samples,
    batch: usize,
    /// Size of the process before there was a model.
    start: Option<u64>,
    /// Place of the next batch to infer.
    next: usize,
}

impl<'a> Ours<'a> {
    pub(super) fn prepare(plan: &Plan, lane: &'a Arc<dyn Lane>) -> Result<Self, BenchError> {
        let start = Process::own().resident();
        let samples = samples(plan);
        let model = plan.model()?;
        let work = match plan.mode {
            Mode::Step => {
                let trainer = Trainer::new(model, settings(plan), Arc::clone(lane))?;
                Work::Step(Box::new(trainer))
            }
            Mode::Infer => {
                let predictor = Predictor::with_precision(&model, &**lane, plan.precision)?;
                Work::Infer(Box::new(predictor))
            }
        };
        Ok(Self {
            work,
            samples,
            batch: plan.batch,
            start,
            next: 0,
        })
    }

    /// Runs the first steps and says what memory they took.
    pub(super) fn warm_up(&mut self) -> Result<Memory, BenchError> {
        let own = Process::own();
        let before = own.resident();
        own.reset_peak();
        let counted = allocations::begin();
        self.seconds(WARM_UP)?;
        let peak = own.peak();
        let over = |size: Option<u64>| Some(peak?.saturating_sub(size?));
        Ok(Memory {
            peak_bytes: over(before),
            peak_with_model_bytes: over(self.start),
            allocated_peak_bytes: allocations::most_since(counted),
        })
    }
}

impl Side for Ours<'_> {
    fn seconds(&mut self, steps: usize) -> Result<f64, BenchError> {
        let begin = Instant::now();
        match &mut self.work {
            Work::Step(trainer) => {
                let mut left = steps;
                while left > 0 {
                    trainer.epoch(&self.samples, &mut |_| {
                        left -= 1;
                        if left == 0 {
                            ControlFlow::Break(())
                        } else {
                            ControlFlow::Continue(())
                        }
                    })?;
                }
            }
            Work::Infer(predictor) => {
                for _ in 0..steps {
                    let places: Vec<usize> = (self.next..self.next + self.batch).collect();
                    predictor.batch(&self.samples, &places)?;
                    self.next = (self.next + self.batch) % self.samples.len();
                }
            }
        }
        Ok(begin.elapsed().as_secs_f64())
    }

    fn cpu_seconds(&self) -> Option<f64> {
        Process::own().cpu_seconds()
    }
}

fn settings(plan: &Plan) -> TrainConfig {
    TrainConfig {
        // It ends when nobody asks for steps any more.
        epochs: usize::MAX,
        batch: plan.batch,
        optimizer: OptimizerConfig::Sgd {
            learning_rate: 0.01,
            momentum: 0.9,
            weight_decay: 0.0,
        },
        clip_norm: None,
        schedule: Schedule::Constant,
        trainable: Trainable::All,
        norm_mode: NormMode::Train,
        augment: Augment::default(),
        precision: plan.precision,
        seed: 1,
    }
}

/// Whole batches of noise.
fn samples(plan: &Plan) -> Samples {
    let one: usize = plan.input.iter().product();
    let batches = (VALUES / (one * plan.batch).max(1)).clamp(2, BATCHES);
    let n = batches * plan.batch;
    Samples {
        shape: plan.input.clone(),
        x: noise(n * one),
        y: (0..n).map(|i| (i % plan.classes) as u32).collect(),
        classes: (0..plan.classes).map(|c| c.to_string()).collect(),
    }
}

/// Numbers in `-1..1` out of a multiplicative hash: to time with, nothing more is wanted of them.
pub(super) fn noise(n: usize) -> Vec<f32> {
    (0..n as u64)
        .map(|i| {
            let h = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            (h.wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

/// What the counting allocator says, where it is installed.
mod allocations {
    /// Begins a peak and answers what is allocated now.
    #[cfg(feature = "count-allocations")]
    pub(super) fn begin() -> Option<u64> {
        use lamplight_models::kernel::counting::Counting;
        Counting::reset_peak();
        // The feature may be on in a program that did not install it.
        (Counting::allocations() > 0).then(|| Counting::live() as u64)
    }

    #[cfg(feature = "count-allocations")]
    pub(super) fn most_since(begin: Option<u64>) -> Option<u64> {
        use lamplight_models::kernel::counting::Counting;
        Some((Counting::peak() as u64).saturating_sub(begin?))
    }

    #[cfg(not(feature = "count-allocations"))]
    pub(super) fn begin() -> Option<u64> {
        None
    }

    #[cfg(not(feature = "count-allocations"))]
    pub(super) fn most_since(begin: Option<u64>) -> Option<u64> {
        begin
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lamplight_models::{
        lane::{self, LaneKind},
        train::Precision,
        zoo::Architecture,
    };

    #[test]
    fn as_many_steps_are_run_as_were_asked_for_across_epochs() {
        let plan = Plan {
            mode: Mode::Step,
            model: Architecture::LeNet,
            input: vec![1, 16, 16],
            classes: 3,
            batch: 2,
            threads: 1,
            precision: Precision::F32,
            repeats: 7,
        };
        let lane = lane::open(LaneKind::Cpu, 1).expect("lane");
        let mut ours = Ours::prepare(&plan, &lane).expect("prepared");
        assert_eq!(ours.samples.len(), 2 * BATCHES);
        let memory = ours.warm_up().expect("warm");
        assert_eq!(memory.peak_bytes.is_some(), cfg!(target_os = "linux"));
        ours.seconds(2 * BATCHES + 1).expect("steps");
        let Work::Step(trainer) = &ours.work else {
            panic!("training was asked for");
        };
        let done = WARM_UP + 2 * BATCHES + 1;
        assert_eq!(trainer.position(), (done / BATCHES, done % BATCHES));

        let infer = Plan {
            mode: Mode::Infer,
            ..plan
        };
        let mut ours = Ours::prepare(&infer, &lane).expect("prepared");
        ours.seconds(BATCHES + 2).expect("batches");
        assert_eq!(ours.next, 4);
    }
}
