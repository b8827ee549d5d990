//! What makes one post different from every other: mast, mounting, street, soil, weather.

use std::f64::consts::TAU;

use super::dice::Dice;
use super::parameters as p;
use super::physics::{Matrix, Vector, apply, mounting};

/// Purpose of the stream that draws a post's identity.
const IDENTITY: u64 = 0;

/// One simulated lamp post with its street; fully named by `(seed, index)`.
#[derive(Debug, Clone)]
pub(super) struct Post {
    /// Seed of the whole simulated town.
    pub(super) seed: u64,
    /// Which post of it.
    pub(super) index: u64,
    /// Height of the sensor, m.
    pub(super) height_m: f64,
    /// Natural frequencies in Hz: `[first, second]`, each `[along, across]` the street.
    pub(super) modes_hz: [[f64; 2]; 2],
    /// Damping of the two modes, fraction of critical.
    pub(super) damping: [f64; 2],
    /// Participation times mode shape at the sensor.
    pub(super) mode_gain: [f64; 2],
    /// Share of the mast's motion that reaches the board.
    pub(super) bracket: f64,
    /// From street to sensor coordinates.
    pub(super) mounting: Matrix,
    /// Noise of one acceleration reading, m/s^2 rms.
    pub(super) acceleration_noise: f64,
    /// Calibration error of the microphone, dB.
    pub(super) microphone_db: f64,
    /// Noise of one magnetometer reading, uT rms.
    pub(super) magnetic_noise: f64,
    /// `I + S`: what the mast's steel makes of a field, in street coordinates.
    pub(super) soft_iron: Matrix,
    /// The Earth's field as this street lies in it, in street coordinates, uT.
    pub(super) earth_field: Vector,
    /// The resting field at the sensor, in street coordinates, uT.
    pub(super) resting_field: Vector,
    /// Soil damping, 1/m.
    pub(super) soil_per_m: f64,
    /// Answer of soil and foundation.
    pub(super) site_gain: f64,
    /// Horizontal over vertical ground motion.
    pub(super) horizontal: f64,
    /// Share of each class among the windows kept; sums to 1.
    pub(super) mix: [f64; 5],
    /// Position across the street of footpath, cycleway, near lane, far lane and railway, m.
    pub(super) paths: Paths,
    /// Speed limit, m/s.
    pub(super) limit_m_per_s: f64,
    /// Chance that somebody else is near.
    pub(super) company: f64,
    /// Where the joint in the road is, m.
    pub(super) joint_m: f64,
    /// How hard it is, over the static load.
    pub(super) joint_kick: f64,
    weather: Weather,
}

/// Middle lines of the ways past the post, by their `y`, m.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    pub(super) foot: f64,
    pub(super) cycle: f64,
    pub(super) near_lane: f64,
    pub(super) far_lane: f64,
    pub(super) rail: f64,
}

/// Slow changes over hours; a closed formula, so that any hour can be asked for.
#[derive(Debug, Clone)]
struct Weather {
    wind_m_per_s: f64,
    wind_phases: [f64; 3],
    background_db: f64,
    temperature_swing_k: f64,
}

impl Post {
    /// Draws the post `index` of the town `seed`.
    pub(super) fn new(seed: u64, index: u64) -> Self {
        let dice = &mut Dice::new(seed, index, IDENTITY, 0);
        let first = dice.between(p::FIRST_MODE_HZ);
        let second = first * dice.between(p::SECOND_MODE_RATIO);
        let split = 1.0 + dice.between(p::MODE_SPLIT);
        let soft_iron = draw_soft_iron(dice);
        let earth_field = draw_earth_field(dice);
        let resting_field = apply(&soft_iron, earth_field).map(|b| b + dice.bell(p::HARD_IRON_UT));
        let near_lane = dice.between(p::NEAR_LANE_M);
        let band_hz = p::ANTI_ALIAS_HZ;
        Self {
            seed,
            index,
            height_m: dice.between(p::SENSOR_HEIGHT_M),
            modes_hz: [[first, first * split], [second, second * split]],
            damping: [
                dice.between(p::FIRST_DAMPING),
                dice.between(p::SECOND_DAMPING),
            ],
            mode_gain: [
                dice.between(p::FIRST_MODE_GAIN),
                dice.between(p::SECOND_MODE_GAIN),
            ],
            bracket: dice.between(p::BRACKET_GAIN),
            mounting: mounting(
                dice.between(p::YAW_DEGREES).to_radians(),
                dice.bell(p::TILT_DEGREES).to_radians(),
                dice.bell(p::TILT_DEGREES).to_radians(),
            ),
            acceleration_noise: dice.between(p::ACCELEROMETER_NOISE_UG_PER_SQRT_HZ)
                * 1e-6
                * p::GRAVITY_M_PER_S2
                * band_hz.sqrt(),
            microphone_db: dice.bell(p::MICROPHONE_OFFSET_DB),
            magnetic_noise: dice.between(p::MAGNETOMETER_NOISE_UT),
            soft_iron,
            earth_field,
            resting_field,
            soil_per_m: dice.between(p::GROUND_DAMPING_PER_M),
            site_gain: dice.skewed(p::SITE_GAIN),
            horizontal: dice.between(p::GROUND_HORIZONTAL),
            mix: draw_mix(dice),
            paths: Paths {
                foot: dice.sign() * dice.between(p::FOOTPATH_M),
                cycle: dice.between(p::CYCLEWAY_M),
                near_lane,
                far_lane: near_lane + p::LANE_WIDTH_M,
                rail: dice.sign() * dice.between(p::RAILWAY_M),
            },
            limit_m_per_s: p::LIMITS_KM_PER_H[dice.below(p::LIMITS_KM_PER_H.len())] / 3.6,
            company: dice.between(p::COMPANY),
            joint_m: dice.between(p::JOINT_M),
            joint_kick: dice.between(p::JOINT_KICK),
            weather: Weather {
                wind_m_per_s: dice.between(p::WIND_M_PER_S),
                wind_phases: [0.0; 3].map(|_: f64| TAU * dice.unit()),
                background_db: dice.between(p::BACKGROUND_DB),
                temperature_swing_k: dice.between(p::TEMPERATURE_SWING_K),
            },
        }
    }

