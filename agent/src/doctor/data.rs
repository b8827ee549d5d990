//! The node's samples.

use lamplight_proto::doctor::Finding;

use crate::source::{SourceError, SourceSpec};

/// What is there to train on.
struct Seen {
    origin: String,
    train: usize,
    held_out: usize,
    /// Class and windows to train on.
    classes: Vec<(String, usize)>,
}

fn look(spec: &SourceSpec) -> Result<Seen, SourceError> {
    let source = spec.open()?;
    let about = source.describe();
    let (train, held_out) = (source.train()?, source.held_out()?);
    let counts = train.class_counts();
    Ok(Seen {
        origin: about.origin,
        train: train.len(),
        held_out: held_out.len(),
        classes: about.classes.into_iter().zip(counts).collect(),
    })
}

/// Whether the source opens and has something to learn from.
pub(super) fn source(spec: &SourceSpec) -> Finding {
    const CHECK: &str = "data source";
    let seen = match look(spec) {
        Ok(seen) => seen,
        Err(e) => {
            return Finding::fault(
                CHECK,
                format!("{spec}: {e}"),
                "mend the data, or set source.spec to what is there",
            );
        }
    };
    let present: Vec<String> = (seen.classes.iter())
        .filter(|(_, n)| *n > 0)
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    let says = format!(
        "{}: {} windows to train on, {} held out; {}",
        seen.origin,
        seen.train,
        seen.held_out,
        present.join(", ")
    );
    let more = "let the source collect more, or see whether its options leave everything out";
    if seen.train == 0 {
        Finding::fault(CHECK, format!("{spec} has nothing to train on"), more)
    } else if present.len() == 1 {
        Finding::warning(CHECK, format!("{says}: a single class"), more)
    } else if seen.held_out == 0 {
        let remedy = "leave some windows held out; without them nobody sees whether it learns";
        Finding::warning(CHECK, says, remedy)
    } else {
        Finding::ok(CHECK, says)
    }
}
