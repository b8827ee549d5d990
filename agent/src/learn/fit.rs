//! Whether a model and a node's data fit each other. Classes need not: labels are mapped by name,
//! and samples of classes that the model does not have are kept aside.

use lamplight_models::{image::ImageRule, model::Model};

use crate::source::SourceInfo;

/// Relative difference of sampling rates that is rounding, not another rate.
const RATE_TOLERANCE: f64 = 1e-3;

/// Why a model cannot learn from a source.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Misfit {
    /// Windows of another shape.
    #[error("the model takes windows of {want:?}, the source gives {got:?}")]
    Window {
        /// Shape of the model's input.
        want: Vec<usize>,
        /// Shape of the source's windows.
        got: Vec<usize>,
    },
    /// Another channel, or another unit.
    #[error("channel {place} of the model is `{want}`, the source's is `{got}`")]
    Channel {
        /// Which, from 0.
        place: usize,
        /// Name in the model.
        want: String,
        /// Name in the source.
        got: String,
    },
    /// Images made by another rule.
    #[error("the model wants images {want}; the source makes them {got}")]
    Image {
        /// The model's rule.
        want: ImageRule,
        /// The source's.
        got: ImageRule,
    },
    /// Another sampling rate.
    #[error("the model was made for {want} Hz, the source has {got} Hz")]
    Rate {
        /// The model's.
        want: f64,
        /// The source's.
        got: f64,
    },
}

/// Checks window, channels, the rule for images, and rate.
///
/// # Errors
/// [`Misfit`] with both values.
pub fn check(model: &Model, source: &SourceInfo) -> Result<(), Misfit> {
    if model.graph.input != source.window {
        return Err(Misfit::Window {
            want: model.graph.input.clone(),
            got: source.window.clone(),
        });
    }
    // A model without channel names takes any channels of the right number.
    if !model.info.channels.is_empty() {
        let pairs = model.info.channels.iter().zip(&source.channels);
        if let Some((place, (want, got))) = pairs.enumerate().find(|(_, (a, b))| a != b) {
            return Err(Misfit::Channel {
                place,
                want: want.clone(),
                got: got.clone(),
            });
        }
    }
    // Where either says nothing of images, only the numbers above are left to compare.
    if let (Some(want), Some(got)) = (model.info.image, source.image)
        && want != got
    {
        return Err(Misfit::Image { want, got });
    }
    match (model.info.sampling_rate_hz, source.sampling_rate_hz) {
        (Some(want), Some(got)) if (want - got).abs() > want * RATE_TOLERANCE => {
            Err(Misfit::Rate { want, got })
        }
        _ => Ok(()),
    }
}
