//! The tensor container of deltas and samples: safetensors files, read strictly.
//!
//! A file is the header's length (u64, little-endian), the header (JSON, padded with spaces), and
//! the tensors' values. The `safetensors` crate writes its metadata from a hash map, so one content
//! has many files, and reads a second tensor of one name over the first. Here the same content
//! gives the same bytes, names are unique, tensors follow each other without a gap, and only the
//! two types this system stores exist. The crate is the oracle of the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::graph::Shape;

/// Bytes in front of the header.
pub const PREFIX_BYTES: usize = 8;

/// Key of the text pairs beside the tensors.
const METADATA: &str = "__metadata__";

/// Type of a tensor's values, four bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dtype {
    /// IEEE 754 single precision.
    F32,
    /// Unsigned 32-bit integers.
    U32,
}

/// A tensor's place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name.
    pub name: String,
    /// Type of the values.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: Shape,
    /// Bytes from the start of the data to the first value.
    pub start: u64,
    /// Bytes from the start of the data to behind the last value.
    pub end: u64,
}

/// A parsed header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Tensors in the order of their data, without gaps.
    pub entries: Vec<Entry>,
    /// Text pairs.
    pub metadata: BTreeMap<String, String>,
    /// Bytes of data the tensors take.
    pub data_bytes: u64,
}

/// What is wrong with a container's header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Fewer than the eight bytes of the header's length.
    #[error("file of {0} bytes is too short for a safetensors file")]
    TooShort(u64),
    /// A header longer than the file or the limit.
    #[error("header claims {got} bytes, at most {max} are possible here")]
    Length {
        /// Length claimed.
        got: u64,
        /// Least of the limit and what the file has.
        max: u64,
    },
    /// Not JSON, or not of a tensor table.
    #[error("header: {0}")]
    Json(String),
    /// A name is there twice.
    #[error("header names `{0}` twice")]
    Duplicate(String),
    /// A gap, an overlap, or a length that is not the shape's.
    #[error("tensor `{name}` of shape {shape:?} lies at {got:?}, its place is {want:?}")]
    Place {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Shape,
        /// Start and end found.
        got: [u64; 2],
        /// Start and end wanted.
        want: [u64; 2],
    },
}

impl Header {
    /// Parses a header's JSON, `bytes` being exactly what the file's first number covers.
    ///
    /// Whether the data is as long as [`Header::data_bytes`] is for the caller to compare.
    ///
    /// # Errors
    /// [`HeaderError`], naming the tensor.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let raw: RawHeader =
            serde_json::from_slice(bytes).map_err(|e| HeaderError::Json(e.to_string()))?;
        let mut metadata = BTreeMap::new();
        for (key, value) in raw.metadata.unwrap_or_default().0 {
            if let Some(twice) = metadata.insert(key.clone(), value).map(|_| key) {
                return Err(HeaderError::Duplicate(twice));
            }
        }
        let mut names = BTreeSet::new();
        if let Some((twice, _)) = raw.tensors.iter().find(|(name, _)| !names.insert(name)) {
            return Err(HeaderError::Duplicate(twice.clone()));
        }
        let mut tensors = raw.tensors;
        tensors.sort_by_key(|(_, t)| t.data_offsets);
        let mut entries = Vec::with_capacity(tensors.len());
        let mut at = 0_u64;
        for (name, t) in tensors {
            // What overflows cannot equal an offset below u64::MAX; u64::MAX is no multiple of 4.
            let bytes = t
                .shape
                .iter()
                .try_fold(4_u64, |n, &d| n.checked_mul(d as u64))
                .unwrap_or(u64::MAX);
            let want = [at, at.saturating_add(bytes)];
            if t.data_offsets != want || want[1] == u64::MAX {
                return Err(HeaderError::Place {
                    name,
                    shape: t.shape,
                    got: t.data_offsets,
                    want,
                });
            }
            at = want[1];
            entries.push(Entry {
                name,
                dtype: t.dtype,
                shape: t.shape,
                start: want[0],
                end: want[1],
            });
        }
        Ok(Self {
            entries,
            metadata,
            data_bytes: at,
        })
    }
}

