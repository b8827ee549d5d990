//! The way forward: values, and what stands for them.

use super::{Engine, Failure, Floats, stored};
use crate::graph::Source;
use crate::kernel::conv::Part;
use crate::kernel::element::Element;
use crate::kernel::moments::Gather;
use crate::kernel::pass;
use crate::kernel::view::{Map, View};
use crate::lane::Lane;
use crate::ops::norm::{Norm, extent};
use crate::ops::product::Product;
use crate::ops::{Forward, OpError, Operand};
use crate::train::params::ParamSet;
use crate::train::plan::{Chain, Place, Plan};

impl<T: Element> Engine<T> {
    /// See [`crate::train::Executor::forward`].
    pub(in crate::train) fn forward(
        &mut self,
        params: &ParamSet,
        x: &[f32],
        batch: usize,
        keep: bool,
        lane: &dyn Lane,
    ) -> Result<(), Failure> {
        self.clear();
        self.take_input(x, lane);
        for i in 0..self.graph.nodes.len() {
            let value = self
                .run_node(i, params, x, batch, keep, lane)
                .map_err(|e| (i, e))?;
            self.values[i] = value;
            for source in self.plan(keep).reads(&self.graph, i) {
                if let (Source::Node(j), _) = self.plan(keep).behind(source) {
                    let plan = self.plan(keep);
                    if plan.last_reader[j] == i && !(keep && plan.kept[j]) {
                        self.free_value(j);
                    }
                }
            }
        }
        self.kept_batch = keep.then_some(batch);
        let output = self.values[self.graph.output]
            .as_deref()
            .unwrap_or_default();
        if T::as_floats(output).is_none() {
            self.output.resize(output.len(), 0.0);
            pass::convert(lane.host(), output, &mut self.output);
        }
        Ok(())
    }

    fn take_input(&mut self, x: &[f32], lane: &dyn Lane) {
        if T::of_floats(x).is_none() {
            self.input.resize(x.len(), T::default());
            pass::convert(lane.host(), x, &mut self.input);
        }
    }

    /// Makes the value of one node, if it has one of its own.
    fn run_node(
        &mut self,
        i: usize,
        params: &ParamSet,
        x: &[f32],
        batch: usize,
        keep: bool,
        lane: &dyn Lane,
    ) -> Result<Option<Vec<T>>, OpError> {
        let place = self.plan(keep).places[i];
        let len = batch * self.graph.shapes[i].iter().product::<usize>();
        match place {
            Place::Inner => Ok(None),
            Place::Seen(chain) => {
                self.map_chain(i, chain, params, x, batch, keep, lane)?;
                Ok(None)
            }
            Place::Copied(chain) => {
                self.map_chain(i, chain, params, x, batch, keep, lane)?;
                let mut y = self.pool.take(len);
                let extent = extent(batch, &self.graph.shapes[i]);
                pass::make(lane.host(), extent, self.chain_view(i, chain, x), &mut y);
                Ok(Some(y))
            }
            Place::Sum { of, most } => {
                let mut y = self.pool.take(len);
                let extent = extent(batch, &self.graph.shapes[i]);
                let [a, b] =
                    [0, 1].map(|k| self.view(self.plan(keep), self.graph.sources[of][k], x));
                pass::sum(lane.host(), extent, (a, b), most, &mut y);
                Ok(Some(y))
            }
            Place::Product => {
                let mut y = self.pool.take(len);
                let done = self.product(i, params, x, batch, keep, lane, &mut y);
                self.or_give(done, y)
            }
            Place::Folded {
                of,
                norm,
                other,
                most,
            } => {
                let mut y = self.pool.take(len);
                let done = self.folded(of, (norm, other, most), params, x, batch, lane, &mut y);
                self.or_give(done, y)
            }
            Place::Made => {
                let mut y = self.pool.take(len);
                let done = self.made(i, params, x, batch, keep, lane, &mut y);
                self.or_give(done, y)
            }
        }
    }

    fn or_give(&mut self, done: Result<(), OpError>, y: Vec<T>) -> Result<Option<Vec<T>>, OpError> {
        match done {
            Ok(()) => Ok(Some(y)),
            Err(e) => {
                self.pool.give(y);
                Err(e)
            }
        }
    }

    /// Finds the statistics and the map of a chain.
    fn map_chain(
        &mut self,
        end: usize,
        chain: Chain,
        params: &ParamSet,
        x: &[f32],
        batch: usize,
        keep: bool,
        lane: &dyn Lane,
    ) -> Result<(), OpError> {
        let shape = self.graph.shape(chain.base);
        let map = match chain.norm {
            None => Map::identity(shape[0]),
            Some(node) => {
                let Some(norm) = Norm::of(&self.graph.nodes[node].op) else {
                    return Ok(());
                };
                let own = params.slices(node);
                if norm.is_fixed(self.mode) {
                    self.saved[node].values = norm.fixed(&own);
                } else if !self.has_moments(self.plan(keep), chain) {
                    let z = stored(&self.values, &self.input, x, chain.base);
                    let values = norm.measured(lane.host(), extent(batch, shape), z)?;
                    self.saved[node].values = values;
                }
                norm.map(&own, &self.saved[node].values)
            }
        };
        self.maps[end] = Some(match chain.most {
            Some(most) => map.rectified(most),
            None => map,
        });
        Ok(())
    }

    /// Whether the product below gathered what the chain's norm needs.
    fn has_moments(&self, plan: &Plan, chain: Chain) -> bool {
        match (chain.base, chain.norm) {
            (Source::Node(j), Some(node)) => {
                plan.follower[j].is_some()
                    && matches!(plan.places[j], Place::Product)
                    && Norm::of(&self.graph.nodes[node].op)
                        .is_some_and(|n| n.takes_moments(self.mode))
            }
            _ => false,
        }
    }

