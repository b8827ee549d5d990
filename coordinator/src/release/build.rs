//! The bytes of a release from the bytes of its base and of its deltas.
//!
//! ```text
//!   exact base = dequantized base + carry     what nodes trained from, and what rounding kept back
//!   new        = exact base + mean(deltas)    added in f64, rounded to f32 once
//!   release    = quantized new                what nodes get
//!   carry      = new - dequantized release    added to the next release's base
//! ```
//!
//! Without the carry an update smaller than half a quantization step would vanish, round after
//! round; with it such updates add up until they move the weight.

use std::{
    collections::BTreeMap,
    io::{self, Read, Seek},
};

use lamplight_models::{
    delta::{Delta, DeltaError, TensorEntry, TensorTable, table, table_of},
    model::{Model, ModelError, tensor, values},
    ops::ParamRole,
    quant::{
        gguf::{self, GgufError},
        requantize,
    },
};
use lamplight_proto::{
    ids::{Digest, NodeId},
    offer::Trainable,
    release::{Contribution, Rule},
};

use crate::aggregate::{AggregateError, FedAvg, Mean};

/// A release's bytes, not yet signed.
#[derive(Debug)]
pub struct Built {
    /// The model file.
    pub gguf: Vec<u8>,
    /// Its SHA-256.
    pub digest: Digest,
    /// What quantizing rounded away, as a delta file over the quantized tensors; `None` when that
    /// is nothing.
    pub carry: Option<Vec<u8>>,
    /// Its SHA-256.
    pub carry_digest: Option<Digest>,
    /// The model every reader of `gguf` holds, ready to be evaluated.
    pub model: Model,
}

/// Why a release cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The base is no model file.
    #[error("base model: {0}")]
    Base(GgufError),
    /// The base's carry is not one, or not this base's.
    #[error("carry of the base: {0}")]
    Carry(DeltaError),
    /// A delta's file cannot be opened.
    #[error("opening the delta of node {node}: {source}")]
    Open {
        /// Whose.
        node: NodeId,
        /// What the system says.
        source: io::Error,
    },
    /// The deltas have no mean.
    #[error("{0}")]
    Aggregate(Box<AggregateError>),
    /// A parameter cannot be read or made.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The new model cannot be written, e.g. because a weight has grown beyond the format's range.
    #[error("new model: {0}")]
    Quantize(GgufError),
    /// The new carry cannot be made.
    #[error("new carry: {0}")]
    Rounding(DeltaError),
}

impl From<AggregateError> for BuildError {
    fn from(e: AggregateError) -> Self {
        Self::Aggregate(Box::new(e))
    }
}

/// Builds a release. Same inputs, same bytes, in whatever order the contributions come.
///
/// Delta files are opened one after the other and read in blocks, so memory does not grow with
/// their number: about 40 bytes for each of the model's values.
///
/// Parameters that were not to move stay the base's, and so do running statistics: they describe a
/// node's data and are in no delta.
///
/// # Errors
/// [`BuildError`]; a file whose digest is not its contribution's is one.
pub fn build<R: Read + Seek>(
    base_gguf: &[u8],
    base_carry: Option<&[u8]>,
    rule: Rule,
    trainable: Trainable,
    contributions: &[Contribution],
    mut open: impl FnMut(&Contribution) -> io::Result<R>,
) -> Result<Built, BuildError> {
    let base = gguf::read(base_gguf).map_err(BuildError::Base)?;
    let table = deltas_hold(&base, trainable);
    let carry = read_carry(base_carry, &base)?;
    let mean = match rule {
        Rule::FedAvg => {
            let mut average = FedAvg::new(&table);
            for c in contributions {
                let file = open(c).map_err(|source| BuildError::Open {
                    node: c.node_id.clone(),
                    source,
                })?;
                average = average.fold(c, file)?;
            }
            average.finish()?
        }
    };
    let new = moved(&base, &table, &carry, &mean)?;
    // The sum is the largest thing here; give it back before the file is made.
    drop((mean, carry, base));

    let release = requantize(&new).map_err(BuildError::Quantize)?;
    let mut rounded = release.rounding_error(&new).map_err(BuildError::Rounding)?;
    drop(new);
    let quantized = quantized(&release.model);
    rounded
        .tensors
        .retain(|name, _| quantized.iter().any(|e| e.name == *name));
    let is_nothing = rounded
        .tensors
        .values()
        .all(|(_, v)| v.iter().all(|&v| v == 0.0));
    let carry = (!is_nothing).then(|| rounded.to_bytes());
    Ok(Built {
        digest: Digest::of(&release.bytes),
        gguf: release.bytes,
        carry_digest: carry.as_deref().map(Digest::of),
        carry,
        model: release.model,
    })
}

