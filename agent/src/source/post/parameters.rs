//! The numbers of the simulated lamp post, all in one place.
//!
//! They were written down from physical plausibility (textbook and data-sheet values, rounded)
//! and committed on their own **before** any model was trained on the windows they make. They are
//! not to be tuned for accuracy: change one only where it is physically wrong, and say so.
//!
//! Coordinates: `x` along the street, `y` across it (positive towards the lanes), `z` up; the post
//! stands at the origin. Each constant has its unit in its name or its comment. `Between(a, b)` is
//! spread evenly; `Bell::new(mean, sd, low, high)` is normal, cut off at low and high;
//! `Skewed::new(median, sigma)` is log-normal.

use super::dice::{Bell, Between, Skewed};

// ---------------------------------------------------------------------------------------------
// The window
// ---------------------------------------------------------------------------------------------

/// Samples per second that leave the sensor board. Mast modes and wheel hop lie below 16 Hz.
pub(super) const SAMPLING_RATE_HZ: f64 = 32.0;
/// Samples in a window: 4 s, about what a car needs for 50 m in a town.
pub(super) const WINDOW: usize = 128;
/// Steps of the simulation per sample (128 Hz): eight steps per period of the fastest mode.
pub(super) const OVERSAMPLING: usize = 4;
/// Simulated time before the window, so that resonators and averages have forgotten their start.
pub(super) const WARM_UP_S: f64 = 3.0;
/// Half the stretch of street whose passers are recorded: the middle of a window lies somewhere
/// between the front entering it and the rear leaving it, ...
pub(super) const TRIGGER_HALF_WIDTH_M: f64 = 4.0;
/// ... give or take the trigger's own uncertainty.
pub(super) const TRIGGER_JITTER_S: f64 = 1.0;
/// Period a node has watched its street when its windows are asked for.
pub(super) const DEFAULT_HOURS: f64 = 24.0;
/// Labelled windows a node trains on.
pub(super) const DEFAULT_TRAIN: usize = 240;
/// Labelled windows it keeps back, later in time.
pub(super) const DEFAULT_HELD_OUT: usize = 120;

// ---------------------------------------------------------------------------------------------
// The post and its sensor
// ---------------------------------------------------------------------------------------------

/// Height of the sensor box over the street: out of reach of hands, below the luminaire.
pub(super) const SENSOR_HEIGHT_M: Between = Between(3.0, 4.5);
/// First bending mode of a tapered steel or aluminium mast of 8 to 10 m with its luminaire;
/// 1 to 3 Hz is what field tests of lighting columns report.
pub(super) const FIRST_MODE_HZ: Between = Between(1.2, 2.6);
/// Second over first bending mode. A bare cantilever has 6.27; a mass at the tip and a soft
/// foundation lower it.
pub(super) const SECOND_MODE_RATIO: Between = Between(4.2, 6.0);
/// The arm of the luminaire makes the mast stiffer in one direction: relative difference between
/// the modes along and across the street.
pub(super) const MODE_SPLIT: Between = Between(0.02, 0.12);
/// Damping of the first mode (fraction of critical): bare steel 0.2 to 0.5 %, with joints and
/// soil up to 2 %.
pub(super) const FIRST_DAMPING: Between = Between(0.004, 0.020);
/// Damping of the second mode: more, as the foundation moves with it.
pub(super) const SECOND_DAMPING: Between = Between(0.010, 0.035);
/// Participation times mode shape at the sensor, first mode: the box hangs below half height.
pub(super) const FIRST_MODE_GAIN: Between = Between(0.25, 0.50);
/// The same for the second mode, whose belly is near the box.
pub(super) const SECOND_MODE_GAIN: Between = Between(0.5, 1.0);
/// The bracket and its clamp: how much of the mast's motion reaches the board.
pub(super) const BRACKET_GAIN: Between = Between(0.7, 1.3);
/// Nobody reads a compass on a ladder: rotation of the box about the mast.
pub(super) const YAW_DEGREES: Between = Between(-180.0, 180.0);
/// Tilt of the box, about each horizontal axis.
pub(super) const TILT_DEGREES: Bell = Bell::new(0.0, 2.5, -8.0, 8.0);
/// Noise density of the accelerometer: a low-noise MEMS part has 25 ug/sqrt(Hz), an ordinary one
/// 80 and more.
pub(super) const ACCELEROMETER_NOISE_UG_PER_SQRT_HZ: Between = Between(20.0, 80.0);
/// Corner of the board's first-order high pass, which takes gravity and thermal offset away.
pub(super) const ACCELEROMETER_HIGH_PASS_HZ: f64 = 0.3;
/// Corner of the two second-order low passes before the samples are taken.
pub(super) const ANTI_ALIAS_HZ: f64 = 12.0;
/// Standard gravity, to turn ug into m/s^2.
pub(super) const GRAVITY_M_PER_S2: f64 = 9.806_65;
/// Error of the microphone's calibration after a season outdoors.
pub(super) const MICROPHONE_OFFSET_DB: Bell = Bell::new(0.0, 1.5, -4.0, 4.0);
/// Jitter of the level meter from one reading to the next.
pub(super) const MICROPHONE_JITTER_DB: f64 = 0.2;
/// Time constant F ("fast") of sound level meters, IEC 61672-1.
pub(super) const SOUND_FAST_S: f64 = 0.125;
/// Noise of one magnetometer reading (rms): 15 nT for magneto-inductive parts, 50 to 100 nT for
/// cheap magneto-resistive ones.
pub(super) const MAGNETOMETER_NOISE_UT: Between = Between(0.015, 0.060);

