//! A demo on somebody's own samples: images in folders, CIFAR-10, IDX or tables, shared out over the nodes.

use std::io;

use anyhow::Context as _;
use lamplight_agent::source::{
    DataSpec, Keep, PoolFormat, PoolSpec, SampleSource as _, SourceError, SourceSpec, Split,
    pool::{Part, PoolSource, Set, Share},
    skew,
};
use lamplight_models::zoo::Architecture;
use lamplight_proto::offer::{NormMode, Optimizer, Schedule, Training};

use super::{
    Args,
    scenario::{NodePlan, Scenario},
};
use crate::pretrain::Recipe;

/// Share of the samples that the model is pretrained on, and that is no node's.
const CLOUD_SHARE: f64 = 0.4;
/// Samples a node has on average, of images: with four nodes a demo on them ends within minutes.
const IMAGES_A_NODE: u32 = 300;
/// Most samples of the data's own test set that releases are judged on.
const TEST_SAMPLES: usize = 1000;

fn training(args: &Args) -> Training {
    Training {
        epochs: args.epochs.unwrap_or(2),
        batch: 32,
        optimizer: Optimizer::AdamW {
            learning_rate: 0.001,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.05,
        },
        clip_norm: Some(1.0),
        schedule: Schedule::Constant,
        norm_mode: NormMode::Frozen,
        seed: args.seed,
        rotate_deg: 0.0,
        trainable: Default::default(),
    }
}

fn source(spec: PoolSpec, split: Split) -> SourceSpec {
    let keep = Keep {
        classes: None,
        split,
    };
    SourceSpec {
        data: DataSpec::Pool(Box::new(spec)),
        keep,
    }
}

/// The data's own test set, if it has one.
fn test_set(spec: &PoolSpec, seed: u64) -> Result<Option<SourceSpec>, SourceError> {
    if matches!(spec.format, PoolFormat::Csv(_)) || spec.set == Set::Test {
        return Ok(None);
    }
    let spec = PoolSpec {
        set: Set::Test,
        share: Share {
            seed,
            limit: Some(TEST_SAMPLES),
            ..Share::default()
        },
        ..spec.clone()
    };
    match PoolSource::open(&spec, Split::All) {
        Ok(_) => Ok(Some(source(spec, Split::All))),
        Err(SourceError::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Cloud and nodes share one pool; releases are judged on its test set where it has one.
pub(super) fn scenario(args: &Args, given: PoolSpec) -> anyhow::Result<Scenario> {
    anyhow::ensure!(
        given.share == Share::default(),
        "leave `part`, `parts`, `cloud`, `dirichlet`, `seed` and `limit` out of --data {}: \
         the demo shares samples out itself (see --nodes, --dirichlet, --seed and --samples)",
        args.data
    );
    anyhow::ensure!(
        args.dirichlet.is_none() || args.nodes > 1,
        "--dirichlet has no meaning for one node; take more --nodes"
    );
    let path = std::path::absolute(&given.path)?;
    let given = PoolSpec {
        path: path.display().to_string(),
        ..given
    };
    let images = !matches!(given.format, PoolFormat::Csv(_));
    let a_node = args.samples.or(images.then_some(IMAGES_A_NODE));
    let limit = a_node.map(|n| f64::from(n) * f64::from(args.nodes) / (1.0 - CLOUD_SHARE));
    let part = |part| PoolSpec {
        share: Share {
            part,
            parts: args.nodes,
            cloud: CLOUD_SHARE,
            dirichlet: args.dirichlet,
            seed: args.seed,
            limit: limit.map(|n| n.ceil() as usize),
        },
        ..given.clone()
    };

    let cloud = part(Part::Cloud);
    let opened = PoolSource::open(&cloud, Split::InTime)?;
    let about = opened.describe();
    let (train, _) = opened.counts();
    anyhow::ensure!(
        train > 0 && about.classes.len() > 1,
        "{} has {train} samples of {} classes to pretrain on; take data with two classes and more samples",
        given.path,
        about.classes.len()
    );
    let mut nodes = Vec::new();
    for i in 0..args.nodes {
        let mut spec = part(Part::Node(i));
        if let Some(k) = args.skew {
            let all = &about.classes;
            anyhow::ensure!(
                (1..=all.len()).contains(&k),
                "--skew {k}: there are {} classes",
                all.len()
            );
            let seen = skew::deal(i as usize, k, all.len()).into_iter();
            spec.classes = Some(seen.map(|c| all[c].clone()).collect());
        }
        let name = format!("node-{i}");
        let (train, held_out) = PoolSource::open(&spec, Split::InTime)
            .with_context(|| format!("the share of {name}"))?
            .counts();
        anyhow::ensure!(
            train > 0 && held_out > 0,
            "{name} would have {train} samples to train on and {held_out} held out; take more --samples, \
             fewer --nodes, or a larger --dirichlet"
        );
        nodes.push(NodePlan {
            name,
            source: source(spec, Split::InTime),
        });
    }
    let unseen = test_set(&given, args.seed)?;
    let cloud = source(cloud, Split::InTime);
    let what = path.file_name().unwrap_or(path.as_os_str());
    let how = match args.dirichlet {
        Some(alpha) => format!("by Dirichlet({alpha})"),
        None => "evenly".to_owned(),
    };
    Ok(Scenario {
        title: format!(
            "{} nodes share {} {how}",
            args.nodes,
            what.to_string_lossy()
        ),
        evaluation: unseen.clone().unwrap_or_else(|| cloud.clone()),
        cloud,
        nodes,
        unseen,
        unseen_name: "the test set, which nobody trained on",
        recipe: Recipe {
            architecture: if images {
                Architecture::ResNet20
            } else {
                Architecture::Tcn
            },
            epochs: if images { 20 } else { 30 },
            // Nothing else runs meanwhile, and products of images are worth splitting.
            threads: if images { 2 } else { 1 },
            seed: args.seed,
            ..Recipe::default()
        },
        training: training(args),
    })
}
