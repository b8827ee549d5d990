//! Inference: logits of samples, by a model that is prepared once.

use super::batch::{Intake, check_samples};
use super::executor::Executor;
use super::params::ParamSet;
use super::{Precision, TrainError, classes_of};
use crate::graph::Checked;
use crate::lane::Lane;
use crate::model::Model;
use crate::ops::NormMode;
use crate::samples::Samples;

/// Samples in one batch of inference at most.
const BATCH: usize = 64;

/// Values of the largest activation of a batch at most (unless one sample has more): 16 MiB.
const BATCH_VALUES: usize = 4 << 20;

/// A model made ready for inference: its graph checked, its parameters and working memory in place.
/// Batch norms use their running statistics; nothing of the model moves.
#[derive(Debug)]
pub struct Predictor<'lane> {
    lane: &'lane dyn Lane,
    executor: Executor,
    params: ParamSet,
    intake: Intake,
    classes: Vec<String>,
    /// Samples that go through at once.
    batch: usize,
    /// Input of a batch, reused.
    x: Vec<f32>,
}

impl<'lane> Predictor<'lane> {
    /// Prepares a model, to calculate in F32.
    ///
    /// # Errors
    /// [`TrainError`] when the model is inconsistent.
    pub fn new(model: &Model, lane: &'lane dyn Lane) -> Result<Self, TrainError> {
        Self::with_precision(model, lane, Precision::F32)
    }

    /// Prepares a model, to calculate in these numbers.
    ///
    /// # Errors
    /// [`TrainError`] when the model is inconsistent.
    pub fn with_precision(
        model: &Model,
        lane: &'lane dyn Lane,
        precision: Precision,
    ) -> Result<Self, TrainError> {
        let graph = model.graph.check()?;
        classes_of(&graph, model)?;
        Ok(Self {
            lane,
            params: ParamSet::read(&graph, &model.params)?,
            intake: Intake::new(&model.info, graph.input[0])?,
            classes: model.info.classes.clone(),
            batch: batch_size(&graph),
            executor: Executor::new(graph, &[], NormMode::Eval)
                .with_precision(precision.settled(lane)),
            x: Vec::new(),
        })
    }

    /// Number of logits of a sample, one per class.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes.len()
    }

    /// Logits of every sample, in batches that keep activations small.
    ///
    /// # Shapes
    /// `[samples, classes]`
    /// # Errors
    /// [`TrainError`] when model and samples do not fit each other, or an operator fails.
    pub fn predict(&mut self, samples: &Samples) -> Result<Vec<f32>, TrainError> {
        self.check(samples)?;
        let places: Vec<usize> = (0..samples.len()).collect();
        let mut logits = Vec::with_capacity(samples.len() * self.classes());
        for places in places.chunks(self.batch) {
            logits.extend_from_slice(self.run(samples, places)?);
        }
        Ok(logits)
    }

    /// Logits of the samples at these places, all in one batch. They stay until the next call.
    ///
    /// # Shapes
    /// `[places, classes]`
    /// # Errors
    /// [`TrainError`] when model and samples do not fit each other, there is no sample at a place, or
    /// an operator fails.
    pub fn batch(&mut self, samples: &Samples, places: &[usize]) -> Result<&[f32], TrainError> {
        self.check(samples)?;
        match places.iter().find(|&&place| place >= samples.len()) {
            Some(&place) => Err(TrainError::Place {
                place,
                samples: samples.len(),
            }),
            None => self.run(samples, places),
        }
    }

    fn check(&self, samples: &Samples) -> Result<(), TrainError> {
        check_samples(samples, &self.executor.graph().input, &self.classes)
    }

    fn run(&mut self, samples: &Samples, places: &[usize]) -> Result<&[f32], TrainError> {
        self.intake.fill(samples, places, None, &mut self.x);
        let (params, n) = (&self.params, places.len());
        Ok(self
            .executor
            .forward(params, &self.x, n, false, self.lane)?)
    }
}

