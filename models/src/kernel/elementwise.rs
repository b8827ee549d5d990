//! Element by element: sums, scalings, the rectifier, and sums of squares.

use super::simd;

/// `y += x`
pub fn add_assign(y: &mut [f32], x: &[f32]) {
    simd(
        #[inline(always)]
        || {
            for (y, x) in y.iter_mut().zip(x) {
                *y += x;
            }
        },
    );
}

/// `out = a + b`
pub fn add(a: &[f32], b: &[f32], out: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
                *o = a + b;
            }
        },
    );
}

/// `y *= factor`
pub fn scale(y: &mut [f32], factor: f32) {
    simd(
        #[inline(always)]
        || {
            for y in y.iter_mut() {
                *y *= factor;
            }
        },
    );
}

#[inline(always)]
fn rectified(x: f32, most: f32) -> f32 {
    if x < 0.0 {
        0.0
    } else if x > most {
        most
    } else {
        x
    }
}

/// `out = min(max(x, 0), most)`; not-a-number stays what it is.
pub fn relu(x: &[f32], most: f32, out: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            for (o, &x) in out.iter_mut().zip(x) {
                *o = rectified(x, most);
            }
        },
    );
}

/// Adjoint of [`relu`]: `dx = dy where 0 < y < most, else 0`.
pub fn relu_adjoint(y: &[f32], most: f32, dy: &[f32], dx: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            for ((d, &y), &g) in dx.iter_mut().zip(y).zip(dy) {
                *d = if y > 0.0 && y < most { g } else { 0.0 };
            }
        },
    );
}

/// `sum(x^2)`, in F64 and in a fixed order.
#[must_use]
pub fn sum_of_squares(x: &[f32]) -> f64 {
    simd(
        #[inline(always)]
        || {
            // Sixteen partial sums keep the additions independent of each other.
            let mut partial = [0.0_f64; 16];
            let (blocks, rest) = x.as_chunks::<16>();
            for block in blocks {
                for (p, &x) in partial.iter_mut().zip(block) {
                    *p += f64::from(x) * f64::from(x);
                }
            }
            for (p, &x) in partial.iter_mut().zip(rest) {
                *p += f64::from(x) * f64::from(x);
            }
            partial.iter().sum()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rectifier_keeps_not_a_number_visible() {
        let mut y = [0.0; 3];
        for (most, second) in [(f32::INFINITY, 9.0), (6.0, 6.0)] {
            relu(&[-1.0, 9.0, f32::NAN], most, &mut y);
            assert_eq!(y[..2], [0.0, second]);
            assert!(y[2].is_nan());
        }
    }

    #[test]
    fn squares_are_summed_over_blocks_and_rest() {
        let x: Vec<f32> = (1_u16..=37).map(f32::from).collect();
        assert_eq!(sum_of_squares(&x), 17_575.0);
    }
}
