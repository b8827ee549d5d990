//! The model that unit tests and tests over the wire share: a few hundred values, every parameter
//! role.

use lamplight_models::{
    model::{Model, ModelInfo},
    zoo::{Norm, TcnConfig, tcn},
};

/// A net for two channels of 8 samples and two classes, with parameters drawn from this seed.
pub(crate) fn model(seed: u64) -> Model {
    let config = TcnConfig {
        widths: vec![4],
        strides: vec![1],
        dilations: vec![1],
        kernel: 3,
        norm: Norm::Batch,
        ..TcnConfig::new(2, 8, 2)
    };
    let info = ModelInfo {
        architecture: "tcn".into(),
        input_mean: vec![0.0; 2],
        input_std: vec![1.0; 2],
        channels: vec![],
        sampling_rate_hz: Some(50.0),
        classes: vec!["quiet".into(), "loud".into()],
        ..ModelInfo::default()
    };
    Model::init(tcn(&config).unwrap(), info, seed).unwrap()
}
