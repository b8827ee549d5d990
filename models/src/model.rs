//! A model: graph, parameters, and what goes in and comes out.

#[cfg(test)]
pub(crate) mod fixture;
mod info;
mod init;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::graph::{Checked, Graph, GraphError, Shape};
use crate::image::{ImageError, ImageInput};
use crate::ops::{ParamRole, ParamSpec};

pub(crate) use info::check_names;
pub use info::{Channel, DESCRIPTION_VERSION, MAX_NAME_BYTES, ModelInfo, check_classes, layout};

/// Parameters by full name (`node.suffix`), F32, contiguous, on the CPU.
///
/// Sorted by name, so that every walk over them has one order.
pub type Params = BTreeMap<String, Tensor>;

/// A graph with its parameters and its description.
#[derive(Debug, Clone)]
pub struct Model {
    /// The computation.
    pub graph: Graph,
    /// The numbers.
    pub params: Params,
    /// Input and output description.
    pub info: ModelInfo,
}

/// What is wrong with a model; every variant names the parameter or the field.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// The graph itself is invalid.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The graph wants a parameter the model lacks.
    #[error("parameter `{name}` of shape {want:?} is missing")]
    Missing {
        /// The parameter.
        name: String,
        /// Its shape in the graph.
        want: Shape,
    },
    /// The model holds a parameter no node wants.
    #[error("parameter `{name}` of shape {got:?} belongs to no node of the graph")]
    Unexpected {
        /// The parameter.
        name: String,
        /// Its shape in the model.
        got: Shape,
    },
    /// A parameter has another shape than the graph says.
    #[error("parameter `{name}` has shape {got:?}, the graph wants {want:?}")]
    Shape {
        /// The parameter.
        name: String,
        /// Its shape in the model.
        got: Shape,
        /// Its shape in the graph.
        want: Shape,
    },
    /// A parameter is not F32.
    #[error("parameter `{name}` has type {got:?}, only F32 is stored")]
    Type {
        /// The parameter.
        name: String,
        /// Type found.
        got: DType,
    },
    /// A parameter is a strided view or lies on an accelerator.
    #[error("parameter `{name}` must be contiguous and on the CPU; copy it there first")]
    Layout {
        /// The parameter.
        name: String,
    },
    /// A parameter holds NaN or an infinity.
    #[error("parameter `{name}` holds the non-finite value {value} at index {index}")]
    NonFinite {
        /// The parameter.
        name: String,
        /// Flat index, row-major.
        index: usize,
        /// The value.
        value: f32,
    },
    /// A running variance below zero, whose root would be NaN.
    #[error("running variance `{name}` holds the negative value {value} at index {index}")]
    NegativeVariance {
        /// The parameter.
        name: String,
        /// Flat index.
        index: usize,
        /// The value.
        value: f32,
    },
    /// A per-channel list has another length than the input has channels.
    #[error("{field} has {got} entries, the input of shape {input:?} has {want} channels")]
    ChannelCount {
        /// `input_mean`, `input_std` or `channels`.
        field: &'static str,
        /// Entries found.
        got: usize,
        /// Channels of the input.
        want: usize,
        /// The graph's input shape.
        input: Shape,
    },
    /// A mean that is not finite, or a standard deviation that is not finite and positive.
    #[error("{field} of channel {channel} is {value}; it must be {rule}")]
    Normalisation {
        /// `input_mean` or `input_std`.
        field: &'static str,
        /// The channel.
        channel: usize,
        /// The value.
        value: f32,
        /// What it must be.
        rule: &'static str,
    },
    /// The sampling rate is not finite and positive.
    #[error("sampling rate is {0} Hz; it must be finite and above 0")]
    SamplingRate(f64),
    /// Images have no sampling rate.
    #[error("a sampling rate of {0} Hz is given beside an image rule; images have none")]
    ImageRate(f64),
    /// The image rule does not fit the input.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A channel says another range of values than the image rule.
    #[error("channel `{channel}` names the range {got}, the image rule the range {want}")]
    Range {
        /// The channel, as written.
        channel: String,
        /// Its unit.
        got: &'static str,
        /// The rule's.
        want: &'static str,
    },
    /// A channel that is neither `name` nor `name [unit]`.
    #[error(
        "channel {0:?} must be written `name [unit]`, as in `acc_x [g]`, or `name` without a unit"
    )]
    Channel(String),
    /// A description of a newer program.
    #[error(
        "the model's description has version {got}, this program knows up to {max}; update it",
        max = DESCRIPTION_VERSION
    )]
    DescriptionVersion {
        /// The version.
        got: u32,
    },
    /// Something that files without a description cannot hold.
    #[error("{field} is set, but a description of version 0 has none; set description_version to {want}", want = DESCRIPTION_VERSION)]
    Undescribed {
        /// The field.
        field: &'static str,
    },
    /// The number of class names differs from the number of logits.
    #[error("{got} class names for an output of shape {output:?}, which must be [{got}]")]
    Classes {
        /// Class names.
        got: usize,
        /// Shape of the output.
        output: Shape,
    },
    /// A name that is empty, too long or holds control characters.
    #[error("{field} name {name:?} must have 1 to {max} bytes and no control characters", max = MAX_NAME_BYTES)]
    Name {
        /// `architecture`, `input`, `output`, `class` or `channel`.
        field: &'static str,
        /// The name, cut to a printable length.
        name: String,
    },
    /// Two classes or channels share a name.
    #[error("{field} name `{name}` is used twice")]
    DuplicateName {
        /// `class` or `channel`.
        field: &'static str,
        /// The name.
        name: String,
    },
    /// A tensor could not be made or read.
    #[error("parameter `{name}`: {message}")]
    Tensor {
        /// The parameter.
        name: String,
        /// What the tensor library says.
        message: String,
    },
}

