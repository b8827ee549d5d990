//! One window: what the sensor board reports while a scene passes its post.
//!
//! ```text
//!   wheels, steps -> ground --+--> mast modes --> bracket, rotation --> filters --> acc x y z
//!   gust, wind ---------------+
//!   sounds + street + wind --> fast average --> sound level
//!   dipoles --> mast's iron --> rotation --> baseline taken away --> mag x y z
//! ```

use super::dice::Dice;
use super::identity::Post;
use super::parameters as p;
use super::passage::{Passer, Walker, Wheel};
use super::physics::{
    Flutter, HighPass, NarrowBand, Resonator, Vector, add, apply, dipole, from_decibel,
    ground_response, sound_power, to_decibel,
};

/// Channels of a window.
pub(super) const CHANNELS: usize = 7;

const STEP_S: f64 = 1.0 / (p::SAMPLING_RATE_HZ * p::OVERSAMPLING as f64);
const STEPS: usize = p::WINDOW * p::OVERSAMPLING + WARM_UP_STEPS;
const WARM_UP_STEPS: usize = (p::WARM_UP_S * p::SAMPLING_RATE_HZ) as usize * p::OVERSAMPLING;
/// Damping of a Butterworth second-order low pass.
const MAXIMALLY_FLAT: f64 = std::f64::consts::FRAC_1_SQRT_2;

/// Seconds after the window's start; negative while warming up.
fn time_s(step: usize) -> f64 {
    (step as f64 - WARM_UP_STEPS as f64) * STEP_S
}

/// Whether a sample is taken after this step.
fn is_sampled(step: usize) -> bool {
    step >= WARM_UP_STEPS && (step + 1).is_multiple_of(p::OVERSAMPLING)
}

/// The readings of a window, `[7, 128]` row-major: acceleration x, y, z in m/s^2, sound level in
/// dB(A), magnetic deviation x, y, z in uT. `hour` is the window's place in the record.
pub(super) fn record(post: &Post, scene: &[Passer], hour: f64, dice: &mut Dice) -> Vec<f32> {
    let acceleration = accelerations(post, scene, hour, dice);
    let sound = sound_levels(post, scene, hour, dice);
    let magnetic = magnetic_deviations(post, scene, hour, dice);
    let mut window = Vec::with_capacity(CHANNELS * p::WINDOW);
    for axis in 0..3 {
        window.extend(acceleration.iter().map(|a| a[axis] as f32));
    }
    window.extend(sound.iter().map(|&level| level as f32));
    for axis in 0..3 {
        window.extend(magnetic.iter().map(|b| b[axis] as f32));
    }
    window
}

/// Motion of the ground under the post, m/s^2, in street coordinates, for every step.
fn ground_motion(post: &Post, scene: &[Passer], dice: &mut Dice) -> Vec<Vector> {
    let mut ground = vec![[0.0; 3]; STEPS];
    for passer in scene {
        for wheel in &passer.wheels {
            shake(&mut ground, post, passer, wheel, dice);
        }
        for walker in &passer.walkers {
            walk(&mut ground, post, passer, walker, dice);
        }
    }
    ground
}

/// Acceleration per newton at the post of a force at `(x, y)`: down and away from the source.
fn response(post: &Post, x: f64, y: f64) -> Vector {
    let r = x.hypot(y);
    let vertical = post.site_gain * ground_response(r, post.soil_per_m);
    let level = -vertical * post.horizontal / r.max(p::GROUND_NEAREST_M);
    [level * x, level * y, vertical]
}

