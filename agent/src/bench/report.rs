//! What a bench found, for scripts and for people.

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Against, Mode, Plan, process,
    rival::Ready,
    shown,
    timing::{Rates, Summary},
};

/// Memory of our side's first steps, in bytes; `None` where nothing tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// The process's high-water mark over its size just before the first step.
    pub peak_bytes: Option<u64>,
    /// The same over its size before there were samples and a model.
    pub peak_with_model_bytes: Option<u64>,
    /// Most that was allocated over what was just before the first step.
    pub allocated_peak_bytes: Option<u64>,
}

/// What was measured of our side.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Rates of the repeats.
    pub rates: Rates,
    /// Steps of each.
    pub steps_per_repeat: usize,
    /// Memory of the first steps.
    pub memory: Memory,
    /// Values that the optimizer moves.
    pub parameters: u64,
    /// Work of a step.
    pub gflop: f64,
}

/// Where it was measured.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Machine {
    /// The processor's name.
    pub cpu: Option<String>,
    /// Its vector instructions.
    pub isa: Vec<&'static str>,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn here() -> Self {
        Self {
            cpu: process::processor(),
            isa: process::vector_instructions(),
        }
    }
}

/// What a bench found. Names of fields do not change; `images` are samples of any kind.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Report {
    /// What was timed.
    pub mode: Mode,
    /// The network.
    pub model: String,
    /// Shape of one sample.
    pub input: Vec<usize>,
    /// Classes told apart.
    pub classes: usize,
    /// Samples in a step.
    pub batch: usize,
    /// Threads of either side.
    pub threads: usize,
    /// In which numbers ours calculated; `auto` is settled.
    pub precision: String,
    /// Repeats of either side.
    pub repeats: usize,
    /// Steps in each of our repeats.
    pub steps_per_repeat: usize,
    /// Ours: median over the repeats.
    pub images_per_s: f64,
    /// Slowest repeat.
    pub images_per_s_min: f64,
    /// Fastest repeat.
    pub images_per_s_max: f64,
    /// Per second of processor time, all threads together; other programs on the machine disturb it
    /// less. Null where the system does not tell.
    pub images_per_cpu_s: Option<f64>,
    /// Milliseconds of a step (of a batch's inference) at the median rate.
    pub step_ms: f64,
    /// Values that the optimizer moves.
    pub parameters: u64,
    /// Operations of a step of the whole batch, in 1e9; a multiplication and an addition are two.
    pub gflop_per_step: f64,
    /// Rate at the median.
    pub gflop_per_s: f64,
    /// Our first steps' high-water mark over the process's size just before them, with no rival
    /// started. Null where the system does not tell.
    pub peak_bytes: Option<u64>,
    /// The same over the size before there were samples and a model: with parameters, gradients,
    /// moments and input.
    pub peak_with_model_bytes: Option<u64>,
    /// Most bytes our first steps held allocated at once, over what was before them. Null unless the
    /// program was built with the cargo feature `count-allocations`.
    pub allocated_peak_bytes: Option<u64>,
    /// Whom ours was compared with, if with anybody.
    pub rival: Option<Against>,
    /// Its version.
    pub rival_version: Option<String>,
    /// In which numbers it calculated: candle knows F32 alone.
    pub rival_precision: Option<String>,
    /// Whether its activations lay channels last, where it has the choice.
    pub rival_channels_last: Option<bool>,
    /// Its median.
    pub rival_images_per_s: Option<f64>,
    /// Its slowest repeat.
    pub rival_images_per_s_min: Option<f64>,
    /// Its fastest repeat.
    pub rival_images_per_s_max: Option<f64>,
    /// Per second of its processor time.
    pub rival_images_per_cpu_s: Option<f64>,
    /// Milliseconds of its step at its median.
    pub rival_step_ms: Option<f64>,
    /// As `peak_bytes`, of its own process.
    pub rival_peak_bytes: Option<u64>,
    /// As `peak_with_model_bytes`, of its own process.
    pub rival_peak_with_model_bytes: Option<u64>,
    /// Median of ours over median of the rival: above 1, ours is faster.
    pub ratio: Option<f64>,
    /// With candle as the rival: rate of its F32 product of two 1024 x 1024 matrices on as many threads.
    pub candle_gemm_gflop_per_s: Option<f64>,
    /// With candle as the rival: whether its products have AVX-512 kernels in this build (the feature
    /// `x86-v4` of the crate gemm).
    pub gemm_x86_v4: Option<bool>,
    /// The processor, where the system tells.
    pub cpu: Option<String>,
    /// Its vector instructions that matter to products.
    pub isa: Vec<String>,
}

