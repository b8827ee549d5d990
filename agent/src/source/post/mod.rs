//! `builtin:post`: simulated lamp posts. **Nothing here was measured.**
//!
//! Every post has a mast with its own bending modes, a sensor box mounted by hand, soil, lanes,
//! weather and traffic of its own; pedestrians, bicycles, cars, trucks and trains pass and shake
//! the ground, make sound and carry steel past its magnetometer. A window is 4 s at 32 Hz of
//! seven channels. Windows come in the order of time, the held-out ones after the ones to train
//! on, while temperature, wind and the street's background go their daily way.
//!
//! Left out on purpose: wrong labels, lost samples, clock drift, rain, several passers of equal
//! weight.
//!
//! Reading order: `parameters` (every number with its reason), `identity` (one post), `passage`
//! (one passer), `physics` (the laws), `window` (what the sensor makes of it), `dice` (chance).
//!
//! All draws come from ChaCha8 streams named by seed, post, purpose and window, so a node's data
//! is the same on every start; the last bit may differ between platforms whose mathematical
//! library rounds `sin`, `exp` or `ln` differently.

mod dice;
mod identity;
mod parameters;
mod passage;
mod physics;
mod window;

use lamplight_models::samples::Samples;

use self::dice::Dice;
use self::identity::Post;
use self::passage::{Kind, draw_scene};
use super::spec::{Keep, PostChoice, PostSpec, Split};
use super::{SampleSource, SourceError, SourceInfo};

/// Class names in label order.
pub const CLASSES: [&str; 5] = parameters::CLASSES;
/// Channel names with units, in the order of a window's rows.
pub const CHANNELS: [&str; 7] = [
    "acc_x [m/s^2]",
    "acc_y [m/s^2]",
    "acc_z [m/s^2]",
    "sound_level [dB(A)]",
    "mag_x [uT]",
    "mag_y [uT]",
    "mag_z [uT]",
];
/// Windows to train on per post, unless the specification says otherwise.
pub const DEFAULT_TRAIN: usize = parameters::DEFAULT_TRAIN;
/// Held-out windows per post, unless the specification says otherwise.
pub const DEFAULT_HELD_OUT: usize = parameters::DEFAULT_HELD_OUT;
/// Length of the record in hours, unless the specification says otherwise.
pub const DEFAULT_HOURS: f64 = parameters::DEFAULT_HOURS;

/// Indices of the cloud's posts begin here; a node's stay far below, so no post is both.
const FIRST_CLOUD_POST: u64 = 1 << 32;
/// Purposes of streams; identity has 0.
const ORDER_OF_TRAIN: u64 = 1;
const ORDER_OF_HELD_OUT: u64 = 2;
const WINDOW: u64 = 3;

/// A part of a post's record, `(order, first, count)`: windows `first..first + count`, whose classes the
/// stream of purpose `order` puts in order.
type Part = (u64, usize, usize);

/// The simulated posts a specification names.
#[derive(Debug)]
pub struct PostSource {
    posts: Vec<Post>,
    spec: PostSpec,
    keep: Keep,
}

impl PostSource {
    /// Draws the posts; windows are made when they are asked for.
    #[must_use]
    pub fn new(spec: PostSpec, keep: Keep) -> Self {
        let posts = match spec.post {
            PostChoice::One(index) => vec![Post::new(spec.seed, u64::from(index))],
            PostChoice::Cloud { posts } => (0..u64::from(posts))
                .map(|place| Post::new(spec.seed, FIRST_CLOUD_POST + place))
                .collect(),
        };
        Self { posts, spec, keep }
    }

