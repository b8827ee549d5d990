//! What a program logs. It is here because both programs and the operator's CLI begin alike.

use std::io::{IsTerminal as _, stderr};

use serde::{Deserialize, Serialize};
use tracing_subscriber::{
    EnvFilter, filter::LevelFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use super::{Document, SettingsError};

/// The variable that sets [`Log::filter`] in all programs.
pub const LOG_VARIABLE: &str = "LAMPLIGHT_LOG";

/// What is logged where nobody says otherwise. That a database was brought up to date is no news to
/// whoever runs a command.
pub const USUAL_FILTER: &str = "info,rusqlite_migration=warn";

/// The table `[log]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// What is logged, e.g. `info` or `info,lamplight_agent::link=debug`.
    pub filter: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            filter: USUAL_FILTER.to_owned(),
            format: LogFormat::Text,
        }
    }
}

impl Log {
    /// For commands that read no configuration: `filter`, unless [`LOG_VARIABLE`] says otherwise.
    #[must_use]
    pub fn usual(filter: &str) -> Self {
        let said = std::env::var(LOG_VARIABLE).ok().filter(|f| !f.is_empty());
        Self {
            filter: said.unwrap_or_else(|| filter.to_owned()),
            format: LogFormat::Text,
        }
    }

    /// Checks the filter.
    ///
    /// # Errors
    /// [`SettingsError::Value`] of `log.filter`.
    pub fn check(&self, document: &Document) -> Result<(), SettingsError> {
        match EnvFilter::try_new(&self.filter) {
            Ok(_) => Ok(()),
            Err(e) => Err(document.fault(
                "log.filter",
                format!(
                    "is {:?}, which is no filter ({e}); write e.g. \"info\" or \
                     \"info,lamplight_agent::link=debug\"",
                    self.filter
                ),
            )),
        }
    }

    /// Logs to stderr from now on. The first to call this in a process decides.
    pub fn start(&self) {
        self.start_at_most(LevelFilter::TRACE);
    }

    /// As [`Self::start`]; with `quiet` only warnings and errors, whatever the filter lets through.
    pub fn start_with(&self, quiet: bool) {
        self.start_at_most(if quiet {
            LevelFilter::WARN
        } else {
            LevelFilter::TRACE
        });
    }

    fn start_at_most(&self, most: LevelFilter) {
        // `check` has said what is wrong with a filter; a program without logs is worse than one with
        // too many.
        let filter =
            EnvFilter::try_new(&self.filter).unwrap_or_else(|_| EnvFilter::new(USUAL_FILTER));
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            // Logs often go to a file or a journal.
            .with_ansi(stderr().is_terminal())
            .with_writer(stderr);
        let started = match self.format {
            LogFormat::Text => builder.finish().with(most).try_init(),
            LogFormat::Json => builder.json().finish().with(most).try_init(),
        };
        if started.is_err() {
            tracing::debug!("logs were set up before");
        }
    }
}
