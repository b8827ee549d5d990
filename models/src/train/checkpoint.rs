//! A training run as bytes: a safetensors file with parameters and moments, and one metadata entry
//! with the settings and the place in the run.
//!
//! Order and augmentation are functions of seed, epoch and step, so no generator needs saving.

use std::collections::{BTreeMap, HashMap};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::optimizer::Optimizer;
use super::params::ParamSet;
use super::{Precision, TrainConfig};

/// Key of the one metadata entry.
const KEY: &str = "lamplight.training";

/// Version of the layout.
const FORMAT: u32 = 1;

/// Why saved training cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Not a safetensors file.
    #[error("saved training is not readable: {0}")]
    File(#[from] safetensors::SafeTensorError),
    /// No or malformed metadata.
    #[error("saved training has no usable `{KEY}` entry: {0}")]
    Metadata(String),
    /// Written by another version.
    #[error("saved training has format {got}, expected {FORMAT}")]
    Format {
        /// Format found.
        got: u32,
    },
    /// Other settings.
    #[error("saved training ran with {saved}, but is asked to go on with {given}")]
    Config {
        /// Settings in the file.
        saved: String,
        /// Settings given.
        given: String,
    },
    /// A place outside the run.
    #[error("saved training stands at {what} {got}, which its settings do not reach")]
    Position {
        /// Which counter.
        what: &'static str,
        /// Its value.
        got: u64,
    },
    /// A tensor is missing, superfluous, or of another shape or type.
    #[error("saved training: tensor `{name}` {fault}")]
    Tensor {
        /// Tensor.
        name: String,
        /// What is wrong.
        fault: String,
    },
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    /// Epochs done.
    pub(super) epoch: usize,
    /// Steps done in the running epoch.
    pub(super) step: usize,
    /// Samples the running epoch was begun with; 0 between epochs.
    pub(super) epoch_samples: usize,
    /// Sum of the losses of the running epoch's samples, as bits: exact.
    pub(super) loss_bits: u64,
    /// Samples seen in the running epoch.
    pub(super) seen: usize,
    /// Steps of the optimizer.
    pub(super) optimizer_steps: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: u32,
    config: TrainConfig,
    position: Position,
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Writes a run. The same state gives the same bytes.
pub(super) fn write(
    config: &TrainConfig,
    position: Position,
    params: &ParamSet,
    optimizer: &Optimizer,
) -> Result<Vec<u8>, CheckpointError> {
    let mut data: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for (i, p) in params.all().iter().enumerate() {
        let shape = p.shape.clone();
        data.insert(format!("param.{}", p.name), (shape, floats(&p.values)));
        for (kind, m) in optimizer
            .config()
            .moments()
            .iter()
            .zip(optimizer.moments(i))
        {
            data.insert(format!("{kind}.{}", p.name), (p.shape.clone(), floats(m)));
        }
    }
    let header = Header {
        format: FORMAT,
        config: config.clone(),
        position,
    };
    let header =
        serde_json::to_string(&header).map_err(|e| CheckpointError::Metadata(e.to_string()))?;
    let views: Vec<(&String, TensorView<'_>)> = data
        .iter()
        .map(|(name, (shape, bytes))| {
            TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name, view))
        })
        .collect::<Result<_, _>>()?;
    // One entry only: a map of several would be written in random order.
    let metadata = HashMap::from([(KEY.to_owned(), header)]);
    Ok(safetensors::serialize(views, Some(metadata))?)
}

/// In which numbers a saved run calculates.
pub(super) fn precision(bytes: &[u8]) -> Result<Precision, CheckpointError> {
    Ok(header(bytes)?.config.precision)
}