// ---------------------------------------------------------------------------------------------
// The field around the post
// ---------------------------------------------------------------------------------------------

/// Strength of the Earth's field in the northern middle latitudes (50 to 55 uT there).
pub(super) const EARTH_FIELD_UT: f64 = 53.0;
/// Its dip below the horizon.
pub(super) const EARTH_INCLINATION_DEGREES: f64 = 68.0;
/// Permanent magnetisation of mast and door, per axis.
pub(super) const HARD_IRON_UT: Bell = Bell::new(0.0, 12.0, -40.0, 40.0);
/// Spread of the entries of the matrix by which the mast's steel bends and gathers field lines.
pub(super) const SOFT_IRON: Bell = Bell::new(0.0, 0.12, -0.35, 0.35);
/// Change of the magnetometer's gain per kelvin.
pub(super) const MAGNETOMETER_GAIN_PER_K: f64 = -3.0e-4;
/// The board subtracts a baseline (vehicle counters do: Cheung and Varaiya 2007); this is its age:
/// what the temperature has changed since is left in the readings.
pub(super) const BASELINE_LAG_H: f64 = 0.5;
/// What parked cars leave of the baseline's error, per axis.
pub(super) const BASELINE_ERROR_UT: f64 = 0.04;

// ---------------------------------------------------------------------------------------------
// The ground
// ---------------------------------------------------------------------------------------------

/// Ground acceleration at 5 m per newton of dynamic wheel force near 10 Hz. A loaded lorry
/// (8 kN rms an axle) then gives 0.02 m/s^2, a peak velocity of about 0.3 mm/s, as roadside
/// surveys find.
pub(super) const GROUND_M_PER_S2_PER_N: f64 = 2.6e-6;
/// Distance of that figure.
pub(super) const GROUND_REFERENCE_M: f64 = 5.0;
/// Geometric decay exponent: 0.5 for surface waves, 1 for body waves; both are present.
pub(super) const GROUND_EXPONENT: f64 = 0.7;
/// Material damping of the soil near 10 Hz: 0.01 (stiff) to 0.06 (soft) per metre.
pub(super) const GROUND_DAMPING_PER_M: Between = Between(0.01, 0.06);
/// How strongly this post's soil and foundation answer.
pub(super) const SITE_GAIN: Skewed = Skewed::new(1.0, 0.45);
/// Horizontal over vertical ground motion (the ellipse of a Rayleigh wave has about 0.7).
pub(super) const GROUND_HORIZONTAL: Between = Between(0.5, 0.9);
/// A source is never nearer to the foundation than this.
pub(super) const GROUND_NEAREST_M: f64 = 0.7;

// ---------------------------------------------------------------------------------------------
// Weather and quiet street
// ---------------------------------------------------------------------------------------------

