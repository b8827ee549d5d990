//! Pass two: the mean of a round's deltas, weighted by sample count.

use std::{
    collections::BTreeSet,
    io::{self, Read, Seek},
    num::NonZeroU64,
    ops::Range,
};

use lamplight_models::delta::{DeltaError, Reader, TensorEntry, TensorTable, value_count};
use lamplight_proto::{
    ids::{Digest, NodeId},
    release::{Contribution, MAX_CONTRIBUTIONS},
};

use super::{
    fixed::{FixedError, FixedSum},
    hashing::Hashing,
};

/// Why the deltas of a round have no mean.
#[derive(Debug, thiserror::Error)]
pub enum AggregateError {
    /// No delta was folded.
    #[error("there is no delta to average")]
    Empty,
    /// One node, two deltas.
    #[error("node {0} contributes twice")]
    Twice(NodeId),
    /// More than [`MAX_CONTRIBUTIONS`].
    #[error("more than {MAX_CONTRIBUTIONS} deltas in one release")]
    TooMany,
    /// The file is not, or no longer, a delta for this base.
    #[error("delta of node {node}: {source}")]
    Delta {
        /// Whose.
        node: NodeId,
        /// What is wrong with it.
        source: DeltaError,
    },
    /// Weight, clip factor or a value cannot be added.
    #[error("delta of node {node}, tensor `{tensor}`: {source}")]
    Fixed {
        /// Whose.
        node: NodeId,
        /// The tensor.
        tensor: String,
        /// What cannot be added.
        source: FixedError,
    },
    /// Reading failed.
    #[error("delta of node {node}: {source}")]
    Io {
        /// Whose.
        node: NodeId,
        /// What the system says.
        source: io::Error,
    },
    /// The file's bytes are not those that were accepted.
    #[error("delta of node {node} has digest {found}, {want} was accepted")]
    Altered {
        /// Whose.
        node: NodeId,
        /// Digest accepted.
        want: Digest,
        /// Digest of the file.
        found: Digest,
    },
}

/// Averages node deltas, weighted by sample count.
///
/// `mean = sum(w_i * c_i * d_i) / sum(w_i)` with weights `w_i` and clip factors `c_i` as the
/// [`Contribution`]s give them, in fixed point: the same bits in any order.
///
/// # Shapes
/// each `d_i`: `[P]`, P = trainable parameters of the base in the order of its table; mean: `[P]`
/// # Source
/// McMahan et al. 2017, "Communication-efficient learning of deep networks from decentralized
/// data", algorithm 1.
#[derive(Debug)]
pub struct FedAvg {
    table: TensorTable,
    sum: FixedSum,
    total_weight: u64,
    nodes: BTreeSet<NodeId>,
}

/// The mean of a round's deltas.
#[derive(Debug)]
pub struct Mean {
    sum: FixedSum,
    total_weight: NonZeroU64,
}

impl FedAvg {
    /// Nothing folded yet, over deltas with these tensors.
    #[must_use]
    pub fn new(table: &[TensorEntry]) -> Self {
        Self {
            table: table.to_vec(),
            sum: FixedSum::new(value_count(table)),
            total_weight: 0,
            nodes: BTreeSet::new(),
        }
    }

    /// Adds one delta, read in blocks and hashed on the way.
    ///
    /// Takes and gives back the aggregate: after an error there is none, because half a delta
    /// cannot be taken out again.
    ///
    /// # Errors
    /// [`AggregateError`], naming the node.
    pub fn fold(
        mut self,
        contribution: &Contribution,
        file: impl Read + Seek,
    ) -> Result<Self, AggregateError> {
        let node = &contribution.node_id;
        let delta = |source| AggregateError::Delta {
            node: node.clone(),
            source,
        };
        if self.nodes.len() == MAX_CONTRIBUTIONS {
            return Err(AggregateError::TooMany);
        }
        if !self.nodes.insert(node.clone()) {
            return Err(AggregateError::Twice(node.clone()));
        }
        let mut file = Hashing::new(file);
        let mut reader = Reader::open(&mut file, &self.table).map_err(delta)?;
        while let Some(block) = reader.next_block().map_err(delta)? {
            let (weight, factor) = (contribution.weight, contribution.clip_factor);
            self.sum
                .fold(weight, factor, block.start, block.values)
                .map_err(|source| AggregateError::Fixed {
                    node: node.clone(),
                    tensor: block.name.to_owned(),
                    source,
                })?;
        }
        drop(reader);
        let found = file.finish().map_err(|source| AggregateError::Io {
            node: node.clone(),
            source,
        })?;
        if found != contribution.delta_digest {
            return Err(AggregateError::Altered {
                node: node.clone(),
                want: contribution.delta_digest,
                found,
            });
        }
        // At most MAX_CONTRIBUTIONS weights, each of at most MAX_WEIGHT: below 2^53.
        self.total_weight += contribution.weight;
        Ok(self)
    }

