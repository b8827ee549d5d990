//! Layers: default < file < environment < flag.

use std::{
    ffi::OsString,
    fmt::Display,
    fs,
    io::{self, Read as _},
    path::Path,
};

use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    MAX_BYTES,
    error::{Place, SettingsError},
    read::{Fault, Guess, Kind, Reader, Trail, listed},
    value::{Entry, Table, Value, from_toml},
};

/// Between the parts of a variable's name: one underscore is part of many keys.
const SEPARATOR: &str = "__";

/// Environment variables of a program.
#[derive(Debug, Clone, Copy)]
pub struct Variables {
    /// `PREFIX__TRAINING__THREADS` is `training.threads`.
    pub prefix: &'static str,
    /// Variables with names of their own, as `(variable, key)`.
    pub named: &'static [(&'static str, &'static str)],
    /// Variables that begin with `PREFIX_` and set no key.
    pub spared: &'static [&'static str],
}

/// Settings from all layers, not yet checked.
#[derive(Debug, Clone)]
pub struct Document {
    /// Always a table; its place is the file, or nothing.
    root: Entry,
    /// Prefix of environment variables, e.g. `LAMPLIGHT_AGENT`.
    prefix: Option<&'static str>,
    /// Flags, as `(key, flag)`.
    flags: &'static [(&'static str, &'static str)],
}

/// One key as `config print` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Setting {
    /// The whole key, e.g. `training.threads`.
    pub key: String,
    /// Its value; null where there is none.
    pub value: serde_json::Value,
    /// Where the value comes from: `FILE:LINE:COLUMN`, a variable, a flag, or `default`.
    #[schemars(with = "String")]
    pub from: Place,
}

/// What `config check` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Verdict {
    /// Whether `run` can begin with it.
    pub good: bool,
    /// Keys that somebody set.
    pub set: usize,
    /// Keys there are.
    pub keys: usize,
    /// What is wrong, where, and what to do; absent where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

impl Verdict {
    /// About settings that are good, or the fault they have.
    #[must_use]
    pub fn of(read: Result<&[Setting], &SettingsError>) -> Self {
        let all = read.unwrap_or_default();
        Self {
            good: read.is_ok(),
            set: all.iter().filter(|s| s.from != Place::Default).count(),
            keys: all.len(),
            fault: read.err().map(ToString::to_string),
        }
    }
}

