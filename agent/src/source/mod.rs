//! Sensor data: where a node's labelled windows come from.
//!
//! ```text
//!   "hapt:DIR?subject=5"        --parse--> SourceSpec --open--> dyn SampleSource
//!   "builtin:post?post=3&seed=7"                                  describe, train, held_out
//! ```
//!
//! A node's configuration names its source by a [`SourceSpec`]; the rest of the agent sees only
//! [`SampleSource`]. Reading order: [`SourceSpec`], [`hapt`] (recordings of people), [`pool`] (images and
//! tables in files), [`post`] (simulated lamp posts), [`skew`] (who sees which classes when labels are
//! skewed), [`parse`] (the same readers over bytes), [`detect`] (what kind of data lies at a path).
//!
//! Invariants: windows are in raw physical units, in the order of time, and no window to train on
//! shares a sample with a held-out one. Nothing a file holds can panic.

mod detect;
pub mod hapt;
pub mod parse;
pub mod pool;
pub mod post;
#[cfg(test)]
mod real_data;
pub mod skew;
mod spec;
mod stream;

use std::fmt::Debug;
use std::path::PathBuf;

use lamplight_models::graph::Shape;
use lamplight_models::image::{ImageError, ImageInput, ImageRule};
use lamplight_models::model::ModelError;
use lamplight_models::samples::Samples;

pub use detect::{Kind, detect};
pub use spec::{
    CsvRows, CsvSpec, DataSpec, HaptSpec, Keep, PoolFormat, PoolSpec, PostChoice, PostSpec,
    SourceSpec, SpecError, Split,
};

/// Labelled windows of one place: those to train on, and later ones that are held out.
pub trait SampleSource: Debug + Send + Sync {
    /// What the windows are.
    fn describe(&self) -> SourceInfo;

    /// How many windows [`Self::train`] and [`Self::held_out`] will return, told before their values are in
    /// memory; 0 where that is not known.
    fn counts(&self) -> (usize, usize) {
        (0, 0)
    }

    /// The windows to train on, raw, in the order of time; empty under [`Split::All`].
    ///
    /// # Errors
    /// [`SourceError`] when the data cannot be read.
    fn train(&self) -> Result<Samples, SourceError>;

    /// The windows held out, raw, in the order of time.
    ///
    /// # Errors
    /// [`SourceError`] when the data cannot be read.
    fn held_out(&self) -> Result<Samples, SourceError>;
}

/// What a source's windows are.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceInfo {
    /// Channel names with units, e.g. `acc_x [g]`.
    pub channels: Vec<String>,
    /// Samples per second; `None` where a sample has no time, as in images.
    pub sampling_rate_hz: Option<f64>,
    /// How images became samples; `None` where samples are no images.
    pub image: Option<ImageRule>,
    /// Shape of one window, `[channels, length]`, or image, `[channels, height, width]`.
    pub window: Shape,
    /// Class names; labels index into it.
    pub classes: Vec<String>,
    /// Where the data comes from, in words.
    pub origin: String,
    /// Whether the data was computed rather than measured.
    pub simulated: bool,
}

