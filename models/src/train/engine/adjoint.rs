//! The way back: gradients.

use std::sync::Arc;

use super::{Engine, Failure, Floats, Lazy, stored};
use crate::graph::Source;
use crate::kernel::conv::{Part, Write};
use crate::kernel::element::Element;
use crate::kernel::moments::GatherBack;
use crate::kernel::pass;
use crate::kernel::view::{Back, View};
use crate::lane::Lane;
use crate::ops::norm::{Norm, extent};
use crate::ops::product::{Into, Product};
use crate::ops::{Adjoint, OpError, Operand, expect_len};
use crate::train::params::ParamSet;
use crate::train::plan::{Chain, Place};

/// What to do to a gradient in passing, see [`Touched`].
struct Touch<'a, T> {
    /// The value whose rectifier cuts the gradient, and where it ends.
    mask: Option<(&'a [T], f32)>,
    /// Chains that the gradient goes to, with the values they stand on.
    gathers: Vec<(usize, GatherBack<'a>, &'a [T])>,
}

impl<T> Default for Touch<'_, T> {
    fn default() -> Self {
        Self {
            mask: None,
            gathers: Vec::new(),
        }
    }
}

impl<T: Element> Touch<'_, T> {
    fn part(&self, lane: &dyn Lane, part: Part<'_, T>) {
        let Part {
            member, at, values, ..
        } = part;
        let range = at..at + values.len();
        if let Some((y, most)) = self.mask {
            pass::mask(lane.host().isa(), &y[range.clone()], most, values);
        }
        for (_, gather, z) in &self.gathers {
            gather.add(member, 0, values, &z[range.clone()]);
        }
    }
}

impl<T: Element> Engine<T> {
    /// See [`crate::train::Executor::adjoint`].
    pub(in crate::train) fn adjoint(
        &mut self,
        params: &ParamSet,
        x: &[f32],
        output_grad: &[f32],
        param_grads: &mut [Vec<f32>],
        lane: &dyn Lane,
    ) -> Result<(), Failure> {
        let output = self.graph.output;
        let batch = self.kept_batch.take();
        let kept = batch.map_or(0, |b| {
            b * self.graph.shapes[output].iter().product::<usize>()
        });
        // Without a forward that kept its values there is no batch, and only an empty gradient fits.
        expect_len("the output gradient", output_grad.len(), kept).map_err(|e| (output, e))?;
        expect_len("the gradient list", param_grads.len(), self.trainable.len())
            .map_err(|e| (output, e))?;
        let batch = batch.unwrap_or(0);
        let mut g = self.pool.take(output_grad.len());
        pass::convert(lane.host(), output_grad, &mut g);
        self.grads[output] = Some(Arc::new(g));

        for i in (0..self.graph.nodes.len()).rev() {
            if self.training.carries[i] {
                self.adjoint_node(i, params, x, batch, param_grads, lane)
                    .map_err(|e| (i, e))?;
            } else if let Some(g) = self.grads[i].take() {
                self.pool.release(g);
            }
            // Readers stand above and are done; this node's own adjoint was the last to look.
            self.free_value(i);
        }
        Ok(())
    }

    fn adjoint_node(
        &mut self,
        i: usize,
        params: &ParamSet,
        x: &[f32],
        batch: usize,
        param_grads: &mut [Vec<f32>],
        lane: &dyn Lane,
    ) -> Result<(), OpError> {
        match self.training.places[i] {
            Place::Inner | Place::Folded { .. } => Ok(()),
            Place::Product => self.adjoint_product(i, params, x, batch, param_grads, lane),
            place => {
                let Some(g) = self.grads[i].take() else {
                    return Ok(());
                };
                match place {
                    Place::Sum { of, most } => {
                        self.adjoint_sum(i, of, most, g, lane);
                        Ok(())
                    }
                    Place::Seen(chain) | Place::Copied(chain) => {
                        self.adjoint_chain(i, chain, g, params, x, batch, param_grads, lane);
                        Ok(())
                    }
                    _ => self.adjoint_made(i, g, params, x, batch, param_grads, lane),
                }
            }
        }
    }

