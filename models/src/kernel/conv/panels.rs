//! Weights as panels: for a block of output channels, one row of operands per tap and input channel,
//! in the order in which a slab is read.

use super::slab::operands;
use super::sweep::Sweep;
use crate::kernel::cells::Cells;
use crate::kernel::cpu::room;
use crate::kernel::isa::Isa;
use crate::kernel::narrow;
use crate::kernel::team::Team;
use crate::kernel::transpose::{self, SIDE};

/// How the output channels of one group are cut into panels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// Floats in a register.
    pub lanes: usize,
    /// Registers in a panel; the last may have fewer.
    pub width: usize,
    /// Output channels of a group.
    pub channels: usize,
    /// Rows of a panel: operands behind one result.
    pub rows: usize,
    /// Whether an operand is a pair.
    pub pairs: bool,
}

/// One panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Panel {
    /// First output channel of the group.
    pub first: usize,
    /// Output channels.
    pub count: usize,
    /// Registers.
    pub width: usize,
    /// Where its operands begin among those of the group.
    pub at: usize,
}

impl Cut {
    pub(super) fn of(sweep: &Sweep, lanes: usize, width: usize, pairs: bool) -> Self {
        Self {
            lanes,
            width,
            channels: sweep.out_depth,
            rows: sweep.tap_count() * operands(sweep.depth, pairs),
            pairs,
        }
    }

    /// Panels of a group.
    pub(super) fn count(&self) -> usize {
        self.channels.div_ceil(self.lanes * self.width)
    }

    pub(super) fn panel(&self, i: usize) -> Panel {
        let first = i * self.lanes * self.width;
        let count = (self.channels - first).min(self.lanes * self.width);
        Panel {
            first,
            count,
            width: count.div_ceil(self.lanes),
            at: first * self.rows,
        }
    }

    /// Operands of all panels of a group.
    pub(super) fn len(&self) -> usize {
        self.channels.next_multiple_of(self.lanes) * self.rows
    }
}

/// Writes filters that each channel has of its own, one row per tap of the sweep.
///
/// # Shapes
/// weight `[C, 1, kh, kw]`, out `[taps, C]`
pub(super) fn pack_depthwise(sweep: &Sweep, kernel: [usize; 2], weight: &[f32], out: &mut [f32]) {
    let taps = kernel[0] * kernel[1];
    let mut rows = out.chunks_exact_mut(sweep.out_depth);
    for &i in &sweep.kernel_taps[0] {
        for &j in &sweep.kernel_taps[1] {
            let column = weight[i * kernel[1] + j..].iter().step_by(taps);
            for (o, w) in rows.next().into_iter().flatten().zip(column) {
                *o = *w;
            }
        }
    }
}

/// Which way a weight `[out, in / groups, kh, kw]` is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From input to output channels.
    Forward,
    /// From output to input channels.
    Backward,
}

/// Floats that pass through the first-level cache at a time on their way into a panel.
const STAGE: usize = 4096;

/// Copies a register's floats: without a call where there are 16.
#[inline(always)]
pub(super) fn copy_register(from: &[f32], to: &mut [f32]) {
    match (from.as_array::<16>(), to.as_mut_array::<16>()) {
        (Some(from), Some(to)) => *to = *from,
        _ => to.copy_from_slice(from),
    }
}

/// How a sweep's weights become panels.
#[derive(Debug)]
pub(super) struct Packing<'a> {
    isa: Isa,
    sweep: &'a Sweep,
    cut: Cut,
    direction: Direction,
    /// The sweep's taps, as places in the kernel.
    taps: Vec<usize>,
    /// Taps of the kernel.
    all_taps: usize,
}

impl<'a> Packing<'a> {
    pub(super) fn new(
        isa: Isa,
        sweep: &'a Sweep,
        cut: Cut,
        direction: Direction,
        kernel: [usize; 2],
    ) -> Self {
        let taps = (sweep.kernel_taps[0].iter())
            .flat_map(|&i| sweep.kernel_taps[1].iter().map(move |&j| i * kernel[1] + j));
        Self {
            isa,
            sweep,
            cut,
            direction,
            taps: taps.collect(),
            all_taps: kernel[0] * kernel[1],
        }
    }

    /// Writes the panels of all groups.
    ///
    /// # Shapes
    /// weight `[out, in / groups, kh, kw]`, out `[groups, Cut::len]`
    pub(super) fn all(&self, team: &Team, groups: usize, weight: &[f32], out: &mut [f32]) {
        let (count, each) = (self.cut.count(), weight.len() / groups);
        let cells = Cells::new(out);
        team.split(groups * count, |_, share| {
            let mut stage = Vec::new();
            for at in share {
                let (group, panel) = (at / count, self.cut.panel(at % count));
                let from = group * self.cut.len() + panel.at;
                let len = panel.width * self.cut.lanes * self.cut.rows;
                // SAFETY: each panel is written by the one member that has it in its share.
                let out = unsafe { cells.range(from..from + len) };
                self.one(panel, &weight[group * each..][..each], &mut stage, out);
            }
        });
    }

