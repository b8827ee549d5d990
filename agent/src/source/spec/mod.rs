//! The one line by which a configuration names a source.
//!
//! ```text
//! builtin:post?post=3&seed=7            one simulated post; also train=, held_out=, hours=
//! builtin:post?post=cloud&posts=6       a pool of posts that are no node's
//! hapt:DIR?subject=5                    one person; subjects=1,2,3 joins several
//! cifar10:DIR?part=3&parts=8            one of 8 nodes' shares; also dirichlet=, cloud=, seed=
//! cifar10:DIR?part=cloud&cloud=0.4      the 40 % of the samples that are no node's
//! images:DIR?size=96                    a folder per class, images of 96 x 96 pixels
//! idx:DIR?set=test&split=all            MNIST's layout, its test set
//! csv:FILE?window=128&group=user        tables of readings; a row is a time step, `wide=6` a window
//! …&limit=2000                          at most so many samples of the whole pool
//! …&classes=WALKING,SITTING             keep only these classes (the class list stays whole)
//! …&split=all                           hold every window out: somebody never trained on
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{hapt, post};
use options::Options;

pub use csv::{CsvRows, CsvSpec};
pub use pool::{PoolFormat, PoolSpec};

mod csv;
mod options;
mod pool;

/// Most posts in one source.
const MAX_POSTS: u32 = 64;
/// Most windows in one simulated source: 180 MB of values.
const MAX_WINDOWS: usize = 50_000;
/// Longest record, one year in hours.
const MAX_HOURS: f64 = 8784.0;
/// Largest index of a node's post; the cloud's posts lie beyond.
const MAX_POST_INDEX: u32 = 999_999;
/// Most people joined in one source.
const MAX_SUBJECTS: usize = 1000;

/// Which data, and what of it to keep. Written and read as one line of text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourceSpec {
    /// The data.
    pub data: DataSpec,
    /// What of it to keep.
    pub keep: Keep,
}

/// Which data.
#[derive(Debug, Clone, PartialEq)]
pub enum DataSpec {
    /// Simulated lamp posts.
    Post(PostSpec),
    /// Recordings of people.
    Hapt(HaptSpec),
    /// Labelled samples in files, shared out.
    Pool(Box<PoolSpec>),
}

/// Simulated lamp posts.
#[derive(Debug, Clone, PartialEq)]
pub struct PostSpec {
    /// Which.
    pub post: PostChoice,
    /// The town's seed.
    pub seed: u64,
    /// Windows to train on, per post.
    pub train: usize,
    /// Windows held out, per post.
    pub held_out: usize,
    /// Length of the record they are spread over, hours.
    pub hours: f64,
}

/// Which simulated posts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PostChoice {
    /// A node's own.
    One(u32),
    /// A pool that shares no post with any node.
    Cloud {
        /// How many.
        posts: u32,
    },
}

/// Recordings of people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HaptSpec {
    /// Directory with `signals_i16le.bin.gz` and its tables; relative to the working directory.
    pub dir: String,
    /// Who, in this order.
    pub subjects: Vec<u32>,
}

/// What of the data to keep.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keep {
    /// Classes kept, ascending; `None` keeps all.
    pub classes: Option<Vec<usize>>,
    /// How windows are parted.
    pub split: Split,
}

/// How windows are parted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Split {
    /// Earlier ones to train on, later ones held out.
    #[default]
    InTime,
    /// Every window held out: for those whose data nobody trains on.
    All,
}

impl Keep {
    /// Whether windows of this class are kept.
    #[must_use]
    pub fn class(&self, class: usize) -> bool {
        self.classes
            .as_ref()
            .is_none_or(|kept| kept.contains(&class))
    }
}