/// Wind speed at the mast's head averaged over the day.
pub(super) const WIND_M_PER_S: Between = Between(1.5, 5.5);
/// Share by which it swings over hours.
pub(super) const WIND_SWING: f64 = 0.5;
/// Acceleration of the box (rms, each direction) that a wind of 5 m/s keeps up in the first mode;
/// grows with the square of the speed.
pub(super) const SWAY_AT_5_M_PER_S: f64 = 0.004;
/// Level that a wind of 5 m/s makes in a screened microphone, A-weighted; 50 dB a decade.
pub(super) const WIND_NOISE_AT_5_DB: f64 = 42.0;
/// Background of the street by day, between passers: a quiet side street to a busy corner.
pub(super) const BACKGROUND_DB: Between = Between(43.0, 57.0);
/// How much quieter the small hours are.
pub(super) const BACKGROUND_NIGHT_DB: f64 = 6.0;
/// Fluctuation of the background within seconds (standard deviation) ...
pub(super) const BACKGROUND_FLUTTER_DB: f64 = 1.5;
/// ... and how long it remembers.
pub(super) const BACKGROUND_FLUTTER_S: f64 = 0.8;
/// Half the difference between afternoon and dawn.
pub(super) const TEMPERATURE_SWING_K: Between = Between(3.0, 8.0);
/// Stiffness of soil and joints: relative change of the modes' frequency per kelvin.
pub(super) const MODE_DRIFT_PER_K: f64 = -5.0e-4;
/// Hour of the day at which the record begins.
pub(super) const FIRST_HOUR: f64 = 6.0;

// ---------------------------------------------------------------------------------------------
// Where and how often they pass
// ---------------------------------------------------------------------------------------------

/// Names of the classes, in label order.
pub(super) const CLASSES: [&str; 5] = ["PEDESTRIAN", "BICYCLE", "CAR", "TRUCK", "TRAIN"];
/// Share of each class among the windows a node keeps. Not raw counts (four passers in five are
/// cars): whoever labels keeps more of what is rare.
pub(super) const MIX: [f64; 5] = [0.22, 0.18, 0.28, 0.18, 0.14];
/// Every street differs: each share is multiplied by such a draw.
pub(super) const MIX_SPREAD: Skewed = Skewed::new(1.0, 0.4);
/// No class is rarer than this.
pub(super) const MIX_FLOOR: f64 = 0.06;
/// Distance of the footpath's middle; its side of the post is drawn.
pub(super) const FOOTPATH_M: Between = Between(0.8, 2.5);
/// Distance of the cycle track or of the kerb where bicycles ride.
pub(super) const CYCLEWAY_M: Between = Between(1.2, 3.5);
/// Distance of the near lane's middle.
pub(super) const NEAR_LANE_M: Between = Between(2.5, 5.5);
/// From one lane's middle to the next.
pub(super) const LANE_WIDTH_M: f64 = 3.2;
/// Share of the vehicles that use the near lane.
pub(super) const NEAR_LANE_SHARE: f64 = 0.55;
/// Distance of the railway's middle; its side of the post is drawn.
pub(super) const RAILWAY_M: Between = Between(12.0, 45.0);
/// How far a passer keeps from the middle of its path (standard deviation).
pub(super) const WANDER_M: [f64; 5] = [0.35, 0.3, 0.25, 0.2, 0.0];
/// Speed limits found in towns, km/h.
pub(super) const LIMITS_KM_PER_H: [f64; 3] = [30.0, 50.0, 60.0];
/// Chance that somebody else is near as well, by how busy the street is.
pub(super) const COMPANY: Between = Between(0.10, 0.40);
/// Who that is: raw traffic without the railway.
pub(super) const COMPANY_MIX: [f64; 5] = [0.30, 0.15, 0.48, 0.07, 0.0];
/// How long before or after the window's middle the other one passes.
pub(super) const COMPANY_OFFSET_S: Between = Between(2.5, 7.0);

// ---------------------------------------------------------------------------------------------
// Pedestrians
// ---------------------------------------------------------------------------------------------

