//! One correlation of an image with a set of taps, which forward and input gradient both are.
//!
//! ```text
//!   y[out_first + out_step * (r, q), o] = sum over taps t, channels c of
//!       x[(r, q) * step + t, c] * w[t, c, o]                  for (r, q) in the grid
//! ```
//!
//! Forward, the grid is the output and the taps are the kernel's. The input gradient of a
//! convolution of stride `s` is one sweep over the output's gradient for each of `s * s` phases of
//! input positions, each with the taps that hit it.

use std::ops::Range;

use super::Conv;

/// A correlation; all extents are (height, width).
#[derive(Debug, Clone)]
pub(super) struct Sweep {
    /// Size of the image read.
    pub input: [usize; 2],
    /// Channels of the image read, and those read for one result (of a slab, where channels have
    /// their own filters).
    pub channels: usize,
    pub depth: usize,
    /// Positions made.
    pub grid: [usize; 2],
    /// From one position to the next, in the image read.
    pub step: [usize; 2],
    /// Where taps read, ascending, from the position's own place.
    pub taps: [Vec<isize>; 2],
    /// Which of the kernel's taps these are.
    pub kernel_taps: [Vec<usize>; 2],
    /// Size of the image written.
    pub output: [usize; 2],
    /// Where positions are written.
    pub out_step: [usize; 2],
    pub out_first: [usize; 2],
    /// Channels of the image written, and those made of the same operands.
    pub out_channels: usize,
    pub out_depth: usize,
}

impl Sweep {
    pub(super) fn forward(conv: &Conv) -> Self {
        let w = &conv.window;
        let taps = |d: usize| {
            let place = |i: usize| (i * w.dilation[d]) as isize - w.padding[d] as isize;
            (0..w.kernel[d]).map(place).collect()
        };
        Self {
            input: w.input,
            channels: w.channels,
            depth: conv.depth(),
            grid: w.output,
            step: w.stride,
            taps: [taps(0), taps(1)],
            kernel_taps: [0, 1].map(|d| (0..w.kernel[d]).collect()),
            output: w.output,
            out_step: [1; 2],
            out_first: [0; 2],
            out_channels: conv.out_channels,
            out_depth: conv.out_depth(),
        }
    }

    /// The sweeps that make the input gradient, one per phase; a phase that no tap hits has none.
    pub(super) fn backward(conv: &Conv) -> Vec<Self> {
        let w = &conv.window;
        let phases = |d: usize| 0..w.stride[d].min(w.input[d]);
        let mut all = Vec::new();
        for a in phases(0) {
            for b in phases(1) {
                all.push(Self::phase(conv, [a, b]));
            }
        }
        all
    }

    fn phase(conv: &Conv, first: [usize; 2]) -> Self {
        let w = &conv.window;
        // Tap `i` takes position `h` to row `(h + padding - i * dilation) / stride` of the output,
        // where that divides; the last tap of the kernel reads first.
        let hits = |d: usize| -> (Vec<isize>, Vec<usize>) {
            (0..w.kernel[d])
                .rev()
                .filter_map(|i| {
                    let at = (first[d] + w.padding[d]) as isize - (i * w.dilation[d]) as isize;
                    let s = w.stride[d] as isize;
                    (at.rem_euclid(s) == 0).then(|| (at.div_euclid(s), i))
                })
                .unzip()
        };
        let ((rows, kernel_rows), (cols, kernel_cols)) = (hits(0), hits(1));
        let grid = |d: usize| (w.input[d] - first[d]).div_ceil(w.stride[d]);
        Self {
            input: w.output,
            channels: conv.out_channels,
            depth: conv.out_depth(),
            grid: [grid(0), grid(1)],
            step: [1; 2],
            taps: [rows, cols],
            kernel_taps: [kernel_rows, kernel_cols],
            output: w.input,
            out_step: w.stride,
            out_first: first,
            out_channels: w.channels,
            out_depth: conv.depth(),
        }
    }

    /// Taps in all.
    pub(super) fn tap_count(&self) -> usize {
        self.taps[0].len() * self.taps[1].len()
    }

    /// What the positions `rows x cols` of the grid read of one image.
    pub(super) fn reach(&self, rows: &Range<usize>, cols: &Range<usize>) -> Reach {
        let along = |d: usize, range: &Range<usize>| {
            let taps = &self.taps[d];
            let (low, high) = (taps[0], taps[taps.len() - 1]);
            let first = (range.start * self.step[d]) as isize + low;
            // A single tap skips what lies between positions.
            if taps.len() == 1 {
                return (range.len(), first, self.step[d], 1);
            }
            let extent = (range.len() - 1) * self.step[d] + (high - low) as usize + 1;
            (extent, first, 1, self.step[d])
        };
        let (r, c) = (along(0, rows), along(1, cols));
        Reach {
            size: [r.0, c.0],
            first: [r.1, c.1],
            skip: [r.2, c.2],
            step: [r.3, c.3],
        }
    }

    /// Place of tap `i` along `d`, in rows or columns of a [`Reach`].
    pub(super) fn tap_in_reach(&self, d: usize, i: usize) -> usize {
        (self.taps[d][i] - self.taps[d][0]) as usize
    }

    /// Whether taps along the width lie side by side.
    pub(super) fn adjacent(&self) -> bool {
        self.taps[1].windows(2).all(|t| t[1] == t[0] + 1)
    }
}

/// A rectangle of an image, perhaps with rows and columns left out, perhaps past its edges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reach {
    /// Rows and columns.
    pub size: [usize; 2],
    /// Image row and column of the first.
    pub first: [isize; 2],
    /// Image rows (columns) from one to the next.
    pub skip: [usize; 2],
    /// Rows (columns) of this rectangle from one position of the grid to the next.
    pub step: [usize; 2],
}

impl Reach {
    /// Whether all of it lies inside an image of this size.
    pub(super) fn is_inside(&self, image: [usize; 2]) -> bool {
        (0..2).all(|d| {
            let last = self.first[d] + ((self.size[d] - 1) * self.skip[d]) as isize;
            self.first[d] >= 0 && last < image[d] as isize
        })
    }
}