/// Why a line names no source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The word before the colon is unknown.
    #[error(
        "source `{got}` is of no known kind; write `builtin:post?post=0`, `hapt:DIR?subject=5`, `images:DIR`, `cifar10:DIR`, `idx:DIR` or `csv:PATH`"
    )]
    Kind {
        /// The whole line.
        got: String,
    },
    /// An option without `=`.
    #[error("source option `{got}` has no value; write `name=value`, joined by `&`")]
    NoValue {
        /// The option.
        got: String,
    },
    /// An option that this kind of source does not have.
    #[error("source option `{got}` is unknown; `{kind}` takes {known}")]
    Unknown {
        /// The option.
        got: String,
        /// The kind of source.
        kind: &'static str,
        /// What it takes.
        known: String,
    },
    /// An option given twice.
    #[error("source option `{name}` is given twice; keep one")]
    Twice {
        /// The option.
        name: String,
    },
    /// An option that is needed.
    #[error("source option `{name}` is missing; write e.g. `{example}`")]
    Missing {
        /// The option.
        name: &'static str,
        /// How it could look.
        example: &'static str,
    },
    /// A value that does not fit.
    #[error("source option `{name}={got}` does not fit; it takes {want}")]
    Value {
        /// The option.
        name: String,
        /// Its value.
        got: String,
        /// What it takes.
        want: String,
    },
    /// Two options that exclude each other.
    #[error("source options `{a}` and `{b}` exclude each other; keep one")]
    Exclusive {
        /// One.
        a: &'static str,
        /// The other.
        b: &'static str,
    },
}

const POST: &str = "builtin:post";
const HAPT: &str = "hapt";
const POST_OPTIONS: [&str; 8] = [
    "post", "posts", "seed", "train", "held_out", "hours", "classes", "split",
];
const HAPT_OPTIONS: [&str; 4] = ["subject", "subjects", "classes", "split"];

impl FromStr for SourceSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        // The last question mark: a directory may have one in its name.
        let (name, options) = text.rsplit_once('?').unwrap_or((text, ""));
        if name == POST {
            let mut options = Options::parse(options, POST, &POST_OPTIONS)?;
            let keep = options.keep(&post::CLASSES)?;
            let data = DataSpec::Post(post_spec(&mut options)?);
            return Ok(Self { data, keep });
        }
        if let Some(found) = pool::parse(name, options) {
            return found;
        }
        match name.strip_prefix("hapt:") {
            Some(dir) if !dir.is_empty() => {
                let mut options = Options::parse(options, HAPT, &HAPT_OPTIONS)?;
                let keep = options.keep(&hapt::CLASSES)?;
                let subjects = subjects(&mut options)?;
                let dir = dir.to_owned();
                let data = DataSpec::Hapt(HaptSpec { dir, subjects });
                Ok(Self { data, keep })
            }
            _ => Err(SpecError::Kind {
                got: text.to_owned(),
            }),
        }
    }
}

fn post_spec(options: &mut Options) -> Result<PostSpec, SpecError> {
    let default_posts = 6;
    let post = match options.take("post") {
        None => {
            return Err(SpecError::Missing {
                name: "post",
                example: "builtin:post?post=0",
            });
        }
        Some(choice) if choice == "cloud" => PostChoice::Cloud {
            posts: options.number("posts", default_posts, 1..=MAX_POSTS)?,
        },
        Some(index) => {
            if options.take("posts").is_some() {
                return Err(value("post", &index, "`cloud` when `posts` is given"));
            }
            let fits = index.parse().ok().filter(|i| *i <= MAX_POST_INDEX);
            let want = format!("`cloud` or a number up to {MAX_POST_INDEX}");
            PostChoice::One(fits.ok_or_else(|| value("post", &index, &want))?)
        }
    };
    let posts = match post {
        PostChoice::One(_) => 1,
        PostChoice::Cloud { posts } => posts as usize,
    };
    let most = MAX_WINDOWS / posts;
    let spec = PostSpec {
        post,
        seed: options.number("seed", 0, 0..=u64::MAX)?,
        train: options.number("train", post::DEFAULT_TRAIN, 0..=most)?,
        held_out: options.number("held_out", post::DEFAULT_HELD_OUT, 0..=most)?,
        hours: options.number("hours", post::DEFAULT_HOURS, f64::MIN_POSITIVE..=MAX_HOURS)?,
    };
    match spec.train + spec.held_out {
        0 => Err(value("train", "0", "at least 1 when `held_out` is 0")),
        n if n > most => Err(value(
            "train",
            &spec.train.to_string(),
            &format!("with `held_out` at most {most} windows per post"),
        )),
        _ => Ok(spec),
    }
}

