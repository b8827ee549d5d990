//! A file as a model: the container's parts matched with what the graph asks for.

use super::layout::{File, Value, parse};
use super::{
    CROP_CENTER, DESCRIBED, DTYPE_F32, FILTER_BILINEAR, FORMAT_VERSION, GENERAL_ARCHITECTURE,
    GgufError, KEY_ARCHITECTURE, KEY_CHANNELS, KEY_CLASSES, KEY_CROP, KEY_DESCRIPTION, KEY_DTYPE,
    KEY_FILTER, KEY_GRAPH, KEY_INPUT_NAME, KEY_INPUT_SHAPE, KEY_LAYOUT, KEY_MEAN, KEY_OUTPUT_NAME,
    KEY_RANGE, KEY_RATE, KEY_RESIZE, KEY_RESIZE_SIDE, KEY_SHAPE, KEY_STD, KEY_VERSION, Stored,
    TYPE_Q8_0,
};
use crate::graph::Graph;
use crate::image::{ImageRule, Resize, ValueRange};
use crate::model::{
    DESCRIPTION_VERSION, Model, ModelError, ModelInfo, Params, layout, roles, tensor,
};
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
    match file.u32(KEY_VERSION)? {
        FORMAT_VERSION => {}
        got => {
            return Err(GgufError::FormatVersion {
                got,
                want: FORMAT_VERSION,
            });
        }
    }
    let graph: Graph =
        serde_json::from_str(file.text(KEY_GRAPH)?).map_err(|e| GgufError::Graph(e.to_string()))?;
    // Shapes must be sane before any is multiplied.
    graph.check().map_err(ModelError::from)?;
    let info = info(&file, &graph)?;
    let params = params(&file, &graph)?;
    let model = Model {
        graph,
        params,
        info,
    };
    model.check()?;
    Ok(model)
}

fn info(file: &File<'_>, graph: &Graph) -> Result<ModelInfo, GgufError> {
    let sampling_rate_hz = match file.metadata.get(KEY_RATE) {
        None => None,
        Some(Value::F64(rate)) => Some(*rate),
        Some(_) => return Err(wrong(KEY_RATE, "an f64")),
    };
    let bare = ModelInfo {
        description_version: 0,
        architecture: file.text(KEY_ARCHITECTURE)?.to_owned(),
        input_mean: file.f32s(KEY_MEAN)?,
        input_std: file.f32s(KEY_STD)?,
        channels: file.texts(KEY_CHANNELS)?,
        sampling_rate_hz,
        classes: file.texts(KEY_CLASSES)?,
        ..ModelInfo::default()
    };
    if !file.metadata.contains_key(KEY_DESCRIPTION) {
        let why = "`lamplight.description_version` is missing";
        let described = DESCRIBED
            .into_iter()
            .find(|&k| file.metadata.contains_key(k));
        return described.map_or(Ok(bare), |key| Err(GgufError::OutOfPlace { key, why }));
    }
    // 1. A newer description may ask for what is not known here.
    let description_version = match file.u32(KEY_DESCRIPTION)? {
        0 => return Err(wrong(KEY_DESCRIPTION, "1 or more, or missing")),
        got if got > DESCRIPTION_VERSION => {
            return Err(ModelError::DescriptionVersion { got }.into());
        }
        got => got,
    };
    // 2. What the graph says, too, is said for other programs and must agree.
    file.agrees(KEY_INPUT_SHAPE, &graph.input)?;
    let layouts = "`C`, `CT` and `CHW`, for inputs of 1, 2 and 3 dimensions";
    file.word(KEY_LAYOUT, &[(layout(&graph.input), ())], layouts)?;
    file.word(KEY_DTYPE, &[(DTYPE_F32, ())], "`f32`")?;
    // 3. The rest.
    Ok(ModelInfo {
        description_version,
        input_name: file.text(KEY_INPUT_NAME)?.to_owned(),
        output_name: file.text(KEY_OUTPUT_NAME)?.to_owned(),
        image: image(file)?,
        ..bare
    })
}

/// The image rule: all of its keys or none.
fn image(file: &File<'_>) -> Result<Option<ImageRule>, GgufError> {
    if !file.metadata.contains_key(KEY_RESIZE) {
        let why = "`lamplight.image.resize` is missing";
        let rest = [KEY_RESIZE_SIDE, KEY_FILTER, KEY_CROP, KEY_RANGE];
        let stray = rest.into_iter().find(|&k| file.metadata.contains_key(k));
        return stray.map_or(Ok(None), |key| Err(GgufError::OutOfPlace { key, why }));
    }
    let side = match file.metadata.get(KEY_RESIZE_SIDE) {
        None => None,
        Some(_) => Some(file.u32(KEY_RESIZE_SIDE)?),
    };
    let resizes = [Resize::None, Resize::ShortestSide(0), Resize::Stretch].map(|r| (r.word(), r));
    let known = "`none`, `shortest-side` and `stretch`";
    let resize = match (file.word(KEY_RESIZE, &resizes, known)?, side) {
        (Resize::ShortestSide(_), Some(side)) => Resize::ShortestSide(side),
        (Resize::ShortestSide(_), None) => {
            return Err(GgufError::MissingKey(KEY_RESIZE_SIDE.to_owned()));
        }
        (_, Some(_)) => {
            let why = "only `shortest-side` has one";
            let key = KEY_RESIZE_SIDE;
            return Err(GgufError::OutOfPlace { key, why });
        }
        (other, None) => other,
    };
    file.word(KEY_FILTER, &[(FILTER_BILINEAR, ())], "`bilinear`")?;
    file.word(KEY_CROP, &[(CROP_CENTER, ())], "`center`")?;
    let ranges = ValueRange::ALL.map(|r| (r.word(), r));
    let range = file.word(KEY_RANGE, &ranges, "`0-1` and `0-255`")?;
    Ok(Some(ImageRule { resize, range }))
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
    file.agrees(&format!("{KEY_SHAPE}{name}"), &spec.shape)?;
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

    fn u32(&self, key: &str) -> Result<u32, GgufError> {
        match self.required(key)? {
            Value::U32(value) => Ok(*value),
            _ => Err(wrong(key, "a u32")),
        }
    }

    /// Which of the known words a key holds.
    fn word<T: Copy>(
        &self,
        key: &'static str,
        words: &[(&str, T)],
        known: &'static str,
    ) -> Result<T, GgufError> {
        let got = self.text(key)?;
        let found = words.iter().find(|(word, _)| *word == got);
        found
            .map(|&(_, value)| value)
            .ok_or_else(|| GgufError::Unknown {
                key,
                got: got.chars().take(64).collect(),
                known,
            })
    }

    /// Checks that a key holds this shape, which the graph says.
    fn agrees(&self, key: &str, shape: &[usize]) -> Result<(), GgufError> {
        let Value::U64s(recorded) = self.required(key)? else {
            return Err(wrong(key, "a u64 array"));
        };
        if recorded.iter().copied().eq(shape.iter().map(|&d| d as u64)) {
            return Ok(());
        }
        Err(wrong(key, &format!("{shape:?}, as in the graph")))
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
