//! Batch and group normalisation: `y = (x - mean) / sqrt(var + eps) * weight + bias`.
//!
//! Source: Ioffe and Szegedy 2015; Wu and He 2018. With `h = (x - mean) r`, `r` the reciprocal
//! deviation and `n` values behind each statistic, the adjoint is
//! `dx = r (g w - sum(g w) / n - h sum(g w h) / n)`; with fixed statistics `dx = r g w`.
//!
//! A norm makes no value of its own: it finds a [`Map`] through which its input is read, and a
//! [`Back`] through which the gradient is.

use super::{
    Adjoint, BatchNorm, Forward, GroupNorm, NormMode, Op, OpError, Saved, expect_len, positions,
};
use crate::kernel::channels;
use crate::kernel::cpu::Cpu;
use crate::kernel::element::Element;
use crate::kernel::moments::{Gather, GatherBack, Moments, by_rows};
use crate::kernel::pass::{self, Extent};
use crate::kernel::view::{Back, Map, View};

/// A norm of either kind.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Norm<'a> {
    Batch(&'a BatchNorm),
    Group(&'a GroupNorm),
}

/// What comes back through a norm: the way to the input's gradient, and the gradients of weight and
/// bias where they were asked for.
pub(crate) struct Returned {
    pub back: Back,
    pub weight: Option<Vec<f64>>,
    pub bias: Option<Vec<f64>>,
}

impl<'a> Norm<'a> {
    /// The norm that an operator is.
    pub(crate) fn of(op: &'a Op) -> Option<Self> {
        match op {
            Op::BatchNorm(n) => Some(Self::Batch(n)),
            Op::GroupNorm(n) => Some(Self::Group(n)),
            _ => None,
        }
    }

    fn channels(self) -> usize {
        match self {
            Self::Batch(n) => n.channels,
            Self::Group(n) => n.channels,
        }
    }

    /// Channels that share a statistic.
    fn width(self) -> usize {
        match self {
            Self::Batch(_) => 1,
            Self::Group(n) => n.channels / n.groups,
        }
    }

    /// Whether its statistics do not depend on the values at hand.
    pub(crate) fn is_fixed(self, mode: NormMode) -> bool {
        matches!(self, Self::Batch(_)) && mode != NormMode::Train
    }

    /// Statistics kept with the parameters, for a norm that is fixed: `[means..., reciprocal
    /// deviations...]`.
    pub(crate) fn fixed(self, params: &[&[f32]]) -> Vec<f32> {
        match self {
            Self::Batch(n) => {
                let reciprocals = params[3].iter().map(|v| 1.0 / (v + n.eps).sqrt());
                params[2].iter().copied().chain(reciprocals).collect()
            }
            Self::Group(_) => Vec::new(),
        }
    }

    /// Whether the statistics are those of [`Norm::of_moments`].
    pub(crate) fn takes_moments(self, mode: NormMode) -> bool {
        matches!(self, Self::Batch(_)) && mode == NormMode::Train
    }

    /// Statistics from the moments of all rows, as in [`Norm::fixed`].
    pub(crate) fn of_moments(self, moments: &Moments) -> Result<Vec<f32>, OpError> {
        let eps = match self {
            Self::Batch(n) => n.eps,
            Self::Group(n) => n.eps,
        };
        if moments.count < 2.0 {
            return Err(OpError::OneValue);
        }
        let variances = moments.squares.iter().map(|s| s / moments.count);
        let reciprocals = variances.map(|v| (1.0 / (v + f64::from(eps)).sqrt()) as f32);
        let means = moments.mean.iter().map(|m| *m as f32);
        Ok(means.chain(reciprocals).collect())
    }

    /// Statistics of the values at hand: as in [`Norm::fixed`], for a group norm per sample.
    pub(crate) fn measured<T: Element>(
        self,
        cpu: &Cpu,
        extent: Extent,
        z: &[T],
    ) -> Result<Vec<f32>, OpError> {
        let channels = self.channels();
        match self {
            Self::Batch(_) => {
                let gather = Gather::new(cpu, channels);
                by_rows(
                    cpu,
                    extent.batch * extent.positions,
                    channels,
                    |member, rows| {
                        gather.add(member, &z[rows]);
                    },
                );
                self.of_moments(&gather.total())
            }
            Self::Group(n) => {
                let mut values = vec![0.0; extent.batch * 2 * n.groups];
                let each = extent.positions * channels;
                cpu.chunks(z.len(), &mut values, 2 * n.groups, |sample, values| {
                    group_statistics(cpu, n, &z[sample * each..][..each], values);
                });
                Ok(values)
            }
        }
    }

    /// Samples that differ.
    fn samples(self, values: &[f32]) -> usize {
        match self {
            Self::Batch(_) => 1,
            Self::Group(n) => values.len() / (2 * n.groups),
        }
    }

    /// Mean and reciprocal deviation of a channel.
    fn of_channel(self, values: &[f32], sample: usize, channel: usize) -> (f64, f64) {
        let groups = self.channels() / self.width();
        let at = sample * 2 * groups + channel / self.width();
        (f64::from(values[at]), f64::from(values[at + groups]))
    }

    /// The map that its statistics make with weight and bias.
    pub(crate) fn map(self, params: &[&[f32]], values: &[f32]) -> Map {
        Map::affine(self.channels(), self.samples(values), |s, c| {
            let (mean, r) = self.of_channel(values, s, c);
            let scale = r * f64::from(params[0][c]);
            (
                scale as f32,
                (f64::from(params[1][c]) - mean * scale) as f32,
            )
        })
    }

    /// The way back. `g` is the gradient of what `map` (this norm's, perhaps with a rectifier behind)
    /// makes of `z`; `z` may be empty where nothing depends on it.
    pub(crate) fn back<T: Element>(
        self,
        cpu: &Cpu,
        mode: NormMode,
        extent: Extent,
        params: &[&[f32]],
        values: &[f32],
        map: &Map,
        (g, z): (&[T], &[T]),
        wants: [bool; 2],
    ) -> Returned {
        let channels = self.channels();
        let weight = params[0];
        if let Self::Group(n) = self {
            return group_back(cpu, n, extent, weight, values, map, (g, z), wants);
        }
        let fixed = self.is_fixed(mode);
        let (mut sums, mut dots) = (Vec::new(), Vec::new());
        if !fixed || wants.contains(&true) {
            let gather = GatherBack::new(cpu, map, &values[..channels]);
            by_rows(
                cpu,
                extent.batch * extent.positions,
                channels,
                |member, rows| {
                    let z = if z.is_empty() { z } else { &z[rows.clone()] };
                    gather.add(member, 0, &g[rows], z);
                },
            );
            (sums, dots) = gather.total();
        }
        self.returned(fixed, extent, weight, values, (sums, dots), wants)
    }

    /// The way back through a batch norm, from the sums that [`GatherBack`] gathers.
    pub(crate) fn returned(
        self,
        fixed: bool,
        extent: Extent,
        weight: &[f32],
        values: &[f32],
        (sums, mut dots): (Vec<f64>, Vec<f64>),
        wants: [bool; 2],
    ) -> Returned {
        let channels = self.channels();
        let n = (extent.batch * extent.positions) as f64;
        let r = |c: usize| f64::from(values[channels + c]);
        // From centred values to normalised ones.
        for (c, dot) in dots.iter_mut().enumerate() {
            *dot *= r(c);
        }
        let factor = |c: usize| r(c) * f64::from(weight[c]);
        let back = if fixed {
            Back::still(channels, |c| factor(c) as f32)
        } else {
            Back::following(channels, 1, |_, c| {
                let slope = factor(c) * r(c) * dots[c] / n;
                let offset = factor(c) * sums[c] / n - f64::from(values[c]) * slope;
                (factor(c) as f32, slope as f32, offset as f32)
            })
        };
        Returned {
            back,
            weight: wants[0].then_some(dots),
            bias: wants[1].then_some(sums),
        }
    }
}

/// Writes `[means..., reciprocal deviations...]` of one sample.
fn group_statistics<T: Element>(cpu: &Cpu, n: &GroupNorm, z: &[T], values: &mut [f32]) {
    let width = n.channels / n.groups;
    let count = (z.len() / n.groups) as f64;
    let (mut sums, mut partial, mut mean) = (vec![0.0; n.channels], Vec::new(), Vec::new());
    channels::sum(cpu.isa(), z, &mut sums, &mut partial);
    let (means, reciprocals) = values.split_at_mut(n.groups);
    for (m, sums) in means.iter_mut().zip(sums.chunks_exact(width)) {
        *m = (sums.iter().sum::<f64>() / count) as f32;
    }
    let of_channel: Vec<f32> = (0..n.channels).map(|c| means[c / width]).collect();
    channels::tile(&of_channel, &mut mean);
    sums.fill(0.0);
    channels::sum_centred_squares(cpu.isa(), z, &mean, &mut sums, &mut partial);
    for (r, squares) in reciprocals.iter_mut().zip(sums.chunks_exact(width)) {
        let variance = squares.iter().sum::<f64>() / count;
        *r = (1.0 / (variance + f64::from(n.eps)).sqrt()) as f32;
    }
}

fn group_back<T: Element>(
    cpu: &Cpu,
    n: &GroupNorm,
    extent: Extent,
    weight: &[f32],
    values: &[f32],
    map: &Map,
    (g, z): (&[T], &[T]),
    wants: [bool; 2],
) -> Returned {
    let (channels, width) = (n.channels, n.channels / n.groups);
    let norm = Norm::Group(n);
    let each = extent.positions * channels;
    let count = (extent.positions * width) as f64;
    // Per sample and channel: sum of g' and of g' (z - mean).
    let mut all = vec![0.0; extent.batch * 2 * channels];
    cpu.chunks(z.len(), &mut all, 2 * channels, |sample, both| {
        let (mut mean, mut partial, mut other) = (Vec::new(), Vec::new(), Vec::new());
        let (sums, dots) = both.split_at_mut(channels);
        let of_channel = |c| norm.of_channel(values, sample, c).0 as f32;
        channels::tile(
            &(0..channels).map(of_channel).collect::<Vec<_>>(),
            &mut mean,
        );
        let rows = sample * each..(sample + 1) * each;
        channels::sum_and_centred_dot(
            cpu.isa(),
            (&g[rows.clone()], &z[rows]),
            (map, sample),
            &mean,
            sums,
            dots,
            &mut partial,
            &mut other,
        );
    });
    let mut totals = [vec![0.0; channels], vec![0.0; channels]];
    for (sample, both) in all.chunks_exact_mut(2 * channels).enumerate() {
        let (sums, dots) = both.split_at_mut(channels);
        for c in 0..channels {
            // From centred values to normalised ones.
            dots[c] *= norm.of_channel(values, sample, c).1;
            totals[0][c] += dots[c];
            totals[1][c] += sums[c];
            sums[c] *= f64::from(weight[c]);
            dots[c] *= f64::from(weight[c]);
        }
        for group in sums
            .chunks_exact_mut(width)
            .chain(dots.chunks_exact_mut(width))
        {
            let total: f64 = group.iter().sum();
            group.fill(total);
        }
    }
    let back = Back::following(channels, extent.batch, |s, c| {
        let (mean, r) = norm.of_channel(values, s, c);
        let (sum, dot) = (all[s * 2 * channels + c], all[(s * 2 + 1) * channels + c]);
        let slope = r * r * dot / count;
        let offset = r * sum / count - mean * slope;
        (
            (r * f64::from(weight[c])) as f32,
            slope as f32,
            offset as f32,
        )
    });
    let [weight, bias] = totals;
    Returned {
        back,
        weight: wants[0].then_some(weight),
        bias: wants[1].then_some(bias),
    }
}

/// # Shapes
/// x, y `[B, P, C]`; saved: as [`Norm::fixed`] and [`Norm::measured`] have it
pub(super) fn forward(norm: Norm<'_>, cx: &mut Forward<'_>) -> Result<(), OpError> {
    let x = cx.inputs[0];
    let (cpu, extent) = (cx.lane.host(), extent(cx.batch, x.shape));
    cx.saved.values = if norm.is_fixed(cx.mode) {
        norm.fixed(cx.params)
    } else {
        norm.measured(cpu, extent, x.data)?
    };
    let map = norm.map(cx.params, &cx.saved.values);
    pass::make(
        cpu,
        extent,
        View::Mapped {
            data: x.data,
            map: &map,
        },
        cx.output,
    );
    Ok(())
}

pub(crate) fn extent(batch: usize, shape: &[usize]) -> Extent {
    Extent {
        batch,
        positions: positions(shape),
        channels: shape[0],
    }
}

/// Adjoint of [`forward`], in the mode the forward ran in.
pub(super) fn adjoint(norm: Norm<'_>, cx: &mut Adjoint<'_>) -> Result<(), OpError> {
    let values = &cx.saved.values;
    let groups = norm.channels() / norm.width();
    let samples = match norm {
        Norm::Batch(_) => 1,
        Norm::Group(_) => cx.batch,
    };
    expect_len("the saved statistics", values.len(), 2 * groups * samples)?;
    let (cpu, x) = (cx.lane.host(), cx.inputs[0]);
    let extent = extent(cx.batch, x.shape);
    let wants = [0, 1].map(|i| cx.param_grads[i].is_some());
    if cx.input_grads[0].is_none() && !wants.contains(&true) {
        return Ok(());
    }
    let map = norm.map(cx.params, values);
    let both = (cx.output_grad, x.data);
    let returned = norm.back(cpu, cx.mode, extent, cx.params, values, &map, both, wants);
    let sums = [returned.weight, returned.bias];
    for (grad, sums) in cx.param_grads.iter_mut().zip(sums) {
        if let (Some(grad), Some(sums)) = (grad, sums) {
            for (g, s) in grad.iter_mut().zip(sums) {
                *g = s as f32;
            }
        }
    }
    if let Some(dx) = &mut cx.input_grads[0] {
        let view = View::Back {
            grad: cx.output_grad,
            data: x.data,
            map: &map,
            back: &returned.back,
        };
        pass::make(cpu, extent, view, dx);
    }
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
