//! Register tiles: the innermost loops of every product.
//!
//! A tile keeps `P x V` registers of sums: `P` positions (or rows) by `V` registers of output
//! channels. Each step spreads one operand per position and multiplies it with `V` registers of the
//! other side, so that a value loaded is used many times. The shapes are compiled one by one; which
//! are worth it is a question of how many registers there are.

use std::sync::OnceLock;

use super::isa::Isa;
use super::lanes::{Dot, Portable};

/// Most registers a panel is wide.
pub(super) const MAX_WIDTH: usize = 4;

/// One tile of a product with its sums over *segments*: runs of operands that lie side by side.
///
/// `y[p, c] (+)= sum over s, k of x[p * x_step + segments[s] + k] * w[(s * run + k), c]`
pub(super) struct Dots<'a> {
    /// Operands of the first position.
    pub x: *const f32,
    /// From one position to the next.
    pub x_step: usize,
    /// Where each segment begins.
    pub segments: &'a [usize],
    /// Operands in a segment.
    pub run: usize,
    /// A panel: `[segments * run, V * LANES]`.
    pub w: *const f32,
    /// First result.
    pub y: *mut f32,
    /// From one position's results to the next.
    pub y_step: usize,
    /// Whether what is in `y` counts.
    pub add: bool,
}

/// Rows and columns of positions that a sum of outer products goes over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plot {
    /// Operand of the first row of the result at the first position.
    pub x: *const f32,
    /// From one row of positions to the next.
    pub x_row: usize,
    /// From one position to the next.
    pub x_step: usize,
    /// Operands of the columns of the result at the first position.
    pub g: *const f32,
    /// From one row of positions to the next.
    pub g_row: usize,
    /// From one position to the next.
    pub g_step: usize,
    /// Rows of positions.
    pub rows: usize,
    /// Positions in a row.
    pub cols: usize,
}

/// One tile of a sum of outer products over plots of positions.
///
/// `y[p, c] (+)= sum over plots, r, q of x[r * x_row + q * x_step + at + p] * g[r * g_row + q * g_step + c]`
pub(super) struct Outers<'a> {
    /// Where to sum over.
    pub plots: &'a [Plot],
    /// The tile's first operand of a position.
    pub at: usize,
    /// First result.
    pub y: *mut f32,
    /// From one row of the result to the next.
    pub y_step: usize,
    /// Whether what is in `y` counts.
    pub add: bool,
}

/// One tile of a product where every channel has its own filter: a register of channels.
///
/// `y[p, c] (+)= sum over t of x[p * x_step + taps[t] + c] * w[t * w_step + c]`
pub(super) struct Depths<'a> {
    /// Operands of the first position.
    pub x: *const f32,
    /// From one position to the next.
    pub x_step: usize,
    /// Where each tap reads.
    pub taps: &'a [usize],
    /// Filters.
    pub w: *const f32,
    /// From one tap's filters to the next.
    pub w_step: usize,
    /// First result.
    pub y: *mut f32,
    /// From one position's results to the next.
    pub y_step: usize,
    /// Whether what is in `y` counts.
    pub add: bool,
}

/// One tile of the gradient of such filters: a register of channels.
///
/// `y[t, c] += sum over r, q of x[r * x_row + q * x_step + taps[t] + c] * g[r * g_row + q * g_step + c]`
pub(super) struct DepthOuters<'a> {
    /// Operands of the first position.
    pub x: *const f32,
    /// From one row of positions to the next.
    pub x_row: usize,
    /// From one position to the next.
    pub x_step: usize,
    /// Where each tap reads.
    pub taps: &'a [usize],
    /// Gradients of the first position.
    pub g: *const f32,
    /// From one row of positions to the next.
    pub g_row: usize,
    /// From one position to the next.
    pub g_step: usize,
    /// Rows of positions.
    pub rows: usize,
    /// Positions in a row.
    pub cols: usize,
    /// First result.
    pub y: *mut f32,
    /// From one tap's results to the next.
    pub y_step: usize,
}

