//! Who passes, and when: a passer as the forces, sounds and magnets it carries along.

use super::dice::{Between, Dice};
use super::identity::Post;
use super::parameters as p;
use super::physics::{Vector, add, unit};

/// Classes by their label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Pedestrian,
    Bicycle,
    Car,
    Truck,
    Train,
}

impl Kind {
    /// All classes in label order.
    pub(super) const ALL: [Self; 5] = [
        Self::Pedestrian,
        Self::Bicycle,
        Self::Car,
        Self::Truck,
        Self::Train,
    ];
}

/// A wheel, axle or bogie that shakes the ground.
#[derive(Debug, Clone)]
pub(super) struct Wheel {
    /// Behind the front, m.
    pub(super) offset_m: f64,
    /// Static load, N.
    pub(super) load_n: f64,
    /// Modes of the dynamic force: Hz, damping, rms in N.
    pub(super) bands: Vec<(f64, f64, f64)>,
    /// Whether it feels the joint in the road (rails have none).
    pub(super) on_road: bool,
}

/// Somebody on foot.
#[derive(Debug, Clone)]
pub(super) struct Walker {
    /// Behind the first of the group, m.
    pub(super) offset_m: f64,
    /// Beside it, m.
    pub(super) beside_m: f64,
    /// Steps per second.
    pub(super) cadence_hz: f64,
    /// Peak of a heel strike, N.
    pub(super) strike_n: f64,
}

/// A point source of sound.
#[derive(Debug, Clone)]
pub(super) struct Sound {
    /// Behind the front, m.
    pub(super) offset_m: f64,
    /// Level at 7.5 m, dB(A).
    pub(super) level_db: f64,
}

/// A magnetic dipole.
#[derive(Debug, Clone)]
pub(super) struct Magnet {
    /// Behind the front, m.
    pub(super) offset_m: f64,
    /// Over the ground, m.
    pub(super) height_m: f64,
    /// Moment in street coordinates, A m^2.
    pub(super) moment: Vector,
}

/// One passer on its way.
#[derive(Debug, Clone)]
pub(super) struct Passer {
    pub(super) kind: Kind,
    /// `+1` towards positive `x`, else `-1`.
    pub(super) direction: f64,
    pub(super) speed_m_per_s: f64,
    /// Line it keeps, m.
    pub(super) y_m: f64,
    /// From front to rear, m.
    pub(super) length_m: f64,
    /// When the front is beside the post, seconds after the window's start.
    pub(super) front_s: f64,
    pub(super) wheels: Vec<Wheel>,
    pub(super) walkers: Vec<Walker>,
    pub(super) sounds: Vec<Sound>,
    pub(super) magnets: Vec<Magnet>,
    /// Frontal area that pushes air, m^2.
    pub(super) front_m2: f64,
}

impl Passer {
    /// Draws a passer of this class; it stands at [`Passer::front_s`] = 0 until it is timed.
    pub(super) fn new(kind: Kind, post: &Post, dice: &mut Dice) -> Self {
        match kind {
            Kind::Pedestrian => pedestrians(post, dice),
            Kind::Bicycle => bicycle(post, dice),
            Kind::Car => car(post, dice),
            Kind::Truck => truck(post, dice),
            Kind::Train => train(post, dice),
        }
    }

    /// Times it as the window's subject: the window's middle falls at a random moment of the
    /// stretch in which the trigger sees it.
    pub(super) fn trigger(&mut self, middle_s: f64, dice: &mut Dice) {
        let half = p::TRIGGER_HALF_WIDTH_M;
        let enters = -half / self.speed_m_per_s - p::TRIGGER_JITTER_S;
        let leaves = (half + self.length_m) / self.speed_m_per_s + p::TRIGGER_JITTER_S;
        self.front_s = middle_s - dice.between(Between(enters, leaves));
    }

    /// Times it as company: its front passes well before or after the window's middle.
    pub(super) fn accompany(&mut self, middle_s: f64, dice: &mut Dice) {
        self.front_s = middle_s + dice.sign() * dice.between(p::COMPANY_OFFSET_S);
    }

    /// Where a part `offset_m` behind the front is at `time_s`, along the street.
    pub(super) fn x_m(&self, offset_m: f64, time_s: f64) -> f64 {
        self.direction * (self.speed_m_per_s * (time_s - self.front_s) - offset_m)
    }

