//! The products of a network's layers one by one, beside what the machine could do at best.

use std::time::Instant;

use lamplight_models::{
    kernel::{
        ceiling::{self, MultiplyAdds},
        conv::Conv,
        cpu::Cpu,
    },
    layers::{self, Layer, Way},
    train::Precision,
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{BenchError, Plan, report::Machine, shown};

/// A repeat of one product takes at least so many seconds.
const REPEAT_SECONDS: f64 = 0.02;

/// Repeats of what the ceilings are measured by.
const CEILING_REPEATS: usize = 7;

/// Tiles at a time: some tenths of a millisecond.
const TILES: usize = 1_000;

/// More than caches hold.
const MEMORY_BYTES: usize = 256 << 20;

/// What was found of one kind of layer.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Row {
    /// The first such layer's name.
    pub layer: String,
    /// Layers of this kind in the network.
    pub count: usize,
    /// Channels, height and width read, and made; height is 1 where there is one dimension.
    pub input: Vec<usize>,
    /// As `input`.
    pub output: Vec<usize>,
    /// Height and width of the kernel.
    pub kernel: Vec<usize>,
    /// Groups of channels.
    pub groups: usize,
    /// Operations of one product over the batch, in 1e9.
    pub gflop: f64,
    /// Forward.
    pub forward: Product,
    /// Gradient of the input. The step does without it where nothing below is trained.
    pub input_gradient: Product,
    /// Gradient of the weight.
    pub weight_gradient: Product,
}

/// One product of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct Product {
    /// Median over the repeats, in milliseconds.
    pub ms: f64,
    /// Rate.
    pub gflop_per_s: f64,
    /// Share of the rate that register tiles reach on this machine, 0 to 1.
    pub of_multiply_adds: f64,
    /// Share of the rate at which this machine reads memory that the bytes it has to read and write at
    /// least make; above 1 they are in a cache.
    pub of_bandwidth: f64,
}

/// All layers.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct LayersReport {
    /// The network.
    pub model: String,
    /// Shape of one sample.
    pub input: Vec<usize>,
    /// Samples in a batch.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
    /// What activations were stored and multiplied as.
    pub precision: String,
    /// Register tiles over operands in the first-level cache, in 1e9 operations a second.
    pub ceiling_gflop_per_s: f64,
    /// Reading memory, in 1e9 bytes a second.
    pub ceiling_gb_per_s: f64,
    /// Kinds of layers in the network's order.
    pub layers: Vec<Row>,
    /// The processor, where the system tells.
    pub cpu: Option<String>,
    /// Its vector instructions that matter to products.
    pub isa: Vec<String>,
}

/// Times every kind of layer of the plan's network.
///
/// # Errors
/// [`BenchError`]: a plan that cannot be run is refused.
pub fn run(plan: Plan) -> Result<LayersReport, BenchError> {
    let plan = plan.checked()?;
    let graph = plan.graph()?;
    let graph = graph
        .check()
        .map_err(lamplight_models::train::TrainError::from)?;
    let all = layers::layers(&graph).map_err(|e| BenchError::Cost(e.to_string()))?;
    let cpu = Cpu::new(plan.threads);
    let halves = plan.precision == Precision::Bf16;
    tracing::info!("measuring what the machine can do");
    let ceilings = [operations_per_second(&cpu, halves), bytes_per_second(&cpu)];
    let mut rows: Vec<(Conv, Row)> = Vec::new();
    for layer in all {
        if let Some((_, row)) = rows.iter_mut().find(|(conv, _)| *conv == layer.conv) {
            row.count += 1;
            continue;
        }
        tracing::info!("{}", layer.name);
        let [forward, input_gradient, weight_gradient] =
            Way::ALL.map(|way| time(&layer, &cpu, way, &plan, ceilings));
        let window = &layer.conv.window;
        rows.push((
            layer.conv.clone(),
            Row {
                count: 1,
                input: vec![window.channels, window.input[0], window.input[1]],
                output: vec![layer.conv.out_channels, window.output[0], window.output[1]],
                kernel: window.kernel.to_vec(),
                groups: layer.conv.groups,
                gflop: layer.flop(plan.batch) / 1e9,
                layer: layer.name,
                forward,
                input_gradient,
                weight_gradient,
            },
        ));
    }
    let machine = Machine::here();
    Ok(LayersReport {
        model: plan.model.name().to_owned(),
        input: plan.input,
        batch: plan.batch,
        threads: plan.threads,
        precision: plan.precision.to_string(),
        ceiling_gflop_per_s: ceilings[0] / 1e9,
        ceiling_gb_per_s: ceilings[1] / 1e9,
        layers: rows.into_iter().map(|(_, row)| row).collect(),
        cpu: machine.cpu,
        isa: machine.isa.into_iter().map(str::to_owned).collect(),
    })
}

