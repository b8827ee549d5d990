//! A delta as the bytes of a file.

use std::collections::BTreeMap;

use super::{Delta, DeltaError, TensorEntry, finite, value_count};
use crate::container::{self, Dtype, Header, PREFIX_BYTES, Source, f32_bytes, f32_values};

/// Version of the container written and read.
const VERSION: &str = "1";
const KEY_VERSION: &str = "lamplight.format_version";
const KEY_CODEC: &str = "lamplight.codec";

/// Longest header read without a table to compare with: 10,000 nodes' parameters fit several
/// times, and parsing it stays far below a node's memory.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// How values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// Every value as F32.
    #[default]
    F32,
}

impl Codec {
    /// Name in files and protocol messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
        }
    }

    /// The codec of this name.
    ///
    /// # Errors
    /// [`DeltaError::Codec`] when there is none.
    pub fn from_name(name: &str) -> Result<Self, DeltaError> {
        match name {
            "f32" => Ok(Self::F32),
            other => Err(DeltaError::Codec(other.chars().take(64).collect())),
        }
    }
}

/// Longest header a delta with these tensors can have: names may be escaped sixfold, numbers have
/// at most 20 digits; metadata and padding get the last 4 KiB.
pub(super) fn max_header_bytes(table: &[TensorEntry]) -> u64 {
    let entry = |e: &TensorEntry| 6 * e.name.len() + 21 * e.shape.len() + 128;
    (table.iter().map(entry).sum::<usize>() + 4096) as u64
}

/// Longest file a delta with these tensors can have: what a receiver allows before it has read any.
#[must_use]
pub fn max_encoded_bytes(table: &[TensorEntry]) -> u64 {
    PREFIX_BYTES as u64 + max_header_bytes(table) + 4 * value_count(table) as u64
}

/// Checks version and codec of a header, and that all its tensors are F32.
pub(super) fn check_header(header: &Header) -> Result<Codec, DeltaError> {
    let text = |key: &'static str| {
        let value = header.metadata.get(key).map(String::as_str);
        value.ok_or(DeltaError::MissingMetadata(key))
    };
    let version = text(KEY_VERSION)?;
    if version != VERSION {
        return Err(DeltaError::Version {
            got: version.chars().take(64).collect(),
            want: VERSION,
        });
    }
    let codec = Codec::from_name(text(KEY_CODEC)?)?;
    match header.entries.iter().find(|e| e.dtype != Dtype::F32) {
        None => Ok(codec),
        Some(e) => Err(DeltaError::Type {
            name: e.name.clone(),
        }),
    }
}

impl Delta {
    /// The delta's file; the same delta gives the same bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let metadata = BTreeMap::from([
            (KEY_VERSION.to_owned(), VERSION.to_owned()),
            (KEY_CODEC.to_owned(), Codec::F32.name().to_owned()),
        ]);
        let tensors: Vec<Source<'_>> = self
            .tensors
            .iter()
            .map(|(name, (shape, values))| Source {
                name,
                dtype: Dtype::F32,
                shape,
                bytes: f32_bytes(values),
            })
            .collect();
        container::write(&metadata, &tensors)
    }

    /// Reads a delta whole; whether it fits a base is for [`Delta::check`] or [`Delta::apply`].
    ///
    /// # Errors
    /// [`DeltaError`] when header, version, codec, length or values are wrong.
    pub fn from_bytes(file: &[u8]) -> Result<Self, DeltaError> {
        let (json, data) = container::split(file, MAX_HEADER_BYTES)?;
        let header = Header::parse(json)?;
        check_header(&header)?;
        if header.data_bytes != data.len() as u64 {
            let head = (file.len() - data.len()) as u64;
            return Err(DeltaError::Length {
                got: file.len() as u64,
                want: head.saturating_add(header.data_bytes),
            });
        }
        let mut delta = Self::default();
        for entry in header.entries {
            // Places follow each other and end with the data.
            let bytes = &data[entry.start as usize..entry.end as usize];
            let values: Vec<f32> = f32_values(bytes).collect();
            finite(&entry.name, 0, &values)?;
            delta.tensors.insert(entry.name, (entry.shape, values));
        }
        Ok(delta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::table;
    use crate::model::fixture::{small_model, tcn_model};
    use proptest::prelude::*;

    fn small() -> Delta {
        Delta::between(&small_model(1), &small_model(2)).unwrap()
    }

    #[test]
    fn a_file_reads_back_as_the_same_delta_and_the_same_bytes() {
        let delta = Delta::between(&tcn_model(1), &tcn_model(2)).unwrap();
        let bytes = delta.to_bytes();
        let back = Delta::from_bytes(&bytes).unwrap();
        assert_eq!(back, delta);
        assert_eq!(back.to_bytes(), bytes);
        let max = max_encoded_bytes(&table(&tcn_model(1)));
        assert!((bytes.len() as u64) <= max && max < bytes.len() as u64 * 11 / 10);
    }

    #[test]
    fn the_safetensors_crate_reads_it() {
        let delta = small();
        let bytes = delta.to_bytes();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (name, (shape, values)) in &delta.tensors {
            let t = theirs.tensor(name).unwrap();
            assert_eq!(t.shape(), shape);
            assert_eq!(&f32_values(t.data()).collect::<Vec<_>>(), values);
        }
    }

    #[test]
    fn other_versions_and_codecs_are_refused() {
        let text = |from: &str, to: &str| {
            let mut bytes = small().to_bytes();
            let at = bytes
                .windows(from.len())
                .position(|w| w == from.as_bytes())
                .unwrap();
            bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
            Delta::from_bytes(&bytes).unwrap_err()
        };
        let error = text("version\":\"1", "version\":\"2");
        assert!(matches!(error, DeltaError::Version { got, .. } if got == "2"));
        let error = text("codec\":\"f32", "codec\":\"int");
        assert_eq!(
            error.to_string(),
            "delta codec is `int`, only `f32` is supported"
        );
        let error = text("lamplight.codec", "lamplight.kodec");
        assert_eq!(error, DeltaError::MissingMetadata("lamplight.codec"));
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_refused_or_a_finite_delta() {
        let bytes = small().to_bytes();
        for end in 0..bytes.len() {
            assert!(
                Delta::from_bytes(&bytes[..end]).is_err(),
                "{end} bytes were accepted"
            );
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut spoiled = bytes.clone();
                spoiled[at] ^= 1 << bit;
                if let Ok(delta) = Delta::from_bytes(&spoiled) {
                    assert!(delta.norm_l2().is_finite());
                }
            }
        }
    }

    proptest! {
        #[test]
        fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Delta::from_bytes(&bytes).is_err());
        }

        #[test]
        fn random_headers_never_panic(json in "[{}\\[\\]\":,a-z0-9_]{0,80}") {
            let mut file = (json.len() as u64).to_le_bytes().to_vec();
            file.extend(json.bytes());
            prop_assert!(Delta::from_bytes(&file).is_err());
        }
    }
}