    /// Parts of each post's record, post after post.
    fn windows(&self, parts: &[Part]) -> Samples {
        let mut samples = Samples {
            shape: vec![CHANNELS.len(), parameters::WINDOW],
            classes: CLASSES.iter().map(ToString::to_string).collect(),
            ..Samples::default()
        };
        let total = (self.spec.train + self.spec.held_out) as f64;
        for post in &self.posts {
            for &(order, first, count) in parts {
                let mut kinds = quota(&post.mix, count);
                Dice::new(post.seed, post.index, order, 0).shuffle(&mut kinds);
                for (place, kind) in kinds.into_iter().enumerate() {
                    if !self.keep.class(kind as usize) {
                        continue;
                    }
                    let number = first + place;
                    let mut dice = Dice::new(post.seed, post.index, WINDOW, number as u64);
                    let hour = self.spec.hours * (number as f64 + dice.unit()) / total;
                    let middle_s = parameters::WINDOW as f64 / parameters::SAMPLING_RATE_HZ / 2.0;
                    let scene = draw_scene(kind, post, middle_s, &mut dice);
                    samples
                        .x
                        .extend(window::record(post, &scene, hour, &mut dice));
                    samples.y.push(kind as u32);
                }
            }
        }
        samples
    }

    /// How many windows [`Self::windows`] makes of these parts.
    fn count(&self, parts: &[Part]) -> usize {
        let kept = |post: &Post, count: usize| {
            let kinds = quota(&post.mix, count).into_iter();
            kinds.filter(|&kind| self.keep.class(kind as usize)).count()
        };
        let counts = parts.iter().map(|&(_, _, count)| count);
        let each = |post| counts.clone().map(|count| kept(post, count)).sum::<usize>();
        self.posts.iter().map(each).sum()
    }

    /// The parts to train on, and those held out.
    fn parts(&self) -> (Vec<Part>, Vec<Part>) {
        let train = (ORDER_OF_TRAIN, 0, self.spec.train);
        let held_out = (ORDER_OF_HELD_OUT, self.spec.train, self.spec.held_out);
        match self.keep.split {
            Split::InTime => (vec![train], vec![held_out]),
            Split::All => (Vec::new(), vec![train, held_out]),
        }
    }
}

impl SampleSource for PostSource {
    fn describe(&self) -> SourceInfo {
        let who = match self.spec.post {
            PostChoice::One(index) => format!("post {index}"),
            PostChoice::Cloud { posts } => format!("{posts} cloud posts"),
        };
        SourceInfo {
            channels: CHANNELS.iter().map(ToString::to_string).collect(),
            sampling_rate_hz: Some(parameters::SAMPLING_RATE_HZ),
            image: None,
            window: vec![CHANNELS.len(), parameters::WINDOW],
            classes: CLASSES.iter().map(ToString::to_string).collect(),
            origin: format!(
                "simulated lamp posts, {who}, seed {}, {} hours",
                self.spec.seed, self.spec.hours
            ),
            simulated: true,
        }
    }

    fn counts(&self) -> (usize, usize) {
        let (train, held_out) = self.parts();
        (self.count(&train), self.count(&held_out))
    }

    fn train(&self) -> Result<Samples, SourceError> {
        Ok(self.windows(&self.parts().0))
    }

    fn held_out(&self) -> Result<Samples, SourceError> {
        Ok(self.windows(&self.parts().1))
    }
}

