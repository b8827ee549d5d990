//! `docs/model-file.md` lists every key of a model file with its type, and no other.

use std::collections::BTreeMap;
use std::io::Cursor;

use candle_core::quantized::gguf_file::{Content, Value};
use lamplight_models::image::{ImageRule, ValueRange};
use lamplight_models::model::{Model, ModelInfo};
use lamplight_models::quant::gguf;
use lamplight_models::zoo::{Norm, TcnConfig, resnet20, tcn};

const DOC: &str = include_str!("../../docs/model-file.md");

/// Keys and types of the page's table.
fn documented() -> BTreeMap<String, String> {
    let rows = DOC.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let columns: Vec<&str> = row.split('|').map(str::trim).collect();
        let [key, type_name, _unit, meaning, ""] = columns[..] else {
            panic!("a row is key, type, unit and meaning: {row}");
        };
        assert!(!meaning.is_empty(), "{key} has no meaning");
        (key.trim_end_matches('`').to_owned(), type_name.to_owned())
    })
    .collect()
}

fn type_of(value: &Value) -> String {
    match value {
        Value::U32(_) => "u32".into(),
        Value::U64(_) => "u64".into(),
        Value::F32(_) => "f32".into(),
        Value::F64(_) => "f64".into(),
        Value::String(_) => "string".into(),
        Value::Array(values) => format!("{} array", type_of(&values[0])),
        other => panic!("{other:?} is of a type no model file has"),
    }
}

/// Keys and types of a model's file, as another reader finds them.
fn written(model: &Model) -> BTreeMap<String, String> {
    let bytes = gguf::write(model).expect("a valid model");
    let content = Content::read(&mut Cursor::new(bytes)).expect("a GGUF file");
    let keys = content.metadata.iter().map(|(key, value)| {
        let key = match key.strip_prefix("lamplight.shape.") {
            Some(_) => "lamplight.shape.<tensor>",
            None => key,
        };
        (key.to_owned(), type_of(value))
    });
    keys.collect()
}

#[test]
fn the_page_lists_every_key_that_is_written_and_no_other() {
    let info = |channels: usize| ModelInfo {
        architecture: "any".into(),
        input_mean: vec![0.0; channels],
        input_std: vec![1.0; channels],
        channels: (0..channels).map(|c| format!("{c} [V]")).collect(),
        classes: vec!["a".into(), "b".into()],
        ..ModelInfo::default()
    };
    let windows = ModelInfo {
        sampling_rate_hz: Some(50.0),
        ..info(2)
    };
    let images = ModelInfo {
        image: Some(ImageRule::of_size(32, 32, ValueRange::Unit)),
        ..info(3)
    };
    let windows = Model::init(tcn(&TcnConfig::new(2, 8, 2)).expect("a graph"), windows, 1);
    let images = Model::init(resnet20(2, Norm::Batch).expect("a graph"), images, 1);
    let mut keys = written(&windows.expect("a model"));
    keys.extend(written(&images.expect("a model")));
    assert_eq!(documented(), keys);
}
