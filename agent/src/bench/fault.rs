//! Why a bench does not run.

use std::io;

use lamplight_models::{lane::LaneError, model::ModelError, train::TrainError, zoo::ZooError};

/// Why a bench did not run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The network does not take the input.
    #[error("{says}; give an input it takes, e.g. --input {usual}")]
    Network {
        /// What the network says.
        says: ZooError,
        /// What it is usually given.
        usual: String,
    },
    /// More input than is sensible.
    #[error("a batch of {values} values is too large; give a smaller --batch or --input")]
    TooLarge {
        /// Values of the batch.
        values: u64,
    },
    /// The rival does not know how.
    #[error("{rival} cannot {what} {model}: {why}; {remedy}")]
    Cannot {
        /// Who.
        rival: &'static str,
        /// `train` or `run`.
        what: &'static str,
        /// The network.
        model: &'static str,
        /// What it lacks.
        why: String,
        /// What to do instead.
        remedy: &'static str,
    },
    /// A setting that belongs to another rival.
    #[error("--python names the Python of PyTorch; give --against pytorch with it")]
    PythonForNobody,
    /// An operator's cost is unknown.
    #[error("the work of {0}")]
    Cost(String),
    /// Our side.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// Our model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Our lane.
    #[error(transparent)]
    Lane(#[from] LaneError),
    /// candle's side, in its own process.
    #[error("candle: {0}")]
    Candle(#[from] candle_core::Error),
    /// The rival's program does not start.
    #[error("{rival} did not start, `{program}` cannot be run: {why}{}", remedy(.rival))]
    Start {
        /// Who.
        rival: &'static str,
        /// What was to be run.
        program: String,
        /// Why not.
        why: io::Error,
    },
    /// The rival says what is wrong.
    #[error("{rival}: {says}")]
    Says {
        /// Who.
        rival: &'static str,
        /// Its words.
        says: String,
    },
    /// The rival is gone.
    #[error("{rival} ended in the middle: {how}")]
    Ended {
        /// Who.
        rival: &'static str,
        /// Its exit status, or what the pipe said.
        how: String,
    },
    /// The rival says what nobody asked.
    #[error("{rival} answered {line:?} where {want} was wanted")]
    Answer {
        /// Who.
        rival: &'static str,
        /// What it said, or its beginning.
        line: String,
        /// What was wanted.
        want: &'static str,
    },
    /// The two sides are not alike.
    #[error("{rival} runs with {theirs} {what}, ours with {ours}: that would be no comparison")]
    Differs {
        /// Who.
        rival: &'static str,
        /// `threads` or `parameters`.
        what: &'static str,
        /// Its number.
        theirs: u64,
        /// Ours.
        ours: u64,
    },
    /// Standard input or output of a rival's own process.
    #[error("the pipe to the bench: {0}")]
    Pipe(#[from] io::Error),
}

/// What to do when a rival's program is not there.
fn remedy(rival: &str) -> &'static str {
    if rival == super::Against::PyTorch.name() {
        "; give --python a Python that has torch"
    } else {
        ""
    }
}

impl BenchError {
    /// Whether the bench was asked for something that is not to be had, as against something breaking.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Network { .. }
                | Self::TooLarge { .. }
                | Self::Cannot { .. }
                | Self::PythonForNobody
                | Self::Train(TrainError::Config(_))
        )
    }
}
