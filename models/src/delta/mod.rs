//! What leaves a node: the difference between tuned parameters and the exact dequantized base.
//!
//! ```text
//!   GGUF base ── dequantize ──> base ── training ──> tuned
//!                                 └───── tuned - base = delta ──> file ──> coordinator
//! ```
//!
//! A delta holds every parameter that was to move (never running statistics, which describe a node's
//! data and stay there) under the names and shapes of the base's [`table`]. Its file is a
//! safetensors file with F32 tensors in the order of their names. The coordinator never holds a
//! delta whole: [`Reader`] checks the header against the table and hands out bounded blocks.

mod file;
mod reader;

pub use file::{Codec, max_encoded_bytes};
pub use reader::{BLOCK_VALUES, Block, Reader};

use std::collections::BTreeMap;

use crate::container::HeaderError;
use crate::graph::Shape;
use crate::model::{Model, ModelError, tensor, values};
use crate::train::Trainable;

/// Name and shape of a trainable parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Full name of the parameter.
    pub name: String,
    /// Its true shape.
    pub shape: Shape,
}

/// The tensors a delta must hold, sorted by name.
pub type TensorTable = Vec<TensorEntry>;

/// The tensors of a delta against `model` when all its parameters move, sorted by name.
#[must_use]
pub fn table(model: &Model) -> TensorTable {
    table_of(model, Trainable::All)
}

/// The tensors of a delta against `model` when these parameters move, sorted by name.
#[must_use]
pub fn table_of(model: &Model, trainable: Trainable) -> TensorTable {
    let names = trainable.names(&model.graph);
    let roles = model.roles().into_iter();
    roles
        .filter(|(name, _)| names.contains(name))
        .map(|(name, spec)| TensorEntry {
            name,
            shape: spec.shape,
        })
        .collect()
}

/// Values in all tensors of a table.
#[must_use]
pub fn value_count(table: &[TensorEntry]) -> usize {
    table.iter().map(TensorEntry::value_count).sum()
}

impl TensorEntry {
    /// Values in the tensor.
    #[must_use]
    pub fn value_count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Why a delta is refused; every variant names the tensor or shows both values.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DeltaError {
    /// A tensor has another shape than the base's.
    #[error("tensor `{name}` has shape {got:?}, the base wants {want:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Shape found.
        got: Shape,
        /// Shape in the base.
        want: Shape,
    },
    /// A trainable parameter of the base is not there.
    #[error("tensor `{name}` of shape {want:?} is missing")]
    Missing {
        /// The tensor.
        name: String,
        /// Its shape in the base.
        want: Shape,
    },
    /// A tensor that is no trainable parameter of the base.
    #[error("tensor `{name}` is no trainable parameter of the base")]
    Unexpected {
        /// The tensor.
        name: String,
    },
    /// Tensors are all there but not in the order of their names.
    #[error("tensor `{got}` lies where `{want}` belongs; tensors are sorted by name")]
    Order {
        /// The tensor found.
        got: String,
        /// The tensor wanted.
        want: String,
    },
    /// NaN or an infinity.
    #[error("tensor `{name}` holds a non-finite value at index {index}")]
    NonFinite {
        /// The tensor.
        name: String,
        /// Flat index in the tensor.
        index: usize,
    },
    /// The file is longer or shorter than its header says.
    #[error("the file has {got} bytes, its header makes it {want}")]
    Length {
        /// Length found.
        got: u64,
        /// Length wanted.
        want: u64,
    },
    /// The header cannot be read.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A tensor whose values are not F32.
    #[error("tensor `{name}` does not hold F32 values")]
    Type {
        /// The tensor.
        name: String,
    },
    /// A text pair that every delta carries is not there.
    #[error("metadata `{0}` is missing")]
    MissingMetadata(&'static str),
    /// Another version of the container.
    #[error("delta format version is `{got}`, only `{want}` is supported")]
    Version {
        /// Version found.
        got: String,
        /// Version supported.
        want: &'static str,
    },
    /// A codec this program does not know.
    #[error("delta codec is `{0}`, only `f32` is supported")]
    Codec(String),
    /// A parameter of a model cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The file cannot be read.
    #[error("reading the delta: {message}")]
    Io {
        /// Kind of the failure.
        kind: std::io::ErrorKind,
        /// What the system says.
        message: String,
    },
}

impl From<std::io::Error> for DeltaError {
    fn from(e: std::io::Error) -> Self {
        Self::Io {
            kind: e.kind(),
            message: e.to_string(),
        }
    }
}

/// `tuned - base` over the trainable parameters, all values finite.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delta {
    /// Shape and row-major values by parameter name.
    pub tensors: BTreeMap<String, (Shape, Vec<f32>)>,
}

