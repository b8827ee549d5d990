//! `bench`: how fast this machine trains and infers.

use std::{
    io::{self, Write as _},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    thread,
};

use clap::{Args as ClapArgs, Subcommand};
use lamplight_models::{graph::Shape, train::Precision, zoo::Architecture};
use lamplight_proto::console::{FAILED, Format, usual_logs};

use serde::Serialize;

use crate::bench::{
    self, Against, BenchError, FEWEST_REPEATS, Mode, Plan, candle, layers, pytorch,
};

pub(super) const HELP: &str = "Example:\n  \
    lamplight agent bench step --model resnet20\n  \
    lamplight agent bench infer --model tcn --batch 1 --threads 1 --json\n\n\
    Nothing of a node is touched. Let the machine do nothing else meanwhile.";

const STEP: &str = "Example:\n  \
    lamplight agent bench step --model resnet20 --batch 32 --threads 2 --against candle\n  \
    lamplight agent bench step --model mobilenetv2 --input 3x96x96 --classes 10 --json\n  \
    lamplight agent bench step --model resnet50 --batch 8 --against pytorch --python ./venv/bin/python\n\n\
    A step is batch, forward, loss, adjoint and update by SGD with momentum, batch norms training.\n\
    A rival is a process of its own; repeats of both are run in turn, on as many threads.\n\n\
    Exit codes: 0 timed; 1 refused, because a network, an input and a rival do not go together;\n\
    2 failed, e.g. a Python without torch.";

const INFER: &str = "Example:\n  \
    lamplight agent bench infer --model resnet20 --against pytorch\n  \
    lamplight agent bench infer --model tcn --input 3x256 --batch 1 --threads 1 --json\n\n\
    The network is prepared once; each step makes a batch and runs it forward.\n\n\
    Exit codes: 0 timed; 1 refused, because a network, an input and a rival do not go together;\n\
    2 failed, e.g. a Python without torch.";

const LAYERS: &str = "Example:\n  \
    lamplight agent bench layers --model resnet20 --batch 32 --threads 1\n  \
    lamplight agent bench layers --model mobilenetv2 --batch 8 --precision bf16 --json\n\n\
    Each convolution and linear layer is run alone, forward and both gradients, and its rate compared\n\
    with what this machine's multiplications and memory reach at best, measured just before.\n\n\
    Exit codes: 0 timed; 1 refused, because a network and an input do not go together.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Time whole training steps: batch, forward, loss, adjoint, update
    #[command(after_help = STEP)]
    Step(Given),
    /// Time inference
    #[command(after_help = INFER)]
    Infer(Given),
    /// Time each layer's products alone, beside what the machine could do at best
    #[command(after_help = LAYERS)]
    Layers(Subject),
}

#[derive(Debug, ClapArgs)]
pub(super) struct Given {
    #[command(flatten)]
    subject: Subject,
    /// Whom to take turns with
    #[arg(long, value_enum, value_name = "RIVAL")]
    against: Option<Against>,
    /// The Python that has torch, for --against pytorch [default: python3]
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// This process is candle's side of a bench; the bench says so to the process it starts.
    #[arg(long, hide = true)]
    as_rival: bool,
}

/// What is timed, and how.
#[derive(Debug, ClapArgs)]
pub(super) struct Subject {
    /// The network, by the name that `lamplight model pretrain --architecture` takes
    #[arg(long, value_name = "NAME")]
    model: Architecture,
    /// Samples in a step
    #[arg(long, value_name = "B", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Threads of either side [default: the processors there are]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// In which numbers ours calculates: f32, bf16 or auto
    #[arg(long, value_name = "P", default_value_t)]
    precision: Precision,
    /// Shape of a sample, e.g. 3x32x32 for images or 6x128 for windows [default: the network's usual]
    #[arg(long, value_name = "CxHxW")]
    input: Option<Input>,
    /// Classes told apart [default: the network's usual]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    classes: Option<u32>,
    /// Repeats of either side; the median counts
    #[arg(long, value_name = "R", default_value_t = 9, value_parser = clap::value_parser!(u32).range(FEWEST_REPEATS as i64..=10_000))]
    repeats: u32,
    #[command(flatten)]
    format: Format,
}

/// A shape as people write it.
#[derive(Debug, Clone, PartialEq)]
struct Input(Shape);

impl FromStr for Input {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sizes: Option<Shape> = (text.split('x'))
            .map(|size| size.parse().ok().filter(|&n| n > 0 && n <= 1 << 20))
            .collect();
        match sizes {
            Some(shape) if (2..=3).contains(&shape.len()) => Ok(Self(shape)),
            _ => Err(
                "a shape is channels and sizes, e.g. 3x32x32 for images or 6x128 for windows"
                    .to_owned(),
            ),
        }
    }
}