/// Adds what one wheel does to the ground.
fn shake(ground: &mut [Vector], post: &Post, passer: &Passer, wheel: &Wheel, dice: &mut Dice) {
    let mut bands: Vec<(NarrowBand, f64)> = wheel
        .bands
        .iter()
        .map(|&(hz, damping, rms)| (NarrowBand::new(hz, damping, STEP_S, dice), rms))
        .collect();
    let joint = post.joint_m * passer.direction;
    let mut before = passer.direction * passer.x_m(wheel.offset_m, time_s(0) - STEP_S);
    let mut per_newton = [0.0; 3];
    for (step, motion) in ground.iter_mut().enumerate() {
        let x = passer.x_m(wheel.offset_m, time_s(step));
        let now = passer.direction * x;
        if step.is_multiple_of(p::OVERSAMPLING) {
            per_newton = response(post, x, passer.y_m);
        }
        if wheel.on_road
            && before < joint
            && joint <= now
            && let Some((hop, rms)) = bands.last_mut()
            && *rms > 0.0
        {
            hop.strike(post.joint_kick * wheel.load_n / *rms);
        }
        before = now;
        let force: f64 = bands
            .iter_mut()
            .map(|(band, rms)| *rms * band.next(dice))
            .sum();
        *motion = add(*motion, per_newton.map(|a| a * force));
    }
}

/// Adds one walker's steps: a half sine of force at each heel strike.
fn walk(ground: &mut [Vector], post: &Post, passer: &Passer, walker: &Walker, dice: &mut Dice) {
    let steps = (p::HEEL_STRIKE_S / STEP_S).round().max(1.0) as usize;
    let mut strikes_at = time_s(0) + dice.unit() / walker.cadence_hz;
    while strikes_at < time_s(STEPS) {
        let first = ((strikes_at - time_s(0)) / STEP_S) as usize;
        let x = passer.x_m(walker.offset_m, strikes_at);
        let y = passer.y_m + passer.y_m.signum() * walker.beside_m;
        let per_newton = response(post, x, y);
        let peak = walker.strike_n * (1.0 + p::STEP_IRREGULARITY * dice.normal());
        for (place, motion) in ground.iter_mut().skip(first).take(steps).enumerate() {
            let part = std::f64::consts::PI * (place as f64 + 0.5) / steps as f64;
            *motion = add(*motion, per_newton.map(|a| a * peak * part.sin()));
        }
        let irregular = 1.0 + p::STEP_IRREGULARITY * dice.normal();
        strikes_at += irregular.max(0.5) / walker.cadence_hz;
    }
}

/// Push of passing fronts on the mast, m/s^2 at the box, across the street.
fn gust(passer: &Passer, time_s: f64) -> f64 {
    // The reference of the constant: 8 m^2 at 50 km/h in 3 m.
    let (area, speed, distance) = (8.0, 50.0 / 3.6, 3.0);
    let y = passer.y_m.abs().max(1.0);
    let peak = p::GUST_M_PER_S2
        * (passer.front_m2 / area)
        * (passer.speed_m_per_s / speed).powi(2)
        * (distance / y).powi(2);
    let s = passer.x_m(0.0, time_s) / y;
    // Bow wave and suction behind it; nothing is left after some widths.
    -peak * passer.y_m.signum() * (1.0 - s * s) * (-0.5 * s * s).exp()
}