impl Delta {
    /// The difference of two models of one architecture.
    ///
    /// # Errors
    /// [`DeltaError`] when `tuned` lacks a parameter, has another shape, or differs by a value that
    /// is not finite.
    pub fn between(base: &Model, tuned: &Model) -> Result<Self, DeltaError> {
        Self::over(&table(base), base, tuned)
    }

    /// The difference of two models of one architecture, over the tensors of `table`.
    ///
    /// # Errors
    /// Those of [`Delta::between`].
    pub fn over(table: &[TensorEntry], base: &Model, tuned: &Model) -> Result<Self, DeltaError> {
        let mut delta = Self::default();
        for entry in table {
            let from = param(base, entry)?;
            let to = param(tuned, entry)?;
            let difference: Vec<f32> = to.iter().zip(&from).map(|(t, b)| t - b).collect();
            finite(&entry.name, 0, &difference)?;
            let TensorEntry { name, shape } = entry.clone();
            delta.tensors.insert(name, (shape, difference));
        }
        Ok(delta)
    }

    /// The base moved by this delta; statistics stay the base's.
    ///
    /// # Errors
    /// [`DeltaError`] when the tensors are not the base's, or a sum is not finite.
    pub fn apply(&self, base: &Model) -> Result<Model, DeltaError> {
        let table = table(base);
        self.check(&table)?;
        let mut moved = base.clone();
        for entry in &table {
            let from = param(base, entry)?;
            // `check` found the tensor.
            let (_, difference) = &self.tensors[&entry.name];
            let sum: Vec<f32> = from.iter().zip(difference).map(|(b, d)| b + d).collect();
            finite(&entry.name, 0, &sum)?;
            let sum = tensor(&entry.name, sum, &entry.shape)?;
            moved.params.insert(entry.name.clone(), sum);
        }
        Ok(moved)
    }

    /// Whether the tensors are exactly those of `table`, with finite values.
    ///
    /// # Errors
    /// [`DeltaError`], naming the tensor.
    pub fn check(&self, table: &[TensorEntry]) -> Result<(), DeltaError> {
        let found = self
            .tensors
            .iter()
            .map(|(n, (shape, _))| (n.as_str(), shape));
        compare(found, table)?;
        for (name, (shape, values)) in &self.tensors {
            if values.len() != shape.iter().product::<usize>() {
                return Err(DeltaError::Shape {
                    name: name.clone(),
                    got: vec![values.len()],
                    want: shape.clone(),
                });
            }
            finite(name, 0, values)?;
        }
        Ok(())
    }

    /// Euclidean norm over all values, summed in f64 in the order of names.
    #[must_use]
    pub fn norm_l2(&self) -> f64 {
        let values = self.tensors.values().flat_map(|(_, values)| values);
        values.map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
    }
}

/// Values of a parameter with the shape the table says.
fn param(model: &Model, entry: &TensorEntry) -> Result<Vec<f32>, DeltaError> {
    let tensor = model.params.get(&entry.name);
    let tensor = tensor.ok_or_else(|| DeltaError::Missing {
        name: entry.name.clone(),
        want: entry.shape.clone(),
    })?;
    if tensor.dims() != entry.shape {
        return Err(DeltaError::Shape {
            name: entry.name.clone(),
            got: tensor.dims().to_vec(),
            want: entry.shape.clone(),
        });
    }
    Ok(values(&entry.name, tensor)?)
}

/// Refuses the first value that is not finite; `values` start at `offset` of the tensor.
fn finite(name: &str, offset: usize, values: &[f32]) -> Result<(), DeltaError> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(at) => Err(DeltaError::NonFinite {
            name: name.to_owned(),
            index: offset + at,
        }),
    }
}

