//! Means, variances and the sums behind a norm's adjoint, gathered by a team in pieces.
//!
//! Each piece's mean is taken first and its squares around it; pieces are joined by the formula of
//! Chan, Golub and LeVeque (1983), so that no large sum of squares is ever subtracted from another.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::channels::{self, tile};
use super::cpu::Cpu;
use super::element::Element;
use super::isa::Isa;
use super::view::Map;

/// Values of a piece that are looked at twice while they are in cache.
const PIECE: usize = 16 << 10;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic of one member ends the whole piece of work; what it left is never read.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Mean and sum of centred squares of each channel over some rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Moments {
    /// Rows.
    pub count: f64,
    /// `[C]`
    pub mean: Vec<f64>,
    /// `[C]`
    pub squares: Vec<f64>,
}

impl Moments {
    /// Of no rows.
    #[must_use]
    pub fn none(channels: usize) -> Self {
        Self {
            count: 0.0,
            mean: vec![0.0; channels],
            squares: vec![0.0; channels],
        }
    }

    /// Joins those of other rows.
    fn join(&mut self, count: f64, mean: impl Iterator<Item = f64>, squares: &[f64]) {
        if count == 0.0 {
            return;
        }
        let all = self.count + count;
        let (share, weight) = (count / all, self.count * count / all);
        let own = self.mean.iter_mut().zip(&mut self.squares);
        for ((m, s), (mean, squares)) in own.zip(mean.zip(squares)) {
            let apart = mean - *m;
            *m += apart * share;
            *s += squares + apart * apart * weight;
        }
        self.count = all;
    }
}

#[derive(Debug, Default)]
struct Own {
    moments: Moments,
    sums: Vec<f64>,
    squares: Vec<f64>,
    mean: Vec<f32>,
    partial: Vec<f32>,
}

/// Gathers [`Moments`] of rows that members see.
#[derive(Debug)]
pub struct Gather {
    isa: Isa,
    channels: usize,
    members: Vec<Mutex<Own>>,
}

impl Gather {
    /// For the members of this processor's team.
    #[must_use]
    pub fn new(cpu: &Cpu, channels: usize) -> Self {
        let own = || Own {
            moments: Moments::none(channels),
            ..Own::default()
        };
        Self {
            isa: cpu.isa(),
            channels,
            members: (0..cpu.team().members())
                .map(|_| Mutex::new(own()))
                .collect(),
        }
    }

    /// Adds rows seen by a member.
    ///
    /// # Shapes
    /// x `[rows, C]`
    pub fn add<T: Element>(&self, member: usize, x: &[T]) {
        let own = &mut *lock(&self.members[member]);
        let piece = (PIECE / self.channels).max(1) * self.channels;
        for x in x.chunks(piece) {
            let n = (x.len() / self.channels) as f64;
            for sums in [&mut own.sums, &mut own.squares] {
                sums.clear();
                sums.resize(self.channels, 0.0);
            }
            channels::sum(self.isa, x, &mut own.sums, &mut own.partial);
            let means: Vec<f32> = own.sums.iter().map(|s| (s / n) as f32).collect();
            tile(&means, &mut own.mean);
            let (mean, squares) = (&own.mean, &mut own.squares);
            channels::sum_centred_squares(self.isa, x, mean, squares, &mut own.partial);
            // The squares were taken around the rounded mean, the difference is of second order.
            let exact = own.sums.iter().map(|s| s / n);
            own.moments.join(n, exact, &own.squares);
        }
    }

    /// All of it, joined in the order of the members.
    #[must_use]
    pub fn total(&self) -> Moments {
        let mut all = Moments::none(self.channels);
        for own in &self.members {
            let own = &lock(own).moments;
            all.join(own.count, own.mean.iter().copied(), &own.squares);
        }
        all
    }
}

/// Sums behind the adjoint of a map: of the gradient, and of its product with the centred value.
#[derive(Debug, Default)]
struct OwnBack {
    sums: Vec<f64>,
    dots: Vec<f64>,
    partial: Vec<f32>,
    other: Vec<f32>,
}

