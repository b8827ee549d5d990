//! Specifications of pools.

use std::fmt;

use super::csv::{self, CsvSpec};
use super::options::Options;
use super::{DataSpec, SourceSpec, SpecError, value};
use crate::source::pool::{Part, Set, Share};

/// Options that all pools have.
const SHARE_OPTIONS: [&str; 8] = [
    "part",
    "parts",
    "cloud",
    "dirichlet",
    "seed",
    "limit",
    "classes",
    "split",
];
/// Side of an image unless told: CIFAR's, which `resnet20` takes.
const DEFAULT_SIDE: u32 = 32;
const MAX_SIDE: u32 = 1024;
/// Concentrations of a Dirichlet distribution: one class a node, and no skew to speak of.
const LEAST_ALPHA: f64 = 0.001;
const MOST_ALPHA: f64 = 1e6;
/// Most samples a limit may name.
const MAX_SAMPLES: usize = 10_000_000;
/// Most parts of a pool.
const MAX_PARTS: u32 = 100_000;

/// Labelled samples in files, in no order of time.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSpec {
    /// How the files are laid out.
    pub format: PoolFormat,
    /// File or directory; relative to the working directory.
    pub path: String,
    /// The publisher's training or test set.
    pub set: Set,
    /// Which part of the set.
    pub share: Share,
    /// Names of the classes kept, as written; `None` keeps all. They are known when files are read.
    pub classes: Option<Vec<String>>,
}

/// Layouts of pools.
#[derive(Debug, Clone, PartialEq)]
pub enum PoolFormat {
    /// CIFAR-10's binary batches.
    Cifar10,
    /// IDX files as of MNIST.
    Idx,
    /// A folder per class of JPEG or PNG files.
    Images {
        /// Side of the square that images are brought to, pixels.
        size: u32,
    },
    /// Tables of sensor readings.
    Csv(CsvSpec),
}

impl PoolFormat {
    fn word(&self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar10",
            Self::Idx => "idx",
            Self::Images { .. } => "images",
            Self::Csv(_) => "csv",
        }
    }

    /// Options beside those that all pools have.
    fn options(&self) -> &'static [&'static str] {
        match self {
            Self::Cifar10 | Self::Idx => &["set"],
            Self::Images { .. } => &["set", "size"],
            Self::Csv(_) => &csv::OPTIONS,
        }
    }
}

/// The pool that a line names, if its word is a pool's.
pub(super) fn parse(name: &str, options: &str) -> Option<Result<SourceSpec, SpecError>> {
    let formats = [
        PoolFormat::Cifar10,
        PoolFormat::Idx,
        PoolFormat::Images { size: DEFAULT_SIDE },
        PoolFormat::Csv(CsvSpec::default()),
    ];
    formats.into_iter().find_map(|format| {
        let path = name.strip_prefix(format.word())?.strip_prefix(':')?;
        (!path.is_empty()).then(|| of_format(format, path, options))
    })
}

fn of_format(format: PoolFormat, path: &str, options: &str) -> Result<SourceSpec, SpecError> {
    let known = [format.options(), &SHARE_OPTIONS].concat();
    let mut options = Options::parse(options, format.word(), &known)?;
    let format = match format {
        PoolFormat::Images { size } => PoolFormat::Images {
            size: options.number("size", size, 1..=MAX_SIDE)?,
        },
        PoolFormat::Csv(_) => PoolFormat::Csv(csv::parse(&mut options)?),
        other => other,
    };
    let set = match options.take("set") {
        None => Set::Train,
        Some(set) if set == "train" => Set::Train,
        Some(set) if set == "test" => Set::Test,
        Some(other) => return Err(value("set", &other, "`train` or `test`")),
    };
    let parts = options.number("parts", 1, 1..=MAX_PARTS)?;
    let part = match options.take("part") {
        None if parts == 1 => Part::Node(0),
        None => {
            return Err(SpecError::Missing {
                name: "part",
                example: "cifar10:DIR?part=0&parts=8",
            });
        }
        Some(part) if part == "cloud" => Part::Cloud,
        Some(part) => match part.parse() {
            Ok(n) if n < parts => Part::Node(n),
            _ => {
                let want = format!("`cloud` or a number below `parts`, which is {parts}");
                return Err(value("part", &part, &want));
            }
        },
    };
    let cloud = options.number("cloud", 0.0, 0.0..=1.0)?;
    if part == Part::Cloud && cloud == 0.0 {
        return Err(SpecError::Missing {
            name: "cloud",
            example: "cifar10:DIR?part=cloud&cloud=0.4",
        });
    }
    let dirichlet = match options.number("dirichlet", 0.0, LEAST_ALPHA..=MOST_ALPHA)? {
        0.0 => None,
        alpha if parts == 1 => {
            let want = "`parts=` above 1 beside it: one part cannot differ from others";
            return Err(value("dirichlet", &alpha.to_string(), want));
        }
        alpha => Some(alpha),
    };
    let limit = match options.number("limit", 0, 1..=MAX_SAMPLES)? {
        0 => None,
        limit => Some(limit),
    };
    let seed = options.number("seed", 0, 0..=u64::MAX)?;
    let classes = options.take("classes").map(|list| {
        let names = list.split(',').map(|name| name.trim().to_owned());
        names.collect::<Vec<_>>()
    });
    let keep = options.keep(&[])?;
    Ok(SourceSpec {
        data: DataSpec::Pool(Box::new(PoolSpec {
            format,
            path: path.to_owned(),
            set,
            share: Share {
                part,
                parts,
                cloud,
                dirichlet,
                seed,
                limit,
            },
            classes,
        })),
        keep,
    })
}

pub(super) fn print(spec: &PoolSpec, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{}:{}", spec.format.word(), spec.path)?;
    let share = &spec.share;
    let mut options = Vec::new();
    match &spec.format {
        PoolFormat::Images { size } if *size != DEFAULT_SIDE => {
            options.push(format!("size={size}"));
        }
        PoolFormat::Csv(table) => csv::print(table, &mut options),
        _ => {}
    }
    match share.part {
        Part::Cloud => options.push("part=cloud".to_owned()),
        Part::Node(_) if share.parts == 1 => {}
        Part::Node(n) => options.push(format!("part={n}")),
    }
    if share.parts != 1 {
        options.push(format!("parts={}", share.parts));
    }
    if share.cloud > 0.0 {
        options.push(format!("cloud={}", share.cloud));
    }
    if let Some(alpha) = share.dirichlet {
        options.push(format!("dirichlet={alpha}"));
    }
    if share.seed != 0 {
        options.push(format!("seed={}", share.seed));
    }
    if let Some(limit) = share.limit {
        options.push(format!("limit={limit}"));
    }
    if spec.set == Set::Test {
        options.push("set=test".to_owned());
    }
    if let Some(classes) = &spec.classes {
        options.push(format!("classes={}", classes.join(",")));
    }
    // A question mark always, so that one in the path is not taken for it.
    write!(f, "?{}", options.join("&"))
}
