//! Model files: the round trip is the identity, other readers agree, hostile bytes are refused.

use std::io::Cursor;

use candle_core::Device;
use candle_core::quantized::gguf_file;
use lamplight_models::model::{Model, ModelInfo, values};
use lamplight_models::ops::ParamRole;
use lamplight_models::quant::gguf::{self, GgufError};
use lamplight_models::quant::requantize;
use lamplight_models::zoo::{Norm, TcnConfig, resnet20, tcn};
use proptest::prelude::*;

fn info(architecture: &str, channels: usize, classes: usize) -> ModelInfo {
    ModelInfo {
        architecture: architecture.into(),
        input_mean: (0..channels).map(|c| 0.1 * c as f32).collect(),
        input_std: (0..channels).map(|c| 0.3 + c as f32).collect(),
        channels: (0..channels).map(|c| format!("acc_{c} [m/s²]")).collect(),
        sampling_rate_hz: Some(50.0),
        classes: (0..classes).map(|c| format!("class {c}")).collect(),
    }
}

fn tcn_model(seed: u64, norm: Norm) -> Model {
    let mut config = TcnConfig::new(6, 128, 6);
    config.norm = norm;
    Model::init(
        tcn(&config).expect("a valid configuration"),
        info("tcn", 6, 6),
        seed,
    )
    .expect("a valid model")
}

/// A file of a few kilobytes, so that tests may touch each of its bytes.
fn small_file() -> Vec<u8> {
    let config = TcnConfig {
        widths: vec![2],
        strides: vec![1],
        dilations: vec![1],
        kernel: 3,
        norm: Norm::Batch,
        ..TcnConfig::new(2, 8, 2)
    };
    let model = Model::init(
        tcn(&config).expect("a valid configuration"),
        info("tcn", 2, 2),
        1,
    )
    .expect("a valid model");
    gguf::write(&model).expect("a valid model")
}

