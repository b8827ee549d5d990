//! Runs a graph forward and back over buffers it owns and reuses.
//!
//! A value is given back when its last reader is done, or, while training, when the last adjoint
//! that reads it is done. The rectifier and the sum work in place where nobody else looks. Adjoints
//! run from the output down to the lowest node with a gradient to compute, and no further.

use crate::graph::{Checked, Source};
use crate::kernel::elementwise;
use crate::lane::Lane;
use crate::ops::{
    Adjoint, Forward, Keeps, NormMode, Op, OpError, Operand, Saved, Scratch, expect_len,
};

use super::params::ParamSet;

/// An operator failed.
#[derive(Debug, thiserror::Error)]
#[error("node `{node}`: {source}")]
pub struct ExecuteError {
    /// The node.
    pub node: String,
    /// What went wrong.
    pub source: OpError,
}

/// Buffers nobody reads any more, waiting to be used again.
#[derive(Debug, Default)]
struct Pool {
    free: Vec<Vec<f32>>,
    live: usize,
    peak: usize,
}

impl Pool {
    /// A buffer of this length with unspecified values: the smallest that fits, else a new one.
    fn take(&mut self, len: usize) -> Vec<f32> {
        self.live += len;
        self.peak = self.peak.max(self.live);
        let fitting = self.free.iter().enumerate();
        let best = fitting
            .filter(|(_, b)| b.capacity() >= len)
            .min_by_key(|(_, b)| b.capacity())
            .map(|(i, _)| i);
        // With none that fits, the largest goes: what is kept stays near what one step needs.
        let mut buffer = match best {
            Some(i) => self.free.swap_remove(i),
            None => {
                self.free.pop();
                Vec::new()
            }
        };
        buffer.resize(len, 0.0);
        buffer
    }

    fn give(&mut self, buffer: Vec<f32>) {
        self.live -= buffer.len();
        self.free.push(buffer);
    }
}

/// What to do at each node, worked out once.
#[derive(Debug)]
struct Plan {
    /// Last node that reads the value of each node, going forward; itself if nobody does.
    last_reader: Vec<usize>,
    /// Whether the adjoint of each node runs.
    carries: Vec<bool>,
    /// Whether each node's value is read again by an adjoint, going back.
    kept: Vec<bool>,
    /// Whether the graph's input is.
    keeps: Vec<Keeps>,
}

/// A graph with its working memory.
#[derive(Debug)]
pub struct Executor {
    graph: Checked,
    trainable: Vec<bool>,
    mode: NormMode,
    plan: Plan,
    values: Vec<Option<Vec<f32>>>,
    saved: Vec<Saved>,
    grads: Vec<Option<Vec<f32>>>,
    pool: Pool,
    scratch: Scratch,
    /// Batch of the last forward that kept its values.
    kept_batch: Option<usize>,
}

impl Executor {
    /// An executor for this graph; `trainable` says, in the order of [`Checked::params`], which
    /// parameters get a gradient. Missing entries count as not trainable.
    #[must_use]
    pub fn new(graph: Checked, trainable: &[bool], mode: NormMode) -> Self {
        let count = graph.params().count();
        let mut trainable = trainable.to_vec();
        trainable.resize(count, false);
        let n = graph.nodes.len();
        let plan = Plan::new(&graph, &trainable, mode);
        Self {
            graph,
            trainable,
            mode,
            plan,
            values: vec![None; n],
            saved: vec![Saved::default(); n],
            grads: vec![None; n],
            pool: Pool::default(),
            scratch: Scratch::default(),
            kept_batch: None,
        }
    }

    /// The graph.
    #[must_use]
    pub fn graph(&self) -> &Checked {
        &self.graph
    }

    /// Which parameters get a gradient, in the order of [`Checked::params`].
    #[must_use]
    pub fn trainable(&self) -> &[bool] {
        &self.trainable
    }

