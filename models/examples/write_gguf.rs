//! Writes a freshly drawn temporal convolution net as a GGUF file, and beside it the values every
//! reader must get, so that other readers can be compared with ours.
//!
//! ```text
//! cargo run -p lamplight-models --example write_gguf -- /tmp/tcn.gguf
//! python models/tests/python_gguf.py /tmp/tcn.gguf /tmp/tcn.gguf.f32
//! ```
//!
//! `PATH.f32` holds the dequantized values of all tensors, little-endian F32, row-major in their
//! true shapes, one tensor after the other in the order of their names.

use std::error::Error;
use std::path::PathBuf;

use lamplight_models::container::f32_bytes;
use lamplight_models::model::{Model, ModelInfo, values};
use lamplight_models::quant::requantize;
use lamplight_models::zoo::{Norm, TcnConfig, tcn};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: write_gguf PATH")?;
    let path = PathBuf::from(path);
    let mut config = TcnConfig::new(6, 128, 6);
    // Batch norm, so that the file has a tensor of every role.
    config.norm = Norm::Batch;
    let axes = |what: &str, unit: &str| ["x", "y", "z"].map(|a| format!("{what}_{a} [{unit}]"));
    let info = ModelInfo {
        architecture: "tcn".into(),
        input_mean: vec![0.8, 0.0, 0.1, 0.0, 0.0, 0.0],
        input_std: vec![0.4, 0.4, 0.3, 1.0, 1.0, 1.0],
        channels: [axes("acc", "g"), axes("gyro", "rad/s")].concat(),
        sampling_rate_hz: Some(50.0),
        classes: [
            "walking",
            "upstairs",
            "downstairs",
            "sitting",
            "standing",
            "laying",
        ]
        .map(String::from)
        .into(),
        ..ModelInfo::default()
    };
    let out = requantize(&Model::init(tcn(&config)?, info, 2026)?)?;
    std::fs::write(&path, &out.bytes)?;
    let mut expected = Vec::new();
    for (name, tensor) in &out.model.params {
        expected.extend(f32_bytes(&values(name, tensor)?));
    }
    let mut beside = path.into_os_string();
    beside.push(".f32");
    std::fs::write(beside, expected)?;
    Ok(())
}