    /// Degrees above the day's mean, `hour` hours into the record; warmest at three.
    pub(super) fn warmth_k(&self, hour: f64) -> f64 {
        let phase = TAU * (p::FIRST_HOUR + hour - 15.0) / 24.0;
        self.weather.temperature_swing_k * phase.cos()
    }

    /// Wind speed, m/s: the day's mean with swings of some hours, never quite calm.
    pub(super) fn wind_m_per_s(&self, hour: f64) -> f64 {
        let swing: f64 = [17.0, 7.3, 3.1]
            .iter()
            .zip(self.weather.wind_phases)
            .map(|(period_h, phase)| (TAU * hour / period_h + phase).sin())
            .sum();
        let share = 1.0 + p::WIND_SWING * swing / 1.5_f64.sqrt();
        (self.weather.wind_m_per_s * share).max(0.3)
    }

    /// Level of the street between passers, dB(A); least at three at night.
    pub(super) fn background_db(&self, hour: f64) -> f64 {
        let phase = TAU * (p::FIRST_HOUR + hour - 15.0) / 24.0;
        self.weather.background_db - p::BACKGROUND_NIGHT_DB * (0.5 - 0.5 * phase.cos())
    }
}

/// Identity plus a symmetric disturbance (a passive body's answer is symmetric).
fn draw_soft_iron(dice: &mut Dice) -> Matrix {
    let [xx, xy, xz, yy, yz, zz] = [0.0; 6].map(|_: f64| dice.bell(p::SOFT_IRON));
    [[1.0 + xx, xy, xz], [xy, 1.0 + yy, yz], [xz, yz, 1.0 + zz]]
}

/// Earth's field in the coordinates of a street of random direction.
fn draw_earth_field(dice: &mut Dice) -> Vector {
    let street = TAU * dice.unit();
    let dip = p::EARTH_INCLINATION_DEGREES.to_radians();
    let level = p::EARTH_FIELD_UT * dip.cos();
    [
        level * street.cos(),
        level * street.sin(),
        -p::EARTH_FIELD_UT * dip.sin(),
    ]
}

/// The street's own shares: spread, floored, summing to 1.
fn draw_mix(dice: &mut Dice) -> [f64; 5] {
    let raw = p::MIX.map(|share| share * dice.skewed(p::MIX_SPREAD));
    let total: f64 = raw.iter().sum();
    // Each class keeps the floor; what is left is shared as drawn.
    let free = 1.0 - p::MIX_FLOOR * raw.len() as f64;
    raw.map(|share| p::MIX_FLOOR + free * share / total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_gives_the_same_post_and_another_index_another() {
        let a = Post::new(7, 3);
        assert_eq!(format!("{a:?}"), format!("{:?}", Post::new(7, 3)));
        let b = Post::new(7, 4);
        assert_ne!(a.modes_hz, b.modes_hz);
        assert_ne!(a.mounting, b.mounting);
        assert_ne!(a.mix, b.mix);
    }

    #[test]
    fn every_posts_mix_sums_to_one_and_keeps_the_floor() {
        for index in 0..200 {
            let mix = Post::new(1, index).mix;
            assert!((mix.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            assert!(mix.iter().all(|&share| share >= p::MIX_FLOOR - 1e-12));
        }
    }

    #[test]
    fn a_day_is_warm_at_three_and_quiet_at_night() {
        let post = Post::new(1, 1);
        assert!(post.warmth_k(9.0) > post.warmth_k(21.0));
        assert!(post.background_db(9.0) > post.background_db(21.0) + 5.0);
        assert!((0..48).all(|hour| post.wind_m_per_s(f64::from(hour)) >= 0.3));
    }

    #[test]
    fn the_resting_field_is_of_the_order_of_the_earths() {
        for index in 0..50 {
            let field = Post::new(2, index).resting_field;
            let strength = field.iter().map(|b| b * b).sum::<f64>().sqrt();
            assert!((15.0..130.0).contains(&strength), "{strength} uT");
        }
    }
}