    /// Most bytes of activations and gradients that were alive at once so far.
    #[must_use]
    pub fn peak_bytes(&self) -> usize {
        self.pool.peak * size_of::<f32>()
    }

    /// Bytes of the buffers owned now, in use or waiting to be used again, and of the kernels'
    /// scratch.
    #[must_use]
    pub fn held_bytes(&self) -> (usize, usize) {
        let in_use = self.values.iter().chain(&self.grads).flatten();
        let buffers: usize = in_use.chain(&self.pool.free).map(Vec::capacity).sum();
        let saved: usize = self.saved.iter().map(Saved::held_bytes).sum();
        (
            buffers * size_of::<f32>() + saved,
            self.scratch.held_bytes(),
        )
    }

    /// Values of one sample that are in memory together when a forward that keeps them is done, or that
    /// the largest node makes, whichever is more: no step takes less. Known before anything runs.
    #[must_use]
    pub fn least_values(&self) -> u64 {
        let size =
            |shape: &[usize]| (shape.iter()).fold(1_u64, |size, &d| size.saturating_mul(d as u64));
        let sizes = self.graph.shapes.iter().map(|shape| size(shape));
        let largest = sizes.clone().max().unwrap_or(0);
        let kept = (sizes.zip(&self.plan.kept))
            .filter(|(_, kept)| **kept)
            .fold(0, |sum: u64, (size, _)| sum.saturating_add(size));
        kept.max(largest)
    }

    /// Runs the graph and returns its output (`[batch, output]`, channels last).
    ///
    /// With `keep`, what [`Executor::adjoint`] needs stays in memory; without, values go as soon as
    /// their last reader is done.
    ///
    /// # Shapes
    /// x `[batch, ...]`, channels last
    /// # Errors
    /// [`ExecuteError`] naming the node.
    pub fn forward(
        &mut self,
        params: &ParamSet,
        x: &[f32],
        batch: usize,
        keep: bool,
        lane: &dyn Lane,
    ) -> Result<&[f32], ExecuteError> {
        self.clear();
        for i in 0..self.graph.nodes.len() {
            let value = self.run_node(i, params, x, batch, keep, lane)?;
            self.values[i] = Some(value);
            for &source in &self.graph.sources[i] {
                if let Source::Node(j) = source
                    && self.plan.last_reader[j] == i
                    && !(keep && self.plan.kept[j])
                    && let Some(buffer) = self.values[j].take()
                {
                    self.pool.give(buffer);
                }
            }
        }
        self.kept_batch = keep.then_some(batch);
        Ok(self.values[self.graph.output]
            .as_deref()
            .unwrap_or_default())
    }

    /// Makes the value of one node.
    fn run_node(
        &mut self,
        i: usize,
        params: &ParamSet,
        x: &[f32],
        batch: usize,
        keep: bool,
        lane: &dyn Lane,
    ) -> Result<Vec<f32>, ExecuteError> {
        let node = &self.graph.nodes[i];
        let sources = &self.graph.sources[i];
        // A buffer that ends here anyway may become the result.
        let ends_here = |s: Source| match s {
            Source::Node(j) => {
                (self.plan.last_reader[j] == i && !(keep && self.plan.kept[j])).then_some(j)
            }
            Source::Input => None,
        };
        match (&node.op, sources.as_slice()) {
            (op, &[a]) if let Some(most) = op.rectifies_to() => {
                if let Some(mut y) = ends_here(a).and_then(|j| self.values[j].take()) {
                    elementwise::relu_in_place(&mut y, most);
                    return Ok(y);
                }
            }
            (Op::Add, &[a, b]) if a != b => {
                for (mine, other) in [(a, b), (b, a)] {
                    if let Some(mut y) = ends_here(mine).and_then(|j| self.values[j].take()) {
                        elementwise::add_assign(&mut y, read(&self.values, x, other));
                        return Ok(y);
                    }
                }
            }
            _ => {}
        }
        let len = batch * self.graph.shapes[i].iter().product::<usize>();
        let mut output = self.pool.take(len);
        let inputs: Vec<Operand<'_>> = sources
            .iter()
            .map(|&s| Operand {
                shape: self.graph.shape(s),
                data: read(&self.values, x, s),
            })
            .collect();
        let done = node.op.forward(Forward {
            batch,
            inputs: &inputs,
            params: &params.slices(i),
            mode: self.mode,
            output: &mut output,
            saved: &mut self.saved[i],
            scratch: &mut self.scratch,
            lane,
        });
        match done {
            Ok(()) => Ok(output),
            Err(source) => {
                self.pool.give(output);
                Err(ExecuteError {
                    node: node.name.clone(),
                    source,
                })
            }
        }
    }