fn bits(model: &Model, name: &str) -> Vec<u32> {
    let values = values(name, &model.params[name]).expect("F32 values");
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn a_file_read_and_written_again_has_the_same_bytes() {
    let mut images = info("resnet20", 3, 10);
    images.channels.clear();
    images.sampling_rate_hz = None;
    let resnet = resnet20(10, Norm::Batch).unwrap();
    let models = [
        tcn_model(1, Norm::Batch),
        tcn_model(2, Norm::Group { groups: 8 }),
        Model::init(resnet, images, 3).unwrap(),
    ];
    for model in models {
        let bytes = gguf::write(&model).unwrap();
        assert_eq!(
            gguf::write(&model).unwrap(),
            bytes,
            "writing is deterministic"
        );
        let back = gguf::read(&bytes).unwrap();
        assert_eq!(back.graph, model.graph);
        assert_eq!(back.info, model.info);
        for (name, spec) in model.roles() {
            if spec.role != ParamRole::Weight {
                assert_eq!(bits(&back, &name), bits(&model, &name), "`{name}`");
            }
        }
        assert!(
            gguf::write(&back).unwrap() == bytes,
            "the second file differs"
        );
    }
}

#[test]
fn a_quantized_model_is_a_quarter_of_its_f32_size() {
    let model = tcn_model(1, Norm::Batch);
    let bytes = gguf::write(&model).unwrap().len();
    assert!(bytes < model.parameter_count() * 4 * 2 / 5, "{bytes} bytes");
}

#[test]
fn candle_reads_the_same_values() {
    let model = tcn_model(4, Norm::Batch);
    let out = requantize(&model).unwrap();
    let mut reader = Cursor::new(&out.bytes);
    let content = gguf_file::Content::read(&mut reader).unwrap();
    assert_eq!(content.tensor_infos.len(), model.params.len());
    for (name, spec) in model.roles() {
        let tensor = content.tensor(&mut reader, &name, &Device::Cpu).unwrap();
        let mut tensor = tensor.dequantize(&Device::Cpu).unwrap();
        if spec.role == ParamRole::Weight {
            let columns: usize = spec.shape[1..].iter().product();
            tensor = tensor.narrow(1, 0, columns).unwrap();
        }
        let tensor = tensor.contiguous().unwrap().flatten_all().unwrap();
        let theirs: Vec<u32> = tensor
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .map(|v| v.to_bits())
            .collect();
        assert_eq!(theirs, bits(&out.model, &name), "`{name}`");
    }
    let classes = content.metadata["lamplight.classes"].to_vec().unwrap();
    assert_eq!(classes[5].to_string().unwrap(), "class 5");
}

#[test]
fn every_truncation_is_refused() {
    let file = small_file();
    gguf::read(&file).unwrap();
    for end in 0..file.len() {
        assert!(
            gguf::read(&file[..end]).is_err(),
            "{end} of {} bytes were accepted",
            file.len()
        );
    }
    let mut longer = file;
    longer.push(0);
    assert!(matches!(gguf::read(&longer), Err(GgufError::Length { .. })));
}

#[test]
fn no_single_flipped_bit_panics_and_what_is_still_read_is_a_valid_model() {
    let file = small_file();
    let mut accepted = 0;
    for at in 0..file.len() {
        for bit in 0..8 {
            let mut spoiled = file.clone();
            spoiled[at] ^= 1 << bit;
            if let Ok(model) = gguf::read(&spoiled) {
                model.check().unwrap();
                accepted += 1;
            }
        }
    }
    // Weights, statistics and class names are free to differ; structure is not.
    assert!(
        accepted < file.len() * 8 / 2,
        "{accepted} flips of {} accepted",
        file.len() * 8
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn spliced_numbers_never_panic(at in any::<prop::sample::Index>(), value in prop_oneof![
        Just(u64::MAX), Just(1 << 63), Just(1 << 31), Just(1 << 24), Just(0), any::<u64>()
    ]) {
        let mut file = small_file();
        let at = at.index(file.len() - 8);
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
        if let Ok(model) = gguf::read(&file) {
            prop_assert!(model.check().is_ok());
        }
    }

    #[test]
    fn random_bytes_behind_a_valid_head_never_panic(tail in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut file = small_file()[..24].to_vec();
        file.extend(tail);
        prop_assert!(gguf::read(&file).is_err());
    }
}

/// The same file with one piece replaced by another of the same length.
fn replaced(file: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = file
        .windows(from.len())
        .position(|w| w == from)
        .expect("the file holds it");
    let mut file = file.to_vec();
    file[at..at + to.len()].copy_from_slice(to);
    file
}

#[test]
fn refusals_name_what_is_wrong() {
    let file = small_file();
    let mut other = file.clone();
    other[0] = b'X';
    assert!(matches!(gguf::read(&other), Err(GgufError::Magic(_))));
    let mut other = file.clone();
    other[4] = 2;
    assert!(matches!(
        gguf::read(&other),
        Err(GgufError::ContainerVersion { got: 2, want: 3 })
    ));

    let message = |from: &str, to: &str| {
        gguf::read(&replaced(&file, from.as_bytes(), to.as_bytes()))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        message("lamplight.classes", "lamplight.clothes"),
        "metadata `lamplight.classes` is missing"
    );
    assert!(message("\"out_channels\":2", "\"out_channels\":3").contains("channels"));
    assert_eq!(
        message("class 1", "class 0"),
        "class name `class 0` is used twice"
    );

    let key = [b"lamplight.format_version".as_slice(), &4_u32.to_le_bytes()].concat();
    let from = [key.as_slice(), &1_u32.to_le_bytes()].concat();
    let to = [key.as_slice(), &2_u32.to_le_bytes()].concat();
    assert_eq!(
        gguf::read(&replaced(&file, &from, &to)).unwrap_err(),
        GgufError::FormatVersion { got: 2, want: 1 }
    );
}