    /// Height of its sounds, m.
    pub(super) fn sound_height_m(&self) -> f64 {
        p::SOUND_HEIGHT_M[self.kind as usize]
    }
}

/// Everybody near the post during a window whose subject is `kind`.
pub(super) fn draw_scene(kind: Kind, post: &Post, middle_s: f64, dice: &mut Dice) -> Vec<Passer> {
    let mut subject = Passer::new(kind, post, dice);
    subject.trigger(middle_s, dice);
    let mut scene = vec![subject];
    if dice.chance(post.company) {
        let other = Kind::ALL[dice.weighted(&p::COMPANY_MIX)];
        let mut other = Passer::new(other, post, dice);
        other.accompany(middle_s, dice);
        scene.push(other);
    }
    scene
}

/// A passer with nothing on it yet.
fn bare(kind: Kind, path_m: f64, direction: f64, speed_m_per_s: f64, dice: &mut Dice) -> Passer {
    Passer {
        kind,
        direction,
        speed_m_per_s,
        y_m: path_m + p::WANDER_M[kind as usize] * dice.normal(),
        length_m: 0.0,
        front_s: 0.0,
        wheels: Vec::new(),
        walkers: Vec::new(),
        sounds: Vec::new(),
        magnets: Vec::new(),
        front_m2: 0.0,
    }
}

fn pedestrians(post: &Post, dice: &mut Dice) -> Passer {
    let (speed, cadence) = if dice.chance(p::JOGGERS) {
        (p::JOG_M_PER_S, p::JOG_CADENCE_HZ)
    } else {
        (p::WALK_M_PER_S, p::WALK_CADENCE_HZ)
    };
    let (direction, speed) = (dice.sign(), dice.bell(speed));
    let mut group = bare(Kind::Pedestrian, post.paths.foot, direction, speed, dice);
    for place in 0..=dice.weighted(&p::GROUP) {
        // Side by side, more or less.
        let offset_m = if place == 0 { 0.0 } else { dice.unit() };
        group.walkers.push(Walker {
            offset_m,
            beside_m: if place == 0 { 0.0 } else { 0.6 * place as f64 },
            cadence_hz: dice.bell(cadence),
            strike_n: dice.bell(p::PERSON_N) * dice.between(p::HEEL_STRIKE),
        });
        group.sounds.push(Sound {
            offset_m,
            level_db: dice.bell(p::PERSON_DB),
        });
        group.length_m = group.length_m.max(offset_m);
    }
    group
}

fn bicycle(post: &Post, dice: &mut Dice) -> Passer {
    let (direction, speed) = (dice.sign(), dice.bell(p::BICYCLE_M_PER_S));
    let mut rider = bare(Kind::Bicycle, post.paths.cycle, direction, speed, dice);
    let load_n = dice.bell(p::BICYCLE_N) / 2.0;
    let rms = load_n * dynamic_share(speed, dice);
    rider.length_m = p::BICYCLE_WHEELBASE_M;
    rider.wheels = [0.0, p::BICYCLE_WHEELBASE_M]
        .map(|offset_m| Wheel {
            offset_m,
            load_n,
            bands: vec![(p::BICYCLE_HOP_HZ, p::BICYCLE_HOP_DAMPING, rms)],
            on_road: true,
        })
        .to_vec();
    rider.sounds.push(Sound {
        offset_m: p::BICYCLE_WHEELBASE_M / 2.0,
        level_db: dice.bell(p::BICYCLE_DB),
    });
    let moment = dice.skewed(p::BICYCLE_A_M2);
    rider.magnets.push(Magnet {
        offset_m: p::BICYCLE_WHEELBASE_M / 2.0,
        height_m: 0.6,
        moment: random_moment(moment, post, dice),
    });
    rider
}

