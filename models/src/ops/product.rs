//! Convolutions and linear layers: `Y = X W + b`, on the host's own kernels or, offloaded, as matrix
//! products on a lane.

use super::{Adjoint, Forward, Op, OpError, Scratch, offload};
use crate::kernel::channels;
use crate::kernel::conv::{Conv, Part, Write};
use crate::kernel::element::Element;
use crate::kernel::pass::{self, Extent};
use crate::kernel::patch::Window;
use crate::kernel::view::View;
use crate::lane::Lane;

/// A convolution or linear layer with its shapes worked out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Product {
    pub(crate) conv: Conv,
}

/// Where a product's input gradient goes.
pub(crate) struct Into<'a, T> {
    pub write: Write,
    pub dx: &'a mut [T],
}

impl Product {
    /// The product that an operator is over inputs of this shape; one dimension is two with height 1,
    /// a linear layer is a convolution of one tap over one position.
    pub(crate) fn of(op: &Op, shape: &[usize]) -> Result<Option<Self>, OpError> {
        let (kernel, stride, padding, dilation, groups) = match op {
            Op::Conv1d(c) => (
                [1, c.kernel],
                [1, c.stride],
                [0, c.padding],
                [1, c.dilation],
                c.groups,
            ),
            Op::Conv2d(c) => (c.kernel, c.stride, c.padding, c.dilation, c.groups),
            Op::Linear(_) => ([1; 2], [1; 2], [0; 2], [1; 2], 1),
            _ => return Ok(None),
        };
        let out = op.output_shape(&[&shape.to_vec()])?;
        let plane = |s: &[usize]| match *s {
            [_, h, w] => [h, w],
            _ => [1, super::positions(s)],
        };
        Ok(Some(Self {
            conv: Conv {
                window: Window {
                    channels: shape[0],
                    input: plane(shape),
                    output: plane(&out),
                    kernel,
                    stride,
                    padding,
                    dilation,
                },
                out_channels: out[0],
                groups,
            },
        }))
    }

    fn output(&self, batch: usize) -> Extent {
        Extent {
            batch,
            positions: self.conv.window.positions(),
            channels: self.conv.out_channels,
        }
    }

    /// Writes the product (without a bias); `finish` sees every part of it, in cache where the host
    /// makes it.
    ///
    /// # Shapes
    /// x `[B, H, W, C]`, weight `[out, C / groups, kh, kw]`, y `[B, Ho, Wo, out]`
    pub(crate) fn forward<T: Element>(
        &self,
        lane: &dyn Lane,
        scratch: &mut Scratch,
        batch: usize,
        x: View<'_, T>,
        weight: &[f32],
        y: &mut [T],
        finish: impl Fn(Part<'_, T>) + Sync,
    ) -> Result<(), OpError> {
        let (cpu, conv) = (lane.host(), &self.conv);
        if !lane.offloads() || conv.is_depthwise() {
            conv.forward(cpu, &mut scratch.workspace, batch, x, weight, y, finish);
            return Ok(());
        }
        let input = self.input(batch);
        let mut x_floats = vec![0.0; input.len()];
        pass::make(cpu, input, x, &mut x_floats);
        let mut sums = vec![0.0; y.len()];
        offload::forward(conv, scratch, batch, &x_floats, weight, &mut sums, lane)?;
        pass::convert(cpu, &sums, y);
        let sample_len = self.output(1).len();
        for (sample, values) in y.chunks_mut(sample_len.max(1)).enumerate() {
            let at = sample * sample_len;
            finish(Part {
                member: 0,
                sample,
                at,
                values,
            });
        }
        Ok(())
    }

    fn input(&self, batch: usize) -> Extent {
        Extent {
            batch,
            positions: self.conv.window.input[0] * self.conv.window.input[1],
            channels: self.conv.window.channels,
        }
    }

    /// Writes the gradients asked for: of the input, of the weight, of the bias. `x` is read for the
    /// weight's alone.
    ///
    /// # Shapes
    /// as [`Product::forward`], g like y
    pub(crate) fn adjoint<T: Element>(
        &self,
        lane: &dyn Lane,
        scratch: &mut Scratch,
        batch: usize,
        (x, g): (View<'_, T>, View<'_, T>),
        weight: &[f32],
        into: Option<Into<'_, T>>,
        grads: &mut [Option<&mut [f32]>],
        finish: impl Fn(Part<'_, T>) + Sync,
    ) -> Result<(), OpError> {
        let (cpu, conv) = (lane.host(), &self.conv);
        if let Some(Some(db)) = grads.get_mut(1) {
            let sums = pass::channel_sums(cpu, self.output(batch), g);
            for (db, s) in db.iter_mut().zip(sums) {
                *db = s as f32;
            }
        }
        let dw = grads.first_mut().and_then(Option::as_deref_mut);
        if !lane.offloads() || conv.is_depthwise() {
            let workspace = &mut scratch.workspace;
            if let Some(dw) = dw {
                conv.weight_gradient(cpu, workspace, batch, x, g, dw);
            }
            if let Some(Into { write, dx }) = into {
                conv.input_gradient(cpu, workspace, batch, g, weight, write, dx, finish);
            }
            return Ok(());
        }
        let mut floats = vec![0.0; g.len()];
        pass::make(cpu, self.output(batch), g, &mut floats);
        if let Some(dw) = dw {
            let mut x_floats = vec![0.0; self.input(batch).len()];
            pass::make(cpu, self.input(batch), x, &mut x_floats);
            offload::weight_adjoint(conv, scratch, batch, &x_floats, &floats, dw, lane)?;
        }
        if let Some(Into { write, dx }) = into {
            let mut sums = vec![0.0; dx.len()];
            offload::input_adjoint(conv, scratch, batch, weight, &floats, &mut sums, lane)?;
            if write == Write::Add {
                for (s, d) in sums.iter_mut().zip(dx.iter()) {
                    *s += d.widen();
                }
            }
            pass::convert(cpu, &sums, dx);
            let sample_len = conv.window.image();
            for (sample, values) in dx.chunks_mut(sample_len.max(1)).enumerate() {
                let at = sample * sample_len;
                finish(Part {
                    member: 0,
                    sample,
                    at,
                    values,
                });
            }
        }
        Ok(())
    }
}

/// The operator alone: with its bias added.
pub(super) fn forward(product: &Product, cx: &mut Forward<'_>) -> Result<(), OpError> {
    let isa = cx.lane.host().isa();
    let mut bias = Vec::new();
    if let Some(b) = cx.params.get(1) {
        channels::tile(b, &mut bias);
    }
    let x = View::Plain(cx.inputs[0].data);
    product.forward(
        cx.lane,
        cx.scratch,
        cx.batch,
        x,
        cx.params[0],
        cx.output,
        |part| {
            if !bias.is_empty() {
                channels::add(isa, part.values, &bias);
            }
        },
    )
}

/// Its adjoint.
pub(super) fn adjoint(product: &Product, cx: &mut Adjoint<'_>) -> Result<(), OpError> {
    let (x, g) = (View::Plain(cx.inputs[0].data), View::Plain(cx.output_grad));
    let write = Write::Set;
    let into = cx.input_grads[0]
        .as_deref_mut()
        .map(|dx| Into { write, dx });
    product.adjoint(
        cx.lane,
        cx.scratch,
        cx.batch,
        (x, g),
        cx.params[0],
        into,
        cx.param_grads,
        |_| {},
    )
}
