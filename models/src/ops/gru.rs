//! Gated recurrent unit over the time steps of a window.
//!
//! With `σ` the sigmoid and `h_0 = 0`, in the order and with the two biases of PyTorch's `nn.GRU`:
//!
//! ```text
//! r = σ(W_ir x + b_ir + W_hr h + b_hr)
//! z = σ(W_iz x + b_iz + W_hz h + b_hz)
//! n = tanh(W_in x + b_in + r (W_hn h + b_hn))
//! h' = (1 - z) n + z h
//! ```
//!
//! `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh` stack the blocks `r`, `z`, `n`. Time steps are worked
//! on in tiles, so that working memory stays the same however long the window is: the input's part of a
//! tile is one product, the hidden state's part one thin product per step.
//!
//! **What is kept.** Of a step the forward leaves the hidden state alone (`H` values; for a sequence
//! that is the output itself). The gates (`4 H`) are made anew in the adjoint: with every state known,
//! nothing waits for the step before, so that this takes two wide products a tile. Going back, the gates
//! of a tile turn into the gradients of their sums in place, and each gradient of a weight, and that
//! of the input, is one product a tile.
//!
//! Source: Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder", with the reset
//! gate behind the product and two biases as in PyTorch (and cuDNN).

use std::ops::Range;

use super::WORKSPACE_BYTES;
use super::{Adjoint, Forward, Gru, GruOutput, OpError};
use crate::kernel::{channels, elementwise, gates};
use crate::lane::{Lane, Mat, MatMut};

/// Bytes of a tile aimed at: they should stay in a core's second-level cache.
const TILE_BYTES: usize = 512 << 10;

/// Rows a tile has at least where [`WORKSPACE_BYTES`] allows: thinner products waste the time it takes
/// to read and write a weight's gradient.
const TILE_ROWS: usize = 256;

/// A recurrent unit with its sizes worked out.
struct Plan {
    batch: usize,
    length: usize,
    input: usize,
    hidden: usize,
}

/// The parameters as the tiles want them.
struct Weights<'a> {
    /// `weight_ih` with its blocks in the order `n r z`: `[3 H, C]`
    input: &'a [f32],
    /// `weight_hh`, blocks `r z n`: `[3 H, H]`
    hidden: &'a [f32],
    /// What is added to a row of gates: `[4 H]`
    bias: &'a [f32],
}

/// Some steps of some samples, rows ordered by step, then sample.
struct Tile<'a> {
    samples: Range<usize>,
    steps: Range<usize>,
    /// `[steps * samples, 4 H]`, see [`gates`]
    gates: &'a mut [f32],
    /// `[steps * samples, C]`
    x: &'a mut [f32],
    /// State before each step, `[steps * samples, H]`; empty in the forward.
    before: &'a mut [f32],
}

impl Plan {
    fn of(g: &Gru, batch: usize, shape: &[usize]) -> Self {
        Self {
            batch,
            length: shape[1],
            input: g.input,
            hidden: g.hidden,
        }
    }

    /// Values a tile takes for each row, and the running state's.
    fn row(&self) -> usize {
        6 * self.hidden + self.input
    }

    /// Samples worked on at once: all, but for batches of thousands.
    fn samples(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let most = (WORKSPACE_BYTES / size_of::<f32>() / self.row()).max(1);
        let batch = self.batch;
        (0..batch)
            .step_by(most)
            .map(move |from| from..(from + most).min(batch))
    }

    /// Steps worked on at once.
    fn steps(&self, samples: usize) -> impl DoubleEndedIterator<Item = Range<usize>> + use<> {
        let row = self.row() * size_of::<f32>();
        let rows = (TILE_BYTES / row).max(TILE_ROWS).min(WORKSPACE_BYTES / row);
        let most = (rows / samples).max(1);
        let length = self.length;
        (0..length)
            .step_by(most)
            .map(move |from| from..(from + most).min(length))
    }

