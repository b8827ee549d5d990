//! Model files, graphs, deltas, samples, saved training.

use std::collections::BTreeMap;
use std::sync::Arc;

use lamplight_models::delta::Delta;
use lamplight_models::graph::Graph;
use lamplight_models::lane::CpuLane;
use lamplight_models::model::{Model, ModelInfo};
use lamplight_models::quant::gguf;
use lamplight_models::samples::Samples;
use lamplight_models::train::Trainer;
use lamplight_models::zoo::{Norm, TcnConfig, tcn};

use super::Seed;
use crate::models::settings;

/// Every operator over images, in a graph of a few values.
const IMAGES: &str = r#"{"input":[2,6,6],"nodes":[
{"name":"c","op":{"type":"conv2d","in_channels":2,"out_channels":4,"kernel":[3,3],"stride":[1,1],"padding":[1,1],"dilation":[1,1],"groups":2,"bias":true},"inputs":["input"]},
{"name":"n","op":{"type":"batch_norm","channels":4,"eps":1e-5,"momentum":0.1},"inputs":["c"]},
{"name":"r","op":{"type":"relu"},"inputs":["n"]},
{"name":"s","op":{"type":"add"},"inputs":["c","r"]},
{"name":"m","op":{"type":"max_pool2d","kernel":[2,2],"stride":[2,2],"padding":[0,0]},"inputs":["s"]},
{"name":"g","op":{"type":"group_norm","channels":4,"groups":2,"eps":1e-5},"inputs":["m"]},
{"name":"v","op":{"type":"avg_pool2d","kernel":[2,2],"stride":[1,1],"padding":[1,1]},"inputs":["g"]},
{"name":"f","op":{"type":"flatten"},"inputs":["v"]},
{"name":"l","op":{"type":"linear","in_features":64,"out_features":3,"bias":true},"inputs":["f"]}],"output":"l"}"#;

/// Every operator over windows that [`IMAGES`] lacks.
const WINDOWS: &str = r#"{"input":[2,9],"nodes":[
{"name":"c","op":{"type":"conv1d","in_channels":2,"out_channels":2,"kernel":3,"stride":2,"padding":2,"dilation":2,"groups":1,"bias":false},"inputs":["input"]},
{"name":"d","op":{"type":"conv1d","in_channels":2,"out_channels":2,"kernel":3,"stride":1,"padding":1,"dilation":1,"groups":2,"bias":true},"inputs":["c"]},
{"name":"m","op":{"type":"max_pool1d","kernel":3,"stride":2,"padding":1},"inputs":["d"]},
{"name":"a","op":{"type":"avg_pool1d","kernel":2,"stride":1,"padding":0},"inputs":["m"]},
{"name":"s","op":{"type":"gru","input":2,"hidden":3,"output":"sequence"},"inputs":["a"]},
{"name":"e","op":{"type":"gru","input":3,"hidden":3,"output":"last"},"inputs":["s"]},
{"name":"p","op":{"type":"global_avg_pool"},"inputs":["s"]},
{"name":"j","op":{"type":"add"},"inputs":["p","e"]}],"output":"j"}"#;

/// A net of a few hundred bytes with every parameter role.
pub(crate) fn small_model(seed: u64) -> Model {
    let config = TcnConfig {
        widths: vec![4],
        strides: vec![1],
        dilations: vec![1],
        kernel: 3,
        norm: Norm::Batch,
        ..TcnConfig::new(2, 8, 2)
    };
    let graph = tcn(&config).expect("a valid configuration");
    Model::init(graph, info("tcn", 2, 2), seed).expect("a valid model")
}

fn info(architecture: &str, channels: usize, classes: usize) -> ModelInfo {
    ModelInfo {
        architecture: architecture.into(),
        input_mean: vec![0.25; channels],
        input_std: vec![1.5; channels],
        channels: (0..channels).map(|c| format!("acc_{c} [g]")).collect(),
        sampling_rate_hz: Some(50.0),
        classes: (0..classes).map(|c| format!("class {c}")).collect(),
        ..ModelInfo::default()
    }
}

fn model_of(json: &str, classes: usize) -> Model {
    let graph: Graph = serde_json::from_str(json).expect("a graph");
    Model::init(graph, info("by hand", 2, classes), 3).expect("a valid model")
}

/// A delta that training the small model could have made.
pub(crate) fn small_delta() -> Delta {
    let mut delta = Delta::between(&small_model(1), &small_model(2)).expect("one table");
    let values = delta.tensors.values_mut().flat_map(|(_, values)| values);
    values.for_each(|v| *v *= 0.01);
    delta
}

