//! `lamplight model`: pretrain, show, push and list models.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Subcommand;
use lamplight_agent::source::SourceSpec;
use lamplight_models::{
    image::{ImageInput, Resize},
    model::{Channel, Model, layout},
    quant::gguf,
};
use lamplight_proto::{ids::Digest, ids::ModelName, keys, wire};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    operator::Connection,
    output::{self, Format, OrHint as _},
    pretrain::{self, Recipe},
    view,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a model from scratch on "cloud" data and write it quantized
    #[command(after_help = "Example:\n  lamplight model pretrain --source \
        'builtin:post?post=cloud' --out post.gguf")]
    Pretrain(Pretrain),
    /// Show a model file: what goes in and comes out, layers, shapes, parameters, cost
    #[command(after_help = "Example:\n  lamplight model show post.gguf\n\n\
        docs/model-file.md tells what each line means.")]
    Show(Show),
    /// Upload a model file and make it the next release
    #[command(after_help = "Example:\n  lamplight model push post.gguf --model post")]
    Push(Push),
    /// List the models that have releases
    #[command(after_help = "Example:\n  lamplight model list")]
    List(List),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Pretrain {
    /// Where the samples come from, e.g. builtin:post?post=cloud or hapt:DIR?subjects=5,9
    #[arg(long, value_name = "SOURCE")]
    source: SourceSpec,
    /// The model file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    recipe: Recipe,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// A GGUF model file
    file: PathBuf,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Push {
    /// A GGUF model file
    file: PathBuf,
    /// The model it becomes a release of
    #[arg(long)]
    model: ModelName,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Pretrained {
    file: PathBuf,
    digest: Digest,
    bytes: usize,
    parameters: usize,
    train_samples: usize,
    held_out_samples: usize,
    /// Of the quantized model, on held-out samples of the same source.
    held_out_accuracy: Option<f64>,
}

#[derive(Serialize, JsonSchema)]
struct Layer {
    name: String,
    kind: &'static str,
    output: Vec<usize>,
    parameters: usize,
    forward_flop: u64,
    training_flop: u64,
}

/// One channel of the input; the same for all where the file names none.
#[derive(Serialize, JsonSchema)]
struct ShownChannel {
    name: Option<String>,
    unit: Option<String>,
    /// In the unit; subtracted first.
    mean: f32,
    /// In the unit; divided by.
    std: f32,
}

#[derive(Serialize, JsonSchema)]
struct ShownImage {
    /// none, shortest-side or stretch.
    resize: &'static str,
    /// Length of the shorter side after scaling, pixels.
    resize_side: Option<u32>,
    /// Height and width of the middle that is kept, pixels.
    crop: [usize; 2],
    /// What bytes become, before mean and deviation.
    range: &'static str,
    #[serde(skip)]
    words: String,
}

#[derive(Serialize, JsonSchema)]
struct ShownInput {
    name: String,
    /// Of one sample.
    shape: Vec<usize>,
    layout: &'static str,
    dtype: &'static str,
    channels: Vec<ShownChannel>,
    sampling_rate_hz: Option<f64>,
    image: Option<ShownImage>,
}

#[derive(Serialize, JsonSchema)]
struct ShownOutput {
    name: String,
    /// In the order of the logits.
    classes: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Shown {
    digest: Digest,
    bytes: usize,
    architecture: String,
    /// 0 for a file from before descriptions.
    description_version: u32,
    input: ShownInput,
    output: ShownOutput,
    parameters: usize,
    /// Per sample.
    forward_flop: u64,
    /// Per sample: forward and both gradients.
    training_flop: u64,
    layers: Vec<Layer>,
}

fn shown_image(input: &ImageInput) -> ShownImage {
    let rule = input.rule();
    let [_, height, width] = input.shape();
    ShownImage {
        resize: rule.resize.word(),
        resize_side: match rule.resize {
            Resize::ShortestSide(side) => Some(side),
            Resize::None | Resize::Stretch => None,
        },
        crop: [height, width],
        range: rule.range.word(),
        words: rule.to_string(),
    }
}

fn shown_input(model: &Model) -> anyhow::Result<ShownInput> {
    let info = &model.info;
    let shape = model.graph.input.clone();
    let channels = (info.input_mean.iter().zip(&info.input_std).enumerate())
        .map(|(i, (&mean, &std))| {
            let channel = info
                .channels
                .get(i)
                .map(|c| Channel::parse(c))
                .transpose()?;
            Ok(ShownChannel {
                name: channel.map(|c| c.name.to_owned()),
                unit: channel.and_then(|c| c.unit).map(str::to_owned),
                mean,
                std,
            })
        })
        .collect::<anyhow::Result<_>>()?;
    Ok(ShownInput {
        name: info.input_name.clone(),
        layout: layout(&shape),
        dtype: "f32",
        channels,
        sampling_rate_hz: info.sampling_rate_hz,
        image: model.image_input()?.as_ref().map(shown_image),
        shape,
    })
}

fn describe(model: &Model, file: &[u8]) -> anyhow::Result<Shown> {
    let graph = model.check()?;
    let layers: Vec<Layer> = graph
        .nodes
        .iter()
        .zip(&graph.sources)
        .zip(&graph.shapes)
        .map(|((node, sources), shape)| {
            let inputs: Vec<_> = sources.iter().map(|&s| graph.shape(s)).collect();
            let cost = node.op.cost(&inputs)?;
            Ok(Layer {
                name: node.name.clone(),
                kind: node.op.kind(),
                output: shape.clone(),
                parameters: node
                    .op
                    .params()
                    .iter()
                    .map(|p| p.shape.iter().product::<usize>())
                    .sum(),
                forward_flop: cost.forward_flop,
                training_flop: cost.step_flop(),
            })
        })
        .collect::<anyhow::Result<_>>()?;
    let total = |of: fn(&Layer) -> u64| layers.iter().map(of).fold(0, u64::saturating_add);
    Ok(Shown {
        digest: Digest::of(file),
        bytes: file.len(),
        architecture: model.info.architecture.clone(),
        description_version: model.info.description_version,
        input: shown_input(model)?,
        output: ShownOutput {
            name: model.info.output_name.clone(),
            classes: model.info.classes.clone(),
        },
        parameters: layers.iter().map(|l| l.parameters).sum(),
        // A hostile file may claim any cost.
        forward_flop: total(|l| l.forward_flop),
        training_flop: total(|l| l.training_flop),
        layers,
    })
}

fn shape(dimensions: &[usize]) -> String {
    let text: Vec<String> = dimensions.iter().map(ToString::to_string).collect();
    text.join(" x ")
}

fn count(n: u64) -> String {
    indicatif::HumanCount(n).to_string()
}

fn details(s: &Shown) -> String {
    let mut table = output::table([
        "layer",
        "operator",
        "output",
        "parameters",
        "forward FLOP",
        "training FLOP",
    ]);
    for l in &s.layers {
        table.add_row([
            l.name.clone(),
            l.kind.to_owned(),
            shape(&l.output),
            count(l.parameters as u64),
            count(l.forward_flop),
            count(l.training_flop),
        ]);
    }
    let mut channels = output::table(["channel", "unit", "mean", "deviation"]);
    for (i, c) in s.input.channels.iter().enumerate() {
        channels.add_row([
            c.name.clone().unwrap_or_else(|| i.to_string()),
            c.unit.clone().unwrap_or_default(),
            c.mean.to_string(),
            c.std.to_string(),
        ]);
    }
    output::right_from(&mut channels, 2);
    let rate = s.input.sampling_rate_hz;
    let mut lines = vec![
        format!(
            "{} ({}), digest {}",
            s.architecture,
            output::bytes(s.bytes as u64),
            s.digest
        ),
        format!(
            "input    {}: {} ({}, {}){}",
            s.input.name,
            shape(&s.input.shape),
            s.input.layout,
            s.input.dtype,
            rate.map_or_else(String::new, |hz| format!(" at {hz} Hz")),
        ),
    ];
    if let Some(image) = &s.input.image {
        lines.push(format!("images   {}", image.words));
    }
    lines.push(format!(
        "output   {}: one for each of {} classes",
        s.output.name,
        s.output.classes.len()
    ));
    lines.push(format!("classes  {}", s.output.classes.join(", ")));
    if s.description_version == 0 {
        lines.push("written before files had descriptions: names are defaults".to_owned());
    }
    lines.push(format!(
        "{} parameters; per sample {} FLOP forward, {} to train",
        count(s.parameters as u64),
        count(s.forward_flop),
        count(s.training_flop),
    ));
    format!("{}\n\n{channels}\n\n{table}", lines.join("\n"))
}

fn read(file: &PathBuf) -> anyhow::Result<(Vec<u8>, Model)> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    let model = (gguf::read(&bytes).with_context(|| file.display().to_string()))
        .hint(|| "model files are made by: lamplight model pretrain".into())?;
    Ok((bytes, model))
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Pretrain(args) => {
            let source = args.source.open()?;
            let (train, held_out) = (source.train()?, source.held_out()?);
            let bar = output::bar(1, "pretrain");
            let model = pretrain::pretrain(&args.recipe, &source.describe(), &train, &bar)?;
            bar.finish_and_clear();
            let bytes = gguf::write(&model)?;
            let quantized = gguf::read(&bytes)?;
            let held_out_accuracy = if held_out.is_empty() {
                None
            } else {
                Some(pretrain::accuracy(&quantized, &held_out)?)
            };
            keys::write_aside(&args.out, &bytes, 0o644)
                .with_context(|| args.out.display().to_string())?;
            let done = Pretrained {
                file: args.out,
                digest: Digest::of(&bytes),
                bytes: bytes.len(),
                parameters: quantized.parameter_count(),
                train_samples: train.len(),
                held_out_samples: held_out.len(),
                held_out_accuracy,
            };
            args.format.print(&done, |d| {
                let accuracy = d
                    .held_out_accuracy
                    .map_or_else(|| "not measured".to_owned(), output::percent);
                format!(
                    "wrote {} ({}), digest {}\naccuracy on {} held-out samples: {accuracy}",
                    d.file.display(),
                    output::bytes(d.bytes as u64),
                    d.digest,
                    d.held_out_samples,
                )
            })
        }
        Command::Show(args) => {
            let (bytes, model) = read(&args.file)?;
            args.format.print(&describe(&model, &bytes)?, details)
        }
        Command::Push(args) => {
            // Read here first: a broken file is told apart without a network.
            let (bytes, _) = read(&args.file)?;
            let mut operator = args.connection.open()?;
            let bar = output::bar(bytes.len() as u64, "push");
            let digest = operator.put_blob(bytes.into(), Some(bar.clone())).await?;
            bar.finish_and_clear();
            let request = wire::PublishModelRequest {
                model: args.model.to_string(),
                digest: digest.to_bytes(),
            };
            let release = operator.calls.publish_model(request).await?.into_inner();
            let release = view::Release::from(release);
            let code = args.format.print(&release, |r| {
                format!("{} version {} is {}", r.model, r.version, r.digest)
            })?;
            args.format.next(&format!(
                "let nodes improve it: lamplight round start --model {}",
                release.model
            ));
            Ok(code)
        }
        Command::List(args) => {
            let mut operator = args.connection.open()?;
            let request = wire::ListModelsRequest {};
            let reply = operator.calls.list_models(request).await?.into_inner();
            let models: Vec<view::Model> = view::all(reply.models);
            let code = args.format.print(&models, |models| {
                let is_wide = args.format.is_wide();
                let mut header = vec!["model", "architecture", "parameters", "classes", "newest"];
                if is_wide {
                    header.push("digest");
                }
                let mut table = output::table(header);
                for m in models {
                    let mut row = vec![
                        m.name.clone(),
                        m.architecture.clone(),
                        count(m.parameters),
                        m.classes.join(", "),
                        format!("{} ({})", m.newest_version, output::short(&m.newest_digest)),
                    ];
                    if is_wide {
                        row.push(m.newest_digest.clone());
                    }
                    table.add_row(row);
                }
                table.to_string()
            })?;
            if models.is_empty() {
                args.format
                    .next("push a model file: lamplight model push FILE --model NAME");
            }
            Ok(code)
        }
    }
}
