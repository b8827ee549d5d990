//! What a person or a script sees: tables or JSON on stdout, progress and hints on stderr, exit codes.

mod fail;
pub(crate) mod paint;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use clap::{ArgMatches, ValueEnum};
use comfy_table::{CellAlignment, LineStyle, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

pub(crate) use fail::{OrHint, Refused, failed, fault};

/// Done.
pub(crate) const DONE: ExitCode = ExitCode::SUCCESS;

/// Whether this process keeps progress and hints to itself. Settled once, before any command runs.
static QUIET: AtomicBool = AtomicBool::new(false);

/// How a result is laid out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// For people
    #[default]
    Table,
    /// For people with wide screens: more columns, where there are more
    Wide,
    /// One line of JSON, for scripts (see `lamplight schema`)
    Json,
}

/// How a command shows its result.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Format {
    /// How to print the result
    #[arg(long, value_enum, value_name = "LAYOUT", help_heading = "Output")]
    output: Option<Layout>,
    /// Print the result as one line of JSON; short for --output json
    #[arg(long, conflicts_with = "output", help_heading = "Output")]
    json: bool,
    /// No progress and no hints what to do next: only results and errors
    #[arg(long, short, help_heading = "Output")]
    quiet: bool,
}

/// Looks for `--quiet` in the command that will run.
pub(crate) fn settle(matches: &ArgMatches) {
    let mut leaf = matches;
    while let Some((_, deeper)) = leaf.subcommand() {
        leaf = deeper;
    }
    let is_quiet = matches!(leaf.try_get_one::<bool>("quiet"), Ok(Some(true)));
    QUIET.store(is_quiet, Ordering::Relaxed);
}

impl Format {
    fn layout(self) -> Layout {
        if self.json {
            Layout::Json
        } else {
            self.output.unwrap_or_default()
        }
    }

    /// Whether more columns are wanted.
    pub(crate) fn is_wide(self) -> bool {
        self.layout() == Layout::Wide
    }

    /// Prints `value` as JSON, or as the text that `show` makes of it.
    pub(crate) fn print<T: Serialize>(
        self,
        value: &T,
        show: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<ExitCode> {
        if self.layout() == Layout::Json {
            print_plain(&serde_json::to_string(value)?)?;
        } else {
            print(&show(value))?;
        }
        Ok(DONE)
    }

    /// Says what to do next, on stderr; not to scripts.
    pub(crate) fn next(self, what: &str) {
        if self.layout() != Layout::Json && !self.quiet {
            anstream::eprintln!("{}: {what}", paint::paint(paint::HINT, "next"));
        }
    }
}

/// One piece of text to stdout, with its colours if that is a terminal.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    written(writeln!(anstream::stdout().lock(), "{text}"))
}

/// One piece of text to stdout, as it is.
pub(crate) fn print_plain(text: &str) -> anyhow::Result<()> {
    written(writeln!(io::stdout().lock(), "{text}"))
}

/// A closed pipe (`| head`) is no failure.
fn written(done: io::Result<()>) -> anyhow::Result<()> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// A table without heavy lines.
pub(crate) fn table<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    // The stream takes colours out where nobody would see them.
    table.enforce_styling();
    table.load_style(presets::NOTHING.header_separator(LineStyle::none().fill('─').junction('─')));
    table.set_header(header.into_iter().collect::<Vec<_>>());
    table
}

/// Aligns the columns of numbers, from `first` on, to the right.
pub(crate) fn right_from(table: &mut Table, first: usize) {
    for column in table.column_iter_mut().skip(first) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// Bytes for people, in powers of 1024.
pub(crate) fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}

/// A share as a percentage.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A time for people, UTC, to the second.
pub(crate) fn time(unix_ms: i64) -> String {
    if unix_ms == 0 {
        return "never".to_owned();
    }
    jiff::Timestamp::from_millisecond(unix_ms).map_or_else(
        |_| format!("{unix_ms} ms"),
        |t| t.strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

/// How long ago a time was, for people; empty for never.
pub(crate) fn ago(unix_ms: i64) -> String {
    if unix_ms == 0 {
        return String::new();
    }
    let since = jiff::Timestamp::now()
        .as_millisecond()
        .saturating_sub(unix_ms);
    let seconds = u64::try_from(since / 1000).unwrap_or(0);
    format!(
        "{} ago",
        indicatif::HumanDuration(Duration::from_secs(seconds))
    )
}

/// The first 12 characters of a digest.
pub(crate) fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// A progress bar on stderr; silent where stderr is no terminal, and with `--quiet`.
pub(crate) fn bar(length: u64, what: &str) -> ProgressBar {
    if QUIET.load(Ordering::Relaxed) {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    if let Ok(style) =
        ProgressStyle::with_template("{prefix:>18} {bar:32} {pos:>5}/{len:<5} {wide_msg}")
    {
        bar.set_style(style);
    }
    bar.set_prefix(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}
