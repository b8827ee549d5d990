//! The laws the simulated post obeys: resonators, ground, sound, magnetic dipoles.

use std::f64::consts::TAU;

use super::dice::Dice;
use super::parameters as p;

/// A vector in street coordinates or in the sensor's.
pub(super) type Vector = [f64; 3];

/// A matrix by rows.
pub(super) type Matrix = [Vector; 3];

/// `matrix * vector`.
pub(super) fn apply(matrix: &Matrix, vector: Vector) -> Vector {
    matrix.map(|row| dot(row, vector))
}

/// Sum of two vectors.
pub(super) fn add(a: Vector, b: Vector) -> Vector {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

/// The direction of a vector; that of nothing is nothing.
pub(super) fn unit(v: Vector) -> Vector {
    let length = dot(v, v).sqrt().max(f64::MIN_POSITIVE);
    v.map(|part| part / length)
}

fn dot(a: Vector, b: Vector) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// From street to sensor coordinates: turned about the mast by `yaw`, then tilted by `roll` about
/// the sensor's x and `pitch` about its y axis (radians).
pub(super) fn mounting(yaw: f64, roll: f64, pitch: f64) -> Matrix {
    let about_z = [
        [yaw.cos(), yaw.sin(), 0.0],
        [-yaw.sin(), yaw.cos(), 0.0],
        [0.0, 0.0, 1.0],
    ];
    let about_x = [
        [1.0, 0.0, 0.0],
        [0.0, roll.cos(), roll.sin()],
        [0.0, -roll.sin(), roll.cos()],
    ];
    let about_y = [
        [pitch.cos(), 0.0, -pitch.sin()],
        [0.0, 1.0, 0.0],
        [pitch.sin(), 0.0, pitch.cos()],
    ];
    product(&about_y, &product(&about_x, &about_z))
}

fn product(a: &Matrix, b: &Matrix) -> Matrix {
    let column = |j: usize| [b[0][j], b[1][j], b[2][j]];
    a.map(|row| {
        [
            dot(row, column(0)),
            dot(row, column(1)),
            dot(row, column(2)),
        ]
    })
}

/// One degree of freedom: `x'' + 2 z w x' + w^2 x = u`.
///
/// Stepped with the exact solution for an input held constant over the step, so it neither gains
/// nor loses energy however light the damping.
#[derive(Debug, Clone)]
pub(super) struct Resonator {
    omega: f64,
    damping: f64,
    /// Transition of (x - u/w^2, x') over one step.
    step: [[f64; 2]; 2],
    x: f64,
    v: f64,
}

impl Resonator {
    /// Natural frequency `hz`, damping as a fraction of critical (below 1), step in seconds.
    pub(super) fn new(hz: f64, damping: f64, step_s: f64) -> Self {
        let omega = TAU * hz;
        let damped = omega * (1.0 - damping * damping).sqrt();
        let decay = (-damping * omega * step_s).exp();
        let (sin, cos) = (damped * step_s).sin_cos();
        let lag = damping * omega / damped * sin;
        Self {
            omega,
            damping,
            step: [
                [decay * (cos + lag), decay * sin / damped],
                [-decay * omega * omega / damped * sin, decay * (cos - lag)],
            ],
            x: 0.0,
            v: 0.0,
        }
    }

    /// Moves on by one step under `u`; returns `w^2 x`, which follows a slow `u` with gain 1.
    pub(super) fn follow(&mut self, u: f64) -> f64 {
        let stiffness = self.omega * self.omega;
        let rest = u / stiffness;
        let (y, v) = (self.x - rest, self.v);
        self.x = rest + self.step[0][0] * y + self.step[0][1] * v;
        self.v = self.step[1][0] * y + self.step[1][1] * v;
        stiffness * self.x
    }

    /// Moves on by one step under `u`; returns the acceleration `x''`.
    pub(super) fn accelerate(&mut self, u: f64) -> f64 {
        let spring = self.follow(u);
        u - 2.0 * self.damping * self.omega * self.v - spring
    }

    /// A blow after which `w^2 x` rings with about this amplitude.
    pub(super) fn strike(&mut self, amplitude: f64) {
        self.v += amplitude / self.omega;
    }
}

/// Noise of variance 1 that a resonator has shaped: wheel forces, a mast swaying in the wind.
#[derive(Debug, Clone)]
pub(super) struct NarrowBand {
    resonator: Resonator,
    drive: f64,
}

impl NarrowBand {
    /// Starts in its stationary state, as a mast has swayed long before the window begins.
    ///
    /// White noise of variance s^2 held for steps of `h` gives `w^2 x` the variance
    /// `s^2 h w / (4 z)` (random vibration of one degree of freedom, small `w h`).
    pub(super) fn new(hz: f64, damping: f64, step_s: f64, dice: &mut Dice) -> Self {
        let mut resonator = Resonator::new(hz, damping, step_s);
        let omega = resonator.omega;
        resonator.x = dice.normal() / (omega * omega);
        resonator.v = dice.normal() / omega;
        Self {
            resonator,
            drive: (4.0 * damping / (step_s * omega)).sqrt(),
        }
    }

    /// The next value.
    pub(super) fn next(&mut self, dice: &mut Dice) -> f64 {
        self.resonator.follow(self.drive * dice.normal())
    }

    /// A blow after which the noise rings on top with about this amplitude.
    pub(super) fn strike(&mut self, amplitude: f64) {
        self.resonator.strike(amplitude);
    }
}

/// A slowly wandering quantity of mean 0 and variance 1 (Ornstein-Uhlenbeck).
#[derive(Debug, Clone)]
pub(super) struct Flutter {
    value: f64,
    keep: f64,
}

impl Flutter {
    /// Remembers itself for about `memory_s`.
    pub(super) fn new(memory_s: f64, step_s: f64, dice: &mut Dice) -> Self {
        Self {
            value: dice.normal(),
            keep: (-step_s / memory_s).exp(),
        }
    }

    /// The next value.
    pub(super) fn next(&mut self, dice: &mut Dice) -> f64 {
        self.value = self.keep * self.value + (1.0 - self.keep * self.keep).sqrt() * dice.normal();
        self.value
    }
}

/// First-order high pass: takes a constant away within a few periods of its corner.
#[derive(Debug, Clone)]
pub(super) struct HighPass {
    keep: f64,
    slow: f64,
}

impl HighPass {
    /// Corner frequency and step.
    pub(super) fn new(corner_hz: f64, step_s: f64) -> Self {
        Self {
            keep: (-TAU * corner_hz * step_s).exp(),
            slow: 0.0,
        }
    }

    /// The next value.
    pub(super) fn next(&mut self, value: f64) -> f64 {
        self.slow = self.keep * self.slow + (1.0 - self.keep) * value;
        value - self.slow
    }
}

/// Ground acceleration in m/s^2 per newton of dynamic force at this distance: geometric spreading
/// and material damping (Bornitz 1931), the soil's loss per metre given.
pub(super) fn ground_response(distance_m: f64, damping_per_m: f64) -> f64 {
    let r = distance_m.max(p::GROUND_NEAREST_M);
    p::GROUND_M_PER_S2_PER_N
        * (p::GROUND_REFERENCE_M / r).powf(p::GROUND_EXPONENT)
        * (-damping_per_m * (r - p::GROUND_REFERENCE_M)).exp()
}

/// Mean square pressure, relative to the hearing threshold, of a point source with this level at
/// [`p::SOUND_REFERENCE_M`]: `10^(L/10) (r0/r)^2`, 6 dB less per doubling.
pub(super) fn sound_power(level_db: f64, distance_m: f64) -> f64 {
    let near = p::SOUND_REFERENCE_M / distance_m.max(0.3);
    from_decibel(level_db) * near * near
}

/// `10^(L/10)`.
pub(super) fn from_decibel(level_db: f64) -> f64 {
    10.0_f64.powf(level_db / 10.0)
}

/// `10 log10(power)`.
pub(super) fn to_decibel(power: f64) -> f64 {
    10.0 * power.log10()
}

/// Magnetic flux density in uT at `from_source` (m) from a dipole of `moment` (A m^2):
/// `B = mu0 / (4 pi r^3) (3 (m.e) e - m)` with `e` the unit vector; falls with the cube.
pub(super) fn dipole(moment: Vector, from_source: Vector) -> Vector {
    /// `mu0 / 4 pi` in uT m^3 / (A m^2).
    const MU0_OVER_4PI: f64 = 0.1;
    let r = dot(from_source, from_source).sqrt().max(0.3);
    let e = from_source.map(|c| c / r);
    let along = 3.0 * dot(moment, e);
    let scale = MU0_OVER_4PI / (r * r * r);
    [
        scale * (along * e[0] - moment[0]),
        scale * (along * e[1] - moment[1]),
        scale * (along * e[2] - moment[2]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Power of `signal` at one frequency (Goertzel 1958).
    fn goertzel(signal: &[f64], hz: f64, rate: f64) -> f64 {
        let turn = 2.0 * (TAU * hz / rate).cos();
        let (mut one, mut two) = (0.0, 0.0);
        for &s in signal {
            let zero = s + turn * one - two;
            two = one;
            one = zero;
        }
        one * one + two * two - turn * one * two
    }

    fn length(v: Vector) -> f64 {
        dot(v, v).sqrt()
    }

    #[test]
    fn a_struck_resonator_rings_at_its_frequency() {
        let rate = 128.0;
        let mut mast = Resonator::new(7.0, 0.01, 1.0 / rate);
        mast.strike(1.0);
        let ring: Vec<f64> = (0..1024).map(|_| mast.follow(0.0)).collect();
        let best = (10..600)
            .map(|tenth| f64::from(tenth) / 10.0)
            .max_by(|a, b| goertzel(&ring, *a, rate).total_cmp(&goertzel(&ring, *b, rate)));
        assert!((best.expect("600 candidates") - 7.0).abs() <= 0.11);
        // Ten periods lose exp(-2 pi z n) of the amplitude: 0.53 left of 1.
        let later = ring[183..201].iter().fold(0.0_f64, |m, x| m.max(x.abs()));
        assert!((later - 0.533).abs() < 0.03, "{later}");
    }

    #[test]
    fn a_resonator_follows_a_constant_and_then_stands_still() {
        let mut mast = Resonator::new(5.0, 0.3, 0.01);
        let last = (0..2000).map(|_| mast.follow(2.0)).last();
        assert!((last.expect("2000 steps") - 2.0).abs() < 1e-9);
        assert!(mast.accelerate(2.0).abs() < 1e-9);
    }

    #[test]
    fn narrow_band_noise_has_variance_one_and_its_peak_at_its_frequency() {
        let mut dice = Dice::new(3, 1, 4, 1);
        let rate = 128.0;
        let mut noise = NarrowBand::new(10.0, 0.1, 1.0 / rate, &mut dice);
        let values: Vec<f64> = (0..60_000).map(|_| noise.next(&mut dice)).collect();
        let variance = values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64;
        assert!((variance - 1.0).abs() < 0.15, "variance {variance}");
        let power = |hz: f64| -> f64 {
            values
                .chunks_exact(512)
                .map(|chunk| goertzel(chunk, hz, rate))
                .sum()
        };
        assert!(power(10.0) > 5.0 * power(5.0));
        assert!(power(10.0) > 5.0 * power(20.0));
    }

    #[test]
    fn a_dipole_falls_with_the_cube_of_the_distance() {
        let moment = [10.0, -40.0, 200.0];
        let near = length(dipole(moment, [1.0, 2.0, 2.0]));
        let far = length(dipole(moment, [2.0, 4.0, 4.0]));
        assert!((near / far - 8.0).abs() < 1e-9);
        // On the axis: mu0/(4 pi) 2 m / r^3.
        let axis = dipole([0.0, 0.0, 100.0], [0.0, 0.0, 2.0]);
        assert!((axis[2] - 0.1 * 200.0 / 8.0).abs() < 1e-12);
    }

    #[test]
    fn sound_loses_six_decibel_per_doubling() {
        let near = to_decibel(sound_power(70.0, p::SOUND_REFERENCE_M));
        let far = to_decibel(sound_power(70.0, 2.0 * p::SOUND_REFERENCE_M));
        assert!((near - 70.0).abs() < 1e-9);
        assert!((near - far - 6.0206).abs() < 1e-3);
    }

    #[test]
    fn soft_ground_swallows_more_with_distance() {
        let stiff = ground_response(30.0, 0.01) / ground_response(5.0, 0.01);
        let soft = ground_response(30.0, 0.06) / ground_response(5.0, 0.06);
        assert!(soft < stiff && stiff < 1.0);
    }

    #[test]
    fn mounting_turns_without_stretching() {
        let turned = apply(&mounting(1.0, 0.05, -0.03), [3.0, 4.0, 12.0]);
        assert!((length(turned) - 13.0).abs() < 1e-9);
        let quarter = apply(&mounting(TAU / 4.0, 0.0, 0.0), [1.0, 0.0, 0.0]);
        assert!((quarter[1] + 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_high_pass_forgets_a_constant() {
        let mut filter = HighPass::new(0.3, 0.01);
        let last = (0..2000).map(|_| filter.next(9.8)).last();
        assert!(last.expect("2000 steps").abs() < 1e-6);
    }
}
