//! Convolutions whose channels have a filter each: too thin for products of matrices, so a register
//! of channels goes over the positions.

use std::ops::Range;

use super::sweep::Sweep;
use super::weight::{Job, Operands};
use crate::kernel::element::Element;
use crate::kernel::team::share;
use crate::kernel::tile::{DEPTH_POSITIONS, DEPTH_TAPS, DepthOuters, Depths, Tiles};

/// Where the taps of a sweep read, operands' rows and columns being `pitch` apart.
fn taps(sweep: &Sweep, pitch: [usize; 2]) -> Vec<usize> {
    (0..sweep.taps[0].len())
        .flat_map(|i| (0..sweep.taps[1].len()).map(move |j| (i, j)))
        .map(|(i, j)| sweep.tap_in_reach(0, i) * pitch[0] + sweep.tap_in_reach(1, j) * pitch[1])
        .collect()
}

/// One sweep's part of an item.
pub(super) struct Filtered<'a> {
    pub tiles: &'static Tiles,
    pub sweep: &'a Sweep,
    /// `[taps, channels]`
    pub filters: &'a [f32],
    /// From one row of operands to the next, and from one column.
    pub pitch: [usize; 2],
    /// From one position to the next, in those.
    pub step: [usize; 2],
    /// Positions of a row.
    pub cols: usize,
    /// Whether results are added to what is there.
    pub add: bool,
}

impl Filtered<'_> {
    /// Filters `rows` rows of positions; `y` tells where a row's results go.
    ///
    /// # Safety
    /// `x` is readable for all that the positions' taps read, the results of each row writable.
    pub(super) unsafe fn rows(
        &self,
        x: *const f32,
        rows: Range<usize>,
        y: impl Fn(usize) -> *mut f32,
    ) {
        let channels = self.sweep.out_depth;
        assert_eq!(self.filters.len(), channels * self.sweep.tap_count());
        let whole = channels - channels % self.tiles.lanes;
        let taps = taps(self.sweep, self.pitch);
        let x_step = self.step[1] * self.pitch[1];
        let y_step = self.sweep.out_step[1] * self.sweep.out_channels;
        let parts = self.cols.div_ceil(DEPTH_POSITIONS);
        let first = rows.start;
        for r in rows {
            let x = x.wrapping_add((r - first) * self.step[0] * self.pitch[0]);
            let y = y(r);
            for part in 0..parts {
                let part = share(self.cols, parts, part);
                let tile = self.tiles.depths(part.len());
                let (x, y) = (
                    x.wrapping_add(part.start * x_step),
                    y.wrapping_add(part.start * y_step),
                );
                for c in (0..whole).step_by(self.tiles.lanes) {
                    let depths = Depths {
                        x: x.wrapping_add(c),
                        x_step,
                        taps: &taps,
                        w: self.filters[c..].as_ptr(),
                        w_step: channels,
                        y: y.wrapping_add(c),
                        y_step,
                        add: self.add,
                    };
                    // SAFETY: slab (or image), filters and the item's region hold `channels` floats
                    // at each of these places, of which a register's are taken.
                    unsafe { tile(&depths) };
                }
                for p in 0..part.len() {
                    for c in whole..channels {
                        // SAFETY: as above, for one channel.
                        unsafe {
                            let y = y.add(p * y_step + c);
                            let mut sum = if self.add { *y } else { 0.0 };
                            for (t, tap) in taps.iter().enumerate() {
                                let w = self.filters[t * channels + c];
                                sum += *x.add(p * x_step + tap + c) * w;
                            }
                            *y = sum;
                        }
                    }
                }
            }
        }
    }
}

/// Writes (or adds) what units give to the gradient of the filters.
///
/// # Shapes
/// sums `[taps, channels]`
pub(super) fn outers<T: Element>(
    job: &Job<'_, T>,
    operands: &[Operands],
    add: bool,
    sums: &mut [f32],
) {
    let channels = job.columns;
    assert_eq!(sums.len(), channels * job.sweep.tap_count());
    if !add {
        sums.fill(0.0);
    }
    let lanes = job.tiles.lanes;
    let whole = channels - channels % lanes;
    for o in operands {
        let taps = taps(&job.sweep, o.x_pitch);
        let [x_row, x_step] = [0, 1].map(|d| o.step[d] * o.x_pitch[d]);
        let rows = taps
            .chunks(DEPTH_TAPS)
            .zip(sums.chunks_mut(DEPTH_TAPS * channels));
        for (some, sums) in rows {
            for c in (0..whole).step_by(lanes) {
                let outers = DepthOuters {
                    x: o.x.wrapping_add(c),
                    x_row,
                    x_step,
                    taps: some,
                    g: o.g.wrapping_add(c),
                    g_row: o.g_row,
                    g_step: o.g_step,
                    rows: o.rows,
                    cols: o.cols,
                    y: sums[c..].as_mut_ptr(),
                    y_step: channels,
                };
                // SAFETY: slabs (or images) and sums hold `channels` floats at each of these places,
                // of which a register's are taken.
                unsafe { job.tiles.depth_outers(some.len())(&outers) };
            }
            for (tap, sums) in some.iter().zip(sums.chunks_exact_mut(channels)) {
                for (c, sum) in sums.iter_mut().enumerate().skip(whole) {
                    for r in 0..o.rows {
                        for q in 0..o.cols {
                            // SAFETY: as above, for one channel.
                            unsafe {
                                let x = *o.x.add(r * x_row + q * x_step + tap + c);
                                *sum += x * *o.g.add(r * o.g_row + q * o.g_step + c);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Adds the members' sums in their order and lays them out as a weight.
///
/// # Shapes
/// each of sums `[taps, channels]`, dw `[channels, 1, kh, kw]`
pub(super) fn collect(channels: usize, sums: &[&[f32]], dw: &mut [f32]) {
    let taps = dw.len() / channels;
    for (c, filter) in dw.chunks_exact_mut(taps).enumerate() {
        for (tap, w) in filter.iter_mut().enumerate() {
            *w = sums.iter().map(|s| s[tap * channels + c]).sum();
        }
    }
}
