//! A model's parameters as plain slices, in node order; tensors stay at the doors.

use std::collections::BTreeSet;
use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use crate::graph::{Checked, Shape};
use crate::model::Params;
use crate::ops::ParamRole;

/// Why parameters do not belong to a graph.
#[derive(Debug, thiserror::Error)]
pub enum ParamError {
    /// The graph wants it, the model lacks it.
    #[error("parameter `{0}` is missing from the model")]
    Missing(String),
    /// The model has it, the graph does not know it.
    #[error("parameter `{0}` belongs to no node of the graph")]
    Unknown(String),
    /// Shape differs.
    #[error("parameter `{name}` has shape {got:?}, expected {want:?}")]
    Shape {
        /// Parameter.
        name: String,
        /// Shape in the graph.
        want: Shape,
        /// Shape in the model.
        got: Shape,
    },
    /// Not F32.
    #[error("parameter `{name}` is {got:?}, expected F32")]
    Type {
        /// Parameter.
        name: String,
        /// Type in the model.
        got: DType,
    },
    /// The tensor could not be read or made.
    #[error("parameter `{name}`: {source}")]
    Tensor {
        /// Parameter.
        name: String,
        /// What candle said.
        source: candle_core::Error,
    },
}

/// One parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// Full name, `node.suffix`.
    pub name: String,
    /// Shape.
    pub shape: Shape,
    /// What it is for.
    pub role: ParamRole,
    /// Values, row-major.
    pub values: Vec<f32>,
}

/// All parameters of a graph.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSet {
    all: Vec<Param>,
    of_node: Vec<Range<usize>>,
}

impl ParamSet {
    /// The node that parameter `i` belongs to.
    pub(super) fn node_of(&self, i: usize) -> usize {
        self.of_node.partition_point(|range| range.end <= i)
    }

    /// Copies a model's tensors, refusing what the graph does not have.
    ///
    /// # Errors
    /// [`ParamError`] naming the parameter.
    pub fn read(graph: &Checked, params: &Params) -> Result<Self, ParamError> {
        let mut all = Vec::new();
        let mut of_node = Vec::with_capacity(graph.nodes.len());
        for node in &graph.nodes {
            let from = all.len();
            for spec in node.op.params() {
                let name = format!("{}.{}", node.name, spec.suffix);
                let Some(tensor) = params.get(&name) else {
                    return Err(ParamError::Missing(name));
                };
                if tensor.dtype() != DType::F32 {
                    let got = tensor.dtype();
                    return Err(ParamError::Type { name, got });
                }
                if tensor.dims() != spec.shape {
                    return Err(ParamError::Shape {
                        name,
                        want: spec.shape,
                        got: tensor.dims().to_vec(),
                    });
                }
                let values = tensor
                    .flatten_all()
                    .and_then(|t| t.to_vec1::<f32>())
                    .map_err(|source| ParamError::Tensor {
                        name: name.clone(),
                        source,
                    })?;
                all.push(Param {
                    name,
                    shape: spec.shape,
                    role: spec.role,
                    values,
                });
            }
            of_node.push(from..all.len());
        }
        // Every parameter of the graph was found, so a surplus is something else.
        if params.len() > all.len() {
            let known: BTreeSet<&str> = all.iter().map(|p| p.name.as_str()).collect();
            if let Some(extra) = params.keys().find(|k| !known.contains(k.as_str())) {
                return Err(ParamError::Unknown(extra.clone()));
            }
        }
        Ok(Self { all, of_node })
    }

    /// The parameters as tensors again.
    ///
    /// # Errors
    /// [`ParamError::Tensor`] when candle refuses.
    pub fn tensors(&self) -> Result<Params, ParamError> {
        self.all
            .iter()
            .map(|p| {
                Tensor::from_slice(&p.values, p.shape.as_slice(), &Device::Cpu)
                    .map(|t| (p.name.clone(), t))
                    .map_err(|source| ParamError::Tensor {
                        name: p.name.clone(),
                        source,
                    })
            })
            .collect()
    }

    /// Every parameter, in node order.
    #[must_use]
    pub fn all(&self) -> &[Param] {
        &self.all
    }

    /// Every parameter, to be moved.
    pub fn all_mut(&mut self) -> &mut [Param] {
        &mut self.all
    }

    /// Places of one node's parameters within [`ParamSet::all`].
    #[must_use]
    pub fn of_node(&self, node: usize) -> Range<usize> {
        self.of_node[node].clone()
    }

    /// Slices of one node's parameters, in the order of [`crate::ops::Op::params`].
    #[must_use]
    pub fn slices(&self, node: usize) -> Vec<&[f32]> {
        self.all[self.of_node(node)]
            .iter()
            .map(|p| p.values.as_slice())
            .collect()
    }
}
