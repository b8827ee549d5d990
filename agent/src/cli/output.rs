//! How a command shows its result, and how much it says beside it. The operator's commands take the
//! same flags.

use clap::{Args as ClapArgs, ValueEnum};

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
pub(super) struct Format {
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
pub(super) struct Quiet {
    /// Only results, warnings and errors, whatever the log's filter lets through
    #[arg(long, short, help_heading = "Output")]
    quiet: bool,
}

impl Format {
    pub(super) fn is_json(self) -> bool {
        self.json || self.output.unwrap_or_default() == Layout::Json
    }

    pub(super) fn is_quiet(self) -> bool {
        self.quiet.is_quiet()
    }
}

impl Quiet {
    pub(super) fn is_quiet(self) -> bool {
        self.quiet
    }
}
