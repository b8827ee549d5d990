//! Convolutions as matrix products over tiles of positions, for lanes that multiply matrices.
//!
//! With `P` the matrix of patches (`[positions, taps * in]`, channels last) and `W` the weight
//! (`[out, taps * in]`): forward `Y = P Wᵀ`, weight gradient `dW = Gᵀ P`, input gradient
//! `dX = scatter(G W)`. Patches are made for a bounded tile of positions at a time and made anew in
//! the adjoint: memory stays the same however large batch and image are.

use super::{OpError, Scratch};
use crate::kernel::conv::Conv;
use crate::kernel::layout::transpose;
use crate::kernel::patch;
use crate::lane::{Lane, Mat, MatMut};

/// Most bytes of patches at a time (a single position wider than this takes what it needs).
pub const WORKSPACE_BYTES: usize = 4 << 20;

/// Bytes of patches aimed at: they should stay in a core's second-level cache.
const TILE_BYTES: usize = 512 << 10;

/// Positions a tile has at least where [`WORKSPACE_BYTES`] allows: thinner products waste the
/// time it takes to read and write the weight gradient.
const TILE_POSITIONS: usize = 256;

/// How a convolution is cut into products.
struct Tiling<'a>(&'a Conv);

impl Tiling<'_> {
    /// Input channels of one group.
    fn group_in(&self) -> usize {
        self.0.window.channels / self.0.groups
    }

    /// Output channels of one group.
    fn group_out(&self) -> usize {
        self.0.out_channels / self.0.groups
    }

    /// Columns of the matrix of patches.
    fn depth(&self) -> usize {
        self.0.window.taps() * self.group_in()
    }

    fn tile_positions(&self) -> usize {
        let row = self.depth() * size_of::<f32>();
        let most = (WORKSPACE_BYTES / row).max(1);
        (TILE_BYTES / row).max(TILE_POSITIONS).min(most)
    }

    /// The weight with taps before channels, as patches have them: `[out, taps, in / groups]`.
    fn lay_out<'a>(&self, weight: &'a [f32], buffer: &'a mut Vec<f32>) -> &'a [f32] {
        let (rows, cols) = (self.group_in(), self.0.window.taps());
        if rows == 1 || cols == 1 {
            return weight;
        }
        buffer.resize(weight.len(), 0.0);
        transpose(weight, rows, cols, buffer);
        buffer
    }

    /// A tile of patches of group `group`: from the image itself where they are the same.
    fn patches<'a>(
        &self,
        x: &'a [f32],
        group: usize,
        tile: std::ops::Range<usize>,
        buffer: &'a mut Vec<f32>,
    ) -> Result<Mat<'a>, OpError> {
        let (w, width) = (&self.0.window, self.group_in());
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
        let all = batch * self.0.window.positions();
        let step = self.tile_positions();
        (0..all).step_by(step).map(move |q| q..(q + step).min(all))
    }
}

/// `Y = P Wᵀ`
///
/// # Shapes
/// x `[B, H, W, C]`, weight `[out, C / groups, kh, kw]`, y `[B, Ho, Wo, out]`
pub(super) fn forward(
    conv: &Conv,
    scratch: &mut Scratch,
    batch: usize,
    x: &[f32],
    weight: &[f32],
    y: &mut [f32],
    lane: &dyn Lane,
) -> Result<(), OpError> {
    let tiling = Tiling(conv);
    let weight = tiling.lay_out(weight, &mut scratch.weight);
    let (out, width, depth) = (conv.out_channels, tiling.group_out(), tiling.depth());
    for tile in tiling.tiles(batch) {
        for group in 0..conv.groups {
            let filters = &weight[group * width * depth..][..width * depth];
            let y = &mut y[tile.start * out + group * width..];
            lane.gemm(
                1.0,
                tiling.patches(x, group, tile.clone(), &mut scratch.patches)?,
                Mat::dense(filters, width, depth)?.transposed(),
                0.0,
                MatMut::new(y, tile.len(), width, out, 1)?,
            )?;
        }
    }
    Ok(())
}

/// `dX = scatter(G W)`
///
/// # Shapes
/// as [`forward`], grad like y, dx like x
pub(super) fn input_adjoint(
    conv: &Conv,
    scratch: &mut Scratch,
    batch: usize,
    weight: &[f32],
    grad: &[f32],
    dx: &mut [f32],
    lane: &dyn Lane,
) -> Result<(), OpError> {
    let tiling = Tiling(conv);
    let w = &conv.window;
    let Scratch {
        patches: buffer,
        weight: laid,
        ..
    } = scratch;
    let weight = tiling.lay_out(weight, laid);
    let (out, width, depth) = (conv.out_channels, tiling.group_out(), tiling.depth());
    let group_in = tiling.group_in();
    if !w.is_identity() {
        dx.fill(0.0);
    }
    for tile in tiling.tiles(batch) {
        let rows = tile.len();
        for group in 0..conv.groups {
            let filters = &weight[group * width * depth..][..width * depth];
            let g = &grad[tile.start * out + group * width..];
            let g = Mat::new(g, rows, width, out, 1)?;
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

/// `dW = Gᵀ P`
///
/// # Shapes
/// as [`forward`], grad like y, dw like weight
pub(super) fn weight_adjoint(
    conv: &Conv,
    scratch: &mut Scratch,
    batch: usize,
    x: &[f32],
    grad: &[f32],
    dw: &mut [f32],
    lane: &dyn Lane,
) -> Result<(), OpError> {
    let tiling = Tiling(conv);
    let (out, width, depth) = (conv.out_channels, tiling.group_out(), tiling.depth());
    let Scratch {
        patches: buffer,
        weight: laid,
        ..
    } = scratch;
    laid.clear();
    laid.resize(dw.len(), 0.0);
    for tile in tiling.tiles(batch) {
        for group in 0..conv.groups {
            let g = &grad[tile.start * out + group * width..];
            let g = Mat::new(g, tile.len(), width, out, 1)?;
            let dw = &mut laid[group * width * depth..][..width * depth];
            lane.gemm(
                1.0,
                g.transposed(),
                tiling.patches(x, group, tile.clone(), buffer)?,
                1.0,
                MatMut::dense(dw, width, depth)?,
            )?;
        }
    }
    transpose(laid, conv.window.taps(), tiling.group_in(), dw);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::patch::Window;

    #[test]
    fn tiles_cover_every_position_within_the_workspace() {
        for channels in [1, 3, 64, 512, 4096] {
            let conv = Conv {
                window: Window {
                    channels,
                    input: [40, 30],
                    output: [40, 30],
                    kernel: [3, 3],
                    stride: [1, 1],
                    padding: [1, 1],
                    dilation: [1, 1],
                },
                out_channels: 8,
                groups: 1,
            };
            let tiling = Tiling(&conv);
            let mut next = 0;
            for tile in tiling.tiles(7) {
                assert_eq!(tile.start, next);
                assert!(tile.len() * tiling.depth() * 4 <= WORKSPACE_BYTES);
                next = tile.end;
            }
            assert_eq!(next, 7 * 1200);
        }
    }
}
