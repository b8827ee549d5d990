//! Files that people write: configuration of agent and coordinator, tasks, contexts; and the reader they
//! share, on a table with a key of every kind.

use std::fmt::Debug;
use std::path::Path;

use lamplight_agent::settings as agent;
use lamplight_coordinator::settings as coordinator;
use lamplight_proto::ids::UnixMillis;
use lamplight_proto::settings::{Document, Log, Setting, SettingsError, to_toml};
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
    let read = read(input, |document| {
        let settings: Settings = document.read()?;
        settings.log.check(&document)?;
        Ok((document, settings))
    });
    let Some((document, settings)) = read else {
        return Answer::Refused;
    };
    // JSON has no other numbers.
    if settings.rate.is_finite() {
        let effective = serde_json::to_value(&settings).expect("settings are JSON, too");
        reads_back(&document.explain(&effective), &settings, |d| d.read());
    }
    Answer::Accepted
}

/// See [`crate::TARGETS`].
pub fn agent(input: &[u8]) -> Answer {
    let Some(loaded) = read(input, agent::Loaded::of) else {
        return Answer::Refused;
    };
    let shown = loaded.explain().expect("what came as text is text");
    reads_back(&shown, &loaded.settings, |d| {
        agent::Loaded::of(d).map(|again| again.settings)
    });
    // Bounds of tasks follow from it, whatever it says.
    drop(loaded.limits());
    Answer::Accepted
}

/// See [`crate::TARGETS`].
pub fn coordinator(input: &[u8]) -> Answer {
    let Some(loaded) = read(input, coordinator::Loaded::of) else {
        return Answer::Refused;
    };
    let shown = loaded.explain().expect("what came as text is text");
    reads_back(&shown, &loaded.settings, |d| {
        coordinator::Loaded::of(d).map(|again| again.settings)
    });
    Answer::Accepted
}

/// See [`crate::TARGETS`].
pub fn task(input: &[u8]) -> Answer {
    let Ok(text) = std::str::from_utf8(input) else {
        return Answer::Refused;
    };
    let checked = within(input.len(), SETTINGS, || {
        lamplight::task::check(text, UnixMillis(0))
    });
    if let Err(e) = &checked {
        assert!(!e.to_string().is_empty());
    }
    Answer::of(&checked)
}

/// See [`crate::TARGETS`].
pub fn contexts(input: &[u8]) -> Answer {
    let Ok(text) = std::str::from_utf8(input) else {
        return Answer::Refused;
    };
    let read = within(input.len(), SETTINGS, || lamplight::context::check(text));
    match &read {
        Err(e) => assert!(!e.to_string().is_empty()),
        Ok(written) => match lamplight::context::check(written) {
            Ok(again) => assert_eq!(&again, written),
            Err(e) => panic!("what is written cannot be read: {e}\n{written}"),
        },
    }
    Answer::of(&read)
}

fn origin() -> &'static Path {
    Path::new("settings.toml")
}

fn read<T>(input: &[u8], read: impl FnOnce(Document) -> Result<T, SettingsError>) -> Option<T> {
    let text = std::str::from_utf8(input).ok()?;
    let read = within(input.len(), SETTINGS, || {
        Document::parse(text, origin()).and_then(read)
    });
    match read {
        Ok(read) => Some(read),
        Err(e) => {
            assert!(!e.to_string().is_empty());
            None
        }
    }
}

/// What `config print` shows reads back as the same settings.
fn reads_back<T: PartialEq + Debug>(
    shown: &[Setting],
    settings: &T,
    read: impl FnOnce(Document) -> Result<T, SettingsError>,
) {
    let printed = to_toml(shown);
    let again = Document::parse(&printed, origin()).and_then(read);
    let again = again.unwrap_or_else(|e| panic!("what is printed cannot be read: {e}\n{printed}"));
    assert_eq!(&again, settings, "printed as\n{printed}");
}
