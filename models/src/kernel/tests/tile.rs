//! Every register tile there is, over buffers that end where it may read and write last: a sanitizer
//! sees one number more.

use std::ops::RangeInclusive;

use proptest::prelude::*;

use super::*;
use crate::kernel::tile::{
    self, DEPTH_POSITIONS, DEPTH_TAPS, DepthOuters, Depths, Dots, Outers, Plot, Tiles,
};

/// Tiles with what they multiply: numbers, or pairs of halves.
struct Kind {
    name: String,
    tiles: &'static Tiles,
    pairs: bool,
}

fn kinds() -> Vec<Kind> {
    let mut all = Vec::new();
    for &isa in Isa::available() {
        let mut kind = |tiles, pairs| {
            let name = format!("{isa}{}", if pairs { " pairs" } else { "" });
            all.push(Kind { name, tiles, pairs });
        };
        kind(tile::floats(isa), false);
        if let Some(tiles) = tile::pairs(isa) {
            kind(tiles, true);
        }
    }
    all
}

impl Kind {
    fn operands(&self, n: usize, salt: u64) -> Vec<f32> {
        let low = noise(n, salt);
        if !self.pairs {
            return low;
        }
        // Both are exact as bfloat16, whose bits are the upper half of an f32's.
        let pairs = low.iter().zip(noise(n, salt + 99));
        pairs
            .map(|(l, h)| f32::from_bits(l.to_bits() >> 16 | h.to_bits()))
            .collect()
    }

    fn product(&self, a: f32, b: f32) -> f64 {
        let number = |bits: u32| f64::from(f32::from_bits(bits));
        let (a, b) = (a.to_bits(), b.to_bits());
        if !self.pairs {
            return number(a) * number(b);
        }
        let high = |v: u32| number(v & 0xFFFF_0000);
        number(a << 16) * number(b << 16) + high(a) * high(b)
    }
}

/// Results in rows of `wide`, `step` apart, of which nothing between is touched.
struct Results {
    rows: usize,
    wide: usize,
    step: usize,
    old: Vec<f32>,
}

impl Results {
    fn new(rows: usize, wide: usize, gap: usize, salt: u64) -> Self {
        let step = wide + gap;
        let old = noise((rows - 1) * step + wide, salt + 5);
        Self {
            rows,
            wide,
            step,
            old,
        }
    }

    /// Runs a tile, on top of what is there and not, if it can be asked for both.
    fn check(
        &self,
        what: &str,
        adds: &[bool],
        run: impl Fn(*mut f32, bool),
        want: impl Fn(usize, usize) -> f64,
    ) {
        for &add in adds {
            let mut y = self.old.clone();
            run(y.as_mut_ptr(), add);
            for (i, (got, old)) in y.iter().zip(&self.old).enumerate() {
                let (row, col) = (i / self.step, i % self.step);
                if col >= self.wide {
                    assert!(got == old, "{what}: {i} is between results");
                    continue;
                }
                assert!(row < self.rows);
                let kept = if add { f64::from(*old) } else { 0.0 };
                let want = want(row, col) + kept;
                assert!(
                    f64::from(*got) == want,
                    "{what} {row} {col}: {got} for {want}"
                );
            }
        }
    }
}