fn subjects(options: &mut Options) -> Result<Vec<u32>, SpecError> {
    let (name, list) = match (options.take("subject"), options.take("subjects")) {
        (Some(_), Some(_)) => {
            return Err(SpecError::Exclusive {
                a: "subject",
                b: "subjects",
            });
        }
        (None, None) => {
            return Err(SpecError::Missing {
                name: "subject",
                example: "hapt:DIR?subject=5",
            });
        }
        (Some(one), None) => ("subject", one),
        (None, Some(list)) => ("subjects", list),
    };
    let want = if name == "subject" {
        "one number"
    } else {
        "different numbers joined by commas"
    };
    let wrong = || value(name, &list, want);
    let mut subjects = Vec::new();
    for part in list.split(',') {
        let subject: u32 = part.trim().parse().map_err(|_| wrong())?;
        if subjects.contains(&subject) || subjects.len() == MAX_SUBJECTS {
            return Err(wrong());
        }
        subjects.push(subject);
    }
    if name == "subject" && subjects.len() != 1 {
        return Err(wrong());
    }
    Ok(subjects)
}

fn value(name: &str, got: &str, want: &str) -> SpecError {
    SpecError::Value {
        name: name.to_owned(),
        got: got.to_owned(),
        want: want.to_owned(),
    }
}

/// Shortest form: what is as by default is not written.
impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: &[&str] = match &self.data {
            DataSpec::Post(spec) => {
                match spec.post {
                    PostChoice::One(index) => write!(f, "{POST}?post={index}")?,
                    PostChoice::Cloud { posts } => write!(f, "{POST}?post=cloud&posts={posts}")?,
                }
                write!(f, "&seed={}", spec.seed)?;
                if spec.train != post::DEFAULT_TRAIN {
                    write!(f, "&train={}", spec.train)?;
                }
                if spec.held_out != post::DEFAULT_HELD_OUT {
                    write!(f, "&held_out={}", spec.held_out)?;
                }
                // Exact: the number is printed so that it reads back as itself.
                if spec.hours.to_bits() != post::DEFAULT_HOURS.to_bits() {
                    write!(f, "&hours={}", spec.hours)?;
                }
                &post::CLASSES
            }
            DataSpec::Hapt(spec) => {
                let list: Vec<String> = spec.subjects.iter().map(ToString::to_string).collect();
                let plural = if list.len() == 1 { "" } else { "s" };
                write!(f, "{HAPT}:{}?subject{plural}={}", spec.dir, list.join(","))?;
                &hapt::CLASSES
            }
            DataSpec::Pool(spec) => {
                pool::print(spec, f)?;
                &[]
            }
        };
        if let Some(classes) = &self.keep.classes {
            let kept: Vec<&str> = classes
                .iter()
                .filter_map(|&class| names.get(class).copied())
                .collect();
            write!(f, "&classes={}", kept.join(","))?;
        }
        match self.keep.split {
            Split::InTime => Ok(()),
            Split::All => f.write_str("&split=all"),
        }
    }
}

impl TryFrom<String> for SourceSpec {
    type Error = SpecError;

    fn try_from(text: String) -> Result<Self, SpecError> {
        text.parse()
    }
}