    /// The node whose gradient a source's is, if anybody wants it.
    fn wanted(&self, source: Source) -> Option<usize> {
        match source {
            Source::Node(j) if self.training.carries[j] => Some(j),
            _ => None,
        }
    }

    fn adjoint_sum(
        &mut self,
        i: usize,
        of: usize,
        most: Option<f32>,
        g: Arc<Vec<T>>,
        lane: &dyn Lane,
    ) {
        let mut g = g;
        let masked = std::mem::take(&mut self.touched[i].masked);
        if let Some(most) = most.filter(|_| !masked) {
            let mut own = self.own(g);
            let y = self.values[i].as_deref().unwrap_or_default();
            let cpu = lane.host();
            pass::mask_all(cpu, y, most, &mut own);
            g = Arc::new(own);
        }
        let sources = self.graph.sources[of].clone();
        let [a, b] = [0, 1].map(|k| self.wanted(sources[k]));
        if let Some(a) = a {
            self.hand_over(a, Arc::clone(&g), lane);
        }
        match b {
            Some(b) => self.hand_over(b, g, lane),
            None => self.pool.release(g),
        }
    }

    fn adjoint_chain(
        &mut self,
        end: usize,
        chain: Chain,
        g: Arc<Vec<T>>,
        params: &ParamSet,
        x: &[f32],
        batch: usize,
        param_grads: &mut [Vec<f32>],
        lane: &dyn Lane,
    ) {
        let cpu = lane.host();
        let shape = self.graph.shape(chain.base).clone();
        let extent = extent(batch, &shape);
        let Some(map) = self.maps[end].take() else {
            self.pool.release(g);
            return;
        };
        let z = stored(&self.values, &self.input, x, chain.base);
        let back = match chain
            .norm
            .and_then(|n| Some((n, Norm::of(&self.graph.nodes[n].op)?)))
        {
            None => Back::still(shape[0], |_| 1.0),
            Some((node, norm)) => {
                let places = params.of_node(node);
                let wants = [0, 1].map(|k| self.trainable[places.start + k]);
                let values = &self.saved[node].values;
                let own = params.slices(node);
                let gathered = self.touched[end].sums.take();
                let returned = match gathered {
                    Some(sums) => norm.returned(false, extent, own[0], values, sums, wants),
                    None => norm.back(cpu, self.mode, extent, &own, values, &map, (&g, z), wants),
                };
                let sums = [returned.weight, returned.bias];
                for (grad, sums) in param_grads[places].iter_mut().zip(sums) {
                    for (g, s) in grad.iter_mut().zip(sums.iter().flatten()) {
                        *g = *s as f32;
                    }
                }
                returned.back
            }
        };
        let Some(base) = self.wanted(chain.base) else {
            self.pool.release(g);
            return;
        };
        self.maps[end] = Some(map);
        if self.training.follower[base] == Some(end) {
            self.lazy[base] = Some(Lazy { grad: g, end, back });
            return;
        }
        let mut dz = self.pool.take(extent.len());
        let view = self.back_view(chain, end, &g, &back, x);
        pass::make(cpu, extent, view, &mut dz);
        self.pool.release(g);
        self.hand_over(base, Arc::new(dz), lane);
    }

