//! Batch and group normalisation: `y = (x - mean) / sqrt(var + eps) * weight + bias`.
//!
//! Source: Ioffe and Szegedy 2015; Wu and He 2018. With `h = (x - mean) r`, `r` the reciprocal
//! deviation and `n` values behind each statistic, the adjoint is
//! `dx = r (g w - sum(g w) / n - h sum(g w h) / n)`; with fixed statistics `dx = r g w`.

use super::{
    Adjoint, BatchNorm, Forward, GroupNorm, NormMode, OpError, Saved, Scratch, expect_len,
    positions,
};
use crate::kernel::channels;

/// Repeats `f(channel)` to a tile.
fn tile_of(n: usize, out: &mut Vec<f32>, f: impl Fn(usize) -> f32) {
    out.clear();
    out.extend((0..n).map(f));
    while out.len() < channels::tile_len(n) {
        out.extend_from_within(..n);
    }
}

/// Splits channels into groups that share statistics; a batch norm has one channel per group.
#[derive(Clone, Copy)]
struct Groups {
    channels: usize,
    groups: usize,
}

impl Groups {
    fn width(self) -> usize {
        self.channels / self.groups
    }

    /// Replaces each channel's sum by its group's.
    fn pool(self, sums: &mut [f64]) {
        for group in sums.chunks_exact_mut(self.width()) {
            let total: f64 = group.iter().sum();
            group.fill(total);
        }
    }
}

/// Appends mean and reciprocal deviation per group of `x` (`[rows, C]`) to `saved`, as
/// `[means..., reciprocals...]`. The mean is taken first, then the squares around it.
fn statistics(x: &[f32], g: Groups, eps: f32, saved: &mut Vec<f32>, scratch: &mut Scratch) {
    let n = (x.len() / g.groups) as f64;
    let [sums, squares] = &mut scratch.sums;
    let [mean, partial, ..] = &mut scratch.tiles;
    for s in [&mut *sums, &mut *squares] {
        s.clear();
        s.resize(g.channels, 0.0);
    }
    channels::sum(x, sums, partial);
    g.pool(sums);
    tile_of(g.channels, mean, |c| (sums[c] / n) as f32);
    channels::sum_centred_squares(x, mean, squares, partial);
    g.pool(squares);
    let firsts = || (0..g.channels).step_by(g.width());
    saved.extend(firsts().map(|c| (sums[c] / n) as f32));
    saved.extend(firsts().map(|c| (1.0 / (squares[c] / n + f64::from(eps)).sqrt()) as f32));
}

/// `y = (x - mean) r weight + bias` with one mean and `r` per group.
fn normalise(
    x: &[f32],
    g: Groups,
    means: &[f32],
    reciprocals: &[f32],
    params: &[&[f32]],
    y: &mut [f32],
    scratch: &mut Scratch,
) {
    let [mean, factor, shift, ..] = &mut scratch.tiles;
    let width = g.width();
    tile_of(g.channels, mean, |c| means[c / width]);
    tile_of(g.channels, factor, |c| {
        reciprocals[c / width] * params[0][c]
    });
    tile_of(g.channels, shift, |c| params[1][c]);
    channels::affine(x, mean, factor, shift, y);
}

/// What one block of rows that shares its statistics gives back.
struct Block<'a> {
    /// `[rows, C]`
    x: &'a [f32],
    /// `[rows, C]`
    grad: &'a [f32],
    means: &'a [f32],
    reciprocals: &'a [f32],
    weight: &'a [f32],
}