pub(super) fn seeds() -> Vec<Seed> {
    let write = |model: &Model| gguf::write(model).expect("a valid model");
    let mut all = vec![
        Seed::new("gguf", "good-windows", write(&small_model(1))),
        Seed::new("gguf", "good-images", write(&model_of(IMAGES, 3))),
        Seed::new("graph", "good-images", IMAGES),
        Seed::new("graph", "good-windows", WINDOWS),
        Seed::new("delta", "good-delta", small_delta().to_bytes()),
        Seed::new("container", "good-delta", small_delta().to_bytes()),
        Seed::new("samples", "good-samples", samples()),
        Seed::new("container", "good-samples", samples()),
        Seed::new("training", "good-beginning", beginning()),
    ];
    all.extend(hostile_models());
    all.extend(hostile_graphs());
    all.extend(hostile_containers());
    all
}

fn samples() -> Vec<u8> {
    let samples = Samples {
        shape: vec![2, 3],
        x: (0..18).map(|i| i as f32 * 0.5 - 3.0).collect(),
        y: vec![1, 0, 1],
        classes: vec!["walk \"fast\"".into(), "sit".into()],
    };
    samples.to_bytes().expect("valid samples")
}

fn beginning() -> Vec<u8> {
    let lane = Arc::new(CpuLane::new(1));
    let run = Trainer::new(small_model(1), settings(), lane).expect("a valid run");
    run.save().expect("it can be saved")
}

/// The beginning of a GGUF file: counts, then whatever follows.
fn gguf_file(tensors: u64, keys: u64, rest: &[&[u8]]) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(tensors.to_le_bytes());
    file.extend(keys.to_le_bytes());
    file.extend(rest.concat());
    file.resize(file.len().next_multiple_of(32), 0);
    file
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A key whose value is an array that claims this many elements of a type.
fn array(key: &str, code: u32, count: u64) -> Vec<u8> {
    let code = code.to_le_bytes();
    [
        &text(key)[..],
        &9_u32.to_le_bytes(),
        &code,
        &count.to_le_bytes(),
    ]
    .concat()
}

/// The keys of a model file around a graph, without any tensor.
fn around(graph: &str) -> Vec<u8> {
    let string = |key: &str, value: &str| {
        let code = 8_u32.to_le_bytes();
        [text(key), code.to_vec(), text(value)].concat()
    };
    let version = [
        &text("lamplight.format_version")[..],
        &4_u32.to_le_bytes(),
        &1_u32.to_le_bytes(),
    ];
    gguf_file(
        0,
        7,
        &[
            &string("general.architecture", "lamplight"),
            &version.concat(),
            &string("lamplight.architecture", "hostile"),
            &string("lamplight.graph", graph),
            &array("lamplight.input.mean", 6, 0),
            &array("lamplight.input.std", 6, 0),
            &[array("lamplight.input.channels", 8, 0), array("x", 8, 0)].concat(),
        ],
    )
}

fn hostile_models() -> Vec<Seed> {
    let tensor = |dimensions: &[u64]| {
        let rank = dimensions.len() as u32;
        let dimensions: Vec<u8> = dimensions.iter().flat_map(|d| d.to_le_bytes()).collect();
        let place = [&0_u32.to_le_bytes()[..], &0_u64.to_le_bytes()].concat();
        [text("w"), rank.to_le_bytes().to_vec(), dimensions, place].concat()
    };
    let bad = |name, file| Seed::new("gguf", name, file);
    let lots = 1_u64 << 60;
    vec![
        bad("bad-2e60-tensors", gguf_file(lots, 0, &[])),
        bad("bad-2e60-keys", gguf_file(0, lots, &[])),
        bad(
            "bad-key-of-2e60-bytes",
            gguf_file(0, 1, &[&lots.to_le_bytes()]),
        ),
        bad("bad-2e60-numbers", gguf_file(0, 1, &[&array("a", 6, lots)])),
        bad(
            "bad-2e62-wide-numbers",
            gguf_file(0, 1, &[&array("a", 10, 4 * lots)]),
        ),
        bad("bad-2e60-texts", gguf_file(0, 1, &[&array("a", 8, lots)])),
        bad(
            "bad-tensor-2e32-by-2e32",
            gguf_file(1, 0, &[&tensor(&[1 << 32, 1 << 32])]),
        ),
        bad(
            "bad-tensor-of-2e40",
            gguf_file(1, 0, &[&tensor(&[1 << 40])]),
        ),
        bad(
            "bad-rank-4-billion",
            gguf_file(1, 0, &[&text("w"), &[0xff; 4]]),
        ),
        bad("bad-deep-graph", around(&"[".repeat(500))),
        bad(
            "bad-graph-of-2e31-values",
            around(&linear(4, (1 << 31) / 4)),
        ),
    ]
}

/// A graph of one layer.
fn linear(inputs: u64, outputs: u64) -> String {
    format!(
        r#"{{"input":[{inputs}],"nodes":[{{"name":"l","op":{{"type":"linear","in_features":{inputs},"out_features":{outputs},"bias":true}},"inputs":["input"]}}],"output":"l"}}"#
    )
}

