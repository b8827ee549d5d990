//! Where a setting stands, and what can be wrong with it.

use std::{fmt, io, path::Path, path::PathBuf, sync::Arc};

use serde::{Serialize, Serializer};

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A line of a file.
    Line {
        /// The file.
        path: Arc<Path>,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
    },
    /// A file as a whole.
    File(Arc<Path>),
    /// An environment variable.
    Variable(String),
    /// A flag of the command line, e.g. `--threads`.
    Flag(&'static str),
    /// All layers together, where there is no file.
    NoFile,
    /// Nobody set it.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::File(path) => path.display().fmt(f),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => f.write_str(flag),
            Self::NoFile => f.write_str("configuration"),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    // The sentence holds the cause: it is no link of the chain, which would tell it once more.
    #[error("{path} cannot be read: {cause}; name another file, or write one")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The file is larger than any honest one.
    #[error("{path} has {}; is it the right file?", excess(*bytes, *limit))]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size; `None` where nobody knows it, as of a pipe.
        bytes: Option<u64>,
        /// The most that is read.
        limit: u64,
    },
    /// A file or a variable is not text.
    #[error("{place} is not UTF-8 text; write it anew as text")]
    NotText {
        /// Where.
        place: Place,
    },
    /// The file is not TOML; a key that is given twice, too.
    #[error("{place}: {fault}; correct this line")]
    Syntax {
        /// Where.
        place: Place,
        /// What the parser says.
        fault: String,
    },
    /// A key that nobody reads.
    #[error("{place}: unknown key `{key}`; {hint}")]
    UnknownKey {
        /// Where.
        place: Place,
        /// The whole key, e.g. `training.thread`.
        key: String,
        /// What was perhaps meant, or what is known.
        hint: String,
    },
    /// An environment variable that looks like ours, and is none.
    #[error("environment variable {name} names no key; {hint}")]
    UnknownVariable {
        /// The variable.
        name: String,
        /// What was perhaps meant.
        hint: String,
    },
    /// A value of the wrong type, out of range, or otherwise unfit.
    #[error("{place}: `{key}` {fault}")]
    Value {
        /// Where.
        place: Place,
        /// The whole key.
        key: String,
        /// What it is and what it must be.
        fault: String,
    },
    /// A key that must be there.
    #[error("{place}: `{key}` is missing; {remedy}")]
    Missing {
        /// Where it was looked for.
        place: Place,
        /// The whole key.
        key: String,
        /// How it can be given.
        remedy: String,
    },
}

fn excess(bytes: Option<u64>, limit: u64) -> String {
    match bytes {
        Some(bytes) => format!("{bytes} bytes, more than the {limit} that settings may have"),
        None => format!("more than the {limit} bytes that settings may have"),
    }
}

/// The one of `known` that `word` was perhaps meant to be.
///
/// At most a third of the letters may differ, a swap of neighbours counting once; or `word` is the
/// beginning of exactly one of `known` (`checkpoint` for `checkpoint_seconds`), or the other way
/// round.
#[must_use]
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let close = known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(word, k), *k))
        .filter(|(distance, k)| *distance <= word.chars().count().max(k.chars().count()) / 3)
        .min();
    if let Some((_, found)) = close {
        return Some(found);
    }
    if word.len() < 3 {
        return None;
    }
    let mut begins = (known.iter()).filter(|k| k.starts_with(word) || word.starts_with(**k));
    match (begins.next(), begins.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_found_and_a_far_one_is_not_guessed() {
        let known = ["threads", "device", "checkpoint_seconds", "dir"];
        for (word, want) in [
            ("thread", Some("threads")),
            ("thraeds", Some("threads")),
            ("checkpoint", Some("checkpoint_seconds")),
            ("checkpoint_minutes", Some("checkpoint_seconds")),
            ("dirr", Some("dir")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &known), want, "{word}");
        }
    }
}
