//! A serde deserializer over the tree: the only one who knows, at the same time, which keys a struct
//! has and where the keys that are there stand.

use std::fmt;

use serde::{
    Deserialize,
    de::{
        self, DeserializeSeed, EnumAccess, Expected, IntoDeserializer as _, MapAccess, SeqAccess,
        Unexpected, VariantAccess, Visitor, value::StrDeserializer,
    },
    forward_to_deserialize_any,
};

use super::{
    error::{Place, nearest},
    value::{Entry, Table, Value},
};

/// What is wrong; place and key are filled in on the way out.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) place: Option<Place>,
    pub(super) key: Option<String>,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// A key nobody reads, and what else it could be.
    Unknown(Guess),
    Missing,
    /// `is 0, must be …`
    Value(String),
}

#[derive(Debug)]
pub(super) enum Guess {
    /// The whole key that was perhaps meant.
    Like(String),
    /// A table further up knows it.
    Above { table: String },
    /// What is known here.
    Known(Vec<&'static str>),
}

impl Fault {
    fn value(says: String) -> Self {
        Self {
            place: None,
            key: None,
            kind: Kind::Value(says),
        }
    }

    /// The innermost place is the true one.
    fn at(mut self, place: &Place, trail: &Trail<'_>) -> Self {
        if self.place.is_none() {
            self.place = Some(place.clone());
            let here = trail.path();
            self.key = Some(match self.key.take() {
                Some(key) => join(&here, &key),
                None => here,
            });
        }
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::value(format!("does not fit: {message}"))
    }

    fn invalid_type(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::value(format!("is {}, must be {}", shown(found), want(wanted)))
    }

    fn invalid_value(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::invalid_type(found, wanted)
    }

    fn invalid_length(length: usize, wanted: &dyn Expected) -> Self {
        Self::value(format!("has {length} elements, must be {}", want(wanted)))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let guess = nearest(variant, expected)
            .map(|near| format!("; did you mean `{near}`?"))
            .unwrap_or_default();
        Self::value(format!(
            "is {}, must be one of {}{guess}",
            quoted(variant),
            listed(expected)
        ))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self {
            place: None,
            key: Some(field.to_owned()),
            kind: Kind::Unknown(guess("", field, expected)),
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            place: None,
            key: Some(field.to_owned()),
            kind: Kind::Missing,
        }
    }
}

pub(super) fn listed(words: &[&str]) -> String {
    let all: Vec<String> = words.iter().map(|w| format!("`{w}`")).collect();
    all.join(", ")
}

/// Long values are cut: a message is one line.
fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(60).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("{cut:?}{more}")
}

fn shown(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(b) => b.to_string(),
        Unexpected::Unsigned(n) => n.to_string(),
        Unexpected::Signed(n) => n.to_string(),
        Unexpected::Float(x) => x.to_string(),
        Unexpected::Str(s) => format!("the text {}", quoted(s)),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// What serde wants, in words of people who do not know Rust's types.
fn want(wanted: &dyn Expected) -> String {
    let wanted = wanted.to_string();
    let whole = |least: i128, most: i128| format!("a whole number from {least} to {most}");
    match wanted.as_str() {
        "u8" => whole(0, u8::MAX.into()),
        "u16" => whole(0, u16::MAX.into()),
        "u32" => whole(0, u32::MAX.into()),
        "i32" => whole(i32::MIN.into(), i32::MAX.into()),
        "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "i64" => "a whole number".to_owned(),
        "f64" | "f32" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" => "a text in quotes".to_owned(),
        "a sequence" => "a list in brackets".to_owned(),
        w if w.starts_with("struct ") || w == "a map" => "a table".to_owned(),
        w if w.starts_with("enum ") => "a text in quotes".to_owned(),
        _ => wanted,
    }
}

fn join(table: &str, key: &str) -> String {
    if table.is_empty() {
        key.to_owned()
    } else {
        format!("{table}.{key}")
    }
}

fn guess(table: &str, key: &str, known: &[&'static str]) -> Guess {
    match nearest(key, known) {
        Some(near) => Guess::Like(join(table, near)),
        None => Guess::Known(known.to_vec()),
    }
}

/// The way from the root to a value, as a chain on the stack.
#[derive(Clone, Copy)]
pub(super) struct Trail<'a> {
    up: Option<&'a Trail<'a>>,
    step: Step<'a>,
    /// What the table knows that this value lies in.
    known: &'static [&'static str],
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl<'a> Trail<'a> {
    pub(super) const ROOT: Trail<'static> = Trail {
        up: None,
        step: Step::Root,
        known: &[],
    };

    fn down<'b>(&'b self, step: Step<'b>, known: &'static [&'static str]) -> Trail<'b>
    where
        'a: 'b,
    {
        Trail {
            up: Some(self),
            step,
            known,
        }
    }

    fn path(&self) -> String {
        let above = self.up.map(Trail::path).unwrap_or_default();
        match self.step {
            Step::Root => above,
            Step::Key(key) => join(&above, key),
            Step::Index(i) => format!("{above}[{i}]"),
        }
    }

    /// The path of the nearest table above that knows `key`.
    fn above(&self, key: &str) -> Option<String> {
        let up = self.up?;
        if self.known.contains(&key) {
            Some(up.path())
        } else {
            up.above(key)
        }
    }
}

/// Reads one value.
pub(super) struct Reader<'a> {
    pub(super) entry: &'a Entry,
    pub(super) trail: &'a Trail<'a>,
}