/// Adjoint over one block whose statistics depend on its values. Adds each channel's `sum(g)` and
/// `sum(g h)` to `totals`, which are the gradients of bias and weight.
fn block_adjoint(
    b: &Block<'_>,
    g: Groups,
    dx: Option<&mut [f32]>,
    totals: &mut [Vec<f64>; 2],
    scratch: &mut Scratch,
) {
    let n = (b.x.len() / g.groups) as f64;
    let width = g.width();
    let [sums, dots] = &mut scratch.sums;
    let [mean, partial, factor, slope, offset, other] = &mut scratch.tiles;
    for s in [&mut *sums, &mut *dots] {
        s.clear();
        s.resize(g.channels, 0.0);
    }
    tile_of(g.channels, mean, |c| b.means[c / width]);
    channels::sum_and_centred_dot(b.grad, b.x, mean, sums, dots, partial, other);
    for c in 0..g.channels {
        dots[c] *= f64::from(b.reciprocals[c / width]);
        totals[0][c] += sums[c];
        totals[1][c] += dots[c];
        sums[c] *= f64::from(b.weight[c]);
        dots[c] *= f64::from(b.weight[c]);
    }
    let Some(dx) = dx else { return };
    g.pool(sums);
    g.pool(dots);
    tile_of(g.channels, factor, |c| {
        b.reciprocals[c / width] * b.weight[c]
    });
    tile_of(g.channels, slope, |c| {
        let r = f64::from(b.reciprocals[c / width]);
        (r * r * dots[c] / n) as f32
    });
    tile_of(g.channels, offset, |c| {
        (f64::from(b.reciprocals[c / width]) * sums[c] / n) as f32
    });
    channels::norm_adjoint(b.grad, b.x, mean, factor, slope, offset, dx);
}

/// Hands the totals out to whoever asked.
fn write_totals(totals: &[Vec<f64>; 2], param_grads: &mut [Option<&mut [f32]>]) {
    // Weight first, as in the parameter list.
    for (total, grad) in [&totals[1], &totals[0]].into_iter().zip(param_grads) {
        if let Some(grad) = grad {
            for (g, t) in grad.iter_mut().zip(total) {
                *g = *t as f32;
            }
        }
    }
}

/// # Shapes
/// x, y `[B, P, C]`; saved: mean and reciprocal deviation `[C]` each
pub(super) fn batch_forward(n: &BatchNorm, cx: &mut Forward<'_>) -> Result<(), OpError> {
    let x = cx.inputs[0].data;
    let g = Groups {
        channels: n.channels,
        groups: n.channels,
    };
    cx.saved.values.clear();
    if cx.mode == NormMode::Train {
        if cx.batch * positions(cx.inputs[0].shape) < 2 {
            return Err(OpError::OneValue);
        }
        statistics(x, g, n.eps, &mut cx.saved.values, cx.scratch);
    } else {
        cx.saved.values.extend_from_slice(cx.params[2]);
        let variance = cx.params[3].iter();
        cx.saved
            .values
            .extend(variance.map(|v| 1.0 / (v + n.eps).sqrt()));
    }
    let (means, reciprocals) = cx.saved.values.split_at(n.channels);
    normalise(x, g, means, reciprocals, cx.params, cx.output, cx.scratch);
    Ok(())
}

/// Adjoint of [`batch_forward`], in the mode the forward ran in.
pub(super) fn batch_adjoint(n: &BatchNorm, cx: &mut Adjoint<'_>) -> Result<(), OpError> {
    expect_len(
        "the saved statistics",
        cx.saved.values.len(),
        2 * n.channels,
    )?;
    let (means, reciprocals) = cx.saved.values.split_at(n.channels);
    let g = Groups {
        channels: n.channels,
        groups: n.channels,
    };
    let scratch = &mut *cx.scratch;
    let mut totals = [vec![0.0; n.channels], vec![0.0; n.channels]];
    if cx.mode == NormMode::Train {
        let block = Block {
            x: cx.inputs[0].data,
            grad: cx.output_grad,
            means,
            reciprocals,
            weight: cx.params[0],
        };
        let dx = cx.input_grads[0].as_deref_mut();
        block_adjoint(&block, g, dx, &mut totals, scratch);
        write_totals(&totals, cx.param_grads);
        return Ok(());
    }
    if let Some(dx) = &mut cx.input_grads[0] {
        let factor = &mut scratch.tiles[0];
        tile_of(n.channels, factor, |c| reciprocals[c] * cx.params[0][c]);
        channels::scale(cx.output_grad, factor, dx);
    }
    if cx.param_grads[0].is_some() {
        let block = Block {
            x: cx.inputs[0].data,
            grad: cx.output_grad,
            means,
            reciprocals,
            weight: cx.params[0],
        };
        block_adjoint(&block, g, None, &mut totals, scratch);
    } else if cx.param_grads[1].is_some() {
        channels::sum(cx.output_grad, &mut totals[0], &mut scratch.tiles[0]);
    }
    write_totals(&totals, cx.param_grads);
    Ok(())
}

