//! What training needs: model files, room, memory, a device.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use lamplight_models::{lane, quant::gguf};
use lamplight_proto::{
    doctor::{Finding, Machine, bytes, disk},
    ids::Digest,
};

use crate::{dir::NodeDir, limits::Limits, settings::Training};

/// Samples in a batch, where no task has said yet: the usual number.
const BATCH: u64 = 32;

/// What is kept free where no model is known yet.
const UNKNOWN_ROOM: u64 = 64 << 20;

/// What the newest model here is known to need.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    /// Bytes of the file.
    file: u64,
    /// Values it learns.
    parameters: u64,
    /// Values of all activations of one sample.
    activations: u64,
}

impl Needs {
    /// Weights, gradients, two moments of the optimizer and the base the delta is taken from, each 4
    /// bytes a value; and a batch's activations with their gradients.
    fn memory(self) -> u64 {
        let values = 5 * self.parameters + 2 * BATCH * self.activations;
        4 * values + self.file
    }

    /// Two model files, a checkpoint (weights and moments) written beside the one before it, a delta.
    fn room(self) -> u64 {
        2 * self.file + 4 * self.parameters * (3 * 2 + 1)
    }
}

fn read(path: &Path, file: &[u8]) -> Result<Needs, String> {
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
    let checked = model.check().map_err(|e| unusable(e.to_string()))?;
    let values = |shape: &Vec<usize>| shape.iter().product::<usize>() as u64;
    Ok(Needs {
        file: file.len() as u64,
        parameters: model.parameter_count() as u64,
        activations: checked.shapes.iter().map(values).sum(),
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
pub(super) fn models(dir: &NodeDir) -> (Vec<Finding>, Option<Needs>) {
    const CHECK: &str = "model files";
    let mut findings = Vec::new();
    let mut newest = None;
    let files = kept(dir);
    for path in &files {
        let needs = fs::read(path)
            .map_err(|e| format!("{} cannot be read: {e}", path.display()))
            .and_then(|file| read(path, &file));
        match needs {
            Ok(needs) => newest = newest.or(Some(needs)),
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
pub(super) fn room(machine: &dyn Machine, dir: &Path, model: Option<&Needs>) -> Finding {
    match model {
        Some(needs) => disk::space(machine, dir, needs.room(), "the newest model's next task"),
        None => disk::space(machine, dir, UNKNOWN_ROOM, "a model and its task"),
    }
}

/// Whether training fits into the budget, and the budget into the machine.
pub(super) fn memory(machine: &dyn Machine, limits: &Limits, model: Option<&Needs>) -> Finding {
    const CHECK: &str = "memory";
    let available = match machine.available_memory() {
        Ok(available) => available,
        Err(e) => {
            let says = format!("this machine does not tell how much is available: {e}");
            return Finding::warning(CHECK, says, "see with the system's own tools");
        }
    };
    let has = format!("{} are available", bytes(available));
    if let Some(budget) = limits.memory_bytes
        && budget > available
    {
        return Finding::fault(
            CHECK,
            format!("limits.memory_mib allows {}, but only {has}", bytes(budget)),
            "lower limits.memory_mib, or end other programs",
        );
    }
    let room = limits.memory_bytes.unwrap_or(available);
    let whose = match limits.memory_bytes {
        Some(budget) => format!("limits.memory_mib allows {}, {has}", bytes(budget)),
        None => format!("{has}, no budget is set"),
    };
    let Some(model) = model else {
        return Finding::ok(CHECK, format!("{whose}; no model has been pulled yet"));
    };
    let need = model.memory();
    let says = format!(
        "the newest model needs about {} to train (batches of {BATCH}); {whose}",
        bytes(need)
    );
    if need > room {
        Finding::fault(
            CHECK,
            says,
            "raise limits.memory_mib if the machine has more, or ask for tasks with smaller batches",
        )
    } else {
        Finding::ok(CHECK, says)
    }
}

/// Whether the device that is configured can be used.
pub(super) fn device(machine: &dyn Machine, training: &Training) -> Finding {
    const CHECK: &str = "accelerator";
    let (kind, threads) = (training.device, usize::from(training.threads));
    if let Err(e) = lane::open(kind, threads) {
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