    /// Walks back from the output's gradient and writes the gradients of the trainable parameters
    /// into `param_grads` (one buffer per parameter, in the order of [`Checked::params`]; those of
    /// others are left alone). Must follow a [`Executor::forward`] with `keep` over the same input
    /// and parameters.
    ///
    /// # Shapes
    /// output_grad like the output
    /// # Errors
    /// [`ExecuteError`] naming the node.
    pub fn adjoint(
        &mut self,
        params: &ParamSet,
        x: &[f32],
        output_grad: &[f32],
        param_grads: &mut [Vec<f32>],
        lane: &dyn Lane,
    ) -> Result<(), ExecuteError> {
        let output = self.graph.output;
        let fail = |node: usize, source: OpError| ExecuteError {
            node: self.graph.nodes[node].name.clone(),
            source,
        };
        let batch = self.kept_batch.take();
        let kept = batch.map_or(0, |b| {
            b * self.graph.shapes[output].iter().product::<usize>()
        });
        // Without a forward that kept its values there is no batch, and only an empty gradient fits.
        expect_len("the output gradient", output_grad.len(), kept).map_err(|e| fail(output, e))?;
        expect_len("the gradient list", param_grads.len(), self.trainable.len())
            .map_err(|e| fail(output, e))?;
        let batch = batch.unwrap_or(0);
        let mut g = self.pool.take(output_grad.len());
        g.copy_from_slice(output_grad);
        self.grads[output] = Some(g);

        for i in (0..self.graph.nodes.len()).rev() {
            let Some(g) = self.grads[i].take() else {
                // Nobody asked for anything below.
                self.free_value(i);
                continue;
            };
            if self.plan.carries[i] {
                self.adjoint_node(i, g, params, x, batch, param_grads, lane)?;
            } else {
                self.pool.give(g);
            }
            // Readers stand above and are done; this node's own adjoint was the last to look.
            self.free_value(i);
        }
        Ok(())
    }

