//! Labelled samples in memory: raw windows or images with a class each.

mod file;

use std::collections::BTreeMap;

use crate::container::HeaderError;
use crate::graph::{MAX_VALUES, Shape};
use crate::model::{ModelError, check_names};

/// Share of a channel's mean below which its standard deviation is rounding noise of F32 values.
const NOISE: f64 = 1e-6;

/// Standard deviations below it cannot be told from zero, whatever the unit.
const LEAST_STD: f64 = 1e-30;

/// What is wrong with samples.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplesError {
    /// No values, or too many to address.
    #[error(
        "one sample's shape {0:?} must have 1 to 3 dimensions, none of them zero, and a sane size"
    )]
    Shape(Shape),
    /// Values and labels disagree about the number of samples.
    #[error("{labels} labels of samples of shape {shape:?} need {want} values, got {got}")]
    Length {
        /// Labels.
        labels: usize,
        /// Shape of one sample.
        shape: Shape,
        /// Values needed.
        want: usize,
        /// Values found.
        got: usize,
    },
    /// NaN or an infinity.
    #[error("sample {sample} holds the non-finite value {value} at index {index}")]
    NonFinite {
        /// The sample.
        sample: usize,
        /// Flat index in the sample.
        index: usize,
        /// The value.
        value: f32,
    },
    /// A label without a class.
    #[error("sample {sample} has label {label}, there are {classes} classes")]
    Label {
        /// The sample.
        sample: usize,
        /// Its label.
        label: u32,
        /// Number of classes.
        classes: usize,
    },
    /// A class name that is empty, too long or there twice.
    #[error(transparent)]
    Classes(#[from] ModelError),
    /// Sets of samples that cannot be one.
    #[error("{what} differ: {left} and {right}")]
    Different {
        /// `shapes` or `classes`.
        what: &'static str,
        /// Of the first set.
        left: String,
        /// Of the other.
        right: String,
    },
    /// Samples of a class the model does not tell apart.
    #[error("class `{class}` ({samples} samples) is not among the model's: {known}")]
    UnknownClass {
        /// The class.
        class: String,
        /// Samples with it.
        samples: u64,
        /// Classes of the model.
        known: String,
    },
    /// There is no sample to learn a statistic from.
    #[error("there are no samples to compute statistics of")]
    Empty,
    /// The file's header cannot be read.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The file is not laid out as samples.
    #[error("samples file: {0}")]
    File(String),
}

/// How many samples of which class, by name, a model has no use for.
pub type Aside = BTreeMap<String, u64>;

/// Labelled samples, row-major F32 in **raw** units; a model's own normalisation is applied when a
/// batch is made, so that augmentation can act on physical quantities.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Samples {
    /// Shape of one sample, e.g. `[channels, length]`.
    pub shape: Shape,
    /// Values: `len() * product(shape)`.
    pub x: Vec<f32>,
    /// Class of each sample, below `classes.len()`.
    pub y: Vec<u32>,
    /// Class names; labels index into it.
    pub classes: Vec<String>,
}

