//! What can go wrong in training and evaluation.

use super::checkpoint::CheckpointError;
use super::executor::ExecuteError;
use super::params::ParamError;
use crate::graph::{GraphError, Shape};
use crate::ops::OpError;

/// Why training or evaluation did not go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The graph is invalid.
    #[error(transparent)]
    Graph(Box<GraphError>),
    /// Parameters do not belong to the graph.
    #[error(transparent)]
    Param(Box<ParamError>),
    /// An operator failed.
    #[error(transparent)]
    Execute(Box<ExecuteError>),
    /// The loss could not be computed.
    #[error(transparent)]
    Loss(Box<OpError>),
    /// Saved training does not fit.
    #[error(transparent)]
    Checkpoint(Box<CheckpointError>),
    /// A setting is out of range.
    #[error("training settings: {0}")]
    Config(String),
    /// The graph's output is no row of logits, or not one per class.
    #[error(
        "model has output shape {output:?} for {classes} classes, expected one logit per class"
    )]
    Output {
        /// Shape of the output.
        output: Shape,
        /// Classes the model names.
        classes: usize,
    },
    /// Unusable input normalisation.
    #[error(
        "model wants {channels} finite means and positive deviations, got means {mean:?} and deviations {std:?}"
    )]
    Normalisation {
        /// Channels of the input.
        channels: usize,
        /// Means found.
        mean: Vec<f32>,
        /// Deviations found.
        std: Vec<f32>,
    },
    /// Samples of another shape.
    #[error("samples have shape {got:?}, the model wants {want:?}")]
    SampleShape {
        /// Shape of the model's input.
        want: Shape,
        /// Shape of the samples.
        got: Shape,
    },
    /// Samples whose values do not match their number.
    #[error("samples hold {got} values, their number and shape make {want}")]
    SampleValues {
        /// Values expected.
        want: usize,
        /// Values found.
        got: usize,
    },
    /// Samples whose labels mean other classes.
    #[error(
        "samples are labelled with classes {got:?}, the model has {want:?}; bring them into its order first"
    )]
    Classes {
        /// Classes of the model.
        want: Vec<String>,
        /// Classes of the samples.
        got: Vec<String>,
    },
    /// A label is no class.
    #[error("sample {sample} has label {label}, but the model has {classes} classes")]
    Label {
        /// Place of the sample.
        sample: usize,
        /// Its label.
        label: u32,
        /// Classes of the model.
        classes: usize,
    },
    /// A place without a sample.
    #[error("there is no sample {place} among {samples}")]
    Place {
        /// The place.
        place: usize,
        /// Samples there are.
        samples: usize,
    },
    /// Too few samples to train on.
    #[error("training wants at least {want} sample(s), got {got}")]
    TooFewSamples {
        /// Samples wanted.
        want: usize,
        /// Samples found.
        got: usize,
    },
    /// The samples changed in the middle of an epoch.
    #[error("the running epoch was begun with {want} samples, but goes on with {got}")]
    SamplesChanged {
        /// Samples at its beginning.
        want: usize,
        /// Samples now.
        got: usize,
    },
    /// All epochs are done.
    #[error("all {epochs} epochs are done")]
    Finished {
        /// Epochs of the run.
        epochs: usize,
    },
    /// The run diverged. Parameters are those before the step.
    #[error(
        "{what} is not finite in epoch {epoch}, step {step}; try a lower learning rate or clip_norm"
    )]
    NonFinite {
        /// Epoch, from 0.
        epoch: usize,
        /// Step within the epoch, from 0.
        step: usize,
        /// Loss, or the gradient of a named parameter.
        what: String,
    },
}

/// Errors of the rooms below travel boxed, so that a `Result` stays small.
macro_rules! boxed {
    ($($variant:ident($error:ty)),*) => {$(
        impl From<$error> for TrainError {
            fn from(e: $error) -> Self {
                Self::$variant(Box::new(e))
            }
        }
    )*};
}

boxed!(
    Graph(GraphError),
    Param(ParamError),
    Execute(ExecuteError),
    Loss(OpError),
    Checkpoint(CheckpointError)
);
