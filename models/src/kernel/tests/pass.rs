//! Views, and passes over whole values.

use half::bf16;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::kernel::pass::{self, Extent};
use crate::kernel::view::{Back, Map, View};

/// How a value is read.
#[derive(Debug, Clone, Copy)]
enum Reading {
    Plain,
    Mapped,
    Still,
    Following,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    extent: Extent,
    reading: Reading,
    per_sample: bool,
    /// Where the map cuts above, if it cuts.
    high: Option<f32>,
    salt: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let readings = vec![
        Reading::Plain,
        Reading::Mapped,
        Reading::Still,
        Reading::Following,
    ];
    let high = vec![None, Some(0.5), Some(f32::INFINITY)];
    (
        (1..4_usize, length(), size()),
        select(readings),
        any::<bool>(),
        select(high),
        0..1000_u64,
    )
        .prop_map(
            |((batch, values, channels), reading, per_sample, high, salt)| Case {
                extent: Extent {
                    batch,
                    positions: (values / batch / channels).max(1),
                    channels,
                },
                reading,
                per_sample,
                high,
                salt,
            },
        )
}

fn cut(u: f32, high: Option<f32>) -> f32 {
    match high {
        Some(_) if u < 0.0 => 0.0,
        Some(high) if u > high => high,
        _ => u,
    }
}

/// What a view of a [`Case`] stands on.
struct Source<T> {
    case: Case,
    data: Vec<T>,
    grad: Vec<T>,
    map: Map,
    back: Back,
}

impl<T: Element> Source<T> {
    fn of(case: Case) -> Self {
        let (n, channels) = (case.extent.len(), case.extent.channels);
        let samples = if case.per_sample {
            case.extent.batch
        } else {
            1
        };
        let map = Map::affine(channels, samples, |s, c| (wave(s, c, 0), wave(s, c, 5)));
        let map = case.high.map_or(map.clone(), |high| map.rectified(high));
        assert_eq!(map.is_per_sample(), samples > 1);
        assert_eq!(map.rectifies(), case.high.is_some());
        let back = match case.reading {
            Reading::Following => Back::following(channels, samples, |s, c| {
                (wave(s, c, 2), wave(s, c, 3), wave(s, c, 4))
            }),
            _ => Back::still(channels, |c| wave(0, c, 2)),
        };
        Self {
            case,
            data: narrow(&rough(n, case.salt)),
            grad: narrow(&rough(n, case.salt + 1)),
            map,
            back,
        }
    }

    fn view(&self) -> View<'_, T> {
        let needless = matches!(self.case.reading, Reading::Still) && self.case.high.is_none();
        match self.case.reading {
            Reading::Plain => View::Plain(&self.data),
            Reading::Mapped => View::Mapped {
                data: &self.data,
                map: &self.map,
            },
            Reading::Still | Reading::Following => View::Back {
                grad: &self.grad,
                data: if needless { &[] } else { &self.data },
                map: &self.map,
                back: &self.back,
            },
        }
    }

    /// The value at `i` by the formula.
    fn at(&self, i: usize) -> f32 {
        let extent = self.case.extent;
        let (c, sample) = (
            i % extent.channels,
            i / (extent.positions * extent.channels),
        );
        let s = if self.case.per_sample { sample } else { 0 };
        let (z, g) = (self.data[i].widen(), self.grad[i].widen());
        let u = z * wave(s, c, 0) + wave(s, c, 5);
        let passes = match self.case.high {
            Some(high) => u > 0.0 && u < high,
            None => u.is_finite(),
        };
        match self.case.reading {
            Reading::Plain => z,
            Reading::Mapped => cut(u, self.case.high),
            Reading::Still if passes || self.case.high.is_none() => g * wave(0, c, 2),
            Reading::Still => 0.0,
            Reading::Following => {
                let g = if passes { g } else { 0.0 };
                g * wave(s, c, 2) - z * wave(s, c, 3) - wave(s, c, 4)
            }
        }
    }

    fn all(&self) -> Vec<f32> {
        (0..self.case.extent.len()).map(|i| self.at(i)).collect()
    }
}

fn rounded<T: Element>(values: impl Iterator<Item = f32>) -> Vec<f32> {
    values.map(|v| T::narrow(v).widen()).collect()
}

fn reads<T: Element>(case: Case, first: usize, count: usize) {
    let source = Source::<T>::of(case);
    let Extent {
        batch,
        positions,
        channels,
    } = case.extent;
    let view = source.view();
    assert_eq!(view.len(), case.extent.len());
    for sample in 0..batch {
        let first = first % positions;
        let count = count.min(positions - first);
        let at = (sample * positions + first) * channels;
        let got = by_every_set("read", |isa| {
            let mut out = vec![7.0; count * channels];
            isa.run(
                #[inline(always)]
                || view.read(sample, at, &mut out),
            );
            out
        });
        let want: Vec<f32> = (at..at + count * channels).map(|i| source.at(i)).collect();
        assert_same("read", &got, &want);
    }
}

fn makes<T: Element, O: Element>(case: Case) {
    let source = Source::<T>::of(case);
    let got = by_every_cpu("make", |cpu| {
        let mut out = narrow::<O>(&vec![7.0; case.extent.len()]);
        pass::make(cpu, case.extent, source.view(), &mut out);
        widen(&out)
    });
    assert_same("make", &got, &rounded::<O>(source.all().into_iter()));
}