fn car(post: &Post, dice: &mut Dice) -> Passer {
    let speed = post.limit_m_per_s * dice.bell(p::CAR_SPEED_SHARE);
    let mut car = road_vehicle(Kind::Car, post, speed, dice);
    let wheelbase = dice.between(p::CAR_WHEELBASE_M);
    let load_n = dice.skewed(p::CAR_N) / 2.0;
    // Overhang of about 0.9 m before and behind the axles.
    let offsets = [0.9, 0.9 + wheelbase];
    car.length_m = wheelbase + 1.8;
    car.wheels = road_wheels(0, &offsets, load_n, speed, dice);
    car.sounds.push(Sound {
        offset_m: car.length_m / 2.0,
        level_db: dice.bell(p::CAR_DB) + road_speed_db(0, speed),
    });
    let moment = dice.skewed(p::CAR_A_M2) / 2.0;
    // Engine and body: two dipoles over the axles share the moment.
    car.magnets = offsets
        .map(|offset_m| Magnet {
            offset_m,
            height_m: p::CAR_DIPOLE_HEIGHT_M,
            moment: random_moment(moment, post, dice),
        })
        .to_vec();
    car.front_m2 = p::CAR_FRONT_M2;
    car
}

fn truck(post: &Post, dice: &mut Dice) -> Passer {
    let speed = post.limit_m_per_s * dice.bell(p::TRUCK_SPEED_SHARE);
    let mut truck = road_vehicle(Kind::Truck, post, speed, dice);
    let mut offset_m = 1.3;
    let mut offsets = vec![offset_m];
    for _ in 0..=dice.weighted(&p::TRUCK_AXLES) {
        offset_m += dice.between(p::TRUCK_AXLE_GAP_M);
        offsets.push(offset_m);
    }
    let load_n = dice.bell(p::TRUCK_AXLE_N);
    truck.length_m = offset_m + 1.5;
    truck.wheels = road_wheels(1, &offsets, load_n, speed, dice);
    truck.sounds.push(Sound {
        // Engine and first tyres rule.
        offset_m: 2.0,
        level_db: dice.bell(p::TRUCK_DB) + road_speed_db(1, speed),
    });
    let moment = dice.skewed(p::TRUCK_A_M2_PER_AXLE);
    for offset_m in offsets {
        truck.magnets.push(Magnet {
            offset_m,
            height_m: p::TRUCK_DIPOLE_HEIGHT_M,
            moment: random_moment(moment, post, dice),
        });
    }
    truck.front_m2 = p::TRUCK_FRONT_M2;
    truck
}

fn train(post: &Post, dice: &mut Dice) -> Passer {
    let (direction, speed) = (dice.sign(), dice.bell(p::TRAIN_KM_PER_H) / 3.6);
    let mut train = bare(Kind::Train, post.paths.rail, direction, speed, dice);
    let wagons = dice.between(p::WAGONS) as usize;
    let level_db = dice.bell(p::WAGON_DB)
        + p::ROLLING_PER_DECADE_DB * (speed * 3.6 / p::RAIL_REFERENCE_KM_PER_H).log10();
    let load_n = dice.bell(p::BOGIE_N);
    let rms = load_n * dice.between(p::TRAIN_DYNAMIC_SHARE);
    let track_hz = dice.between(p::TRACK_HZ);
    train.length_m = wagons as f64 * p::WAGON_M;
    for wagon in 0..wagons {
        let middle_m = (wagon as f64 + 0.5) * p::WAGON_M;
        for offset_m in [middle_m - p::BOGIE_OFFSET_M, middle_m + p::BOGIE_OFFSET_M] {
            train.wheels.push(Wheel {
                offset_m,
                load_n,
                bands: vec![(track_hz, p::TRACK_DAMPING, rms)],
                on_road: false,
            });
        }
        train.sounds.push(Sound {
            offset_m: middle_m,
            level_db,
        });
        let moment = dice.skewed(p::WAGON_A_M2);
        train.magnets.push(Magnet {
            offset_m: middle_m,
            height_m: p::WAGON_DIPOLE_HEIGHT_M,
            moment: random_moment(moment, post, dice),
        });
    }
    train
}

/// A vehicle on one of the two lanes; those on the far lane go the other way.
fn road_vehicle(kind: Kind, post: &Post, speed: f64, dice: &mut Dice) -> Passer {
    let (path_m, direction) = if dice.chance(p::NEAR_LANE_SHARE) {
        (post.paths.near_lane, 1.0)
    } else {
        (post.paths.far_lane, -1.0)
    };
    bare(kind, path_m, direction, speed, dice)
}