impl Document {
    /// No file: all comes from other layers.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            root: whole(Table::default(), Place::NoFile),
            prefix: None,
            flags: &[],
        }
    }

    /// The text of the file `origin`.
    ///
    /// # Errors
    /// [`SettingsError::Syntax`] with the line; [`SettingsError::TooLarge`].
    pub fn parse(text: &str, origin: &Path) -> Result<Self, SettingsError> {
        let bytes = text.len() as u64;
        if bytes > MAX_BYTES {
            return Err(too_large(origin, Some(bytes)));
        }
        Ok(Self {
            root: whole(from_toml(text, origin)?, Place::File(origin.into())),
            ..Self::empty()
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`SettingsError`] when it cannot be read, is too large, or is no TOML.
    pub fn read_file(path: &Path) -> Result<Self, SettingsError> {
        let file = fs::File::open(path).map_err(|e| unreadable(path, e))?;
        Self::read_stream(file, path).map_err(|e| match e {
            SettingsError::TooLarge { bytes: None, .. } => {
                let length = fs::metadata(path).map_or(0, |m| m.len());
                too_large(path, Some(length).filter(|&n| n > MAX_BYTES))
            }
            e => e,
        })
    }

    /// Reads a stream, e.g. standard input; errors call it `origin`.
    ///
    /// # Errors
    /// As [`Self::read_file`].
    pub fn read_stream(stream: impl io::Read, origin: &Path) -> Result<Self, SettingsError> {
        let mut bytes = Vec::new();
        // One more than allowed: a file may grow, and a pipe or a device has no length.
        let most = MAX_BYTES + 1;
        (stream.take(most).read_to_end(&mut bytes)).map_err(|e| unreadable(origin, e))?;
        if bytes.len() as u64 == most {
            return Err(too_large(origin, None));
        }
        let text = String::from_utf8(bytes).map_err(|_| SettingsError::NotText {
            place: Place::File(origin.into()),
        })?;
        Self::parse(&text, origin)
    }

    /// Lays environment variables over what is there.
    ///
    /// Variables that begin with `PREFIX_` but not with `PREFIX__` are slips of somebody's fingers,
    /// unless they are named or spared, or put there by Kubernetes for a service of that name. Where
    /// two set one key, the one with the prefix counts. An empty variable is as good as none.
    ///
    /// # Errors
    /// [`SettingsError::UnknownVariable`], [`SettingsError::NotText`]. Whether a key exists is found out
    /// by [`Self::read`].
    pub fn over_environment(
        &mut self,
        names: &Variables,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(), SettingsError> {
        let prefix = names.prefix;
        self.prefix = Some(prefix);
        let own = |name: &str| names.named.iter().find(|(variable, _)| *variable == name);
        let mut ours: Vec<(String, OsString)> = (variables.into_iter())
            .filter(|(_, value)| !value.is_empty())
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| {
                let rest = name.strip_prefix(prefix);
                let prefixed = rest.is_some_and(|rest| rest.starts_with('_'));
                own(name).is_some() || (prefixed && !names.spared.contains(&name.as_str()))
            })
            .collect();
        // The environment has no order; faults should, and names with the prefix come last.
        ours.sort_by_key(|(name, _)| (own(name).is_none(), name.clone()));
        for (name, value) in ours {
            let rest = name.strip_prefix(prefix).unwrap_or_default();
            let key = match (own(&name), rest.strip_prefix(SEPARATOR)) {
                (Some((_, key)), _) => (*key).to_owned(),
                (None, Some(key)) => key.to_ascii_lowercase().replace(SEPARATOR, "."),
                (None, None) if of_kubernetes(rest) => continue,
                (None, None) => {
                    let hint = format!(
                        "keys are {prefix}__TABLE__KEY, with two underscores between the parts; \
                         correct it or unset it"
                    );
                    return Err(SettingsError::UnknownVariable { name, hint });
                }
            };
            let place = Place::Variable(name.clone());
            let text = value.into_string().map_err(|_| SettingsError::NotText {
                place: place.clone(),
            })?;
            self.put(&key, text, place).map_err(|(key, there)| {
                let hint = format!("`{key}` is no table ({there}); correct it or unset it");
                SettingsError::UnknownVariable { name, hint }
            })?;
        }
        Ok(())
    }

    /// Says which flag stands for which key, for remedies. Flags are given with [`Self::over_flag`].
    #[must_use]
    pub fn with_flags(self, flags: &'static [(&'static str, &'static str)]) -> Self {
        Self { flags, ..self }
    }

    /// Lays a flag's value over what is there, if it was given.
    pub fn over_flag(&mut self, key: &str, value: Option<impl Display>) {
        let (Some(value), Some(flag)) = (value, self.flag(key)) else {
            return;
        };
        // Where a table must be and none is, reading says so.
        let _ = self.put(key, value.to_string(), Place::Flag(flag));
    }

    fn flag(&self, key: &str) -> Option<&'static str> {
        let found = self.flags.iter().find(|(of, _)| *of == key);
        found.map(|(_, flag)| *flag)
    }

    /// Sets a key. An error is the part of it that is no table, and where it stands.
    fn put(&mut self, key: &str, text: String, place: Place) -> Result<(), (String, Place)> {
        let mut entry = &mut self.root;
        let mut above = "";
        for part in key.split('.') {
            let Value::Table(table) = &mut entry.value else {
                return Err((above.to_owned(), entry.place.clone()));
            };
            entry = table.entry(part, || whole(Table::default(), place.clone()));
            above = part;
        }
        *entry = Entry {
            key: place.clone(),
            place,
            value: Value::Outside(text),
        };
        Ok(())
    }

    /// Reads everything as a `T`.
    ///
    /// # Errors
    /// [`SettingsError`]: the first fault, in the order of the file's lines.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, SettingsError> {
        let reader = Reader {
            entry: &self.root,
            trail: &Trail::ROOT,
        };
        T::deserialize(reader).map_err(|fault| self.told(fault))
    }

    fn told(&self, fault: Fault) -> SettingsError {
        let place = fault.place.unwrap_or_else(|| self.root.place.clone());
        let key = plain(&fault.key.unwrap_or_default());
        match fault.kind {
            Kind::Value(fault) => SettingsError::Value { place, key, fault },
            Kind::Missing => SettingsError::Missing {
                remedy: self.remedy(&key),
                place,
                key,
            },
            Kind::Unknown(guess) => {
                let outside = matches!(place, Place::Variable(_));
                SettingsError::UnknownKey {
                    hint: self.hint(guess, outside),
                    place,
                    key,
                }
            }
        }
    }

    fn hint(&self, guess: Guess, variable: bool) -> String {
        match guess {
            Guess::Like(key) if variable => format!("did you mean {}?", self.variable(&key)),
            Guess::Like(key) => format!("did you mean `{key}`?"),
            Guess::Above { table } if table.is_empty() => {
                "it belongs above the first [table] of the file".to_owned()
            }
            Guess::Above { table } => format!("it belongs to [{table}]"),
            Guess::Known(known) => format!("known here: {}", listed(&known)),
        }
    }

    /// The variable of a key.
    fn variable(&self, key: &str) -> String {
        let key = key.to_ascii_uppercase().replace('.', SEPARATOR);
        format!("{}{SEPARATOR}{key}", self.prefix.unwrap_or_default())
    }

    /// How a missing key can be given.
    fn remedy(&self, key: &str) -> String {
        let mut ways = Vec::new();
        if self.root.place == Place::NoFile {
            ways.push("write it into a file and give --config".to_owned());
        } else {
            ways.push("write it there".to_owned());
        }
        if self.prefix.is_some() {
            ways.push(format!("set {}", self.variable(key)));
        }
        if let Some(flag) = self.flag(key) {
            ways.push(format!("give {flag}"));
        }
        match ways.as_slice() {
            [only] => only.clone(),
            [first @ .., last] => format!("{}, or {last}", first.join(", ")),
            [] => String::new(),
        }
    }

    /// Where `key` (`limits.windows[0]`) was given; [`Place::Default`] when nobody gave it.
    #[must_use]
    pub fn place(&self, key: &str) -> Place {
        self.find(key)
            .map_or(Place::Default, |entry| entry.place.clone())
    }

    fn find(&self, key: &str) -> Option<&Entry> {
        let mut entry = &self.root;
        for part in key.split('.') {
            let (name, indices) = part.split_once('[').unwrap_or((part, ""));
            let Value::Table(table) = &entry.value else {
                // A value of a variable has no parts that stand elsewhere.
                return Some(entry);
            };
            entry = table.get(name)?;
            for index in indices.split(['[', ']']).filter(|i| !i.is_empty()) {
                let Value::List(list) = &entry.value else {
                    // `a,b` of a variable, likewise.
                    return Some(entry);
                };
                entry = list.get(index.parse::<usize>().ok()?)?;
            }
        }
        Some(entry)
    }

    /// An error about a key whose value turned out to be unfit; `fault` goes on after the key, e.g. `is
    /// 0, must be 1 or more`.
    ///
    /// It is told where the key stands; where nobody gave it, at the nearest table that is there.
    #[must_use]
    pub fn fault(&self, key: &str, fault: impl Display) -> SettingsError {
        let mut at = key;
        let place = loop {
            if let Some(entry) = self.find(at) {
                break entry.place.clone();
            }
            match at.rsplit_once('.') {
                Some((table, _)) => at = table,
                None => break self.root.place.clone(),
            }
        };
        SettingsError::Value {
            place,
            key: key.to_owned(),
            fault: fault.to_string(),
        }
    }

    /// An error about a key that is needed after all, with the ways to give it.
    #[must_use]
    pub fn missing(&self, key: &str) -> SettingsError {
        SettingsError::Missing {
            place: self.root.place.clone(),
            key: key.to_owned(),
            remedy: self.remedy(key),
        }
    }

    /// Every key of `effective` with its value and where it comes from, in the order of `effective`.
    #[must_use]
    pub fn explain(&self, effective: &serde_json::Value) -> Vec<Setting> {
        let mut out = Vec::new();
        self.explain_into("", effective, &mut out);
        out
    }

    fn explain_into(&self, path: &str, value: &serde_json::Value, out: &mut Vec<Setting>) {
        let serde_json::Value::Object(table) = value else {
            out.push(Setting {
                key: path.to_owned(),
                value: value.clone(),
                from: self.place(path),
            });
            return;
        };
        for (key, value) in table {
            let key = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            self.explain_into(&key, value, out);
        }
    }
}

