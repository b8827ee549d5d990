//! Every number the protocol ever used, and what it means.
//!
//! Old peers keep reading numbers as they were. So a number is never given to something else, and
//! what goes leaves its number and its name reserved. `proto/tests/schema.lock` has one line for each
//! thing that was ever there; lines are only added.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use prost_reflect::{Cardinality, DescriptorPool, FieldDescriptor, Kind};

use crate::schema::Schema;

/// One line's name: what is locked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    /// A value of an enum, by number.
    Value {
        /// Full name of the enum.
        of: String,
        /// The number.
        number: i32,
    },
    /// A field of a message, by number.
    Field {
        /// Full name of the message.
        of: String,
        /// The number.
        number: u32,
    },
    /// A call, by path.
    Call {
        /// `service/method`.
        path: String,
    },
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value { of, number } => write!(f, "enum {of} {number}"),
            Self::Field { of, number } => write!(f, "message {of} {number}"),
            Self::Call { path } => write!(f, "rpc {path}"),
        }
    }
}

/// What each thing means: for a field its name, label and type; for a value its name; for a call its
/// messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock(BTreeMap<Thing, String>);

/// Why a protocol does not keep what is locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A locked thing changed or vanished.
    Broken(String),
    /// A new thing is not locked yet: its line.
    New(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(what) => f.write_str(what),
            Self::New(line) => write!(f, "`{line}` is new and not in the lock yet"),
        }
    }
}

/// How a field stands in its message, in the words of the `.proto` file.
fn label(field: &FieldDescriptor) -> String {
    let oneof = field.containing_oneof();
    match (field.cardinality(), oneof) {
        (Cardinality::Repeated, _) => "repeated".to_owned(),
        (_, Some(oneof)) if oneof.is_synthetic() => "optional".to_owned(),
        (_, Some(oneof)) => format!("oneof:{}", oneof.name()),
        (_, None) => "single".to_owned(),
    }
}

fn kind(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Message(m) => m.full_name().to_owned(),
        Kind::Enum(e) => e.full_name().to_owned(),
        // `Uint64` is written `uint64`.
        plain => format!("{plain:?}").to_lowercase(),
    }
}

impl Lock {
    /// What a protocol has.
    #[must_use]
    pub fn of(schema: &Schema) -> Self {
        let pool = schema.pool();
        let mut all = BTreeMap::new();
        for message in pool.all_messages() {
            for field in message.fields() {
                let thing = Thing::Field {
                    of: message.full_name().to_owned(),
                    number: field.number(),
                };
                let means = format!("{} {} {}", field.name(), label(&field), kind(&field));
                all.insert(thing, means);
            }
        }
        for of in pool.all_enums() {
            for value in of.values() {
                let thing = Thing::Value {
                    of: of.full_name().to_owned(),
                    number: value.number(),
                };
                all.insert(thing, value.name().to_owned());
            }
        }
        for service in pool.services() {
            for method in service.methods() {
                let stream = |yes| if yes { "stream " } else { "" };
                let means = format!(
                    "{}{} -> {}{}",
                    stream(method.is_client_streaming()),
                    method.input().full_name(),
                    stream(method.is_server_streaming()),
                    method.output().full_name()
                );
                let path = format!("{}/{}", service.full_name(), method.name());
                all.insert(Thing::Call { path }, means);
            }
        }
        Self(all)
    }

    /// Reads lines.
    ///
    /// # Panics
    /// When a line is none of a lock.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let entry = |line: &str| {
            let (kind, rest) = line.split_once(' ')?;
            if kind == "rpc" {
                let (path, means) = rest.split_once(' ')?;
                let path = path.to_owned();
                return Some((Thing::Call { path }, means.to_owned()));
            }
            let mut parts = rest.splitn(3, ' ');
            let (of, number, means) = (parts.next()?.to_owned(), parts.next()?, parts.next()?);
            let thing = match kind {
                "message" => Thing::Field {
                    of,
                    number: number.parse().ok()?,
                },
                "enum" => Thing::Value {
                    of,
                    number: number.parse().ok()?,
                },
                _ => return None,
            };
            Some((thing, means.to_owned()))
        };
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(
            lines
                .map(|line| entry(line).unwrap_or_else(|| panic!("{line:?} is no line of a lock")))
                .collect(),
        )
    }

    /// The lines, sorted.
    #[must_use]
    pub fn to_text(&self) -> String {
        let lines = self
            .0
            .iter()
            .map(|(thing, means)| format!("{thing} {means}\n"));
        lines.collect()
    }

    /// Takes in what is new in a protocol; what is locked stays as it is.
    pub fn extend(&mut self, schema: &Schema) {
        for (thing, means) in Self::of(schema).0 {
            self.0.entry(thing).or_insert(means);
        }
    }

    /// The lines of a protocol that are not locked as they are: someone took a line away.
    #[must_use]
    pub fn lacks(&self, schema: &Schema) -> Vec<String> {
        let all = Self::of(schema).0.into_iter();
        all.filter(|(thing, means)| self.0.get(thing) != Some(means))
            .map(|(thing, means)| format!("{thing} {means}"))
            .collect()
    }

    /// Compares a protocol with what is locked. Broken promises first.
    #[must_use]
    pub fn check(&self, schema: &Schema) -> Vec<Fault> {
        let now = Self::of(schema);
        let mut faults = Vec::new();
        for (thing, was) in &self.0 {
            let fault = match now.0.get(thing) {
                Some(is) if is == was => None,
                Some(is) => Some(changed(thing, was, is)),
                None => gone(schema.pool(), thing, was),
            };
            faults.extend(fault.map(Fault::Broken));
        }
        faults.extend(again(&self.0, &now.0).map(Fault::Broken));
        let new = now
            .0
            .iter()
            .filter(|(thing, _)| !self.0.contains_key(thing));
        faults.extend(new.map(|(thing, means)| Fault::New(format!("{thing} {means}"))));
        faults
    }
}

