//! Inference over labelled samples: logits, loss, accuracy, confusion.

use serde::{Deserialize, Serialize};

use super::batch::{Intake, check_samples};
use super::executor::Executor;
use super::params::ParamSet;
use super::{TrainError, classes_of};
use crate::graph::Checked;
use crate::lane::Lane;
use crate::model::Model;
use crate::ops::{NormMode, softmax_cross_entropy};
use crate::samples::Samples;

/// Samples in one batch of inference at most.
const BATCH: usize = 64;

/// Values of the largest activation of a batch at most (unless one sample has more): 16 MiB.
const BATCH_VALUES: usize = 4 << 20;

/// How well a model does on labelled samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Samples looked at.
    pub samples: usize,
    /// Mean cross entropy in nats; 0 without samples.
    pub loss: f64,
    /// Share of samples whose largest logit is their label; 0 without samples.
    pub accuracy: f64,
    /// `confusion[label][answer]`: samples per true class and answer.
    pub confusion: Vec<Vec<u64>>,
}

/// Logits of every sample, `[samples, classes]`.
///
/// # Errors
/// [`TrainError`] when model and samples do not fit each other.
pub fn predict(model: &Model, samples: &Samples, lane: &dyn Lane) -> Result<Vec<f32>, TrainError> {
    let graph = model.graph.check()?;
    let classes = classes_of(&graph, model)?;
    check_samples(samples, &graph.input, &model.info.classes)?;
    let params = ParamSet::read(&graph, &model.params)?;
    let mut intake = Intake::new(&model.info, graph.input[0])?;
    let batch = batch_size(&graph);
    let mut executor = Executor::new(graph, &[], NormMode::Eval);
    let places: Vec<usize> = (0..samples.len()).collect();
    let mut logits = Vec::with_capacity(samples.len() * classes);
    let mut x = Vec::new();
    for places in places.chunks(batch) {
        intake.fill(samples, places, None, &mut x);
        let out = executor.forward(&params, &x, places.len(), false, lane)?;
        logits.extend_from_slice(out);
    }
    Ok(logits)
}

/// Loss, accuracy and confusion of a model on labelled samples.
///
/// # Errors
/// [`TrainError`] when model and samples do not fit each other.
pub fn evaluate(
    model: &Model,
    samples: &Samples,
    lane: &dyn Lane,
) -> Result<Evaluation, TrainError> {
    let logits = predict(model, samples, lane)?;
    let classes = match samples.len() {
        0 => classes_of(&model.graph.check()?, model)?,
        n => logits.len() / n,
    };
    let mut confusion = vec![vec![0; classes]; classes];
    for (row, &label) in logits.chunks_exact(classes).zip(&samples.y) {
        confusion[label as usize][largest(row)] += 1;
    }
    let right: u64 = (0..classes).map(|c| confusion[c][c]).sum();
    Ok(Evaluation {
        samples: samples.len(),
        loss: softmax_cross_entropy(&logits, &samples.y, classes, None)?,
        accuracy: right as f64 / samples.len().max(1) as f64,
        confusion,
    })
}

/// Place of the largest value; the first of equals, and 0 when none compares.
fn largest(row: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in row.iter().enumerate() {
        if *v > row[best] || (row[best].is_nan() && !v.is_nan()) {
            best = i;
        }
    }
    best
}

fn batch_size(graph: &Checked) -> usize {
    let values = graph.shapes.iter().map(|s| s.iter().product::<usize>());
    let widest = values.max().unwrap_or(1).max(1);
    (BATCH_VALUES / widest).clamp(1, BATCH)
}
