//! Patches of an image as rows of a matrix, and back (im2col, col2im), over a range of positions so
//! that the matrix stays small however large the batch is.

use std::ops::Range;

use super::simd;

/// How a window slides over a channels-last image. One-dimensional signals have height 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Channels of the image.
    pub channels: usize,
    /// Input (height, width).
    pub input: [usize; 2],
    /// Output (height, width).
    pub output: [usize; 2],
    /// Taps (height, width).
    pub kernel: [usize; 2],
    /// Step (height, width).
    pub stride: [usize; 2],
    /// Zeros before the first value (height, width).
    pub padding: [usize; 2],
    /// Distance between taps (height, width).
    pub dilation: [usize; 2],
}

impl Window {
    /// Positions the window takes in one image.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Taps of the window.
    #[must_use]
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Values in one image.
    #[must_use]
    pub fn image(&self) -> usize {
        self.input[0] * self.input[1] * self.channels
    }

    /// Whether the matrix of patches is the image itself.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0]
    }

    /// Calls `f(image, output row, output column)` for flattened positions, in order.
    #[inline(always)]
    pub(crate) fn walk(&self, positions: Range<usize>, mut f: impl FnMut(usize, usize, usize)) {
        let [height, width] = self.output;
        let (mut image, mut row, mut col) = (
            positions.start / (height * width),
            positions.start / width % height,
            positions.start % width,
        );
        for _ in positions {
            f(image, row, col);
            col += 1;
            if col == width {
                col = 0;
                row += 1;
                if row == height {
                    row = 0;
                    image += 1;
                }
            }
        }
    }

    /// Where tap `tap` of the window at `at` reads along dimension `d`; `None` in the padding.
    #[inline(always)]
    pub(crate) fn reads(&self, d: usize, at: usize, tap: usize) -> Option<usize> {
        (at * self.stride[d] + tap * self.dilation[d])
            .checked_sub(self.padding[d])
            .filter(|&i| i < self.input[d])
    }

    /// Taps along the width that read inside the image when taps are adjacent, and the first
    /// column they read.
    #[inline(always)]
    fn inside(&self, col: usize) -> (Range<usize>, usize) {
        let start = col * self.stride[1];
        let first = self.padding[1].saturating_sub(start).min(self.kernel[1]);
        let end = (self.input[1] + self.padding[1])
            .saturating_sub(start)
            .clamp(first, self.kernel[1]);
        (first..end, (start + first).saturating_sub(self.padding[1]))
    }
}

/// Writes the patches at flattened positions `q` (image, row, column) as rows
/// `[kernel height, kernel width, channels of the group]`; padding becomes zeros.
///
/// # Shapes
/// x `[B, H, W, C]`, out `[positions, kh * kw * group]`
pub fn gather(
    x: &[f32],
    w: &Window,
    group: Range<usize>,
    positions: Range<usize>,
    out: &mut [f32],
) {
    let (channels, width) = (w.channels, group.len());
    let mut rows = out.chunks_exact_mut(w.taps() * width);
    let adjacent = width == channels && w.dilation[1] == 1;
    w.walk(positions, |image, row, col| {
        let Some(patch) = rows.next() else { return };
        let image = &x[image * w.image()..][..w.image()];
        for (i, line) in patch.chunks_exact_mut(w.kernel[1] * width).enumerate() {
            let Some(ih) = w.reads(0, row, i) else {
                line.fill(0.0);
                continue;
            };
            let source = &image[ih * w.input[1] * channels..][..w.input[1] * channels];
            if adjacent {
                let (taps, from) = w.inside(col);
                let run = taps.len() * channels;
                let lead = taps.start * channels;
                line[..lead].fill(0.0);
                if run > 0 {
                    line[lead..lead + run].copy_from_slice(&source[from * channels..][..run]);
                }
                line[lead + run..].fill(0.0);
                continue;
            }
            for (j, tap) in line.chunks_exact_mut(width).enumerate() {
                match w.reads(1, col, j) {
                    Some(iw) => tap.copy_from_slice(&source[iw * channels..][group.clone()]),
                    None => tap.fill(0.0),
                }
            }
        }
    });
}

