//! What bounds one node's say in a release: the length of its delta and the weight it gets.
//!
//! Kept apart from the aggregation rules, which take weight and factor as given.

use super::fixed::MAX_WEIGHT;

/// What a delta of L2 norm `norm` is multiplied by so that its norm is at most `clip_norm`:
/// `min(1, clip_norm / norm)`, in (0, 1].
///
/// `None` clips nothing. `norm` is finite and not negative, `clip_norm` finite and above 0.
///
/// # Source
/// McMahan et al. 2018, "Learning differentially private recurrent language models", flat clipping.
#[must_use]
pub fn clip_factor(norm: f64, clip_norm: Option<f64>) -> f64 {
    match clip_norm {
        // A quotient too small for an `f64` would be 0, which is no factor.
        Some(bound) if norm > bound => (bound / norm).max(f64::MIN_POSITIVE),
        _ => 1.0,
    }
}

/// The weight of a delta trained on `sample_count` samples: `min(sample_count, cap)`, so that one
/// node that claims many samples cannot drown the others.
#[must_use]
pub fn weight(sample_count: u64, cap: u64) -> u64 {
    sample_count.min(cap).min(MAX_WEIGHT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_clipped_delta_is_never_longer_than_the_bound(norm in 0.0..1e40_f64, bound in 1e-30..1e10_f64) {
            let factor = clip_factor(norm, Some(bound));
            prop_assert!(factor > 0.0 && factor <= 1.0);
            prop_assert!(factor * norm <= bound * (1.0 + 2.0 * f64::EPSILON));
            prop_assert!(factor == 1.0 || norm > bound);
        }
    }

    #[test]
    fn short_deltas_and_absent_bounds_change_nothing() {
        assert_eq!(clip_factor(0.0, Some(1.0)), 1.0);
        assert_eq!(clip_factor(1.0, Some(1.0)), 1.0);
        assert_eq!(clip_factor(1e40, None), 1.0);
        assert_eq!(clip_factor(4.0, Some(1.0)), 0.25);
        assert_eq!(
            clip_factor(f64::MAX, Some(f64::MIN_POSITIVE)),
            f64::MIN_POSITIVE
        );
    }

    #[test]
    fn a_claim_of_many_samples_is_capped() {
        assert_eq!(weight(10, 1_000), 10);
        assert_eq!(weight(u64::MAX, 1_000), 1_000);
        assert_eq!(weight(u64::MAX, u64::MAX), MAX_WEIGHT);
    }
}