    /// Cuts a tile out of the workspace.
    fn tile<'a>(
        &self,
        samples: Range<usize>,
        steps: Range<usize>,
        with_states: bool,
        workspace: &'a mut Vec<f32>,
    ) -> Tile<'a> {
        let rows = samples.len() * steps.len();
        let states = if with_states { rows * self.hidden } else { 0 };
        let (gates, x) = (rows * 4 * self.hidden, rows * self.input);
        if workspace.len() < gates + x + states {
            workspace.resize(gates + x + states, 0.0);
        }
        let (gates, rest) = workspace.split_at_mut(gates);
        let (x, rest) = rest.split_at_mut(x);
        Tile {
            samples,
            steps,
            gates,
            x,
            before: &mut rest[..states],
        }
    }
}

impl<'a> Weights<'a> {
    fn of(
        plan: &Plan,
        params: &[&'a [f32]],
        turned: &'a mut Vec<f32>,
        bias: &'a mut Vec<f32>,
    ) -> Self {
        let h = plan.hidden;
        let (rz, n) = params[0].split_at(2 * h * plan.input);
        turned.clear();
        turned.extend_from_slice(n);
        turned.extend_from_slice(rz);
        let (of_input, of_state) = (params[2], params[3]);
        bias.clear();
        bias.extend_from_slice(&of_input[2 * h..]);
        bias.extend((0..2 * h).map(|i| of_input[i] + of_state[i]));
        bias.extend_from_slice(&of_state[2 * h..]);
        Self {
            input: turned,
            hidden: params[1],
            bias,
        }
    }
}

impl Tile<'_> {
    fn rows(&self) -> usize {
        self.samples.len() * self.steps.len()
    }

    /// Each row with the place of its sample and step among rows ordered by sample, then step.
    fn places(&self, plan: &Plan) -> impl Iterator<Item = usize> + use<> {
        let (samples, length) = (self.samples.clone(), plan.length);
        let at_step = move |t| samples.clone().map(move |b| b * length + t);
        self.steps.clone().flat_map(at_step)
    }

    /// Copies the tile's part of the input.
    fn gather_input(&mut self, plan: &Plan, x: &[f32]) {
        let places = self.places(plan);
        for (row, place) in self.x.chunks_exact_mut(plan.input).zip(places) {
            row.copy_from_slice(&x[place * plan.input..][..plan.input]);
        }
    }

    /// Copies the state before each step out of a sequence; before the first it is 0.
    fn gather_states(&mut self, plan: &Plan, sequence: &[f32]) {
        let places = self.places(plan);
        for (row, place) in self.before.chunks_exact_mut(plan.hidden).zip(places) {
            if place.is_multiple_of(plan.length) {
                row.fill(0.0);
            } else {
                row.copy_from_slice(&sequence[(place - 1) * plan.hidden..][..plan.hidden]);
            }
        }
    }

    /// Begins every row of gates with the biases and the input's part.
    fn project(&mut self, plan: &Plan, w: &Weights<'_>, lane: &dyn Lane) -> Result<(), OpError> {
        let (h, rows) = (plan.hidden, self.rows());
        for row in self.gates.chunks_exact_mut(4 * h) {
            row.copy_from_slice(w.bias);
        }
        lane.gemm(
            1.0,
            Mat::dense(self.x, rows, plan.input)?,
            Mat::dense(w.input, 3 * h, plan.input)?.transposed(),
            1.0,
            MatMut::new(self.gates, rows, 3 * h, 4 * h, 1)?,
        )?;
        Ok(())
    }
}

/// Adds the hidden state's part to rows of gates.
///
/// # Shapes
/// state `[rows, H]`, weight `[3 H, H]`, gates `[rows, 4 H]`
fn add_state(
    hidden: usize,
    state: &[f32],
    weight: &[f32],
    gates: &mut [f32],
    lane: &dyn Lane,
) -> Result<(), OpError> {
    let rows = state.len() / hidden;
    lane.gemm(
        1.0,
        Mat::dense(state, rows, hidden)?,
        Mat::dense(weight, 3 * hidden, hidden)?.transposed(),
        1.0,
        MatMut::new(&mut gates[hidden..], rows, 3 * hidden, 4 * hidden, 1)?,
    )?;
    Ok(())
}

