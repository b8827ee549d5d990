//! Convolution in one and two dimensions as matrix products over tiles of positions.
//!
//! With `P` the matrix of patches (`[positions, taps * in]`, channels last) and `W` the weight
//! (`[out, taps * in]`): forward `Y = P Wᵀ`, weight gradient `dW = Gᵀ P`, input gradient
//! `dX = scatter(G W)`. Patches are made for a bounded tile of positions at a time and made anew in
//! the adjoint: memory stays the same however large batch and image are.

use super::{Adjoint, Forward, Op, OpError, linear::bias_gradient};
use crate::kernel::{
    channels, depthwise,
    layout::transpose,
    patch::{self, Window},
};
use crate::lane::{Lane, Mat, MatMut};

/// Most bytes of patches at a time (a single position wider than this takes what it needs).
pub const WORKSPACE_BYTES: usize = 4 << 20;

/// Bytes of patches aimed at: they should stay in a core's second-level cache.
const TILE_BYTES: usize = 512 << 10;

/// Positions a tile has at least where [`WORKSPACE_BYTES`] allows: thinner products waste the
/// time it takes to read and write the weight gradient.
const TILE_POSITIONS: usize = 256;

/// A convolution with its shapes worked out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    window: Window,
    out_channels: usize,
    groups: usize,
}

impl Plan {
    /// The plan of a convolution over inputs of this shape; one dimension is two with height 1.
    pub(super) fn of(op: &Op, shape: &[usize]) -> Result<Self, OpError> {
        let out = op.output_shape(&[&shape.to_vec()])?;
        let plane = |s: &[usize]| match *s {
            [_, h, w] => [h, w],
            _ => [1, super::positions(s)],
        };
        let (kernel, stride, padding, dilation, groups) = match op {
            Op::Conv1d(c) => (
                [1, c.kernel],
                [1, c.stride],
                [0, c.padding],
                [1, c.dilation],
                c.groups,
            ),
            Op::Conv2d(c) => (c.kernel, c.stride, c.padding, c.dilation, c.groups),
            _ => unreachable!("only convolutions come here"),
        };
        Ok(Self {
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
        })
    }

    /// Input channels of one group.
    fn group_in(&self) -> usize {
        self.window.channels / self.groups
    }

    /// Output channels of one group.
    fn group_out(&self) -> usize {
        self.out_channels / self.groups
    }

    /// Columns of the matrix of patches.
    fn depth(&self) -> usize {
        self.window.taps() * self.group_in()
    }

    /// One filter per channel: too thin for products.
    fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.group_in() == 1 && self.group_out() == 1
    }

    fn tile_positions(&self) -> usize {
        let row = self.depth() * size_of::<f32>();
        let most = (WORKSPACE_BYTES / row).max(1);
        (TILE_BYTES / row).max(TILE_POSITIONS).min(most)
    }

    /// The weight with taps before channels, as patches have them: `[out, taps, in / groups]`;
    /// for depthwise `[taps, channels]`.
    fn lay_out<'a>(&self, weight: &'a [f32], buffer: &'a mut Vec<f32>) -> &'a [f32] {
        let (rows, cols) = self.weight_matrix();
        if rows == 1 || cols == 1 {
            return weight;
        }
        buffer.resize(weight.len(), 0.0);
        transpose(weight, rows, cols, buffer);
        buffer
    }

    /// Rows and columns of the matrices [`Plan::lay_out`] transposes.
    fn weight_matrix(&self) -> (usize, usize) {
        if self.is_depthwise() {
            (self.window.channels, self.window.taps())
        } else {
            (self.group_in(), self.window.taps())
        }
    }

    /// A tile of patches of group `group`: from the image itself where they are the same.
    fn patches<'a>(
        &self,
        x: &'a [f32],
        group: usize,
        tile: std::ops::Range<usize>,
        buffer: &'a mut Vec<f32>,
    ) -> Result<Mat<'a>, OpError> {
        let (w, width) = (&self.window, self.group_in());
        let rows = tile.len();
        if w.is_identity() {
            let from = tile.start * w.channels + group * width;
            return Ok(Mat::new(&x[from..], rows, width, w.channels, 1)?);
        }
        let n = rows * self.depth();
        if buffer.len() < n {
            buffer.resize(n, 0.0);
        }
        patch::gather(
            x,
            w,
            group * width..(group + 1) * width,
            tile,
            &mut buffer[..n],
        );
        Ok(Mat::dense(&buffer[..n], rows, self.depth())?)
    }

    /// Cuts all positions of the batch into tiles.
    fn tiles(&self, batch: usize) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let all = batch * self.window.positions();
        let step = self.tile_positions();
        (0..all).step_by(step).map(move |q| q..(q + step).min(all))
    }
}

/// `Y = P Wᵀ + b`
///
/// # Shapes
/// x `[B, H, W, C]`, weight `[out, C / groups, kh, kw]`, y `[B, Ho, Wo, out]`
pub(super) fn forward(plan: &Plan, cx: &mut Forward<'_>) -> Result<(), OpError> {
    let x = cx.inputs[0].data;
    let scratch = &mut *cx.scratch;
    let weight = plan.lay_out(cx.params[0], &mut scratch.weight);
    if plan.is_depthwise() {
        let all = cx.batch * plan.window.positions();
        depthwise::forward(x, weight, &plan.window, 0..all, cx.output);
    } else {
        let (out, width, depth) = (plan.out_channels, plan.group_out(), plan.depth());
        for tile in plan.tiles(cx.batch) {
            for group in 0..plan.groups {
                let filters = &weight[group * width * depth..][..width * depth];
                let y = &mut cx.output[tile.start * out + group * width..];
                cx.lane.gemm(
                    1.0,
                    plan.patches(x, group, tile.clone(), &mut scratch.patches)?,
                    Mat::dense(filters, width, depth)?.transposed(),
                    0.0,
                    MatMut::new(y, tile.len(), width, out, 1)?,
                )?;
            }
        }
    }
    if let Some(bias) = cx.params.get(1) {
        channels::tile(bias, &mut scratch.tiles[0]);
        channels::add(cx.output, &scratch.tiles[0]);
    }
    Ok(())
}