/// Why a source's data cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The specification is not one.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A file is missing or unreadable.
    #[error("cannot read `{}`: {cause}; {remedy}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        cause: std::io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A table has a line that makes no sense.
    #[error("`{}` line {line}: {fault}; {remedy}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// Line, counted from 1, the header included.
        line: u64,
        /// What is wrong, with both values.
        fault: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A file is larger than any honest one.
    #[error("`{}` has {bytes} bytes, more than the {limit} allowed; is it the right file?", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Its size.
        bytes: u64,
        /// The most that is read.
        limit: u64,
    },
    /// The compressed signals end, or break, before the last row needed.
    #[error(
        "`{}` breaks off in row {row} of the {needed} needed: {cause}; fetch the file again and compare its sha256 with the README's",
        file.display()
    )]
    Signals {
        /// The file.
        file: PathBuf,
        /// Rows read in full, that is, the row that could not be had, from 0.
        row: u64,
        /// Rows that had to be read.
        needed: u64,
        /// What the decompressor said.
        cause: std::io::Error,
    },
    /// A record of a file makes no sense.
    #[error("`{}` record {record}: {fault}; {remedy}", file.display())]
    Record {
        /// The file.
        file: PathBuf,
        /// Record, from 0.
        record: u64,
        /// What is wrong, with both values.
        fault: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A file is not what it was when it was opened.
    #[error("`{}` changed while it was read; let no other program write it, and start again", file.display())]
    Changed {
        /// The file.
        file: PathBuf,
    },
    /// The files have no class of this name.
    #[error("there is no class `{class}`; there are {known}")]
    UnknownClass {
        /// Who was asked for.
        class: String,
        /// Those that are there.
        known: String,
    },
    /// Class names that no model could have.
    #[error("`{}`: {fault}; rename the class in the data", file.display())]
    ClassNames {
        /// The file or directory.
        file: PathBuf,
        /// Which name, and what is wrong with it.
        fault: Box<ModelError>,
    },
    /// Samples that cannot be parted as asked.
    #[error(
        "{samples} samples cannot be parted into {parts} of at least {least} each with dirichlet={alpha}; take fewer parts or a larger number"
    )]
    Share {
        /// Parts.
        parts: usize,
        /// Samples there are.
        samples: usize,
        /// Fewest a part should have.
        least: usize,
        /// Concentration.
        alpha: f64,
    },
    /// Groups that cannot be dealt to all parts.
    #[error(
        "{groups} groups cannot be dealt to {parts} nodes and {cloud} cloud, one each; take fewer parts, or name a finer `group=`"
    )]
    Groups {
        /// Groups there are.
        groups: usize,
        /// Nodes.
        parts: usize,
        /// 1 where the cloud has a share, else 0.
        cloud: usize,
    },
    /// Groups that are dealt whole cannot be skewed.
    #[error(
        "recordings are dealt whole, so dirichlet={alpha} has no meaning; leave it out (or share a single table without `group=`)"
    )]
    WholeGroups {
        /// Concentration asked for.
        alpha: f64,
    },
    /// The files name no such group.
    #[error("`{}` has no group `{group}`; it has {known}", file.display())]
    UnknownGroup {
        /// The table.
        file: PathBuf,
        /// Who was asked for.
        group: String,
        /// Who is there.
        known: String,
    },
    /// Windows that overlap, dealt to different parts.
    #[error(
        "windows of {window} rows every {stride} overlap, and must not be dealt to different nodes; name recordings with `group=`, or take stride={window}"
    )]
    Overlap {
        /// From one window to the next, rows.
        stride: usize,
        /// Rows in a window.
        window: usize,
    },
    /// Tables without a single whole window.
    #[error(
        "`{}` has no window in {rows} rows; take a shorter `window=`, or see whether label and group change from row to row",
        file.display()
    )]
    NoWindow {
        /// File or directory.
        file: PathBuf,
        /// Rows read.
        rows: u64,
    },
    /// Nobody of this number was recorded.
    #[error("`{}` knows no subject {subject}; it has {known:?}", dir.display())]
    UnknownSubject {
        /// The directory.
        dir: PathBuf,
        /// Who was asked for.
        subject: u32,
        /// Who is there.
        known: Vec<u32>,
    },
    /// Too few people to give each part one.
    #[error("`{}` has {people} people, a draw needs at least 3; fetch the whole set", dir.display())]
    FewPeople {
        /// The directory.
        dir: PathBuf,
        /// People there are.
        people: usize,
    },
    /// Images that the model's rule cannot use.
    #[error("`{}`: {fault}", path.display())]
    Images {
        /// File or directory.
        path: PathBuf,
        /// What does not fit.
        fault: ImageError,
    },
    /// Nothing there is known.
    #[error(
        "`{}` holds no data of a known kind; it should have `RawData/labels.txt` or `signals_i16le.bin.gz` (HAPT), `*.bin` (CIFAR-10), `train-images-idx3-ubyte` (IDX), `*.csv`, or a folder of JPEG or PNG files per class",
        path.display()
    )]
    UnknownKind {
        /// File or directory.
        path: PathBuf,
    },
    /// There is no draw of this number.
    #[error("`{}` has no draw {draw}; it has {known:?}", file.display())]
    UnknownDraw {
        /// The table of draws.
        file: PathBuf,
        /// The draw asked for.
        draw: u32,
        /// Those that are there.
        known: Vec<u32>,
    },
}

impl SourceSpec {
    /// Whether the samples are images, which a model's rule may want otherwise.
    #[must_use]
    pub fn has_images(&self) -> bool {
        match &self.data {
            DataSpec::Post(_) | DataSpec::Hapt(_) => false,
            DataSpec::Pool(spec) => !matches!(spec.format, PoolFormat::Csv(_)),
        }
    }

    /// Opens the source for a model that takes images like this: a source of images makes them by
    /// the model's rule, whatever size it would give by itself.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_for(
        &self,
        image: Option<&ImageInput>,
    ) -> Result<Box<dyn SampleSource>, SourceError> {
        Ok(match &self.data {
            DataSpec::Post(spec) => {
                Box::new(post::PostSource::new(spec.clone(), self.keep.clone()))
            }
            DataSpec::Hapt(spec) => Box::new(hapt::HaptSource::open(spec, self.keep.clone())?),
            DataSpec::Pool(spec) => {
                Box::new(pool::PoolSource::open_for(spec, self.keep.split, image)?)
            }
        })
    }

    /// Opens the source: reads and checks its tables, and for recordings the people's own rows.
    ///
    /// # Errors
    /// [`SourceError`] naming the file, the line where there is one, and what to do.
    pub fn open(&self) -> Result<Box<dyn SampleSource>, SourceError> {
        self.open_for(None)
    }
}