/// A table as a whole.
fn whole(table: Table, place: Place) -> Entry {
    Entry {
        key: place.clone(),
        place,
        value: Value::Table(table),
    }
}

/// Keys in messages are short and on one line, whatever a file holds.
fn plain(key: &str) -> String {
    let cut = key.chars().take(200);
    cut.map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Whether Kubernetes makes variables that end so, for every service that runs beside.
fn of_kubernetes(rest: &str) -> bool {
    rest == "_PORT" || rest.starts_with("_PORT_") || rest.starts_with("_SERVICE_")
}

fn unreadable(path: &Path, cause: io::Error) -> SettingsError {
    SettingsError::Read {
        path: path.to_owned(),
        cause,
    }
}

fn too_large(path: &Path, bytes: Option<u64>) -> SettingsError {
    SettingsError::TooLarge {
        path: path.to_owned(),
        bytes,
        limit: MAX_BYTES,
    }
}

/// What [`Document::explain`] found, as a file that reads back: a line a key, each with the place its
/// value comes from; keys without a value are commented out.
#[must_use]
pub fn to_toml(settings: &[Setting]) -> String {
    let table_of = |key: &str| {
        key.rsplit_once('.')
            .map_or("", |(table, _)| table)
            .to_owned()
    };
    // Keys of the top level must stand before the first table.
    let mut sorted: Vec<(String, &Setting)> =
        settings.iter().map(|s| (table_of(&s.key), s)).collect();
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut out = String::new();
    let mut open = String::new();
    for (table, setting) in sorted {
        if table != open {
            out.push_str(&format!("\n[{table}]\n"));
            open = table;
        }
        let key = setting.key.rsplit('.').next().unwrap_or_default();
        match &setting.value {
            serde_json::Value::Null => out.push_str(&format!("# {key} is not set\n")),
            // JSON's strings, numbers and lists are TOML's, too.
            value => out.push_str(&format!("{key} = {value}  # {}\n", setting.from)),
        }
    }
    out
}
