//! A file as a model: the container's parts matched with what the graph asks for.

use super::layout::{File, Value, parse};
use super::{
    FORMAT_VERSION, GENERAL_ARCHITECTURE, GgufError, KEY_ARCHITECTURE, KEY_CHANNELS, KEY_CLASSES,
    KEY_GRAPH, KEY_MEAN, KEY_RATE, KEY_SHAPE, KEY_STD, KEY_VERSION, Stored, TYPE_Q8_0,
};
use crate::graph::Graph;
use crate::model::{Model, ModelInfo, Params, roles, tensor};
use crate::ops::ParamSpec;
use crate::quant::q8_0;

/// Reads a model from a file's bytes, which may come from anywhere.
///
/// Weights are dequantized to exactly `f32(scale) * q`. Unknown metadata keys are passed over.
/// Memory: a small multiple of the file's length, whatever it claims.
///
/// # Errors
/// [`GgufError`], naming key, tensor or offset. A model that is returned passed [`Model::check`].
pub fn read(file: &[u8]) -> Result<Model, GgufError> {
    let file = parse(file)?;
    match file.text(GENERAL_ARCHITECTURE)? {
        "lamplight" => {}
        other => return Err(GgufError::Architecture(other.chars().take(64).collect())),
    }
    match file.required(KEY_VERSION)? {
        Value::U32(FORMAT_VERSION) => {}
        Value::U32(got) => {
            return Err(GgufError::FormatVersion {
                got: *got,
                want: FORMAT_VERSION,
            });
        }
        _ => return Err(wrong(KEY_VERSION, "a u32")),
    }
    let graph: Graph =
        serde_json::from_str(file.text(KEY_GRAPH)?).map_err(|e| GgufError::Graph(e.to_string()))?;
    // Shapes must be sane before any is multiplied.
    graph.check().map_err(crate::model::ModelError::from)?;
    let info = info(&file)?;
    let params = params(&file, &graph)?;
    let model = Model {
        graph,
        params,
        info,
    };
    model.check()?;
    Ok(model)
}

fn info(file: &File<'_>) -> Result<ModelInfo, GgufError> {
    let sampling_rate_hz = match file.metadata.get(KEY_RATE) {
        None => None,
        Some(Value::F64(rate)) => Some(*rate),
        Some(_) => return Err(wrong(KEY_RATE, "an f64")),
    };
    Ok(ModelInfo {
        architecture: file.text(KEY_ARCHITECTURE)?.to_owned(),
        input_mean: file.f32s(KEY_MEAN)?,
        input_std: file.f32s(KEY_STD)?,
        channels: file.texts(KEY_CHANNELS)?,
        sampling_rate_hz,
        classes: file.texts(KEY_CLASSES)?,
    })
}

fn params(file: &File<'_>, graph: &Graph) -> Result<Params, GgufError> {
    let roles = roles(graph);
    if let Some(name) = file.tensors.keys().find(|&&n| !roles.contains_key(n)) {
        return Err(GgufError::UnexpectedTensor((*name).to_owned()));
    }
    roles
        .into_iter()
        .map(|(name, spec)| {
            let values = restore(file, &name, &spec)?;
            let tensor = tensor(&name, values, &spec.shape)?;
            Ok((name, tensor))
        })
        .collect()
}

/// The values of one parameter, after its type, dimensions and recorded shape proved right.
fn restore(file: &File<'_>, name: &str, spec: &ParamSpec) -> Result<Vec<f32>, GgufError> {
    let missing = || GgufError::MissingTensor(name.to_owned());
    let got = file.tensors.get(name).ok_or_else(missing)?;
    let want = Stored::of(spec).ok_or_else(missing)?;
    if got.type_code != want.type_code {
        return Err(GgufError::TensorType {
            name: name.to_owned(),
            got: got.type_code,
            want: want.type_code,
        });
    }
    if got.dimensions != want.dimensions || got.bytes.len() != want.bytes {
        return Err(GgufError::Dimensions {
            name: name.to_owned(),
            got: got.dimensions.clone(),
            want: want.dimensions,
            shape: spec.shape.clone(),
        });
    }
    let key = format!("{KEY_SHAPE}{name}");
    let recorded = match file.required(&key)? {
        Value::U64s(shape) => shape.iter().copied(),
        _ => return Err(wrong(&key, "a u64 array")),
    };
    if !recorded.eq(spec.shape.iter().map(|&d| d as u64)) {
        return Err(wrong(&key, &format!("{:?}, as in the graph", spec.shape)));
    }
    if want.type_code == TYPE_Q8_0 {
        return q8_0::dequantize(got.bytes, want.rows, want.columns).map_err(|source| {
            GgufError::Quantized {
                name: name.to_owned(),
                source,
            }
        });
    }
    let (values, _) = got.bytes.as_chunks::<4>();
    Ok(values.iter().map(|v| f32::from_le_bytes(*v)).collect())
}

fn wrong(key: &str, want: &str) -> GgufError {
    GgufError::Value {
        key: key.to_owned(),
        want: want.to_owned(),
    }
}

impl<'a> File<'a> {
    fn required(&self, key: &str) -> Result<&Value<'a>, GgufError> {
        self.metadata
            .get(key)
            .ok_or_else(|| GgufError::MissingKey(key.to_owned()))
    }

    fn text(&self, key: &str) -> Result<&'a str, GgufError> {
        match self.required(key)? {
            Value::Text(text) => Ok(text),
            _ => Err(wrong(key, "a string")),
        }
    }

    fn f32s(&self, key: &str) -> Result<Vec<f32>, GgufError> {
        match self.required(key)? {
            Value::F32s(values) => Ok(values.clone()),
            _ => Err(wrong(key, "an f32 array")),
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<String>, GgufError> {
        match self.required(key)? {
            Value::Texts(texts) => Ok(texts.iter().map(|&t| t.to_owned()).collect()),
            _ => Err(wrong(key, "a string array")),
        }
    }
}
