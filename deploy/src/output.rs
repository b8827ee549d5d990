//! What a person or a script sees: tables or JSON on stdout, progress on stderr, exit codes.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use comfy_table::{CellAlignment, LineStyle, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lamplight_coordinator::release::VerifyFailure;
use lamplight_proto::{envelope::VerifyError, refusal::Refusal};
use serde::Serialize;

/// Done.
pub(crate) const DONE: ExitCode = ExitCode::SUCCESS;

/// How a command shows its result.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Format {
    /// Print the result as one line of JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Format {
    /// Prints `value` as JSON, or as the text that `show` makes of it.
    pub(crate) fn print<T: Serialize>(
        self,
        value: &T,
        show: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<ExitCode> {
        let text = if self.json {
            serde_json::to_string(value)?
        } else {
            show(value)
        };
        print(&text)?;
        Ok(DONE)
    }
}

/// One piece of text to stdout. A closed pipe (`| head`) is no failure.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Says what went wrong on stderr: a refusal is 1, anything else 2.
pub(crate) fn failed(error: &anyhow::Error) -> ExitCode {
    if let Some(failure) = error.downcast_ref::<VerifyFailure>() {
        // Files that are not there say nothing about those that are.
        let absent = matches!(
            failure,
            VerifyFailure::NoRelease { .. } | VerifyFailure::Unreadable { .. }
        );
        eprintln!("not verified: {failure}");
        return ExitCode::from(if absent { 2 } else { 1 });
    }
    // Somebody signed it, but nobody who is believed.
    if error.chain().any(|cause| cause.is::<VerifyError>()) {
        eprintln!("refused: {}", explain(error));
        return ExitCode::from(1);
    }
    let refusal = error
        .chain()
        .find_map(|cause| match cause.downcast_ref::<tonic::Status>() {
            Some(status) => Refusal::in_status(status),
            None => cause.downcast_ref::<Refusal>().cloned(),
        });
    match refusal {
        Some(r) => {
            eprintln!("refused ({}): {r}", r.name());
            ExitCode::from(1)
        }
        None => {
            eprintln!("error: {}", explain(error));
            ExitCode::from(2)
        }
    }
}

/// The chain of causes on one line; a gRPC status by its message, without its debris.
fn explain(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let part = match cause.downcast_ref::<tonic::Status>() {
            Some(s) if s.message().is_empty() => s.code().to_string(),
            Some(s) => s.message().to_owned(),
            None => cause.to_string(),
        };
        if !parts.iter().any(|p| p.contains(&part)) {
            parts.push(part);
        }
    }
    parts.join(": ")
}

/// A table without heavy lines.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING.header_separator(LineStyle::none().fill('─').junction('─')));
    table.set_header(header);
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

/// The first 12 characters of a digest.
pub(crate) fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// A progress bar on stderr; silent where stderr is no terminal.
pub(crate) fn bar(length: u64, what: &str) -> ProgressBar {
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
