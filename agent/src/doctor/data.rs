//! The node's samples.

use lamplight_models::samples::Samples;
use lamplight_proto::doctor::Finding;

use crate::source::{SourceError, SourceSpec};

/// What is there to train on.
#[derive(Debug)]
pub(super) struct Data {
    origin: String,
    pub(super) train: Samples,
    pub(super) held_out: Samples,
}

fn look(spec: &SourceSpec) -> Result<Data, SourceError> {
    let source = spec.open()?;
    Ok(Data {
        origin: source.describe().origin,
        train: source.train()?,
        held_out: source.held_out()?,
    })
}

/// Whether the source opens and has something to learn from.
pub(super) fn source(spec: &SourceSpec) -> (Finding, Option<Data>) {
    match look(spec) {
        Ok(data) => (judge(spec, &data), Some(data)),
        Err(e) => {
            let says = format!("{spec}: {e}");
            let remedy = "mend the data, or set source.spec to what is there";
            (Finding::fault(CHECK, says, remedy), None)
        }
    }
}

const CHECK: &str = "data source";

fn judge(spec: &SourceSpec, data: &Data) -> Finding {
    let counts = data.train.class_counts();
    let present: Vec<String> = (data.train.classes.iter().zip(counts))
        .filter(|(_, n)| *n > 0)
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    let says = format!(
        "{}: {} to train on, {} held out; {}",
        data.origin,
        data.train.len(),
        data.held_out.len(),
        present.join(", ")
    );
    let more = "let the source collect more, or see whether its options leave everything out";
    if data.train.is_empty() {
        Finding::fault(CHECK, format!("{spec} has nothing to train on"), more)
    } else if present.len() == 1 {
        Finding::warning(CHECK, format!("{says}: a single class"), more)
    } else if data.held_out.is_empty() {
        let remedy = "leave some held out; without them nobody sees whether it learns";
        Finding::warning(CHECK, says, remedy)
    } else {
        Finding::ok(CHECK, says)
    }
}
