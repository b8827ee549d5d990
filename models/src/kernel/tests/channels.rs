//! Sums per channel, moments, and the sums behind a norm's adjoint.

use half::bf16;
use proptest::prelude::*;

use super::*;
use crate::kernel::channels::{self, tile, tile_len};
use crate::kernel::moments::{Gather, GatherBack, by_rows};
use crate::kernel::view::Map;

/// Rows of channels; one in five is worth a team.
fn rows_of_channels() -> impl Strategy<Value = (usize, usize)> {
    (length(), size()).prop_map(|(values, channels)| (values / channels, channels))
}

/// A value per channel, repeated as kernels want it.
fn tiled(channels: usize, purpose: usize) -> Vec<f32> {
    let mut all = Vec::new();
    let one: Vec<f32> = (0..channels).map(|c| wave(0, c, purpose)).collect();
    tile(&one, &mut all);
    assert_eq!(all.len(), tile_len(channels));
    assert!(all.iter().enumerate().all(|(i, v)| *v == one[i % channels]));
    all
}

/// Per channel, the sum of what `f(index)` makes.
fn summed(values: usize, channels: usize, f: impl Fn(usize) -> f64) -> Vec<f64> {
    let mut sums = vec![0.0; channels];
    for i in 0..values {
        sums[i % channels] += f(i);
    }
    sums
}

/// A map of the kinds networks have.
fn map(channels: usize, samples: usize, high: Option<f32>) -> Map {
    let map = Map::affine(channels, samples, |s, c| (wave(s, c, 1), wave(s, c, 6)));
    high.map_or(map.clone(), |high| map.rectified(high))
}

/// Whether a map of [`map`] lets the gradient of `z` pass.
fn passes(z: f32, sample: usize, channel: usize, high: Option<f32>) -> bool {
    let u = z * wave(sample, channel, 1) + wave(sample, channel, 6);
    let (low, high) = high.map_or((f32::NEG_INFINITY, f32::INFINITY), |h| (0.0, h));
    u > low && u < high
}

fn sums<T: Element>((rows, channels): (usize, usize), x: &[f32]) {
    let x = narrow::<T>(x);
    let value = |i: usize| f64::from(x[i].widen());
    let mean = tiled(channels, 2);
    let centred = |i: usize| value(i) - f64::from(mean[i % channels]);
    for &isa in Isa::available() {
        // What is there counts.
        let (mut got, mut squares) = (vec![0.5; channels], vec![0.5; channels]);
        let mut partial = vec![9.0; 3];
        channels::sum(isa, &x, &mut got, &mut partial);
        channels::sum_centred_squares(isa, &x, &mean, &mut squares, &mut partial);
        let plus = |sums: Vec<f64>| sums.iter().map(|s| s + 0.5).collect::<Vec<_>>();
        let want = plus(summed(rows * channels, channels, value));
        assert_equal("sum", &got, &want);
        let want = plus(summed(rows * channels, channels, |i| centred(i).powi(2)));
        assert_equal("squares", &squares, &want);
    }
    let shift = tiled(channels, 4);
    let got = by_every_set("add", |isa| {
        let mut y = x.clone();
        channels::add(isa, &mut y, &shift);
        widen(&y)
    });
    let want = (0..x.len()).map(|i| T::narrow(x[i].widen() + shift[i % channels]).widen());
    assert_same("add", &got, &want.collect::<Vec<_>>());
}

/// Over all samples, by every set and team, and of one sample by the kernel below.
fn back<T: Element>(
    (rows, channels): (usize, usize),
    samples: usize,
    high: Option<f32>,
    g: &[f32],
    z: &[f32],
) {
    let (g, z) = (narrow::<T>(g), narrow::<T>(z));
    let each = rows * channels;
    for per_sample in [1, samples] {
        let map = map(channels, per_sample, high);
        let mean: Vec<f32> = (0..channels).map(|c| wave(0, c, 2)).collect();
        let passed = |i: usize| {
            let sample = if per_sample > 1 { i / each } else { 0 };
            let pass = passes(z[i].widen(), sample, i % channels, high);
            if pass { f64::from(g[i].widen()) } else { 0.0 }
        };
        let centred = |i: usize| f64::from(z[i].widen()) - f64::from(mean[i % channels]);
        let want_sums = summed(z.len(), channels, passed);
        let want_dots = summed(z.len(), channels, |i| passed(i) * centred(i));
        for cpu in cpus() {
            let gather = GatherBack::new(cpu, &map, &mean);
            for sample in 0..samples {
                by_rows(cpu, rows, channels, |member, range| {
                    let range = sample * each + range.start..sample * each + range.end;
                    gather.add(member, sample, &g[range.clone()], &z[range]);
                });
            }
            let (sums, dots) = gather.total();
            assert_equal("sums", &sums, &want_sums);
            assert_equal("dots", &dots, &want_dots);
        }
        if high.is_none() {
            let gather = GatherBack::new(&cpus()[0], &map, &mean);
            gather.add(0, 0, &g, &[]);
            let (sums, dots) = gather.total();
            let all = summed(g.len(), channels, |i| f64::from(g[i].widen()));
            assert_equal("sums without a value", &sums, &all);
            assert!(dots.iter().all(|d| *d == 0.0));
        }
    }
}

