//! A row of positions for a chunk of a panel, cut into register tiles.

use super::panels::Panel;
use super::ready::Chunk;
use crate::kernel::team::share;
use crate::kernel::tile::{Dots, MAX_WIDTH, Tiles};

/// Most floats of one tile's results.
const TILE: usize = 16 * 16 * MAX_WIDTH;

/// What all rows of an item have in common for one chunk of a panel.
pub(super) struct Strip<'a> {
    pub(super) tiles: &'static Tiles,
    pub(super) chunk: &'a Chunk,
    pub(super) weights: &'a [f32],
    pub(super) panel: Panel,
    pub(super) x_step: usize,
    pub(super) y_step: usize,
    pub(super) add: bool,
}

impl Strip<'_> {
    /// A row of positions.
    ///
    /// # Safety
    /// As `tile::dots` for all `n` positions from `x` and `y` on, except that only `panel.count`
    /// results of each are written.
    pub(super) unsafe fn row(&self, x: *const f32, y: *mut f32, n: usize) {
        let lanes = self.tiles.lanes;
        let width = self.panel.width;
        let parts = n.div_ceil(self.tiles.tallest(width));
        let whole = self.panel.count == width * lanes;
        for i in 0..parts {
            let part = share(n, parts, i);
            let tile = self.tiles.dots(width, part.len());
            let x = x.wrapping_add(part.start * self.x_step);
            let y = y.wrapping_add(part.start * self.y_step);
            let mut dots = Dots {
                x,
                x_step: self.x_step,
                segments: &self.chunk.segments,
                run: self.chunk.run,
                w: self.weights.as_ptr(),
                y,
                y_step: self.y_step,
                add: self.add,
            };
            if whole {
                // SAFETY: as the caller promised.
                unsafe { tile(&dots) };
                continue;
            }
            // The last panel of channels that do not fill its registers: through a whole tile.
            let mut full = [0.0_f32; TILE];
            debug_assert!(
                part.len() * width * lanes <= TILE,
                "tiles are at most 16 x 4 x 16"
            );
            let count = self.panel.count;
            for p in 0..if self.add { part.len() } else { 0 } {
                // SAFETY: `count` results of each position may be read and written.
                let old = unsafe { std::slice::from_raw_parts(y.add(p * self.y_step), count) };
                full[p * width * lanes..][..count].copy_from_slice(old);
            }
            dots.y = full.as_mut_ptr();
            dots.y_step = width * lanes;
            // SAFETY: the tile writes `part.len() * width * lanes` floats, which `full` has.
            unsafe { tile(&dots) };
            for p in 0..part.len() {
                // SAFETY: as above.
                let new = unsafe { std::slice::from_raw_parts_mut(y.add(p * self.y_step), count) };
                new.copy_from_slice(&full[p * width * lanes..][..count]);
            }
        }
    }
}