/// `count` classes in proportion to `mix`, by largest remainder; with five or more windows every
/// class has at least one, taken from the most frequent.
fn quota(mix: &[f64; 5], count: usize) -> Vec<Kind> {
    let exact = mix.map(|share| share * count as f64);
    let mut counts = exact.map(|e| e.floor() as usize);
    let mut by_remainder = [0, 1, 2, 3, 4];
    by_remainder.sort_by(|&a, &b| {
        let rest = |i: usize| exact[i] - exact[i].floor();
        rest(b).total_cmp(&rest(a)).then(a.cmp(&b))
    });
    let missing = count.saturating_sub(counts.iter().sum());
    for place in 0..missing {
        counts[by_remainder[place % 5]] += 1;
    }
    if count >= counts.len() {
        while let Some(empty) = counts.iter().position(|&c| c == 0) {
            let most = (0..counts.len()).max_by_key(|&i| counts[i]).unwrap_or(0);
            counts[most] -= 1;
            counts[empty] += 1;
        }
    }
    Kind::ALL
        .into_iter()
        .zip(counts)
        .flat_map(|(kind, n)| std::iter::repeat_n(kind, n))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn source(spec: &str) -> Box<dyn SampleSource> {
        let spec: super::super::SourceSpec = spec.parse().expect("a valid spec");
        spec.open().expect("the simulator opens")
    }

    fn counts(samples: &Samples) -> [usize; 5] {
        let mut counts = [0; 5];
        for &class in &samples.y {
            counts[class as usize] += 1;
        }
        counts
    }

    #[test]
    fn the_same_spec_gives_the_same_windows() {
        let spec = "builtin:post?post=3&seed=7&train=20&held_out=10";
        let (a, b) = (source(spec), source(spec));
        assert_eq!(a.train().expect("train"), b.train().expect("train"));
        assert_eq!(
            a.held_out().expect("held out"),
            b.held_out().expect("held out")
        );
    }

    #[test]
    fn another_post_or_another_seed_gives_other_windows() {
        let one = source("builtin:post?post=3&seed=7&train=20&held_out=10");
        for other in ["post=4&seed=7", "post=3&seed=8"] {
            let other = source(&format!("builtin:post?{other}&train=20&held_out=10"));
            assert_ne!(
                one.train().expect("train").x,
                other.train().expect("train").x
            );
        }
    }

    #[test]
    fn a_default_post_is_made_quickly_with_every_class_in_both_parts() {
        let start = Instant::now();
        let post = source("builtin:post?post=0&seed=1");
        let (train, held) = (post.train().expect("train"), post.held_out().expect("held"));
        assert_eq!((train.len(), held.len()), (240, 120));
        assert_eq!(train.x.len(), 240 * 7 * 128);
        assert!(train.x.iter().chain(&held.x).all(|v| v.is_finite()));
        assert!(counts(&train).iter().all(|&c| c > 0));
        assert!(counts(&held).iter().all(|&c| c > 0));
        // A tenth of this in release; tests run unoptimized on a shared machine.
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }

    #[test]
    fn class_counts_follow_the_posts_own_traffic_mix() {
        for index in 0..6 {
            let mix = Post::new(5, index).mix;
            let spec = format!("builtin:post?post={index}&seed=5&train=100&held_out=5");
            let counts = counts(&source(&spec).train().expect("train"));
            for (class, share) in mix.iter().enumerate() {
                assert!((counts[class] as f64 - 100.0 * share).abs() <= 1.0);
            }
        }
    }

    #[test]
    fn five_windows_hold_five_classes_and_fewer_hold_what_they_can() {
        let mix = [0.90, 0.04, 0.03, 0.02, 0.01];
        assert_eq!(quota(&mix, 5).len(), 5);
        assert!(Kind::ALL.iter().all(|kind| quota(&mix, 5).contains(kind)));
        assert_eq!(quota(&mix, 2), vec![Kind::Pedestrian, Kind::Pedestrian]);
        assert!(quota(&mix, 0).is_empty());
    }

    #[test]
    fn keeping_some_classes_leaves_the_class_list_and_the_windows_as_they_are() {
        let all = source("builtin:post?post=1&train=30&held_out=15")
            .train()
            .expect("train");
        let some = source("builtin:post?post=1&train=30&held_out=15&classes=TRUCK,TRAIN")
            .train()
            .expect("train");
        assert_eq!(some.classes, all.classes);
        let kept: Vec<usize> = (0..all.len()).filter(|&i| all.y[i] >= 3).collect();
        assert_eq!(some, all.select(&kept));
    }

    #[test]
    fn split_all_holds_every_window_out() {
        let both = source("builtin:post?post=1&train=12&held_out=6");
        let all = source("builtin:post?post=1&train=12&held_out=6&split=all");
        assert!(all.train().expect("train").is_empty());
        let held = all.held_out().expect("held out");
        let (train, rest) = (both.train().expect("train"), both.held_out().expect("held"));
        assert_eq!(held.x, [train.x, rest.x].concat());
        assert_eq!(held.y, [train.y, rest.y].concat());
    }

    #[test]
    fn cloud_posts_are_nobodys_posts() {
        let cloud = source("builtin:post?post=cloud&posts=3&train=10&held_out=5");
        let train = cloud.train().expect("train");
        assert_eq!(train.len(), 30);
        for index in 0..3 {
            let node = source(&format!("builtin:post?post={index}&train=10&held_out=5"));
            let node = node.train().expect("train");
            assert!((0..10).all(|i| (0..30).all(|j| node.sample(i) != train.sample(j))));
        }
    }
}
