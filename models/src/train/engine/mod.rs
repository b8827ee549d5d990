//! Runs a graph forward and back over buffers of one kind of number.
//!
//! A value is given back when its last reader is done, or, while training, when the last adjoint
//! that reads it is done. Gradients of a value that several nodes read are added where they lie;
//! one that passes through a sum unchanged is shared, not copied. Adjoints run from the output down
//! to the lowest node with a gradient to compute, and no further.

mod adjoint;
mod forward;
mod pool;

use std::sync::Arc;

use self::pool::Pool;
use super::params::ParamSet;
use super::plan::{Place, Plan};
use crate::graph::{Checked, Source};
use crate::kernel::element::Element;
use crate::kernel::pass;
use crate::kernel::view::{Back, Map};
use crate::lane::Lane;
use crate::ops::{NormMode, Op, OpError, Saved, Scratch};

/// A gradient on its way through a chain, to be read by the product below.
#[derive(Debug)]
struct Lazy<T> {
    grad: Arc<Vec<T>>,
    /// The chain's end.
    end: usize,
    back: Back,
}

/// What is done to a gradient in passing, when its last part is made and still in cache.
#[derive(Debug, Default)]
struct Touched {
    /// It is zero where the node's rectifier cut.
    masked: bool,
    /// The sums that the adjoint of the node's norm wants.
    sums: Option<(Vec<f64>, Vec<f64>)>,
}

/// A graph's working memory; `T` is what activations and their gradients are stored as.
#[derive(Debug)]
pub(super) struct Engine<T> {
    graph: Checked,
    trainable: Vec<bool>,
    mode: NormMode,
    training: Plan,
    inference: Plan,
    values: Vec<Option<Vec<T>>>,
    maps: Vec<Option<Map>>,
    saved: Vec<Saved>,
    grads: Vec<Option<Arc<Vec<T>>>>,
    lazy: Vec<Option<Lazy<T>>>,
    /// Gradients that have come back to each node.
    arrived: Vec<usize>,
    /// What was done to a node's gradient while its last part was made.
    touched: Vec<Touched>,
    pool: Pool<T>,
    scratch: Scratch,
    /// The input as `T`, where that is not f32.
    input: Vec<T>,
    /// The output as f32, where `T` is not.
    output: Vec<f32>,
    /// Batch of the last forward that kept its values.
    kept_batch: Option<usize>,
}

/// A node failed.
pub(super) type Failure = (usize, OpError);

impl<T: Element> Engine<T> {
    pub(super) fn new(graph: Checked, trainable: Vec<bool>, mode: NormMode) -> Self {
        let n = graph.nodes.len();
        Self {
            training: Plan::new(&graph, &trainable, mode, true),
            inference: Plan::new(&graph, &trainable, mode, false),
            graph,
            trainable,
            mode,
            values: (0..n).map(|_| None).collect(),
            maps: vec![None; n],
            saved: vec![Saved::default(); n],
            grads: (0..n).map(|_| None).collect(),
            lazy: (0..n).map(|_| None).collect(),
            arrived: vec![0; n],
            touched: (0..n).map(|_| Touched::default()).collect(),
            pool: Pool::new(),
            scratch: Scratch::default(),
            input: Vec::new(),
            output: Vec::new(),
            kept_batch: None,
        }
    }

    /// What it was made of.
    pub(super) fn into_parts(self) -> (Checked, Vec<bool>, NormMode) {
        (self.graph, self.trainable, self.mode)
    }

    pub(super) fn graph(&self) -> &Checked {
        &self.graph
    }

    pub(super) fn trainable(&self) -> &[bool] {
        &self.trainable
    }

    pub(super) fn peak_bytes(&self) -> usize {
        self.pool.peak * size_of::<T>() + self.saved_bytes(true)
    }

    /// Bytes that operators hold for their adjoints: those that grow with the batch, or the others.
    fn saved_bytes(&self, per_sample: bool) -> usize {
        let nodes = self.graph.nodes.iter().zip(&self.saved);
        let of_kind = nodes.filter(|(n, _)| matches!(n.op, Op::BatchNorm(_)) != per_sample);
        of_kind.map(|(_, s)| s.held_bytes()).sum()
    }