/// Compares tensors found, in their order, with the table: unknown, missing, shape, order.
fn compare<'a>(
    found: impl Iterator<Item = (&'a str, &'a Shape)> + Clone,
    table: &[TensorEntry],
) -> Result<(), DeltaError> {
    let wanted: BTreeMap<&str, &Shape> =
        table.iter().map(|e| (e.name.as_str(), &e.shape)).collect();
    let names: std::collections::BTreeSet<&str> = found.clone().map(|(name, _)| name).collect();
    for (name, shape) in found.clone() {
        match wanted.get(name) {
            None => {
                return Err(DeltaError::Unexpected {
                    name: name.to_owned(),
                });
            }
            Some(&want) if want != shape => {
                return Err(DeltaError::Shape {
                    name: name.to_owned(),
                    got: shape.clone(),
                    want: want.clone(),
                });
            }
            Some(_) => {}
        }
    }
    if let Some(entry) = table.iter().find(|e| !names.contains(e.name.as_str())) {
        return Err(DeltaError::Missing {
            name: entry.name.clone(),
            want: entry.shape.clone(),
        });
    }
    match found
        .zip(table)
        .find(|((name, _), want)| *name != want.name)
    {
        None => Ok(()),
        Some(((got, _), want)) => Err(DeltaError::Order {
            got: got.to_owned(),
            want: want.name.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture::{small_model, tcn_model};

    #[test]
    fn the_table_holds_all_parameters_but_statistics_sorted() {
        let names: Vec<String> = table(&small_model(1)).into_iter().map(|e| e.name).collect();
        assert_eq!(
            names,
            [
                "block0.conv.weight",
                "block0.norm.bias",
                "block0.norm.weight",
                "head.bias",
                "head.weight"
            ]
        );
        let model = tcn_model(1);
        assert_eq!(value_count(&table(&model)), model.parameter_count());
    }

    #[test]
    fn applying_the_difference_reaches_the_tuned_model() {
        let (base, tuned) = (tcn_model(1), tcn_model(2));
        let delta = Delta::between(&base, &tuned).unwrap();
        let reached = delta.apply(&base).unwrap();
        for (name, want) in &tuned.params {
            let want = values(name, want).unwrap();
            let got = values(name, &reached.params[name]).unwrap();
            // b + (t - b) rounds twice.
            for (g, w) in got.iter().zip(&want) {
                assert!((g - w).abs() < 1e-6, "`{name}`: {g}, {w} wanted");
            }
        }
        assert_eq!(Delta::between(&base, &base).unwrap().norm_l2(), 0.0);
    }

    #[test]
    fn the_norm_is_over_all_tensors() {
        let delta = Delta {
            tensors: BTreeMap::from([
                ("a".into(), (vec![2], vec![3.0, 0.0])),
                ("b".into(), (vec![1], vec![-4.0])),
            ]),
        };
        assert!((delta.norm_l2() - 5.0).abs() < 1e-12);
    }

    #[test]
    fn statistics_do_not_travel() {
        let base = small_model(1);
        let mut tuned = base.clone();
        let moved = tensor("m", vec![9.0; 4], &[4]).unwrap();
        tuned
            .params
            .insert("block0.norm.running_mean".into(), moved);
        let delta = Delta::between(&base, &tuned).unwrap();
        assert_eq!(delta.norm_l2(), 0.0);
        let reached = delta.apply(&base).unwrap();
        let name = "block0.norm.running_mean";
        assert_eq!(values(name, &reached.params[name]).unwrap(), [0.0; 4]);
    }

    #[test]
    fn other_tensors_than_the_bases_are_refused_by_name() {
        let base = small_model(1);
        let delta = Delta::between(&base, &small_model(2)).unwrap();
        let spoiled = |spoil: &dyn Fn(&mut Delta)| {
            let mut delta = delta.clone();
            spoil(&mut delta);
            delta.apply(&base).unwrap_err()
        };
        let error = spoiled(&|d| drop(d.tensors.remove("head.bias")));
        assert!(matches!(error, DeltaError::Missing { name, .. } if name == "head.bias"));
        let error = spoiled(&|d| drop(d.tensors.insert("x".into(), (vec![1], vec![0.0]))));
        assert!(matches!(error, DeltaError::Unexpected { name } if name == "x"));
        let error = spoiled(&|d| drop(d.tensors.insert("head.bias".into(), (vec![1], vec![0.0]))));
        assert_eq!(
            error.to_string(),
            "tensor `head.bias` has shape [1], the base wants [2]"
        );
        let error = spoiled(&|d| drop(d.tensors.insert("head.bias".into(), (vec![2], vec![0.0]))));
        assert!(matches!(error, DeltaError::Shape { .. }));
        let nan = (vec![2], vec![0.0, f32::NAN]);
        let error = spoiled(&|d| drop(d.tensors.insert("head.bias".into(), nan.clone())));
        assert_eq!(
            error.to_string(),
            "tensor `head.bias` holds a non-finite value at index 1"
        );
    }

    #[test]
    fn models_that_differ_by_infinity_make_no_delta() {
        let (mut base, mut tuned) = (small_model(1), small_model(1));
        let far = |v| tensor("b", vec![0.0, v], &[2]).unwrap();
        base.params.insert("head.bias".into(), far(-3e38));
        tuned.params.insert("head.bias".into(), far(3e38));
        let error = Delta::between(&base, &tuned).unwrap_err();
        assert!(matches!(error, DeltaError::NonFinite { index: 1, .. }));
    }
}
