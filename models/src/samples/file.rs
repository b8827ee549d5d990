//! Samples as a file: safetensors with `x` F32 `[n, shape...]`, `y` U32 `[n]`, and the class names
//! as a JSON array under `classes` in the metadata.

use std::collections::BTreeMap;

use super::{Samples, SamplesError};
use crate::container::{self, Dtype, Entry, Header, Source, f32_bytes, f32_values};

const KEY_CLASSES: &str = "classes";

/// Longest header read: a thousand classes with the longest names fit.
const MAX_HEADER_BYTES: u64 = 1 << 20;

impl Samples {
    /// The samples' file; the same samples give the same bytes.
    ///
    /// # Errors
    /// [`SamplesError`] when the samples are invalid.
    pub fn to_bytes(&self) -> Result<Vec<u8>, SamplesError> {
        self.validate()?;
        let classes = serde_json::Value::from(self.classes.as_slice()).to_string();
        let metadata = BTreeMap::from([(KEY_CLASSES.to_owned(), classes)]);
        let shape: Vec<usize> = [&[self.len()], self.shape.as_slice()].concat();
        let x = Source {
            name: "x",
            dtype: Dtype::F32,
            shape: &shape,
            bytes: f32_bytes(&self.x),
        };
        let y = Source {
            name: "y",
            dtype: Dtype::U32,
            shape: &shape[..1],
            bytes: self.y.iter().flat_map(|y| y.to_le_bytes()).collect(),
        };
        Ok(container::write(&metadata, &[x, y]))
    }

    /// Reads samples from a file's bytes, which may come from anywhere.
    ///
    /// # Errors
    /// [`SamplesError`] when the layout is not that of [`Samples::to_bytes`] or a value is invalid.
    pub fn from_bytes(file: &[u8]) -> Result<Self, SamplesError> {
        let (json, data) = container::split(file, MAX_HEADER_BYTES)?;
        let header = Header::parse(json)?;
        if header.data_bytes != data.len() as u64 {
            return Err(SamplesError::File(format!(
                "data has {} bytes, the header makes it {}",
                data.len(),
                header.data_bytes
            )));
        }
        let classes = header.metadata.get(KEY_CLASSES);
        let classes = classes.ok_or_else(|| broken("metadata `classes` is missing"))?;
        let classes: Vec<String> = serde_json::from_str(classes)
            .map_err(|e| broken(&format!("metadata `classes` is no array of names: {e}")))?;
        if let Some(other) = header
            .entries
            .iter()
            .find(|e| e.name != "x" && e.name != "y")
        {
            return Err(broken(&format!(
                "tensor `{}` is neither `x` nor `y`",
                other.name
            )));
        }
        let x = entry(&header, "x", Dtype::F32)?;
        let y = entry(&header, "y", Dtype::U32)?;
        let agree = x.shape.first() == y.shape.first() && y.shape.len() == 1;
        if !agree {
            let (x, y) = (&x.shape, &y.shape);
            return Err(broken(&format!(
                "`x` {x:?} and `y` {y:?} must be [n, ...] and [n]"
            )));
        }
        // Places follow each other and end with the data.
        let bytes = |e: &Entry| &data[e.start as usize..e.end as usize];
        let (labels, _) = bytes(y).as_chunks::<4>();
        let samples = Self {
            shape: x.shape[1..].to_vec(),
            x: f32_values(bytes(x)).collect(),
            y: labels.iter().map(|b| u32::from_le_bytes(*b)).collect(),
            classes,
        };
        samples.validate()?;
        Ok(samples)
    }
}

fn broken(message: &str) -> SamplesError {
    SamplesError::File(message.to_owned())
}

