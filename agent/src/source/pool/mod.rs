//! Pools: labelled samples in files, shared out among cloud and nodes.
//!
//! ```text
//!   cifar10:DIR   the publisher's binary batches        idx:DIR   MNIST's layout
//!   images:DIR    a folder per class of JPEG or PNG     csv:PATH  tables of sensor readings
//!         │ labels only                      │ places of this node's part        │ only these
//!         └───────────────> share ───────────┴──> first 70 % of a class | rest ──┴──> Samples
//! ```
//!
//! Images are made as the model at hand wants them: folders decode theirs by its rule (`folder`),
//! images that have one size already are scaled where the rule asks for it (`remake`).
//!
//! Labels are read once; values are decoded for the samples of this part only, so a node that holds
//! a twentieth of a data set pays for a twentieth.

pub(super) mod cifar;
pub(super) mod csv;
pub(super) mod folder;
pub(super) mod idx;
mod records;
mod remake;
mod share;

use std::fmt::Debug;

use lamplight_models::{
    graph::Shape,
    image::{ImageError, ImageInput, ImageRule},
    model::check_classes,
    samples::Samples,
};

pub use share::{Part, Share};

use super::spec::{PoolFormat, PoolSpec, Split};
use super::{SampleSource, SourceError, SourceInfo};

/// Most samples in a pool.
const MAX_SAMPLES: usize = 10_000_000;
/// Samples that files may hold however small they are.
const FREE_SAMPLES: u64 = 1024;
/// Most samples per byte of files, compressed or not: what is kept of each sample takes tens of bytes,
/// and even a blank image or a short row takes more than an eighth of a byte of a compressed file.
const MAX_SAMPLES_A_BYTE: u64 = 8;
/// Most bytes of decoded values in one part: what a node could hold at all.
const MAX_PART_BYTES: u64 = 4 << 30;
/// Out of ten samples of a class, how many come to train on.
const TRAIN_OF_TEN: usize = 7;

/// Most samples in files of this many bytes together.
fn most_samples(bytes: u64) -> usize {
    let most = FREE_SAMPLES.saturating_add(bytes.saturating_mul(MAX_SAMPLES_A_BYTE));
    usize::try_from(most).map_or(MAX_SAMPLES, |most| most.min(MAX_SAMPLES))
}

/// Which files of a data set that its publisher has parted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Set {
    /// Those to train on.
    #[default]
    Train,
    /// Those to test with.
    Test,
}

/// Labelled samples in files.
trait Pool: Debug + Send + Sync {
    /// Channel names with units.
    fn channels(&self) -> &[String];
    /// Shape of one sample.
    fn shape(&self) -> &Shape;
    /// Class names.
    fn classes(&self) -> &[String];
    /// The class of every sample.
    fn labels(&self) -> &[u32];
    /// Values of the samples at these places, ascending, one after the other.
    fn read(&self, places: &[usize]) -> Result<Vec<f32>, SourceError>;
    /// Samples per second, where samples have a time.
    fn sampling_rate_hz(&self) -> Option<f64> {
        None
    }
    /// The group of every sample, where samples come in groups that stay together.
    fn groups(&self) -> Option<&[u32]> {
        None
    }
    /// Whether two samples share readings, as windows do that overlap.
    fn overlap(&self, _a: usize, _b: usize) -> bool {
        false
    }
}

/// One part of a pool.
#[derive(Debug)]
pub struct PoolSource {
    pool: Box<dyn Pool>,
    /// What describes the images, where the pool has images.
    rule: Option<ImageRule>,
    /// What is made of every image the pool reads; `None` where it stays as it is.
    remade: Option<ImageInput>,
    origin: String,
    train: Vec<usize>,
    held_out: Vec<usize>,
}

impl PoolSource {
    /// Opens the source for no model in particular.
    ///
    /// # Errors
    /// As [`Self::open_for`].
    pub fn open(spec: &PoolSpec, split: Split) -> Result<Self, SourceError> {
        Self::open_for(spec, split, None)
    }