/// # Safety
/// The processor has the instructions of `D`. For `p < P`, every segment and `k < run` the operand
/// of `x` is readable, `w` for the whole panel, and `y` writable for `V * D::LANES` floats at each
/// of `P` positions.
#[inline(always)]
unsafe fn dots<D: Dot, const P: usize, const V: usize>(t: &Dots<'_>) {
    // SAFETY: the caller's promise covers every pointer made here.
    unsafe {
        let mut sums = [[D::zero(); V]; P];
        if t.add {
            for (p, row) in sums.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    *sum = D::load_sum(t.y.add(p * t.y_step + v * D::LANES));
                }
            }
        }
        let mut w = t.w;
        for &segment in t.segments {
            let x = t.x.add(segment);
            for k in 0..t.run {
                let mut row = [D::load(w); V];
                for (v, operand) in row.iter_mut().enumerate().skip(1) {
                    *operand = D::load(w.add(v * D::LANES));
                }
                w = w.add(V * D::LANES);
                for (p, sums) in sums.iter_mut().enumerate() {
                    let a = D::spread(x.add(p * t.x_step + k));
                    for (sum, &b) in sums.iter_mut().zip(&row) {
                        *sum = D::add_product(*sum, a, b);
                    }
                }
            }
        }
        for (p, row) in sums.iter().enumerate() {
            for (v, &sum) in row.iter().enumerate() {
                D::store_sum(sum, t.y.add(p * t.y_step + v * D::LANES));
            }
        }
    }
}

/// # Safety
/// The processor has the instructions of `D`. For every position of every plot, `x` is readable from
/// `at` on for `P` and `g` for `V * D::LANES` operands, and `y` writable for `V * D::LANES` floats in each
/// of `P` rows.
#[inline(always)]
unsafe fn outers<D: Dot, const P: usize, const V: usize>(t: &Outers<'_>) {
    // SAFETY: the caller's promise covers every pointer made here.
    unsafe {
        let mut sums = [[D::zero(); V]; P];
        if t.add {
            for (p, row) in sums.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    *sum = D::load_sum(t.y.add(p * t.y_step + v * D::LANES));
                }
            }
        }
        for plot in t.plots {
            for r in 0..plot.rows {
                let mut x = plot.x.add(r * plot.x_row + t.at);
                let mut g = plot.g.add(r * plot.g_row);
                for _ in 0..plot.cols {
                    let mut row = [D::load(g); V];
                    for (v, operand) in row.iter_mut().enumerate().skip(1) {
                        *operand = D::load(g.add(v * D::LANES));
                    }
                    for (p, sums) in sums.iter_mut().enumerate() {
                        let a = D::spread(x.add(p));
                        for (sum, &b) in sums.iter_mut().zip(&row) {
                            *sum = D::add_product(*sum, a, b);
                        }
                    }
                    x = x.wrapping_add(plot.x_step);
                    g = g.wrapping_add(plot.g_step);
                }
            }
        }
        for (p, row) in sums.iter().enumerate() {
            for (v, &sum) in row.iter().enumerate() {
                D::store_sum(sum, t.y.add(p * t.y_step + v * D::LANES));
            }
        }
    }
}

/// # Safety
/// The processor has the instructions of `D`; every place named in [`Depths`] is good for
/// `D::LANES` floats, at each of `P` positions.
#[inline(always)]
unsafe fn depths<D: Dot, const P: usize>(t: &Depths<'_>) {
    // SAFETY: the caller's promise covers every pointer made here.
    unsafe {
        let mut sums = [D::zero(); P];
        if t.add {
            for (p, sum) in sums.iter_mut().enumerate() {
                *sum = D::load_sum(t.y.add(p * t.y_step));
            }
        }
        for (i, &tap) in t.taps.iter().enumerate() {
            let w = D::load(t.w.add(i * t.w_step));
            for (p, sum) in sums.iter_mut().enumerate() {
                *sum = D::add_product(*sum, D::load(t.x.add(p * t.x_step + tap)), w);
            }
        }
        for (p, &sum) in sums.iter().enumerate() {
            D::store_sum(sum, t.y.add(p * t.y_step));
        }
    }
}