fn moments<T: Element>((rows, channels): (usize, usize), x: &[f32], pieces: usize) {
    let x = narrow::<T>(x);
    let value = |i: usize| f64::from(x[i].widen());
    let count = rows as f64;
    let mean = summed(x.len(), channels, |i| value(i) / count);
    let squares = summed(x.len(), channels, |i| {
        (value(i) - mean[i % channels]).powi(2)
    });
    let check = |gather: &Gather, what: &str| {
        let got = gather.total();
        assert_eq!(got.count, count, "{what}");
        for c in 0..channels {
            let apart = (got.mean[c] - mean[c]).abs();
            assert!(apart <= 1e-6 * (1.0 + mean[c].abs()), "{what}: {apart:e}");
            let apart = (got.squares[c] - squares[c]).abs();
            assert!(
                apart <= 1e-4 * squares[c] + 1e-6 * count,
                "{what}: {apart:e}"
            );
        }
        got
    };
    let mut portable = Vec::new();
    for cpu in cpus() {
        let members = cpu.team().members();
        let gather = Gather::new(cpu, channels);
        by_rows(cpu, rows, channels, |member, range| {
            gather.add(member, &x[range])
        });
        let got = check(&gather, "shares");
        // The sets do not differ, teams do.
        if cpu.isa() == Isa::Portable {
            portable.push(got.clone());
        }
        assert_eq!(
            got,
            portable[members - 1],
            "{} and the portable set",
            cpu.isa()
        );
        // Any rows by any member.
        let gather = Gather::new(cpu, channels);
        for (i, x) in x.chunks(pieces * channels).enumerate() {
            gather.add(i * 5 % members, x);
        }
        check(&gather, "pieces");
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn sums_are_those_of_plain_loops(shape in rows_of_channels(), salt in 0..1000_u64) {
        let x = noise(shape.0 * shape.1, salt);
        sums::<f32>(shape, &x);
        sums::<bf16>(shape, &x);
    }

    /// One value that is none spoils its channel and no other.
    #[test]
    fn no_number_stays_in_its_channel(shape in rows_of_channels(), salt in 0..1000_u64) {
        let mut x = noise(shape.0 * shape.1, salt);
        let at = salt as usize;
        if let Some(v) = x.get_mut(at) {
            *v = f32::NAN;
            sums::<f32>(shape, &x);
            sums::<bf16>(shape, &x);
            let gather = Gather::new(&cpus()[1], shape.1);
            gather.add(1, &x);
            let got = gather.total();
            for c in 0..shape.1 {
                assert_eq!(got.mean[c].is_nan(), c == at % shape.1);
                assert_eq!(got.squares[c].is_nan(), c == at % shape.1);
            }
        }
    }

    #[test]
    fn gradients_are_summed_where_the_map_did_not_cut(
        shape in rows_of_channels(),
        samples in 1..4_usize,
        high in prop_oneof![Just(None), Just(Some(0.5)), Just(Some(f32::INFINITY))],
        salt in 0..1000_u64,
    ) {
        let n = samples * shape.0 * shape.1;
        let (g, z) = (noise(n, salt), noise(n, salt + 1));
        back::<f32>(shape, samples, high, &g, &z);
        back::<bf16>(shape, samples, high, &g, &z);
    }

    #[test]
    fn moments_are_those_of_all_rows(
        shape in rows_of_channels(),
        offset in prop_oneof![Just(0.0_f32), Just(8.0), Just(-100.0)],
        pieces in 1..300_usize,
        salt in 0..1000_u64,
    ) {
        let x: Vec<f32> = noise(shape.0 * shape.1, salt).iter().map(|v| v + offset).collect();
        moments::<f32>(shape, &x, pieces);
        moments::<bf16>(shape, &x, pieces);
    }
}