impl From<SourceSpec> for String {
    fn from(spec: SourceSpec) -> Self {
        spec.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<SourceSpec, SpecError> {
        text.parse()
    }

    #[test]
    fn a_spec_prints_as_it_was_written() {
        for text in [
            "builtin:post?post=3&seed=7",
            "builtin:post?post=0&seed=0&train=10&held_out=0&hours=0.5",
            "builtin:post?post=cloud&posts=6&seed=18446744073709551615",
            "builtin:post?post=1&seed=2&classes=CAR,TRAIN&split=all",
            "hapt:../shared/data/har_hapt?subject=5",
            "hapt:a dir?with=odd?subjects=3,1,2&classes=WALKING,LAYING",
            "cifar10:d?",
            "cifar10:d?part=3&parts=8&cloud=0.4&dirichlet=0.3&seed=7",
            "cifar10:d?part=cloud&cloud=0.25",
            "idx:a?b?set=test&split=all",
            "images:street?size=96&classes=bike,big car",
            "csv:a.csv?",
            "csv:phones.csv?window=50&stride=25&label=what&group=who&groups=5,7&columns=ax,ay&rate_hz=12.5",
            "csv:d?wide=6&label=1&header=no&separator=tab&part=2&parts=4&dirichlet=0.3&limit=900",
        ] {
            let spec = parse(text).expect(text);
            assert_eq!(spec.to_string(), text);
            let json = serde_json::to_string(&spec).expect("a string");
            assert_eq!(
                serde_json::from_str::<SourceSpec>(&json).expect("reads back"),
                spec
            );
        }
    }

    #[test]
    fn what_is_left_out_takes_its_default() {
        let spec = parse("builtin:post?post=2").expect("valid");
        let DataSpec::Post(spec) = spec.data else {
            panic!("a post was asked for");
        };
        assert_eq!((spec.seed, spec.train, spec.held_out), (0, 240, 120));
        let sitting = parse("hapt:d?subject=1&classes=SITTING, WALKING").expect("valid");
        assert_eq!(sitting.keep.classes, Some(vec![0, 3]));
        assert!(sitting.keep.class(3) && !sitting.keep.class(1));
    }

    #[test]
    fn a_wrong_spec_is_refused_with_the_thing_and_the_remedy() {
        for (text, says) in [
            ("", "no known kind"),
            ("tsv:x", "no known kind"),
            ("hapt:?subject=1", "no known kind"),
            ("builtin:post", "`post` is missing"),
            ("builtin:post?post", "`post` has no value"),
            ("builtin:post?post=-1", "`post=-1` does not fit"),
            ("builtin:post?post=1000000", "up to 999999"),
            ("builtin:post?post=1&posts=2", "`cloud` when `posts`"),
            ("builtin:post?post=cloud&posts=0", "from 1 to 64"),
            ("builtin:post?post=1&post=2", "`post` is given twice"),
            ("builtin:post?post=1&speed=2", "`speed` is unknown"),
            ("builtin:post?post=1&hours=NaN", "`hours=NaN`"),
            ("builtin:post?post=1&hours=0", "`hours=0`"),
            ("builtin:post?post=1&train=0&held_out=0", "at least 1"),
            ("builtin:post?post=1&train=50000", "at most 50000 windows"),
            ("builtin:post?post=cloud&posts=64&train=782", "to 781"),
            ("builtin:post?post=1&classes=CARS", "PEDESTRIAN,BICYCLE"),
            ("builtin:post?post=1&classes=CAR,CAR", "different names"),
            ("builtin:post?post=1&classes=", "different names"),
            ("builtin:post?post=1&split=half", "`time` or `all`"),
            ("images:", "no known kind"),
            ("cifar10:d?size=3", "`size` is unknown"),
            ("images:d?size=0", "from 1 to 1024"),
            ("idx:d?part=cloud", "`cloud` is missing"),
            ("idx:d?parts=4", "`part` is missing"),
            ("idx:d?part=4&parts=4", "below `parts`, which is 4"),
            ("idx:d?dirichlet=-1", "`dirichlet=-1`"),
            ("idx:d?set=all", "`train` or `test`"),
            ("hapt:d", "`subject` is missing"),
            ("hapt:d?subject=1,2", "one number"),
            ("hapt:d?subjects=1,1", "different numbers"),
            ("hapt:d?subjects=1,x", "different numbers"),
            ("hapt:d?subject=1&subjects=2", "exclude each other"),
            ("hapt:d?subject=1&seed=3", "`seed` is unknown"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_a_panic(text in "(builtin:post|hapt:d|idx:d|images:d)?[?=&,a-z0-9.-]{0,40}") {
            if let Ok(spec) = parse(&text) {
                prop_assert_eq!(parse(&spec.to_string()), Ok(spec));
            }
        }

        #[test]
        fn every_post_spec_survives_printing(
            index in 0..=MAX_POST_INDEX, seed: u64, train in 0_usize..20_000,
            held_out in 1_usize..20_000, hours in 0.001_f64..8784.0, all: bool,
        ) {
            let spec = SourceSpec {
                data: DataSpec::Post(PostSpec {
                    post: PostChoice::One(index), seed, train, held_out, hours,
                }),
                keep: Keep { classes: None, split: if all { Split::All } else { Split::InTime } },
            };
            prop_assert_eq!(parse(&spec.to_string()), Ok(spec));
        }
    }
}
