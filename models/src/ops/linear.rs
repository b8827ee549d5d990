//! Fully connected layer: `Y = X Wᵀ + b`.

use super::{Adjoint, Forward, Linear, OpError};
use crate::kernel::channels;
use crate::lane::{Mat, MatMut};

/// # Shapes
/// X `[B, I]`, W `[O, I]`, b `[O]`, Y `[B, O]`
pub(super) fn forward(l: &Linear, cx: &mut Forward<'_>) -> Result<(), OpError> {
    let (i, o) = (l.in_features, l.out_features);
    cx.lane.gemm(
        1.0,
        Mat::dense(cx.inputs[0].data, cx.batch, i)?,
        Mat::dense(cx.params[0], o, i)?.transposed(),
        0.0,
        MatMut::dense(cx.output, cx.batch, o)?,
    )?;
    if let Some(bias) = cx.params.get(1) {
        channels::tile(bias, &mut cx.scratch.tiles[0]);
        channels::add(cx.output, &cx.scratch.tiles[0]);
    }
    Ok(())
}

/// `dX = G W`, `dW = Gᵀ X`, `db = sum over samples of G`
pub(super) fn adjoint(l: &Linear, cx: &mut Adjoint<'_>) -> Result<(), OpError> {
    let (i, o) = (l.in_features, l.out_features);
    let g = Mat::dense(cx.output_grad, cx.batch, o)?;
    if let Some(dx) = &mut cx.input_grads[0] {
        let w = Mat::dense(cx.params[0], o, i)?;
        cx.lane
            .gemm(1.0, g, w, 0.0, MatMut::dense(dx, cx.batch, i)?)?;
    }
    if let Some(dw) = &mut cx.param_grads[0] {
        let x = Mat::dense(cx.inputs[0].data, cx.batch, i)?;
        cx.lane
            .gemm(1.0, g.transposed(), x, 0.0, MatMut::dense(dw, o, i)?)?;
    }
    if let Some(Some(db)) = cx.param_grads.get_mut(1) {
        bias_gradient(
            cx.output_grad,
            db,
            &mut cx.scratch.sums[0],
            &mut cx.scratch.tiles[0],
        );
    }
    Ok(())
}

/// Sum over all rows, for a bias of a linear layer or a convolution.
pub(super) fn bias_gradient(
    g: &[f32],
    db: &mut [f32],
    sums: &mut Vec<f64>,
    partial: &mut Vec<f32>,
) {
    sums.clear();
    sums.resize(db.len(), 0.0);
    channels::sum(g, sums, partial);
    for (db, s) in db.iter_mut().zip(sums) {
        *db = *s as f32;
    }
}