fn entry<'a>(header: &'a Header, name: &str, dtype: Dtype) -> Result<&'a Entry, SamplesError> {
    let entry = header.entries.iter().find(|e| e.name == name);
    let entry = entry.ok_or_else(|| broken(&format!("tensor `{name}` is missing")))?;
    if entry.dtype != dtype {
        return Err(broken(&format!(
            "tensor `{name}` is {:?}, {dtype:?} is wanted",
            entry.dtype
        )));
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn samples() -> Samples {
        Samples {
            shape: vec![2, 3],
            x: (0..18).map(|i| i as f32 * 0.5 - 3.0).collect(),
            y: vec![1, 0, 1],
            classes: vec!["walk \"fast\"".into(), "ein Zug".into()],
        }
    }

    #[test]
    fn a_file_reads_back_as_the_same_samples_and_the_same_bytes() {
        let bytes = samples().to_bytes().unwrap();
        let back = Samples::from_bytes(&bytes).unwrap();
        assert_eq!(back, samples());
        assert_eq!(back.to_bytes().unwrap(), bytes);
        let none = Samples {
            x: vec![],
            y: vec![],
            ..samples()
        };
        assert_eq!(
            Samples::from_bytes(&none.to_bytes().unwrap()).unwrap(),
            none
        );
    }

    #[test]
    fn the_safetensors_crate_reads_it() {
        let bytes = samples().to_bytes().unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(theirs.tensor("x").unwrap().shape(), [3, 2, 3]);
        assert_eq!(theirs.tensor("y").unwrap().dtype(), safetensors::Dtype::U32);
    }

    #[test]
    fn other_layouts_are_refused() {
        let file = |x: &[usize], y: &[usize], second: &str, classes: &str| {
            let metadata = BTreeMap::from([("classes".to_owned(), classes.to_owned())]);
            let source = |name, dtype, shape| Source {
                name,
                dtype,
                shape,
                bytes: vec![0; 4 * shape.iter().product::<usize>()],
            };
            let tensors = [source("x", Dtype::F32, x), source(second, Dtype::U32, y)];
            Samples::from_bytes(&container::write(&metadata, &tensors))
        };
        let names = "[\"a\"]";
        file(&[2, 3], &[2], "y", names).unwrap();
        for (x, y, second, classes) in [
            (&[2, 3][..], &[3][..], "y", names),
            (&[2, 3], &[2, 1], "y", names),
            (&[2, 3], &[], "y", names),
            (&[], &[], "y", names),
            (&[2], &[2], "y", names),
            (&[2, 3], &[2], "z", names),
            (&[2, 3], &[2], "y", "[]"),
            (&[2, 3], &[2], "y", "[\"a\",\"a\"]"),
            (&[2, 3], &[2], "y", "{}"),
            (&[0, usize::MAX / 4, 1 << 40], &[0], "y", names),
        ] {
            let got = if x.len() == 3 {
                // Too large to multiply out; no values stand behind it.
                let json = format!(
                    r#"{{"__metadata__":{{"classes":"[]"}},"x":{{"dtype":"F32","shape":{x:?},"data_offsets":[0,0]}},"y":{{"dtype":"U32","shape":[0],"data_offsets":[0,0]}}}}"#
                );
                let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
                bytes.extend(json.bytes());
                Samples::from_bytes(&bytes)
            } else {
                file(x, y, second, classes)
            };
            assert!(got.is_err(), "{x:?} {y:?} {second} {classes}");
        }
    }

    #[test]
    fn every_truncation_is_refused_and_no_flipped_bit_panics() {
        let bytes = samples().to_bytes().unwrap();
        for end in 0..bytes.len() {
            assert!(
                Samples::from_bytes(&bytes[..end]).is_err(),
                "{end} bytes were accepted"
            );
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut spoiled = bytes.clone();
                spoiled[at] ^= 1 << bit;
                if let Ok(samples) = Samples::from_bytes(&spoiled) {
                    samples.validate().unwrap();
                }
            }
        }
    }

    proptest! {
        #[test]
        fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Samples::from_bytes(&bytes).is_err());
        }
    }
}