/// A thing that is still there and means something else.
fn changed(thing: &Thing, was: &str, is: &str) -> String {
    let name = |means: &str| means.split(' ').next().unwrap_or_default().to_owned();
    match thing {
        Thing::Field { of, number } if name(was) != name(is) => format!(
            "field number {number} of {of} is reused: it was `{was}` and is now `{is}`; old peers \
             would read the one as the other. Give `{}` a number of its own, and say \
             `reserved {number}; reserved \"{}\";`",
            name(is),
            name(was)
        ),
        Thing::Field { of, number } => format!(
            "field {number} of {of} changes from `{was}` to `{is}`; old peers keep the old type. Add \
             a field with a new number instead"
        ),
        Thing::Value { of, number } => format!(
            "number {number} of enum {of} changes its meaning from {was} to {is}; old peers would \
             take the one for the other. Give {is} a number of its own, and say `reserved {number}; \
             reserved \"{was}\";`"
        ),
        Thing::Call { path } => format!(
            "rpc {path} changes from `{was}` to `{is}`; old peers keep the old messages. Add a call \
             with a new name instead"
        ),
    }
}

/// A thing that is no longer there: its number and name must be reserved.
fn gone(pool: &DescriptorPool, thing: &Thing, was: &str) -> Option<String> {
    let name = was.split(' ').next().unwrap_or_default();
    let (what, reserved) = match thing {
        Thing::Field { of, number } => {
            let reserved = pool.get_message_by_name(of).is_some_and(|m| {
                m.reserved_ranges().any(|r| r.contains(number))
                    && m.reserved_names().any(|n| n == name)
            });
            (format!("field `{name}` = {number} of {of}"), reserved)
        }
        Thing::Value { of, number } => {
            let reserved = pool.get_enum_by_name(of).is_some_and(|e| {
                e.reserved_ranges().any(|r| r.contains(number))
                    && e.reserved_names().any(|n| n == name)
            });
            (format!("value {name} = {number} of enum {of}"), reserved)
        }
        Thing::Call { path } => {
            return Some(format!(
                "rpc {path} vanished; old peers still call it. Keep it, and let it refuse with a \
                 remedy if it has no use any more"
            ));
        }
    };
    let number = match thing {
        Thing::Field { number, .. } => number.to_string(),
        Thing::Value { number, .. } => number.to_string(),
        Thing::Call { .. } => String::new(),
    };
    (!reserved).then(|| {
        format!(
            "{what} vanished without a trace, and its number could be used again. Say \
             `reserved {number}; reserved \"{name}\";`"
        )
    })
}

/// Names that come back under another number: people would think them the same.
fn again<'a>(
    locked: &'a BTreeMap<Thing, String>,
    now: &'a BTreeMap<Thing, String>,
) -> impl Iterator<Item = String> + 'a {
    let name = |means: &str| means.split(' ').next().unwrap_or_default().to_owned();
    let owner = |thing: &Thing| match thing {
        Thing::Field { of, .. } | Thing::Value { of, .. } => Some(of.clone()),
        Thing::Call { .. } => None,
    };
    let known: BTreeSet<(String, String)> = (locked.iter())
        .filter_map(|(thing, was)| Some((owner(thing)?, name(was))))
        .collect();
    now.iter().filter_map(move |(thing, is)| {
        let of = owner(thing)?;
        let moved = !locked.contains_key(thing) && known.contains(&(of.clone(), name(is)));
        moved.then(|| {
            format!(
                "`{}` of {of} had another number before and now stands at `{thing}`; a name keeps \
                 its number",
                name(is)
            )
        })
    })
}