/// What the accelerometer reports.
fn accelerations(post: &Post, scene: &[Passer], hour: f64, dice: &mut Dice) -> Vec<Vector> {
    let ground = ground_motion(post, scene, dice);
    let stiffness = 1.0 + p::MODE_DRIFT_PER_K * post.warmth_k(hour);
    let mode = |which: usize, axis: usize| {
        let hz = post.modes_hz[which][axis] * stiffness;
        Resonator::new(hz, post.damping[which], STEP_S)
    };
    let mut first = [mode(0, 0), mode(0, 1)];
    let mut second = [mode(1, 0), mode(1, 1)];
    let mut sway = [0, 1].map(|axis| {
        let hz = post.modes_hz[0][axis] * stiffness;
        NarrowBand::new(hz, post.damping[0], STEP_S, dice)
    });
    let sway_rms = p::SWAY_AT_5_M_PER_S * (post.wind_m_per_s(hour) / 5.0).powi(2);
    let mut high_pass = [0, 1, 2].map(|_| HighPass::new(p::ACCELEROMETER_HIGH_PASS_HZ, STEP_S));
    let low_pass = || Resonator::new(p::ANTI_ALIAS_HZ, MAXIMALLY_FLAT, STEP_S);
    let mut low_passes = [0, 1, 2].map(|_| [low_pass(), low_pass()]);

    let mut readings = Vec::with_capacity(p::WINDOW);
    for (step, &base) in ground.iter().enumerate() {
        let push: f64 = scene
            .iter()
            .filter(|passer| passer.front_m2 > 0.0)
            .map(|passer| gust(passer, time_s(step)))
            .sum();
        // The mast moves with the ground and, in each mode, against it.
        let mut mast = base;
        for axis in 0..2 {
            let push = if axis == 1 { push } else { 0.0 };
            let gain = post.mode_gain;
            mast[axis] += gain[0] * first[axis].accelerate(push / gain[0] - base[axis])
                + gain[1] * second[axis].accelerate(-base[axis])
                + sway_rms * sway[axis].next(dice);
        }
        // Gravity is constant: the high pass takes it away, so it is left out from the start.
        let board = apply(&post.mounting, mast);
        let mut filtered = [0.0; 3];
        for axis in 0..3 {
            let [once, twice] = &mut low_passes[axis];
            let value = high_pass[axis].next(post.bracket * board[axis]);
            filtered[axis] = twice.follow(once.follow(value));
        }
        if is_sampled(step) {
            readings.push(filtered.map(|a| a + post.acceleration_noise * dice.normal()));
        }
    }
    readings
}

/// What the sound level meter reports.
fn sound_levels(post: &Post, scene: &[Passer], hour: f64, dice: &mut Dice) -> Vec<f64> {
    let background_db = post.background_db(hour);
    let wind_db = p::WIND_NOISE_AT_5_DB + 50.0 * (post.wind_m_per_s(hour) / 5.0).log10();
    let mut street = Flutter::new(p::BACKGROUND_FLUTTER_S, STEP_S, dice);
    let mut flutters: Vec<Flutter> = scene
        .iter()
        .map(|_| Flutter::new(p::FLUTTER_S, STEP_S, dice))
        .collect();
    let keep = (-STEP_S / p::SOUND_FAST_S).exp();
    let mut average = 0.0;
    let mut readings = Vec::with_capacity(p::WINDOW);
    for step in 0..STEPS {
        let rustle = p::BACKGROUND_FLUTTER_DB * street.next(dice);
        let mut power = from_decibel(background_db + rustle) + from_decibel(wind_db + rustle);
        for (passer, flutter) in scene.iter().zip(&mut flutters) {
            let rise = passer.sound_height_m() - post.height_m;
            let steady: f64 = passer
                .sounds
                .iter()
                .map(|sound| {
                    let x = passer.x_m(sound.offset_m, time_s(step));
                    let r = (x * x + passer.y_m * passer.y_m + rise * rise).sqrt();
                    sound_power(sound.level_db, r)
                })
                .sum();
            let flutter_db = p::FLUTTER_DB[passer.kind as usize] * flutter.next(dice);
            power += steady * from_decibel(flutter_db);
        }
        average = if step == 0 {
            power
        } else {
            keep * average + (1.0 - keep) * power
        };
        if is_sampled(step) {
            let jitter = p::MICROPHONE_JITTER_DB * dice.normal();
            readings.push(to_decibel(average) + post.microphone_db + jitter);
        }
    }
    readings
}

