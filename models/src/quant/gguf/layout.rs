//! The container: a bounded walk over the bytes of a file, borrowing everything from it.
//!
//! Limits. Every length is compared with the bytes left **before** anything is allocated; what is
//! allocated (lists of borrowed entries) is bounded by their least size in the file, so a file of
//! `n` bytes costs a small multiple of `n`, whatever it claims. Values are flat: arrays of arrays
//! are refused, so nothing recurses.

use std::collections::BTreeMap;

use super::{
    ALIGNMENT, CONTAINER_VERSION, GENERAL_ALIGNMENT, GgufError, MAGIC, TYPE_F32, TYPE_Q8_0,
    value_type,
};
use crate::quant::q8_0;

/// A metadata value; kinds this format has no use for are passed over.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    U32(u32),
    F64(f64),
    Text(&'a str),
    F32s(Vec<f32>),
    U64s(Vec<u64>),
    Texts(Vec<&'a str>),
    Other,
}

/// A tensor and its bytes.
#[derive(Debug)]
pub(super) struct TensorBytes<'a> {
    pub(super) type_code: u32,
    /// Innermost first, as in the file.
    pub(super) dimensions: Vec<u64>,
    pub(super) bytes: &'a [u8],
}

/// A file taken apart.
#[derive(Debug)]
pub(super) struct File<'a> {
    pub(super) metadata: BTreeMap<&'a str, Value<'a>>,
    pub(super) tensors: BTreeMap<&'a str, TensorBytes<'a>>,
}

/// Takes a file apart and checks that tensors lie in their listed order without gaps, each at the
/// next multiple of 32 bytes, and that nothing follows the last.
pub(super) fn parse(file: &[u8]) -> Result<File<'_>, GgufError> {
    let mut cursor = Cursor { file, at: 0 };
    let magic: [u8; 4] = cursor.array("the magic")?;
    if magic != MAGIC {
        return Err(GgufError::Magic(magic));
    }
    let version = cursor.u32("the version")?;
    if version != CONTAINER_VERSION {
        return Err(GgufError::ContainerVersion {
            got: version,
            want: CONTAINER_VERSION,
        });
    }
    // A tensor takes at least 24 bytes (name length, rank, type, offset), a key 13.
    let tensor_count = cursor.u64("the tensor count")?;
    let key_count = cursor.u64("the metadata count")?;
    let tensor_count = cursor.count("the tensor list", tensor_count, 24)?;
    let key_count = cursor.count("the metadata", key_count, 13)?;

    let mut metadata = BTreeMap::new();
    for _ in 0..key_count {
        let key = cursor.text("a metadata key")?;
        let value = cursor.value(key)?;
        if metadata.insert(key, value).is_some() {
            return Err(GgufError::DuplicateKey(key.to_owned()));
        }
    }
    match metadata.get(GENERAL_ALIGNMENT) {
        None => {}
        Some(Value::U32(a)) if *a as usize == ALIGNMENT => {}
        Some(_) => {
            return Err(GgufError::Value {
                key: GENERAL_ALIGNMENT.to_owned(),
                want: format!("the u32 {ALIGNMENT}"),
            });
        }
    }
    let mut listed = Vec::new();
    for _ in 0..tensor_count {
        listed.push(cursor.tensor_info()?);
    }
    cursor.align()?;
    let start = cursor.at;
    let mut tensors = BTreeMap::new();
    for info in listed {
        let want = (cursor.at - start) as u64;
        if info.offset != want {
            return Err(GgufError::Offset {
                name: info.name.to_owned(),
                got: info.offset,
                want,
            });
        }
        let bytes = cursor.take("a tensor", info.byte_len()?)?;
        cursor.align()?;
        let tensor = TensorBytes {
            type_code: info.type_code,
            dimensions: info.dimensions,
            bytes,
        };
        if tensors.insert(info.name, tensor).is_some() {
            return Err(GgufError::DuplicateTensor(info.name.to_owned()));
        }
    }
    if cursor.at != file.len() {
        return Err(GgufError::Length {
            got: file.len(),
            want: cursor.at,
        });
    }
    Ok(File { metadata, tensors })
}

struct TensorInfo<'a> {
    name: &'a str,
    dimensions: Vec<u64>,
    type_code: u32,
    offset: u64,
}

impl TensorInfo<'_> {
    /// Bytes the tensor takes; what overflows is past any file's end.
    fn byte_len(&self) -> Result<u64, GgufError> {
        let values = self
            .dimensions
            .iter()
            .try_fold(1_u64, |n, &d| n.checked_mul(d))
            .unwrap_or(u64::MAX);
        match self.type_code {
            TYPE_F32 => Ok(values.saturating_mul(4)),
            // A broken row is caught when dimensions are compared with the true shape.
            TYPE_Q8_0 => {
                Ok((values / q8_0::BLOCK_VALUES as u64).saturating_mul(q8_0::BLOCK_BYTES as u64))
            }
            got => Err(GgufError::TensorType {
                name: self.name.to_owned(),
                got,
                want: TYPE_Q8_0,
            }),
        }
    }
}

struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, what: &'static str, count: u64) -> Result<&'a [u8], GgufError> {
        let left = &self.file[self.at..];
        let bytes = usize::try_from(count).ok().and_then(|n| left.get(..n));
        let bytes = bytes.ok_or(GgufError::Truncated {
            what,
            at: self.at,
            want: count,
            left: left.len(),
        })?;
        self.at += bytes.len();
        Ok(bytes)
    }

    /// Checks that `count` things of at least `least` bytes fit what is left.
    fn count(&self, what: &'static str, count: u64, least: u64) -> Result<usize, GgufError> {
        let want = count.saturating_mul(least);
        let left = self.file.len() - self.at;
        match usize::try_from(count) {
            Ok(count) if want <= left as u64 => Ok(count),
            _ => Err(GgufError::Truncated {
                what,
                at: self.at,
                want,
                left,
            }),
        }
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(what, N as u64)?);
        Ok(array)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn text(&mut self, what: &'static str) -> Result<&'a str, GgufError> {
        let length = self.u64(what)?;
        let at = self.at;
        let bytes = self.take(what, length)?;
        std::str::from_utf8(bytes).map_err(|_| GgufError::Text { what, at })
    }

    fn value(&mut self, key: &str) -> Result<Value<'a>, GgufError> {
        let what = "a metadata value";
        let code = self.u32(what)?;
        Ok(match code {
            value_type::U32 => Value::U32(self.u32(what)?),
            value_type::F64 => Value::F64(self.array(what).map(f64::from_le_bytes)?),
            value_type::STRING => Value::Text(self.text(what)?),
            value_type::ARRAY => self.array_value(key)?,
            _ => {
                self.take(what, scalar_bytes(key, code)?)?;
                Value::Other
            }
        })
    }

    fn array_value(&mut self, key: &str) -> Result<Value<'a>, GgufError> {
        let what = "a metadata array";
        let code = self.u32(what)?;
        let count = self.u64(what)?;
        Ok(match code {
            value_type::F32 => {
                let bytes = self.take(what, count.saturating_mul(4))?;
                Value::F32s(each(bytes).map(f32::from_le_bytes).collect())
            }
            value_type::U64 => {
                let bytes = self.take(what, count.saturating_mul(8))?;
                Value::U64s(each(bytes).map(u64::from_le_bytes).collect())
            }
            value_type::STRING => {
                let count = self.count(what, count, 8)?;
                let texts = (0..count).map(|_| self.text(what));
                Value::Texts(texts.collect::<Result<_, _>>()?)
            }
            _ => {
                self.take(what, count.saturating_mul(scalar_bytes(key, code)?))?;
                Value::Other
            }
        })
    }

    fn tensor_info(&mut self) -> Result<TensorInfo<'a>, GgufError> {
        let what = "a tensor's description";
        let name = self.text(what)?;
        let rank = self.u32(what)?;
        if rank > 4 {
            return Err(GgufError::Rank {
                name: name.to_owned(),
                got: rank,
            });
        }
        let dimensions = self.take(what, u64::from(rank) * 8)?;
        Ok(TensorInfo {
            name,
            dimensions: each(dimensions).map(u64::from_le_bytes).collect(),
            type_code: self.u32(what)?,
            offset: self.u64(what)?,
        })
    }

    /// Steps over padding, which must be there and be zero: a file has no room for hidden bytes.
    fn align(&mut self) -> Result<(), GgufError> {
        let target = self.at.next_multiple_of(ALIGNMENT);
        let padding = self.take("padding", (target - self.at) as u64)?;
        if padding.iter().any(|&b| b != 0) {
            return Err(GgufError::Padding(target));
        }
        Ok(())
    }
}

