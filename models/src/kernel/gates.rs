//! Gates of recurrent layers: sigmoid and hyperbolic tangent without branches, and what a gated
//! recurrent unit does between its matrix products.
//!
//! One step of one sample is a row of `4 H` values in four blocks, `n r z c` (candidate, reset,
//! update, and the hidden state's part of the candidate). The order lets each matrix product write its
//! blocks in one piece: the input reaches `n r z`, the hidden state `r z c`.

use super::simd;

/// Rounds to a whole number when added and taken away again: beyond it, F32 has no fractions.
const ROUND: f32 = 12_582_912.0;

/// `(2^n, e^r - 1)` with `x = n ln 2 + r` and `|r| <= ln 2 / 2`, for `-127 <= n <= 127`; at -127 the
/// power is 0.
///
/// # Source
/// Cody and Waite 1980 for the reduction, Moshier's Cephes library (`expf`) for the polynomial.
#[inline(always)]
fn exp_parts(x: f32) -> (f32, f32) {
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    // ln 2 in two parts, of which the first has so few digits that its products are exact.
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_2e-4;
    for coefficient in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        0.166_666_65,
        0.5,
    ] {
        p = p * r + coefficient;
    }
    // The low bits of `rounded` are `n`; as an exponent they make a power of two.
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    (power, p * r * r + r)
}

/// `1 / (1 + e^-x)`
///
/// The relative error is below 2e-7 (about 3 units in the last place); below -87.6 the result is 0.
/// Not-a-number stays what it is.
#[must_use]
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    let y = -x.abs();
    // Written so that a not-a-number passes.
    let y = if y < -88.0 { -88.0 } else { y };
    let (power, rest) = exp_parts(y);
    let e = power + power * rest;
    (if x >= 0.0 { 1.0 } else { e }) / (1.0 + e)
}

/// Hyperbolic tangent, as `(e^2x - 1) / (e^2x + 1)` of `|x|` with its sign.
///
/// The relative error is below 2e-7 (about 3 units in the last place), near 0 as well.
/// Not-a-number stays what it is.
#[must_use]
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let y = 2.0 * x.abs();
    // From 9.02 on the result is 1 in F32.
    let y = if y > 20.0 { 20.0 } else { y };
    let (power, rest) = exp_parts(y);
    let e = power * rest + (power - 1.0);
    (e / (e + 2.0)).copysign(x)
}

/// Sums to gates, in place: `r = sigmoid(r)`, `z = sigmoid(z)`, `n = tanh(n + r c)`.
///
/// # Shapes
/// gates `[rows, 4 H]` in blocks `n r z c`
pub fn activate(gates: &mut [f32], hidden: usize) {
    simd(
        #[inline(always)]
        || {
            for row in gates.chunks_exact_mut(4 * hidden) {
                let (n, rest) = row.split_at_mut(hidden);
                let (rz, c) = rest.split_at_mut(2 * hidden);
                for gate in rz.iter_mut() {
                    *gate = sigmoid(*gate);
                }
                for ((n, r), c) in n.iter_mut().zip(&*rz).zip(&*c) {
                    *n = tanh(*n + r * c);
                }
            }
        },
    );
}

/// The next hidden state, in place: `h = n + z (h - n)`, which is `(1 - z) n + z h`.
///
/// # Shapes
/// gates `[rows, 4 H]` after [`activate`], h `[rows, H]`
pub fn blend(gates: &[f32], h: &mut [f32], hidden: usize) {
    simd(
        #[inline(always)]
        || {
            let rows = gates.chunks_exact(4 * hidden);
            for (row, h) in rows.zip(h.chunks_exact_mut(hidden)) {
                let (n, z) = (&row[..hidden], &row[2 * hidden..3 * hidden]);
                for ((h, n), z) in h.iter_mut().zip(n).zip(z) {
                    *h = n + z * (*h - n);
                }
            }
        },
    );
}

