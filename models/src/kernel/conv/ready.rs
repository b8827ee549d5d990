//! What a sweep needs worked out before it runs over items.

use std::ops::Range;

use super::SLAB_BYTES;
use super::panels::{Cut, Packing};
use super::slab::operands;
use super::sweep::{Reach, Sweep};
use crate::kernel::team::share;

/// A part of the grid of the first sweep (which has the largest), in one image.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub sample: usize,
    pub rows: Range<usize>,
    pub cols: Range<usize>,
}

/// Cuts a batch into items: whole images where they are small, bands where they are not, and enough
/// of them for the team.
pub(super) fn items(
    batch: usize,
    grid: [usize; 2],
    single_row: bool,
    bytes_per_image: usize,
    members: usize,
) -> Vec<Item> {
    // Bands of rows; a single row is cut along itself.
    let along = usize::from(single_row);
    let extent = grid[along];
    let least = bytes_per_image.div_ceil(SLAB_BYTES).clamp(1, extent);
    let few = batch * least < 4 * members;
    let even = |bands: &usize| (batch * bands).is_multiple_of(members);
    let most = (2 * least + members).min(extent.div_ceil(if along == 1 { 16 } else { 4 }));
    let bands = if few {
        (least..=most).find(even).unwrap_or(least)
    } else {
        least
    };
    let mut all = Vec::with_capacity(batch * bands);
    for sample in 0..batch {
        for band in 0..bands {
            let range = share(extent, bands, band);
            let (rows, cols) = if along == 0 {
                (range, 0..grid[1])
            } else {
                (0..1, range)
            };
            all.push(Item { sample, rows, cols });
        }
    }
    all
}

/// Some rows of a panel and what they are multiplied with.
pub(super) struct Chunk {
    /// First row of the panel.
    pub(super) row: usize,
    pub(super) segments: Vec<usize>,
    pub(super) run: usize,
}

/// Where operands lie: in a slab or in the image itself.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Pitch {
    pub(super) row: usize,
    pub(super) col: usize,
}

/// One sweep, ready to run.
pub(super) struct Ready<'a> {
    pub(super) packing: Packing<'a>,
    pub(super) sweep: &'a Sweep,
    pub(super) cut: Cut,
    /// Where its panels begin.
    pub(super) panels: usize,
    /// Whether operands are read where they lie.
    pub(super) direct: bool,
}

impl Ready<'_> {
    /// The item's part of this sweep's grid; `None` where it has none.
    pub(super) fn clip(&self, item: &Item) -> Option<(Range<usize>, Range<usize>)> {
        let clip = |r: &Range<usize>, n: usize| r.start..r.end.min(n);
        let rows = clip(&item.rows, self.sweep.grid[0]);
        let cols = clip(&item.cols, self.sweep.grid[1]);
        (!rows.is_empty() && !cols.is_empty()).then_some((rows, cols))
    }

    /// Where the first channel of a position of the grid is written.
    pub(super) fn place(&self, sample: usize, row: usize, col: usize) -> usize {
        let s = self.sweep;
        let row = row * s.out_step[0] + s.out_first[0];
        let col = col * s.out_step[1] + s.out_first[1];
        ((sample * s.output[0] + row) * s.output[1] + col) * s.out_channels
    }

    pub(super) fn pitch(&self, reach: &Reach) -> Pitch {
        if self.direct {
            let col = self.width();
            return Pitch {
                row: self.sweep.input[1] * col,
                col,
            };
        }
        let col = self.width();
        Pitch {
            row: reach.size[1] * col,
            col,
        }
    }

    /// Operands of a position.
    pub(super) fn width(&self) -> usize {
        operands(self.sweep.depth, self.cut.pairs)
    }

    /// From one position of the grid to the next, in rows and columns of operands.
    pub(super) fn step(&self, reach: &Reach) -> [usize; 2] {
        if self.direct {
            self.sweep.step
        } else {
            reach.step
        }
    }

    /// Floats of a slab.
    pub(super) fn slab_len(&self, reach: &Reach) -> usize {
        if self.direct {
            0
        } else {
            reach.size[0] * reach.size[1] * self.width()
        }
    }

    /// The rows of a panel in chunks of at most `most`.
    pub(super) fn chunks(&self, pitch: Pitch, most: usize) -> Vec<Chunk> {
        let width = self.width();
        let (rows, cols) = (self.sweep.taps[0].len(), self.sweep.taps[1].len());
        let mut segments = Vec::with_capacity(rows * cols);
        let joined = self.sweep.adjacent();
        for i in 0..rows {
            let row = self.sweep.tap_in_reach(0, i) * pitch.row;
            for j in 0..if joined { 1 } else { cols } {
                segments.push(row + self.sweep.tap_in_reach(1, j) * pitch.col);
            }
        }
        let run = if joined { cols * width } else { width };
        let mut chunks = Vec::new();
        if run > most {
            for (s, &segment) in segments.iter().enumerate() {
                let parts = run.div_ceil(most);
                for part in 0..parts {
                    let part = share(run, parts, part);
                    chunks.push(Chunk {
                        row: s * run + part.start,
                        segments: vec![segment + part.start],
                        run: part.len(),
                    });
                }
            }
        } else {
            let each = (most / run).max(1);
            for (i, part) in segments.chunks(each).enumerate() {
                chunks.push(Chunk {
                    row: i * each * run,
                    segments: part.to_vec(),
                    run,
                });
            }
        }
        chunks
    }
}