/// Logits of every sample, `[samples, classes]`; for more than one call prepare a [`Predictor`].
///
/// # Errors
/// [`TrainError`] when model and samples do not fit each other.
pub fn predict(model: &Model, samples: &Samples, lane: &dyn Lane) -> Result<Vec<f32>, TrainError> {
    Predictor::new(model, lane)?.predict(samples)
}

fn batch_size(graph: &Checked) -> usize {
    let values = graph.shapes.iter().map(|s| s.iter().product::<usize>());
    let widest = values.max().unwrap_or(1).max(1);
    (BATCH_VALUES / widest).clamp(1, BATCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::CpuLane;
    use crate::model::ModelInfo;
    use crate::zoo::lenet;

    fn digits(n: usize) -> (Model, Samples) {
        let classes: Vec<String> = ["even", "odd"].map(String::from).into();
        let info = ModelInfo {
            architecture: "lenet".into(),
            input_mean: vec![0.25],
            input_std: vec![2.0],
            classes: classes.clone(),
            ..ModelInfo::default()
        };
        let graph = lenet([1, 16, 16], 2).unwrap();
        let shape = graph.input.clone();
        let values = n * shape.iter().product::<usize>();
        let samples = Samples {
            x: (0..values)
                .map(|i| ((i * 37) % 101) as f32 / 50.0)
                .collect(),
            y: (0..n as u32).map(|i| i % 2).collect(),
            shape,
            classes,
        };
        (Model::init(graph, info, 3).unwrap(), samples)
    }

    #[test]
    fn one_batch_gives_what_all_samples_together_and_a_fresh_model_give() {
        let (model, samples) = digits(70);
        let lane = CpuLane::new(1);
        let mut predictor = Predictor::new(&model, &lane).unwrap();
        let all = predictor.predict(&samples).unwrap();
        assert_eq!(all.len(), 70 * predictor.classes());
        assert_eq!(all, predict(&model, &samples, &lane).unwrap());
        for places in [&[69, 0, 7][..], &[3], &[]] {
            let want: Vec<f32> = (places.iter())
                .flat_map(|&i| &all[2 * i..2 * i + 2])
                .copied()
                .collect();
            let got = predictor.batch(&samples, places).unwrap();
            // Sums may be grouped differently in batches of another size.
            assert_eq!(got.len(), want.len());
            for (g, w) in got.iter().zip(&want) {
                assert!((g - w).abs() <= 1e-5 * w.abs().max(1.0), "{g}, want {w}");
            }
        }
    }

    #[test]
    fn halves_give_nearly_the_same_logits() {
        let (model, samples) = digits(9);
        let lane = CpuLane::new(2);
        let predict = |precision| {
            let mut predictor = Predictor::with_precision(&model, &lane, precision).unwrap();
            predictor.predict(&samples).unwrap()
        };
        let (floats, halves) = (predict(Precision::F32), predict(Precision::Bf16));
        assert_ne!(floats, halves);
        let scale = floats.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        for (f, h) in floats.iter().zip(&halves) {
            assert!((f - h).abs() <= 0.02 * scale, "{f} and {h}");
        }
    }

    #[test]
    fn samples_that_do_not_fit_are_refused_before_anything_runs() {
        let (model, samples) = digits(4);
        let lane = CpuLane::new(1);
        let mut predictor = Predictor::new(&model, &lane).unwrap();
        let e = predictor.batch(&samples, &[1, 4]).unwrap_err();
        assert_eq!(e.to_string(), "there is no sample 4 among 4");
        let mut other = samples.clone();
        other.classes.swap(0, 1);
        let e = predictor.predict(&other).unwrap_err();
        assert!(matches!(e, TrainError::Classes { .. }), "{e}");
        let e = predictor.batch(&other, &[0]).unwrap_err();
        assert!(matches!(e, TrainError::Classes { .. }), "{e}");
    }
}
