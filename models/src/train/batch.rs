//! From labelled samples to batches: order, augmentation, normalisation, channels last.

use std::f32::consts::TAU;
use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::TrainError;
use crate::kernel::layout::to_channels_last_normalised;
use crate::model::{Channel, ModelInfo};
use crate::samples::Samples;

/// Random changes to raw samples while training; each sample draws its own. Default: none.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Largest rotation in degrees, about a random axis; the same for every triple of a sample.
    pub rotate_deg: f32,
    /// Channels (x, y, z) of each sensor that turns with the node's mounting.
    pub rotate_triples: Vec<[usize; 3]>,
    /// Standard deviation of added noise, in units of the channel's standard deviation.
    pub noise_std: f32,
    /// Largest relative change of gain: factors are uniform in `1 - scale ..= 1 + scale`.
    pub scale: f32,
}

impl Augment {
    /// Rotations of up to `degrees`, for every channel triple named `…_x`, `…_y`, `…_z` (units may
    /// follow in brackets): such triples share their sensor's frame and turn together.
    #[must_use]
    pub fn rotating(degrees: f32, channels: &[String]) -> Self {
        let stem = |i: usize, axis: &str| {
            let name = Channel::parse(&channels[i]).ok()?.name;
            name.strip_suffix(axis)
        };
        let rotate_triples = (0..channels.len().saturating_sub(2))
            .filter(|&i| {
                let x = stem(i, "_x");
                x.is_some() && x == stem(i + 1, "_y") && x == stem(i + 2, "_z")
            })
            .map(|i| [i, i + 1, i + 2])
            .collect();
        Self {
            rotate_deg: degrees,
            rotate_triples,
            ..Self::default()
        }
    }

    /// Whether samples stay as they are.
    #[must_use]
    pub fn is_none(&self) -> bool {
        (self.rotate_deg == 0.0 || self.rotate_triples.is_empty())
            && self.noise_std == 0.0
            && self.scale == 0.0
    }

    pub(super) fn fault(&self, channels: usize) -> Option<String> {
        let numbers = [self.rotate_deg, self.noise_std, self.scale];
        if numbers.iter().any(|v| !v.is_finite() || *v < 0.0) {
            return Some(format!(
                "augment wants finite numbers >= 0, got rotate_deg {}, noise_std {}, scale {}",
                self.rotate_deg, self.noise_std, self.scale
            ));
        }
        let mut all = self.rotate_triples.iter().flatten();
        all.find(|&&c| c >= channels)
            .map(|c| format!("augment rotates channel {c}, but the model has {channels}"))
    }

    /// Changes one raw sample `[C, P]` in place.
    fn apply(&self, x: &mut [f32], std: &[f32], rng: &mut ChaCha8Rng) {
        let positions = x.len() / std.len().max(1);
        if self.rotate_deg > 0.0 && !self.rotate_triples.is_empty() {
            let turn = rotation(self.rotate_deg, rng);
            for triple in &self.rotate_triples {
                for p in 0..positions {
                    let at = triple.map(|c| c * positions + p);
                    let v = at.map(|i| x[i]);
                    for (row, i) in turn.iter().zip(at) {
                        x[i] = row[0] * v[0] + row[1] * v[1] + row[2] * v[2];
                    }
                }
            }
        }
        if self.scale > 0.0 {
            let gain = 1.0 + self.scale * (2.0 * uniform(rng) - 1.0);
            x.iter_mut().for_each(|v| *v *= gain);
        }
        if self.noise_std > 0.0 {
            for (row, std) in x.chunks_exact_mut(positions.max(1)).zip(std) {
                for pair in row.chunks_mut(2) {
                    for (v, n) in pair.iter_mut().zip(normal_pair(rng)) {
                        *v += self.noise_std * std * n;
                    }
                }
            }
        }
    }
}

/// Uniform in `[0, 1)`, 24 bits.
fn uniform(rng: &mut ChaCha8Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 / 16_777_216.0
}

/// Two independent standard normal values (Box and Muller 1958).
fn normal_pair(rng: &mut ChaCha8Rng) -> [f32; 2] {
    // 1 - u is in (0, 1]: its logarithm is finite.
    let radius = (-2.0 * (1.0 - uniform(rng)).ln()).sqrt();
    let angle = TAU * uniform(rng);
    [radius * angle.cos(), radius * angle.sin()]
}