/// A graph of one recurrent layer over so many steps of one channel.
fn recurrent(steps: u64, hidden: u64, output: &str) -> String {
    format!(
        r#"{{"input":[1,{steps}],"nodes":[{{"name":"g","op":{{"type":"gru","input":1,"hidden":{hidden},"output":"{output}"}},"inputs":["input"]}}],"output":"g"}}"#
    )
}

fn hostile_graphs() -> Vec<Seed> {
    let bad = |name, text: String| Seed::new("graph", name, text);
    let relu = |name: &str, inputs: &str| {
        format!(r#"{{"name":"{name}","op":{{"type":"relu"}},"inputs":[{inputs}]}}"#)
    };
    let graph = |nodes: &[String], output: &str| {
        let nodes = nodes.join(",");
        format!(r#"{{"input":[1],"nodes":[{nodes}],"output":"{output}"}}"#)
    };
    let wide = format!(
        r#"{{"input":[1,1],"nodes":[{{"name":"c","op":{{"type":"conv1d","in_channels":1,"out_channels":1,"kernel":1,"stride":1,"padding":1000000000,"dilation":1,"groups":1,"bias":false}},"inputs":["input"]}},{}],"output":"p"}}"#,
        r#"{"name":"p","op":{"type":"global_avg_pool"},"inputs":["c"]}"#
    );
    let readers = vec![r#""input""#; 100].join(",");
    vec![
        // Valid, and never run here: its cost is told from shapes alone.
        Seed::new("graph", "good-2e31-values-of-padding", wide),
        bad("bad-4-billion-features", linear(4, 1 << 32)),
        bad("bad-2e63-features", linear(4, 1 << 63)),
        // Three times the first is one past the largest number; the second's square is too large.
        bad("bad-gru-overflow", recurrent(4, u64::MAX / 3 + 1, "last")),
        bad("bad-gru-2e20-hidden", recurrent(4, 1 << 20, "sequence")),
        // Small weights and a small output, but states of 2^36 values between.
        bad("bad-gru-2e36-states", recurrent(1 << 30, 64, "last")),
        bad("bad-deep", format!("{}0", r#"{"input":["#.repeat(80))),
        bad(
            "bad-cycle",
            graph(&[relu("a", r#""b""#), relu("b", r#""a""#)], "b"),
        ),
        bad("bad-hundred-inputs", graph(&[relu("a", &readers)], "a")),
        bad(
            "bad-input-2e64",
            linear(4, 4).replacen("[4]", "[4294967296,4294967296]", 1),
        ),
    ]
}

/// A container with this header, claimed to be as long as it is unless said otherwise.
fn contained(json: &str, claimed: Option<u64>) -> Vec<u8> {
    let length = claimed.unwrap_or(json.len() as u64);
    [&length.to_le_bytes(), json.as_bytes()].concat()
}

fn hostile_containers() -> Vec<Seed> {
    let entry = |name: &str, dtype: &str, shape: &str, offsets: &str| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let header = |pairs: &[(&str, &str)], entries: &[String]| {
        let pairs: BTreeMap<_, _> = pairs.iter().copied().collect();
        let pairs = serde_json::to_string(&pairs).expect("texts");
        let entries: String = entries.iter().map(|e| format!(",{e}")).collect();
        contained(&format!(r#"{{"__metadata__":{pairs}{entries}}}"#), None)
    };
    let delta = [
        ("lamplight.codec", "f32"),
        ("lamplight.format_version", "1"),
    ];
    let huge = entry(
        "w",
        "F32",
        "[1152921504606846976]",
        "[0,4611686018427387904]",
    );
    let overflow = entry("w", "F32", "[4611686018427387904,4]", "[0,0]");
    // Without data a sample may have any size.
    let none = [
        entry("x", "F32", "[0,2147483648,2]", "[0,0]"),
        entry("y", "U32", "[0]", "[0,0]"),
    ];
    let deep = contained(&format!(r#"{{"w":{}"#, "[".repeat(900)), None);
    let long = contained("{}", Some(1 << 62));
    let mut all = vec![
        Seed::new(
            "samples",
            "bad-shape-of-2e32",
            header(&[("classes", "[]")], &none),
        ),
        Seed::new(
            "samples",
            "bad-deep-classes",
            header(&[("classes", &"[".repeat(800))], &[]),
        ),
        Seed::new("delta", "bad-2e60-values", header(&delta, &[huge])),
        Seed::new("delta", "bad-overflow", header(&delta, &[overflow])),
    ];
    for target in ["container", "delta", "samples", "training"] {
        all.push(Seed::new(target, "bad-header-of-2e62-bytes", long.clone()));
        all.push(Seed::new(target, "bad-deep-header", deep.clone()));
    }
    all
}