    fn chain_view<'a>(&'a self, end: usize, chain: Chain, x: &'a [f32]) -> View<'a, T> {
        let data = stored(&self.values, &self.input, x, chain.base);
        match &self.maps[end] {
            Some(map) => View::Mapped { data, map },
            None => View::Plain(data),
        }
    }

    /// A value as its readers see it.
    pub(super) fn view<'a>(&'a self, plan: &Plan, source: Source, x: &'a [f32]) -> View<'a, T> {
        match source {
            Source::Node(j) => match plan.places[j] {
                Place::Seen(chain) => self.chain_view(j, chain, x),
                _ => View::Plain(stored(&self.values, &self.input, x, source)),
            },
            Source::Input => View::Plain(stored(&self.values, &self.input, x, source)),
        }
    }

    fn product(
        &mut self,
        i: usize,
        params: &ParamSet,
        x: &[f32],
        batch: usize,
        keep: bool,
        lane: &dyn Lane,
        y: &mut [T],
    ) -> Result<(), OpError> {
        let source = self.graph.sources[i][0];
        let Some(product) = Product::of(&self.graph.nodes[i].op, self.graph.shape(source))? else {
            return Ok(());
        };
        let own = params.slices(i);
        let cpu = lane.host();
        // With a bias, `y` moves by a constant, and so do its moments: gathered behind it.
        let bias = own
            .get(1)
            .map(|b| Map::affine(b.len(), 1, |_, c| (1.0, b[c])));
        let norm = self.plan(keep).follower[i].and_then(|end| match self.plan(keep).places[end] {
            Place::Seen(chain) | Place::Copied(chain) => chain.norm,
            _ => None,
        });
        let norm = norm.and_then(|node| Some((node, Norm::of(&self.graph.nodes[node].op)?)));
        let norm = norm.filter(|(_, n)| n.takes_moments(self.mode));
        let gather = norm.map(|(node, n)| (node, n, Gather::new(cpu, self.graph.shapes[i][0])));
        let mut scratch = std::mem::take(&mut self.scratch);
        let view = self.view(self.plan(keep), source, x);
        let done = product.forward(lane, &mut scratch, batch, view, own[0], y, |part| {
            let Part {
                member,
                sample,
                at,
                values,
            } = part;
            if let Some(bias) = &bias {
                pass::finish(cpu, sample, at, values, bias, None, None);
            }
            if let Some((_, _, gather)) = &gather {
                gather.add(member, values);
            }
        });
        let statistics = gather.map(|(node, n, gather)| (node, n.of_moments(&gather.total())));
        self.scratch = scratch;
        done?;
        if let Some((node, values)) = statistics {
            self.saved[node].values = values?;
        }
        Ok(())
    }

    fn folded(
        &mut self,
        i: usize,
        (norm, other, most): (Option<usize>, Option<Source>, Option<f32>),
        params: &ParamSet,
        x: &[f32],
        batch: usize,
        lane: &dyn Lane,
        y: &mut [T],
    ) -> Result<(), OpError> {
        let source = self.graph.sources[i][0];
        let Some(product) = Product::of(&self.graph.nodes[i].op, self.graph.shape(source))? else {
            return Ok(());
        };
        let own = params.slices(i);
        let channels = self.graph.shapes[i][0];
        let map = match norm.and_then(|n| Some((n, Norm::of(&self.graph.nodes[n].op)?))) {
            Some((node, norm)) => {
                let params = params.slices(node);
                norm.map(&params, &norm.fixed(&params))
            }
            None => Map::identity(channels),
        };
        let map = match own.get(1) {
            Some(bias) => map.after_shift(bias),
            None => map,
        };
        let cpu = lane.host();
        let mut scratch = std::mem::take(&mut self.scratch);
        let view = self.view(&self.inference, source, x);
        let other = other.map(|o| self.view(&self.inference, o, x));
        let done = product.forward(lane, &mut scratch, batch, view, own[0], y, |part| {
            pass::finish(cpu, part.sample, part.at, part.values, &map, other, most);
        });
        self.scratch = scratch;
        done
    }

    /// An operator that reads and makes plain f32 values.
    fn made(
        &mut self,
        i: usize,
        params: &ParamSet,
        x: &[f32],
        batch: usize,
        keep: bool,
        lane: &dyn Lane,
        y: &mut [T],
    ) -> Result<(), OpError> {
        let node = &self.graph.nodes[i];
        let cpu = lane.host();
        debug_assert!(matches!(self.plan(keep).places[i], Place::Made));
        let floats: Vec<Floats<'_, T>> = self.graph.sources[i]
            .iter()
            .map(|&s| Floats::of(lane, stored(&self.values, &self.input, x, s)))
            .collect();
        let inputs: Vec<Operand<'_>> = floats
            .iter()
            .zip(&self.graph.sources[i])
            .map(|(data, &s)| Operand {
                shape: self.graph.shape(s),
                data: data.get(),
            })
            .collect();
        let mut made = Vec::new();
        let output = match T::as_floats_mut(y) {
            Some(y) => y,
            None => {
                made.resize(batch * self.graph.shapes[i].iter().product::<usize>(), 0.0);
                &mut made
            }
        };
        node.op.forward(Forward {
            batch,
            inputs: &inputs,
            params: &params.slices(i),
            mode: self.mode,
            keep: keep && self.training.carries[i],
            output,
            saved: &mut self.saved[i],
            scratch: &mut self.scratch,
            lane,
        })?;
        if !made.is_empty() {
            pass::convert(cpu, &made, y);
        }
        Ok(())
    }
}
