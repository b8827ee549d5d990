//! What windows see: patches of images, and pools.

use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::kernel::patch::{self, Window};
use crate::kernel::pool;

#[derive(Debug, Clone)]
struct Case {
    window: Window,
    batch: usize,
    salt: u64,
}

/// Windows with any padding and dilation, or those that pools have.
fn case(pools: bool) -> impl Strategy<Value = Case> {
    (
        [1..10_usize, 1..20_usize],
        [1..5_usize, 1..6_usize],
        [1..4_usize, 1..4_usize],
        [0..5_usize, 0..5_usize],
        [1..3_usize, 1..3_usize],
        (1..4_usize, size(), 0..1000_u64),
    )
        .prop_filter_map(
            "the window fits",
            move |(input, kernel, stride, padding, dilation, (batch, channels, salt))| {
                let (padding, dilation) = if pools {
                    ([0, 1].map(|d| padding[d].min(kernel[d] / 2)), [1; 2])
                } else {
                    (padding, dilation)
                };
                let mut output = [0; 2];
                for d in 0..2 {
                    let reach = dilation[d] * (kernel[d] - 1) + 1;
                    output[d] = (input[d] + 2 * padding[d]).checked_sub(reach)? / stride[d] + 1;
                }
                Some(Case {
                    window: Window {
                        // Pictures of many channels are small in networks, and here.
                        channels: channels.min(600 / (input[0] + input[1])),
                        input,
                        output,
                        kernel,
                        stride,
                        padding,
                        dilation,
                    },
                    batch,
                    salt,
                })
            },
        )
}

impl Case {
    /// Where tap `tap` of the window at position `q` of the batch reads its first channel.
    fn reads(&self, q: usize, tap: usize) -> Option<usize> {
        let w = &self.window;
        let (image, p) = (q / w.positions(), q % w.positions());
        let at = [p / w.output[1], p % w.output[1]];
        let tap = [tap / w.kernel[1], tap % w.kernel[1]];
        let mut place = image;
        for d in 0..2 {
            let from = at[d] * w.stride[d] + tap[d] * w.dilation[d];
            let from = from.checked_sub(w.padding[d])?;
            if from >= w.input[d] {
                return None;
            }
            place = place * w.input[d] + from;
        }
        Some(place * w.channels)
    }

    fn positions(&self) -> usize {
        self.batch * self.window.positions()
    }

    fn x_len(&self) -> usize {
        self.batch * self.window.image()
    }

    fn y_len(&self) -> usize {
        self.positions() * self.window.channels
    }
}