impl<'a> Reader<'a> {
    /// Keys in the order in which they stand, so that the first fault of a file is told first.
    fn pairs(table: &Table) -> Vec<(&str, &Entry)> {
        let mut pairs: Vec<(&str, &Entry)> = table.iter().collect();
        pairs.sort_by_key(|(_, entry)| match entry.key {
            Place::Line { line, column, .. } => (line, column),
            _ => (usize::MAX, 0),
        });
        pairs
    }

    fn table(&self, table: &'a Table, known: &'static [&'static str]) -> Pairs<'a> {
        Pairs {
            pairs: Self::pairs(table).into_iter(),
            value: None,
            trail: self.trail,
            known,
        }
    }

    fn list(&self, list: &'a [Entry]) -> Elements<'a> {
        Elements {
            list: list.iter().enumerate(),
            trail: self.trail,
        }
    }

    fn located<T>(&self, result: Result<T, Fault>) -> Result<T, Fault> {
        result.map_err(|fault| fault.at(&self.entry.place, self.trail))
    }

    /// As [`Self::located`], for faults of a table as a whole: they are told at its header.
    fn headed<T>(&self, result: Result<T, Fault>) -> Result<T, Fault> {
        result.map_err(|fault| fault.at(&self.entry.key, self.trail))
    }

    fn any<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Fault> {
        match &self.entry.value {
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Integer(n) => match (i64::try_from(*n), u64::try_from(*n)) {
                (Ok(n), _) => visitor.visit_i64(n),
                (_, Ok(n)) => visitor.visit_u64(n),
                _ => visitor.visit_i128(*n),
            },
            Value::Float(x) => visitor.visit_f64(*x),
            Value::Text(s) | Value::Outside(s) => visitor.visit_str(s),
            Value::List(list) => visitor.visit_seq(self.list(list)),
            Value::Table(table) => visitor.visit_map(self.table(table, &[])),
        }
    }
}

/// Text from outside a file is read as the number that is wanted.
macro_rules! from_outside {
    ($($method:ident $visit:ident $type:ty,)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let parsed = match &self.entry.value {
                Value::Outside(text) => text.trim().parse::<$type>().ok(),
                _ => None,
            };
            let read = match parsed {
                Some(value) => visitor.$visit(value),
                None => self.any(visitor),
            };
            self.located(read)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.located(self.any(visitor))
    }

    from_outside! {
        deserialize_bool visit_bool bool,
        deserialize_i8 visit_i64 i64,
        deserialize_i16 visit_i64 i64,
        deserialize_i32 visit_i64 i64,
        deserialize_i64 visit_i64 i64,
        deserialize_u8 visit_u64 u64,
        deserialize_u16 visit_u64 u64,
        deserialize_u32 visit_u64 u64,
        deserialize_u64 visit_u64 u64,
        deserialize_f32 visit_f64 f64,
        deserialize_f64 visit_f64 f64,
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Value::Outside(text) = &self.entry.value else {
            return self.deserialize_any(visitor);
        };
        // `a, b` is a list of two, nothing a list of none.
        let parts: Vec<Entry> = (text.split(',').map(str::trim))
            .filter(|part| !part.is_empty())
            .map(|part| Entry {
                value: Value::Outside(part.to_owned()),
                ..self.entry.clone()
            })
            .collect();
        let owned = Elements {
            list: parts.iter().enumerate(),
            trail: self.trail,
        };
        self.located(visitor.visit_seq(owned))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Value::Table(table) = &self.entry.value else {
            return self.deserialize_any(visitor);
        };
        for (key, entry) in Self::pairs(table) {
            if fields.contains(&key) {
                continue;
            }
            let here = self.trail.path();
            let guess = match self.trail.above(key) {
                Some(table) => Guess::Above { table },
                None => guess(&here, key, fields),
            };
            return Err(Fault {
                place: Some(entry.key.clone()),
                key: Some(join(&here, key)),
                kind: Kind::Unknown(guess),
            });
        }
        self.headed(visitor.visit_map(self.table(table, fields)))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let read = match &self.entry.value {
            Value::Text(word) | Value::Outside(word) => {
                visitor.visit_enum(StrDeserializer::new(word))
            }
            Value::Table(table) if table.len() == 1 => {
                let variant = table.iter().next().map(|(name, entry)| Variant {
                    name,
                    entry,
                    trail: self.trail,
                });
                match variant {
                    Some(variant) => visitor.visit_enum(variant),
                    None => self.any(visitor),
                }
            }
            _ => self.any(visitor).map_err(|mut fault| {
                if let Kind::Value(says) = &mut fault.kind {
                    *says = format!("{says}: one of {}", listed(variants));
                }
                fault
            }),
        };
        self.located(read)
    }

    forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct tuple tuple_struct map identifier
        ignored_any
    }
}

/// Reads a value. What a type says only after it was read (`try_from`, `FromStr`) is told here.
fn read<'de, S: DeserializeSeed<'de>>(
    seed: S,
    entry: &Entry,
    trail: &Trail<'_>,
) -> Result<S::Value, Fault> {
    let value = seed.deserialize(Reader { entry, trail });
    value.map_err(|fault| fault.at(&entry.place, trail))
}

struct Pairs<'a> {
    pairs: std::vec::IntoIter<(&'a str, &'a Entry)>,
    value: Option<(&'a str, &'a Entry)>,
    trail: &'a Trail<'a>,
    known: &'static [&'static str],
}

