//! The gradient of a weight: for every tap a sum of outer products over all positions.

use std::ops::Range;

use super::panels::copy_register;
use super::ready::{Item, items};
use super::slab::{self, Take};
use super::sweep::{Reach, Sweep};
use super::{Conv, depthwise};
use crate::kernel::cells::Cells;
use crate::kernel::cpu::{Bench, Cpu, Workspace, room, take};
use crate::kernel::element::Element;
use crate::kernel::team::share;
use crate::kernel::tile::{self, Outers, Plot, Tiles};
use crate::kernel::view::View;

/// Bytes of sums up to which every member has its own: above, members share the sums by output
/// channels and each looks at all positions.
const OWN_BYTES: usize = 1 << 20;

/// Floats of slabs that are summed over before the next are filled: sums are read and written as
/// seldom. Members with sums of their own keep them in their second-level cache; members that look at
/// all positions want to see them all, if the third can hold them.
const OWN_SLABS: usize = 96 << 10;
const ALL_SLABS: usize = 1 << 20;

/// Floats that pass through the first-level cache at a time on their way into a weight.
const STAGE: usize = 2304;

/// What members share.
pub(super) struct Job<'a, T> {
    cpu: &'a Cpu,
    pub tiles: &'static Tiles,
    /// Whether operands are pairs of numbers from two items.
    pairs: bool,
    conv: &'a Conv,
    pub sweep: Sweep,
    x: &'a View<'a, T>,
    g: &'a View<'a, T>,
    /// Registers in a panel.
    width: usize,
    /// Columns of the sums: output channels of a group, rounded up to registers.
    pub columns: usize,
    /// Rows of the sums of one group: taps times input channels.
    rows: usize,
    /// Input and output gradient, where they are read where they lie.
    direct: [Option<*const f32>; 2],
    /// From one position's operands to the next's in a slab of either.
    strides: [usize; 2],
}

// SAFETY: the pointers are to the views' data, which is shared for reading.
unsafe impl<T: Sync> Sync for Job<'_, T> {}

/// Operands of a unit, ready to be multiplied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operands {
    pub x: *const f32,
    /// From one row of the reach to the next, and from one column.
    pub x_pitch: [usize; 2],
    /// From one position to the next, in those.
    pub step: [usize; 2],
    pub g: *const f32,
    pub g_row: usize,
    pub g_step: usize,
    pub rows: usize,
    pub cols: usize,
}

/// One or two items: two give the numbers of each operand's pair.
type Unit = Range<usize>;

/// How far apart positions lie in a slab: a little further than their operands need where every
/// one would begin in the same few sets of the first-level cache.
fn apart(operands: usize) -> usize {
    if operands >= 256 && operands.is_multiple_of(128) {
        operands + 16
    } else {
        operands
    }
}

/// Writes `dw`, see [`Conv::weight_gradient`].
pub(super) fn gradient<T: Element>(
    conv: &Conv,
    cpu: &Cpu,
    workspace: &mut Workspace,
    batch: usize,
    x: View<'_, T>,
    g: View<'_, T>,
    dw: &mut [f32],
) {
    if x.is_empty() || g.is_empty() {
        dw.fill(0.0);
        return;
    }
    let job = Job::new(conv, cpu, &x, &g);
    let sums = conv.slabs() * job.rows * job.columns;
    let members = cpu.team().members();
    let own = sums * size_of::<f32>() <= OWN_BYTES || conv.groups > 1;
    let bytes =
        (conv.window.image() + conv.window.positions() * conv.out_channels) * size_of::<f32>();
    let wanted = match (own, job.pairs) {
        (true, true) => 2 * members,
        (true, false) => members,
        (false, _) => 1,
    };
    let items = items(
        batch,
        job.sweep.grid,
        job.sweep.output[0] == 1,
        bytes,
        wanted,
    );
    let units = job.units(&items);
    if own {
        job.with_own_sums(workspace, &items, &units, dw);
    } else {
        job.with_shared_columns(workspace, &items, &units, dw);
    }
}

