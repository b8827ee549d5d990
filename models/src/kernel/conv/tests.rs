//! Every path against the plain loops that define a convolution, in F64.

use std::panic::AssertUnwindSafe;
use std::sync::Mutex;

use half::bf16;
use proptest::prelude::*;

use super::*;
use crate::kernel::isa::Isa;
use crate::kernel::tests::{assert_close, cases, noise};
use crate::kernel::view::{Back, Map};

#[derive(Debug, Clone)]
struct Case {
    conv: Conv,
    batch: usize,
    threads: usize,
    salt: u64,
}

impl Case {
    /// Calls `f(output index, input index, weight index)` for every product there is.
    fn products(&self, mut f: impl FnMut(usize, usize, usize)) {
        let (w, c) = (&self.conv.window, &self.conv);
        let (depth, out_depth) = (w.channels / c.groups, c.out_channels / c.groups);
        for b in 0..self.batch {
            for p in 0..w.positions() {
                let (row, col) = (p / w.output[1], p % w.output[1]);
                for o in 0..c.out_channels {
                    for i in 0..w.kernel[0] {
                        for j in 0..w.kernel[1] {
                            let (Some(h), Some(v)) = (w.reads(0, row, i), w.reads(1, col, j))
                            else {
                                continue;
                            };
                            for k in 0..depth {
                                let channel = o / out_depth * depth + k;
                                f(
                                    (b * w.positions() + p) * c.out_channels + o,
                                    ((b * w.input[0] + h) * w.input[1] + v) * w.channels + channel,
                                    ((o * depth + k) * w.kernel[0] + i) * w.kernel[1] + j,
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    fn x(&self) -> Vec<f32> {
        noise(self.batch * self.conv.window.image(), self.salt)
    }
    fn g(&self) -> Vec<f32> {
        noise(self.conv.output_len(self.batch), self.salt + 1)
    }
    fn weight(&self) -> Vec<f32> {
        noise(self.conv.weight_len(), self.salt + 2)
    }
}

fn case() -> impl Strategy<Value = Case> {
    let side = |most: usize| 1..=most;
    (
        (0..4_usize, 1..4_usize, 1..5_usize),
        (side(19), side(37)),
        ([1..4_usize, 1..6_usize], [1..4_usize, 1..4_usize]),
        ([0..4_usize, 0..4_usize], [1..3_usize, 1..3_usize]),
        (
            prop_oneof![
                Just(1_usize),
                Just(3),
                Just(8),
                Just(16),
                Just(17),
                Just(40)
            ],
            prop_oneof![
                Just(1_usize),
                Just(5),
                Just(16),
                Just(32),
                Just(48),
                Just(70)
            ],
        ),
        0..1000_u64,
    )
        .prop_filter_map(
            "the window fits",
            |(
                (batch, groups, threads),
                (h, w),
                (kernel, stride),
                (padding, dilation),
                (i, o),
                salt,
            )| {
                let input = [h, w];
                let mut output = [0; 2];
                for d in 0..2 {
                    let window = dilation[d] * (kernel[d] - 1) + 1;
                    output[d] = (input[d] + 2 * padding[d]).checked_sub(window)? / stride[d] + 1;
                }
                // A third of the draws have a filter for every channel.
                let (groups, o) = if salt % 3 == 0 { (i, i) } else { (groups, o) };
                let groups = if i % groups == 0 && o % groups == 0 {
                    groups
                } else {
                    1
                };
                Some(Case {
                    conv: Conv {
                        window: Window {
                            channels: i,
                            input,
                            output,
                            kernel,
                            stride,
                            padding,
                            dilation,
                        },
                        out_channels: o,
                        groups,
                    },
                    batch,
                    threads,
                    salt,
                })
            },
        )
}

/// Shapes that networks have, which random ones seldom meet: large images, deep channels.
fn usual() -> Vec<Case> {
    let conv = |channels, out_channels, side: usize, kernel: usize, stride: usize| {
        let padding = kernel / 2;
        let out = (side + 2 * padding - kernel) / stride + 1;
        Conv {
            window: Window {
                channels,
                input: [side; 2],
                output: [out; 2],
                kernel: [kernel; 2],
                stride: [stride; 2],
                padding: [padding; 2],
                dilation: [1; 2],
            },
            out_channels,
            groups: 1,
        }
    };
    let case = |conv, batch, threads| Case {
        conv,
        batch,
        threads,
        salt: 7,
    };
    vec![
        case(conv(3, 64, 65, 7, 2), 1, 2),
        case(conv(16, 16, 32, 3, 1), 3, 2),
        case(conv(64, 64, 8, 3, 1), 5, 2),
        case(conv(256, 96, 7, 3, 1), 1, 2),
        case(conv(32, 64, 16, 1, 2), 3, 2),
        case(conv(32, 64, 15, 3, 2), 1, 3),
        case(conv(700, 40, 3, 1, 1), 2, 2),
        case(Conv::linear(512, 1000, 1), 1, 2),
        case(Conv::linear(64, 10, 37), 1, 2),
    ]
}

/// All three passes, plainly read, as `T`.
fn check<T: Element>(case: &Case, isa: Isa, tolerance: f64) {
    let (x, g, weight) = (case.x(), case.g(), case.weight());
    let mut want_y = vec![0.0_f64; g.len()];
    let mut want_dx: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    let mut want_dw = vec![0.0_f64; weight.len()];
    case.products(|o, i, w| {
        want_y[o] += f64::from(x[i]) * f64::from(weight[w]);
        want_dx[i] += f64::from(g[o]) * f64::from(weight[w]);
        want_dw[w] += f64::from(g[o]) * f64::from(x[i]);
    });
    let cpu = Cpu::with(isa, case.threads);
    let mut space = Workspace::default();
    let narrow = |v: &[f32]| v.iter().map(|&v| T::narrow(v)).collect::<Vec<T>>();
    let (tx, tg) = (narrow(&x), narrow(&g));
    let (conv, batch) = (&case.conv, case.batch);
    let widened = |v: &[T]| v.iter().map(|v| v.widen()).collect::<Vec<f32>>();

    // Every value is finished once, by whole positions.
    let mut y = narrow(&vec![f32::NAN; g.len()]);
    let parts = Mutex::new(Vec::new());
    conv.forward(
        &cpu,
        &mut space,
        batch,
        View::Plain(&tx),
        &weight,
        &mut y,
        |part| {
            parts
                .lock()
                .expect("parts")
                .push((part.at, part.values.len()));
        },
    );
    assert_close("y", widened(&y).into_iter(), &want_y, tolerance);
    let mut parts = parts.into_inner().expect("parts");
    parts.sort_unstable();
    let mut next = 0;
    for (at, len) in parts {
        assert_eq!(at, next);
        assert_eq!(len % conv.out_channels, 0);
        next = at + len;
    }
    assert_eq!(next, y.len());

    // Added to what is there.
    let mut dx = narrow(&x);
    conv.input_gradient(
        &cpu,
        &mut space,
        batch,
        View::Plain(&tg),
        &weight,
        Write::Add,
        &mut dx,
        |_| {},
    );
    assert_close("dx", widened(&dx).into_iter(), &want_dx, tolerance);
    let mut set = narrow(&vec![f32::NAN; x.len()]);
    conv.input_gradient(
        &cpu,
        &mut space,
        batch,
        View::Plain(&tg),
        &weight,
        Write::Set,
        &mut set,
        |_| {},
    );
    let added: Vec<f64> = want_dx
        .iter()
        .zip(&x)
        .map(|(d, x)| d - f64::from(*x))
        .collect();
    assert_close("dx alone", widened(&set).into_iter(), &added, tolerance);

    let mut dw = vec![f32::NAN; weight.len()];
    conv.weight_gradient(
        &cpu,
        &mut space,
        batch,
        View::Plain(&tx),
        View::Plain(&tg),
        &mut dw,
    );
    assert_close("dw", dw.into_iter(), &want_dw, tolerance.min(1e-5));
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn floats_agree_with_plain_loops(case in case()) {
        for &isa in Isa::available() {
            check::<f32>(&case, isa, 1e-5);
        }
    }

    #[test]
    fn halves_agree_with_plain_loops(case in case()) {
        for &isa in Isa::available() {
            check::<bf16>(&case, isa, 1.0 / 128.0);
        }
    }

    /// Reading through a map gives the same bytes as reading what the map makes.
    #[test]
    fn views_are_what_they_would_make(case in case(), samples in prop::bool::ANY, high in 0..3_u8) {
        let (c, o) = (case.conv.window.channels, case.conv.out_channels);
        let samples = if samples { case.batch.max(1) } else { 1 };
        let high = [f32::INFINITY, 0.5, f32::NAN][usize::from(high)];
        let wave = |s: usize, c: usize, k: usize| ((s * 7 + c * 3 + k) % 11) as f32 * 0.25 - 1.0;
        let rectified = |map: Map| if high.is_nan() { map } else { map.rectified(high) };
        let (x, g, z) = (case.x(), case.g(), noise(case.conv.output_len(case.batch), case.salt + 9));
        let into = rectified(Map::affine(c, samples, |s, c| (wave(s, c, 0), wave(s, c, 5))));
        let map = rectified(Map::affine(o, samples, |s, c| (wave(s, c, 1), wave(s, c, 6))));
        let back = Back::following(o, samples, |s, c| (wave(s, c, 2), wave(s, c, 3), wave(s, c, 4)));
        let still = Back::still(o, |c| wave(0, c, 2));
        let x_view = View::Mapped { data: &x, map: &into };
        let made = |view: &View<'_, f32>, n: usize| {
            let each = (n / case.batch.max(1)).max(1);
            let mut all = vec![f32::NAN; n];
            for (s, out) in all.chunks_exact_mut(each).enumerate() {
                view.read(s, s * each, out);
            }
            all
        };
        let weight = case.weight();
        for back in [&back, &still] {
            let g_view = View::Back { grad: &g, data: &z, map: &map, back };
            let (plain_x, plain_g) = (made(&x_view, x.len()), made(&g_view, g.len()));
            for &isa in Isa::available() {
                let cpu = Cpu::with(isa, case.threads);
                let mut space = Workspace::default();
                let mut all = |x: View<'_, f32>, g: View<'_, f32>| {
                    let conv = &case.conv;
                    let (mut y, mut dx, mut dw) =
                        (vec![0.0; g.len()], vec![0.0; x.len()], vec![0.0; weight.len()]);
                    conv.forward(&cpu, &mut space, case.batch, x, &weight, &mut y, |_| {});
                    conv.input_gradient(&cpu, &mut space, case.batch, g, &weight, Write::Set, &mut dx, |_| {});
                    conv.weight_gradient(&cpu, &mut space, case.batch, x, g, &mut dw);
                    (y, dx, dw)
                };
                let (y, dx, dw) = all(x_view, g_view);
                let (py, pdx, pdw) = all(View::Plain(&plain_x), View::Plain(&plain_g));
                let wide = |v: &[f32]| v.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
                assert_close("y", y.into_iter(), &wide(&py), 1e-6);
                assert_close("dx", dx.into_iter(), &wide(&pdx), 1e-6);
                assert_close("dw", dw.into_iter(), &wide(&pdw), 1e-6);
            }
        }
    }
}

#[test]
fn usual_shapes_agree_with_plain_loops() {
    for case in usual() {
        for &isa in Isa::available() {
            check::<f32>(&case, isa, 1e-5);
            check::<bf16>(&case, isa, 1.0 / 128.0);
        }
    }
}

#[test]
fn the_same_threads_give_the_same_bytes_and_others_nearly() {
    for case in usual() {
        let (x, g) = (case.x(), case.g());
        let run = |threads: usize| {
            let cpu = Cpu::new(threads);
            let mut dw = vec![0.0; case.weight().len()];
            let (x, g) = (View::Plain(x.as_slice()), View::Plain(g.as_slice()));
            case.conv
                .weight_gradient(&cpu, &mut Workspace::default(), case.batch, x, g, &mut dw);
            dw
        };
        let two = run(2);
        assert_eq!(two, run(2));
        let wide: Vec<f64> = two.iter().map(|v| f64::from(*v)).collect();
        assert_close("dw", run(1).into_iter(), &wide, 1e-6);
    }
}

/// Extents that do not fit one another would have tiles write past the end: they are refused.
#[test]
fn extents_that_do_not_fit_are_refused() {
    let good = Conv::linear(4, 8, 3);
    let is_whole = |conv: &Conv, batch| {
        std::panic::catch_unwind(AssertUnwindSafe(|| conv.expect_whole(batch))).is_ok()
    };
    assert!(is_whole(&good, 1) && is_whole(&good, 0));
    assert!(!is_whole(&good, usize::MAX / 16));
    let spoil: [fn(&mut Conv); 7] = [
        |c| c.window.output = [1, 64],
        |c| c.window.input = [1, 2],
        |c| c.window.stride = [0, 1],
        |c| c.window.kernel = [1, 0],
        |c| c.window.dilation = [0, 1],
        |c| c.groups = 3,
        |c| c.groups = 0,
    ];
    for spoil in spoil {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert!(!is_whole(&bad, 1), "{bad:?}");
    }
}