/// # Safety
/// The processor has the instructions of `D`; every place named in [`DepthOuters`] is good for
/// `D::LANES` floats, for each of `N` taps.
#[inline(always)]
unsafe fn depth_outers<D: Dot, const N: usize>(t: &DepthOuters<'_>) {
    // SAFETY: the caller's promise covers every pointer made here.
    unsafe {
        let mut sums = [D::zero(); N];
        let mut taps = [0; N];
        taps.copy_from_slice(t.taps);
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = D::load_sum(t.y.add(i * t.y_step));
        }
        for r in 0..t.rows {
            for q in 0..t.cols {
                let x = t.x.add(r * t.x_row + q * t.x_step);
                let g = D::load(t.g.add(r * t.g_row + q * t.g_step));
                for (sum, &tap) in sums.iter_mut().zip(&taps) {
                    *sum = D::add_product(*sum, D::load(x.add(tap)), g);
                }
            }
        }
        for (i, &sum) in sums.iter().enumerate() {
            D::store_sum(sum, t.y.add(i * t.y_step));
        }
    }
}

type DotsFn = unsafe fn(&Dots<'_>);
type OutersFn = unsafe fn(&Outers<'_>);
type DepthsFn = unsafe fn(&Depths<'_>);
type DepthOutersFn = unsafe fn(&DepthOuters<'_>);

/// Most positions of a tile of channels with their own filters.
pub(super) const DEPTH_POSITIONS: usize = 8;
/// Most taps of the gradient of such filters at a time.
pub(super) const DEPTH_TAPS: usize = 9;

/// The tiles of one instruction set and one kind of operand.
pub(super) struct Tiles {
    /// Floats in a register.
    pub lanes: usize,
    /// `[width - 1][positions - 1]`
    dots: [Vec<DotsFn>; MAX_WIDTH],
    outers: [Vec<OutersFn>; MAX_WIDTH],
    /// `[positions - 1]`
    depths: [DepthsFn; DEPTH_POSITIONS],
    /// `[taps - 1]`
    depth_outers: [DepthOutersFn; DEPTH_TAPS],
}

impl Tiles {
    /// Most positions a tile of this width has.
    pub(super) fn tallest(&self, width: usize) -> usize {
        self.dots[width - 1].len()
    }

    /// The tile of `width` registers and `positions` positions.
    pub(super) fn dots(&self, width: usize, positions: usize) -> DotsFn {
        self.dots[width - 1][positions - 1]
    }

    /// As [`Tiles::dots`].
    pub(super) fn outers(&self, width: usize, positions: usize) -> OutersFn {
        self.outers[width - 1][positions - 1]
    }

    /// The tile of `positions` positions with a filter per channel.
    pub(super) fn depths(&self, positions: usize) -> DepthsFn {
        self.depths[positions - 1]
    }

    /// The tile of `taps` taps of the gradient of such filters.
    pub(super) fn depth_outers(&self, taps: usize) -> DepthOutersFn {
        self.depth_outers[taps - 1]
    }

    /// Widths that exist.
    pub(super) fn widths(&self) -> impl Iterator<Item = usize> + '_ {
        (1..=MAX_WIDTH).filter(|&w| !self.dots[w - 1].is_empty())
    }

    /// The width of panels that makes `channels` results at each of runs of `positions` positions
    /// fastest, by counting what a step costs: two products or two loads a cycle, and four cycles
    /// before a sum can be added to again.
    pub(super) fn best_width(&self, channels: usize, positions: usize) -> usize {
        let registers = channels.div_ceil(self.lanes);
        let cost = |width: usize| {
            let tiles = positions.div_ceil(self.tallest(width)).max(1);
            let height = positions.div_ceil(tiles).max(1);
            let step = |v: usize| (height * v).max(height + v).max(8);
            let (whole, rest) = (registers / width, registers % width);
            tiles * (whole * step(width) + if rest > 0 { step(rest) } else { 0 })
        };
        let fits = self.widths().filter(|&w| w <= registers.max(1));
        fits.min_by_key(|&w| (cost(w), std::cmp::Reverse(w)))
            .unwrap_or(1)
    }
}

/// Compiles the tiles of one operand type for one set of features.
macro_rules! tiles {
    ($name:ident, $dot:ty, $($feature:literal)?, [$([$width:literal: $($height:literal)*])*]) => {
        mod $name {
            use super::*;

            $(#[target_feature(enable = $feature)])?
            unsafe fn dots<const P: usize, const V: usize>(t: &Dots<'_>) {
                // SAFETY: the caller's promise is the same.
                unsafe { super::dots::<$dot, P, V>(t) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn outers<const P: usize, const V: usize>(t: &Outers<'_>) {
                // SAFETY: the caller's promise is the same.
                unsafe { super::outers::<$dot, P, V>(t) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn depths<const P: usize>(t: &Depths<'_>) {
                // SAFETY: the caller's promise is the same.
                unsafe { super::depths::<$dot, P>(t) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn depth_outers<const N: usize>(t: &DepthOuters<'_>) {
                // SAFETY: the caller's promise is the same.
                unsafe { super::depth_outers::<$dot, N>(t) }
            }

            pub(super) fn all() -> Tiles {
                let mut tiles = Tiles {
                    lanes: <$dot>::LANES,
                    dots: Default::default(),
                    outers: Default::default(),
                    depths: [
                        depths::<1>, depths::<2>, depths::<3>, depths::<4>,
                        depths::<5>, depths::<6>, depths::<7>, depths::<8>,
                    ],
                    depth_outers: [
                        depth_outers::<1>, depth_outers::<2>, depth_outers::<3>,
                        depth_outers::<4>, depth_outers::<5>, depth_outers::<6>,
                        depth_outers::<7>, depth_outers::<8>, depth_outers::<9>,
                    ],
                };
                $(
                    tiles.dots[$width - 1] = vec![$(dots::<$height, $width> as DotsFn),*];
                    tiles.outers[$width - 1] = vec![$(outers::<$height, $width> as OutersFn),*];
                )*
                tiles
            }
        }
    };
}

// 32 registers: up to 28 sums, one panel's row, and the rest to spread into.
#[cfg(target_arch = "x86_64")]
tiles!(avx512, super::super::lanes::x86::Avx512, "avx512f", [
    [1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16]
    [2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14]
    [3: 1 2 3 4 5 6 7 8]
    [4: 1 2 3 4 5 6]
]);
#[cfg(target_arch = "x86_64")]
tiles!(pairs, super::super::lanes::x86::Avx512Pairs, "avx512f,avx512bf16", [
    [1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16]
    [2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14]
    [3: 1 2 3 4 5 6 7 8]
    [4: 1 2 3 4 5 6]
]);
// 16 registers.
#[cfg(target_arch = "x86_64")]
tiles!(avx2, super::super::lanes::x86::Avx2, "avx2,fma", [
    [1: 1 2 3 4 5 6 7 8 9 10 11 12]
    [2: 1 2 3 4 5 6]
    [3: 1 2 3 4]
]);
#[cfg(target_arch = "aarch64")]
tiles!(neon, super::super::lanes::arm::Neon, "neon", [
    [1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16]
    [2: 1 2 3 4 5 6 7 8 9 10 11 12]
    [3: 1 2 3 4 5 6 7 8]
    [4: 1 2 3 4 5 6]
]);
tiles!(portable, Portable, , [
    [1: 1 2 3 4 5 6 7 8]
    [2: 1 2 3 4 5 6]
    [3: 1 2 3 4]
]);

/// The tiles for f32 operands.
///
/// # Panics
/// When this processor lacks the set.
pub(super) fn floats(isa: Isa) -> &'static Tiles {
    assert!(isa.is_here(), "this processor lacks {isa}");
    static PORTABLE: OnceLock<Tiles> = OnceLock::new();
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    static NATIVE: [OnceLock<Tiles>; 2] = [const { OnceLock::new() }; 2];
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => NATIVE[0].get_or_init(avx512::all),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => NATIVE[1].get_or_init(avx2::all),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => NATIVE[0].get_or_init(neon::all),
        _ => PORTABLE.get_or_init(portable::all),
    }
}

/// The tiles for bfloat16 pairs, where the set has them.
///
/// # Panics
/// When this processor lacks the set.
pub(super) fn pairs(isa: Isa) -> Option<&'static Tiles> {
    assert!(isa.is_here(), "this processor lacks {isa}");
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512Bf16 {
        static PAIRS: OnceLock<Tiles> = OnceLock::new();
        return Some(PAIRS.get_or_init(pairs::all));
    }
    None
}