/// Whole groups of `N` bytes.
fn each<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// Bytes of a value of fixed size; strings and arrays have none.
fn scalar_bytes(key: &str, code: u32) -> Result<u64, GgufError> {
    match code {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(GgufError::ValueType {
            key: key.to_owned(),
            code,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }

    /// A container of raw metadata entries and tensors `(name, dimensions, type, offset)`.
    fn container(
        keys: &[(&str, Vec<u8>)],
        tensors: &[(&str, &[u64], u32, u64)],
        data: usize,
    ) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(CONTAINER_VERSION.to_le_bytes());
        out.extend((tensors.len() as u64).to_le_bytes());
        out.extend((keys.len() as u64).to_le_bytes());
        for (key, value) in keys {
            text(&mut out, key);
            out.extend(value);
        }
        for (name, dimensions, code, offset) in tensors {
            text(&mut out, name);
            out.extend((dimensions.len() as u32).to_le_bytes());
            out.extend(dimensions.iter().flat_map(|d| d.to_le_bytes()));
            out.extend(code.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT) + data, 0);
        out
    }

    fn error(file: &[u8]) -> GgufError {
        parse(file).unwrap_err()
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    #[test]
    fn tensors_lie_one_after_the_other() {
        let file = container(&[], &[("a", &[3], 0, 0), ("b", &[32, 2], 8, 32)], 32 + 96);
        let parsed = parse(&file).unwrap();
        assert_eq!(parsed.tensors["a"].bytes.len(), 12);
        assert_eq!(parsed.tensors["b"].bytes.len(), 68);
        assert_eq!(parsed.tensors["b"].dimensions, [32, 2]);
    }

    #[test]
    fn overlaps_gaps_and_misaligned_starts_are_refused() {
        for offset in [0, 12, 64, u64::MAX] {
            let file = container(&[], &[("a", &[3], 0, 0), ("b", &[3], 0, offset)], 64);
            let want = GgufError::Offset {
                name: "b".into(),
                got: offset,
                want: 32,
            };
            assert_eq!(error(&file), want);
        }
    }

    #[test]
    fn tensors_beyond_the_end_are_refused_without_overflow() {
        for dimensions in [&[1 << 20][..], &[u64::MAX; 4], &[1 << 32, 1 << 32]] {
            for code in [TYPE_F32, TYPE_Q8_0] {
                let file = container(&[], &[("a", dimensions, code, 0)], 64);
                assert!(matches!(error(&file), GgufError::Truncated { .. }));
            }
        }
        let file = container(&[], &[("a", &[3], 0, 0)], 64);
        assert!(matches!(error(&file), GgufError::Length { .. }));
    }

    #[test]
    fn unknown_tensor_types_and_ranks_are_refused() {
        let file = container(&[], &[("a", &[32], 2, 0)], 32);
        assert!(matches!(error(&file), GgufError::TensorType { got: 2, .. }));
        let file = container(&[], &[("a", &[1, 1, 1, 1, 1], 0, 0)], 32);
        assert!(matches!(error(&file), GgufError::Rank { got: 5, .. }));
    }

    #[test]
    fn second_keys_and_tensors_of_one_name_are_refused() {
        let value = || words(&[value_type::U32, 1]);
        let file = container(&[("k", value()), ("k", value())], &[], 0);
        assert_eq!(error(&file), GgufError::DuplicateKey("k".into()));
        let file = container(&[], &[("a", &[1], 0, 0), ("a", &[1], 0, 32)], 64);
        assert_eq!(error(&file), GgufError::DuplicateTensor("a".into()));
    }

    #[test]
    fn counts_beyond_the_file_are_refused_before_anything_is_allocated() {
        for at in [8, 16] {
            for count in [1_u64 << 20, 1 << 40, u64::MAX] {
                let mut file = container(&[], &[], 0);
                file[at..at + 8].copy_from_slice(&count.to_le_bytes());
                assert!(matches!(error(&file), GgufError::Truncated { .. }));
            }
        }
        for element in [value_type::F32, value_type::U64, value_type::STRING, 0, 7] {
            let mut value = words(&[value_type::ARRAY, element]);
            value.extend(u64::MAX.to_le_bytes());
            let file = container(&[("k", value)], &[], 0);
            assert!(
                matches!(error(&file), GgufError::Truncated { .. }),
                "elements of {element}"
            );
        }
    }

    #[test]
    fn arrays_of_arrays_and_unknown_value_types_are_refused() {
        let mut nested = words(&[value_type::ARRAY, value_type::ARRAY]);
        nested.extend(0_u64.to_le_bytes());
        let file = container(&[("k", nested)], &[], 0);
        assert_eq!(
            error(&file),
            GgufError::ValueType {
                key: "k".into(),
                code: 9
            }
        );
        let file = container(&[("k", words(&[13, 0]))], &[], 0);
        assert_eq!(
            error(&file),
            GgufError::ValueType {
                key: "k".into(),
                code: 13
            }
        );
    }

    #[test]
    fn other_alignments_are_refused_zero_among_them() {
        for alignment in [0, 1, 64] {
            let value = words(&[value_type::U32, alignment]);
            let file = container(&[(GENERAL_ALIGNMENT, value)], &[], 0);
            assert!(matches!(error(&file), GgufError::Value { .. }));
        }
    }

    #[test]
    fn hidden_bytes_in_padding_are_refused() {
        let mut file = container(&[], &[("a", &[3], 0, 0)], 32);
        let end = file.len();
        file[end - 1] = 1;
        assert_eq!(error(&file), GgufError::Padding(end));
    }

    #[test]
    fn values_of_every_kind_are_stepped_over() {
        let mut bools = words(&[value_type::ARRAY, 7]);
        bools.extend(3_u64.to_le_bytes());
        bools.extend([1, 0, 1]);
        let mut byte = words(&[0]);
        byte.push(7);
        let file = container(&[("a", bools), ("b", byte), ("c", words(&[4, 9]))], &[], 0);
        let parsed = parse(&file).unwrap();
        assert_eq!(parsed.metadata["a"], Value::Other);
        assert_eq!(parsed.metadata["b"], Value::Other);
        assert_eq!(parsed.metadata["c"], Value::U32(9));
    }
}