/// The tensors a model file quantizes, sorted by name: those a carry has.
fn quantized(model: &Model) -> TensorTable {
    let roles = model.roles();
    let weight = |e: &TensorEntry| roles.get(&e.name).map(|s| s.role) == Some(ParamRole::Weight);
    table(model).into_iter().filter(weight).collect()
}

fn read_carry(carry: Option<&[u8]>, base: &Model) -> Result<Delta, BuildError> {
    let Some(bytes) = carry else {
        return Ok(Delta::default());
    };
    let carry = Delta::from_bytes(bytes).map_err(BuildError::Carry)?;
    carry.check(&quantized(base)).map_err(BuildError::Carry)?;
    Ok(carry)
}

/// The tensors of a delta against this base, when these parameters are to move.
#[must_use]
pub fn deltas_hold(base: &Model, trainable: Trainable) -> TensorTable {
    use lamplight_models::train::Trainable as Set;
    let set = match trainable {
        Trainable::All => Set::All,
        Trainable::Head => Set::Head,
        Trainable::Bias => Set::Bias,
        Trainable::Norm => Set::Norm,
    };
    table_of(base, set)
}

/// `base + carry + mean`: the carry over all quantized parameters, the mean over those that moved.
fn moved(
    base: &Model,
    moved: &[TensorEntry],
    carry: &Delta,
    mean: &Mean,
) -> Result<Model, BuildError> {
    let mut new = base.clone();
    let mut places = BTreeMap::new();
    let mut start = 0;
    for entry in moved {
        let end = start + entry.value_count();
        places.insert(entry.name.as_str(), start..end);
        start = end;
    }
    for entry in table(base) {
        let kept = carry.tensors.get(&entry.name).map(|(_, values)| values);
        let place = places.get(entry.name.as_str());
        if kept.is_none() && place.is_none() {
            continue;
        }
        // `gguf::read` has checked that the base holds every tensor its graph wants.
        let from = values(&entry.name, &base.params[&entry.name])?;
        let mut means = place.map(|p| mean.values(p.clone()));
        let sums = from
            .iter()
            .enumerate()
            .map(|(i, &from)| {
                let kept = kept.map_or(0.0, |k| f64::from(k[i]));
                let mean = means.as_mut().and_then(Iterator::next).unwrap_or(0.0);
                (f64::from(from) + kept + mean) as f32
            })
            .collect();
        let sums = tensor(&entry.name, sums, &entry.shape)?;
        new.params.insert(entry.name, sums);
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::fixture::{contribution, delta, gguf, model};
    use proptest::prelude::*;
    use std::io::Cursor;

    /// Builds from deltas in this order; node names and weights follow the delta's number.
    fn built(base: &[u8], carry: Option<&[u8]>, deltas: &[(u64, &Delta)]) -> Built {
        let mut files = BTreeMap::new();
        let contributions: Vec<Contribution> = deltas
            .iter()
            .map(|(i, d)| {
                let mut c = contribution(&i.to_string(), d);
                c.weight = 10 + i;
                files.insert(c.node_id.clone(), d.to_bytes());
                c
            })
            .collect();
        let open = |c: &Contribution| Ok(Cursor::new(files[&c.node_id].clone()));
        build(
            base,
            carry,
            Rule::FedAvg,
            Trainable::All,
            &contributions,
            open,
        )
        .unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn any_order_of_contributions_gives_the_same_bytes(
            order in Just((1..=6).collect::<Vec<u64>>()).prop_shuffle()
        ) {
            let deltas: Vec<Delta> = (1..=6).map(delta).collect();
            let numbered = |i: u64| (i, &deltas[i as usize - 1]);
            let sorted: Vec<_> = (1..=6).map(numbered).collect();
            let shuffled: Vec<_> = order.into_iter().map(numbered).collect();
            let (a, b) = (built(&gguf(), None, &sorted), built(&gguf(), None, &shuffled));
            prop_assert_eq!(a.digest, Digest::of(&b.gguf));
            prop_assert_eq!(a.gguf, b.gguf);
            prop_assert!(a.carry.is_some());
            prop_assert_eq!(a.carry, b.carry);
        }
    }

    /// A delta of `step` at one weight, 0 elsewhere. That weight is not the largest of its block, so
    /// the block's scale stays.
    fn nudge(step: f32) -> Delta {
        let mut d = delta(1);
        for (_, values) in d.tensors.values_mut() {
            values.fill(0.0);
        }
        d.tensors.get_mut("head.weight").unwrap().1[0] = step;
        d
    }

    #[test]
    fn updates_below_half_a_step_arrive_in_the_end_and_only_thanks_to_the_carry() {
        // A row whose largest value makes the scale 1/127, and a weight at 0 to be moved.
        let mut start = model();
        let mut row = values("head.weight", &start.params["head.weight"]).unwrap();
        row[..4].copy_from_slice(&[0.0, 1.0, -0.5, 0.25]);
        let shape = start.params["head.weight"].dims().to_vec();
        let row = tensor("head.weight", row, &shape).unwrap();
        start.params.insert("head.weight".into(), row);
        let base = gguf::write(&start).unwrap();

        let step = 1.0 / 127.0_f32;
        let tiny = nudge(step / 20.0);
        let first = |b: &Built| values("h", &b.model.params["head.weight"]).unwrap()[0];
        let (mut with, mut without) = (
            built(&base, None, &[(1, &tiny)]),
            built(&base, None, &[(1, &tiny)]),
        );
        assert_eq!(first(&with), 0.0, "half a step is not reached yet");
        for _ in 1..100 {
            with = built(&with.gguf, with.carry.as_deref(), &[(1, &tiny)]);
            without = built(&without.gguf, None, &[(1, &tiny)]);
        }
        assert_eq!(first(&without), 0.0);
        let moved = 100.0 * step / 20.0;
        assert!(
            (first(&with) - moved).abs() <= 0.51 * step,
            "{} of {moved}",
            first(&with)
        );
        let carried = Delta::from_bytes(with.carry.as_ref().unwrap()).unwrap();
        let exact = first(&with) + carried.tensors["head.weight"].1[0];
        assert!(
            (exact - moved).abs() < 1e-5 * step.max(moved),
            "{exact} of {moved}"
        );
    }

    #[test]
    fn statistics_stay_the_bases_and_all_else_moves_by_the_mean() {
        let d = delta(3);
        let b = built(&gguf(), None, &[(1, &d)]);
        let base = gguf::read(&gguf()).unwrap();
        let carry = Delta::from_bytes(b.carry.as_ref().unwrap()).unwrap();
        for (name, spec) in base.roles() {
            let of = |m: &Model| values(&name, &m.params[&name]).unwrap();
            let (from, to) = (of(&base), of(&b.model));
            if spec.role == ParamRole::Statistic {
                assert_eq!(from, to, "`{name}`");
                continue;
            }
            let kept = carry.tensors.get(&name).map(|(_, v)| v);
            assert_eq!(kept.is_some(), spec.role == ParamRole::Weight, "`{name}`");
            for (i, (from, to)) in from.iter().zip(&to).enumerate() {
                let want = from + d.tensors[&name].1[i];
                let got = to + kept.map_or(0.0, |k| k[i]);
                assert!((got - want).abs() < 1e-6, "`{name}`: {got}, {want} wanted");
            }
        }
    }

    #[test]
    fn faults_say_whose_they_are() {
        let d = delta(1);
        let c = contribution("a", &d);
        let ok = |_: &Contribution| Ok(Cursor::new(delta(1).to_bytes()));
        let one = std::slice::from_ref(&c);
        let e = build(b"nonsense", None, Rule::FedAvg, Trainable::All, one, ok).unwrap_err();
        assert!(matches!(e, BuildError::Base(_)), "{e}");
        // A carry has the quantized tensors only.
        let whole = d.to_bytes();
        let e = build(&gguf(), Some(&whole), Rule::FedAvg, Trainable::All, one, ok).unwrap_err();
        assert!(
            matches!(e, BuildError::Carry(DeltaError::Unexpected { .. })),
            "{e}"
        );
        let e = build(&gguf(), None, Rule::FedAvg, Trainable::All, &[], ok).unwrap_err();
        assert!(
            matches!(&e, BuildError::Aggregate(e) if matches!(**e, AggregateError::Empty)),
            "{e}"
        );
        let gone = |_: &Contribution| -> io::Result<Cursor<Vec<u8>>> {
            Err(io::ErrorKind::NotFound.into())
        };
        let e = build(&gguf(), None, Rule::FedAvg, Trainable::All, one, gone).unwrap_err();
        assert!(e.to_string().contains(c.node_id.as_str()), "{e}");
    }

    #[test]
    fn a_release_that_rounds_nothing_carries_nothing() {
        // A row of quantized values moved by nothing quantizes to itself.
        let b = built(&gguf(), None, &[(1, &nudge(0.0))]);
        assert_eq!(b.gguf, gguf());
        assert_eq!((b.carry, b.carry_digest), (None, None));
    }
}