/// Gathers, per channel, `sum of g'` and `sum of g' (z - mean)`: see
/// [`channels::sum_and_centred_dot`].
#[derive(Debug)]
pub struct GatherBack<'a> {
    isa: Isa,
    map: &'a Map,
    mean: Vec<f32>,
    members: Vec<Mutex<OwnBack>>,
}

impl<'a> GatherBack<'a> {
    /// Around `mean` `[C]`.
    #[must_use]
    pub fn new(cpu: &Cpu, map: &'a Map, mean: &[f32]) -> Self {
        let own = || OwnBack {
            sums: vec![0.0; mean.len()],
            dots: vec![0.0; mean.len()],
            ..OwnBack::default()
        };
        let mut tiled = Vec::new();
        tile(mean, &mut tiled);
        Self {
            isa: cpu.isa(),
            map,
            mean: tiled,
            members: (0..cpu.team().members())
                .map(|_| Mutex::new(own()))
                .collect(),
        }
    }

    /// Adds rows of sample `sample` seen by a member. Without `z` (a map that does not cut) the
    /// gradient alone is summed.
    ///
    /// # Shapes
    /// g, z `[rows, C]`
    pub fn add<T: Element>(&self, member: usize, sample: usize, g: &[T], z: &[T]) {
        let own = &mut *lock(&self.members[member]);
        if z.is_empty() {
            channels::sum(self.isa, g, &mut own.sums, &mut own.partial);
            return;
        }
        channels::sum_and_centred_dot(
            self.isa,
            (g, z),
            (self.map, sample),
            &self.mean,
            &mut own.sums,
            &mut own.dots,
            &mut own.partial,
            &mut own.other,
        );
    }

    /// `(sums, dots)`, added in the order of the members.
    #[must_use]
    pub fn total(&self) -> (Vec<f64>, Vec<f64>) {
        let channels = lock(&self.members[0]).sums.len();
        let (mut sums, mut dots) = (vec![0.0; channels], vec![0.0; channels]);
        for own in &self.members {
            let own = lock(own);
            for (all, s) in sums.iter_mut().zip(&own.sums) {
                *all += s;
            }
            for (all, d) in dots.iter_mut().zip(&own.dots) {
                *all += d;
            }
        }
        (sums, dots)
    }
}

/// Calls `f(member, range)` for shares of `0..rows` rows, as the team works: the ranges are of
/// values, `channels` to a row.
pub fn by_rows(cpu: &Cpu, rows: usize, channels: usize, f: impl Fn(usize, Range<usize>) + Sync) {
    cpu.split(rows * channels, rows, |member, rows| {
        f(member, rows.start * channels..rows.end * channels);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_to_the_moments_of_everything() {
        for threads in [1, 3] {
            let (cpu, channels, rows) = (Cpu::new(threads), 5, 9001);
            // A large mean beside a small spread is what goes wrong first.
            let x: Vec<f32> = (0..rows * channels)
                .map(|i| 1000.0 + (i % 7) as f32 * 0.125 + (i % channels) as f32)
                .collect();
            let gather = Gather::new(&cpu, channels);
            by_rows(&cpu, rows, channels, |member, range| {
                gather.add(member, &x[range])
            });
            let got = gather.total();
            assert_eq!(got.count, rows as f64);
            for c in 0..channels {
                let column = || x.iter().skip(c).step_by(channels).map(|v| f64::from(*v));
                let mean = column().sum::<f64>() / rows as f64;
                let squares: f64 = column().map(|v| (v - mean).powi(2)).sum();
                assert!((got.mean[c] - mean).abs() < 1e-5, "{} {mean}", got.mean[c]);
                assert!(
                    (got.squares[c] / squares - 1.0).abs() < 1e-4,
                    "{} {squares}",
                    got.squares[c]
                );
            }
        }
    }
}
