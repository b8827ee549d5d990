//! Element by element, rounding, and layouts.

use half::bf16;
use proptest::prelude::*;

use super::*;
use crate::kernel::{elementwise, layout, narrow as rounding};

/// Any number that is zero or not below the smallest normal one: those some instructions flush.
fn normal() -> impl Strategy<Value = f32> {
    any::<u32>().prop_map(|bits| {
        let v = f32::from_bits(bits);
        if v.is_subnormal() { 0.0 } else { v }
    })
}

fn rectified(x: f32, most: f32) -> f32 {
    match x {
        x if x < 0.0 => 0.0,
        x if x > most => most,
        x => x,
    }
}

fn stores<T: Element>(old: &[f32], sums: &[f32]) {
    for add in [false, true] {
        let got = by_every_set("store", |isa| {
            let mut to = narrow::<T>(old);
            T::store(isa, sums, add, &mut to);
            widen(&to)
        });
        let want = old.iter().zip(sums).map(|(o, s)| {
            let sum = if add { T::narrow(*o).widen() + s } else { *s };
            T::narrow(sum).widen()
        });
        assert_same("store", &got, &want.collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn simple_passes_are_what_they_say(n in 0..700_usize, salt in 0..1000_u64, six in any::<bool>()) {
        let (a, b) = (rough(n, salt), rough(n, salt + 1));
        let most = if six { 0.5 } else { f32::INFINITY };
        let pairs = || a.iter().zip(&b);
        let sum: Vec<f32> = pairs().map(|(a, b)| a + b).collect();
        let made = |f: &dyn Fn(&mut Vec<f32>)| by_every_set("a pass", |_| {
            let mut out = a.clone();
            f(&mut out);
            out
        });
        assert_same("add", &made(&|out| elementwise::add(&a, &b, out)), &sum);
        assert_same("add_assign", &made(&|y| elementwise::add_assign(y, &b)), &sum);
        let scaled: Vec<f32> = a.iter().map(|a| a * 0.3).collect();
        assert_same("scale", &made(&|y| elementwise::scale(y, 0.3)), &scaled);
        let cut: Vec<f32> = a.iter().map(|&a| rectified(a, most)).collect();
        assert_same("relu", &made(&|out| elementwise::relu(&a, most, out)), &cut);
        let passed = pairs().map(|(&y, &g)| if y > 0.0 && y < most { g } else { 0.0 });
        assert_same(
            "relu_adjoint",
            &made(&|dx| elementwise::relu_adjoint(&a, most, &b, dx)),
            &passed.collect::<Vec<_>>(),
        );
    }

    #[test]
    fn squares_are_summed_exactly_where_they_can_be(n in 0..3000_usize, salt in 0..1000_u64) {
        let x = noise(n, salt);
        let want: f64 = x.iter().map(|v| f64::from(*v).powi(2)).sum();
        let made = by_every_set("sum_of_squares", |_| {
            let sum = elementwise::sum_of_squares(&x);
            assert_eq!(sum, want);
            vec![sum as f32]
        });
        assert_eq!(made.len(), 1);
        let mut bad = x.clone();
        if let Some(v) = bad.get_mut(salt as usize) {
            *v = f32::NAN;
            assert!(elementwise::sum_of_squares(&bad).is_nan());
        }
    }

    #[test]
    fn sums_are_stored_as_any_length_and_type(n in 0..700_usize, salt in 0..1000_u64) {
        let (old, sums) = (rough(n, salt), rough(n, salt + 1));
        stores::<f32>(&old, &sums);
        stores::<bf16>(&old, &sums);
    }

    /// Buffers are as long as what is written, so that a sanitizer sees one number more.
    #[test]
    fn runs_of_any_numbers_are_rounded_as_one_is(
        values in prop::collection::vec((normal(), normal()), 0..150),
    ) {
        let (a, b): (Vec<f32>, Vec<f32>) = values.into_iter().unzip();
        let one = |v: &f32| bf16::from_f32(*v).to_f32();
        let both = |operands: &[f32]| -> Vec<f32> {
            let halves = operands.iter().map(|o| o.to_bits()).flat_map(|o| [o << 16, o & 0xFFFF_0000]);
            halves.map(f32::from_bits).collect()
        };
        let halves = by_every_set("halves", |isa| {
            let mut out = vec![bf16::ONE; a.len()];
            rounding::halves(isa, &a, &mut out);
            widen(&out)
        });
        assert_same("halves", &halves, &a.iter().map(one).collect::<Vec<_>>());
        let pairs = by_every_set("pairs", |isa| {
            let mut out = vec![1.0; a.len()];
            rounding::pairs(isa, &a, &b, &mut out);
            both(&out)
        });
        let want: Vec<f32> = a.iter().zip(&b).flat_map(|(a, b)| [one(a), one(b)]).collect();
        assert_same("pairs", &pairs, &want);
        let even = a.len() / 2 * 2;
        let neighbours = by_every_set("neighbours", |isa| {
            let mut out = vec![1.0; even / 2];
            rounding::neighbours(isa, &a[..even], &mut out);
            both(&out)
        });
        assert_same("neighbours", &neighbours, &a[..even].iter().map(one).collect::<Vec<_>>());
    }

    #[test]
    fn layouts_move_every_value_to_its_place(
        (rows, cols, count) in (0..20_usize, 0..40_usize, 1..4_usize),
        salt in 0..1000_u64,
    ) {
        let x = rough(count * rows * cols, salt);
        let mut out = vec![7.0; x.len()];
        layout::transpose(&x, rows, cols, &mut out);
        for m in 0..count {
            for (i, j) in (0..rows).flat_map(|i| (0..cols).map(move |j| (i, j))) {
                let at = m * rows * cols;
                let (got, want) = (out[at + j * rows + i], x[at + i * cols + j]);
                assert_eq!(got.to_bits(), want.to_bits());
            }
        }
        let x = rough(rows * cols, salt + 1);
        let (mean, factor) = (noise(rows, salt + 2), noise(rows, salt + 3));
        let mut out = vec![7.0; x.len()];
        layout::to_channels_last_normalised(&x, &mean, &factor, &mut out);
        let want: Vec<f32> = (0..x.len())
            .map(|at| (at % rows, at / rows))
            .map(|(c, p)| (x[c * cols + p] - mean[c]) * factor[c])
            .collect();
        assert_same("normalised", &out, &want);
    }
}
