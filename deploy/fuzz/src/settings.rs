//! Files of settings: what agent, coordinator and task files are read with.
//!
//! The programs' own tables differ; this one has a key of every kind that theirs have.

use std::path::Path;

use lamplight_proto::settings::{Document, Log, to_toml};
use serde::{Deserialize, Serialize};

use crate::Answer;
use crate::memory::within;

/// Bytes of memory per byte of a file: a key of two bytes becomes a table with its place.
const SETTINGS: u64 = 1024;

/// A key of every kind.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Settings {
    name: Option<String>,
    listen: String,
    epochs: u32,
    offset: i64,
    rate: f64,
    is_on: bool,
    rule: Rule,
    tags: Vec<String>,
    budget: Budget,
    log: Log,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Rule {
    #[default]
    Constant,
    Cosine,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Budget {
    memory_mib: Option<u64>,
    windows: Vec<String>,
}

/// See [`crate::TARGETS`].
pub fn settings(input: &[u8]) -> Answer {
    let Ok(text) = std::str::from_utf8(input) else {
        return Answer::Refused;
    };
    let origin = Path::new("settings.toml");
    let read = within(input.len(), SETTINGS, || {
        let document = Document::parse(text, origin)?;
        let settings: Settings = document.read()?;
        settings.log.check(&document)?;
        Ok((document, settings))
    });
    let (document, settings) = match read {
        Ok(read) => read,
        Err(e) => return refused(&e),
    };
    if settings.rate.is_finite() {
        let effective = serde_json::to_value(&settings).expect("settings are JSON, too");
        let printed = to_toml(&document.explain(&effective));
        let again: Settings = Document::parse(&printed, origin)
            .and_then(|d| d.read())
            .unwrap_or_else(|e| panic!("what is printed cannot be read: {e}\n{printed}"));
        assert_eq!(again, settings, "printed as\n{printed}");
    }
    Answer::Accepted
}

/// An error reaches a terminal: it is said in a line, or in a few.
fn refused(error: &lamplight_proto::settings::SettingsError) -> Answer {
    assert!(!error.to_string().is_empty());
    Answer::Refused
}
