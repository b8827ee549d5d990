//! A weighted sum of deltas in fixed point: exact, so the order of its terms does not matter.
//!
//! Each value becomes a whole number of units of `2^-BITS`, once; from there on only integers are
//! added, and integer addition is associative. Floating point would give other bytes for another
//! order of arrival, and a release that nobody could recompute.

use std::{num::NonZeroU64, ops::Range};

pub use lamplight_proto::bounds::MAX_WEIGHT;
use lamplight_proto::release::MAX_CONTRIBUTIONS;

/// Binary digits after the point.
///
/// 40 leaves 23 before it in an `i64`. An F32 carries 24 significant digits, so every value of at
/// least `2^-17` (8e-6) in magnitude is kept without any loss, and smaller ones to within
/// `2^-41` (5e-13), far below what an F32 weight of ordinary size can show.
pub const BITS: u32 = 40;

/// Largest magnitude a delta's value may have: an eighth of what the fixed point could hold, and far
/// above any change that fine-tuning makes to a weight.
pub const MAX_MAGNITUDE: f32 = 1_048_576.0;

/// Bytes of working memory per value of the model.
pub const BYTES_PER_VALUE: usize = size_of::<i128>();

const UNITS: f64 = (1_u64 << BITS) as f64;

/// Why a sum of [`MAX_CONTRIBUTIONS`] deltas cannot overflow: `|q| <= 2^20 * 2^40`, a weight is at
/// most `2^32`, and fewer than `2^17` deltas are added: `2^109`, where an `i128` holds `2^127`.
const _: () = {
    assert!(MAX_MAGNITUDE <= (1 << 20) as f32);
    assert!(MAX_WEIGHT <= 1 << 32);
    assert!(MAX_CONTRIBUTIONS < 1 << 17);
    assert!(20 + BITS < 63);
    assert!(20 + BITS + 32 + 17 < 127);
};

/// Why a run of values cannot be added.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FixedError {
    /// NaN, an infinity, or more than [`MAX_MAGNITUDE`].
    #[error("value {value} at index {index} is not within {MAX_MAGNITUDE}")]
    Range {
        /// Place in the flattened model.
        index: usize,
        /// The value.
        value: f32,
    },
    /// The run ends behind the model.
    #[error("values {offset} to {end} of a model of {total}")]
    Bounds {
        /// First place.
        offset: usize,
        /// Place after the last.
        end: usize,
        /// Values of the model.
        total: usize,
    },
    /// Zero, or more than [`MAX_WEIGHT`].
    #[error("weight is {0}, must be 1 to {MAX_WEIGHT}")]
    Weight(u64),
    /// Not in (0, 1].
    #[error("clip factor is {0}, must be above 0 and at most 1")]
    ClipFactor(f64),
}

/// `sum(weight * round(clip_factor * value * 2^BITS))` for every value of a model.
#[derive(Debug, Clone)]
pub struct FixedSum {
    units: Vec<i128>,
}

impl FixedSum {
    /// The empty sum over a model of this many values. Takes [`BYTES_PER_VALUE`] for each, however
    /// many deltas follow.
    #[must_use]
    pub fn new(total_values: usize) -> Self {
        Self {
            units: vec![0; total_values],
        }
    }

    /// Adds a run of one delta's values at `offset` of the flattened model.
    ///
    /// Nothing is added when an error is returned.
    ///
    /// # Errors
    /// [`FixedError`] naming the value. The caller sees to it that at most [`MAX_CONTRIBUTIONS`]
    /// deltas are added, each value once.
    pub fn fold(
        &mut self,
        weight: u64,
        clip_factor: f64,
        offset: usize,
        values: &[f32],
    ) -> Result<(), FixedError> {
        if !(1..=MAX_WEIGHT).contains(&weight) {
            return Err(FixedError::Weight(weight));
        }
        if !(clip_factor > 0.0 && clip_factor <= 1.0) {
            return Err(FixedError::ClipFactor(clip_factor));
        }
        let total = self.units.len();
        let end = offset.saturating_add(values.len());
        let Some(places) = self.units.get_mut(offset..end) else {
            return Err(FixedError::Bounds { offset, end, total });
        };
        if let Some((i, &value)) = values.iter().enumerate().find(|(_, v)| !fits(**v)) {
            let index = offset + i;
            return Err(FixedError::Range { index, value });
        }
        for (place, &value) in places.iter_mut().zip(values) {
            *place += i128::from(weight) * i128::from(units(clip_factor, value));
        }
        Ok(())
    }

    /// The weighted mean of the values at `places`, in order.
    ///
    /// In `f64`, so that what is made of them is rounded to F32 once, at its end.
    ///
    /// # Panics
    /// When `places` end behind the model.
    pub fn mean(
        &self,
        places: Range<usize>,
        total_weight: NonZeroU64,
    ) -> impl ExactSizeIterator<Item = f64> + '_ {
        // Whole units are divided as integers and only what is left over as `f64`, so that one
        // delta alone comes back as it went in. Every step is one correct rounding of its own: the
        // same on every machine. The last factor is a power of two and rounds nothing.
        let weight = total_weight.get();
        self.units[places].iter().map(move |&sum| {
            let (whole, rest) = (sum / i128::from(weight), sum % i128::from(weight));
            (whole as f64 + rest as f64 / weight as f64) / UNITS
        })
    }
}

/// Whether a delta may hold this value.
#[must_use]
pub fn fits(value: f32) -> bool {
    // False for NaN too.
    value.abs() <= MAX_MAGNITUDE
}