    /// The mean.
    ///
    /// # Errors
    /// [`AggregateError::Empty`] when no delta was folded.
    pub fn finish(self) -> Result<Mean, AggregateError> {
        let total_weight = NonZeroU64::new(self.total_weight).ok_or(AggregateError::Empty)?;
        Ok(Mean {
            sum: self.sum,
            total_weight,
        })
    }
}

impl Mean {
    /// The mean's values at `places` of the flattened table.
    ///
    /// # Panics
    /// When `places` end behind the table.
    pub fn values(&self, places: Range<usize>) -> impl ExactSizeIterator<Item = f64> + '_ {
        self.sum.mean(places, self.total_weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::fixture::{contribution, delta, model};
    use lamplight_models::delta::{Delta, table};
    use std::io::Cursor;

    fn fold(average: FedAvg, c: &Contribution, d: &Delta) -> Result<FedAvg, AggregateError> {
        average.fold(c, Cursor::new(d.to_bytes()))
    }

    #[test]
    fn the_mean_is_weighted_and_clipped() {
        let table = table(&model());
        let (a, b) = (delta(1), delta(2));
        let (mut ca, mut cb) = (contribution("a", &a), contribution("b", &b));
        (ca.weight, cb.weight, cb.clip_factor) = (30, 10, 0.5);
        let average = fold(FedAvg::new(&table), &ca, &a).unwrap();
        let mean = fold(average, &cb, &b).unwrap().finish().unwrap();
        let flat =
            |d: &Delta| -> Vec<f32> { d.tensors.values().flat_map(|(_, v)| v.clone()).collect() };
        let got: Vec<f64> = mean.values(0..value_count(&table)).collect();
        for ((a, b), got) in flat(&a).into_iter().zip(flat(&b)).zip(got) {
            let want = (30.0 * f64::from(a) + 10.0 * 0.5 * f64::from(b)) / 40.0;
            assert!((got - want).abs() < 1e-12, "{got}, {want} wanted");
        }
    }

    #[test]
    fn nothing_twice_and_nothing_from_nothing() {
        let table = table(&model());
        assert!(matches!(
            FedAvg::new(&table).finish(),
            Err(AggregateError::Empty)
        ));
        let d = delta(1);
        let c = contribution("a", &d);
        let average = fold(FedAvg::new(&table), &c, &d).unwrap();
        assert!(matches!(fold(average, &c, &d), Err(AggregateError::Twice(n)) if n == c.node_id));
    }

    #[test]
    fn a_file_that_changed_since_it_was_accepted_is_noticed() {
        let table = table(&model());
        let c = contribution("a", &delta(1));
        let e = fold(FedAvg::new(&table), &c, &delta(2)).unwrap_err();
        assert!(matches!(e, AggregateError::Altered { node, .. } if node == c.node_id));
    }

    #[test]
    fn what_cannot_be_added_names_node_and_tensor() {
        let table = table(&model());
        let mut d = delta(1);
        d.tensors.get_mut("head.bias").unwrap().1[1] = 2e6;
        let e = fold(FedAvg::new(&table), &contribution("a", &d), &d).unwrap_err();
        let node = contribution("a", &d).node_id;
        assert!(e.to_string().contains("`head.bias`") && e.to_string().contains(node.as_str()));
        let mut c = contribution("a", &delta(1));
        c.weight = 0;
        let e = fold(FedAvg::new(&table), &c, &delta(1)).unwrap_err();
        assert!(matches!(
            e,
            AggregateError::Fixed {
                source: FixedError::Weight(0),
                ..
            }
        ));
    }
}
