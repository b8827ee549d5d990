//! The reference every operator is compared with: the same operators written with candle's
//! differentiable primitives in F64, channels first, differentiated by candle's autograd.
//!
//! candle's own convolutions are used where they know the setting (one stride, padding and dilation
//! for both axes). Its autograd refuses pooling whose kernel differs from the stride, and knows no
//! pooling with padding and no unequal axes, and 0.11.1 gets gradients of 1-D convolutions wrong for
//! batches above 1; for those, windows are gathered with `index_select`, which it can differentiate.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod runs;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use lamplight_models::graph::{Checked, Graph, Node, Source};
use lamplight_models::ops::{GruOutput, NormMode, Op};

/// Numbers in `-1..1`, the same for the same salt.
pub(crate) fn noise(n: usize, salt: u64) -> Vec<f32> {
    let mut state = salt.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x2545_F491_4F6C_DD1D;
    (0..n)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) as f32) / ((1_u64 << 30) as f32) - 1.0
        })
        .collect()
}

/// A leaf of the autograd in F64.
pub(crate) fn leaf(values: &[f32], shape: &[usize]) -> Var {
    let t = Tensor::from_slice(values, shape, &Device::Cpu)
        .and_then(|t| t.to_dtype(DType::F64))
        .expect("leaf");
    Var::from_tensor(&t).expect("leaf")
}

/// `[B, C, ...]` to the numbers of `[B, ..., C]`.
pub(crate) fn channels_last(x: &Tensor) -> Vec<f64> {
    let x = if x.rank() > 2 {
        x.flatten_from(2).and_then(|x| x.transpose(1, 2))
    } else {
        Ok(x.clone())
    };
    x.and_then(|x| x.contiguous()?.flatten_all()?.to_vec1())
        .expect("layout")
}

/// [`channels_last`] for plain numbers: `shape` without the batch.
pub(crate) fn channels_last_f32(x: &[f32], batch: usize, shape: &[usize]) -> Vec<f32> {
    let mut full = vec![batch];
    full.extend_from_slice(shape);
    let t = Tensor::from_slice(x, full, &Device::Cpu).expect("tensor");
    channels_last(&t.to_dtype(DType::F64).expect("f64"))
        .into_iter()
        .map(|v| v as f32)
        .collect()
}

struct Slide {
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
}

/// `[B, C, H, W]` to windows `[B, C, Ho * Wo, taps]` and `(Ho, Wo)`; outside is `fill`.
fn windows(x: &Tensor, s: &Slide, fill: f64) -> Result<(Tensor, [usize; 2])> {
    let (b, c, h, w) = x.dims4()?;
    let extent = |n: usize, d: usize| {
        (n + 2 * s.padding[d] - s.dilation[d] * (s.kernel[d] - 1) - 1) / s.stride[d] + 1
    };
    let out = [extent(h, 0), extent(w, 1)];
    let mut index = Vec::new();
    for oh in 0..out[0] {
        for ow in 0..out[1] {
            for i in 0..s.kernel[0] {
                for j in 0..s.kernel[1] {
                    let at = |o: usize, t: usize, d: usize, n: usize| {
                        let p = (o * s.stride[d] + t * s.dilation[d]) as i64 - s.padding[d] as i64;
                        usize::try_from(p).ok().filter(|&p| p < n)
                    };
                    // One past the end is the column of padding.
                    let place = match (at(oh, i, 0, h), at(ow, j, 1, w)) {
                        (Some(ih), Some(iw)) => ih * w + iw,
                        _ => h * w,
                    };
                    index.push(place as u32);
                }
            }
        }
    }
    let taps = s.kernel[0] * s.kernel[1];
    let index = Tensor::from_vec(index, out[0] * out[1] * taps, &Device::Cpu)?;
    let outside = Tensor::full(fill, (b, c, 1), &Device::Cpu)?;
    let x = Tensor::cat(&[&x.flatten_from(2)?, &outside], 2)?;
    let windows = x
        .index_select(&index, 2)?
        .reshape((b, c, out[0] * out[1], taps))?;
    Ok((windows, out))
}