    fn back_view<'a>(
        &'a self,
        chain: Chain,
        end: usize,
        grad: &'a [T],
        back: &'a Back,
        x: &'a [f32],
    ) -> View<'a, T> {
        match &self.maps[end] {
            Some(map) => View::Back {
                grad,
                data: stored(&self.values, &self.input, x, chain.base),
                map,
                back,
            },
            None => View::Plain(grad),
        }
    }

    fn adjoint_product(
        &mut self,
        i: usize,
        params: &ParamSet,
        x: &[f32],
        batch: usize,
        param_grads: &mut [Vec<f32>],
        lane: &dyn Lane,
    ) -> Result<(), OpError> {
        let (lazy, plain) = (self.lazy[i].take(), self.grads[i].take());
        let source = self.graph.sources[i][0];
        let Some(product) = Product::of(&self.graph.nodes[i].op, self.graph.shape(source))? else {
            return Ok(());
        };
        if lazy.is_none() && plain.is_none() {
            return Ok(());
        }
        let places = params.of_node(i);
        let trainable = &self.trainable[places.clone()];
        let mut grads: Vec<Option<&mut [f32]>> = param_grads[places]
            .iter_mut()
            .zip(trainable)
            .map(|(g, &t)| t.then_some(g.as_mut_slice()))
            .collect();
        // Where the input's gradient goes: on top of what others sent, if that is nobody else's.
        let target = self.wanted(source);
        let len = batch * self.graph.shape(source).iter().product::<usize>();
        let mut write = Write::Set;
        let mut buffer = target.map(|j| match self.grads[j].take() {
            Some(sum) => {
                write = Write::Add;
                self.own(sum)
            }
            None => self.pool.take(len),
        });
        let mut scratch = std::mem::take(&mut self.scratch);
        let g = match (&lazy, &plain) {
            (Some(lazy), _) => match self.training.places[lazy.end] {
                Place::Seen(chain) | Place::Copied(chain) => {
                    self.back_view(chain, lazy.end, &lazy.grad, &lazy.back, x)
                }
                _ => View::Plain(lazy.grad.as_slice()),
            },
            (None, Some(plain)) => View::Plain(plain.as_slice()),
            (None, None) => return Ok(()),
        };
        // The input is read again for the weight's gradient alone.
        let input = if self.training.keeps[i].inputs {
            self.view(&self.training, source, x)
        } else {
            View::Plain(&[])
        };
        let into = buffer.as_mut().map(|dx| Into {
            write,
            dx: dx.as_mut_slice(),
        });
        let weight = params.slices(i)[0];
        let touch = match target {
            Some(j) if self.arrived[j] + 1 == self.training.arrivals[j] => self.touch(j, x, lane),
            _ => Touch::default(),
        };
        let both = (input, g);
        let done = product.adjoint(
            lane,
            &mut scratch,
            batch,
            both,
            weight,
            into,
            &mut grads,
            |p| {
                touch.part(lane, p);
            },
        );
        let Touch { mask, gathers } = touch;
        let masked = mask.is_some();
        let sums: Vec<_> = gathers
            .iter()
            .map(|(j, gather, _)| (*j, gather.total()))
            .collect();
        self.scratch = scratch;
        if let Some(j) = target {
            self.arrived[j] += 1;
            self.touched[j].masked = masked;
        }
        for (j, sums) in sums {
            self.touched[j].sums = Some(sums);
        }
        for g in [lazy.map(|l| l.grad), plain].into_iter().flatten() {
            self.pool.release(g);
        }
        if let (Some(j), Some(buffer)) = (target, buffer) {
            self.grads[j] = Some(Arc::new(buffer));
        }
        done
    }

    /// What is to be done to the gradient of node `j` when its last part is made.
    fn touch<'a>(&'a self, j: usize, x: &'a [f32], lane: &dyn Lane) -> Touch<'a, T> {
        let gather = |end: usize| {
            let (Place::Seen(chain) | Place::Copied(chain)) = self.training.places[end] else {
                return None;
            };
            let (node, map) = (chain.norm?, self.maps[end].as_ref()?);
            let norm = Norm::of(&self.graph.nodes[node].op)?;
            let mean = &self.saved[node].values.get(..map.channels())?;
            let z = stored(&self.values, &self.input, x, chain.base);
            let gather = GatherBack::new(lane.host(), map, mean);
            norm.takes_moments(self.mode).then_some((end, gather, z))
        };
        match self.training.places[j] {
            Place::Sum { of, most } => Touch {
                mask: most.map(|most| (self.values[j].as_deref().unwrap_or_default(), most)),
                gathers: self.graph.sources[of]
                    .iter()
                    .filter_map(|&s| self.wanted(s))
                    .filter(|&end| self.training.arrivals[end] == 1)
                    .filter_map(gather)
                    .collect(),
            },
            _ => Touch {
                mask: None,
                gathers: gather(j).into_iter().collect(),
            },
        }
    }

    fn adjoint_made(
        &mut self,
        i: usize,
        g: Arc<Vec<T>>,
        params: &ParamSet,
        x: &[f32],
        batch: usize,
        param_grads: &mut [Vec<f32>],
        lane: &dyn Lane,
    ) -> Result<(), OpError> {
        let node = &self.graph.nodes[i];
        let sources = self.graph.sources[i].clone();
        let cpu = lane.host();
        let mut input_grads: Vec<Option<(usize, Vec<T>)>> = Vec::with_capacity(sources.len());
        for &s in &sources {
            let len = batch * self.graph.shape(s).iter().product::<usize>();
            let buffer = self.wanted(s).map(|j| (j, self.pool.take(len)));
            input_grads.push(buffer);
        }
        let floats: Vec<Floats<'_, T>> = sources
            .iter()
            .map(|&s| {
                let keeps = self.training.keeps[i].inputs;
                let data = if keeps {
                    stored(&self.values, &self.input, x, s)
                } else {
                    &[]
                };
                Floats::of(lane, data)
            })
            .collect();
        let inputs: Vec<Operand<'_>> = sources
            .iter()
            .zip(&floats)
            .map(|(&s, data)| Operand {
                shape: self.graph.shape(s),
                data: data.get(),
            })
            .collect();
        let places = params.of_node(i);
        let trainable = &self.trainable[places.clone()];
        let mut own: Vec<Option<&mut [f32]>> = param_grads[places]
            .iter_mut()
            .zip(trainable)
            .map(|(g, &t)| t.then_some(g.as_mut_slice()))
            .collect();
        let output = Floats::of(lane, self.values[i].as_deref().unwrap_or_default());
        let output_grad = Floats::of(lane, &g);
        // Buffers of f32 are written where they lie, others beside.
        let mut beside: Vec<Vec<f32>> = input_grads
            .iter()
            .map(|g| match g {
                Some((_, g)) if T::as_floats(g).is_none() => vec![0.0; g.len()],
                _ => Vec::new(),
            })
            .collect();
        let mut buffers: Vec<Option<&mut [f32]>> = input_grads
            .iter_mut()
            .zip(&mut beside)
            .map(|(g, beside)| {
                let (_, g) = g.as_mut()?;
                Some(T::as_floats_mut(g).unwrap_or(beside))
            })
            .collect();
        let done = node.op.adjoint(Adjoint {
            batch,
            inputs: &inputs,
            output: output.get(),
            params: &params.slices(i),
            mode: self.mode,
            saved: &self.saved[i],
            output_grad: output_grad.get(),
            input_grads: &mut buffers,
            param_grads: &mut own,
            scratch: &mut self.scratch,
            lane,
        });
        for (g, beside) in input_grads.iter_mut().zip(&beside) {
            if let (Some((_, g)), false) = (g, beside.is_empty()) {
                pass::convert(cpu, beside, g);
            }
        }
        drop((output, output_grad));
        self.pool.release(g);
        for (j, g) in input_grads.into_iter().flatten() {
            self.hand_over(j, Arc::new(g), lane);
        }
        done
    }

    /// A gradient's buffer to write into: a copy where somebody else still reads it.
    fn own(&mut self, g: Arc<Vec<T>>) -> Vec<T> {
        Arc::try_unwrap(g).unwrap_or_else(|shared| {
            let mut copy = self.pool.take(shared.len());
            copy.copy_from_slice(&shared);
            copy
        })
    }

    /// Adds a gradient to what other readers of the same value have sent back.
    fn hand_over(&mut self, j: usize, g: Arc<Vec<T>>, lane: &dyn Lane) {
        self.arrived[j] += 1;
        let sum = match self.grads[j].take() {
            Some(sum) => {
                let mut sum = self.own(sum);
                pass::accumulate(lane.host(), &g, &mut sum);
                self.pool.release(g);
                Arc::new(sum)
            }
            None => g,
        };
        self.grads[j] = Some(sum);
    }
}