/// See [`super::Op::next_statistics`].
pub(super) fn next_statistics(
    n: &BatchNorm,
    batch: usize,
    input: &[usize],
    params: &[&[f32]],
    saved: &Saved,
) -> Vec<(usize, Vec<f32>)> {
    let (means, reciprocals) = saved.values.split_at(n.channels);
    let count = (batch * positions(input)) as f32;
    let blend = |old: &f32, new: f32| (1.0 - n.momentum) * old + n.momentum * new;
    let mean = params[2].iter().zip(means).map(|(o, &m)| blend(o, m));
    let variance = params[3].iter().zip(reciprocals).map(|(o, r)| {
        let biased = 1.0 / (r * r) - n.eps;
        blend(o, biased.max(0.0) * count / (count - 1.0))
    });
    vec![(2, mean.collect()), (3, variance.collect())]
}

/// # Shapes
/// x, y `[B, P, C]`; saved: per sample mean and reciprocal deviation `[groups]` each
pub(super) fn group_forward(n: &GroupNorm, cx: &mut Forward<'_>) -> Result<(), OpError> {
    let x = cx.inputs[0];
    let g = Groups {
        channels: n.channels,
        groups: n.groups,
    };
    cx.saved.values.clear();
    let sample = positions(x.shape) * n.channels;
    let samples = x.data.chunks_exact(sample);
    for (x, y) in samples.zip(cx.output.chunks_exact_mut(sample)) {
        let from = cx.saved.values.len();
        statistics(x, g, n.eps, &mut cx.saved.values, cx.scratch);
        let (means, reciprocals) = cx.saved.values[from..].split_at(n.groups);
        normalise(x, g, means, reciprocals, cx.params, y, cx.scratch);
    }
    Ok(())
}

/// Adjoint of [`group_forward`].
pub(super) fn group_adjoint(n: &GroupNorm, cx: &mut Adjoint<'_>) -> Result<(), OpError> {
    let x = cx.inputs[0];
    expect_len(
        "the saved statistics",
        cx.saved.values.len(),
        2 * n.groups * cx.batch,
    )?;
    let wants_input = cx.input_grads[0].is_some();
    if !wants_input && cx.param_grads.iter().all(Option::is_none) {
        return Ok(());
    }
    let g = Groups {
        channels: n.channels,
        groups: n.groups,
    };
    let mut totals = [vec![0.0; n.channels], vec![0.0; n.channels]];
    let sample = positions(x.shape) * n.channels;
    for i in 0..cx.batch {
        let saved = &cx.saved.values[i * 2 * n.groups..][..2 * n.groups];
        let (means, reciprocals) = saved.split_at(n.groups);
        let block = Block {
            x: &x.data[i * sample..][..sample],
            grad: &cx.output_grad[i * sample..][..sample],
            means,
            reciprocals,
            weight: cx.params[0],
        };
        let dx = cx.input_grads[0]
            .as_deref_mut()
            .map(|dx| &mut dx[i * sample..][..sample]);
        block_adjoint(&block, g, dx, &mut totals, cx.scratch);
    }
    write_totals(&totals, cx.param_grads);
    Ok(())
}