/// What the magnetometer reports: the deviation from its baseline.
fn magnetic_deviations(post: &Post, scene: &[Passer], hour: f64, dice: &mut Dice) -> Vec<Vector> {
    let warmed = post.warmth_k(hour) - post.warmth_k(hour - p::BASELINE_LAG_H);
    let gain = 1.0 + p::MAGNETOMETER_GAIN_PER_K * post.warmth_k(hour);
    // The baseline was taken at an earlier temperature, so part of the resting field is left.
    let left_over = p::MAGNETOMETER_GAIN_PER_K * warmed;
    let parked = [0.0; 3].map(|_: f64| p::BASELINE_ERROR_UT * dice.normal());
    (0..STEPS)
        .filter(|&step| is_sampled(step))
        .map(|step| {
            let mut field = [0.0; 3];
            for passer in scene {
                for magnet in &passer.magnets {
                    let from_source = [
                        -passer.x_m(magnet.offset_m, time_s(step)),
                        -passer.y_m,
                        post.height_m - magnet.height_m,
                    ];
                    field = add(field, dipole(magnet.moment, from_source));
                }
            }
            let at_sensor = apply(&post.soft_iron, field).map(|b| gain * b);
            let resting = post.resting_field.map(|b| left_over * b);
            let total = add(add(at_sensor, resting), parked);
            apply(&post.mounting, total).map(|b| b + post.magnetic_noise * dice.normal())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::passage::{Kind, draw_scene};
    use super::*;

    /// Mean over windows of each channel's (rms about its mean, mean).
    fn figures(kind: Kind, index: u64) -> Vec<(f64, f64)> {
        let post = Post::new(11, index);
        let windows = 40;
        let mut sums = vec![(0.0, 0.0); CHANNELS];
        for number in 0..windows {
            let mut dice = Dice::new(11, index, 77, number);
            let scene = draw_scene(kind, &post, 2.0, &mut dice);
            let window = record(&post, &scene, 5.0, &mut dice);
            for (channel, sum) in window.chunks_exact(p::WINDOW).zip(&mut sums) {
                let mean = channel.iter().map(|&v| f64::from(v)).sum::<f64>() / p::WINDOW as f64;
                let square = channel
                    .iter()
                    .map(|&v| (f64::from(v) - mean).powi(2))
                    .sum::<f64>()
                    / p::WINDOW as f64;
                sum.0 += square.sqrt() / windows as f64;
                sum.1 += mean / windows as f64;
            }
        }
        sums
    }

    #[test]
    fn readings_have_the_size_of_a_street() {
        for index in 0..4 {
            for kind in Kind::ALL {
                for (channel, (rms, mean)) in figures(kind, index).into_iter().enumerate() {
                    match channel {
                        0..3 => assert!((2e-4..1.0).contains(&rms), "{kind:?} {channel} {rms}"),
                        3 => assert!((35.0..95.0).contains(&mean), "{kind:?} {mean} dB"),
                        _ => assert!((0.01..20.0).contains(&rms), "{kind:?} {channel} {rms}"),
                    }
                }
            }
        }
    }

    #[test]
    fn trucks_shake_hum_and_bend_the_field_more_than_bicycles() {
        for index in 0..4 {
            let (truck, bicycle) = (figures(Kind::Truck, index), figures(Kind::Bicycle, index));
            assert!(truck[2].0 > bicycle[2].0, "vertical shaking");
            assert!(truck[3].1 > bicycle[3].1 + 6.0, "sound");
            // Both stand on the same noise and the same company.
            assert!(truck[6].0 > 1.2 * bicycle[6].0, "magnetic");
        }
    }

    #[test]
    fn an_empty_street_shows_only_noise_and_sway() {
        let post = Post::new(11, 1);
        let window = record(&post, &[], 5.0, &mut Dice::new(1, 1, 1, 1));
        let magnetic = &window[6 * p::WINDOW..];
        let mean = magnetic.iter().map(|&v| f64::from(v)).sum::<f64>() / p::WINDOW as f64;
        let rms = (magnetic
            .iter()
            .map(|&v| (f64::from(v) - mean).powi(2))
            .sum::<f64>()
            / p::WINDOW as f64)
            .sqrt();
        assert!((rms / post.magnetic_noise - 1.0).abs() < 0.25, "{rms}");
    }
}
