//! Random draws with names: where a number comes from and how widely it spreads.

use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// A quantity spread evenly from the first value to the second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Between(pub(super) f64, pub(super) f64);

/// A normally distributed quantity, cut off where nature does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bell {
    /// Centre.
    pub(super) mean: f64,
    /// Standard deviation before the cut.
    pub(super) sd: f64,
    /// Least value; lower draws are raised to it.
    pub(super) low: f64,
    /// Greatest value; higher draws are lowered to it.
    pub(super) high: f64,
}

impl Bell {
    /// `mean`, standard deviation, least and greatest value.
    pub(super) const fn new(mean: f64, sd: f64, low: f64, high: f64) -> Self {
        Self {
            mean,
            sd,
            low,
            high,
        }
    }
}

/// A positive quantity whose logarithm is normal: `median * exp(sigma * z)`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Skewed {
    /// The value half the draws exceed.
    pub(super) median: f64,
    /// Standard deviation of the natural logarithm.
    pub(super) sigma: f64,
}

impl Skewed {
    /// Median, and standard deviation of the natural logarithm.
    pub(super) const fn new(median: f64, sigma: f64) -> Self {
        Self { median, sigma }
    }
}

/// A reproducible stream of draws, named by what it is for.
///
/// ChaCha8 with the key `seed | post | purpose | zero`, so that two posts, or two windows of one
/// post, never share a stream, and any window can be made without making those before it.
#[derive(Debug, Clone)]
pub(super) struct Dice {
    rng: ChaCha8Rng,
    /// Second half of the last normal pair.
    spare: Option<f64>,
}

impl Dice {
    /// The stream of `(seed, post, purpose, number)`.
    pub(super) fn new(seed: u64, post: u64, purpose: u64, number: u64) -> Self {
        let mut key = [0_u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&post.to_le_bytes());
        key[16..24].copy_from_slice(&purpose.to_le_bytes());
        key[24..].copy_from_slice(&number.to_le_bytes());
        Self {
            rng: ChaCha8Rng::from_seed(key),
            spare: None,
        }
    }

    /// Uniform in `[0, 1)`, 53 bits.
    pub(super) fn unit(&mut self) -> f64 {
        const SCALE: f64 = 1.0 / (1_u64 << 53) as f64;
        (self.rng.next_u64() >> 11) as f64 * SCALE
    }

    /// Uniform in `[low, high)`.
    pub(super) fn between(&mut self, Between(low, high): Between) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Standard normal (Box and Muller 1958).
    pub(super) fn normal(&mut self) -> f64 {
        if let Some(z) = self.spare.take() {
            return z;
        }
        // 1 - u lies in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        let angle = std::f64::consts::TAU * self.unit();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }

    /// A draw from a cut-off normal distribution.
    pub(super) fn bell(&mut self, bell: Bell) -> f64 {
        (bell.mean + bell.sd * self.normal()).clamp(bell.low, bell.high)
    }

    /// A draw from a log-normal distribution.
    pub(super) fn skewed(&mut self, skewed: Skewed) -> f64 {
        skewed.median * (skewed.sigma * self.normal()).exp()
    }

    /// True with this probability.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// `+1` or `-1`.
    pub(super) fn sign(&mut self) -> f64 {
        if self.chance(0.5) { 1.0 } else { -1.0 }
    }

    /// A place in `0..n`; `0` when `n` is 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((self.unit() * n as f64) as usize).min(n.saturating_sub(1))
    }

    /// A place in `shares` with a chance in proportion to its share.
    pub(super) fn weighted(&mut self, shares: &[f64]) -> usize {
        let mut left = self.unit() * shares.iter().sum::<f64>();
        for (place, share) in shares.iter().enumerate() {
            left -= share;
            if left < 0.0 {
                return place;
            }
        }
        shares.len().saturating_sub(1)
    }

    /// Puts the items in a random order (Fisher and Yates).
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last + 1);
            items.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_draws_have_mean_zero_and_variance_one() {
        let mut dice = Dice::new(1, 2, 3, 4);
        let draws: Vec<f64> = (0..40_000).map(|_| dice.normal()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.02, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.03, "variance {variance}");
    }

    #[test]
    fn streams_with_different_names_differ_and_equal_names_agree() {
        let first = |a, b, c, d| Dice::new(a, b, c, d).unit();
        assert_eq!(first(1, 2, 3, 4).to_bits(), first(1, 2, 3, 4).to_bits());
        for other in [
            first(9, 2, 3, 4),
            first(1, 9, 3, 4),
            first(1, 2, 9, 4),
            first(1, 2, 3, 9),
        ] {
            assert_ne!(first(1, 2, 3, 4).to_bits(), other.to_bits());
        }
    }

    #[test]
    fn weighted_draws_follow_the_shares() {
        let mut dice = Dice::new(5, 0, 0, 0);
        let mut counts = [0_usize; 3];
        for _ in 0..20_000 {
            counts[dice.weighted(&[1.0, 0.0, 3.0])] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((counts[2] as f64 / 20_000.0 - 0.75).abs() < 0.02);
    }
}
