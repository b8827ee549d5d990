//! Whether a model and a node's data fit each other; labels are matched by name.

use lamplight_models::{model::Model, samples::Samples};

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
    /// Another sampling rate.
    #[error("the model was made for {want} Hz, the source has {got} Hz")]
    Rate {
        /// The model's.
        want: f64,
        /// The source's.
        got: f64,
    },
    /// A label the model does not know.
    #[error("the source's class `{name}` is none of the model's: {known}")]
    Class {
        /// The class.
        name: String,
        /// The model's classes.
        known: String,
    },
    /// A label outside the source's own classes.
    #[error("sample {sample} has label {label}, the source names {classes} classes")]
    Label {
        /// Place of the sample.
        sample: usize,
        /// Its label.
        label: u32,
        /// Classes named.
        classes: usize,
    },
}

/// Checks window, channels and rate.
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
    match (model.info.sampling_rate_hz, source.sampling_rate_hz) {
        (Some(want), Some(got)) if (want - got).abs() > want * RATE_TOLERANCE => {
            Err(Misfit::Rate { want, got })
        }
        _ => Ok(()),
    }
}

/// The samples with the model's class numbers, matched by name. Classes of which there is no sample
/// need not be known to the model.
///
/// # Errors
/// [`Misfit::Class`] when a sample's class is none of the model's.
pub fn relabel(mut samples: Samples, classes: &[String]) -> Result<Samples, Misfit> {
    let places: Vec<Option<u32>> = samples
        .classes
        .iter()
        .map(|name| {
            let place = classes.iter().position(|c| c == name)?;
            u32::try_from(place).ok()
        })
        .collect();
    for (sample, label) in samples.y.iter_mut().enumerate() {
        let at = *label as usize;
        let place = places.get(at).ok_or(Misfit::Label {
            sample,
            label: *label,
            classes: samples.classes.len(),
        })?;
        *label = place.ok_or_else(|| Misfit::Class {
            name: samples.classes[at].clone(),
            known: classes.join(", "),
        })?;
    }
    samples.classes = classes.to_vec();
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn samples(classes: &[&str], y: &[u32]) -> Samples {
        Samples {
            shape: vec![1],
            x: vec![0.0; y.len()],
            y: y.to_vec(),
            classes: names(classes),
        }
    }

    #[test]
    fn labels_follow_their_names_not_their_numbers() {
        let s = samples(&["car", "train", "unheard"], &[0, 1, 1, 0]);
        let s = relabel(s, &names(&["train", "bicycle", "car"])).expect("all known");
        assert_eq!(s.y, [2, 0, 0, 2]);
        assert_eq!(s.classes, names(&["train", "bicycle", "car"]));
    }

    #[test]
    fn a_sample_of_an_unknown_class_is_refused_by_name() {
        let s = samples(&["car", "tram"], &[0, 1]);
        let e = relabel(s, &names(&["car", "train"])).expect_err("unknown");
        assert_eq!(
            e.to_string(),
            "the source's class `tram` is none of the model's: car, train"
        );
        let s = samples(&["car"], &[3]);
        assert!(matches!(
            relabel(s, &names(&["car"])),
            Err(Misfit::Label { label: 3, .. })
        ));
    }
}
