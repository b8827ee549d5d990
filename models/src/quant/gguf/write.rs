//! A model as the bytes of a file.

use std::collections::BTreeMap;

use super::{
    ALIGNMENT, CONTAINER_VERSION, CROP_CENTER, DTYPE_F32, FILTER_BILINEAR, FORMAT_VERSION,
    GENERAL_ALIGNMENT, GENERAL_ARCHITECTURE, GENERAL_FILE_TYPE, GENERAL_NAME, GENERAL_QUANTIZATION,
    GgufError, KEY_ARCHITECTURE, KEY_CHANNELS, KEY_CLASSES, KEY_CROP, KEY_DESCRIPTION, KEY_DTYPE,
    KEY_FILTER, KEY_GRAPH, KEY_INPUT_NAME, KEY_INPUT_SHAPE, KEY_LAYOUT, KEY_MEAN, KEY_OUTPUT_NAME,
    KEY_RANGE, KEY_RATE, KEY_RESIZE, KEY_RESIZE_SIDE, KEY_SHAPE, KEY_STD, KEY_VERSION, MAGIC,
    Stored, TYPE_Q8_0, value_type,
};
use crate::graph::Graph;
use crate::image::Resize;
use crate::model::{Model, ModelError, layout, values};
use crate::ops::ParamSpec;
use crate::quant::q8_0;

/// ggml's `LLAMA_FTYPE_MOSTLY_Q8_0`.
const FILE_TYPE_Q8_0: u32 = 7;

/// ggml's version of its block formats.
const QUANTIZATION_VERSION: u32 = 2;