    /// Reads the labels and finds this part's samples, for a model that takes images as `wanted`.
    ///
    /// # Errors
    /// [`SourceError`]: a file is missing, malformed or too large, a class unknown, or the samples
    /// cannot be parted as asked.
    pub fn open_for(
        spec: &PoolSpec,
        split: Split,
        wanted: Option<&ImageInput>,
    ) -> Result<Self, SourceError> {
        let dir = std::path::Path::new(&spec.path);
        let unfit = |fault: ImageError| SourceError::Images {
            path: dir.to_owned(),
            fault,
        };
        let mut rule = None;
        let pool: Box<dyn Pool> = match &spec.format {
            PoolFormat::Cifar10 => Box::new(cifar::Cifar::open(dir, spec.set)?),
            PoolFormat::Idx => Box::new(idx::Idx::open(dir, spec.set)?),
            PoolFormat::Images { size } => {
                let image = match wanted {
                    Some(wanted) => *wanted,
                    None => folder::square(*size).map_err(unfit)?,
                };
                rule = Some(image.rule());
                Box::new(folder::Folder::open(dir, spec.set, image)?)
            }
            PoolFormat::Csv(table) => Box::new(csv::Csv::open(dir, table, spec.share.is_parted())?),
        };
        let mut remade = None;
        if matches!(spec.format, PoolFormat::Cifar10 | PoolFormat::Idx)
            && let Some(plan) = remake::plan(pool.shape(), wanted).map_err(unfit)?
        {
            (rule, remade) = (Some(plan.rule), plan.to);
        }
        let values = match &remade {
            Some(to) => to.shape().iter().product(),
            None => pool.shape().iter().product::<usize>(),
        };
        let labels = pool.labels();
        let classes = pool.classes();
        check_classes(classes).map_err(|fault| SourceError::ClassNames {
            file: dir.to_owned(),
            fault: Box::new(fault),
        })?;
        let mut places = spec.share.places(labels, classes.len(), pool.groups())?;
        if let Some(kept) = &spec.classes {
            let unknown = kept.iter().find(|name| !classes.contains(name));
            if let Some(class) = unknown {
                return Err(SourceError::UnknownClass {
                    class: class.clone(),
                    known: classes.join(", "),
                });
            }
            places.retain(|&p| kept.contains(&classes[labels[p] as usize]));
        }
        let bytes = places.len() as u64 * 4 * values as u64;
        if bytes > MAX_PART_BYTES {
            return Err(SourceError::TooLarge {
                file: dir.to_owned(),
                bytes,
                limit: MAX_PART_BYTES,
            });
        }
        let (train, held_out) = match split {
            Split::All => (Vec::new(), places),
            Split::InTime => {
                let (mut train, held_out) = part(&places, labels, classes.len());
                // Windows that overlap have one class, so only its first held-out one can reach back.
                let firsts: Vec<usize> = (0..classes.len() as u32)
                    .filter_map(|class| held_out.iter().copied().find(|&p| labels[p] == class))
                    .collect();
                train.retain(|&early| !firsts.iter().any(|&late| pool.overlap(early, late)));
                (train, held_out)
            }
        };
        Ok(Self {
            origin: format!("{} samples of {}", labels.len(), spec.path),
            pool,
            rule,
            remade,
            train,
            held_out,
        })
    }

    /// Shape of one sample.
    fn shape(&self) -> Shape {
        match &self.remade {
            Some(to) => to.shape().to_vec(),
            None => self.pool.shape().clone(),
        }
    }

    fn samples(&self, places: &[usize]) -> Result<Samples, SourceError> {
        let own = self.pool.shape();
        let mut x = self.pool.read(places)?;
        if let Some(to) = &self.remade {
            x = remake::remake(&x, own, to).map_err(|fault| SourceError::Images {
                path: self.origin.clone().into(),
                fault,
            })?;
        }
        Ok(Samples {
            shape: self.shape(),
            x,
            y: places.iter().map(|&p| self.pool.labels()[p]).collect(),
            classes: self.pool.classes().to_vec(),
        })
    }
}

/// Per class the first 70 % (rounded down), in the order of the files, to train on; the rest held out.
fn part(places: &[usize], labels: &[u32], classes: usize) -> (Vec<usize>, Vec<usize>) {
    let mut counts = vec![0_usize; classes];
    places.iter().for_each(|&p| counts[labels[p] as usize] += 1);
    let mut passed = vec![0_usize; classes];
    places.iter().partition(|&&p| {
        let class = labels[p] as usize;
        passed[class] += 1;
        passed[class] <= counts[class] * TRAIN_OF_TEN / 10
    })
}

impl SampleSource for PoolSource {
    fn describe(&self) -> SourceInfo {
        SourceInfo {
            channels: match &self.remade {
                Some(to) => colors(to),
                None => self.pool.channels().to_vec(),
            },
            sampling_rate_hz: self.pool.sampling_rate_hz(),
            image: self.rule,
            window: self.shape(),
            classes: self.pool.classes().to_vec(),
            origin: self.origin.clone(),
            simulated: false,
        }
    }

    fn counts(&self) -> (usize, usize) {
        (self.train.len(), self.held_out.len())
    }

    fn train(&self) -> Result<Samples, SourceError> {
        self.samples(&self.train)
    }

    fn held_out(&self) -> Result<Samples, SourceError> {
        self.samples(&self.held_out)
    }
}

/// Channels of images that a rule made.
fn colors(image: &ImageInput) -> Vec<String> {
    let names: &[&str] = match image.shape()[0] {
        1 => &["intensity"],
        _ => &["red", "green", "blue"],
    };
    let range = image.rule().range.word();
    names.iter().map(|c| format!("{c} [{range}]")).collect()
}

/// Channels of a color image with values from 0 to 1.
fn rgb() -> Vec<String> {
    ["red", "green", "blue"]
        .map(|c| format!("{c} [0-1]"))
        .to_vec()
}

/// A byte of an image as a number from 0 to 1.
fn unit(byte: u8) -> f32 {
    f32::from(byte) / 255.0
}

#[cfg(test)]
mod tests;
