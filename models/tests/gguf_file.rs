//! Model files: the round trip is the identity, other readers agree, hostile bytes are refused.

use std::io::Cursor;

use candle_core::Device;
use candle_core::quantized::gguf_file;
use lamplight_models::image::{ImageRule, Resize, ValueRange};
use lamplight_models::model::{Model, ModelInfo, values};
use lamplight_models::ops::ParamRole;
use lamplight_models::quant::gguf::{self, GgufError};
use lamplight_models::quant::requantize;
use lamplight_models::zoo::{GruConfig, Norm, TcnConfig, gru, resnet20, tcn};
use proptest::prelude::*;

fn info(architecture: &str, channels: usize, classes: usize) -> ModelInfo {
    ModelInfo {
        architecture: architecture.into(),
        input_mean: (0..channels).map(|c| 0.1 * c as f32).collect(),
        input_std: (0..channels).map(|c| 0.3 + c as f32).collect(),
        channels: (0..channels).map(|c| format!("acc_{c} [m/s²]")).collect(),
        sampling_rate_hz: Some(50.0),
        classes: (0..classes).map(|c| format!("class {c}")).collect(),
        ..ModelInfo::default()
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

fn gru_model(seed: u64) -> Model {
    let config = GruConfig {
        layers: 2,
        ..GruConfig::new(6, 128, 6)
    };
    let graph = gru(&config).expect("a valid configuration");
    Model::init(graph, info("gru", 6, 6), seed).expect("a valid model")
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

/// ResNet-20 that takes images of any size.
fn image_model(resize: Resize, range: ValueRange) -> Model {
    let info = ModelInfo {
        input_name: "photo".into(),
        output_name: "scores".into(),
        channels: ["red", "green", "blue"].map(String::from).into(),
        sampling_rate_hz: None,
        image: Some(ImageRule { resize, range }),
        ..info("resnet20", 3, 10)
    };
    let graph = resnet20(10, Norm::Batch).expect("a graph");
    Model::init(graph, info, 5).expect("a valid model")
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
        gru_model(4),
        Model::init(resnet, images, 3).unwrap(),
        image_model(Resize::ShortestSide(40), ValueRange::Unit),
        image_model(Resize::Stretch, ValueRange::Byte),
        image_model(Resize::None, ValueRange::Unit),
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
    for model in [tcn_model(4, Norm::Batch), gru_model(5)] {
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

#[test]
fn a_file_from_before_descriptions_is_read_with_defaults_and_keeps_its_bytes() {
    let old = include_bytes!("files/before-descriptions.gguf");
    let model = gguf::read(old).unwrap();
    let want = ModelInfo {
        description_version: 0,
        ..info("tcn", 2, 2)
    };
    assert_eq!(model.info, want);
    assert_eq!(model.info.input_name, "input");
    assert!(model.image_input().unwrap().is_none());
    assert!(
        gguf::write(&model).unwrap() == old,
        "written with other bytes"
    );
    // Said anew, it is a file of today.
    let mut model = model;
    model.info.description_version = ModelInfo::default().description_version;
    assert!(
        gguf::write(&model).unwrap() == small_file(),
        "other than a file of today"
    );
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A key with a string, as in a file.
fn string(key: &str, value: &str) -> Vec<u8> {
    [text(key), 8_u32.to_le_bytes().to_vec(), text(value)].concat()
}

#[test]
fn words_of_a_description_that_are_not_known_are_refused_by_name() {
    let images = gguf::write(&image_model(Resize::ShortestSide(40), ValueRange::Unit)).unwrap();
    let windows = small_file();
    let cases = [
        (
            &images,
            "lamplight.image.resize",
            "shortest-side",
            "shortest-edge",
        ),
        (&images, "lamplight.image.filter", "bilinear", "bicubics"),
        (&images, "lamplight.image.crop", "center", "corner"),
        (&images, "lamplight.image.range", "0-1", "0-9"),
        (&images, "lamplight.input.layout", "CHW", "HWC"),
        (&windows, "lamplight.input.layout", "CT", "TC"),
        (&windows, "lamplight.input.dtype", "f32", "f16"),
    ];
    for (file, key, from, to) in cases {
        let spoiled = replaced(file, &string(key, from), &string(key, to));
        let e = gguf::read(&spoiled).unwrap_err().to_string();
        assert!(e.contains(key) && e.contains(to), "{e}");
        assert!(e.contains(from) || e.contains("knows `"), "{e}");
    }
    // Numbers.
    let number = |key: &str, n: u32| {
        [
            text(key),
            4_u32.to_le_bytes().to_vec(),
            n.to_le_bytes().to_vec(),
        ]
        .concat()
    };
    let set = |key: &str, from: u32, to: u32| {
        gguf::read(&replaced(&images, &number(key, from), &number(key, to)))
            .unwrap_err()
            .to_string()
    };
    let key = "lamplight.description_version";
    assert!(set(key, 1, 2).contains("version 2, this program knows up to 1"));
    assert!(set(key, 1, 0).contains(key));
    let side = "lamplight.image.resize_side";
    assert!(set(side, 40, 31).contains("31 pixels"));
    assert!(set(side, 40, u32::MAX).contains("4294967295 pixels"));
    // A shape that is not the graph's.
    let shape = |length: u64| {
        let head = [
            text("lamplight.input.shape"),
            9_u32.to_le_bytes().to_vec(),
            10_u32.to_le_bytes().to_vec(),
        ];
        [
            head.concat(),
            [2_u64, 2, length].map(u64::to_le_bytes).concat(),
        ]
        .concat()
    };
    let e = gguf::read(&replaced(&windows, &shape(8), &shape(9))).unwrap_err();
    assert!(
        e.to_string().contains("must be [2, 8], as in the graph"),
        "{e}"
    );
}

#[test]
fn keys_of_a_description_are_all_there_or_none() {
    let images = gguf::write(&image_model(Resize::ShortestSide(40), ValueRange::Unit)).unwrap();
    let hidden = |key: &str| {
        let mut other = key.to_owned();
        other.pop();
        other.push('~');
        gguf::read(&replaced(&images, key.as_bytes(), other.as_bytes()))
            .unwrap_err()
            .to_string()
    };
    for key in [
        "lamplight.input.name",
        "lamplight.input.shape",
        "lamplight.input.layout",
        "lamplight.input.dtype",
        "lamplight.output.name",
        "lamplight.image.resize_side",
        "lamplight.image.filter",
        "lamplight.image.crop",
        "lamplight.image.range",
    ] {
        assert_eq!(hidden(key), format!("metadata `{key}` is missing"));
    }
    let e = hidden("lamplight.description_version");
    assert!(
        e.contains("`lamplight.description_version` is missing"),
        "{e}"
    );
    // One byte of the key of `resize` stands in `resize_side`, too: hide both ends.
    let from = [b"lamplight.image.resize".as_slice(), &8_u32.to_le_bytes()].concat();
    let to = [b"lamplight.image.resiz~".as_slice(), &8_u32.to_le_bytes()].concat();
    let e = gguf::read(&replaced(&images, &from, &to))
        .unwrap_err()
        .to_string();
    assert!(e.contains("`lamplight.image.resize` is missing"), "{e}");
    // A side beside a rule that has none; six letters move, so that tensors stay where they are.
    let mut stretched = images.clone();
    for (key, from, to) in [
        ("lamplight.image.resize", "shortest-side", "stretch"),
        ("lamplight.architecture", "resnet20", "resnet20-other"),
    ] {
        let from = string(key, from);
        let at = stretched.windows(from.len()).position(|w| w == from);
        let at = at.expect("the file holds it");
        stretched.splice(at..at + from.len(), string(key, to));
    }
    let e = gguf::read(&stretched).unwrap_err().to_string();
    assert!(e.contains("only `shortest-side` has one"), "{e}");
}