/// Rotation by a uniform angle within `+-degrees` about an axis uniform on the sphere (Rodrigues).
fn rotation(degrees: f32, rng: &mut ChaCha8Rng) -> [[f32; 3]; 3] {
    let z = 2.0 * uniform(rng) - 1.0;
    let round = TAU * uniform(rng);
    let ring = (1.0 - z * z).max(0.0).sqrt();
    let [x, y] = [ring * round.cos(), ring * round.sin()];
    let (s, c) = (degrees * (2.0 * uniform(rng) - 1.0))
        .to_radians()
        .sin_cos();
    let t = 1.0 - c;
    [
        [t * x * x + c, t * x * y - s * z, t * x * z + s * y],
        [t * x * y + s * z, t * y * y + c, t * y * z - s * x],
        [t * x * z - s * y, t * y * z + s * x, t * z * z + c],
    ]
}

/// A generator for one purpose; different purposes, epochs and steps never share a stream.
fn generator(seed: u64, purpose: u8, epoch: usize, step: usize) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(epoch as u64).to_le_bytes());
    key[16..24].copy_from_slice(&(step as u64).to_le_bytes());
    key[24] = purpose;
    ChaCha8Rng::from_seed(key)
}

/// The order of `n` samples in one epoch (Fisher and Yates).
pub(super) fn shuffled(n: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut rng = generator(seed, 1, epoch, 0);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        let wide = u128::from(rng.next_u64()) * (i as u128 + 1);
        order.swap(i, (wide >> 64) as usize);
    }
    order
}

/// Cuts `n` places into batches; the last may be short. With `no_single` a last batch of one sample
/// joins the one before.
pub(super) fn cut(n: usize, batch: usize, no_single: bool) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> = (0..n)
        .step_by(batch)
        .map(|from| from..(from + batch).min(n))
        .collect();
    if no_single
        && batches.len() > 1
        && let Some(last) = batches.pop_if(|last| last.len() == 1)
        && let Some(before) = batches.last_mut()
    {
        before.end = last.end;
    }
    batches
}

/// Turns raw samples into a model's input.
#[derive(Debug, Clone)]
pub(super) struct Intake {
    mean: Vec<f32>,
    std: Vec<f32>,
    factor: Vec<f32>,
    raw: Vec<f32>,
}

impl Intake {
    /// Reads a model's normalisation.
    pub(super) fn new(info: &ModelInfo, channels: usize) -> Result<Self, TrainError> {
        let (mean, std) = (info.input_mean.clone(), info.input_std.clone());
        let sound = mean.iter().all(|m| m.is_finite())
            && std.iter().all(|s| s.is_finite() && *s > 0.0)
            && std.iter().all(|s| (1.0 / s).is_finite());
        if mean.len() != channels || std.len() != channels || !sound {
            return Err(TrainError::Normalisation {
                channels,
                mean,
                std,
            });
        }
        Ok(Self {
            factor: std.iter().map(|s| 1.0 / s).collect(),
            mean,
            std,
            raw: Vec::new(),
        })
    }

    /// Writes the samples at `places` channels last; `draw` is `(augmentation, seed, epoch, step)`.
    pub(super) fn fill(
        &mut self,
        samples: &Samples,
        places: &[usize],
        draw: Option<(&Augment, u64, usize, usize)>,
        x: &mut Vec<f32>,
    ) {
        let stride = samples.stride();
        x.resize(places.len() * stride, 0.0);
        let mut draw = draw
            .filter(|(augment, ..)| !augment.is_none())
            .map(|(augment, seed, epoch, step)| (augment, generator(seed, 2, epoch, step)));
        for (&place, out) in places.iter().zip(x.chunks_exact_mut(stride)) {
            let raw = match &mut draw {
                None => samples.sample(place),
                Some((augment, rng)) => {
                    self.raw.clear();
                    self.raw.extend_from_slice(samples.sample(place));
                    augment.apply(&mut self.raw, &self.std, rng);
                    &self.raw
                }
            };
            to_channels_last_normalised(raw, &self.mean, &self.factor, out);
        }
    }
}