    /// Writes one panel of a group by way of `stage`, `weight` being the group's.
    pub(super) fn one(&self, panel: Panel, weight: &[f32], stage: &mut Vec<f32>, out: &mut [f32]) {
        self.isa.run(
            #[inline(always)]
            || match self.direction {
                Direction::Forward => self.forward(panel, weight, stage, out),
                Direction::Backward => self.backward(panel, weight, stage, out),
            },
        );
    }

    /// Of filters that lie one after the other (one per column), some channels of a register's columns
    /// at a time by way of `stage`, which has columns side by side.
    #[inline(always)]
    fn forward(&self, panel: Panel, weight: &[f32], stage: &mut Vec<f32>, out: &mut [f32]) {
        let (depth, lanes, all) = (self.sweep.depth, self.cut.lanes, self.all_taps);
        let wide = panel.width * lanes;
        let step = if self.cut.pairs { 2 } else { 1 };
        let operands = operands(depth, self.cut.pairs);
        let some = (STAGE / (all * lanes)).max(1).next_multiple_of(step);
        let some = some.min(depth.next_multiple_of(step));
        let stage = room(stage, some * all * lanes);
        for block in (0..wide).step_by(lanes) {
            let count = lanes.min(panel.count.saturating_sub(block));
            // Columns beyond the last, and the channel beyond the last that a pair may have, are zeros.
            stage.fill(0.0);
            for c in (0..depth).step_by(some) {
                let n = some.min(depth - c) * all;
                let filter = |o: usize| {
                    let at = ((panel.first + block + o) * depth + c) * all;
                    &weight[at..at + n]
                };
                let mut done = 0;
                if count == SIDE {
                    let squares = stage.as_chunks_mut::<SIDE>().0.as_chunks_mut::<SIDE>().0;
                    for (k, out) in squares.iter_mut().take(n / SIDE).enumerate() {
                        let rows = std::array::from_fn(|o| &filter(o).as_chunks().0[k]);
                        transpose::square(self.isa, rows, out);
                    }
                    done = n - n % SIDE;
                }
                for o in 0..count {
                    let rest = stage[done * lanes..].chunks_exact_mut(lanes);
                    for (s, w) in rest.zip(&filter(o)[done..]) {
                        s[o] = *w;
                    }
                }
                if n < stage.len() / lanes {
                    stage[n * lanes..].fill(0.0);
                }
                let (first, last) = (c / step, (c + some).min(depth).div_ceil(step));
                for (t, tap) in self.taps.iter().enumerate() {
                    for (k, row) in (first..last).enumerate() {
                        let at = |k: usize| (k * all + tap) * lanes;
                        let out = &mut out[(t * operands + row) * wide + block..][..lanes];
                        if self.cut.pairs {
                            let (a, b) = (&stage[at(2 * k)..], &stage[at(2 * k + 1)..]);
                            narrow::pairs(self.isa, &a[..lanes], &b[..lanes], out);
                        } else {
                            copy_register(&stage[at(k)..][..lanes], out);
                        }
                    }
                }
            }
        }
    }

    /// Of filters whose channels are the columns: those of one row lie in one filter (or, of pairs, in
    /// two).
    #[inline(always)]
    fn backward(&self, panel: Panel, weight: &[f32], stage: &mut Vec<f32>, out: &mut [f32]) {
        let (depth, wide) = (self.sweep.depth, panel.width * self.cut.lanes);
        let step = if self.cut.pairs { 2 } else { 1 };
        let operands = operands(depth, self.cut.pairs);
        let all = self.all_taps;
        stage.clear();
        stage.resize(2 * wide, 0.0);
        let (a, b) = stage.split_at_mut(wide);
        let filter = |c: usize| {
            let at = (c * self.sweep.out_depth + panel.first) * all;
            weight.get(at..at + panel.count * all).unwrap_or_default()
        };
        for row in 0..operands {
            let filters = [filter(row * step), filter(row * step + 1)];
            for (t, &tap) in self.taps.iter().enumerate() {
                let out = &mut out[(t * operands + row) * wide..][..wide];
                let of = |filter: &[f32], out: &mut [f32]| {
                    let channels = filter.chunks_exact(all);
                    let (out, rest) = out.split_at_mut(channels.len());
                    for (o, w) in out.iter_mut().zip(channels) {
                        *o = w[tap];
                    }
                    rest.fill(0.0);
                };
                if !self.cut.pairs {
                    of(filters[0], out);
                    continue;
                }
                of(filters[0], a);
                of(filters[1], b);
                narrow::pairs(self.isa, a, b, out);
            }
        }
    }
}
