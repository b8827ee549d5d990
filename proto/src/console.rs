//! What the command lines of agent and coordinator share: how a command shows its result, how much it says
//! beside it, and how it ends. The operator's commands take the same flags.

use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Args as ClapArgs, ValueEnum};

use crate::settings::{Log, USUAL_FILTER};

/// Something was refused: by the coordinator, or by what is on disk or in the configuration.
pub const REFUSED: u8 = 1;
/// Something failed.
pub const FAILED: u8 = 2;

/// The last word of a program that ends badly: it is for people, whatever the log level. The causes of
/// an `error` are told where its alternate form (`{:#}`) has them.
pub fn last_word(error: &impl fmt::Display, is_refusal: bool) -> ExitCode {
    let (kind, code) = if is_refusal {
        ("refused", REFUSED)
    } else {
        ("error", FAILED)
    };
    // Nobody is left to tell that stderr is gone.
    let _ = writeln!(io::stderr().lock(), "{kind}: {error:#}");
    ExitCode::from(code)
}

/// Logs of a command that reads no `[log]`.
pub fn usual_logs(quiet: bool) {
    Log::usual(USUAL_FILTER).start_with(quiet);
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Layout {
    /// For people
    #[default]
    Table,
    /// One line of JSON, for scripts (see `lamplight schema`)
    Json,
}

/// How a command shows its result.
#[derive(Debug, Clone, Copy, Default, ClapArgs)]
pub struct Format {
    /// How to print the result
    #[arg(long, value_enum, value_name = "LAYOUT", help_heading = "Output")]
    output: Option<Layout>,
    /// Print the result as one line of JSON; short for --output json
    #[arg(long, conflicts_with = "output", help_heading = "Output")]
    json: bool,
    #[command(flatten)]
    quiet: Quiet,
}

/// How much a command says beside its result.
#[derive(Debug, Clone, Copy, Default, ClapArgs)]
pub struct Quiet {
    /// Only results, warnings and errors, whatever the log's filter lets through
    #[arg(long, short, help_heading = "Output")]
    quiet: bool,
}

impl Format {
    /// Whether it is to be JSON.
    #[must_use]
    pub fn is_json(self) -> bool {
        self.json || self.output.unwrap_or_default() == Layout::Json
    }

    /// Whether only results, warnings and errors are wanted.
    #[must_use]
    pub fn is_quiet(self) -> bool {
        self.quiet.is_quiet()
    }
}

impl Quiet {
    /// Whether only results, warnings and errors are wanted.
    #[must_use]
    pub fn is_quiet(self) -> bool {
        self.quiet
    }
}
