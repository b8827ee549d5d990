//! PyTorch as the rival: a script that any Python with torch runs.

use std::{path::Path, process::Command};

use super::{BenchError, Plan, moving_values, shown};

/// The script, so that a program without its sources beside it has it too.
pub const SCRIPT: &str = include_str!("../../../models/bench/pytorch_step.py");

/// The Python that is taken unless another is named.
pub const PYTHON: &str = "python3";

/// How to start PyTorch's side of a plan.
///
/// # Errors
/// [`BenchError::Network`] when the network does not take the input.
pub fn command(plan: &Plan, python: &Path) -> Result<Command, BenchError> {
    let parameters = moving_values(&plan.graph()?);
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT, "--serve"]);
    for (flag, value) in [
        ("--mode", plan.mode.name().to_owned()),
        ("--model", plan.model.name().to_owned()),
        ("--input", shown(&plan.input)),
        ("--classes", plan.classes.to_string()),
        ("--batch", plan.batch.to_string()),
        ("--threads", plan.threads.to_string()),
        ("--precision", plan.precision.name().to_owned()),
        ("--parameters", parameters.to_string()),
    ] {
        command.args([flag, &value]);
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::usual_input;
    use lamplight_models::zoo::Architecture;

    #[test]
    fn the_script_knows_every_network_with_the_same_usual_input() {
        for model in Architecture::ALL {
            let (input, classes) = usual_input(model);
            let line = format!("    \"{model}\": ({input:?}, {classes}),");
            assert!(SCRIPT.contains(&line), "{line}");
        }
    }
}