/// `dX = scatter(G W)`, `dW = Gᵀ P`, `db = sum over positions of G`
pub(super) fn adjoint(plan: &Plan, cx: &mut Adjoint<'_>) -> Result<(), OpError> {
    if let Some(dx) = &mut cx.input_grads[0] {
        let weight = plan.lay_out(cx.params[0], &mut cx.scratch.weight);
        input_adjoint(
            plan,
            cx.batch,
            weight,
            cx.output_grad,
            dx,
            &mut cx.scratch.patches,
            cx.lane,
        )?;
    }
    if let Some(dw) = &mut cx.param_grads[0] {
        let x = cx.inputs[0].data;
        let scratch = &mut *cx.scratch;
        let (rows, cols) = plan.weight_matrix();
        if rows == 1 || cols == 1 {
            weight_adjoint(
                plan,
                cx.batch,
                x,
                cx.output_grad,
                dw,
                &mut scratch.patches,
                cx.lane,
            )?;
        } else {
            scratch.weight.resize(dw.len(), 0.0);
            let (laid, patches) = (&mut scratch.weight, &mut scratch.patches);
            weight_adjoint(plan, cx.batch, x, cx.output_grad, laid, patches, cx.lane)?;
            transpose(laid, cols, rows, dw);
        }
    }
    if let Some(Some(db)) = cx.param_grads.get_mut(1) {
        let scratch = &mut *cx.scratch;
        bias_gradient(
            cx.output_grad,
            db,
            &mut scratch.sums[0],
            &mut scratch.tiles[0],
        );
    }
    Ok(())
}

fn input_adjoint(
    plan: &Plan,
    batch: usize,
    weight: &[f32],
    grad: &[f32],
    dx: &mut [f32],
    buffer: &mut Vec<f32>,
    lane: &dyn Lane,
) -> Result<(), OpError> {
    let w = &plan.window;
    if plan.is_depthwise() {
        dx.fill(0.0);
        depthwise::input_adjoint(grad, weight, w, 0..batch * w.positions(), dx);
        return Ok(());
    }
    let (out, width, depth) = (plan.out_channels, plan.group_out(), plan.depth());
    let group_in = plan.group_in();
    if !w.is_identity() {
        dx.fill(0.0);
    }
    for tile in plan.tiles(batch) {
        let rows = tile.len();
        for group in 0..plan.groups {
            let filters = &weight[group * width * depth..][..width * depth];
            let g = Mat::new(
                &grad[tile.start * out + group * width..],
                rows,
                width,
                out,
                1,
            )?;
            let filters = Mat::dense(filters, width, depth)?;
            if w.is_identity() {
                let dx = &mut dx[tile.start * w.channels + group * group_in..];
                let dx = MatMut::new(dx, rows, depth, w.channels, 1)?;
                lane.gemm(1.0, g, filters, 0.0, dx)?;
                continue;
            }
            if buffer.len() < rows * depth {
                buffer.resize(rows * depth, 0.0);
            }
            let patches = &mut buffer[..rows * depth];
            lane.gemm(1.0, g, filters, 0.0, MatMut::dense(patches, rows, depth)?)?;
            let channels = group * group_in..(group + 1) * group_in;
            patch::scatter_add(patches, w, channels, tile.clone(), dx);
        }
    }
    Ok(())
}

/// Writes the weight gradient in the order of [`Plan::lay_out`].
fn weight_adjoint(
    plan: &Plan,
    batch: usize,
    x: &[f32],
    grad: &[f32],
    dw: &mut [f32],
    buffer: &mut Vec<f32>,
    lane: &dyn Lane,
) -> Result<(), OpError> {
    let w = &plan.window;
    if plan.is_depthwise() {
        dw.fill(0.0);
        depthwise::weight_adjoint(x, grad, w, 0..batch * w.positions(), dw);
        return Ok(());
    }
    let (out, width, depth) = (plan.out_channels, plan.group_out(), plan.depth());
    if batch == 0 {
        dw.fill(0.0);
    }
    for tile in plan.tiles(batch) {
        let beta = if tile.start == 0 { 0.0 } else { 1.0 };
        for group in 0..plan.groups {
            let g = &grad[tile.start * out + group * width..];
            let g = Mat::new(g, tile.len(), width, out, 1)?;
            let dw = &mut dw[group * width * depth..][..width * depth];
            lane.gemm(
                1.0,
                g.transposed(),
                plan.patches(x, group, tile.clone(), buffer)?,
                beta,
                MatMut::dense(dw, width, depth)?,
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Conv2d;

    #[test]
    fn tiles_cover_every_position_within_the_workspace() {
        for channels in [1, 3, 64, 512, 4096] {
            let op = Op::Conv2d(Conv2d {
                in_channels: channels,
                out_channels: 8,
                kernel: [3, 3],
                stride: [1, 1],
                padding: [1, 1],
                dilation: [1, 1],
                groups: 1,
                bias: false,
            });
            let plan = Plan::of(&op, &[channels, 40, 30]).expect("plan");
            let mut next = 0;
            for tile in plan.tiles(7) {
                assert_eq!(tile.start, next);
                assert!(tile.len() * plan.depth() * 4 <= WORKSPACE_BYTES);
                next = tile.end;
            }
            assert_eq!(next, 7 * 1200);
        }
    }
}
