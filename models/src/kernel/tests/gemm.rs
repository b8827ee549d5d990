//! The matrix product behind checked views. Its instructions are chosen by the `gemm` crate.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::kernel::gemm::{Mat, MatMut, gemm};

/// How a matrix lies: strides for its size, and as many values as it reaches over.
#[derive(Debug, Clone, Copy)]
struct Lie {
    by_cols: bool,
    /// Values between neighbours.
    step: usize,
    /// Values between the end of a row (or column) and the next.
    gap: usize,
}

impl Lie {
    fn strides(self, rows: usize, cols: usize) -> (usize, usize) {
        let over = |n: usize| n.max(1) * self.step + self.gap;
        if self.by_cols {
            (self.step, over(rows))
        } else {
            (over(cols), self.step)
        }
    }

    fn len(self, rows: usize, cols: usize) -> usize {
        if rows == 0 || cols == 0 {
            return 0;
        }
        let (row, col) = self.strides(rows, cols);
        (rows - 1) * row + (cols - 1) * col + 1
    }
}

fn lie() -> impl Strategy<Value = Lie> {
    (any::<bool>(), 1..3_usize, 0..3_usize).prop_map(|(by_cols, step, gap)| Lie {
        by_cols,
        step,
        gap,
    })
}

fn side() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 0..20_usize, 1 => select(vec![31, 32, 33, 64, 97])]
}

proptest! {
    #![proptest_config(cases(96))]

    /// Buffers end with the last value of their matrix.
    #[test]
    fn products_agree_with_plain_loops(
        (m, k, n) in (side(), side(), side()),
        lies in [lie(), lie(), lie()],
        alpha in select(vec![1.0_f32, -2.0, 0.5]),
        beta in select(vec![0.0_f32, 1.0, 0.5]),
        salt in 0..1000_u64,
    ) {
        let [la, lb, lc] = lies;
        let (a, b) = (noise(la.len(m, k), salt), noise(lb.len(k, n), salt + 1));
        let before = noise(lc.len(m, n), salt + 2);
        let (ra, ca) = la.strides(m, k);
        let (rb, cb) = lb.strides(k, n);
        let (rc, cc) = lc.strides(m, n);
        let mut want = before.clone();
        let mut old = before;
        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let product = |l: usize| f64::from(a[i * ra + l * ca]) * f64::from(b[l * rb + j * cb]);
            let sum: f64 = (0..k).map(product).sum();
            let at = i * rc + j * cc;
            let kept = f64::from(beta) * f64::from(old[at]);
            want[at] = (f64::from(alpha) * sum + kept) as f32;
            if beta == 0.0 {
                // Not read.
                old[at] = f32::NAN;
            }
        }
        for threads in [1, 2, 3] {
            let mut c = old.clone();
            gemm(
                alpha,
                Mat::new(&a, m, k, ra, ca).expect("a"),
                Mat::new(&b, k, n, rb, cb).expect("b"),
                beta,
                MatMut::new(&mut c, m, n, rc, cc).expect("c"),
                threads,
            )
            .expect("a product");
            // What lies between the values of the result is left alone.
            for (i, (got, want)) in c.iter().zip(&want).enumerate() {
                assert!(got == want, "{threads} threads, {i}: {got} for {want}");
            }
        }
    }

    /// A view to be written is accepted only with a place of its own for every element.
    #[test]
    fn results_never_share_a_place(
        (rows, cols) in (0..5_usize, 0..5_usize),
        (row_stride, col_stride) in (0..9_usize, 0..9_usize),
        len in 0..40_usize,
    ) {
        let mut data = vec![0.0; len];
        if let Ok(mut c) = MatMut::new(&mut data, rows, cols, row_stride, col_stride) {
            c.update(|_, _, v| *v += 1.0);
            assert!(data.iter().all(|v| *v <= 1.0), "{data:?}");
            assert_eq!(data.iter().sum::<f32>(), (rows * cols) as f32);
        }
    }
}