    /// Bytes of buffers that grow with the batch, and of those that do not.
    pub(super) fn held_bytes(&self) -> (usize, usize) {
        let shared = self.grads.iter().flatten().map(|g| g.capacity());
        let in_use = self
            .values
            .iter()
            .flatten()
            .chain(&self.pool.free)
            .map(Vec::capacity);
        let buffers: usize = in_use.chain(shared).sum::<usize>() + self.input.capacity();
        let maps: usize = self.maps.iter().flatten().map(Map::held_bytes).sum();
        (
            buffers * size_of::<T>() + self.saved_bytes(true),
            maps + self.saved_bytes(false) + self.scratch.held_bytes(),
        )
    }

    /// Bytes of one sample that are in memory together when a forward that keeps them is done, or
    /// that the largest node makes, whichever is more.
    pub(super) fn least_bytes(&self) -> u64 {
        let size = |i: usize| {
            let shape = self.graph.shapes[i].iter();
            shape.fold(size_of::<T>() as u64, |size, &d| {
                size.saturating_mul(d as u64)
            })
        };
        let plan = &self.training;
        let made = (0..plan.places.len())
            .filter(|&i| !matches!(plan.places[i], Place::Seen(_) | Place::Inner));
        let largest = made.clone().map(size).max().unwrap_or(0);
        let kept = made
            .filter(|&i| plan.kept[i])
            .fold(0, |sum: u64, i| sum.saturating_add(size(i)));
        let saved = (0..self.graph.nodes.len())
            .filter(|&i| plan.carries[i])
            .map(|i| {
                let inputs = self.graph.sources[i].iter().map(|&s| self.graph.shape(s));
                self.graph.nodes[i].op.saves(&inputs.collect::<Vec<_>>())
            })
            .fold(0, u64::saturating_add);
        let saved = saved.saturating_mul(size_of::<f32>() as u64);
        kept.saturating_add(saved).max(largest)
    }

    fn plan(&self, keep: bool) -> &Plan {
        if keep {
            &self.training
        } else {
            &self.inference
        }
    }

    /// What the last forward made.
    pub(super) fn output(&self) -> &[f32] {
        let output = self.values[self.graph.output]
            .as_deref()
            .unwrap_or_default();
        T::as_floats(output).unwrap_or(&self.output)
    }

    /// See [`super::Executor::next_statistics`].
    pub(super) fn next_statistics(
        &self,
        params: &ParamSet,
        batch: usize,
    ) -> Vec<(usize, Vec<f32>)> {
        if self.mode != NormMode::Train {
            return Vec::new();
        }
        let nodes = self.graph.nodes.iter().enumerate();
        nodes
            .filter(|(_, node)| matches!(node.op, Op::BatchNorm(_)))
            .flat_map(|(i, node)| {
                let shape = self.graph.shape(self.graph.sources[i][0]);
                let first = params.of_node(i).start;
                node.op
                    .next_statistics(batch, shape, &params.slices(i), &self.saved[i])
                    .into_iter()
                    .map(move |(place, values)| (first + place, values))
            })
            .collect()
    }

    fn free_value(&mut self, i: usize) {
        if let Some(buffer) = self.values[i].take() {
            self.pool.give(buffer);
        }
    }

    /// Takes back whatever an earlier call (perhaps one that failed) left.
    fn clear(&mut self) {
        for i in 0..self.values.len() {
            self.free_value(i);
            self.maps[i] = None;
            self.arrived[i] = 0;
            self.touched[i] = Touched::default();
            let lazy = self.lazy[i].take().map(|l| l.grad);
            for g in [self.grads[i].take(), lazy].into_iter().flatten() {
                self.pool.release(g);
            }
        }
        self.kept_batch = None;
    }
}

/// The buffer of a stored value.
fn stored<'a, T: Element>(
    values: &'a [Option<Vec<T>>],
    input: &'a [T],
    x: &'a [f32],
    source: Source,
) -> &'a [T] {
    match source {
        Source::Input => T::of_floats(x).unwrap_or(input),
        Source::Node(j) => values[j].as_deref().unwrap_or_default(),
    }
}

/// Values as f32: themselves, or a copy.
enum Floats<'a, T> {
    Same(&'a [T]),
    Wide(Vec<f32>),
}

impl<'a, T: Element> Floats<'a, T> {
    fn of(lane: &dyn Lane, data: &'a [T]) -> Self {
        if T::as_floats(data).is_some() {
            return Self::Same(data);
        }
        let mut wide = vec![0.0; data.len()];
        pass::convert(lane.host(), data, &mut wide);
        Self::Wide(wide)
    }

    fn get(&self) -> &[f32] {
        match self {
            Self::Same(data) => T::as_floats(data).unwrap_or_default(),
            Self::Wide(wide) => wide,
        }
    }
}
