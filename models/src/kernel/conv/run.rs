//! Running sweeps over a batch: who does what, in which order.

use std::ops::Range;

use super::depthwise::Filtered;
use super::panels::{self, Cut, Direction, Packing};
use super::ready::{Chunk, Item, Pitch, Ready, items};
use super::slab::{self, Take};
use super::strip::Strip;
use super::sweep::{Reach, Sweep};
use super::{Part, SLAB_BYTES, Write};
use crate::kernel::cells::Cells;
use crate::kernel::cpu::{Bench, Cpu, Workspace, room, take};
use crate::kernel::element::Element;
use crate::kernel::team::share;
use crate::kernel::tile::{self, Tiles};
use crate::kernel::view::View;

/// Bytes of a panel's rows that are used over and over before the next: they should stay in a core's
/// caches beside the slab.
const CHUNK_BYTES: usize = 96 << 10;

/// Bytes of slabs aimed at where each panel is packed for all of them: a core's share of the third-level
/// cache.
const RAW_SLAB_BYTES: usize = 4 << 20;

/// How many times as many weights as inputs there have to be before members share panels rather than
/// positions.
const HEAVY: usize = 3;

/// Sweeps that together write one result.
pub(super) struct Run<'a> {
    pub cpu: &'a Cpu,
    pub sweeps: &'a [Sweep],
    pub groups: usize,
    /// Whether every channel has a filter of its own.
    pub diagonal: bool,
    pub kernel: [usize; 2],
    pub direction: Direction,
    pub write: Write,
    pub batch: usize,
}

/// What panels are read from.
enum Weights<'a> {
    /// All panels of all sweeps.
    Packed(&'a [f32]),
    /// The weight itself, from which each member packs the panel it is about to use.
    Raw(&'a [f32]),
}

/// How far the largest share is above the mean one.
fn unevenness(n: usize, members: usize) -> f64 {
    (n.div_ceil(members) * members) as f64 / n as f64
}

impl Run<'_> {
    /// Runs all sweeps.
    pub(super) fn correlate<T: Element>(
        &self,
        workspace: &mut Workspace,
        x: View<'_, T>,
        weight: &[f32],
        y: &mut [T],
        finish: &(impl Fn(Part<'_, T>) + Sync),
    ) {
        let Some(first) = self.sweeps.first() else {
            return;
        };
        if y.is_empty() {
            return;
        }
        let team = self.cpu.team();
        let halves = (T::IS_HALF && !self.diagonal)
            .then(|| tile::pairs(self.cpu.isa()))
            .flatten();
        let pairs = halves.is_some();
        let tiles = halves.unwrap_or_else(|| tile::floats(self.cpu.isa()));
        let members = team.members();
        let (panels, benches) = workspace.parts(members);

        // Panels.
        let mut ready = Vec::with_capacity(self.sweeps.len());
        let mut len = 0;
        // One width for all phases: members share channels, whatever the phase.
        let width = tiles.best_width(first.out_depth, first.grid[1]);
        for sweep in self.sweeps.iter().filter(|s| s.tap_count() > 0) {
            let mut cut = Cut::of(sweep, tiles.lanes, width, pairs);
            if self.diagonal {
                cut.rows = sweep.tap_count();
            }
            let reach = sweep.reach(&(0..sweep.grid[0]), &(0..sweep.grid[1]));
            let plain = match &x {
                View::Plain(data) => !T::IS_HALF && T::as_floats(data).is_some(),
                _ => false,
            };
            ready.push(Ready {
                packing: Packing::new(self.cpu.isa(), sweep, cut, self.direction, self.kernel),
                sweep,
                cut,
                panels: len,
                direct: plain && self.groups == 1 && reach.is_inside(sweep.input),
            });
            len += self.groups * cut.len();
        }
        // Who does what.
        let bytes = first.input[0] * first.input[1] * first.channels * size_of::<f32>();
        let single_row = first.output[0] == 1;
        let items = items(self.batch, first.grid, single_row, bytes, members);
        let panel_count = ready.iter().map(|r| r.cut.count()).min().unwrap_or(1);
        // Groups and phases without taps would have members write to the same places.
        let separate = self.groups == 1 && !self.diagonal && ready.len() == self.sweeps.len();
        let uneven = unevenness(items.len(), members);
        // Members that have their own panels pack them one by one where they use them, instead of
        // all into memory and back, but each reads all of the input.
        let heavy = weight.len() > HEAVY * x.len();
        let by_panels = separate
            && (heavy || uneven > 1.1)
            && unevenness(panel_count, members) < if heavy { 1.1_f64.max(uneven) } else { uneven };
        let buffer = room(panels, if by_panels { 0 } else { len });
        for r in ready.iter().filter(|_| !by_panels) {
            let out = &mut buffer[r.panels..][..self.groups * r.cut.len()];
            if self.diagonal {
                panels::pack_depthwise(r.sweep, self.kernel, weight, out);
            } else {
                r.packing.all(team, self.groups, weight, out);
            }
        }
        let weights = if by_panels {
            Weights::Raw(weight)
        } else {
            Weights::Packed(buffer)
        };
        let cells = Cells::new(y);
        let job = Job {
            run: self,
            tiles,
            ready: &ready,
            weights,
            x: &x,
            y: &cells,
            items: &items,
        };
        if !by_panels {
            team.split(items.len(), |member, share| {
                let bench = &mut *take(&benches[member]);
                job.items(bench, share, None, &|item, values, at| {
                    finish(Part {
                        member,
                        sample: item.sample,
                        at,
                        values,
                    });
                });
            });
            return;
        }
        team.run(&|member| {
            let bench = &mut *take(&benches[member]);
            job.items(
                bench,
                0..items.len(),
                Some((member, members)),
                &|_, _: &mut [T], _| {},
            );
        });
        team.split(items.len(), |member, share| {
            for item in &items[share] {
                let region = job.region(item);
                // SAFETY: all results are made, and items do not share values.
                let values = unsafe { cells.range(region.clone()) };
                finish(Part {
                    member,
                    sample: item.sample,
                    at: region.start,
                    values,
                });
            }
        });
    }
}

/// What members share.
struct Job<'a, T> {
    run: &'a Run<'a>,
    tiles: &'static Tiles,
    ready: &'a [Ready<'a>],
    weights: Weights<'a>,
    x: &'a View<'a, T>,
    y: &'a Cells<'a, T>,
    items: &'a [Item],
}