impl Samples {
    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.y.len()
    }

    /// Whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.y.is_empty()
    }

    /// Values in one sample.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.shape.iter().product()
    }

    /// Values of sample `i`.
    ///
    /// # Panics
    /// When `i >= len()`.
    #[must_use]
    pub fn sample(&self, i: usize) -> &[f32] {
        let n = self.stride();
        &self.x[i * n..(i + 1) * n]
    }

    /// The samples at these places, in this order.
    #[must_use]
    pub fn select(&self, places: &[usize]) -> Self {
        Self {
            shape: self.shape.clone(),
            x: places
                .iter()
                .flat_map(|&i| self.sample(i).iter().copied())
                .collect(),
            y: places.iter().map(|&i| self.y[i]).collect(),
            classes: self.classes.clone(),
        }
    }

    /// Bytes the values take, as kept by a node (F32).
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.x.len() * 4 + self.y.len() * 4) as u64
    }

    /// Checks that lengths agree, values are finite, labels have a class and classes a name.
    ///
    /// # Errors
    /// [`SamplesError`], naming the first sample at fault.
    pub fn validate(&self) -> Result<(), SamplesError> {
        let stride = stride(&self.shape)?;
        if stride.checked_mul(self.len()) != Some(self.x.len()) {
            return Err(SamplesError::Length {
                labels: self.len(),
                shape: self.shape.clone(),
                want: stride.saturating_mul(self.len()),
                got: self.x.len(),
            });
        }
        check_names("class", &self.classes)?;
        if let Some(i) = self.x.iter().position(|v| !v.is_finite()) {
            return Err(SamplesError::NonFinite {
                sample: i / stride,
                index: i % stride,
                value: self.x[i],
            });
        }
        let classes = self.classes.len();
        match self.y.iter().position(|&y| y as usize >= classes) {
            None => Ok(()),
            Some(sample) => Err(SamplesError::Label {
                sample,
                label: self.y[sample],
                classes,
            }),
        }
    }

    /// All samples of `sets`, one set after the other; none for no sets.
    ///
    /// # Errors
    /// [`SamplesError::Different`] when shapes or class names differ.
    pub fn concat<'a>(sets: impl IntoIterator<Item = &'a Self>) -> Result<Self, SamplesError> {
        let mut sets = sets.into_iter();
        let Some(mut all) = sets.next().cloned() else {
            return Ok(Self::default());
        };
        for set in sets {
            let differ = |what, left, right| SamplesError::Different { what, left, right };
            if set.shape != all.shape {
                let [left, right] = [&all, set].map(|s| format!("{:?}", s.shape));
                return Err(differ("shapes", left, right));
            }
            if set.classes != all.classes {
                let [left, right] = [&all, set].map(|s| s.classes.join(", "));
                return Err(differ("classes", left, right));
            }
            all.x.extend_from_slice(&set.x);
            all.y.extend_from_slice(&set.y);
        }
        Ok(all)
    }

    /// Samples of each class, in class order; a label without a class counts nowhere.
    #[must_use]
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for &y in &self.y {
            if let Some(count) = counts.get_mut(y as usize) {
                *count += 1;
            }
        }
        counts
    }

    /// Mean and standard deviation of each channel over all samples and positions, in the channel's
    /// unit: what a model's description calls `input_mean` and `input_std`.
    ///
    /// Two passes in f64, divided by the number of values. A channel that never changes gets a
    /// standard deviation of 1: another node's may change, and must not be blown up.
    ///
    /// # Errors
    /// [`SamplesError`] when the samples are invalid or there are none.
    pub fn channel_statistics(&self) -> Result<(Vec<f32>, Vec<f32>), SamplesError> {
        self.validate()?;
        if self.is_empty() {
            return Err(SamplesError::Empty);
        }
        let positions = self.stride() / self.shape[0];
        let count = (positions * self.len()) as f64;
        let channels = self.shape[0];
        let each = |sums: &mut [f64], value: &dyn Fn(usize, f64) -> f64| {
            for (i, row) in self.x.chunks_exact(positions).enumerate() {
                let channel = i % channels;
                sums[channel] += row
                    .iter()
                    .map(|&v| value(channel, f64::from(v)))
                    .sum::<f64>();
            }
        };
        let mut means = vec![0.0; channels];
        each(&mut means, &|_, v| v);
        means.iter_mut().for_each(|m| *m /= count);
        let mut variances = vec![0.0; channels];
        each(&mut variances, &|c, v| (v - means[c]).powi(2));
        let stds = variances.iter().zip(&means).map(|(v, mean)| {
            let std = (v / count).sqrt();
            let constant = std < LEAST_STD.max(NOISE * mean.abs());
            if constant { 1.0 } else { std as f32 }
        });
        let stds = stds.collect();
        Ok((means.into_iter().map(|m| m as f32).collect(), stds))
    }

    /// Takes the samples a model can be shown: labels become places in `classes`, matched by name,
    /// and samples of other classes are left out and counted.
    ///
    /// # Errors
    /// What [`Samples::validate`] finds, or class names that are empty, too long or there twice.
    pub fn set_aside(mut self, classes: &[String]) -> Result<(Self, Aside), SamplesError> {
        self.validate()?;
        check_names("class", classes)?;
        let known: BTreeMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
        let places: Vec<Option<u32>> = (self.classes.iter())
            .map(|name| known.get(name.as_str()).copied())
            .collect();
        let stride = self.stride();
        let mut left_out = vec![0; self.classes.len()];
        let mut kept = 0;
        for i in 0..self.len() {
            // Validated: every label has a class.
            let class = self.y[i] as usize;
            let Some(place) = places[class] else {
                left_out[class] += 1;
                continue;
            };
            self.y[kept] = place;
            if kept < i {
                self.x
                    .copy_within(i * stride..(i + 1) * stride, kept * stride);
            }
            kept += 1;
        }
        self.y.truncate(kept);
        self.x.truncate(kept * stride);
        let names = std::mem::replace(&mut self.classes, classes.to_vec());
        let aside = names.into_iter().zip(left_out).filter(|(_, n)| *n > 0);
        Ok((self, aside.collect()))
    }

    /// The same samples with labels in a model's class order, matched by name.
    ///
    /// A class without samples may be missing there.
    ///
    /// # Errors
    /// [`SamplesError::UnknownClass`] when a sample's class is not among `classes`, and what
    /// [`Samples::set_aside`] finds.
    pub fn in_classes_of(&self, classes: &[String]) -> Result<Self, SamplesError> {
        let (samples, aside) = self.clone().set_aside(classes)?;
        match aside.into_iter().next() {
            None => Ok(samples),
            Some((class, samples)) => Err(SamplesError::UnknownClass {
                class,
                samples,
                known: classes.join(", "),
            }),
        }
    }
}