/// Refuses samples that do not fit a model with this input and these classes.
pub(super) fn check_samples(
    samples: &Samples,
    input: &[usize],
    classes: &[String],
) -> Result<(), TrainError> {
    // A label is a place in the list of classes: with another list it would mean another class.
    if samples.classes != classes {
        return Err(TrainError::Classes {
            want: classes.to_vec(),
            got: samples.classes.clone(),
        });
    }
    let classes = classes.len();
    if samples.shape != input {
        return Err(TrainError::SampleShape {
            want: input.to_vec(),
            got: samples.shape.clone(),
        });
    }
    if samples.x.len() != samples.len() * samples.stride() {
        return Err(TrainError::SampleValues {
            want: samples.len() * samples.stride(),
            got: samples.x.len(),
        });
    }
    let labels = samples.y.iter().enumerate();
    match labels.into_iter().find(|(_, y)| **y as usize >= classes) {
        Some((sample, &label)) => Err(TrainError::Label {
            sample,
            label,
            classes,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triples_that_turn_together_are_found_by_name() {
        let triples = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            Augment::rotating(20.0, &names).rotate_triples
        };
        let post = [
            "acc_x [g]",
            "acc_y [g]",
            "acc_z [g]",
            "sound [dB]",
            "mag_x [uT]",
            "mag_y [uT]",
            "mag_z [uT]",
        ];
        assert_eq!(triples(&post), [[0, 1, 2], [4, 5, 6]]);
        assert!(triples(&["a_x", "b_y", "a_z"]).is_empty());
        assert!(triples(&["a_x"]).is_empty());
    }

    #[test]
    fn the_order_depends_on_seed_and_epoch_and_holds_every_sample_once() {
        let order = shuffled(100, 7, 3);
        assert_eq!(order, shuffled(100, 7, 3));
        assert_ne!(order, shuffled(100, 7, 4));
        assert_ne!(order, shuffled(100, 8, 3));
        let mut sorted = order;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn short_batches_are_kept_and_single_samples_join_where_asked() {
        assert_eq!(cut(5, 2, false), vec![0..2, 2..4, 4..5]);
        assert_eq!(cut(5, 2, true), vec![0..2, 2..5]);
        assert_eq!(cut(6, 4, true), vec![0..4, 4..6]);
        assert_eq!(cut(1, 4, true), vec![0..1]);
        assert!(cut(0, 4, true).is_empty());
    }

    #[test]
    fn a_rotation_keeps_lengths_and_turns_all_triples_alike() {
        let augment = Augment {
            rotate_deg: 60.0,
            rotate_triples: vec![[0, 1, 2], [3, 4, 5]],
            ..Augment::default()
        };
        let raw: Vec<f32> = (0..12).map(|i| ((i * 5) % 7) as f32 - 2.0).collect();
        // Channels 3..6 repeat channels 0..3.
        let mut x = raw[..6].to_vec();
        x.extend_from_slice(&raw[..6]);
        let before = x.clone();
        augment.apply(&mut x, &[1.0; 6], &mut generator(1, 2, 0, 0));
        assert_ne!(x, before);
        assert_eq!(x[..6], x[6..]);
        let length = |x: &[f32], p: usize| (0..3).map(|c| x[c * 2 + p].powi(2)).sum::<f32>();
        for p in 0..2 {
            assert!((length(&x, p) - length(&before, p)).abs() < 1e-4);
        }
    }

    #[test]
    fn rotations_stay_within_their_bound_and_are_proper() {
        let mut rng = generator(5, 2, 0, 0);
        let mut widest = 0.0_f32;
        for _ in 0..500 {
            let r = rotation(20.0, &mut rng);
            let trace = r[0][0] + r[1][1] + r[2][2];
            let angle = ((trace - 1.0) / 2.0).clamp(-1.0, 1.0).acos().to_degrees();
            widest = widest.max(angle);
            let det = r[0][0] * (r[1][1] * r[2][2] - r[1][2] * r[2][1])
                - r[0][1] * (r[1][0] * r[2][2] - r[1][2] * r[2][0])
                + r[0][2] * (r[1][0] * r[2][1] - r[1][1] * r[2][0]);
            assert!((det - 1.0).abs() < 1e-4);
        }
        assert!((18.0..20.1).contains(&widest), "{widest}");
    }

    #[test]
    fn noise_and_gain_have_the_stated_size() {
        let noise = Augment {
            noise_std: 0.5,
            ..Augment::default()
        };
        let mut x = vec![0.0; 2 * 20_000];
        noise.apply(&mut x, &[1.0, 4.0], &mut generator(3, 2, 0, 0));
        let deviation = |x: &[f32]| (x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32).sqrt();
        assert!((deviation(&x[..20_000]) - 0.5).abs() < 0.02);
        assert!((deviation(&x[20_000..]) - 2.0).abs() < 0.08);

        let gain = Augment {
            scale: 0.2,
            ..Augment::default()
        };
        let mut rng = generator(4, 2, 0, 0);
        for _ in 0..100 {
            let mut x = [1.0, 2.0];
            gain.apply(&mut x, &[1.0], &mut rng);
            assert!((0.8..=1.2).contains(&x[0]) && x[1] == 2.0 * x[0]);
        }
    }

    #[test]
    fn a_rotation_beyond_the_channels_is_refused() {
        let augment = Augment {
            rotate_triples: vec![[0, 1, 6]],
            ..Augment::default()
        };
        assert_eq!(
            augment.fault(6).expect("fault"),
            "augment rotates channel 6, but the model has 6"
        );
        assert_eq!(augment.fault(7), None);
    }
}