/// `value`, scaled, in units of `2^-BITS`; halves go away from zero. `value` [`fits`] and
/// `clip_factor` is at most 1, so the conversion never saturates.
fn units(clip_factor: f64, value: f32) -> i64 {
    (clip_factor * f64::from(value) * UNITS).round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VALUES: usize = 9;

    type Delta = (u64, f64, Vec<f32>);

    fn value() -> impl Strategy<Value = f32> {
        prop_oneof![
            6 => -0.1_f32..0.1,
            2 => -1e-9_f32..1e-9,
            1 => -MAX_MAGNITUDE..=MAX_MAGNITUDE,
            1 => Just(0.0_f32),
        ]
    }

    fn delta() -> impl Strategy<Value = Delta> {
        let weight = prop_oneof![4 => 1_u64..5_000, 1 => Just(MAX_WEIGHT)];
        let clip = prop_oneof![2 => Just(1.0_f64), 3 => 1e-6_f64..1.0];
        (weight, clip, prop::collection::vec(value(), VALUES))
    }

    /// Sums the deltas, each cut into runs at `cut`.
    fn sum(deltas: &[Delta], cut: usize) -> (FixedSum, NonZeroU64) {
        let mut sum = FixedSum::new(VALUES);
        for (weight, clip, values) in deltas {
            let (a, b) = values.split_at(cut);
            sum.fold(*weight, *clip, 0, a).unwrap();
            sum.fold(*weight, *clip, cut, b).unwrap();
        }
        let total = deltas.iter().map(|d| d.0).sum();
        (sum, NonZeroU64::new(total).unwrap())
    }

    fn bits((sum, total): (FixedSum, NonZeroU64)) -> Vec<u64> {
        sum.mean(0..VALUES, total).map(f64::to_bits).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn any_arrival_order_and_any_cut_give_the_same_bytes(
            (deltas, shuffled) in prop::collection::vec(delta(), 1..12)
                .prop_flat_map(|d| (Just(d.clone()), Just(d).prop_shuffle())),
            cut in 0..=VALUES,
        ) {
            prop_assert_eq!(bits(sum(&deltas, 0)), bits(sum(&shuffled, cut)));
        }

        #[test]
        fn the_mean_is_the_real_one_within_half_a_unit(
            deltas in prop::collection::vec(delta(), 1..12)
        ) {
            let (fixed, total) = sum(&deltas, VALUES);
            let means: Vec<f64> = fixed.mean(0..VALUES, total).collect();
            let total = total.get() as f64;
            for (i, got) in means.into_iter().enumerate() {
                let want: f64 = deltas.iter().map(|(w, c, v)| *w as f64 * c * f64::from(v[i])).sum();
                let size: f64 = deltas.iter().map(|(w, _, v)| *w as f64 * f64::from(v[i]).abs()).sum();
                // The reference itself rounds: about one part in 2^52 per step of the summands.
                let slack = size * 16.0 * f64::EPSILON;
                let error = (got - want / total).abs();
                prop_assert!(error <= 0.5 / UNITS + slack / total, "{got}: off by {error}");
            }
        }

        #[test]
        fn one_delta_returns_itself(v in prop::collection::vec(value(), VALUES), w in 1..=MAX_WEIGHT) {
            let (fixed, total) = sum(&[(w, 1.0, v.clone())], 4);
            for (got, &want) in fixed.mean(0..VALUES, total).zip(&v) {
                let error = (got - f64::from(want)).abs();
                prop_assert!(error <= 0.5 / UNITS, "{got} for {want}");
                if want.abs() >= 2_f32.powi(-17) {
                    prop_assert_eq!(got, f64::from(want));
                }
            }
        }
    }

    #[test]
    fn the_largest_sum_possible_does_not_overflow() {
        let mut sum = FixedSum::new(1);
        sum.fold(MAX_WEIGHT, 1.0, 0, &[-MAX_MAGNITUDE]).unwrap();
        // As if all the others had said the same.
        let all = sum.units[0].checked_mul(MAX_CONTRIBUTIONS as i128).unwrap();
        let total = MAX_WEIGHT * MAX_CONTRIBUTIONS as u64;
        assert_eq!(total as f64 as u64, total);
        let sum = FixedSum { units: vec![all] };
        let mut mean = sum.mean(0..1, NonZeroU64::new(total).unwrap());
        assert_eq!(mean.next(), Some(f64::from(-MAX_MAGNITUDE)));
    }

    #[test]
    fn what_does_not_fit_is_named_and_nothing_is_added() {
        let mut sum = FixedSum::new(4);
        for bad in [
            f32::NAN,
            f32::INFINITY,
            -f32::INFINITY,
            -MAX_MAGNITUDE * 1.01,
        ] {
            let e = sum.fold(1, 1.0, 1, &[1.0, bad]).unwrap_err();
            assert!(matches!(e, FixedError::Range { index: 2, .. }), "{e}");
        }
        let e = sum.fold(1, 1.0, 3, &[1.0, 1.0]).unwrap_err();
        assert_eq!(
            e,
            FixedError::Bounds {
                offset: 3,
                end: 5,
                total: 4
            }
        );
        assert!(sum.fold(1, 1.0, usize::MAX, &[1.0]).is_err());
        for weight in [0, MAX_WEIGHT + 1] {
            assert_eq!(
                sum.fold(weight, 1.0, 0, &[1.0]),
                Err(FixedError::Weight(weight))
            );
        }
        for factor in [0.0, -0.5, 1.0 + f64::EPSILON, f64::NAN] {
            let e = sum.fold(1, factor, 0, &[1.0]).unwrap_err();
            assert!(matches!(e, FixedError::ClipFactor(_)), "{factor}");
        }
        assert!(sum.mean(0..4, NonZeroU64::MIN).all(|v| v == 0.0));
    }
}
