//! What training needs: model files, room, memory, a device.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use lamplight_models::{
    lane::{self, Lane, LaneError, LaneKind},
    model::Model,
    ops::NormMode,
    quant::gguf,
    train::{Augment, Footprint, OptimizerConfig, Precision, Schedule, TrainConfig, Trainable},
};
use lamplight_proto::{
    doctor::{Finding, Machine, bytes, disk},
    ids::Digest,
};

use super::data::Data;
use crate::{
    dir::NodeDir,
    limits::Limits,
    power::{Meter, POWERCAP},
    settings::Training,
};

/// Samples in a batch, where no task has said yet: the usual number.
const BATCH: usize = 32;

/// What a usual model and its task take.
const USUAL_ROOM: u64 = 64 << 20;

/// The newest model here that is whole.
#[derive(Debug)]
pub(super) struct Newest {
    /// Bytes of the file.
    file: u64,
    model: Model,
}

impl Newest {
    /// Two model files, a checkpoint (weights and moments) written beside the one before it, a delta.
    fn room(&self) -> u64 {
        2 * self.file + 4 * self.model.parameter_count() as u64 * (3 * 2 + 1)
    }

    /// Bytes that training in these numbers holds, by the very count that a task's budget is judged by.
    fn memory(&self, data: &Data, precision: Precision) -> Result<u64, String> {
        let lane = lane::open(LaneKind::Cpu, 1).map_err(|e| e.to_string())?;
        let usual = TrainConfig {
            epochs: 1,
            batch: BATCH,
            // Both moments: the most any optimizer holds.
            optimizer: OptimizerConfig::AdamW {
                learning_rate: 1e-3,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.0,
            },
            clip_norm: None,
            schedule: Schedule::default(),
            trainable: Trainable::default(),
            norm_mode: NormMode::default(),
            augment: Augment::default(),
            precision,
            seed: 0,
        };
        Footprint::of(&self.model, &usual, &lane, &data.train, &data.held_out)
            .map(|footprint| footprint.total())
            .map_err(|e| e.to_string())
    }
}

fn read(path: &Path, file: &[u8]) -> Result<Newest, String> {
    let name = path
        .file_stem()
        .and_then(|s| s.to_str())
        .unwrap_or_default();
    let found = Digest::of(file);
    if found.to_string() != name {
        return Err(format!(
            "{} is damaged: its SHA-256 is {found}",
            path.display()
        ));
    }
    let unusable = |e: String| format!("{}: {e}", path.display());
    let model = gguf::read(file).map_err(|e| unusable(e.to_string()))?;
    Ok(Newest {
        file: file.len() as u64,
        model,
    })
}