fn gathered_conv(x: &Tensor, weight: &Tensor, s: &Slide, groups: usize) -> Result<Tensor> {
    let (windows, out) = windows(x, s, 0.0)?;
    let (b, c, q, taps) = windows.dims4()?;
    let o = weight.dim(0)?;
    let (cg, og) = (c / groups, o / groups);
    let parts = (0..groups)
        .map(|g| {
            let patches = windows
                .narrow(1, g * cg, cg)?
                .transpose(1, 2)?
                .reshape((b * q, cg * taps))?;
            let filters = weight.narrow(0, g * og, og)?.reshape((og, cg * taps))?;
            patches
                .matmul(&filters.t()?)?
                .reshape((b, q, og))?
                .transpose(1, 2)
        })
        .collect::<Result<Vec<_>>>()?;
    Tensor::cat(&parts, 1)?.reshape((b, o, out[0], out[1]))
}

/// How the oracle makes a convolution.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Conv {
    /// candle's own operator where it knows the setting.
    Own,
    /// Gathered windows.
    Gathered,
}

fn with_bias(y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let Some(bias) = bias else { return Ok(y) };
    let mut shape = vec![1; y.rank()];
    shape[1] = bias.elem_count();
    y.broadcast_add(&bias.reshape(shape)?)
}

/// `(x - mean) / sqrt(var + eps)` over the last dimension of `[groups, values]`.
fn standardise(x: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    centred.broadcast_div(&deviation)
}

fn affine(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let mut shape = vec![1; x.rank()];
    shape[1] = weight.elem_count();
    x.broadcast_mul(&weight.reshape(shape.as_slice())?)?
        .broadcast_add(&bias.reshape(shape)?)
}

fn pool(x: &Tensor, s: &Slide, is_max: bool) -> Result<Tensor> {
    let fill = if is_max { -1e30 } else { 0.0 };
    let (b, c, ..) = x.dims4()?;
    let (windows, out) = windows(x, s, fill)?;
    let y = if is_max {
        windows.max(D::Minus1)?
    } else {
        windows.mean(D::Minus1)?
    };
    y.reshape((b, c, out[0], out[1]))
}

/// Every state of a gated recurrent unit over `[B, C, L]`, as PyTorch's documentation of `nn.GRU`
/// writes it; the gates are cut out of the stacked parameters one by one.
fn gru(x: &Tensor, params: &[Tensor], hidden: usize) -> Result<Vec<Tensor>> {
    let (batch, _, length) = x.dims3()?;
    let part = |which: usize, gate: usize| params[which].narrow(0, gate * hidden, hidden);
    let affine = |v: &Tensor, weight: Tensor, bias: Tensor| {
        v.matmul(&weight.t()?)?.broadcast_add(&bias.unsqueeze(0)?)
    };
    let sigmoid = |v: Tensor| (v.neg()?.exp()? + 1.0)?.recip();
    let mut h = Tensor::zeros((batch, hidden), x.dtype(), x.device())?;
    let mut states = Vec::new();
    for t in 0..length {
        let now = x.narrow(2, t, 1)?.squeeze(2)?.contiguous()?;
        let of_input = |gate| affine(&now, part(0, gate)?, part(2, gate)?);
        let of_state = |gate| affine(&h, part(1, gate)?, part(3, gate)?);
        let r = sigmoid((of_input(0)? + of_state(0)?)?)?;
        let z = sigmoid((of_input(1)? + of_state(1)?)?)?;
        let n = (of_input(2)? + (r * of_state(2)?)?)?.tanh()?;
        let next = (((1.0 - &z)? * n)? + (&z * &h)?)?;
        states.push(next.clone());
        h = next;
    }
    Ok(states)
}