impl Subject {
    fn plan(&self, mode: Mode) -> Result<Plan, BenchError> {
        let (input, classes) = bench::usual_input(self.model);
        let processors = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Plan {
            mode,
            model: self.model,
            input: self.input.clone().map_or(input.to_vec(), |i| i.0),
            classes: self.classes.map_or(classes, |n| n as usize),
            batch: self.batch as usize,
            threads: self.threads.map_or_else(processors, usize::from),
            precision: self.precision,
            repeats: self.repeats as usize,
        }
        .checked()
    }
}

impl Given {
    /// The process to compare with.
    fn rival(&self, plan: &Plan) -> Result<Option<(Against, std::process::Command)>, BenchError> {
        if self.python.is_some() && self.against != Some(Against::PyTorch) {
            return Err(BenchError::PythonForNobody);
        }
        Ok(match self.against {
            None => None,
            Some(Against::Candle) => Some((Against::Candle, candle::command(plan)?)),
            Some(Against::PyTorch) => {
                let python = self.python.as_deref().unwrap_or(Path::new(pytorch::PYTHON));
                Some((Against::PyTorch, pytorch::command(plan, python)?))
            }
        })
    }
}

pub(super) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let (mode, given) = match command {
        Command::Step(given) => (Mode::Step, given),
        Command::Infer(given) => (Mode::Infer, given),
        Command::Layers(subject) => {
            usual_logs(subject.format.is_quiet());
            let report = layers::run(subject.plan(Mode::Step)?)?;
            print(&subject.format, &report, &report.text())?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let subject = &given.subject;
    usual_logs(subject.format.is_quiet());
    let plan = subject.plan(mode)?;
    if given.as_rival {
        // What goes wrong is told to the bench, which tells people.
        let served = candle::serve(&plan, io::stdin().lock(), &mut io::stdout().lock());
        return Ok(served.map_or(ExitCode::from(FAILED), |()| ExitCode::SUCCESS));
    }
    let rival = given.rival(&plan)?;
    let report = bench::run(plan, rival)?;
    print(&subject.format, &report, &report.text())?;
    Ok(ExitCode::SUCCESS)
}

fn print(format: &Format, report: &impl Serialize, text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if format.is_json() {
        writeln!(out, "{}", serde_json::to_string(report)?)?;
    } else {
        out.write_all(text.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    fn given(words: &str) -> Given {
        let line = Line::try_parse_from(words.split(' ')).expect("parsed");
        match line.command {
            Command::Step(given) | Command::Infer(given) => given,
            Command::Layers(_) => panic!("layers have no rival"),
        }
    }

    #[test]
    fn what_is_not_said_is_as_the_network_usually_has_it() {
        let plan = given("b step --model resnet18")
            .subject
            .plan(Mode::Step)
            .expect("a plan");
        assert_eq!(
            (plan.input, plan.classes, plan.batch),
            (vec![3, 224, 224], 1000, 32)
        );
        assert_eq!(plan.repeats, 9);
        assert!(plan.threads >= 1);
        let words =
            "b infer --model tcn --input 3x64 --classes 2 --batch 1 --threads 3 --repeats 7";
        let plan = given(words).subject.plan(Mode::Infer).expect("a plan");
        assert_eq!((plan.input, plan.classes, plan.batch), (vec![3, 64], 2, 1));
        assert_eq!((plan.threads, plan.repeats), (3, 7));
    }

    #[test]
    fn faults_of_the_line_name_a_remedy() {
        for (words, says) in [
            ("b step --model alexnet", "resnet20"),
            ("b step", "--model"),
            ("b step --model lenet --batch 0", "1..=65536"),
            ("b step --model lenet --repeats 6", "7..="),
            ("b step --model lenet --threads 0", "1..=1024"),
            ("b step --model lenet --input 28", "3x32x32"),
            ("b step --model lenet --input 1x0x28", "3x32x32"),
            ("b step --model lenet --precision f16", "f32, bf16, auto"),
            ("b step --model lenet --against jax", "candle, pytorch"),
            ("b train --model lenet", "unrecognized subcommand"),
        ] {
            let e = Line::try_parse_from(words.split(' ')).expect_err("refused");
            assert!(e.to_string().contains(says), "{words}: {e}");
        }
    }

    #[test]
    fn a_python_wants_pytorch() {
        let python = |words: &str| {
            let given = given(words);
            given.rival(&given.subject.plan(Mode::Step).expect("a plan"))
        };
        let e = python("b step --model lenet --python p").expect_err("refused");
        assert!(e.is_refusal(), "{e}");
        let e = python("b step --model lenet --python p --against candle").expect_err("refused");
        assert!(e.to_string().contains("--against pytorch"), "{e}");
        let (who, command) =
            python("b step --model lenet --python p --against pytorch --precision bf16")
                .expect("a rival")
                .expect("a rival");
        assert_eq!(
            (who, command.get_program().to_str()),
            (Against::PyTorch, Some("p"))
        );
        let arguments: Vec<_> = command.get_args().filter_map(|a| a.to_str()).collect();
        assert!(arguments.windows(2).any(|w| w == ["--precision", "bf16"]));
        assert!(arguments.windows(2).any(|w| w == ["--parameters", "61706"]));
        assert!(python("b step --model lenet").expect("alone").is_none());
    }
}