impl<T: Element> Job<'_, T> {
    /// The values an item makes: whole positions that lie side by side.
    fn region(&self, item: &Item) -> Range<usize> {
        let sweep = &self.run.sweeps[0];
        let [height, width] = sweep.output;
        let image = item.sample * height * width;
        let stretch = |r: &Range<usize>, d: usize| {
            let n = sweep.output[d];
            (r.start * sweep.out_step[d]).min(n)..(r.end * sweep.out_step[d]).min(n)
        };
        let (rows, cols) = (stretch(&item.rows, 0), stretch(&item.cols, 1));
        let positions = if rows.len() == 1 || height == 1 {
            image + rows.start * width + cols.start..image + rows.start * width + cols.end
        } else {
            image + rows.start * width..image + rows.end * width
        };
        positions.start * sweep.out_channels..positions.end * sweep.out_channels
    }

    /// Does some items, all panels or (with `only`) a member's share of them.
    fn items(
        &self,
        bench: &mut Bench,
        share_of_items: Range<usize>,
        only: Option<(usize, usize)>,
        finish: &dyn Fn(&Item, &mut [T], usize),
    ) {
        // As many items as fit go together, so that panels are read (or packed) once for all.
        let most = match self.weights {
            Weights::Packed(_) => SLAB_BYTES,
            Weights::Raw(_) => RAW_SLAB_BYTES,
        };
        let mut at = share_of_items.start;
        while at < share_of_items.end {
            let mut len = 0;
            let mut end = at;
            while end < share_of_items.end {
                let more = self.slab_len(&self.items[end]);
                if end > at && (len + more) * size_of::<f32>() > most {
                    break;
                }
                len += more;
                end += 1;
            }
            self.together(bench, at..end, only, finish);
            at = end;
        }
    }

    fn slab_len(&self, item: &Item) -> usize {
        let sweep = &self.run.sweeps[0];
        // What the item reads, roughly: enough to decide how many go together.
        item.rows.len() * sweep.step[0] * item.cols.len() * sweep.step[1] * sweep.depth
    }

    fn together(
        &self,
        bench: &mut Bench,
        group_of_items: Range<usize>,
        only: Option<(usize, usize)>,
        finish: &dyn Fn(&Item, &mut [T], usize),
    ) {
        let items = &self.items[group_of_items];
        let regions: Vec<Range<usize>> = items.iter().map(|i| self.region(i)).collect();
        // Halves are made in f32 beside, and narrowed when they are whole.
        let halves = T::IS_HALF;
        let sums: usize = regions.iter().map(Range::len).sum();
        let mut starts = Vec::with_capacity(items.len());
        if halves {
            let buffer = room(&mut bench.sums, sums);
            let mut from = 0;
            for region in &regions {
                starts.push(buffer[from..].as_mut_ptr());
                from += region.len();
            }
        } else {
            for region in &regions {
                starts.push(self.y.place(region).cast::<f32>());
            }
        }
        let add = self.run.write == Write::Add && !halves;
        if self.ready.len() < self.run.sweeps.len() && !add {
            for (start, region) in starts.iter().zip(&regions) {
                // SAFETY: the region is this member's alone: phases without taps are not shared by
                // panels.
                unsafe { std::slice::from_raw_parts_mut(*start, region.len()) }.fill(0.0);
            }
        }
        for ready in self.ready {
            for group in 0..self.run.groups {
                self.sweep(ready, group, bench, items, &starts, &regions, only, add);
            }
        }
        let add = self.run.write == Write::Add;
        if let Some((member, members)) = only {
            if halves {
                self.narrow_channels(self.channels_of(member, members), &regions, &starts, add);
            }
            return;
        }
        for ((item, region), start) in items.iter().zip(&regions).zip(&starts) {
            // SAFETY: items do not share values, and this member has the item alone.
            let y = unsafe { self.y.range(region.clone()) };
            if halves {
                // SAFETY: `starts` points into this member's buffer, with room for the region.
                let sums = unsafe { std::slice::from_raw_parts(*start, region.len()) };
                T::store(self.run.cpu.isa(), sums, add, y);
            }
            finish(item, y, region.start);
        }
    }

    /// The output channels of a member's share of panels.
    fn channels_of(&self, member: usize, members: usize) -> Range<usize> {
        let cut = &self.ready[0].cut;
        let share = share(cut.count(), members, member);
        let first = |i: usize| (i * cut.lanes * cut.width).min(cut.channels);
        first(share.start)..first(share.end)
    }

    /// Narrows some channels of every position.
    fn narrow_channels(
        &self,
        channels: Range<usize>,
        regions: &[Range<usize>],
        starts: &[*mut f32],
        add: bool,
    ) {
        let all = self.run.sweeps[0].out_channels;
        for (region, start) in regions.iter().zip(starts) {
            for position in (0..region.len()).step_by(all) {
                let (from, n) = (position + channels.start, channels.len());
                // SAFETY: `start` has room for the region, and no other member has these channels.
                let (sums, y) = unsafe {
                    (
                        std::slice::from_raw_parts(start.add(from), n),
                        self.y.range(region.start + from..region.start + from + n),
                    )
                };
                T::store(self.run.cpu.isa(), sums, add, y);
            }
        }
    }

    /// One sweep's part of some items, for one group of channels.
    fn sweep(
        &self,
        ready: &Ready<'_>,
        group: usize,
        bench: &mut Bench,
        items: &[Item],
        starts: &[*mut f32],
        regions: &[Range<usize>],
        only: Option<(usize, usize)>,
        add: bool,
    ) {
        let sweep = ready.sweep;
        let isa = self.run.cpu.isa();
        let clips: Vec<_> = items.iter().map(|item| ready.clip(item)).collect();
        let reaches: Vec<Option<Reach>> = clips
            .iter()
            .map(|clip| clip.as_ref().map(|(r, c)| sweep.reach(r, c)))
            .collect();
        // Slabs.
        let len: usize = reaches.iter().flatten().map(|r| ready.slab_len(r)).sum();
        let Bench {
            slab,
            line,
            other,
            half,
            ..
        } = bench;
        let buffer = room(slab, len);
        let mut from = 0;
        let mut bases: Vec<*const f32> = Vec::with_capacity(items.len());
        for (item, reach) in items.iter().zip(&reaches) {
            let Some(reach) = reach else {
                bases.push(std::ptr::null());
                continue;
            };
            if ready.direct {
                let View::Plain(data) = *self.x else {
                    unreachable!("only plain views are read directly")
                };
                let Some(data) = T::as_floats(data) else {
                    unreachable!("only floats are read directly")
                };
                let row = item.sample * sweep.input[0] + reach.first[0] as usize;
                let at = (row * sweep.input[1] + reach.first[1] as usize) * sweep.channels;
                bases.push(data[at..].as_ptr());
                continue;
            }
            let n = ready.slab_len(reach);
            let part = &mut buffer[from..from + n];
            let take = Take {
                channels: sweep.channels,
                first: group * sweep.depth,
                count: sweep.depth,
            };
            let piece = slab::Piece {
                view: self.x,
                image: sweep.input,
                sample: item.sample,
                take,
                reach,
            };
            slab::fill(isa, piece, ready.cut.pairs, ready.width(), line, part);
            bases.push(part.as_ptr());
            from += n;
        }
        if self.run.diagonal {
            self.filtered(ready, items, &clips, &reaches, &bases, starts, regions, add);
            return;
        }
        // Panel by panel, chunk by chunk: each is used for all items before the next.
        let count = ready.cut.count();
        let mine = only.map_or(0..count, |(m, of)| share(count, of, m));
        for i in mine {
            let panel = ready.cut.panel(i);
            let wide = panel.width * ready.cut.lanes;
            let len = wide * ready.cut.rows;
            let weights = match self.weights {
                Weights::Packed(panels) => {
                    &panels[ready.panels + group * ready.cut.len() + panel.at..][..len]
                }
                Weights::Raw(weight) => {
                    let out = room(other, len);
                    ready.packing.one(panel, weight, half, out);
                    out
                }
            };
            let most = (CHUNK_BYTES / size_of::<f32>() / wide).max(64);
            // Segments depend on how the item's slab lies; most items' slabs lie alike.
            let mut lists: Vec<(Pitch, Vec<Chunk>)> = Vec::new();
            for pitch in reaches.iter().flatten().map(|reach| ready.pitch(reach)) {
                if lists.iter().all(|(p, _)| *p != pitch) {
                    lists.push((pitch, ready.chunks(pitch, most)));
                }
            }
            let chunk_count = lists.first().map_or(0, |(_, chunks)| chunks.len());
            for c in 0..chunk_count {
                for (k, clip) in clips.iter().enumerate() {
                    let (Some((rows, cols)), Some(reach)) = (clip, &reaches[k]) else {
                        continue;
                    };
                    let pitch = ready.pitch(reach);
                    let Some((_, chunks)) = lists.iter().find(|(p, _)| *p == pitch) else {
                        unreachable!("every pitch has its list")
                    };
                    let chunk = &chunks[c];
                    let step = ready.step(reach);
                    let strip = Strip {
                        tiles: self.tiles,
                        chunk,
                        weights: &weights[chunk.row * wide..],
                        panel,
                        x_step: step[1] * pitch.col,
                        y_step: sweep.out_step[1] * sweep.out_channels,
                        add: add || c > 0,
                    };
                    for r in rows.clone() {
                        let x = bases[k].wrapping_add((r - rows.start) * step[0] * pitch.row);
                        let y = starts[k].wrapping_add(
                            ready.place(items[k].sample, r, cols.start)
                                + group * sweep.out_depth
                                + panel.first
                                - regions[k].start,
                        );
                        // SAFETY: `x` is the first operand of row `r` in a slab (or, read
                        // directly, in an image) that holds all that `reach` says the row's taps
                        // read; `y` is the row's first result, inside the item's region, which only
                        // this member (or, sharing by panels, this panel's) writes; the panel has
                        // as many rows as segments and runs want.
                        unsafe { strip.row(x, y, cols.len()) };
                    }
                }
            }
        }
    }
}