/// Makes a CPU tensor of these values.
///
/// # Shapes
/// `values`: row-major, `product(shape)` of them.
/// # Errors
/// [`ModelError::Tensor`] with `name` when the number of values does not fit the shape.
pub fn tensor(name: &str, values: Vec<f32>, shape: &[usize]) -> Result<Tensor, ModelError> {
    Tensor::from_vec(values, shape, &Device::Cpu).map_err(|e| ModelError::Tensor {
        name: name.to_owned(),
        message: e.to_string(),
    })
}

/// The values of an F32 tensor, row-major, wherever it lies.
///
/// # Errors
/// [`ModelError::Tensor`] with `name` when the tensor is not F32 or cannot be copied.
pub fn values(name: &str, tensor: &Tensor) -> Result<Vec<f32>, ModelError> {
    tensor
        .flatten_all()
        .and_then(|t| t.to_vec1::<f32>())
        .map_err(|e| ModelError::Tensor {
            name: name.to_owned(),
            message: e.to_string(),
        })
}

impl Model {
    /// Every parameter the graph wants, with shape and role, by full name.
    #[must_use]
    pub fn roles(&self) -> BTreeMap<String, ParamSpec> {
        roles(&self.graph)
    }

    /// Number of trainable values: all parameters but running statistics, as papers count them.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        self.roles()
            .values()
            .filter(|spec| spec.role != ParamRole::Statistic)
            .map(|spec| spec.shape.iter().product::<usize>())
            .sum()
    }

    /// How images become this model's input, where it takes images and says how.
    ///
    /// # Errors
    /// [`ImageError`] when rule and input do not fit, which no checked model has.
    pub fn image_input(&self) -> Result<Option<ImageInput>, ImageError> {
        let of = |rule| ImageInput::new(rule, &self.graph.input);
        self.info.image.map(of).transpose()
    }

    /// Validates everything: graph, parameters, input and output description.
    ///
    /// What passes here can be executed, written and signed without further questions.
    ///
    /// # Errors
    /// [`ModelError`], naming the parameter or field at fault.
    pub fn check(&self) -> Result<Checked, ModelError> {
        let checked = self.graph.check()?;
        let roles = self.roles();
        for (name, spec) in &roles {
            let tensor = self.params.get(name).ok_or_else(|| ModelError::Missing {
                name: name.clone(),
                want: spec.shape.clone(),
            })?;
            check_param(name, spec, tensor)?;
        }
        if let Some((name, tensor)) = self.params.iter().find(|(n, _)| !roles.contains_key(*n)) {
            return Err(ModelError::Unexpected {
                name: name.clone(),
                got: tensor.dims().to_vec(),
            });
        }
        self.info.check(&checked)?;
        Ok(checked)
    }
}