/// # Shapes
/// x `[B, L, C]`, y `[B, L, H]` (sequence) or `[B, H]` (last)
pub(super) fn forward(g: &Gru, cx: &mut Forward<'_>) -> Result<(), OpError> {
    let plan = Plan::of(g, cx.batch, cx.inputs[0].shape);
    let (h, length) = (plan.hidden, plan.length);
    let scratch = &mut *cx.scratch;
    let [bias, state, _] = &mut scratch.tiles;
    let weights = Weights::of(&plan, cx.params, &mut scratch.weight, bias);
    let kept = &mut cx.saved.values;
    kept.clear();
    if cx.keep && g.output == GruOutput::Last {
        kept.resize(plan.batch * length * h, 0.0);
    }
    for samples in plan.samples() {
        let n = samples.len();
        state.clear();
        state.resize(n * h, 0.0);
        for steps in plan.steps(n) {
            let mut tile = plan.tile(samples.clone(), steps, false, &mut scratch.patches);
            tile.gather_input(&plan, cx.inputs[0].data);
            tile.project(&plan, &weights, cx.lane)?;
            let rows = tile.gates.chunks_exact_mut(n * 4 * h);
            for (t, rows) in tile.steps.clone().zip(rows) {
                if t > 0 {
                    add_state(h, state, weights.hidden, rows, cx.lane)?;
                }
                gates::activate(rows, h);
                gates::blend(rows, state, h);
                let sequence: &mut [f32] = match g.output {
                    GruOutput::Sequence => cx.output,
                    GruOutput::Last => kept,
                };
                if !sequence.is_empty() {
                    for (b, state) in samples.clone().zip(state.chunks_exact(h)) {
                        sequence[(b * length + t) * h..][..h].copy_from_slice(state);
                    }
                }
            }
        }
        if g.output == GruOutput::Last {
            cx.output[samples.start * h..samples.end * h].copy_from_slice(state);
        }
    }
    Ok(())
}

/// Backward through time, tile by tile from the last.
///
/// With `G` the gradients of the sums, `G_i` those that the input reaches and `G_h` those that the
/// state does: `dX = G_i W_ih`, `dW_ih = G_iᵀ X`, `dW_hh = G_hᵀ H`, biases their sums over rows.
pub(super) fn adjoint(g: &Gru, cx: &mut Adjoint<'_>) -> Result<(), OpError> {
    let wanted = (cx.param_grads.iter()).chain(&*cx.input_grads);
    if wanted.flatten().next().is_none() {
        return Ok(());
    }
    let plan = Plan::of(g, cx.batch, cx.inputs[0].shape);
    let (h, length) = (plan.hidden, plan.length);
    let scratch = &mut *cx.scratch;
    let [bias, dh, partial] = &mut scratch.tiles;
    let weights = Weights::of(&plan, cx.params, &mut scratch.weight, bias);
    let sequence = match g.output {
        GruOutput::Sequence => cx.output,
        GruOutput::Last => &cx.saved.values,
    };
    super::expect_len("the kept states", sequence.len(), plan.batch * length * h)?;
    // Tiles add to these.
    for grad in cx.param_grads.iter_mut().take(2).flatten() {
        grad.fill(0.0);
    }
    let sums = &mut scratch.sums;
    sums.clear();
    sums.resize(4 * h, 0.0);
    for samples in plan.samples() {
        let n = samples.len();
        dh.clear();
        match g.output {
            GruOutput::Sequence => dh.resize(n * h, 0.0),
            GruOutput::Last => {
                dh.extend_from_slice(&cx.output_grad[samples.start * h..samples.end * h]);
            }
        }
        for steps in plan.steps(n).rev() {
            let mut tile = plan.tile(samples.clone(), steps, true, &mut scratch.patches);
            tile.gather_input(&plan, cx.inputs[0].data);
            tile.gather_states(&plan, sequence);
            tile.project(&plan, &weights, cx.lane)?;
            add_state(h, tile.before, weights.hidden, tile.gates, cx.lane)?;
            gates::activate(tile.gates, h);

            let rows = tile.gates.chunks_exact_mut(n * 4 * h);
            let all = tile
                .steps
                .clone()
                .zip(rows.zip(tile.before.chunks_exact(n * h)));
            for (t, (rows, before)) in all.rev() {
                if g.output == GruOutput::Sequence {
                    for (b, dh) in samples.clone().zip(dh.chunks_exact_mut(h)) {
                        elementwise::add_assign(dh, &cx.output_grad[(b * length + t) * h..][..h]);
                    }
                }
                gates::adjoint(rows, before, dh, h);
                if t > 0 {
                    cx.lane.gemm(
                        1.0,
                        Mat::new(&rows[h..], n, 3 * h, 4 * h, 1)?,
                        Mat::dense(weights.hidden, 3 * h, h)?,
                        1.0,
                        MatMut::dense(dh, n, h)?,
                    )?;
                }
            }
            if cx.param_grads[2..].iter().any(Option::is_some) {
                channels::sum(cx.lane.host().isa(), tile.gates, sums, partial);
            }
            tile_gradients(
                &plan,
                &mut tile,
                &weights,
                cx.param_grads,
                cx.input_grads,
                cx.lane,
            )?;
        }
    }
    bias_gradients(h, sums, cx.param_grads);
    if let Some(dw) = &mut cx.param_grads[0] {
        // From `n r z` to `r z n`.
        dw.rotate_left(h * plan.input);
    }
    Ok(())
}