/// Walking speed.
pub(super) const WALK_M_PER_S: Bell = Bell::new(1.35, 0.20, 0.7, 2.0);
/// Steps per second when walking (Bachmann and Ammann 1987: 1.6 to 2.4).
pub(super) const WALK_CADENCE_HZ: Bell = Bell::new(1.8, 0.15, 1.4, 2.4);
/// Share of joggers, their speed and cadence.
pub(super) const JOGGERS: f64 = 0.08;
pub(super) const JOG_M_PER_S: Bell = Bell::new(2.8, 0.35, 2.0, 4.0);
pub(super) const JOG_CADENCE_HZ: Bell = Bell::new(2.6, 0.15, 2.2, 3.0);
/// Chances that one, two or three walk together.
pub(super) const GROUP: [f64; 3] = [0.65, 0.25, 0.10];
/// Weight of a person with bag.
pub(super) const PERSON_N: Bell = Bell::new(750.0, 140.0, 400.0, 1300.0);
/// Peak of the heel strike over the weight, and its duration.
pub(super) const HEEL_STRIKE: Between = Between(0.20, 0.50);
pub(super) const HEEL_STRIKE_S: f64 = 0.06;
/// Irregularity of the steps: relative, in time and in strength.
pub(super) const STEP_IRREGULARITY: f64 = 0.04;
/// Steps, clothes, talk: A-weighted level at 7.5 m (talk of 60 dB at 1 m is 42 dB there).
pub(super) const PERSON_DB: Bell = Bell::new(41.0, 4.0, 30.0, 52.0);

// ---------------------------------------------------------------------------------------------
// Bicycles
// ---------------------------------------------------------------------------------------------

pub(super) const BICYCLE_M_PER_S: Bell = Bell::new(4.8, 1.0, 2.5, 9.0);
/// Rider and bicycle.
pub(super) const BICYCLE_N: Bell = Bell::new(900.0, 150.0, 600.0, 1400.0);
/// Distance of the axles.
pub(super) const BICYCLE_WHEELBASE_M: f64 = 1.05;
/// Rider on tyres: frequency and damping of the only mode that matters.
pub(super) const BICYCLE_HOP_HZ: f64 = 7.0;
pub(super) const BICYCLE_HOP_DAMPING: f64 = 0.25;
/// Tyres, chain and freewheel at 7.5 m.
pub(super) const BICYCLE_DB: Bell = Bell::new(46.0, 3.0, 38.0, 55.0);
/// Magnetic moment: aluminium with steel parts to a steel frame with a basket.
pub(super) const BICYCLE_A_M2: Skewed = Skewed::new(1.2, 0.6);

// ---------------------------------------------------------------------------------------------
// Road vehicles
// ---------------------------------------------------------------------------------------------

/// Speed over the limit; the low end is a queue.
pub(super) const CAR_SPEED_SHARE: Bell = Bell::new(0.88, 0.18, 0.25, 1.3);
pub(super) const TRUCK_SPEED_SHARE: Bell = Bell::new(0.78, 0.16, 0.25, 1.1);
/// Weight of cars, delivery vans included.
pub(super) const CAR_N: Skewed = Skewed::new(15_000.0, 0.28);
/// Weight on one axle of a lorry: empty light ones to loaded ones (limit 100 to 115 kN).
pub(super) const TRUCK_AXLE_N: Bell = Bell::new(52_000.0, 20_000.0, 15_000.0, 110_000.0);
/// Chances of 2, 3, 4 and 5 axles.
pub(super) const TRUCK_AXLES: [f64; 4] = [0.50, 0.20, 0.12, 0.18];
pub(super) const CAR_WHEELBASE_M: Between = Between(2.4, 3.3);
/// From axle to axle of a lorry: a mean over close groups and long gaps.
pub(super) const TRUCK_AXLE_GAP_M: Between = Between(2.2, 4.8);
/// Rms of the dynamic wheel force over the static one at 50 km/h on an average town road; it
/// grows with the square root of the speed.
pub(super) const DYNAMIC_SHARE: Between = Between(0.07, 0.14);
/// Body bounce: frequency and damping; cars, then lorries on stiffer springs.
pub(super) const BOUNCE_HZ: [Between; 2] = [Between(1.1, 1.6), Between(1.8, 3.2)];
pub(super) const BOUNCE_DAMPING: f64 = 0.2;
/// Wheel hop: frequency and damping.
pub(super) const HOP_HZ: [Between; 2] = [Between(10.0, 13.5), Between(8.5, 12.0)];
pub(super) const HOP_DAMPING: f64 = 0.1;
/// The hop's part of the dynamic force; the rest is bounce. Steel-sprung lorries hop most.
pub(super) const HOP_SHARE: [f64; 2] = [0.6, 0.75];
/// A joint, manhole or patch near the post: where, and how hard a wheel of unit load hits it.
pub(super) const JOINT_M: Between = Between(-8.0, 8.0);
pub(super) const JOINT_KICK: Between = Between(0.0, 0.35);
/// Level at 7.5 m and 50 km/h (pass-by levels of traffic in service).
pub(super) const CAR_DB: Bell = Bell::new(68.0, 2.5, 58.0, 78.0);
pub(super) const TRUCK_DB: Bell = Bell::new(77.0, 3.0, 68.0, 88.0);
/// Growth of tyre noise with speed, dB per decade, and of engine noise, which rules lorries.
pub(super) const SOUND_PER_DECADE_DB: [f64; 2] = [30.0, 18.0];
/// Magnetic moment of a car, and of a lorry per axle: 100 to 300 A m^2 for a tonne and a half of
/// steel in the Earth's field, permanent part included.
pub(super) const CAR_A_M2: Skewed = Skewed::new(180.0, 0.45);
pub(super) const TRUCK_A_M2_PER_AXLE: Skewed = Skewed::new(260.0, 0.5);
/// Height of that moment over the road.
pub(super) const CAR_DIPOLE_HEIGHT_M: f64 = 0.6;
pub(super) const TRUCK_DIPOLE_HEIGHT_M: f64 = 1.0;
/// The gust of a passing front bends the mast: peak acceleration at the box for a lorry (8 m^2)
/// at 50 km/h in 3 m; grows with area and speed squared, falls with distance squared.
pub(super) const GUST_M_PER_S2: f64 = 0.012;
/// Frontal areas.
pub(super) const CAR_FRONT_M2: f64 = 2.2;
pub(super) const TRUCK_FRONT_M2: f64 = 8.0;

