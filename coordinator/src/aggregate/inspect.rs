//! Pass one: may this delta be folded at all, and how long is it?

use std::io::{Read, Seek};

use lamplight_models::delta::{DeltaError, Reader, TensorEntry};
use lamplight_proto::refusal::{Reason, Refusal};

use super::fixed::{MAX_MAGNITUDE, fits};

/// What a delta that may be folded looks like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Inspected {
    /// Euclidean norm over all values, summed in `f64` in the order of the file.
    pub norm_l2: f64,
    /// Values in all tensors.
    pub values: u64,
}

/// Why a delta may not be folded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InspectError {
    /// Header, tensors or length are wrong, a value is not finite, or the file cannot be read.
    #[error(transparent)]
    Delta(#[from] DeltaError),
    /// A value no fine-tuning makes, which would leave the fixed point no room.
    #[error(
        "tensor `{tensor}` holds {value} at index {index}; a delta's values are within {MAX_MAGNITUDE}"
    )]
    TooLarge {
        /// The tensor.
        tensor: String,
        /// Flat index in the tensor.
        index: usize,
        /// The value.
        value: f32,
    },
}

impl InspectError {
    /// The refusal the node gets, or `None` when the fault is this machine's: its disk failed.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        let reason = match self {
            Self::TooLarge { .. } => Reason::Malformed,
            Self::Delta(e) => match e {
                DeltaError::Shape { .. }
                | DeltaError::Missing { .. }
                | DeltaError::Unexpected { .. }
                | DeltaError::Order { .. } => Reason::WrongShape,
                DeltaError::NonFinite { .. } => Reason::NonFinite,
                DeltaError::Length { .. }
                | DeltaError::Header(_)
                | DeltaError::Type { .. }
                | DeltaError::Version { .. }
                | DeltaError::Codec { .. }
                | DeltaError::MissingMetadata(_)
                | DeltaError::Model(_) => Reason::Malformed,
                DeltaError::Io { .. } => return None,
            },
        };
        Some(Refusal::new(reason, self))
    }
}

/// Reads a delta once, in blocks: tensors and length against `table` (that of the round's base),
/// then every value.
///
/// # Errors
/// [`InspectError`], naming the tensor and the index.
pub fn inspect(file: impl Read + Seek, table: &[TensorEntry]) -> Result<Inspected, InspectError> {
    let mut reader = Reader::open(file, table)?;
    let mut squares = 0.0_f64;
    let mut values = 0;
    while let Some(block) = reader.next_block()? {
        for (i, &value) in block.values.iter().enumerate() {
            if !fits(value) {
                return Err(InspectError::TooLarge {
                    tensor: block.name.to_owned(),
                    index: block.offset + i,
                    value,
                });
            }
            squares += f64::from(value).powi(2);
        }
        values += block.values.len() as u64;
    }
    Ok(Inspected {
        norm_l2: squares.sqrt(),
        values,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::fixture::{delta, model};
    use lamplight_models::delta::{Delta, table, value_count};
    use std::io::Cursor;

    fn refused(delta: &Delta) -> Refusal {
        let e = inspect(Cursor::new(delta.to_bytes()), &table(&model())).unwrap_err();
        e.refusal().unwrap()
    }

    #[test]
    fn a_good_delta_is_measured() {
        let (table, delta) = (table(&model()), delta(1));
        let got = inspect(Cursor::new(delta.to_bytes()), &table).unwrap();
        assert_eq!(got.norm_l2, delta.norm_l2());
        assert!(got.norm_l2 > 0.0);
        assert_eq!(got.values, value_count(&table) as u64);
    }

    #[test]
    fn each_fault_has_its_own_reason_and_names_the_place() {
        let spoiled = |value: f32| {
            let mut d = delta(1);
            d.tensors.get_mut("head.weight").unwrap().1[3] = value;
            refused(&d)
        };
        let nan = spoiled(f32::NAN);
        assert_eq!(nan.reason, Reason::NonFinite);
        assert!(nan.message.contains("`head.weight`") && nan.message.contains("index 3"));
        let huge = spoiled(-3e38);
        assert_eq!(huge.reason, Reason::Malformed);
        assert!(huge.message.contains("`head.weight`") && huge.message.contains("index 3"));

        let mut d = delta(1);
        d.tensors.remove("head.bias");
        let gone = refused(&d);
        assert_eq!(gone.reason, Reason::WrongShape);
        assert!(gone.message.contains("`head.bias`"), "{gone}");
        let mut d = delta(1);
        d.tensors.get_mut("head.weight").unwrap().0.reverse();
        assert_eq!(refused(&d).reason, Reason::WrongShape);
    }

    #[test]
    fn a_file_of_another_length_is_malformed_and_a_broken_disk_is_no_refusal() {
        let table = table(&model());
        let mut bytes = delta(1).to_bytes();
        bytes.push(0);
        let e = inspect(Cursor::new(&bytes), &table).unwrap_err();
        assert_eq!(e.refusal().unwrap().reason, Reason::Malformed);
        let disk = InspectError::Delta(std::io::Error::other("disk on fire").into());
        assert_eq!(disk.refusal(), None);
    }
}
