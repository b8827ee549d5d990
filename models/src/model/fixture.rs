//! Models that tests of this crate share.

use super::{Model, ModelInfo};
use crate::image::{ImageRule, ValueRange};
use crate::zoo::{Norm, TcnConfig, resnet20, tcn};

/// A valid description of `channels` sensor channels and `classes` classes.
pub(crate) fn info(channels: usize, classes: usize) -> ModelInfo {
    ModelInfo {
        architecture: "tcn".into(),
        input_mean: (0..channels).map(|c| 0.1 * c as f32 - 0.3).collect(),
        input_std: (0..channels).map(|c| 0.7 + c as f32).collect(),
        channels: (0..channels).map(|c| format!("acc_{c} [g]")).collect(),
        sampling_rate_hz: Some(50.0),
        classes: (0..classes).map(|c| format!("class {c}")).collect(),
        ..ModelInfo::default()
    }
}

/// ResNet-20 for ten classes of images, with a rule for images of any size.
pub(crate) fn image_model(seed: u64) -> Model {
    let info = ModelInfo {
        architecture: "resnet20".into(),
        input_mean: vec![0.5; 3],
        input_std: vec![0.25; 3],
        channels: ["red", "green", "blue"]
            .map(|c| format!("{c} [0-1]"))
            .into(),
        image: Some(ImageRule::of_size(32, 32, ValueRange::Unit)),
        classes: (0..10).map(|c| format!("class {c}")).collect(),
        ..ModelInfo::default()
    };
    Model::init(resnet20(10, Norm::Batch).unwrap(), info, seed).unwrap()
}

/// The usual temporal convolution net: 3 channels, 32 samples, 4 classes.
pub(crate) fn tcn_model(seed: u64) -> Model {
    let graph = tcn(&TcnConfig::new(3, 32, 4)).unwrap();
    Model::init(graph, info(3, 4), seed).unwrap()
}

/// A net of a few hundred bytes with every parameter role, for tests over all bytes of a file.
pub(crate) fn small_model(seed: u64) -> Model {
    let config = TcnConfig {
        widths: vec![4],
        strides: vec![1],
        dilations: vec![1],
        kernel: 3,
        norm: Norm::Batch,
        ..TcnConfig::new(2, 8, 2)
    };
    Model::init(tcn(&config).unwrap(), info(2, 2), seed).unwrap()
}