fn heights(kind: &Kind, width: usize) -> RangeInclusive<usize> {
    1..=kind.tiles.tallest(width)
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn dots_are_sums_over_segments(
        (step, run) in (0..9_usize, 1..7_usize),
        segments in prop::collection::vec(0..40_usize, 0..4),
        gap in 0..3_usize,
        salt in 0..1000_u64,
    ) {
        for kind in kinds() {
            for width in kind.tiles.widths() {
                for height in heights(&kind, width) {
                    let wide = width * kind.tiles.lanes;
                    let last = segments.iter().max().map_or(0, |last| last + run);
                    let x = kind.operands((height - 1) * step + last, salt);
                    let w = kind.operands(segments.len() * run * wide, salt + 1);
                    let results = Results::new(height, wide, gap, salt);
                    let tile = kind.tiles.dots(width, height);
                    let what = format!("{} dots {width} x {height}", kind.name);
                    results.check(&what, &[false, true], |y, add| {
                        let dots = Dots {
                            x: x.as_ptr(),
                            x_step: step,
                            segments: &segments,
                            run,
                            w: w.as_ptr(),
                            y,
                            y_step: results.step,
                            add,
                        };
                        // SAFETY: the processor has the set; every buffer was made as long as the tile
                        // reaches.
                        unsafe { tile(&dots) };
                    }, |p, c| {
                        let term = |s: usize, k: usize| {
                            kind.product(x[p * step + segments[s] + k], w[(s * run + k) * wide + c])
                        };
                        let all = (0..segments.len()).flat_map(|s| (0..run).map(move |k| (s, k)));
                        all.map(|(s, k)| term(s, k)).sum()
                    });
                }
            }
        }
    }

    #[test]
    fn outers_are_sums_over_plots(
        plots in prop::collection::vec((1..4_usize, 1..5_usize, 0..30_usize, 0..9_usize), 0..4),
        at in 0..4_usize,
        gap in 0..3_usize,
        salt in 0..1000_u64,
    ) {
        for kind in kinds() {
            for width in kind.tiles.widths() {
                for height in heights(&kind, width) {
                    let wide = width * kind.tiles.lanes;
                    let operands: Vec<_> = plots.iter().map(|&(rows, cols, row, col)| {
                        let reach = (rows - 1) * row + (cols - 1) * col;
                        (
                            kind.operands(reach + at + height, salt + row as u64),
                            kind.operands(reach + wide, salt + col as u64 + 50),
                        )
                    }).collect();
                    let placed: Vec<Plot> = plots.iter().zip(&operands).map(|(&(rows, cols, row, col), (x, g))| Plot {
                        x: x.as_ptr(),
                        x_row: row,
                        x_step: col,
                        g: g.as_ptr(),
                        g_row: row,
                        g_step: col,
                        rows,
                        cols,
                    }).collect();
                    let results = Results::new(height, wide, gap, salt);
                    let tile = kind.tiles.outers(width, height);
                    let what = format!("{} outers {width} x {height}", kind.name);
                    results.check(&what, &[false, true], |y, add| {
                        let outers = Outers {
                            plots: &placed,
                            at,
                            y,
                            y_step: results.step,
                            add,
                        };
                        // SAFETY: as for dots.
                        unsafe { tile(&outers) };
                    }, |p, c| {
                        let mut sum = 0.0;
                        for (&(rows, cols, row, col), (x, g)) in plots.iter().zip(&operands) {
                            for (r, q) in (0..rows).flat_map(|r| (0..cols).map(move |q| (r, q))) {
                                let from = r * row + q * col;
                                sum += kind.product(x[from + at + p], g[from + c]);
                            }
                        }
                        sum
                    });
                }
            }
        }
    }

    #[test]
    fn filters_of_single_channels_and_their_gradients_are_sums_too(
        taps in prop::collection::vec(0..60_usize, 1..=DEPTH_TAPS),
        (rows, cols) in (1..4_usize, 1..5_usize),
        (row, col, gap) in (0..50_usize, 0..20_usize, 0..3_usize),
        salt in 0..1000_u64,
    ) {
        for kind in kinds() {
            let lanes = kind.tiles.lanes;
            let last = taps.iter().max().map_or(0, |last| last + lanes);
            let pitch = lanes + gap;
            let w = kind.operands((taps.len() - 1) * pitch + lanes, salt + 1);
            for positions in 1..=DEPTH_POSITIONS {
                let x = kind.operands((positions - 1) * col + last, salt);
                let results = Results::new(positions, lanes, gap, salt);
                let tile = kind.tiles.depths(positions);
                let what = format!("{} depths {positions}", kind.name);
                results.check(&what, &[false, true], |y, add| {
                    let depths = Depths {
                        x: x.as_ptr(),
                        x_step: col,
                        taps: &taps,
                        w: w.as_ptr(),
                        w_step: pitch,
                        y,
                        y_step: results.step,
                        add,
                    };
                    // SAFETY: as for dots.
                    unsafe { tile(&depths) };
                }, |p, c| {
                    let terms = taps.iter().enumerate();
                    terms.map(|(t, tap)| kind.product(x[p * col + tap + c], w[t * pitch + c])).sum()
                });
            }
            let reach = (rows - 1) * row + (cols - 1) * col;
            let (x, g) = (kind.operands(reach + last, salt), kind.operands(reach + lanes, salt + 2));
            let results = Results::new(taps.len(), lanes, gap, salt);
            let tile = kind.tiles.depth_outers(taps.len());
            let what = format!("{} depth_outers {}", kind.name, taps.len());
            results.check(&what, &[true], |y, _| {
                let outers = DepthOuters {
                    x: x.as_ptr(),
                    x_row: row,
                    x_step: col,
                    taps: &taps,
                    g: g.as_ptr(),
                    g_row: row,
                    g_step: col,
                    rows,
                    cols,
                    y,
                    y_step: results.step,
                };
                // SAFETY: as for dots.
                unsafe { tile(&outers) };
            }, |t, c| {
                let mut sum = 0.0;
                for (r, q) in (0..rows).flat_map(|r| (0..cols).map(move |q| (r, q))) {
                    let from = r * row + q * col;
                    sum += kind.product(x[from + taps[t] + c], g[from + c]);
                }
                sum
            });
        }
    }
}