/// Splits a file in memory into its header's JSON and its data.
///
/// # Errors
/// [`HeaderError::TooShort`] or [`HeaderError::Length`].
pub fn split(file: &[u8], max_header: u64) -> Result<(&[u8], &[u8]), HeaderError> {
    let Some((length, rest)) = file.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(HeaderError::TooShort(file.len() as u64));
    };
    let length = header_length(*length, file.len() as u64, max_header)?;
    // It was compared with the file's length, which is a usize.
    Ok(rest.split_at(length as usize))
}

/// The header's length from a file's first bytes, compared with the file's length and a limit.
///
/// # Errors
/// [`HeaderError::Length`] when the header would be longer than either.
pub fn header_length(
    prefix: [u8; PREFIX_BYTES],
    file_bytes: u64,
    max_header: u64,
) -> Result<u64, HeaderError> {
    let got = u64::from_le_bytes(prefix);
    let max = max_header.min(file_bytes.saturating_sub(PREFIX_BYTES as u64));
    if got > max {
        return Err(HeaderError::Length { got, max });
    }
    Ok(got)
}

/// A tensor to be written: name, type, shape, and its values as little-endian bytes.
pub struct Source<'a> {
    /// Name.
    pub name: &'a str,
    /// Type of the values.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: &'a [usize],
    /// Values; `4 * product(shape)` bytes.
    pub bytes: Vec<u8>,
}

/// Writes tensors in the given order; the same content gives the same bytes.
#[must_use]
pub fn write(metadata: &BTreeMap<String, String>, tensors: &[Source<'_>]) -> Vec<u8> {
    // Text by hand, because the JSON's order is part of the file; strings are escaped by serde.
    let text = |s: &str| serde_json::Value::from(s).to_string();
    let pairs = metadata
        .iter()
        .map(|(k, v)| format!("{}:{}", text(k), text(v)));
    let pairs = pairs.collect::<Vec<_>>().join(",");
    let mut items = vec![format!("{}:{{{pairs}}}", text(METADATA))];
    let mut at = 0;
    for t in tensors {
        let end = at + t.bytes.len();
        items.push(format!(
            "{}:{{\"dtype\":\"{:?}\",\"shape\":{:?},\"data_offsets\":[{at},{end}]}}",
            text(t.name),
            t.dtype,
            t.shape
        ));
        at = end;
    }
    let mut header = format!("{{{}}}", items.join(",")).into_bytes();
    // Values start at a multiple of eight, as other readers expect that map files into memory.
    header.resize(header.len().next_multiple_of(PREFIX_BYTES), b' ');
    let mut file = Vec::with_capacity(PREFIX_BYTES + header.len() + at);
    file.extend((header.len() as u64).to_le_bytes());
    file.extend(header);
    for t in tensors {
        file.extend(&t.bytes);
    }
    file
}

/// F32 values as little-endian bytes.
#[must_use]
pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// F32 values from little-endian bytes; up to three bytes at the end that make no value are left.
pub fn f32_values(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: Dtype,
    shape: Shape,
    data_offsets: [u64; 2],
}

/// The header as written, before names are known to be unique.
#[derive(Default)]
struct RawHeader {
    metadata: Option<Pairs>,
    tensors: Vec<(String, RawEntry)>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut raw = RawHeader::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name != METADATA {
                        raw.tensors.push((name, map.next_value()?));
                    } else if raw.metadata.replace(map.next_value()?).is_some() {
                        return Err(de::Error::custom("`__metadata__` is there twice"));
                    }
                }
                Ok(raw)
            }
        }
        deserializer.deserialize_map(Table)
    }
}

