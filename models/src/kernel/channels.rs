//! Sums and shifts per channel over channels-last rows: what norms and biases are made of.
//!
//! Per-channel vectors are repeated to a *tile* of several rows, so that inner loops stay long for
//! few channels and partial sums are independent of each other.

use super::element::Element;
use super::isa::Isa;
use super::view::Map;

/// Rows whose sums stay in F32 before they go to F64: bounds the rounding error of long sums.
const F32_ROWS: usize = 1024;

/// Values a tile has at least.
const TILE: usize = 256;

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

/// Values of a block of tiles whose sums stay in F32.
fn block_len(tile: usize) -> usize {
    F32_ROWS.next_multiple_of(tile)
}

fn cleared(partial: &mut Vec<f32>, n: usize) {
    partial.clear();
    partial.resize(n, 0.0);
}

/// `sums[c] += sum over rows of x[row, c]`.
///
/// # Shapes
/// x `[rows, C]`, sums `[C]`; `partial` is scratch
pub fn sum<T: Element>(isa: Isa, x: &[T], sums: &mut [f64], partial: &mut Vec<f32>) {
    let n = tile_len(sums.len());
    cleared(partial, n);
    isa.run(
        #[inline(always)]
        || {
            for block in x.chunks(block_len(n)) {
                for x in block.chunks(n) {
                    for (p, x) in partial.iter_mut().zip(x) {
                        *p += x.widen();
                    }
                }
                fold(partial, sums);
            }
        },
    );
}

/// `squares[c] += sum over rows of (x[row, c] - mean[c])^2`.
///
/// # Shapes
/// x `[rows, C]`, mean one tile, squares `[C]`; `partial` is scratch
pub fn sum_centred_squares<T: Element>(
    isa: Isa,
    x: &[T],
    mean: &[f32],
    squares: &mut [f64],
    partial: &mut Vec<f32>,
) {
    let n = tile_len(squares.len());
    cleared(partial, n);
    isa.run(
        #[inline(always)]
        || {
            for block in x.chunks(block_len(n)) {
                for x in block.chunks(n) {
                    for ((p, x), m) in partial.iter_mut().zip(x).zip(mean) {
                        let d = x.widen() - m;
                        *p += d * d;
                    }
                }
                fold(partial, squares);
            }
        },
    );
}

/// Sums of a gradient on its way back through `map`: with `g'` the gradient where the map of sample
/// `sample` did not cut, `sums[c] += sum of g'` and `dots[c] += sum of g' (z - mean[c])`.
///
/// # Shapes
/// g, z `[rows, C]`, mean one tile, sums, dots `[C]`; the last two are scratch
pub fn sum_and_centred_dot<T: Element>(
    isa: Isa,
    (g, z): (&[T], &[T]),
    (map, sample): (&Map, usize),
    mean: &[f32],
    sums: &mut [f64],
    dots: &mut [f64],
    partial_sums: &mut Vec<f32>,
    partial_dots: &mut Vec<f32>,
) {
    let n = tile_len(sums.len());
    cleared(partial_sums, n);
    cleared(partial_dots, n);
    let block = block_len(n);
    let (scale, shift) = map.tiles(sample);
    let limits = map.limits();
    isa.run(
        #[inline(always)]
        || {
            for (g, z) in g.chunks(block).zip(z.chunks(block)) {
                for (g, z) in g.chunks(n).zip(z.chunks(n)) {
                    let lanes = partial_sums.iter_mut().zip(partial_dots.iter_mut());
                    let maps = scale.iter().zip(shift).zip(mean);
                    for (((s, d), (g, z)), ((f, t), m)) in lanes.zip(g.iter().zip(z)).zip(maps) {
                        let z = z.widen();
                        let g = if limits.passes(z * f + t) {
                            g.widen()
                        } else {
                            0.0
                        };
                        *s += g;
                        *d += g * (z - m);
                    }
                }
                fold(partial_sums, sums);
                fold(partial_dots, dots);
            }
        },
    );
}

/// `y += shift`, per channel and tiled.
pub fn add<T: Element>(isa: Isa, y: &mut [T], shift: &[f32]) {
    isa.run(
        #[inline(always)]
        || {
            for y in y.chunks_mut(shift.len()) {
                for (y, s) in y.iter_mut().zip(shift) {
                    *y = T::narrow(y.widen() + s);
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
        for &isa in Isa::available() {
            for channels in [1, 3, 16, 64, 100] {
                let rows = 2 * F32_ROWS / channels + 7;
                let x: Vec<f32> = (0..rows * channels).map(|i| (i % 17) as f32).collect();
                let mut want = vec![0.0_f64; channels];
                for (i, &v) in x.iter().enumerate() {
                    want[i % channels] += f64::from(v);
                }
                let (mut got, mut partial) = (vec![0.0; channels], Vec::new());
                sum(isa, &x, &mut got, &mut partial);
                assert_eq!(got, want, "{channels} channels");

                let mut mean = Vec::new();
                tile(&vec![0.0; channels], &mut mean);
                let (mut sums, mut dots) = (vec![0.0; channels], vec![0.0; channels]);
                let mut other = Vec::new();
                sum_and_centred_dot(
                    isa,
                    (&vec![1.0; x.len()], &x),
                    (&Map::identity(channels), 0),
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
}