/// What one tile adds to the gradients of both weights, and its part of the input's.
fn tile_gradients(
    plan: &Plan,
    tile: &mut Tile<'_>,
    weights: &Weights<'_>,
    param_grads: &mut [Option<&mut [f32]>],
    input_grads: &mut [Option<&mut [f32]>],
    lane: &dyn Lane,
) -> Result<(), OpError> {
    let (c, h, rows) = (plan.input, plan.hidden, tile.rows());
    let of_input = Mat::new(tile.gates, rows, 3 * h, 4 * h, 1)?;
    let of_state = Mat::new(&tile.gates[h..], rows, 3 * h, 4 * h, 1)?;
    if let Some(dw) = &mut param_grads[0] {
        let (x, dw) = (Mat::dense(tile.x, rows, c)?, MatMut::dense(dw, 3 * h, c)?);
        lane.gemm(1.0, of_input.transposed(), x, 1.0, dw)?;
    }
    if let Some(dw) = &mut param_grads[1] {
        let before = Mat::dense(tile.before, rows, h)?;
        let dw = MatMut::dense(dw, 3 * h, h)?;
        lane.gemm(1.0, of_state.transposed(), before, 1.0, dw)?;
    }
    if let Some(dx) = &mut input_grads[0] {
        // The tile's input is needed no longer.
        let weight = Mat::dense(weights.input, 3 * h, c)?;
        let part = MatMut::dense(tile.x, rows, c)?;
        lane.gemm(1.0, of_input, weight, 0.0, part)?;
        for (row, place) in tile.x.chunks_exact(c).zip(tile.places(plan)) {
            dx[place * c..][..c].copy_from_slice(row);
        }
    }
    Ok(())
}

