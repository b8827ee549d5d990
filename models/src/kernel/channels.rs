//! Sums and affine maps per channel over channels-last rows: what norms and biases are made of.
//!
//! Per-channel vectors are repeated to a *tile* of several rows, so that inner loops stay long for
//! few channels and partial sums are independent of each other.

use super::simd;

/// Rows whose sums stay in F32 before they go to F64: bounds the rounding error of long sums.
const F32_ROWS: usize = 1024;

/// Values a tile has at least.
const TILE: usize = 64;

/// Length of a tile for `channels` channels: a multiple of `channels`.
#[must_use]
pub fn tile_len(channels: usize) -> usize {
    TILE.div_ceil(channels.max(1)) * channels
}

/// Repeats a per-channel vector to the length of a tile.
pub fn tile(per_channel: &[f32], out: &mut Vec<f32>) {
    out.clear();
    let n = tile_len(per_channel.len());
    while out.len() < n {
        out.extend_from_slice(per_channel);
    }
}

#[inline(always)]
fn fold(tile: &mut [f32], sums: &mut [f64]) {
    for row in tile.chunks_exact_mut(sums.len()) {
        for (s, p) in sums.iter_mut().zip(row) {
            *s += f64::from(*p);
            *p = 0.0;
        }
    }
}

/// `sums[c] += sum over rows of x[row, c]`.
///
/// # Shapes
/// x `[rows, C]`, sums `[C]`; `partial` is scratch
pub fn sum(x: &[f32], sums: &mut [f64], partial: &mut Vec<f32>) {
    let n = tile_len(sums.len());
    partial.clear();
    partial.resize(n, 0.0);
    for block in x.chunks(F32_ROWS.next_multiple_of(n)) {
        simd(
            #[inline(always)]
            || {
                for x in block.chunks(n) {
                    for (p, x) in partial.iter_mut().zip(x) {
                        *p += x;
                    }
                }
                fold(partial, sums);
            },
        );
    }
}

/// `squares[c] += sum over rows of (x[row, c] - mean[c])^2`.
///
/// # Shapes
/// x `[rows, C]`, mean one tile, squares `[C]`; `partial` is scratch
pub fn sum_centred_squares(x: &[f32], mean: &[f32], squares: &mut [f64], partial: &mut Vec<f32>) {
    let n = tile_len(squares.len());
    partial.clear();
    partial.resize(n, 0.0);
    for block in x.chunks(F32_ROWS.next_multiple_of(n)) {
        simd(
            #[inline(always)]
            || {
                for x in block.chunks(n) {
                    for ((p, x), m) in partial.iter_mut().zip(x).zip(mean) {
                        let d = x - m;
                        *p += d * d;
                    }
                }
                fold(partial, squares);
            },
        );
    }
}

/// `sums[c] += sum of g[row, c]` and `dots[c] += sum of g[row, c] * (x[row, c] - mean[c])`.
///
/// # Shapes
/// g, x `[rows, C]`, mean one tile, sums, dots `[C]`; the last two are scratch
pub fn sum_and_centred_dot(
    g: &[f32],
    x: &[f32],
    mean: &[f32],
    sums: &mut [f64],
    dots: &mut [f64],
    partial_sums: &mut Vec<f32>,
    partial_dots: &mut Vec<f32>,
) {
    let n = tile_len(sums.len());
    for p in [&mut *partial_sums, &mut *partial_dots] {
        p.clear();
        p.resize(n, 0.0);
    }
    let block = F32_ROWS.next_multiple_of(n);
    for (g, x) in g.chunks(block).zip(x.chunks(block)) {
        simd(
            #[inline(always)]
            || {
                for (g, x) in g.chunks(n).zip(x.chunks(n)) {
                    let lanes = partial_sums.iter_mut().zip(partial_dots.iter_mut());
                    for (((s, d), (g, x)), m) in lanes.zip(g.iter().zip(x)).zip(mean) {
                        *s += g;
                        *d += g * (x - m);
                    }
                }
                fold(partial_sums, sums);
                fold(partial_dots, dots);
            },
        );
    }
}

/// `out = (x - mean) * factor + shift`, all three per channel and tiled.
pub fn affine(x: &[f32], mean: &[f32], factor: &[f32], shift: &[f32], out: &mut [f32]) {
    let n = mean.len();
    simd(
        #[inline(always)]
        || {
            for (o, x) in out.chunks_mut(n).zip(x.chunks(n)) {
                let maps = mean.iter().zip(factor).zip(shift);
                for ((o, x), ((m, f), s)) in o.iter_mut().zip(x).zip(maps) {
                    *o = (x - m) * f + s;
                }
            }
        },
    );
}

/// `out = g * factor - (x - mean) * slope - offset`, all four per channel and tiled: the adjoint of
/// a norm whose statistics depend on its input.
pub fn norm_adjoint(
    g: &[f32],
    x: &[f32],
    mean: &[f32],
    factor: &[f32],
    slope: &[f32],
    offset: &[f32],
    out: &mut [f32],
) {
    let n = mean.len();
    simd(
        #[inline(always)]
        || {
            for ((o, g), x) in out.chunks_mut(n).zip(g.chunks(n)).zip(x.chunks(n)) {
                let maps = mean.iter().zip(factor).zip(slope.iter().zip(offset));
                for (((o, g), x), ((m, f), (s, c))) in o.iter_mut().zip(g).zip(x).zip(maps) {
                    *o = g * f - (x - m) * s - c;
                }
            }
        },
    );
}

/// `out = g * factor`, per channel and tiled.
pub fn scale(g: &[f32], factor: &[f32], out: &mut [f32]) {
    let n = factor.len();
    simd(
        #[inline(always)]
        || {
            for (o, g) in out.chunks_mut(n).zip(g.chunks(n)) {
                for ((o, g), f) in o.iter_mut().zip(g).zip(factor) {
                    *o = g * f;
                }
            }
        },
    );
}

/// `y += shift`, per channel and tiled.
pub fn add(y: &mut [f32], shift: &[f32]) {
    simd(
        #[inline(always)]
        || {
            for y in y.chunks_mut(shift.len()) {
                for (y, s) in y.iter_mut().zip(shift) {
                    *y += s;
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_cover_whole_tiles_and_the_rest() {
        for channels in [1, 3, 16, 64, 100] {
            let rows = 2 * F32_ROWS / channels + 7;
            let x: Vec<f32> = (0..rows * channels).map(|i| (i % 17) as f32).collect();
            let mut want = vec![0.0_f64; channels];
            for (i, &v) in x.iter().enumerate() {
                want[i % channels] += f64::from(v);
            }
            let (mut got, mut partial) = (vec![0.0; channels], Vec::new());
            sum(&x, &mut got, &mut partial);
            assert_eq!(got, want, "{channels} channels");

            let mut mean = Vec::new();
            tile(&vec![0.0; channels], &mut mean);
            let (mut sums, mut dots) = (vec![0.0; channels], vec![0.0; channels]);
            let mut other = Vec::new();
            sum_and_centred_dot(
                &vec![1.0; x.len()],
                &x,
                &mean,
                &mut sums,
                &mut dots,
                &mut partial,
                &mut other,
            );
            assert_eq!(dots, want);
            assert_eq!(sums, vec![rows as f64; channels]);
        }
    }
}
