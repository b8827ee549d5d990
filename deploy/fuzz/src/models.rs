//! Files of the crate `models`: model files, graphs, containers, deltas, samples, saved training.

use std::io::Cursor;
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use lamplight_coordinator::aggregate::{InspectError, inspect};
use lamplight_models::container::{self, Header};
use lamplight_models::delta::{self, Delta, DeltaError, Reader, TensorEntry, TensorTable};
use lamplight_models::graph::{Checked, Graph};
use lamplight_models::lane::{CpuLane, Lane};
use lamplight_models::model::{Model, ModelInfo};
use lamplight_models::ops::{Cost, NormMode};
use lamplight_models::quant::gguf as format;
use lamplight_models::samples::Samples;
use lamplight_models::train::{
    Augment, OptimizerConfig, Precision, Schedule, TrainConfig, Trainable, Trainer, predict,
};
use safetensors::SafeTensors;

use crate::Answer;
use crate::memory::within;
use crate::seeds::models::small_model;

/// Bytes of memory per byte of a table in JSON: an entry's names, numbers and places.
const JSON: u64 = 128;
/// Bytes of memory per byte of values: as they are, as numbers, and once more while they are checked.
const VALUES: u64 = 16;
/// Longest header of a container that is tried: the largest limit of its readers.
const HEADER: u64 = 16 << 20;

/// Valid graphs are executed when they need no more than this, so that inputs stay quick.
const MAX_FLOP: u64 = 1 << 20;
const MAX_RUN_VALUES: u64 = 1 << 14;
const MAX_CLASSES: usize = 64;

/// See [`crate::TARGETS`].
pub fn gguf(input: &[u8]) -> Answer {
    let read = within(input.len(), JSON, || format::read(input));
    let answer = Answer::of(&read);
    if let Ok(model) = read {
        let checked = model.check().expect("what is read is valid");
        cost(&checked);
        let params = model.parameter_count();
        assert_eq!(params, delta::value_count(&delta::table(&model)));
        let again = format::write(&model).expect("what is read can be written");
        let back = format::read(&again).expect("what is written can be read");
        assert_eq!((&back.graph, &back.info), (&model.graph, &model.info));
        let twice = format::write(&back).expect("it can be written again");
        assert_eq!(again, twice, "one model has one file");
    }
    answer
}

/// See [`crate::TARGETS`].
pub fn graph(input: &[u8]) -> Answer {
    let parsed = within(input.len(), JSON, || {
        let graph: Graph = serde_json::from_slice(input).ok()?;
        let checked = graph.check().ok()?;
        Some((graph, checked))
    });
    let Some((graph, checked)) = parsed else {
        return Answer::Refused;
    };
    let cost = cost(&checked);
    if is_small(&checked, &cost) {
        execute(graph, &checked);
    }
    Answer::Accepted
}

fn cost(graph: &Checked) -> Cost {
    let each = graph.nodes.iter().zip(&graph.sources);
    each.map(|(node, sources)| {
        let inputs: Vec<_> = sources.iter().map(|&s| graph.shape(s)).collect();
        node.op.cost(&inputs).expect("shapes were checked")
    })
    .sum()
}

/// Whether a step takes little time and memory.
fn is_small(graph: &Checked, cost: &Cost) -> bool {
    let product = |shape: &[usize]| {
        let all = shape.iter().map(|&d| d as u64);
        all.fold(1_u64, u64::saturating_mul)
    };
    let activations = graph.shapes.iter().map(|s| product(s));
    let params = graph.params().map(|(_, spec)| product(&spec.shape));
    let input = product(&graph.input);
    let values = activations.chain(params).fold(input, u64::saturating_add);
    let one_class_each = matches!(graph.shapes[graph.output][..], [1..=MAX_CLASSES]);
    one_class_each && values <= MAX_RUN_VALUES && cost.step_flop() <= MAX_FLOP
}

/// A step of training and an answer: no valid graph may panic, and an answer has a logit per class.
fn execute(graph: Graph, checked: &Checked) {
    let channels = checked.input[0];
    let classes = checked.shapes[checked.output][0];
    let info = ModelInfo {
        architecture: "fuzzed".into(),
        input_mean: vec![0.5; channels],
        input_std: vec![2.0; channels],
        channels: Vec::new(),
        sampling_rate_hz: None,
        classes: (0..classes).map(|c| format!("class {c}")).collect(),
        ..ModelInfo::default()
    };
    let samples = samples_for(checked, &info.classes);
    let Ok(model) = Model::init(graph, info, 1) else {
        return;
    };
    let lane: Arc<dyn Lane> = Arc::new(CpuLane::new(1));
    let runs = [
        (Trainable::All, NormMode::Train),
        (Trainable::All, NormMode::Frozen),
        (Trainable::Head, NormMode::Frozen),
        (Trainable::Bias, NormMode::Frozen),
        (Trainable::Norm, NormMode::Train),
    ];
    for (trainable, norm_mode) in runs {
        let config = TrainConfig {
            trainable,
            norm_mode,
            ..settings()
        };
        let run = Trainer::new(model.clone(), config, Arc::clone(&lane));
        // A graph without such a parameter, or with a value that overflows, is refused.
        if let Ok(mut run) = run {
            let done = run.epoch(&samples, &mut |_| ControlFlow::Continue(()));
            if done.is_ok() {
                run.into_model()
                    .check()
                    .expect("a good step leaves a valid model");
            }
        }
    }
    if let Ok(logits) = predict(&model, &samples, &*lane) {
        assert_eq!(logits.len(), samples.len() * classes);
    }
}