fn header(bytes: &[u8]) -> Result<Header, CheckpointError> {
    let (_, metadata) = SafeTensors::read_metadata(bytes)?;
    let entry = metadata.metadata().as_ref().and_then(|m| m.get(KEY));
    let entry = entry.ok_or_else(|| CheckpointError::Metadata("it is missing".to_owned()))?;
    let malformed = |e: serde_json::Error| CheckpointError::Metadata(e.to_string());
    // The format first: another one may have other fields.
    let loose: serde_json::Value = serde_json::from_str(entry).map_err(malformed)?;
    let format = loose.get("format").and_then(serde_json::Value::as_u64);
    match format.and_then(|f| u32::try_from(f).ok()) {
        Some(FORMAT) => {}
        Some(got) => return Err(CheckpointError::Format { got }),
        None => return Err(CheckpointError::Metadata("no format number".to_owned())),
    }
    serde_json::from_value(loose).map_err(malformed)
}

/// Reads a run back into `params` and `optimizer`, which give names and shapes.
pub(super) fn read(
    bytes: &[u8],
    config: &TrainConfig,
    params: &mut ParamSet,
    optimizer: &mut Optimizer,
) -> Result<Position, CheckpointError> {
    let header = header(bytes)?;
    if header.config != *config {
        let show = |c: &TrainConfig| serde_json::to_string(c).unwrap_or_else(|e| e.to_string());
        return Err(CheckpointError::Config {
            saved: show(&header.config),
            given: show(config),
        });
    }
    check_position(&header.position, config)?;

    let file = SafeTensors::deserialize(bytes)?;
    let mut expected = 0;
    let mut next = params.clone();
    let mut moments = Vec::with_capacity(params.all().len());
    for (i, p) in next.all_mut().iter_mut().enumerate() {
        let moving = !optimizer.moments(i).is_empty();
        let kinds = if moving {
            optimizer.config().moments()
        } else {
            &[]
        };
        p.values = tensor(&file, &format!("param.{}", p.name), &p.shape)?;
        let own = kinds
            .iter()
            .map(|kind| tensor(&file, &format!("{kind}.{}", p.name), &p.shape))
            .collect::<Result<Vec<_>, _>>()?;
        expected += 1 + own.len();
        moments.push(own);
    }
    if file.len() != expected {
        let known = |n: &str| next.all().iter().any(|p| n.ends_with(&p.name));
        let names = file.names();
        let odd = names.iter().find(|n| !known(n)).or(names.first());
        return Err(CheckpointError::Tensor {
            name: odd.map(|n| (*n).to_owned()).unwrap_or_default(),
            fault: format!("is one of {} tensors, expected {expected}", names.len()),
        });
    }
    *params = next;
    optimizer.restore(header.position.optimizer_steps, moments);
    Ok(header.position)
}

fn check_position(p: &Position, config: &TrainConfig) -> Result<(), CheckpointError> {
    let refuse = |what, got: usize| {
        Err(CheckpointError::Position {
            what,
            got: got as u64,
        })
    };
    let steps_at_most = p.epoch_samples.div_ceil(config.batch.max(1));
    if p.epoch > config.epochs || (p.epoch == config.epochs && p.epoch_samples > 0) {
        return refuse("epoch", p.epoch);
    }
    if p.step > steps_at_most {
        return refuse("step", p.step);
    }
    if p.seen > p.epoch_samples {
        return refuse("sample", p.seen);
    }
    if !f64::from_bits(p.loss_bits).is_finite() {
        return Err(CheckpointError::Position {
            what: "a loss of bits",
            got: p.loss_bits,
        });
    }
    Ok(())
}

fn tensor(
    file: &SafeTensors<'_>,
    name: &str,
    shape: &[usize],
) -> Result<Vec<f32>, CheckpointError> {
    let fault = |fault: String| CheckpointError::Tensor {
        name: name.to_owned(),
        fault,
    };
    let view = file
        .tensor(name)
        .map_err(|_| fault("is missing".to_owned()))?;
    if view.dtype() != Dtype::F32 || view.shape() != shape {
        return Err(fault(format!(
            "is {:?} {:?}, expected F32 {shape:?}",
            view.dtype(),
            view.shape()
        )));
    }
    let (words, _) = view.data().as_chunks::<4>();
    let values: Vec<f32> = words.iter().map(|w| f32::from_le_bytes(*w)).collect();
    match values.iter().position(|v| !v.is_finite()) {
        Some(i) => Err(fault(format!("holds a non-finite value at index {i}"))),
        None => Ok(values),
    }
}