impl<'a, T: Element> Job<'a, T> {
    fn new(conv: &'a Conv, cpu: &'a Cpu, x: &'a View<'a, T>, g: &'a View<'a, T>) -> Self {
        let diagonal = conv.is_depthwise();
        let halves = (T::IS_HALF && !diagonal)
            .then(|| tile::pairs(cpu.isa()))
            .flatten();
        let tiles = halves.unwrap_or_else(|| tile::floats(cpu.isa()));
        let sweep = Sweep::forward(conv);
        let columns = if diagonal {
            sweep.out_depth
        } else {
            sweep.out_depth.next_multiple_of(tiles.lanes)
        };
        let plain = |view: &View<'_, T>| match *view {
            View::Plain(data) if halves.is_none() && conv.slabs() == 1 => {
                T::as_floats(data).map(<[f32]>::as_ptr)
            }
            _ => None,
        };
        let strides = if diagonal {
            [sweep.depth, columns]
        } else {
            [apart(sweep.depth), apart(columns)]
        };
        let reach = sweep.reach(&(0..sweep.grid[0]), &(0..sweep.grid[1]));
        let inside = reach.is_inside(sweep.input) && strides[0] == sweep.depth;
        let whole = strides[1] == sweep.out_depth;
        let run = if sweep.adjacent() && strides[0] == sweep.depth {
            sweep.taps[1].len() * sweep.depth
        } else {
            sweep.depth
        };
        Self {
            cpu,
            tiles,
            pairs: halves.is_some(),
            conv,
            x,
            g,
            width: tiles.best_width(sweep.out_depth, run),
            columns,
            rows: sweep.tap_count() * if diagonal { 1 } else { sweep.depth },
            direct: [plain(x).filter(|_| inside), plain(g).filter(|_| whole)],
            strides,
            sweep,
        }
    }

    /// Items one by one or, where they make pairs, in twos that are alike.
    fn units(&self, items: &[Item]) -> Vec<Unit> {
        let alike =
            |a: &Item, b: &Item| a.rows.len() == b.rows.len() && a.cols.len() == b.cols.len();
        let mut units = Vec::with_capacity(items.len());
        let mut at = 0;
        while at < items.len() {
            let two = self.pairs && at + 1 < items.len() && alike(&items[at], &items[at + 1]);
            let end = at + if two { 2 } else { 1 };
            units.push(at..end);
            at = end;
        }
        units
    }

    fn reach(&self, item: &Item) -> Reach {
        self.sweep.reach(&item.rows, &item.cols)
    }

    /// Floats of an item's slabs.
    fn slab_lens(&self, item: &Item) -> [usize; 2] {
        let [height, width] = self.reach(item).size;
        let positions = [height * width, item.rows.len() * item.cols.len()];
        [0, 1].map(|k| match self.direct[k] {
            Some(_) => 0,
            None => positions[k] * self.strides[k],
        })
    }

    /// How many units, of these, may be looked at together: their slabs are at most `most` floats,
    /// and taps lie alike in all.
    fn some(&self, items: &[Item], units: &[Unit], most: usize) -> usize {
        let len = |u: &Unit| self.slab_lens(&items[u.start]).iter().sum::<usize>();
        let taps_apart = |u: &Unit| self.reach(&items[u.start]).size[1];
        let one_row = self.sweep.taps[0].len() == 1;
        let mut sum = len(&units[0]);
        let more = units[1..].iter().take_while(|u| {
            sum += len(u);
            sum <= most && (one_row || taps_apart(u) == taps_apart(&units[0]))
        });
        1 + more.count()
    }

    /// Fills the slabs of some units for one group of channels.
    pub(super) fn fill(
        &self,
        bench: &mut Bench,
        items: &[Item],
        units: &[Unit],
        group: usize,
    ) -> Vec<Operands> {
        let Bench {
            slab, other, line, ..
        } = bench;
        let all = units.iter().map(|u| self.slab_lens(&items[u.start]));
        let [x_len, g_len] = all.fold([0; 2], |sum, len| [sum[0] + len[0], sum[1] + len[1]]);
        let (mut x_slab, mut g_slab) = (room(slab, x_len), room(other, g_len));
        let mut operands = Vec::with_capacity(units.len());
        for unit in units {
            let item = &items[unit.start];
            let second = (unit.len() == 2).then(|| &items[unit.start + 1]);
            let [x_len, g_len] = self.slab_lens(item);
            let (x_out, x_rest) = x_slab.split_at_mut(x_len);
            let (g_out, g_rest) = g_slab.split_at_mut(g_len);
            (x_slab, g_slab) = (x_rest, g_rest);
            operands.push(self.fill_unit(line, (item, second), group, x_out, g_out));
        }
        operands
    }

    fn fill_unit(
        &self,
        line: &mut Vec<f32>,
        (item, second): (&Item, Option<&Item>),
        group: usize,
        x_out: &mut [f32],
        g_out: &mut [f32],
    ) -> Operands {
        let sweep = &self.sweep;
        let reach = self.reach(item);
        let (x, x_pitch, step) = if let Some(data) = self.direct[0] {
            let row = item.sample * sweep.input[0] + reach.first[0] as usize;
            let at = (row * sweep.input[1] + reach.first[1] as usize) * sweep.channels;
            let pitch = [sweep.input[1] * sweep.channels, sweep.channels];
            (data.wrapping_add(at), pitch, sweep.step)
        } else {
            let take = Take {
                channels: sweep.channels,
                first: group * sweep.depth,
                count: sweep.depth,
            };
            let reaches = [Some(reach.clone()), second.map(|s| self.reach(s))];
            let samples = [item.sample, second.map_or(0, |s| s.sample)];
            self.fill_slab(
                line,
                self.x,
                sweep.input,
                (samples, reaches),
                take,
                0,
                x_out,
            );
            let pitch = [reach.size[1] * self.strides[0], self.strides[0]];
            (x_out.as_ptr(), pitch, reach.step)
        };
        let cols = item.cols.len();
        let (g, g_row, g_step) = if let Some(data) = self.direct[1] {
            let row = item.sample * sweep.grid[0] + item.rows.start;
            let at = (row * sweep.grid[1] + item.cols.start) * self.columns;
            (
                data.wrapping_add(at),
                sweep.grid[1] * self.columns,
                self.columns,
            )
        } else {
            let rectangle = |p: &Item| Reach {
                size: [p.rows.len(), p.cols.len()],
                first: [p.rows.start as isize, p.cols.start as isize],
                skip: [1; 2],
                step: [1; 2],
            };
            let take = Take {
                channels: self.conv.out_channels,
                first: group * sweep.out_depth,
                count: sweep.out_depth,
            };
            let reaches = [Some(rectangle(item)), second.map(rectangle)];
            let samples = [item.sample, second.map_or(0, |s| s.sample)];
            self.fill_slab(line, self.g, sweep.grid, (samples, reaches), take, 1, g_out);
            (g_out.as_ptr(), cols * self.strides[1], self.strides[1])
        };
        Operands {
            x,
            x_pitch,
            step,
            g,
            g_row,
            g_step,
            rows: item.rows.len(),
            cols,
        }
    }

    fn fill_slab(
        &self,
        line: &mut Vec<f32>,
        view: &View<'_, T>,
        image: [usize; 2],
        (samples, reaches): ([usize; 2], [Option<Reach>; 2]),
        take: Take,
        which: usize,
        out: &mut [f32],
    ) {
        let piece = |k: usize| {
            reaches[k].as_ref().map(|reach| slab::Piece {
                view,
                image,
                sample: samples[k],
                take,
                reach,
            })
        };
        let (isa, stride) = (self.cpu.isa(), self.strides[which]);
        let Some(first) = piece(0) else { return };
        if self.pairs {
            slab::fill_two(isa, first, piece(1), stride, line, out);
        } else {
            slab::fill(isa, first, false, stride, line, out);
        }
    }

    /// Every member sums up its share of the units for itself.
    fn with_own_sums(
        &self,
        workspace: &mut Workspace,
        items: &[Item],
        units: &[Unit],
        dw: &mut [f32],
    ) {
        let team = self.cpu.team();
        let diagonal = self.conv.is_depthwise();
        let groups = self.conv.slabs();
        let each = groups * self.rows * self.columns;
        let (buffer, benches) = workspace.parts(team.members());
        let workers = team.members().min(units.len());
        let buffer = room(buffer, workers * each);
        let cells = Cells::new(buffer);
        team.split(workers, |member, _| {
            // SAFETY: each member has its own sums.
            let sums = unsafe { cells.range(member * each..(member + 1) * each) };
            let bench = &mut *take(&benches[member]);
            let mut mine = &units[share(units.len(), workers, member)];
            let mut add = false;
            while !mine.is_empty() {
                let (some, rest) = mine.split_at(self.some(items, mine, OWN_SLABS));
                for (group, sums) in sums.chunks_exact_mut(each / groups).enumerate() {
                    let operands = self.fill(bench, items, some, group);
                    if diagonal {
                        depthwise::outers(self, &operands, add, sums);
                        continue;
                    }
                    for first in self.panels() {
                        let (at, pitch) = self.place(first);
                        self.outers(&operands, first, &mut sums[at..], pitch, add);
                    }
                }
                (mine, add) = (rest, true);
            }
        });
        let sums: Vec<&[f32]> = buffer.chunks_exact(each).collect();
        if diagonal {
            depthwise::collect(self.columns, &sums, dw);
            return;
        }
        // A block of a register's channels at a time.
        let blocks = self.columns / self.tiles.lanes;
        let dw = Cells::new(dw);
        team.split(groups * blocks, |_, share| {
            let mut stage = Vec::new();
            for block in share {
                let (group, first) = (block / blocks, block % blocks * self.tiles.lanes);
                let (at, pitch) = self.place(first);
                let at = group * (each / groups) + at;
                self.lay_out(group, first, &sums, (at, pitch), &mut stage, &dw);
            }
        });
    }

    /// Every member makes some columns of the sums over all units; there is one group.
    fn with_shared_columns(
        &self,
        workspace: &mut Workspace,
        items: &[Item],
        units: &[Unit],
        dw: &mut [f32],
    ) {
        let team = self.cpu.team();
        let (_, benches) = workspace.parts(team.members());
        let dw = Cells::new(dw);
        let starts: Vec<usize> = self.panels().collect();
        team.split(starts.len(), |member, share| {
            let bench = &mut *take(&benches[member]);
            let mut sums = std::mem::take(&mut bench.sums);
            let mut stage = Vec::new();
            let starts = &starts[share];
            let lay_out = |first: usize, sums: &[f32], stage: &mut Vec<f32>| {
                let lanes = self.tiles.lanes;
                let (_, pitch) = self.place(first);
                for block in (0..pitch).step_by(lanes) {
                    self.lay_out(0, first + block, &[sums], (block, pitch), stage, &dw);
                }
            };
            let panel = self.width * self.tiles.lanes * self.rows;
            if self.some(items, units, ALL_SLABS) == units.len() {
                // A panel's sums are done before the next is begun: they stay in cache.
                let operands = self.fill(bench, items, units, 0);
                let sums = room(&mut sums, panel);
                for &first in starts {
                    let (_, pitch) = self.place(first);
                    self.outers(&operands, first, sums, pitch, false);
                    lay_out(first, sums, &mut stage);
                }
            } else {
                let all = room(&mut sums, starts.len() * panel);
                let mut rest = units;
                let mut add = false;
                while !rest.is_empty() {
                    let (some, others) = rest.split_at(self.some(items, rest, ALL_SLABS));
                    let operands = self.fill(bench, items, some, 0);
                    for (&first, sums) in starts.iter().zip(all.chunks_exact_mut(panel)) {
                        let (_, pitch) = self.place(first);
                        self.outers(&operands, first, sums, pitch, add);
                    }
                    (rest, add) = (others, true);
                }
                for (&first, sums) in starts.iter().zip(all.chunks_exact(panel)) {
                    lay_out(first, sums, &mut stage);
                }
            }
            bench.sums = sums;
        });
    }

    /// First columns of the panels.
    fn panels(&self) -> impl Iterator<Item = usize> + use<T> {
        (0..self.columns).step_by(self.width * self.tiles.lanes)
    }

    /// Where a column of a group's sums begins, and how far its next row is: sums lie in panels of
    /// [`Job::width`] registers, each with all its rows one after the other.
    fn place(&self, column: usize) -> (usize, usize) {
        let wide = self.width * self.tiles.lanes;
        let panel = column - column % wide;
        let pitch = wide.min(self.columns - panel);
        (panel * self.rows + column % wide, pitch)
    }

    /// Writes (or adds) what units give to one panel's sums, which lie `pitch` apart.
    fn outers(
        &self,
        operands: &[Operands],
        first: usize,
        sums: &mut [f32],
        pitch: usize,
        add: bool,
    ) {
        let sweep = &self.sweep;
        let Some(some) = operands.first() else { return };
        assert!(sums.len() >= pitch * self.rows, "room for a panel");
        let plots: Vec<Plot> = operands
            .iter()
            .map(|o| Plot {
                x: o.x,
                x_row: o.step[0] * o.x_pitch[0],
                x_step: o.step[1] * o.x_pitch[1],
                g: o.g.wrapping_add(first),
                g_row: o.g_row,
                g_step: o.g_step,
                rows: o.rows,
                cols: o.cols,
            })
            .collect();
        let joined = sweep.adjacent() && some.x_pitch[1] == sweep.depth;
        let (tap_rows, tap_cols) = (sweep.taps[0].len(), sweep.taps[1].len());
        let (runs, run) = if joined {
            (1, tap_cols * sweep.depth)
        } else {
            (tap_cols, sweep.depth)
        };
        let width = pitch / self.tiles.lanes;
        let parts = run.div_ceil(self.tiles.tallest(width));
        let y = sums.as_mut_ptr();
        for i in 0..tap_rows {
            for j in 0..runs {
                let segment = sweep.tap_in_reach(0, i) * some.x_pitch[0]
                    + sweep.tap_in_reach(1, j) * some.x_pitch[1];
                let first_row = (i * runs + j) * run;
                for part in 0..parts {
                    let part = share(run, parts, part);
                    let outers = Outers {
                        plots: &plots,
                        at: segment + part.start,
                        y: y.wrapping_add((first_row + part.start) * pitch),
                        y_step: pitch,
                        add,
                    };
                    // SAFETY: the slabs (or the images) hold what the units' positions read, and
                    // taps lie alike in all of them; there is room for all rows of the panel.
                    unsafe { self.tiles.outers(width, part.len())(&outers) };
                }
            }
        }
    }

    /// Adds members' sums of a register's columns in their order and writes them as filters of a
    /// weight; `at` and `pitch` say where the first row's lie, and how far the next is.
    ///
    /// Some channels at a time go through `stage`: sums have output channels side by side, weights
    /// have taps.
    fn lay_out(
        &self,
        group: usize,
        first: usize,
        sums: &[&[f32]],
        (at, pitch): (usize, usize),
        stage: &mut Vec<f32>,
        dw: &Cells<'_, f32>,
    ) {
        let sweep = &self.sweep;
        let (taps, lanes) = (sweep.tap_count(), self.tiles.lanes);
        let count = lanes.min(sweep.out_depth - first);
        let channels = (STAGE / (lanes * taps)).clamp(1, sweep.depth);
        let stage = room(stage, lanes * (taps * channels + 1));
        let (line, stage) = stage.split_at_mut(lanes);
        for c in (0..sweep.depth).step_by(channels) {
            let n = channels.min(sweep.depth - c);
            self.cpu.isa().run(
                #[inline(always)]
                || {
                    for tap in 0..taps {
                        for k in 0..n {
                            let row = at + (tap * sweep.depth + c + k) * pitch;
                            copy_register(&sums[0][row..][..lanes], line);
                            for more in &sums[1..] {
                                for (l, s) in line.iter_mut().zip(&more[row..][..lanes]) {
                                    *l += s;
                                }
                            }
                            let place = k * taps + tap;
                            let filters = stage.chunks_exact_mut(n * taps);
                            for (filter, sum) in filters.zip(&line[..count]) {
                                filter[place] = *sum;
                            }
                        }
                    }
                },
            );
            for (o, filters) in stage.chunks_exact(n * taps).take(count).enumerate() {
                let out = (group * sweep.out_depth + first + o) * sweep.depth + c;
                // SAFETY: each output channel's filters are written by the one member that has its
                // columns.
                unsafe { dw.range(out * taps..(out + n) * taps) }.copy_from_slice(filters);
            }
        }
    }
}