fn some(of: usize, a: usize, b: usize) -> Range<usize> {
    let (a, b) = (a % (of + 1), b % (of + 1));
    a.min(b)..a.max(b)
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn patches_are_gathered_and_scattered_value_by_value(
        case in case(false),
        (a, b) in (0..9999_usize, 0..9999_usize),
        (c, d) in (0..9999_usize, 0..9999_usize),
    ) {
        let w = &case.window;
        let positions = some(case.positions(), a, b);
        let group = some(w.channels, c, d);
        let group = if group.is_empty() { 0..w.channels } else { group };
        let width = group.len();
        let x = rough(case.x_len(), case.salt);
        let n = positions.len() * w.taps() * width;
        let back = noise(n, case.salt + 1);
        let old = noise(case.x_len(), case.salt + 2);
        let (mut patches, mut dx) = (vec![0.0; n], old.clone());
        for (i, patch) in patches.iter_mut().enumerate() {
            let (row, tap, channel) = (i / width / w.taps(), i / width % w.taps(), i % width);
            if let Some(at) = case.reads(positions.start + row, tap) {
                *patch = x[at + group.start + channel];
                dx[at + group.start + channel] += back[i];
            }
        }
        let got = by_every_set("gather", |_| {
            let mut out = vec![7.0; n];
            patch::gather(&x, w, group.clone(), positions.clone(), &mut out);
            out
        });
        assert_same("gather", &got, &patches);
        let got = by_every_set("scatter_add", |_| {
            let mut dx = old.clone();
            patch::scatter_add(&back, w, group.clone(), positions.clone(), &mut dx);
            dx
        });
        assert_same("scatter_add", &got, &dx);
    }

    #[test]
    fn maxima_and_their_places(case in case(true)) {
        let w = &case.window;
        let x = rough(case.x_len(), case.salt);
        let g = noise(case.y_len(), case.salt + 1);
        let image = |i: usize| i / w.channels / w.positions() * w.image();
        let both = by_every_set("max", |_| {
            let (mut y, mut places) = (vec![7.0; g.len()], vec![7; g.len()]);
            pool::max(&x, w, &mut y, &mut places);
            y.extend(places.iter().map(|p| *p as f32));
            y
        });
        let (y, places) = both.split_at(g.len());
        let mut dx = vec![0.0; x.len()];
        for (i, y) in y.iter().enumerate() {
            let (q, c) = (i / w.channels, i % w.channels);
            let seen: Vec<usize> = (0..w.taps())
                .filter_map(|tap| case.reads(q, tap))
                .map(|at| at + c)
                .collect();
            let at = image(i) + places[i] as usize * w.channels + c;
            assert!(seen.contains(&at), "{i}: a place that the window does not see");
            assert_same("the value there", &[x[at]], &[*y]);
            let none = seen.iter().any(|&at| x[at].is_nan());
            assert_eq!(y.is_nan(), none, "{i}");
            assert!(none || seen.iter().all(|&at| x[at] <= *y), "{i}: {y}");
            // Of equal ones the first.
            assert!(none || seen.iter().find(|&&at| x[at] == *y) == Some(&at), "{i}");
            dx[at] += g[i];
        }
        let argmax: Vec<u32> = places.iter().map(|p| *p as u32).collect();
        let got = by_every_set("max_adjoint", |_| {
            let mut dx = vec![7.0; x.len()];
            pool::max_adjoint(&g, &argmax, w, &mut dx);
            dx
        });
        assert_same("max_adjoint", &got, &dx);
    }

    #[test]
    fn means_count_padding_as_zeros(case in case(true)) {
        let w = &case.window;
        let (x, g) = (noise(case.x_len(), case.salt), noise(case.y_len(), case.salt + 1));
        let (mut y, mut dx) = (vec![0.0; g.len()], vec![0.0; x.len()]);
        for i in 0..g.len() {
            for tap in 0..w.taps() {
                if let Some(at) = case.reads(i / w.channels, tap) {
                    let at = at + i % w.channels;
                    y[i] += f64::from(x[at]) / w.taps() as f64;
                    dx[at] += f64::from(g[i]) / w.taps() as f64;
                }
            }
        }
        let got = by_every_set("mean", |_| {
            let mut y = vec![7.0; g.len()];
            pool::mean(&x, w, &mut y);
            y
        });
        assert_close("mean", got.into_iter(), &y, 1e-6);
        let got = by_every_set("mean_adjoint", |_| {
            let mut dx = vec![7.0; x.len()];
            pool::mean_adjoint(&g, w, &mut dx);
            dx
        });
        assert_close("mean_adjoint", got.into_iter(), &dx, 1e-6);
    }

    #[test]
    fn means_over_everything(
        (batch, positions, channels) in (0..4_usize, 1..70_usize, size()),
        salt in 0..1000_u64,
    ) {
        let each = positions * channels;
        let (x, g) = (noise(batch * each, salt), noise(batch * channels, salt + 1));
        let mut y = vec![0.0; g.len()];
        for (i, v) in x.iter().enumerate() {
            y[i / each * channels + i % channels] += f64::from(*v) / positions as f64;
        }
        let dx: Vec<f64> = (0..x.len())
            .map(|i| f64::from(g[i / each * channels + i % channels]) / positions as f64)
            .collect();
        let got = by_every_set("global_mean", |_| {
            let mut y = vec![7.0; g.len()];
            pool::global_mean(&x, positions, channels, &mut y);
            y
        });
        assert_close("global_mean", got.into_iter(), &y, 1e-6);
        let got = by_every_set("global_mean_adjoint", |_| {
            let mut dx = vec![7.0; x.len()];
            pool::global_mean_adjoint(&g, positions, channels, &mut dx);
            dx
        });
        assert_close("global_mean_adjoint", got.into_iter(), &dx, 1e-6);
        // One value that is none spoils its sample's channel alone.
        let mut bad = x.clone();
        let at = salt as usize * 13;
        if let Some(v) = bad.get_mut(at) {
            *v = f32::NAN;
            let mut y = vec![7.0; g.len()];
            pool::global_mean(&bad, positions, channels, &mut y);
            let hit = at / each * channels + at % channels;
            assert!(y.iter().enumerate().all(|(i, v)| v.is_nan() == (i == hit)));
        }
    }
}