/// Hands out the sums of all rows of gradients, blocks `n r z c`.
fn bias_gradients(hidden: usize, sums: &[f64], param_grads: &mut [Option<&mut [f32]>]) {
    let copy = |sums: &[f64], to: &mut [f32]| {
        for (to, sum) in to.iter_mut().zip(sums) {
            *to = *sum as f32;
        }
    };
    let (n, rest) = sums.split_at(hidden);
    if let Some(db) = &mut param_grads[2] {
        copy(&rest[..2 * hidden], db);
        copy(n, &mut db[2 * hidden..]);
    }
    if let Some(db) = &mut param_grads[3] {
        copy(rest, db);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::CpuLane;
    use crate::ops::{NormMode, Op, Operand, Saved, Scratch};

    fn plan(batch: usize, length: usize, input: usize, hidden: usize) -> Plan {
        Plan {
            batch,
            length,
            input,
            hidden,
        }
    }

    #[test]
    fn tiles_cover_every_step_of_every_sample_within_the_workspace() {
        for plan in [
            plan(3, 17, 6, 64),
            plan(32, 1024, 6, 64),
            plan(5000, 9, 3, 128),
            plan(2, 1, 1, 1),
        ] {
            let mut seen = vec![false; plan.batch * plan.length];
            for samples in plan.samples() {
                let mut next = 0;
                for steps in plan.steps(samples.len()) {
                    assert_eq!(steps.start, next);
                    next = steps.end;
                    let mut workspace = Vec::new();
                    let tile = plan.tile(samples.clone(), steps, true, &mut workspace);
                    for place in tile.places(&plan) {
                        assert!(!std::mem::replace(&mut seen[place], true), "{place} twice");
                    }
                    assert!(workspace.len() * size_of::<f32>() <= WORKSPACE_BYTES);
                }
                assert_eq!(next, plan.length);
            }
            assert!(!seen.contains(&false));
        }
    }

    fn values(n: usize, salt: usize) -> Vec<f32> {
        (0..n)
            .map(|i| ((i * 31 + salt) as f32 * 0.37).sin() * 0.6)
            .collect()
    }

    /// Output and gradients (input's first) of a layer over these samples.
    fn run(g: &Gru, batch: usize, x: &[f32], output_grad: &[f32]) -> (Vec<f32>, Vec<Vec<f32>>) {
        let op = Op::Gru(g.clone());
        let shape = [g.input, x.len() / g.input / batch];
        let inputs = [Operand {
            shape: &shape,
            data: x,
        }];
        let owned: Vec<Vec<f32>> = (op.params().iter().enumerate())
            .map(|(i, p)| values(p.shape.iter().product(), i))
            .collect();
        let params: Vec<&[f32]> = owned.iter().map(Vec::as_slice).collect();
        let (mut output, mut saved) = (vec![0.0; output_grad.len()], Saved::default());
        let (mut scratch, lane) = (Scratch::default(), CpuLane::new(1));
        op.forward(Forward {
            batch,
            inputs: &inputs,
            params: &params,
            mode: NormMode::Eval,
            keep: true,
            output: &mut output,
            saved: &mut saved,
            scratch: &mut scratch,
            lane: &lane,
        })
        .expect("forward");
        let lengths = [x.len()].into_iter().chain(owned.iter().map(Vec::len));
        let mut grads: Vec<Vec<f32>> = lengths.map(|n| vec![f32::NAN; n]).collect();
        let mut wanted: Vec<Option<&mut [f32]>> =
            grads.iter_mut().map(|g| Some(g.as_mut_slice())).collect();
        let (input_grads, param_grads) = wanted.split_at_mut(1);
        op.adjoint(Adjoint {
            batch,
            inputs: &inputs,
            output: &output,
            params: &params,
            mode: NormMode::Eval,
            saved: &saved,
            output_grad,
            input_grads,
            param_grads,
            scratch: &mut scratch,
            lane: &lane,
        })
        .expect("adjoint");
        let scratch = scratch.patches.len() * size_of::<f32>();
        assert!(scratch <= WORKSPACE_BYTES, "{scratch} bytes of scratch");
        (output, grads)
    }

    #[test]
    fn thousands_of_samples_are_worked_on_in_parts_that_add_up() {
        let copies = 2000;
        for output in [GruOutput::Sequence, GruOutput::Last] {
            let g = Gru {
                input: 2,
                hidden: 32,
                output,
            };
            let states = if output == GruOutput::Last { 1 } else { 4 };
            let (x, grad) = (values(3 * 4 * 2, 7), values(3 * states * 32, 8));
            assert!(plan(3 * copies, 4, 2, 32).samples().count() > 1);
            let (y, grads) = run(&g, 3, &x, &grad);
            let (many, sums) = run(&g, 3 * copies, &x.repeat(copies), &grad.repeat(copies));
            let close = |got: &[f32], want: &[f32], factor: f32| {
                assert_eq!(got.len() % want.len(), 0);
                let scale = factor * want.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
                for (got, want) in got.iter().zip(want.iter().cycle()) {
                    assert!((got - factor * want).abs() <= 1e-4 * scale, "{got}, {want}");
                }
            };
            close(&many, &y, 1.0);
            close(&sums[0], &grads[0], 1.0);
            for (sum, grad) in sums[1..].iter().zip(&grads[1..]) {
                close(sum, grad, copies as f32);
            }
        }
    }
}
