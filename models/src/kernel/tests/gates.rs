//! Gates of recurrent layers against their formulas in F64.

use proptest::prelude::*;

use super::*;
use crate::kernel::gates;

/// Rows of gates and states: sums up to 4 in size, as trained layers have.
#[derive(Debug, Clone)]
struct Case {
    rows: usize,
    hidden: usize,
    sums: Vec<f32>,
    h: Vec<f32>,
    dh: Vec<f32>,
}

fn case() -> impl Strategy<Value = Case> {
    (0..6_usize, size(), 0..1000_u64).prop_map(|(rows, hidden, salt)| Case {
        rows,
        hidden,
        sums: noise(rows * 4 * hidden, salt)
            .iter()
            .map(|v| 4.0 * v)
            .collect(),
        h: noise(rows * hidden, salt + 1),
        dh: noise(rows * hidden, salt + 2),
    })
}

impl Case {
    /// `(n, r, z, c)` of a unit of these gates.
    fn gates(&self, all: &[f32], i: usize) -> [f64; 4] {
        let (row, unit) = (i / self.hidden, i % self.hidden);
        [0, 1, 2, 3].map(|block| f64::from(all[(row * 4 + block) * self.hidden + unit]))
    }

    fn activated(&self) -> Vec<f32> {
        by_every_set("activate", |_| {
            let mut gates = self.sums.clone();
            gates::activate(&mut gates, self.hidden);
            gates
        })
    }
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn a_step_and_its_adjoint_follow_the_formulas(case in case()) {
        let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
        let close = |got: f32, want: f64| assert!((f64::from(got) - want).abs() <= 2e-6, "{got} for {want}");
        let gates = case.activated();
        let next = by_every_set("blend", |_| {
            let mut h = case.h.clone();
            gates::blend(&gates, &mut h, case.hidden);
            h
        });
        let back = by_every_set("adjoint", |_| {
            let (mut gates, mut dh) = (gates.clone(), case.dh.clone());
            gates::adjoint(&mut gates, &case.h, &mut dh, case.hidden);
            gates.extend(dh);
            gates
        });
        let (of_gates, of_state) = back.split_at(gates.len());
        for i in 0..case.rows * case.hidden {
            let [n, r, z, c] = case.gates(&case.sums, i);
            let (r, z) = (logistic(r), logistic(z));
            let n = (n + r * c).tanh();
            let (h, dh) = (f64::from(case.h[i]), f64::from(case.dh[i]));
            for (got, want) in case.gates(&gates, i).into_iter().zip([n, r, z, c]) {
                close(got as f32, want);
            }
            close(next[i], (1.0 - z) * n + z * h);
            let dn = dh * (1.0 - z) * (1.0 - n * n);
            let want = [dn, dn * c * r * (1.0 - r), dh * (h - n) * z * (1.0 - z), dn * r];
            for (got, want) in case.gates(of_gates, i).into_iter().zip(want) {
                close(got as f32, want);
            }
            close(of_state[i], z * dh);
        }
    }

    /// In whichever block it is, it reaches the state of its unit and no other.
    #[test]
    fn no_number_reaches_the_state_of_its_unit(mut case in case(), at in 0..10_000_usize) {
        if !case.sums.is_empty() {
            let at = at % case.sums.len();
            case.sums[at] = f32::NAN;
            let gates = case.activated();
            let mut h = case.h.clone();
            gates::blend(&gates, &mut h, case.hidden);
            let hit = at / (4 * case.hidden) * case.hidden + at % case.hidden;
            for (i, h) in h.iter().enumerate() {
                assert_eq!(h.is_nan(), i == hit, "{at}: {i}");
            }
        }
    }
}
