//! Convolution where every channel has its own filter: too thin for a matrix product, so the loops
//! run along the channels.

use std::ops::Range;

use super::{patch::Window, simd};

/// `y[p, c] = sum over taps of x[read(p, tap), c] * w[tap, c]`.
///
/// # Shapes
/// x `[B, H, W, C]`, weight `[taps, C]` (channels last), y `[B, Ho, Wo, C]`
pub fn forward(x: &[f32], weight: &[f32], w: &Window, positions: Range<usize>, y: &mut [f32]) {
    let channels = w.channels;
    simd(
        #[inline(always)]
        || {
            let mut rows = y.chunks_exact_mut(channels);
            w.walk(positions, |image, row, col| {
                let Some(y) = rows.next() else { return };
                y.fill(0.0);
                let image = &x[image * w.image()..][..w.image()];
                for_taps(w, row, col, |tap, at| {
                    let x = &image[at * channels..][..channels];
                    let f = &weight[tap * channels..][..channels];
                    for ((y, x), f) in y.iter_mut().zip(x).zip(f) {
                        *y += x * f;
                    }
                });
            });
        },
    );
}

/// Adds the input gradient: `dx[read(p, tap), c] += g[p, c] * w[tap, c]`.
///
/// # Shapes
/// as [`forward`], g like y
pub fn input_adjoint(
    g: &[f32],
    weight: &[f32],
    w: &Window,
    positions: Range<usize>,
    dx: &mut [f32],
) {
    let channels = w.channels;
    simd(
        #[inline(always)]
        || {
            let mut rows = g.chunks_exact(channels);
            w.walk(positions, |image, row, col| {
                let Some(g) = rows.next() else { return };
                let image = &mut dx[image * w.image()..][..w.image()];
                for_taps(w, row, col, |tap, at| {
                    let dx = &mut image[at * channels..][..channels];
                    let f = &weight[tap * channels..][..channels];
                    for ((d, g), f) in dx.iter_mut().zip(g).zip(f) {
                        *d += g * f;
                    }
                });
            });
        },
    );
}

/// Adds the weight gradient: `dw[tap, c] += sum over p of g[p, c] * x[read(p, tap), c]`.
///
/// # Shapes
/// as [`forward`], g like y, dw like weight
pub fn weight_adjoint(x: &[f32], g: &[f32], w: &Window, positions: Range<usize>, dw: &mut [f32]) {
    let channels = w.channels;
    simd(
        #[inline(always)]
        || {
            let mut rows = g.chunks_exact(channels);
            w.walk(positions, |image, row, col| {
                let Some(g) = rows.next() else { return };
                let image = &x[image * w.image()..][..w.image()];
                for_taps(w, row, col, |tap, at| {
                    let x = &image[at * channels..][..channels];
                    let dw = &mut dw[tap * channels..][..channels];
                    for ((d, g), x) in dw.iter_mut().zip(g).zip(x) {
                        *d += g * x;
                    }
                });
            });
        },
    );
}

/// Calls `f(tap, input position)` for the taps of one window that read inside the image.
#[inline(always)]
fn for_taps(w: &Window, row: usize, col: usize, mut f: impl FnMut(usize, usize)) {
    for i in 0..w.kernel[0] {
        let Some(ih) = w.reads(0, row, i) else {
            continue;
        };
        for j in 0..w.kernel[1] {
            if let Some(iw) = w.reads(1, col, j) {
                f(i * w.kernel[1] + j, ih * w.input[1] + iw);
            }
        }
    }
}