fn adds<T: Element>(case: Case, other: Reading, most: Option<f32>) {
    let a = Source::<T>::of(case);
    let b = Source::<T>::of(Case {
        reading: other,
        salt: case.salt + 7,
        ..case
    });
    let got = by_every_cpu("sum", |cpu| {
        let mut out = narrow::<T>(&vec![7.0; case.extent.len()]);
        pass::sum(cpu, case.extent, (a.view(), b.view()), most, &mut out);
        widen(&out)
    });
    let (all, other) = (a.all(), b.all());
    let want = all.iter().zip(&other).map(|(a, b)| cut(a + b, most));
    assert_same("sum", &got, &rounded::<T>(want));
}

fn finishes<T: Element>(case: Case, first: usize, most: Option<f32>) {
    let Extent {
        batch,
        positions,
        channels,
    } = case.extent;
    let source = Source::<T>::of(case);
    let samples = if case.per_sample { batch } else { 1 };
    let map = Map::affine(channels, samples, |s, c| (wave(s, c, 8), wave(s, c, 9)));
    let old = narrow::<T>(&rough(case.extent.len(), case.salt + 3));
    for other in [None, Some(source.view())] {
        for sample in 0..batch {
            let at = (sample * positions + first % positions) * channels;
            let range = at..(sample + 1) * positions * channels;
            let got = by_every_cpu("finish", |cpu| {
                let mut y = old[range.clone()].to_vec();
                pass::finish(cpu, sample, at, &mut y, &map, other, most);
                widen(&y)
            });
            let want = range.map(|i| {
                let (s, c) = (if case.per_sample { sample } else { 0 }, i % channels);
                let y = old[i].widen() * wave(s, c, 8) + wave(s, c, 9);
                cut(other.map_or(y, |_| y + source.at(i)), most)
            });
            assert_same("finish", &got, &rounded::<T>(want));
        }
    }
}

fn walks<T: Element, O: Element>(n: usize, salt: u64, most: f32) {
    let (a, b) = (
        narrow::<T>(&rough(n, salt)),
        narrow::<T>(&rough(n, salt + 1)),
    );
    let pairs = || a.iter().map(|a| a.widen()).zip(b.iter().map(|b| b.widen()));
    let got = by_every_cpu("mask", |cpu| {
        let mut g = b.clone();
        pass::mask_all(cpu, &a, most, &mut g);
        widen(&g)
    });
    let want = pairs().map(|(y, g)| if y > 0.0 && y < most { g } else { 0.0 });
    assert_same("mask", &got, &want.collect::<Vec<_>>());
    let alone = by_every_set("mask of some", |isa| {
        let mut g = b.clone();
        pass::mask(isa, &a, most, &mut g);
        widen(&g)
    });
    assert_same("mask of some", &alone, &got);
    let got = by_every_cpu("accumulate", |cpu| {
        let mut to = b.clone();
        pass::accumulate(cpu, &a, &mut to);
        widen(&to)
    });
    assert_same(
        "accumulate",
        &got,
        &rounded::<T>(pairs().map(|(a, b)| b + a)),
    );
    let got = by_every_cpu("convert", |cpu| {
        let mut to = narrow::<O>(&vec![7.0; n]);
        pass::convert(cpu, &a, &mut to);
        widen(&to)
    });
    assert_same("convert", &got, &rounded::<O>(pairs().map(|(a, _)| a)));
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn views_read_what_their_formulas_say(case in case(), first in 0..5000_usize, count in 1..200_usize) {
        reads::<f32>(case, first, count);
        reads::<bf16>(case, first, count);
    }

    #[test]
    fn views_are_made_into_any_type(case in case()) {
        makes::<f32, f32>(case);
        makes::<f32, bf16>(case);
        makes::<bf16, f32>(case);
        makes::<bf16, bf16>(case);
    }

    #[test]
    fn sums_of_views_are_rectified(
        case in case(),
        other in select(vec![Reading::Plain, Reading::Mapped]),
        most in select(vec![None, Some(0.5), Some(f32::INFINITY)]),
    ) {
        adds::<f32>(case, other, most);
        adds::<bf16>(case, other, most);
    }

    #[test]
    fn products_are_finished_in_place(
        case in case(),
        first in 0..5000_usize,
        most in select(vec![None, Some(0.5), Some(f32::INFINITY)]),
    ) {
        finishes::<f32>(case, first, most);
        finishes::<bf16>(case, first, most);
    }

    #[test]
    fn masks_sums_and_conversions_go_over_everything(
        n in length(),
        salt in 0..1000_u64,
        most in select(vec![0.5, f32::INFINITY]),
    ) {
        walks::<f32, bf16>(n, salt, most);
        walks::<bf16, f32>(n, salt, most);
        walks::<f32, f32>(n, salt, most);
    }

    /// Maps after a shift, the map that changes nothing, and channels summed through a view.
    #[test]
    fn channels_are_summed_through_a_view(case in case()) {
        let Extent { channels, batch, positions } = case.extent;
        let values = noise(case.extent.len(), case.salt);
        let before: Vec<f32> = (0..channels).map(|c| wave(1, c, 2)).collect();
        let shifted = Map::identity(channels).after_shift(&before);
        let mut want = vec![0.0; channels];
        for (i, v) in values.iter().enumerate() {
            want[i % channels] += f64::from(*v);
        }
        let shift = |c: usize| (batch * positions) as f64 * f64::from(before[c]);
        let moved: Vec<f64> = (0..channels).map(|c| want[c] + shift(c)).collect();
        for cpu in cpus() {
            let plain = pass::channel_sums(cpu, case.extent, View::Plain(&values));
            assert_equal("channel_sums", &plain, &want);
            let half = narrow::<bf16>(&values);
            let mapped = View::Mapped { data: &half, map: &shifted };
            assert_equal("mapped", &pass::channel_sums(cpu, case.extent, mapped), &moved);
        }
    }
}