    fn adjoint_node(
        &mut self,
        i: usize,
        mut g: Vec<f32>,
        params: &ParamSet,
        x: &[f32],
        batch: usize,
        param_grads: &mut [Vec<f32>],
        lane: &dyn Lane,
    ) -> Result<(), ExecuteError> {
        let node = &self.graph.nodes[i];
        let sources = self.graph.sources[i].clone();
        let wanted = |s: Source| match s {
            Source::Node(j) if self.plan.carries[j] => Some(j),
            _ => None,
        };
        if let Some(most) = node.op.rectifies_to() {
            let y = self.values[i].as_deref().unwrap_or_default();
            elementwise::relu_adjoint_in_place(y, most, &mut g);
            self.hand_over(wanted(sources[0]), g);
            return Ok(());
        }
        if node.op == Op::Add {
            let (a, b) = (wanted(sources[0]), wanted(sources[1]));
            if a.is_some() && b.is_some() {
                let mut copy = self.pool.take(g.len());
                copy.copy_from_slice(&g);
                self.hand_over(a, copy);
                self.hand_over(b, g);
            } else {
                self.hand_over(a.or(b), g);
            }
            return Ok(());
        }
        let mut input_grads: Vec<Option<(usize, Vec<f32>)>> = Vec::with_capacity(sources.len());
        for &s in &sources {
            let len = batch * self.graph.shape(s).iter().product::<usize>();
            let buffer = wanted(s).map(|j| (j, self.pool.take(len)));
            input_grads.push(buffer);
        }
        let inputs: Vec<Operand<'_>> = sources
            .iter()
            .map(|&s| Operand {
                shape: self.graph.shape(s),
                data: if self.plan.keeps[i].inputs {
                    read(&self.values, x, s)
                } else {
                    &[]
                },
            })
            .collect();
        let places = params.of_node(i);
        let trainable = &self.trainable[places.clone()];
        let mut own: Vec<Option<&mut [f32]>> = param_grads[places]
            .iter_mut()
            .zip(trainable)
            .map(|(g, &t)| t.then_some(g.as_mut_slice()))
            .collect();
        let mut buffers: Vec<Option<&mut [f32]>> = input_grads
            .iter_mut()
            .map(|g| g.as_mut().map(|(_, g)| g.as_mut_slice()))
            .collect();
        let done = node.op.adjoint(Adjoint {
            batch,
            inputs: &inputs,
            output: self.values[i].as_deref().unwrap_or_default(),
            params: &params.slices(i),
            mode: self.mode,
            saved: &self.saved[i],
            output_grad: &g,
            input_grads: &mut buffers,
            param_grads: &mut own,
            scratch: &mut self.scratch,
            lane,
        });
        let done = done.map_err(|source| ExecuteError {
            node: node.name.clone(),
            source,
        });
        self.pool.give(g);
        for (j, g) in input_grads.into_iter().flatten() {
            self.hand_over(Some(j), g);
        }
        done
    }

    /// Adds a gradient to what other readers of the same value have sent back.
    fn hand_over(&mut self, to: Option<usize>, g: Vec<f32>) {
        let Some(j) = to else {
            self.pool.give(g);
            return;
        };
        match &mut self.grads[j] {
            Some(sum) => {
                elementwise::add_assign(sum, &g);
                self.pool.give(g);
            }
            empty => *empty = Some(g),
        }
    }

    /// The running statistics after the last training forward: `(place in the parameter set, values)`.
    #[must_use]
    pub fn next_statistics(&self, params: &ParamSet, batch: usize) -> Vec<(usize, Vec<f32>)> {
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
            if let Some(g) = self.grads[i].take() {
                self.pool.give(g);
            }
        }
        self.kept_batch = None;
    }
}

fn read<'a>(values: &'a [Option<Vec<f32>>], x: &'a [f32], source: Source) -> &'a [f32] {
    match source {
        Source::Input => x,
        Source::Node(j) => values[j].as_deref().unwrap_or_default(),
    }
}

impl Plan {
    fn new(graph: &Checked, trainable: &[bool], mode: NormMode) -> Self {
        let n = graph.nodes.len();
        let mut last_reader: Vec<usize> = (0..n).collect();
        let mut carries = vec![false; n];
        let mut keeps = vec![Keeps::default(); n];
        let mut kept = vec![false; n];
        let mut first_param = 0;
        for (i, node) in graph.nodes.iter().enumerate() {
            let count = node.op.params().len();
            let own = &trainable[first_param..first_param + count];
            first_param += count;
            let mut below = false;
            for &source in &graph.sources[i] {
                if let Source::Node(j) = source {
                    last_reader[j] = i;
                    below |= carries[j];
                }
            }
            carries[i] = below || own.contains(&true);
            if carries[i] {
                keeps[i] = node.op.keeps(below, own, mode);
                kept[i] |= keeps[i].output;
                for &source in &graph.sources[i] {
                    if let Source::Node(j) = source {
                        kept[j] |= keeps[i].inputs;
                    }
                }
            }
        }
        // The output belongs to the caller until the next call.
        last_reader[graph.output] = n;
        Self {
            last_reader,
            carries,
            kept,
            keeps,
        }
    }
}