fn time(layer: &Layer, cpu: &Cpu, way: Way, plan: &Plan, [flop, bytes]: [f64; 2]) -> Product {
    let halves = plan.precision == Precision::Bf16;
    let mut trial = layer.trial(plan.batch, halves);
    let seconds = median_seconds(plan.repeats, || trial.run(cpu, way));
    let rate = layer.flop(plan.batch) / seconds;
    Product {
        ms: 1e3 * seconds,
        gflop_per_s: rate / 1e9,
        of_multiply_adds: rate / flop,
        of_bandwidth: layer.bytes(plan.batch, halves) / seconds / bytes,
    }
}

/// Median over so many repeats of how long one run takes.
fn median_seconds(repeats: usize, mut run: impl FnMut()) -> f64 {
    let mut seconds = |times: usize| {
        let begin = Instant::now();
        for _ in 0..times {
            run();
        }
        begin.elapsed().as_secs_f64() / times as f64
    };
    // The first has its buffers made.
    seconds(1);
    let times = (REPEAT_SECONDS / seconds(1).max(1e-7)).ceil().max(1.0) as usize;
    let mut all: Vec<f64> = (0..repeats).map(|_| seconds(times)).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Of the fastest kind of register tile, all threads together.
fn operations_per_second(cpu: &Cpu, halves: bool) -> f64 {
    let rates = MultiplyAdds::all(cpu, halves).map(|work| {
        let done = work.run(cpu, TILES);
        done / median_seconds(CEILING_REPEATS, || {
            work.run(cpu, TILES);
        })
    });
    rates.fold(0.0, f64::max)
}

/// Read from memory, all threads together.
fn bytes_per_second(cpu: &Cpu) -> f64 {
    let numbers = vec![1_u64; MEMORY_BYTES / size_of::<u64>()];
    MEMORY_BYTES as f64 / median_seconds(CEILING_REPEATS, || ceiling::read(cpu, &numbers))
}

impl LayersReport {
    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = vec![
            format!(
                "layers of {}, input {}, batches of {}, {} thread(s), {}",
                self.model,
                shown(&self.input),
                self.batch,
                self.threads,
                self.precision
            ),
            format!(
                "ceilings: {:.0} GFLOP/s in register tiles, {:.1} GB/s from memory",
                self.ceiling_gflop_per_s, self.ceiling_gb_per_s
            ),
            String::new(),
            format!(
                "{:<26} {:<14} {:<14} {:<8} {:>24} {:>24} {:>24}",
                "", "", "", "", "forward", "input gradient", "weight gradient"
            ),
            format!(
                "{:<26} {:<14} {:<14} {:<8}{}",
                "layer",
                "input",
                "output",
                "kernel",
                format!(" {:>8} {:>8} {:>6}", "ms", "GFLOP/s", "peak").repeat(3)
            ),
        ];
        for row in &self.layers {
            let count = match row.count {
                1 => String::new(),
                n => format!(" x {n}"),
            };
            let mut line = format!(
                "{:<26} {:<14} {:<14} {:<8}",
                format!("{}{count}", row.layer),
                shown(&row.input),
                shown(&row.output),
                if row.groups > 1 {
                    format!("{}/{}", shown(&row.kernel), row.groups)
                } else {
                    shown(&row.kernel)
                }
            );
            for p in [row.forward, row.input_gradient, row.weight_gradient] {
                line += &format!(
                    " {:>8.3} {:>8.1} {:>5.0}%",
                    p.ms,
                    p.gflop_per_s,
                    1e2 * p.of_multiply_adds
                );
            }
            lines.push(line);
        }
        let cpu = self.cpu.as_deref().unwrap_or("unknown processor");
        lines.push(String::new());
        lines.push(format!("{cpu}: {}", self.isa.join(", ")));
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{FEWEST_REPEATS, Mode, usual_input};
    use lamplight_models::zoo::Architecture;

    #[test]
    fn layers_of_one_kind_are_one_row_and_shares_follow_from_rates() {
        let (_, classes) = usual_input(Architecture::ResNet20);
        let plan = Plan {
            mode: Mode::Step,
            model: Architecture::ResNet20,
            input: vec![3, 8, 8],
            classes,
            batch: 1,
            threads: 1,
            precision: Precision::F32,
            repeats: FEWEST_REPEATS,
        };
        let report = run(plan).expect("a report");
        let kinds = &report.layers;
        assert_eq!(kinds[1].count, 6, "{kinds:?}");
        let p = kinds[1].forward;
        let rate = kinds[1].gflop / (p.ms / 1e3);
        assert!((p.gflop_per_s / rate - 1.0).abs() < 1e-6, "{p:?}");
        let share = p.gflop_per_s / report.ceiling_gflop_per_s;
        assert!((p.of_multiply_adds / share - 1.0).abs() < 1e-6, "{p:?}");
        let text = report.text();
        assert!(text.contains(" x 6"), "{text}");
        assert_eq!(text.lines().count(), 5 + kinds.len() + 2);
    }
}