/// Every parameter `graph` wants, with shape and role, by full name.
#[must_use]
pub fn roles(graph: &Graph) -> BTreeMap<String, ParamSpec> {
    let of_node = |node: &crate::graph::Node| {
        let prefix = node.name.clone();
        node.op
            .params()
            .into_iter()
            .map(move |spec| (format!("{prefix}.{}", spec.suffix), spec))
    };
    graph.nodes.iter().flat_map(of_node).collect()
}

fn check_param(name: &str, spec: &ParamSpec, tensor: &Tensor) -> Result<(), ModelError> {
    if tensor.dims() != spec.shape {
        return Err(ModelError::Shape {
            name: name.to_owned(),
            got: tensor.dims().to_vec(),
            want: spec.shape.clone(),
        });
    }
    if tensor.dtype() != DType::F32 {
        return Err(ModelError::Type {
            name: name.to_owned(),
            got: tensor.dtype(),
        });
    }
    if !tensor.is_contiguous() || !tensor.device().is_cpu() {
        return Err(ModelError::Layout {
            name: name.to_owned(),
        });
    }
    let values = values(name, tensor)?;
    if let Some(index) = values.iter().position(|v| !v.is_finite()) {
        return Err(ModelError::NonFinite {
            name: name.to_owned(),
            index,
            value: values[index],
        });
    }
    let negative = values.iter().position(|&v| v < 0.0);
    if let (Some(index), "running_var") = (negative, spec.suffix) {
        return Err(ModelError::NegativeVariance {
            name: name.to_owned(),
            index,
            value: values[index],
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::fixture::{info, tcn_model};
    use super::*;
    use crate::zoo::{Norm, TcnConfig, tcn};

    fn model() -> Model {
        tcn_model(7)
    }

    #[test]
    fn a_fresh_model_is_valid() {
        model().check().unwrap();
    }

    #[test]
    fn a_parameter_of_another_shape_is_named_with_both_shapes() {
        let mut m = model();
        let t = tensor("x", vec![0.0; 4], &[4]).unwrap();
        m.params.insert("head.weight".into(), t);
        let error = m.check().unwrap_err();
        assert_eq!(
            error.to_string(),
            "parameter `head.weight` has shape [4], the graph wants [4, 64]"
        );
    }

    #[test]
    fn missing_and_superfluous_parameters_are_named() {
        let mut m = model();
        m.params.remove("block0.conv.weight");
        let error = m.check().unwrap_err();
        assert!(matches!(error, ModelError::Missing { name, .. } if name == "block0.conv.weight"));
        let mut m = model();
        let t = tensor("x", vec![1.0], &[1]).unwrap();
        m.params.insert("ghost.weight".into(), t);
        let error = m.check().unwrap_err();
        assert!(matches!(error, ModelError::Unexpected { name, .. } if name == "ghost.weight"));
    }

    #[test]
    fn a_non_finite_parameter_is_named_with_its_index() {
        let mut m = model();
        let t = tensor("x", vec![0.0, 1.0, f32::NAN, 0.0], &[4]).unwrap();
        m.params.insert("head.bias".into(), t);
        assert!(matches!(
            m.check().unwrap_err(),
            ModelError::NonFinite { name, index: 2, .. } if name == "head.bias"
        ));
    }

    #[test]
    fn other_types_and_strided_views_are_refused() {
        let mut m = model();
        let t = Tensor::zeros(4, DType::F64, &Device::Cpu).unwrap();
        m.params.insert("head.bias".into(), t);
        assert!(matches!(m.check(), Err(ModelError::Type { .. })));
        let mut m = model();
        let t = Tensor::zeros((64, 4), DType::F32, &Device::Cpu).unwrap();
        m.params.insert("head.weight".into(), t.t().unwrap());
        assert!(matches!(m.check(), Err(ModelError::Layout { .. })));
    }

    #[test]
    fn a_negative_running_variance_is_refused() {
        let mut config = TcnConfig::new(3, 32, 4);
        config.norm = Norm::Batch;
        let mut m = Model::init(tcn(&config).unwrap(), info(3, 4), 7).unwrap();
        m.check().unwrap();
        let t = tensor("x", vec![-1.0; 32], &[32]).unwrap();
        m.params.insert("block0.norm.running_var".into(), t);
        assert!(matches!(
            m.check(),
            Err(ModelError::NegativeVariance { index: 0, .. })
        ));
    }
}