/// Values in a sample of this shape.
fn stride(shape: &Shape) -> Result<usize, SamplesError> {
    let product = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
    match product {
        Some(n) if (1..=3).contains(&shape.len()) && (1..=MAX_VALUES).contains(&n) => Ok(n),
        _ => Err(SamplesError::Shape(shape.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Samples {
        Samples {
            shape: vec![2, 2],
            x: vec![1.0, 3.0, 10.0, 10.0, 5.0, 7.0, 10.0, 10.0],
            y: vec![1, 0],
            classes: vec!["walk".into(), "sit".into(), "lie".into()],
        }
    }

    #[test]
    fn statistics_are_per_channel_and_a_constant_channel_gets_a_deviation_of_one() {
        let (mean, std) = samples().channel_statistics().unwrap();
        assert_eq!(mean, [4.0, 10.0]);
        assert!((std[0] - 5_f32.sqrt()).abs() < 1e-6);
        assert_eq!(std[1], 1.0);
        assert_eq!(
            Samples {
                shape: vec![2, 2],
                ..Samples::default()
            }
            .channel_statistics(),
            Err(SamplesError::Empty)
        );
    }

    #[test]
    fn statistics_of_large_offsets_do_not_cancel() {
        let x: Vec<f32> = (0..20_000).map(|i| 100_000.0 + (i % 2) as f32).collect();
        let s = Samples {
            shape: vec![1, 100],
            y: vec![0; 200],
            x,
            classes: vec!["a".into()],
        };
        let (mean, std) = s.channel_statistics().unwrap();
        assert_eq!(mean, [100_000.5]);
        assert!((std[0] - 0.5).abs() < 1e-6);
    }

    #[test]
    fn statistics_of_small_units_are_kept() {
        // Half a microtesla around the earth's field, in tesla.
        let x: Vec<f32> = (0..100)
            .map(|i| 5e-5 + 5e-7 * (i % 2 * 2 - 1) as f32)
            .collect();
        let s = Samples {
            shape: vec![1, 100],
            y: vec![0],
            x,
            classes: vec!["a".into()],
        };
        let (_, std) = s.channel_statistics().unwrap();
        assert!((std[0] / 5e-7 - 1.0).abs() < 1e-3, "{}", std[0]);
    }

    #[test]
    fn labels_are_mapped_by_name() {
        let model: Vec<String> = ["sit", "stand", "walk"].map(String::from).into();
        let mapped = samples().in_classes_of(&model).unwrap();
        assert_eq!(mapped.y, [0, 2]);
        assert_eq!(mapped.classes, model);
        let error = samples().in_classes_of(&model[..2]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "class `walk` (1 samples) is not among the model's: sit, stand"
        );
    }

    #[test]
    fn samples_of_classes_a_model_does_not_have_are_left_out_and_counted() {
        let samples = Samples {
            shape: vec![2],
            x: (0..12).map(|i| i as f32).collect(),
            y: vec![2, 0, 1, 0, 2, 1],
            classes: ["car", "tram", "bus"].map(String::from).into(),
        };
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (known, aside) = samples
            .clone()
            .set_aside(&names(&["bus", "bicycle", "car"]))
            .unwrap();
        assert_eq!(known.y, [0, 2, 2, 0]);
        assert_eq!(known.x, [0.0, 1.0, 2.0, 3.0, 6.0, 7.0, 8.0, 9.0]);
        assert_eq!(known.classes, ["bus", "bicycle", "car"]);
        assert_eq!(aside, Aside::from([("tram".into(), 2)]));
        // All of them, and none of them.
        let (known, aside) = samples.clone().set_aside(&names(&["walk"])).unwrap();
        assert!(known.is_empty() && known.x.is_empty());
        assert_eq!(aside.values().sum::<u64>(), 6);
        let (known, aside) = samples.clone().set_aside(&samples.classes).unwrap();
        assert_eq!((known, aside), (samples, Aside::new()));
    }

    #[test]
    fn sets_join_only_when_they_are_alike() {
        let all = Samples::concat([&samples(), &samples()]).unwrap();
        assert_eq!(all.len(), 4);
        assert_eq!(all.class_counts(), [2, 2, 0]);
        assert_eq!(all.sample(2), samples().sample(0));
        let mut other = samples();
        other.classes.swap(0, 1);
        let error = Samples::concat([&samples(), &other]).unwrap_err();
        assert!(matches!(
            error,
            SamplesError::Different {
                what: "classes",
                ..
            }
        ));
        other = samples();
        other.shape = vec![4];
        assert!(Samples::concat([&samples(), &other]).is_err());
        assert!(Samples::concat([]).unwrap().is_empty());
    }

    #[test]
    fn invalid_samples_are_named() {
        let spoiled = |spoil: fn(&mut Samples)| {
            let mut s = samples();
            spoil(&mut s);
            s.validate().unwrap_err().to_string()
        };
        samples().validate().unwrap();
        assert_eq!(
            spoiled(|s| s.x[5] = f32::NAN),
            "sample 1 holds the non-finite value NaN at index 1"
        );
        assert_eq!(
            spoiled(|s| s.y[0] = 3),
            "sample 0 has label 3, there are 3 classes"
        );
        assert_eq!(
            spoiled(|s| s.x.truncate(7)),
            "2 labels of samples of shape [2, 2] need 8 values, got 7"
        );
        assert_eq!(
            spoiled(|s| s.classes[1].clear()).split(' ').next(),
            Some("class")
        );
        assert!(spoiled(|s| s.shape = vec![usize::MAX, 2]).contains("sane size"));
        assert!(spoiled(|s| s.shape = vec![]).contains("sane size"));
        assert!(spoiled(|s| s.shape = vec![0, 2]).contains("sane size"));
    }
}
