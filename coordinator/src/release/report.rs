//! What verification found in order.

use std::{fmt, path::PathBuf};

use lamplight_proto::ids::{Deployment, Digest, ModelName, ModelVersion, RoundId};
use schemars::JsonSchema;
use serde::Serialize;

/// A digest that matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Match {
    /// What has it, e.g. `delta of node-0123456789abcdef`.
    pub what: String,
    /// The file, below the state directory.
    pub file: PathBuf,
    /// SHA-256.
    pub digest: Digest,
}

/// How a release came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "origin")]
pub enum Origin {
    /// An operator pushed its file: there is nothing to recompute it from.
    Pushed,
    /// A round made it, and its bytes were recomputed.
    Aggregated {
        /// The round.
        round: RoundId,
        /// The release it started from.
        base_version: ModelVersion,
        /// Deltas in it.
        deltas: usize,
    },
}

/// A release that is what it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct VerifyReport {
    /// The fleet.
    pub deployment: Deployment,
    /// The model.
    pub model: ModelName,
    /// The version.
    pub version: ModelVersion,
    /// How it came about.
    #[serde(flatten)]
    pub origin: Origin,
    /// Whether its bytes were computed again from base and deltas.
    pub recomputed: bool,
    /// SHA-256 of its file.
    pub digest: Digest,
    /// Hexadecimal release key whose signature was believed.
    pub key: String,
    /// Every digest that matched, in the order of the checks.
    pub matched: Vec<Match>,
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, version, .. } = self;
        match self.origin {
            Origin::Pushed => writeln!(
                f,
                "{model} version {version} was pushed by an operator: signature and file match, \
                 there is nothing to recompute it from"
            )?,
            Origin::Aggregated {
                round,
                base_version,
                deltas,
            } => writeln!(
                f,
                "{model} version {version} is version {base_version} and the {deltas} deltas of \
                 round {round}: recomputed, the same bytes"
            )?,
        }
        let width = self.matched.iter().map(|m| m.what.len()).max().unwrap_or(0);
        for m in &self.matched {
            writeln!(f, "  {:width$}  {}", m.what, m.digest)?;
        }
        Ok(())
    }
}