impl<'de> MapAccess<'de> for Pairs<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        self.value = self.pairs.next();
        let Some((key, entry)) = self.value else {
            return Ok(None);
        };
        let read = seed.deserialize(StrDeserializer::new(key));
        let trail = self.trail.down(Step::Key(key), self.known);
        read.map(Some)
            .map_err(|fault: Fault| fault.at(&entry.key, &trail))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        let Some((key, entry)) = self.value.take() else {
            return Err(de::Error::custom("its value was asked for before its key"));
        };
        read(seed, entry, &self.trail.down(Step::Key(key), self.known))
    }
}

struct Elements<'a> {
    list: std::iter::Enumerate<std::slice::Iter<'a, Entry>>,
    trail: &'a Trail<'a>,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some((i, entry)) = self.list.next() else {
            return Ok(None);
        };
        read(seed, entry, &self.trail.down(Step::Index(i), &[])).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.list.len())
    }
}

/// An enum's variant with content: a table with one key.
struct Variant<'a> {
    name: &'a str,
    entry: &'a Entry,
    trail: &'a Trail<'a>,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Fault> {
        let name: StrDeserializer<'_, Fault> = self.name.into_deserializer();
        let read = seed.deserialize(name);
        let variant = read.map_err(|fault| fault.at(&self.entry.key, self.trail))?;
        Ok((variant, self))
    }
}

impl Variant<'_> {
    fn read<T>(self, read: impl FnOnce(Reader<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        let trail = self.trail.down(Step::Key(self.name), &[]);
        let value = read(Reader {
            entry: self.entry,
            trail: &trail,
        });
        value.map_err(|fault| fault.at(&self.entry.place, &trail))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        self.read(|reader| <() as Deserialize>::deserialize(reader))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        self.read(|reader| seed.deserialize(reader))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.read(|reader| de::Deserializer::deserialize_seq(reader, visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.read(|reader| de::Deserializer::deserialize_struct(reader, "", fields, visitor))
    }
}