impl<T: Element> Job<'_, T> {
    /// One sweep's part of some items where every channel has a filter of its own.
    fn filtered(
        &self,
        ready: &Ready<'_>,
        items: &[Item],
        clips: &[Option<(Range<usize>, Range<usize>)>],
        reaches: &[Option<Reach>],
        bases: &[*const f32],
        starts: &[*mut f32],
        regions: &[Range<usize>],
        add: bool,
    ) {
        let sweep = ready.sweep;
        let Weights::Packed(filters) = self.weights else {
            unreachable!("filters are packed")
        };
        for (k, item) in items.iter().enumerate() {
            let (Some((rows, cols)), Some(reach)) = (&clips[k], &reaches[k]) else {
                continue;
            };
            let pitch = ready.pitch(reach);
            let filtered = Filtered {
                tiles: self.tiles,
                sweep,
                filters: &filters[ready.panels..][..sweep.out_depth * sweep.tap_count()],
                pitch: [pitch.row, pitch.col],
                step: ready.step(reach),
                cols: cols.len(),
                add,
            };
            let row = |r| {
                starts[k].wrapping_add(ready.place(item.sample, r, cols.start) - regions[k].start)
            };
            // SAFETY: the slab (or image) holds the item's reach; its rows lie in its region.
            unsafe { filtered.rows(bases[k], rows.clone(), row) };
        }
    }
}
