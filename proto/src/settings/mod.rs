//! Settings that people write: configuration of agent and coordinator, task files of operators.
//!
//! ```text
//!   file (TOML) ──┐
//!   environment ──┼─> Document ──read──> a type of the program's ──> faults found later:
//!   flags ────────┘   (each value          (serde)                   Document::fault(key, …)
//!                      knows its place)
//! ```
//!
//! Whatever is wrong is said with file, line and column (or variable, or flag), the key, what stands
//! there, what may stand there, and what to do. Every struct refuses unknown keys and suggests the
//! nearest known one; no `deny_unknown_fields` is needed for that. In return `#[serde(flatten)]` and
//! untagged enums are of no use here: serde reads them without telling which keys they know.
//!
//! It is here, and not in one of the programs, because agent, coordinator and the operator's task
//! files must all say the same. TOML is read with `toml`'s spanned tables rather than with the crate
//! `config`, which merges its layers before types are checked and has lost the lines by then.
//!
//! Reading order: [`parse`], [`Document`] (layers), [`SettingsError`] and [`Place`], `read` (serde),
//! `value` (the tree), [`within`] (ranges of numbers), [`Log`] (the one table that all programs share).

mod error;
mod layer;
mod log;
mod read;
mod value;
mod within;

use std::path::Path;

use serde::de::DeserializeOwned;

pub use error::{Place, SettingsError, nearest};
pub use layer::{Document, Setting, Variables, Verdict, to_toml};
pub use log::{LOG_VARIABLE, Log, LogFormat, USUAL_FILTER};
pub use within::within;

/// Largest file of settings that is read, in bytes: a thousand times what anybody writes.
pub const MAX_BYTES: u64 = 1 << 20;

/// The name of an environment variable for a parser of command lines; `None` where the variable is
/// set to nothing, which counts as not set.
#[must_use]
pub fn unless_empty(variable: &'static str) -> Option<&'static str> {
    let is_empty = std::env::var_os(variable).is_some_and(|value| value.is_empty());
    (!is_empty).then_some(variable)
}

/// Reads `text`, which came from the file `origin`, as a `T`.
///
/// For faults that only show later, keep the [`Document`]: [`Document::fault`] says where a key stands.
///
/// # Errors
/// [`SettingsError`] with the line.
pub fn parse<T: DeserializeOwned>(text: &str, origin: &Path) -> Result<T, SettingsError> {
    Document::parse(text, origin)?.read()
}

#[cfg(test)]
mod tests;