impl Report {
    /// Puts together what was found.
    #[must_use]
    pub fn new(
        plan: &Plan,
        ours: Measured,
        rival: Option<((Against, Ready), Rates)>,
        machine: Machine,
    ) -> Self {
        let Summary { median, min, max } = ours.rates.summary();
        let step_s = |median: f64| plan.batch as f64 / median.max(f64::MIN_POSITIVE);
        let (who, ready, rates) = match rival {
            Some(((who, ready), rates)) => (Some(who), Some(ready), Some(rates)),
            None => (None, None, None),
        };
        let other = rates.as_ref().map(Rates::summary);
        let ready = ready.as_ref();
        Self {
            mode: plan.mode,
            model: plan.model.name().to_owned(),
            input: plan.input.clone(),
            classes: plan.classes,
            batch: plan.batch,
            threads: plan.threads,
            precision: plan.precision.to_string(),
            repeats: plan.repeats,
            steps_per_repeat: ours.steps_per_repeat,
            images_per_s: median,
            images_per_s_min: min,
            images_per_s_max: max,
            images_per_cpu_s: ours.rates.per_cpu_second(),
            step_ms: 1e3 * step_s(median),
            parameters: ours.parameters,
            gflop_per_step: ours.gflop,
            gflop_per_s: ours.gflop / step_s(median),
            peak_bytes: ours.memory.peak_bytes,
            peak_with_model_bytes: ours.memory.peak_with_model_bytes,
            allocated_peak_bytes: ours.memory.allocated_peak_bytes,
            rival: who,
            rival_version: ready.and_then(|r| r.version.clone()),
            rival_precision: ready.map(|r| r.precision.clone()),
            rival_channels_last: ready.and_then(|r| r.channels_last),
            rival_images_per_s: other.map(|o| o.median),
            rival_images_per_s_min: other.map(|o| o.min),
            rival_images_per_s_max: other.map(|o| o.max),
            rival_images_per_cpu_s: rates.as_ref().and_then(Rates::per_cpu_second),
            rival_step_ms: other.map(|o| 1e3 * step_s(o.median)),
            rival_peak_bytes: ready.and_then(|r| r.peak_bytes),
            rival_peak_with_model_bytes: ready.and_then(|r| r.peak_with_model_bytes),
            ratio: other.map(|o| median / o.median.max(f64::MIN_POSITIVE)),
            candle_gemm_gflop_per_s: ready.and_then(|r| r.gemm_gflop_per_s),
            gemm_x86_v4: ready.and_then(|r| r.gemm_x86_v4),
            cpu: machine.cpu,
            isa: machine.isa.into_iter().map(str::to_owned).collect(),
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let what = match self.mode {
            Mode::Step => "training steps",
            Mode::Infer => "inference",
        };
        let mut lines = vec![
            format!(
                "{} of {}, input {}, batches of {}, {} thread(s), {} repeats",
                what,
                self.model,
                shown(&self.input),
                self.batch,
                self.threads,
                self.repeats
            ),
            String::new(),
            format!(
                "{:<20} {:>10} {:>10} {:>10} {:>10} {:>10} {:>12}",
                "", "images/s", "min", "max", "ms/step", "GFLOP/s", "peak memory"
            ),
            row(
                &format!("lamplight {}", self.precision),
                [
                    self.images_per_s,
                    self.images_per_s_min,
                    self.images_per_s_max,
                    self.step_ms,
                    self.gflop_per_s,
                ],
                self.peak_bytes,
            ),
        ];
        let rival = (
            self.rival,
            self.rival_images_per_s,
            self.rival_images_per_s_min,
            self.rival_images_per_s_max,
            self.rival_step_ms,
            self.ratio,
        );
        if let (Some(who), Some(median), Some(min), Some(max), Some(ms), Some(ratio)) = rival {
            let precision = self.rival_precision.as_deref().unwrap_or_default();
            lines.push(row(
                &format!("{} {precision}", who.name()),
                [median, min, max, ms, 1e3 * self.gflop_per_step / ms],
                self.rival_peak_bytes,
            ));
            lines.push(String::new());
            lines.push(format!("ours is {ratio:.2} times as fast"));
        } else {
            lines.push(String::new());
        }
        lines.push(format!(
            "{} parameters, {:.2} GFLOP a step; memory over the size before the first step",
            self.parameters, self.gflop_per_step
        ));
        if let Some(counted) = self.allocated_peak_bytes {
            lines.push(format!("allocated at once at most: {}", mib(counted)));
        }
        if let Some(rate) = self.candle_gemm_gflop_per_s {
            let kernels = match self.gemm_x86_v4 {
                Some(true) => ", with AVX-512 kernels",
                Some(false) => ", without AVX-512 kernels",
                None => "",
            };
            lines.push(format!(
                "candle's own matrix product: {rate:.0} GFLOP/s{kernels}"
            ));
        }
        let cpu = self.cpu.as_deref().unwrap_or("unknown processor");
        lines.push(format!("{cpu}: {}", self.isa.join(", ")));
        lines.join("\n") + "\n"
    }
}

fn row(who: &str, numbers: [f64; 5], peak: Option<u64>) -> String {
    let [median, min, max, ms, gflop] = numbers;
    let peak = peak.map_or_else(|| "-".to_owned(), mib);
    format!("{who:<20} {median:>10.1} {min:>10.1} {max:>10.1} {ms:>10.2} {gflop:>10.1} {peak:>12}")
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lamplight_models::{train::Precision, zoo::Architecture};

    fn report(with_rival: bool) -> Report {
        let plan = Plan {
            mode: Mode::Step,
            model: Architecture::ResNet20,
            input: vec![3, 32, 32],
            classes: 10,
            batch: 32,
            threads: 2,
            precision: Precision::F32,
            repeats: 7,
        };
        let rates = |rates: &[f64]| {
            let mut all = Rates::default();
            for rate in rates {
                all.record(*rate, 1.0, Some(2.0));
            }
            all
        };
        let ours = Measured {
            rates: rates(&[320.0, 640.0, 400.0]),
            steps_per_repeat: 4,
            memory: Memory {
                peak_bytes: Some(3 << 20),
                ..Memory::default()
            },
            parameters: 272_474,
            gflop: 8.0,
        };
        let ready = Ready {
            ready: true,
            name: "candle".into(),
            version: Some("0.11.1".into()),
            threads: 2,
            precision: "f32".into(),
            channels_last: None,
            parameters: 272_474,
            peak_bytes: Some(5 << 20),
            peak_with_model_bytes: None,
            gemm_gflop_per_s: Some(98.4),
            gemm_x86_v4: Some(false),
        };
        let rival = with_rival.then(|| ((Against::Candle, ready), rates(&[40.0, 40.0, 30.0])));
        let machine = Machine {
            cpu: Some("AMD EPYC".into()),
            isa: vec!["avx2", "fma"],
        };
        Report::new(&plan, ours, rival, machine)
    }

    #[test]
    fn medians_make_the_ratio_the_step_and_the_rate_of_work() {
        let report = report(true);
        assert_eq!(report.images_per_s, 400.0);
        assert_eq!(
            (report.images_per_s_min, report.images_per_s_max),
            (320.0, 640.0)
        );
        assert_eq!(report.images_per_cpu_s, Some(1360.0 / 6.0));
        assert_eq!(report.step_ms, 80.0);
        assert_eq!(report.gflop_per_s, 100.0);
        assert_eq!(report.ratio, Some(10.0));
        assert_eq!(report.rival_step_ms, Some(800.0));
    }

    #[test]
    fn a_field_of_nobody_is_null_and_names_stay() {
        let alone = serde_json::to_value(report(false)).expect("JSON");
        let both = serde_json::to_value(report(true)).expect("JSON");
        for field in [
            "mode",
            "model",
            "input",
            "batch",
            "threads",
            "precision",
            "repeats",
            "images_per_s",
            "images_per_s_min",
            "images_per_s_max",
            "step_ms",
            "rival",
            "rival_images_per_s",
            "rival_images_per_s_min",
            "rival_images_per_s_max",
            "ratio",
            "peak_bytes",
            "allocated_peak_bytes",
            "parameters",
            "gflop_per_step",
            "gflop_per_s",
            "cpu",
            "isa",
            "candle_gemm_gflop_per_s",
            "gemm_x86_v4",
        ] {
            assert!(
                alone.get(field).is_some() && both.get(field).is_some(),
                "{field}"
            );
            let rival = field.contains("rival")
                || ["ratio", "candle_gemm_gflop_per_s", "gemm_x86_v4"].contains(&field);
            assert_eq!(
                alone[field].is_null(),
                rival || field == "allocated_peak_bytes",
                "{field}"
            );
        }
        assert_eq!(both["rival"], "candle");
        assert_eq!(
            serde_json::to_value(Against::PyTorch).expect("JSON"),
            "pytorch"
        );
    }

    #[test]
    fn people_see_a_row_for_each() {
        let text = report(true).text();
        for says in [
            "training steps of resnet20, input 3x32x32, batches of 32, 2 thread(s), 7 repeats",
            "lamplight f32             400.0      320.0      640.0      80.00      100.0      3.0 MiB",
            "candle f32                 40.0       30.0       40.0     800.00       10.0      5.0 MiB",
            "ours is 10.00 times as fast",
            "candle's own matrix product: 98 GFLOP/s, without AVX-512 kernels",
            "AMD EPYC: avx2, fma",
        ] {
            assert!(text.contains(says), "{says}\n{text}");
        }
        let alone = report(false).text();
        assert!(
            !alone.contains("times as fast") && !alone.contains("candle"),
            "{alone}"
        );
    }
}