/// One operator, channels first.
pub(crate) fn apply(
    op: &Op,
    inputs: &[Tensor],
    params: &[Tensor],
    mode: NormMode,
    conv: Conv,
) -> Result<Tensor> {
    let x = &inputs[0];
    let flat = |kernel, stride, padding, dilation| Slide {
        kernel: [1, kernel],
        stride: [1, stride],
        padding: [0, padding],
        dilation: [1, dilation],
    };
    match op {
        Op::Conv1d(c) => {
            let y = if conv == Conv::Own {
                x.conv1d(&params[0], c.padding, c.stride, c.dilation, c.groups)?
            } else {
                let s = flat(c.kernel, c.stride, c.padding, c.dilation);
                gathered_conv(&x.unsqueeze(2)?, &params[0].unsqueeze(2)?, &s, c.groups)?
                    .squeeze(2)?
            };
            with_bias(y, params.get(1))
        }
        Op::Conv2d(c) => {
            let equal = [c.stride, c.padding, c.dilation]
                .iter()
                .all(|a| a[0] == a[1]);
            let y = if conv == Conv::Own && equal {
                x.conv2d(
                    &params[0],
                    c.padding[0],
                    c.stride[0],
                    c.dilation[0],
                    c.groups,
                )?
            } else {
                let s = Slide {
                    kernel: c.kernel,
                    stride: c.stride,
                    padding: c.padding,
                    dilation: c.dilation,
                };
                gathered_conv(x, &params[0], &s, c.groups)?
            };
            with_bias(y, params.get(1))
        }
        Op::Linear(_) => with_bias(x.matmul(&params[0].t()?)?, params.get(1)),
        Op::Gru(g) => {
            let states = gru(x, params, g.hidden)?;
            match g.output {
                GruOutput::Sequence => Tensor::stack(&states, 2),
                GruOutput::Last => Ok(states[states.len() - 1].clone()),
            }
        }
        Op::BatchNorm(n) => {
            let eps = f64::from(n.eps);
            let h = if mode == NormMode::Train {
                let swapped = x.transpose(0, 1)?.contiguous()?;
                let rows = swapped.flatten_from(1)?;
                standardise(&rows, eps)?
                    .reshape(swapped.shape())?
                    .transpose(0, 1)?
            } else {
                let r = (&params[3] + eps)?.sqrt()?.recip()?;
                let zero = params[2].neg()?.mul(&r)?;
                affine(x, &r, &zero)?
            };
            affine(&h, &params[0], &params[1])
        }
        Op::GroupNorm(n) => {
            let b = x.dim(0)?;
            let rows = x.reshape((b, n.groups, ()))?;
            let h = standardise(&rows, f64::from(n.eps))?.reshape(x.shape())?;
            affine(&h, &params[0], &params[1])
        }
        Op::Relu => x.relu(),
        Op::Relu6 => x.clamp(0.0, 6.0),
        Op::MaxPool1d(p) | Op::AvgPool1d(p) => {
            let s = flat(p.kernel, p.stride, p.padding, 1);
            let is_max = matches!(op, Op::MaxPool1d(_));
            pool(&x.unsqueeze(2)?, &s, is_max)?.squeeze(2)
        }
        Op::MaxPool2d(p) | Op::AvgPool2d(p) => {
            let s = Slide {
                kernel: p.kernel,
                stride: p.stride,
                padding: p.padding,
                dilation: [1, 1],
            };
            pool(x, &s, matches!(op, Op::MaxPool2d(_)))
        }
        Op::GlobalAvgPool => x.flatten_from(2)?.mean(D::Minus1),
        Op::Add => &inputs[0] + &inputs[1],
        Op::Flatten => x.flatten_from(1),
    }
}

/// A whole graph, channels first; `params` in node order.
pub(crate) fn run(
    graph: &Checked,
    params: &[Tensor],
    x: &Tensor,
    mode: NormMode,
) -> Result<Tensor> {
    let mut values: Vec<Tensor> = Vec::new();
    let mut first = 0;
    for (node, sources) in graph.nodes.iter().zip(&graph.sources) {
        let count = node.op.params().len();
        let inputs: Vec<Tensor> = sources
            .iter()
            .map(|s| match s {
                Source::Input => x.clone(),
                Source::Node(j) => values[*j].clone(),
            })
            .collect();
        let own = &params[first..first + count];
        values.push(apply(&node.op, &inputs, own, mode, Conv::Gathered)?);
        first += count;
    }
    Ok(values[graph.output].clone())
}

/// Mean softmax cross entropy.
pub(crate) fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let top = logits.max_keepdim(1)?.detach();
    let z = logits.broadcast_sub(&top)?;
    let log_sum = z.exp()?.sum_keepdim(1)?.log()?;
    let labels = Tensor::from_slice(labels, (labels.len(), 1), &Device::Cpu)?;
    z.broadcast_sub(&log_sum)?
        .gather(&labels, 1)?
        .mean_all()?
        .neg()
}

/// Fails when two lists of numbers differ by more than `tolerance` of the largest.
pub(crate) fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let scale = want.iter().fold(1e-3_f64, |m, v| m.max(v.abs()));
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        assert!(
            (f64::from(g) - w).abs() <= tolerance * scale,
            "{what}[{i}]: got {g}, want {w} (largest {scale})"
        );
    }
}

pub(crate) fn node(name: &str, op: Op, inputs: &[&str]) -> Node {
    Node {
        name: name.into(),
        op,
        inputs: inputs.iter().map(|&i| i.into()).collect(),
    }
}

pub(crate) fn graph(input: &[usize], nodes: Vec<Node>, output: &str) -> Graph {
    Graph {
        input: input.to_vec(),
        nodes,
        output: output.into(),
    }
}
