//! Colours: only on a terminal, never with `NO_COLOR`.
//!
//! Text is always made with colours; the stream it goes to takes them out where nobody would see
//! them.

use std::fmt::Display;

use anstyle::{AnsiColor, Style};
use comfy_table::{Cell, Color};

/// How the word `error` looks.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// How the words `hint` and `next` look.
pub(crate) const HINT: Style = AnsiColor::Cyan.on_default();

/// Text in a style.
pub(crate) fn paint(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// A cell of a table that holds a state of a node, round or participant.
pub(crate) fn state(word: &str) -> Cell {
    state_as(word, word)
}

/// The same in other words.
pub(crate) fn state_as(word: &str, text: impl Display) -> Cell {
    let cell = Cell::new(text);
    match word {
        "accepted" | "published" => cell.fg(Color::Green),
        "failed" | "refused" | "missing" | "abandoned" | "retired" => cell.fg(Color::Red),
        "draining" | "skipped" => cell.fg(Color::Yellow),
        _ => cell,
    }
}