// ---------------------------------------------------------------------------------------------
// Trains
// ---------------------------------------------------------------------------------------------

pub(super) const TRAIN_KM_PER_H: Bell = Bell::new(62.0, 20.0, 20.0, 110.0);
/// Wagons of 20 m: a light rail pair to a long regional train.
pub(super) const WAGONS: Between = Between(2.0, 9.0);
pub(super) const WAGON_M: f64 = 20.0;
/// From a wagon's middle to each of its bogies.
pub(super) const BOGIE_OFFSET_M: f64 = 7.0;
/// Load of one bogie (two axles).
pub(super) const BOGIE_N: Bell = Bell::new(240_000.0, 50_000.0, 130_000.0, 400_000.0);
/// Rms of the dynamic force over the static one: rails are smooth.
pub(super) const TRAIN_DYNAMIC_SHARE: Between = Between(0.03, 0.07);
/// Vehicle on track: the band in which the ground is shaken below 16 Hz.
pub(super) const TRACK_HZ: Between = Between(6.0, 11.0);
pub(super) const TRACK_DAMPING: f64 = 0.2;
/// One wagon as a point source at 7.5 m and 80 km/h: a long train then has about 80 dB at 25 m.
pub(super) const WAGON_DB: Bell = Bell::new(84.0, 3.0, 74.0, 93.0);
/// Growth of rolling noise with speed, dB per decade.
pub(super) const ROLLING_PER_DECADE_DB: f64 = 30.0;
/// Magnetic moment of a wagon.
pub(super) const WAGON_A_M2: Skewed = Skewed::new(4_000.0, 0.4);
pub(super) const WAGON_DIPOLE_HEIGHT_M: f64 = 1.5;

// ---------------------------------------------------------------------------------------------
// Sound of all passers
// ---------------------------------------------------------------------------------------------

/// Distance of all source levels above.
pub(super) const SOUND_REFERENCE_M: f64 = 7.5;
/// Speed of the road vehicles' levels, and of the trains'.
pub(super) const ROAD_REFERENCE_KM_PER_H: f64 = 50.0;
pub(super) const RAIL_REFERENCE_KM_PER_H: f64 = 80.0;
/// Height of the sources over the ground.
pub(super) const SOUND_HEIGHT_M: [f64; 5] = [1.0, 0.6, 0.4, 0.8, 0.6];
/// Fluctuation of each class's level (standard deviation): talk comes in syllables, ...
pub(super) const FLUTTER_DB: [f64; 5] = [3.0, 1.5, 0.8, 1.0, 1.2];
/// ... and its memory.
pub(super) const FLUTTER_S: f64 = 0.2;
