//! Windows reduced to their maximum or mean, along the channels.

use super::{patch::Window, simd};

/// Maximum over each window; padding never wins, not-a-number always does. `argmax` holds the
/// position within the image, for the adjoint.
///
/// # Shapes
/// x `[B, H, W, C]`, y and argmax `[B, Ho, Wo, C]`
pub fn max(x: &[f32], w: &Window, y: &mut [f32], argmax: &mut [u32]) {
    let channels = w.channels;
    let positions = y.len() / channels.max(1);
    simd(
        #[inline(always)]
        || {
            let mut rows = y
                .chunks_exact_mut(channels)
                .zip(argmax.chunks_exact_mut(channels));
            w.walk(0..positions, |image, row, col| {
                let Some((y, places)) = rows.next() else {
                    return;
                };
                y.fill(f32::NEG_INFINITY);
                places.fill(u32::MAX);
                let image = &x[image * w.image()..][..w.image()];
                for i in 0..w.kernel[0] {
                    let Some(ih) = w.reads(0, row, i) else {
                        continue;
                    };
                    for j in 0..w.kernel[1] {
                        let Some(iw) = w.reads(1, col, j) else {
                            continue;
                        };
                        let at = ih * w.input[1] + iw;
                        let x = &image[at * channels..][..channels];
                        // A graph's values have fewer than 2^31 elements.
                        let place = at as u32;
                        for ((y, p), &x) in y.iter_mut().zip(places.iter_mut()).zip(x) {
                            // The first tap always counts: an image of -inf has a maximum too.
                            let wins = x > *y || x.is_nan() || *p == u32::MAX;
                            *y = if wins { x } else { *y };
                            *p = if wins { place } else { *p };
                        }
                    }
                }
            });
        },
    );
}

/// Adjoint of [`max`]: the gradient goes to the winner.
///
/// # Shapes
/// g and argmax `[B, Ho, Wo, C]`, dx `[B, H, W, C]`
pub fn max_adjoint(g: &[f32], argmax: &[u32], w: &Window, dx: &mut [f32]) {
    let channels = w.channels;
    dx.fill(0.0);
    let mut rows = g.chunks_exact(channels).zip(argmax.chunks_exact(channels));
    for dx in dx.chunks_exact_mut(w.image().max(1)) {
        for (g, places) in rows.by_ref().take(w.positions()) {
            for (c, (g, &p)) in g.iter().zip(places).enumerate() {
                dx[p as usize * channels + c] += g;
            }
        }
    }
}

/// Mean over each window; padding counts as zeros.
///
/// # Shapes
/// x `[B, H, W, C]`, y `[B, Ho, Wo, C]`
pub fn mean(x: &[f32], w: &Window, y: &mut [f32]) {
    let channels = w.channels;
    let positions = y.len() / channels.max(1);
    let share = 1.0 / w.taps() as f32;
    simd(
        #[inline(always)]
        || {
            let mut rows = y.chunks_exact_mut(channels);
            w.walk(0..positions, |image, row, col| {
                let Some(y) = rows.next() else { return };
                y.fill(0.0);
                let image = &x[image * w.image()..][..w.image()];
                for i in 0..w.kernel[0] {
                    let Some(ih) = w.reads(0, row, i) else {
                        continue;
                    };
                    for j in 0..w.kernel[1] {
                        if let Some(iw) = w.reads(1, col, j) {
                            let x = &image[(ih * w.input[1] + iw) * channels..][..channels];
                            for (y, x) in y.iter_mut().zip(x) {
                                *y += x;
                            }
                        }
                    }
                }
                for y in y.iter_mut() {
                    *y *= share;
                }
            });
        },
    );
}

/// Adjoint of [`mean`]: every tap gets an equal share.
///
/// # Shapes
/// g `[B, Ho, Wo, C]`, dx `[B, H, W, C]`
pub fn mean_adjoint(g: &[f32], w: &Window, dx: &mut [f32]) {
    let channels = w.channels;
    let positions = g.len() / channels.max(1);
    let share = 1.0 / w.taps() as f32;
    dx.fill(0.0);
    simd(
        #[inline(always)]
        || {
            let mut rows = g.chunks_exact(channels);
            w.walk(0..positions, |image, row, col| {
                let Some(g) = rows.next() else { return };
                let image = &mut dx[image * w.image()..][..w.image()];
                for i in 0..w.kernel[0] {
                    let Some(ih) = w.reads(0, row, i) else {
                        continue;
                    };
                    for j in 0..w.kernel[1] {
                        if let Some(iw) = w.reads(1, col, j) {
                            let dx = &mut image[(ih * w.input[1] + iw) * channels..][..channels];
                            for (d, g) in dx.iter_mut().zip(g) {
                                *d += g * share;
                            }
                        }
                    }
                }
            });
        },
    );
}

/// Mean over all positions of each sample.
///
/// # Shapes
/// x `[B, P, C]`, y `[B, C]`
pub fn global_mean(x: &[f32], positions: usize, channels: usize, y: &mut [f32]) {
    let share = 1.0 / positions as f32;
    simd(
        #[inline(always)]
        || {
            let samples = x.chunks_exact((positions * channels).max(1));
            for (y, x) in y.chunks_exact_mut(channels.max(1)).zip(samples) {
                y.fill(0.0);
                for x in x.chunks_exact(channels) {
                    for (y, x) in y.iter_mut().zip(x) {
                        *y += x;
                    }
                }
                for y in y.iter_mut() {
                    *y *= share;
                }
            }
        },
    );
}

/// Adjoint of [`global_mean`].
///
/// # Shapes
/// g `[B, C]`, dx `[B, P, C]`
pub fn global_mean_adjoint(g: &[f32], positions: usize, channels: usize, dx: &mut [f32]) {
    let share = 1.0 / positions as f32;
    simd(
        #[inline(always)]
        || {
            let samples = dx.chunks_exact_mut((positions * channels).max(1));
            for (g, dx) in g.chunks_exact(channels.max(1)).zip(samples) {
                for dx in dx.chunks_exact_mut(channels) {
                    for (d, g) in dx.iter_mut().zip(g) {
                        *d = g * share;
                    }
                }
            }
        },
    );
}
