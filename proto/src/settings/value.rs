//! The tree of settings: values that know where they stand.

use std::{path::Path, sync::Arc};

use toml::{Spanned, de::DeTable, de::DeValue};

use super::error::{Place, SettingsError};

/// A table's keys, each once. A list, because most tables hold a few keys and a hostile file of a
/// thousand nested ones must not cost a tree's node each.
#[derive(Debug, Clone, Default)]
pub(super) struct Table(Vec<(String, Entry)>);

impl Table {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.0.iter().map(|(key, entry)| (key.as_str(), entry))
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.iter().find(|(k, _)| *k == key).map(|(_, entry)| entry)
    }

    /// The entry of `key`, put there by `make` when there is none.
    pub(super) fn entry(&mut self, key: &str, make: impl FnOnce() -> Entry) -> &mut Entry {
        let place = match self.0.iter().position(|(k, _)| k == key) {
            Some(place) => place,
            None => {
                self.0.push((key.to_owned(), make()));
                self.0.len() - 1
            }
        };
        &mut self.0[place].1
    }
}

/// A value and where it was given.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Where its key stands; for an element of a list, the element.
    pub(super) key: Place,
    /// Where the value stands.
    pub(super) place: Place,
    pub(super) value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Bool(bool),
    Integer(i128),
    Float(f64),
    /// A string, or a date as it is written.
    Text(String),
    /// From outside a file, where all is text: read as whatever is wanted.
    Outside(String),
    List(Vec<Entry>),
    Table(Table),
}

/// Finds lines and columns.
struct Lines<'t> {
    text: &'t str,
    path: Arc<Path>,
    /// Where each line begins, in bytes.
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn of(text: &'t str, path: &Path) -> Self {
        let next = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            text,
            path: path.into(),
            starts: std::iter::once(0).chain(next).collect(),
        }
    }

    fn place(&self, at: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= at).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..at).unwrap_or_default();
        Place::Line {
            path: self.path.clone(),
            line,
            column: before.chars().count() + 1,
        }
    }
}

/// Parses a file's text into its root table.
pub(super) fn from_toml(text: &str, path: &Path) -> Result<Table, SettingsError> {
    let lines = Lines::of(text, path);
    let parsed = DeTable::parse(text).map_err(|e| SettingsError::Syntax {
        place: match e.span() {
            Some(span) => lines.place(span.start),
            None => Place::File(path.into()),
        },
        fault: e.message().trim().replace('\n', ", "),
    })?;
    table(parsed.into_inner(), "", &lines)
}

fn table(from: DeTable<'_>, path: &str, lines: &Lines<'_>) -> Result<Table, SettingsError> {
    let mut out = Vec::with_capacity(from.len());
    for (key, value) in from {
        let place = lines.place(key.span().start);
        let key = key.into_inner().into_owned();
        let whole = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        let entry = entry(value, place, &whole, lines)?;
        out.push((key, entry));
    }
    Ok(Table(out))
}

fn entry(
    from: Spanned<DeValue<'_>>,
    key: Place,
    path: &str,
    lines: &Lines<'_>,
) -> Result<Entry, SettingsError> {
    let place = lines.place(from.span().start);
    let unreadable = |what: String| SettingsError::Value {
        place: place.clone(),
        key: path.to_owned(),
        fault: format!("is {what}, which is too large a number; write a smaller one"),
    };
    let value = match from.into_inner() {
        DeValue::Boolean(b) => Value::Bool(b),
        DeValue::Integer(n) => Value::Integer(
            i128::from_str_radix(n.as_str(), n.radix()).map_err(|_| unreadable(n.to_string()))?,
        ),
        DeValue::Float(x) => {
            Value::Float((x.as_str().parse()).map_err(|_| unreadable(x.to_string()))?)
        }
        DeValue::String(s) => Value::Text(s.into_owned()),
        DeValue::Datetime(d) => Value::Text(d.to_string()),
        DeValue::Array(all) => {
            let mut list = Vec::new();
            for (i, one) in all.into_iter().enumerate() {
                let at = lines.place(one.span().start);
                list.push(entry(one, at, &format!("{path}[{i}]"), lines)?);
            }
            Value::List(list)
        }
        // A table's own place is its header: that of its key.
        DeValue::Table(t) => Value::Table(table(t, path, lines)?),
    };
    Ok(Entry { key, place, value })
}