/// Adjoint of [`activate`] and [`blend`] of one step.
///
/// `dh` comes as the gradient of the state behind the step and leaves as that part of the state's
/// before it which does not go through a product (`z dh`). Gates become the gradients of their sums:
/// `dn = dh (1 - z) (1 - n^2)`, `dz = dh (h - n) z (1 - z)`, `dr = dn c r (1 - r)`, `dc = dn r`.
///
/// # Shapes
/// gates `[rows, 4 H]` after [`activate`], h (the state before the step) and dh `[rows, H]`
pub fn adjoint(gates: &mut [f32], h: &[f32], dh: &mut [f32], hidden: usize) {
    simd(
        #[inline(always)]
        || {
            let rows = gates.chunks_exact_mut(4 * hidden);
            let states = h.chunks_exact(hidden).zip(dh.chunks_exact_mut(hidden));
            for (row, (h, dh)) in rows.zip(states) {
                let (n, rest) = row.split_at_mut(hidden);
                let (r, rest) = rest.split_at_mut(hidden);
                let (z, c) = rest.split_at_mut(hidden);
                for (((n, z), h), dh) in n.iter_mut().zip(z).zip(h).zip(dh) {
                    let shared = *dh * (1.0 - *z);
                    let (dn, dz) = ((1.0 - *n) * (1.0 + *n), *z * (*h - *n));
                    *dh *= *z;
                    *n = shared * dn;
                    *z = shared * dz;
                }
                for ((r, c), n) in r.iter_mut().zip(c).zip(&*n) {
                    let gate = *r;
                    *r = n * *c * (gate * (1.0 - gate));
                    *c = n * gate;
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every 997th number there is: both signs, all exponents, infinities.
    fn numbers() -> impl Iterator<Item = f32> {
        let numbers = (0..=u32::MAX).step_by(997).map(f32::from_bits);
        let ends = [f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0];
        numbers.chain(ends).filter(|x| !x.is_nan())
    }

    /// The largest relative error; below the smallest normal number, an error of that size is none.
    fn worst(got: impl Fn(f32) -> f32, want: impl Fn(f64) -> f64) -> (f64, f32) {
        let mut worst = (0.0, 0.0);
        for x in numbers() {
            let (got, want) = (f64::from(got(x)), want(f64::from(x)));
            let error = (got - want).abs() - f64::from(f32::MIN_POSITIVE);
            let relative = error / want.abs().max(f64::MIN_POSITIVE);
            if relative > worst.0 {
                worst = (relative, x);
            }
            assert!(got.is_finite(), "{got} at {x}");
        }
        worst
    }

    #[test]
    fn the_sigmoid_is_accurate_for_every_number() {
        let (error, x) = worst(sigmoid, |x| {
            let e = (-x.abs()).exp();
            (if x >= 0.0 { 1.0 } else { e }) / (1.0 + e)
        });
        assert!(error < 2e-7, "{error:e} at {x}");
    }

    #[test]
    fn the_tangent_is_accurate_for_every_number() {
        let (error, x) = worst(tanh, f64::tanh);
        assert!(error < 2e-7, "{error:e} at {x}");
    }

    #[test]
    fn ends_and_no_numbers_are_what_they_should_be() {
        assert_eq!(sigmoid(f32::INFINITY), 1.0);
        assert_eq!(sigmoid(f32::NEG_INFINITY), 0.0);
        assert_eq!(sigmoid(0.0), 0.5);
        assert_eq!(tanh(f32::INFINITY), 1.0);
        assert_eq!(tanh(f32::NEG_INFINITY), -1.0);
        assert_eq!(tanh(-0.0).to_bits(), (-0.0_f32).to_bits());
        for nan in [f32::NAN, -f32::NAN] {
            assert!(sigmoid(nan).is_nan() && tanh(nan).is_nan());
        }
    }

    #[test]
    fn a_step_follows_the_formula_for_any_width() {
        for hidden in [1, 3, 8, 19] {
            let sums: Vec<f32> = (0..2 * 4 * hidden)
                .map(|i| (i as f32 * 0.7).sin() * 3.0)
                .collect();
            let before: Vec<f32> = (0..2 * hidden).map(|i| (i as f32).cos()).collect();
            let (mut gates, mut h) = (sums.clone(), before.clone());
            activate(&mut gates, hidden);
            blend(&gates, &mut h, hidden);
            let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
            for i in 0..2 * hidden {
                let (row, unit) = (i / hidden, i % hidden);
                let sum = |block: usize| f64::from(sums[row * 4 * hidden + block * hidden + unit]);
                let (r, z) = (logistic(sum(1)), logistic(sum(2)));
                let n = (sum(0) + r * sum(3)).tanh();
                let want = (1.0 - z) * n + z * f64::from(before[i]);
                assert!((f64::from(h[i]) - want).abs() < 1e-6, "{hidden}: {i}");
            }
        }
    }
}