/// Writes a model with Q8_0 weights; the same model gives the same bytes.
///
/// Weights that are not multiples of a block's scale are rounded; [`super::read`] returns what is
/// left of them.
///
/// # Errors
/// [`GgufError::Model`] when the model is invalid, [`GgufError::Quantized`] when a weight is too
/// large for half precision's scale, [`GgufError::Graph`] when an attribute is not finite.
pub fn write(model: &Model) -> Result<Vec<u8>, GgufError> {
    model.check()?;
    let roles = model.roles();
    let metadata = metadata(model, &roles)?;

    let mut out = Vec::new();
    out.extend(MAGIC);
    out.extend(CONTAINER_VERSION.to_le_bytes());
    out.extend((roles.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in &metadata {
        text(&mut out, key);
        out.extend(value);
    }
    let mut data = Vec::new();
    for (name, spec) in &roles {
        let (stored, bytes) = encode(model, name, spec)?;
        text(&mut out, name);
        out.extend((stored.dimensions.len() as u32).to_le_bytes());
        for dimension in &stored.dimensions {
            out.extend(dimension.to_le_bytes());
        }
        out.extend(stored.type_code.to_le_bytes());
        out.extend((data.len() as u64).to_le_bytes());
        data.extend(bytes);
        align(&mut data);
    }
    align(&mut out);
    out.extend(data);
    Ok(out)
}

/// A parameter's place and bytes; the model was checked, so it is there and has its shape.
fn encode(model: &Model, name: &str, spec: &ParamSpec) -> Result<(Stored, Vec<u8>), GgufError> {
    let missing = || ModelError::Missing {
        name: name.to_owned(),
        want: spec.shape.clone(),
    };
    let stored = Stored::of(spec).ok_or_else(missing)?;
    let values = values(name, model.params.get(name).ok_or_else(missing)?)?;
    let bytes = if stored.type_code == TYPE_Q8_0 {
        q8_0::quantize(&values, stored.rows, stored.columns).map_err(|source| {
            GgufError::Quantized {
                name: name.to_owned(),
                source,
            }
        })?
    } else {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    };
    Ok((stored, bytes))
}

/// Encoded values by key, type code included; sorted, so that a file has one order.
fn metadata(
    model: &Model,
    roles: &BTreeMap<String, ParamSpec>,
) -> Result<BTreeMap<String, Vec<u8>>, GgufError> {
    let info = &model.info;
    let mut map = BTreeMap::new();
    let mut put = |key: &str, value| map.insert(key.to_owned(), value);
    put(GENERAL_ARCHITECTURE, text_value("lamplight"));
    put(GENERAL_NAME, text_value(&info.architecture));
    put(GENERAL_ALIGNMENT, u32_value(ALIGNMENT as u32));
    put(GENERAL_FILE_TYPE, u32_value(FILE_TYPE_Q8_0));
    put(GENERAL_QUANTIZATION, u32_value(QUANTIZATION_VERSION));
    put(KEY_VERSION, u32_value(FORMAT_VERSION));
    put(KEY_ARCHITECTURE, text_value(&info.architecture));
    put(KEY_GRAPH, text_value(&graph_json(&model.graph)?));
    put(KEY_MEAN, f32s_value(&info.input_mean));
    put(KEY_STD, f32s_value(&info.input_std));
    put(KEY_CHANNELS, texts_value(&info.channels));
    put(KEY_CLASSES, texts_value(&info.classes));
    if let Some(rate) = info.sampling_rate_hz {
        let mut value = value_type::F64.to_le_bytes().to_vec();
        value.extend(rate.to_le_bytes());
        put(KEY_RATE, value);
    }
    if info.description_version > 0 {
        let input = &model.graph.input;
        put(KEY_DESCRIPTION, u32_value(info.description_version));
        put(KEY_INPUT_NAME, text_value(&info.input_name));
        put(KEY_INPUT_SHAPE, shape_value(input));
        put(KEY_LAYOUT, text_value(layout(input)));
        put(KEY_DTYPE, text_value(DTYPE_F32));
        put(KEY_OUTPUT_NAME, text_value(&info.output_name));
    }
    if let Some(rule) = info.image {
        put(KEY_RESIZE, text_value(rule.resize.word()));
        if let Resize::ShortestSide(side) = rule.resize {
            put(KEY_RESIZE_SIDE, u32_value(side));
        }
        put(KEY_FILTER, text_value(FILTER_BILINEAR));
        put(KEY_CROP, text_value(CROP_CENTER));
        put(KEY_RANGE, text_value(rule.range.word()));
    }
    for (name, spec) in roles {
        put(&format!("{KEY_SHAPE}{name}"), shape_value(&spec.shape));
    }
    Ok(map)
}

/// The graph as JSON that reads back as the same graph: JSON has no infinity, so an attribute that
/// is infinite would be lost.
fn graph_json(graph: &Graph) -> Result<String, GgufError> {
    let broken = |e: serde_json::Error| GgufError::Graph(e.to_string());
    let json = serde_json::to_string(graph).map_err(broken)?;
    let back: Graph = serde_json::from_str(&json).map_err(broken)?;
    if &back == graph {
        return Ok(json);
    }
    Err(GgufError::Graph(
        "an attribute changes when written as JSON".to_owned(),
    ))
}

fn align(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn u32_value(value: u32) -> Vec<u8> {
    [value_type::U32.to_le_bytes(), value.to_le_bytes()].concat()
}

fn text_value(value: &str) -> Vec<u8> {
    let mut out = value_type::STRING.to_le_bytes().to_vec();
    text(&mut out, value);
    out
}

fn array_value(code: u32, count: usize, bytes: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let mut out = value_type::ARRAY.to_le_bytes().to_vec();
    out.extend(code.to_le_bytes());
    out.extend((count as u64).to_le_bytes());
    out.extend(bytes);
    out
}

fn shape_value(shape: &[usize]) -> Vec<u8> {
    let bytes = shape.iter().flat_map(|&d| (d as u64).to_le_bytes());
    array_value(value_type::U64, shape.len(), bytes)
}

fn f32s_value(values: &[f32]) -> Vec<u8> {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes());
    array_value(value_type::F32, values.len(), bytes)
}

fn texts_value(values: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in values {
        text(&mut bytes, value);
    }
    array_value(value_type::STRING, values.len(), bytes)
}