/// Axles of a car (`heavy` 0) or lorry (1) with their bounce and hop.
fn road_wheels(
    heavy: usize,
    offsets: &[f64],
    load_n: f64,
    speed: f64,
    dice: &mut Dice,
) -> Vec<Wheel> {
    let rms = load_n * dynamic_share(speed, dice);
    let hop = p::HOP_SHARE[heavy];
    let bounce = (1.0 - hop * hop).sqrt();
    let bounce_hz = dice.between(p::BOUNCE_HZ[heavy]);
    let hop_hz = dice.between(p::HOP_HZ[heavy]);
    offsets
        .iter()
        .map(|&offset_m| Wheel {
            offset_m,
            load_n,
            bands: vec![
                (bounce_hz, p::BOUNCE_DAMPING, rms * bounce),
                (hop_hz, p::HOP_DAMPING, rms * hop),
            ],
            on_road: true,
        })
        .collect()
}

/// Rms of the dynamic over the static wheel force at this speed (m/s).
fn dynamic_share(speed: f64, dice: &mut Dice) -> f64 {
    dice.between(p::DYNAMIC_SHARE) * (speed * 3.6 / p::ROAD_REFERENCE_KM_PER_H).sqrt()
}

/// How much louder than at the reference speed, dB.
fn road_speed_db(heavy: usize, speed: f64) -> f64 {
    p::SOUND_PER_DECADE_DB[heavy] * (speed * 3.6 / p::ROAD_REFERENCE_KM_PER_H).log10()
}

/// A moment of this size: its direction half induced (along the Earth's field there, so mostly
/// downwards), half remanent in any direction.
fn random_moment(size: f64, post: &Post, dice: &mut Dice) -> Vector {
    let remanent = unit([0.0; 3].map(|_: f64| dice.normal()));
    unit(add(remanent, unit(post.earth_field))).map(|part| size * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(kind: Kind) -> Vec<Passer> {
        let post = Post::new(1, 1);
        let mut dice = Dice::new(1, 1, 9, 9);
        (0..300)
            .map(|_| Passer::new(kind, &post, &mut dice))
            .collect()
    }

    fn mean(passers: &[Passer], of: impl Fn(&Passer) -> f64) -> f64 {
        passers.iter().map(of).sum::<f64>() / passers.len() as f64
    }

    #[test]
    fn only_pedestrians_walk_and_only_they_have_no_steel() {
        for kind in Kind::ALL {
            let on_foot = kind == Kind::Pedestrian;
            for passer in many(kind) {
                assert_eq!(passer.walkers.is_empty(), !on_foot);
                assert_eq!(passer.magnets.is_empty(), on_foot);
                assert_eq!(passer.wheels.is_empty(), on_foot);
                assert!(!passer.sounds.is_empty() && passer.speed_m_per_s > 0.0);
            }
        }
    }

    #[test]
    fn steel_has_the_moment_that_was_drawn() {
        let moments = many(Kind::Bicycle)
            .into_iter()
            .map(|passer| passer.magnets[0].moment);
        let mut sizes: Vec<f64> = moments.map(|m| m[0].hypot(m[1]).hypot(m[2])).collect();
        sizes.sort_by(f64::total_cmp);
        let median = sizes[sizes.len() / 2];
        assert!(
            (median / p::BICYCLE_A_M2.median - 1.0).abs() < 0.2,
            "{median}"
        );
    }

    #[test]
    fn heavier_classes_are_louder_and_slower_ones_shorter() {
        let loud = Kind::ALL.map(|kind| mean(&many(kind), |passer| passer.sounds[0].level_db));
        assert!(loud.windows(2).all(|pair| pair[0] < pair[1]), "{loud:?}");
        let long = Kind::ALL.map(|kind| mean(&many(kind), |passer| passer.length_m));
        assert!(long.windows(2).all(|pair| pair[0] < pair[1]), "{long:?}");
    }

    #[test]
    fn the_trigger_catches_some_part_of_the_subject_near_the_middle() {
        let mut dice = Dice::new(2, 2, 2, 2);
        for kind in Kind::ALL {
            for mut passer in many(kind) {
                passer.trigger(2.0, &mut dice);
                let reach =
                    p::TRIGGER_HALF_WIDTH_M + p::TRIGGER_JITTER_S * passer.speed_m_per_s + 1e-9;
                let front = passer.direction * passer.x_m(0.0, 2.0);
                let rear = passer.direction * passer.x_m(passer.length_m, 2.0);
                assert!(
                    front >= -reach && rear <= reach,
                    "{kind:?} {front} {rear} {reach}"
                );
            }
        }
    }
}