/// The model files that are here, newest first.
fn kept(dir: &NodeDir) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir.root().join("models")) else {
        return Vec::new();
    };
    let mut found: Vec<(SystemTime, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let is_model = path.extension().is_some_and(|e| e == "gguf");
            is_model.then_some((fs::metadata(&path).ok()?.modified().ok()?, path))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

/// Whether the model files are what their names say; what the newest good one needs.
pub(super) fn models(dir: &NodeDir) -> (Vec<Finding>, Option<Newest>) {
    const CHECK: &str = "model files";
    let mut findings = Vec::new();
    let mut newest = None;
    let files = kept(dir);
    for path in &files {
        let found = fs::read(path)
            .map_err(|e| format!("{} cannot be read: {e}", path.display()))
            .and_then(|file| read(path, &file));
        match found {
            Ok(found) => newest = newest.or(Some(found)),
            Err(says) => findings.push(Finding::warning(
                CHECK,
                says,
                "nothing: it is pulled again before it is used; if it happens again, replace the disk",
            )),
        }
    }
    if findings.is_empty() {
        let says = match files.len() {
            0 => "none has been pulled yet".to_owned(),
            n => format!("{n} are here and hold what their names say"),
        };
        findings.push(Finding::ok(CHECK, says));
    }
    (findings, newest)
}

/// Whether the disk has room for a task.
pub(super) fn room(machine: &dyn Machine, dir: &Path, model: Option<&Newest>) -> Finding {
    match model {
        Some(newest) => disk::space(machine, dir, newest.room(), "the newest model's next task"),
        None => disk::space_before_a_model(machine, dir, USUAL_ROOM),
    }
}

/// Whether training fits into the budget, and the budget into the machine. An agent that trains just now
/// holds some of the memory itself, so what is available at the moment is at most a warning.
pub(super) fn memory(
    machine: &dyn Machine,
    limits: &Limits,
    precision: Precision,
    newest: Option<&Newest>,
    data: Option<&Data>,
) -> Finding {
    const CHECK: &str = "memory";
    let (total, available) = match (machine.total_memory(), machine.available_memory()) {
        (Ok(total), Ok(available)) => (total, available),
        (Err(e), _) | (_, Err(e)) => {
            let says = format!("this machine does not tell how much it has: {e}");
            return Finding::warning(CHECK, says, "see with the system's own tools");
        }
    };
    let budget = limits.budget.memory_bytes;
    if let Some(budget) = budget.filter(|budget| *budget > total) {
        return Finding::fault(
            CHECK,
            format!(
                "limits.memory_mib allows {}, but this machine has only {}",
                bytes(budget),
                bytes(total)
            ),
            "lower limits.memory_mib",
        );
    }
    let has = format!("{} of {} are available now", bytes(available), bytes(total));
    let whose = match budget {
        Some(budget) => format!("limits.memory_mib allows {}, {has}", bytes(budget)),
        None => format!("{has}, no budget is set"),
    };
    let need = match (newest, data) {
        (Some(newest), Some(data)) => newest.memory(data, precision),
        (None, _) => {
            return at_the_moment(
                format!("{whose}; no model has been pulled yet"),
                budget,
                available,
            );
        }
        (_, None) => {
            return at_the_moment(
                format!("{whose}; without data nothing is trained"),
                budget,
                available,
            );
        }
    };
    let need = match need {
        Ok(need) => need,
        Err(e) => {
            let says = format!("{whose}; the newest model's need cannot be found: {e}");
            return Finding::warning(
                CHECK,
                says,
                "see with `lamplight model show` what it takes in",
            );
        }
    };
    let says = format!(
        "the newest model needs {} to train in {precision} on this data (batches of {BATCH}); {whose}",
        bytes(need)
    );
    if need > budget.unwrap_or(total) {
        let remedy = match precision {
            Precision::Bf16 => {
                "raise limits.memory_mib if the machine has more, or ask for tasks with smaller batches"
            }
            _ => {
                "raise limits.memory_mib if the machine has more, set training.precision to \"bf16\", in \
                 which activations take half as much, or ask for tasks with smaller batches"
            }
        };
        return Finding::fault(CHECK, says, remedy);
    }
    at_the_moment(says, Some(need), available)
}

/// Whether what is wanted is available at the moment.
fn at_the_moment(says: String, wanted: Option<u64>, available: u64) -> Finding {
    const CHECK: &str = "memory";
    if wanted.is_some_and(|wanted| wanted > available) {
        Finding::warning(
            CHECK,
            says,
            "nothing, if the agent is training; else end other programs, or less is left for it than it \
             may take",
        )
    } else {
        Finding::ok(CHECK, says)
    }
}

/// Whether a limit of energy can be kept, here or of a task.
pub(super) fn energy(limits: &Limits) -> Finding {
    const CHECK: &str = "energy";
    let meter = Meter::open(Path::new(POWERCAP), limits.assumed_power_watts);
    let Some(joules) = limits.budget.energy_joules else {
        return Finding::ok(
            CHECK,
            if meter.is_some() {
                "no limit is set; it can be measured".to_owned()
            } else {
                "no limit is set, and nothing here measures it: tasks with an energy budget are \
                 declined unless limits.assumed_power_watts is set"
                    .to_owned()
            },
        );
    };
    if meter.is_some() {
        Finding::ok(
            CHECK,
            format!("limits.energy_joules is {joules}, and it can be measured"),
        )
    } else {
        Finding::fault(
            CHECK,
            format!("limits.energy_joules is {joules}, but nothing here measures energy"),
            "set limits.assumed_power_watts to what the machine draws, or let the agent read \
             /sys/class/powercap",
        )
    }
}

/// Whether the device that is configured can be used.
pub(super) fn device(
    machine: &dyn Machine,
    training: &Training,
    lane: &Result<Arc<dyn Lane>, LaneError>,
) -> Finding {
    const CHECK: &str = "accelerator";
    let (kind, threads) = (training.device, usize::from(training.threads));
    if let Err(e) = lane {
        return Finding::fault(
            CHECK,
            e.to_string(),
            "set training.device to a device that is there (\"cpu\" always is), or run a build that \
             has this one",
        );
    }
    let processors = machine.processors();
    if threads > processors {
        return Finding::warning(
            CHECK,
            format!("training.threads is {threads}, this machine has {processors} processor(s)"),
            format!("set training.threads to at most {processors}"),
        );
    }
    Finding::ok(
        CHECK,
        format!("{kind} opens; {threads} of {processors} processor(s) are used"),
    )
}

/// The device that is configured, opened as training opens it.
pub(super) fn lane(training: &Training) -> Result<Arc<dyn Lane>, LaneError> {
    lane::open(training.device, usize::from(training.threads))
}

/// In which numbers this node trains, and whether its processor multiplies bfloat16. No choice is a
/// fault: each trains everywhere, and what differs is time and memory.
pub(super) fn precision(wanted: Precision, lane: &dyn Lane) -> Finding {
    let isa = lane.host().isa();
    let settled = match wanted {
        Precision::Auto => format!("auto, which is {} here", wanted.settled(lane)),
        _ => wanted.to_string(),
    };
    let multiplies = if isa.multiplies_bf16() {
        "multiplies"
    } else {
        "does not multiply"
    };
    let saves = match Precision::Auto.settled(lane) {
        Precision::Bf16 => "memory and time",
        _ => "memory, but no time",
    };
    Finding::ok(
        "precision",
        format!(
            "training.precision is {settled}; this processor {multiplies} bfloat16 ({isa}), so that \
             bf16 saves {saves} on {}",
            lane.kind()
        ),
    )
}

#[cfg(test)]
mod tests {
    use lamplight_models::{
        lane::CpuLane,
        model::ModelInfo,
        zoo::{TcnConfig, tcn},
    };

    use super::*;

    #[test]
    fn training_in_bf16_is_found_to_need_less() {
        let source = "builtin:post?post=0&train=64&held_out=8";
        let (_, data) = super::super::data::source(&source.parse().expect("a source"));
        let data = data.expect("simulated");
        let (channels, length) = (data.train.shape[0], data.train.shape[1]);
        let classes = data.train.classes.clone();
        let graph = tcn(&TcnConfig::new(channels, length, classes.len())).expect("a graph");
        let info = ModelInfo {
            architecture: "tcn".into(),
            input_mean: vec![0.0; channels],
            input_std: vec![1.0; channels],
            classes,
            ..ModelInfo::default()
        };
        let model = Model::init(graph, info, 7).expect("a model");
        let newest = Newest { file: 0, model };
        let need = |precision| newest.memory(&data, precision).expect("found");
        let (full, half) = (need(Precision::F32), need(Precision::Bf16));
        let best = Precision::Auto.settled(&CpuLane::new(1));
        assert_eq!(need(Precision::Auto), need(best));
        // All else is the same in both: parameters, samples, moments.
        let saved = full.checked_sub(half).expect("less");
        assert!(saved > full / 20, "{half} of {full}");
    }
}