/// Text pairs in the order they were written, repetitions included.
#[derive(Default)]
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("pairs of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Texts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    fn file() -> Vec<u8> {
        let metadata = BTreeMap::from([("b".into(), "\"2\"\n".into()), ("a".into(), "1".into())]);
        let tensors = [
            Source {
                name: "w",
                dtype: Dtype::F32,
                shape: &[2, 2],
                bytes: f32_bytes(&[1.0, -2.0, 3.5, 0.0]),
            },
            Source {
                name: "y",
                dtype: Dtype::U32,
                shape: &[3],
                bytes: [7_u32, 8, 9].iter().flat_map(|v| v.to_le_bytes()).collect(),
            },
        ];
        write(&metadata, &tensors)
    }

    fn parse(json: &str) -> Result<Header, HeaderError> {
        Header::parse(json.as_bytes())
    }

    #[test]
    fn the_safetensors_crate_reads_what_is_written() {
        let file = file();
        let theirs = SafeTensors::deserialize(&file).unwrap();
        let w = theirs.tensor("w").unwrap();
        assert_eq!(
            (w.shape(), w.dtype()),
            (&[2, 2][..], safetensors::Dtype::F32)
        );
        assert_eq!(
            f32_values(w.data()).collect::<Vec<_>>(),
            [1.0, -2.0, 3.5, 0.0]
        );
        let (_, metadata) = SafeTensors::read_metadata(&file).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["b"], "\"2\"\n");
    }

    #[test]
    fn what_is_written_is_read_back_and_what_the_crate_writes_too() {
        let file = file();
        let (json, data) = split(&file, 1 << 20).unwrap();
        let header = Header::parse(json).unwrap();
        assert_eq!(header.data_bytes, data.len() as u64);
        assert_eq!(header.metadata["a"], "1");
        let names: Vec<&str> = header.entries.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["w", "y"]);
        let theirs = SafeTensors::deserialize(&file).unwrap();
        let again = safetensors::serialize(theirs.tensors(), None).unwrap();
        let (json, _) = split(&again, 1 << 20).unwrap();
        assert_eq!(Header::parse(json).unwrap().entries.len(), 2);
    }

    #[test]
    fn names_that_come_twice_are_refused() {
        let one = r#""w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
        let two = r#""w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#;
        let twice = parse(&format!("{{{one},{two}}}"));
        assert_eq!(twice, Err(HeaderError::Duplicate("w".into())));
        let twice = parse(r#"{"__metadata__":{"k":"1","k":"2"}}"#);
        assert_eq!(twice, Err(HeaderError::Duplicate("k".into())));
        assert!(parse(r#"{"__metadata__":{},"__metadata__":{}}"#).is_err());
    }

    #[test]
    fn gaps_overlaps_and_wrong_lengths_are_refused() {
        let w = |shape: &str, offsets: &str| {
            parse(&format!(
                r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}},"w":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#
            ))
        };
        w("[1]", "[8,12]").unwrap();
        for (shape, offsets) in [
            ("[1]", "[12,16]"),
            ("[1]", "[4,8]"),
            ("[2]", "[8,12]"),
            ("[1]", "[8,8]"),
            ("[4611686018427387904,4]", "[8,8]"),
            ("[4611686018427387904]", "[8,18446744073709551615]"),
            ("[0]", "[18446744073709551615,18446744073709551615]"),
        ] {
            let error = w(shape, offsets).unwrap_err();
            assert!(
                matches!(error, HeaderError::Place { .. }),
                "{shape} {offsets}: {error}"
            );
        }
    }

    #[test]
    fn headers_longer_than_file_or_limit_are_refused() {
        let file = file();
        assert!(matches!(
            split(&file[..7], 99),
            Err(HeaderError::TooShort(7))
        ));
        assert!(matches!(
            split(&file, 16),
            Err(HeaderError::Length { max: 16, .. })
        ));
        let mut huge = file;
        huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(
            split(&huge, u64::MAX),
            Err(HeaderError::Length { .. })
        ));
    }

    #[test]
    fn other_types_and_other_json_are_refused() {
        for json in [
            "",
            "[]",
            "{\"w\":1}",
            r#"{"w":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}"#,
            r#"{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
            r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}}"#,
            r#"{"__metadata__":{"k":1}}"#,
        ] {
            assert!(matches!(parse(json), Err(HeaderError::Json(_))), "{json}");
        }
    }
}