fn samples_for(graph: &Checked, classes: &[String]) -> Samples {
    let values: usize = graph.input.iter().product();
    let count = 3;
    Samples {
        shape: graph.input.clone(),
        x: (0..count * values).map(|i| (i % 7) as f32 - 3.0).collect(),
        y: (0..count).map(|i| (i % classes.len()) as u32).collect(),
        classes: classes.to_vec(),
    }
}

/// Settings of the runs here: two steps of one epoch.
pub(crate) fn settings() -> TrainConfig {
    TrainConfig {
        trainable: Trainable::All,
        epochs: 1,
        batch: 2,
        optimizer: OptimizerConfig::AdamW {
            learning_rate: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
        },
        clip_norm: Some(1.0),
        schedule: Schedule::Constant,
        norm_mode: NormMode::Train,
        augment: Augment::default(),
        precision: Precision::default(),
        seed: 1,
    }
}

/// See [`crate::TARGETS`].
pub fn container(input: &[u8]) -> Answer {
    let read = within(input.len(), JSON, || {
        let (json, data) = container::split(input, HEADER).ok()?;
        let header = Header::parse(json).ok()?;
        (header.data_bytes == data.len() as u64).then_some(header)
    });
    let Some(header) = read else {
        return Answer::Refused;
    };
    for pair in header.entries.windows(2) {
        assert_eq!(pair[0].end, pair[1].start);
    }
    let theirs = SafeTensors::deserialize(input).expect("the crate is no stricter");
    assert_eq!(theirs.len(), header.entries.len());
    for entry in &header.entries {
        let tensor = theirs.tensor(&entry.name).expect("the same names");
        assert_eq!(tensor.shape(), entry.shape);
        assert_eq!(tensor.data().len() as u64, entry.end - entry.start);
    }
    Answer::Accepted
}

/// What deltas against the small model must hold.
static TABLE: LazyLock<TensorTable> = LazyLock::new(|| delta::table(&small_model(1)));

/// See [`crate::TARGETS`].
pub fn delta(input: &[u8]) -> Answer {
    let whole = within(input.len(), JSON, || Delta::from_bytes(input));
    let streamed = within(input.len(), JSON, || stream(input, &TABLE));
    let inspected = within(input.len(), JSON, || inspect(Cursor::new(input), &TABLE));
    match (&streamed, &inspected) {
        (Ok(norm), Ok(inspected)) => assert_eq!(norm.to_bits(), inspected.norm_l2.to_bits()),
        (Ok(_), Err(e)) => assert!(matches!(e, InspectError::TooLarge { .. }), "{e}"),
        (Err(_), inspected) => assert!(inspected.is_err()),
    }
    if let Ok(whole) = &whole {
        let back = Delta::from_bytes(&whole.to_bytes()).expect("what is written is read");
        assert_eq!(&back, whole);
        // Against its own table the reader finds the same values.
        let own: TensorTable = whole
            .tensors
            .iter()
            .map(|(name, (shape, _))| TensorEntry {
                name: name.clone(),
                shape: shape.clone(),
            })
            .collect();
        let norm = stream(&whole.to_bytes(), &own);
        assert_eq!(norm, Ok(whole.norm_l2()));
    } else {
        assert!(streamed.is_err(), "no reader takes what another refuses");
    }
    Answer::of(&inspected)
}

fn stream(file: &[u8], table: &[TensorEntry]) -> Result<f64, DeltaError> {
    Reader::open(Cursor::new(file), table)?.norm_l2()
}

/// See [`crate::TARGETS`].
pub fn samples(input: &[u8]) -> Answer {
    let read = within(input.len(), JSON, || Samples::from_bytes(input));
    let answer = Answer::of(&read);
    if let Ok(samples) = read {
        let bytes = samples.to_bytes().expect("what is read is valid");
        let back = Samples::from_bytes(&bytes).expect("what is written is read");
        assert_eq!(back, samples);
    }
    answer
}

/// See [`crate::TARGETS`].
pub fn training(input: &[u8]) -> Answer {
    static BASE: LazyLock<Model> = LazyLock::new(|| small_model(1));
    let resume = |saved: &[u8]| {
        let lane = Arc::new(CpuLane::new(1));
        Trainer::resume(BASE.clone(), settings(), lane, saved)
    };
    let resumed = within(input.len(), JSON + VALUES, || resume(input));
    let answer = Answer::of(&resumed);
    if let Ok(run) = resumed {
        let saved = run.save().expect("what is resumed can be saved");
        let again = resume(&saved).expect("what is saved can be resumed");
        assert_eq!(again.save().expect("it can be saved again"), saved);
    }
    answer
}