/// Adjoint of [`gather`]: adds each row's values to where they were read from.
///
/// # Shapes
/// patches `[positions, kh * kw * group]`, dx `[B, H, W, C]`
pub fn scatter_add(
    patches: &[f32],
    w: &Window,
    group: Range<usize>,
    positions: Range<usize>,
    dx: &mut [f32],
) {
    let (channels, width) = (w.channels, group.len());
    let adjacent = width == channels && w.dilation[1] == 1;
    simd(
        #[inline(always)]
        || {
            let mut rows = patches.chunks_exact(w.taps() * width);
            w.walk(positions, |image, row, col| {
                let Some(patch) = rows.next() else { return };
                let image = &mut dx[image * w.image()..][..w.image()];
                for (i, line) in patch.chunks_exact(w.kernel[1] * width).enumerate() {
                    let Some(ih) = w.reads(0, row, i) else {
                        continue;
                    };
                    let target = &mut image[ih * w.input[1] * channels..][..w.input[1] * channels];
                    if adjacent {
                        let (taps, from) = w.inside(col);
                        let run = taps.len() * channels;
                        if run > 0 {
                            let line = &line[taps.start * channels..][..run];
                            let target = &mut target[from * channels..][..run];
                            for (t, v) in target.iter_mut().zip(line) {
                                *t += v;
                            }
                        }
                        continue;
                    }
                    for (j, tap) in line.chunks_exact(width).enumerate() {
                        if let Some(iw) = w.reads(1, col, j) {
                            let target = &mut target[iw * channels..][group.clone()];
                            for (t, v) in target.iter_mut().zip(tap) {
                                *t += v;
                            }
                        }
                    }
                }
            });
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        Window {
            channels: 2,
            input: [1, 4],
            output: [1, 2],
            kernel: [1, 3],
            stride: [1, 2],
            padding: [0, 1],
            dilation: [1, 1],
        }
    }

    #[test]
    fn patches_are_runs_with_zeros_where_they_leave_the_image() {
        let x = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0, 4.0, 40.0];
        let mut out = [9.0; 12];
        gather(&x, &window(), 0..2, 0..2, &mut out);
        assert_eq!(out[..6], [0.0, 0.0, 1.0, 10.0, 2.0, 20.0]);
        assert_eq!(out[6..], [2.0, 20.0, 3.0, 30.0, 4.0, 40.0]);
        let mut second_channel = [9.0; 3];
        gather(&x, &window(), 1..2, 1..2, &mut second_channel);
        assert_eq!(second_channel, [20.0, 30.0, 40.0]);
    }

    #[test]
    fn scattering_is_the_adjoint_of_gathering() {
        // <gather(x), p> == <x, scatter(p)> for every window, with integers so that it is exact.
        for (kernel, stride, padding, dilation, group) in [
            ([3, 3], [1, 1], [1, 1], [1, 1], 0..3),
            ([3, 2], [2, 1], [0, 2], [1, 2], 0..3),
            ([1, 5], [1, 2], [0, 4], [1, 1], 0..3),
            ([2, 3], [2, 2], [1, 1], [2, 1], 1..2),
        ] {
            let input = [5, 6];
            let out = |d: usize| {
                (input[d] + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) / stride[d] + 1
            };
            let w = Window {
                channels: 3,
                input,
                output: [out(0), out(1)],
                kernel,
                stride,
                padding,
                dilation,
            };
            let n = 2 * w.positions();
            let x: Vec<f32> = (0..2 * w.image()).map(|i| (i * 7 % 11) as f32).collect();
            let p: Vec<f32> = (0..n * w.taps() * group.len())
                .map(|i| (i * 5 % 13) as f32)
                .collect();
            let mut col = vec![0.0; p.len()];
            gather(&x, &w, group.clone(), 0..n, &mut col);
            let mut dx = vec![0.0; x.len()];
            scatter_add(&p, &w, group.clone(), 0..n, &mut dx);
            let dot = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
            assert_eq!(dot(&col, &p), dot(&x, &dx), "{w:?}");
            assert!(dot(&col, &p) > 0.0);
        }
    }
}
