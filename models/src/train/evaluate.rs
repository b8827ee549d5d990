//! How well a model does on labelled samples: loss, accuracy, confusion.

use serde::{Deserialize, Serialize};

use super::{Predictor, TrainError};
use crate::lane::Lane;
use crate::model::Model;
use crate::ops::softmax_cross_entropy;
use crate::samples::Samples;

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

/// Loss, accuracy and confusion of a model on labelled samples.
///
/// # Errors
/// [`TrainError`] when model and samples do not fit each other.
pub fn evaluate(
    model: &Model,
    samples: &Samples,
    lane: &dyn Lane,
) -> Result<Evaluation, TrainError> {
    let mut predictor = Predictor::new(model, lane)?;
    let classes = predictor.classes();
    let logits = predictor.predict(samples)?;
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
