//! Repeats, and what they say together.

use serde::Serialize;

use super::BenchError;

/// A repeat takes at least this long, unless one step does: short ones say more of the clock and of
/// the scheduler than of the work.
const REPEAT_SECONDS: f64 = 0.3;

/// Something that runs steps when asked.
pub trait Side {
    /// Runs so many steps and says how long they took.
    ///
    /// # Errors
    /// [`BenchError`] when a step fails.
    fn seconds(&mut self, steps: usize) -> Result<f64, BenchError>;

    /// Processor time used so far, where the system tells.
    fn cpu_seconds(&self) -> Option<f64>;
}

/// Steps that a repeat of this side takes.
///
/// # Errors
/// [`BenchError`] when a step fails.
pub fn steps_of_a_repeat(side: &mut dyn Side) -> Result<usize, BenchError> {
    let one = side.seconds(1)?;
    // Again over some steps, for the first one may have been slow.
    let few = steps_within(one, REPEAT_SECONDS / 4.0);
    let one = side.seconds(few)? / few as f64;
    Ok(steps_within(one, REPEAT_SECONDS))
}

/// Steps of this length that fill a time, at least one.
fn steps_within(one: f64, seconds: f64) -> usize {
    // A clock that stood still must not make it forever.
    (seconds / one.max(1e-6)).ceil().max(1.0) as usize
}

/// Rates of the repeats of one side, in images per second.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rates {
    rates: Vec<f64>,
    images: f64,
    /// Processor seconds of all repeats; `None` once the system did not tell.
    cpu: Option<f64>,
}

/// Of several numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// The one in the middle, or the mean of the two there.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Rates {
    /// Times one repeat and answers its rate.
    ///
    /// # Errors
    /// [`BenchError`] when a step fails.
    pub fn time(
        &mut self,
        side: &mut dyn Side,
        steps: usize,
        batch: usize,
    ) -> Result<f64, BenchError> {
        let before = side.cpu_seconds();
        let seconds = side.seconds(steps)?;
        let spent = side.cpu_seconds().zip(before).map(|(now, then)| now - then);
        Ok(self.record((steps * batch) as f64, seconds, spent))
    }

    /// Takes in a repeat of so many images.
    pub fn record(&mut self, images: f64, seconds: f64, cpu: Option<f64>) -> f64 {
        let rate = images / seconds.max(1e-9);
        self.cpu = match (self.rates.is_empty(), self.cpu, cpu) {
            (true, _, cpu) => cpu,
            (false, sum, cpu) => sum.zip(cpu).map(|(sum, cpu)| sum + cpu),
        };
        self.rates.push(rate);
        self.images += images;
        rate
    }

    /// Images per second; zeros without repeats.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut sorted = self.rates.clone();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let at = |i: usize| sorted.get(i).copied().unwrap_or(0.0);
        Summary {
            median: f64::midpoint(at(n / 2), at(n.saturating_sub(1) / 2)),
            min: at(0),
            max: at(n.saturating_sub(1)),
        }
    }

    /// Images per second of processor time, over all repeats: what other programs on the machine take
    /// away slows the clock on the wall, not this one. `None` where the system does not tell.
    #[must_use]
    pub fn per_cpu_second(&self) -> Option<f64> {
        let cpu = self.cpu.filter(|&cpu| cpu > 0.0)?;
        Some(self.images / cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes what it was told for each step.
    struct Clockwork {
        step: f64,
        asked: Vec<usize>,
    }

    impl Side for Clockwork {
        fn seconds(&mut self, steps: usize) -> Result<f64, BenchError> {
            self.asked.push(steps);
            Ok(self.step * steps as f64)
        }
        fn cpu_seconds(&self) -> Option<f64> {
            let steps: usize = self.asked.iter().sum();
            Some(2.0 * self.step * steps as f64)
        }
    }

    #[test]
    fn a_repeat_fills_its_time_or_is_one_step() {
        for (step, steps) in [(0.1, 3), (0.01, 30), (0.299, 2), (5.0, 1)] {
            let mut side = Clockwork {
                step,
                asked: Vec::new(),
            };
            assert_eq!(steps_of_a_repeat(&mut side).expect("steps"), steps);
        }
        let mut stopped = Clockwork {
            step: 0.0,
            asked: Vec::new(),
        };
        assert!(steps_of_a_repeat(&mut stopped).expect("steps") <= 1_000_000);
    }

    #[test]
    fn the_median_is_the_middle_and_not_moved_by_an_outlier() {
        let of = |rates: &[f64]| {
            let rates = Rates {
                rates: rates.to_vec(),
                ..Rates::default()
            };
            let s = rates.summary();
            [s.median, s.min, s.max]
        };
        assert_eq!(of(&[3.0, 1.0, 900.0]), [3.0, 1.0, 900.0]);
        assert_eq!(of(&[4.0, 2.0, 1.0, 3.0]), [2.5, 1.0, 4.0]);
        assert_eq!(of(&[7.0]), [7.0; 3]);
        assert_eq!(of(&[]), [0.0; 3]);
    }

    #[test]
    fn rates_count_images_by_the_wall_and_by_the_processor() {
        let mut side = Clockwork {
            step: 0.5,
            asked: Vec::new(),
        };
        let mut rates = Rates::default();
        assert_eq!(rates.time(&mut side, 4, 8).expect("timed"), 16.0);
        rates.time(&mut side, 4, 8).expect("timed");
        assert_eq!(rates.summary().median, 16.0);
        assert_eq!(rates.per_cpu_second(), Some(8.0));
        rates.record(10.0, 1.0, None);
        assert_eq!(rates.per_cpu_second(), None);
        assert_eq!(Rates::default().per_cpu_second(), None);
    }
}
