//! `[C, P...]` to `[C * P]`: features are ordered channel by channel, as other programs order them.

use super::{Adjoint, Forward, positions};
use crate::kernel::layout::transpose;

/// `y[c * P + p] = x[p, c]`
pub(super) fn forward(cx: &mut Forward<'_>) {
    let x = cx.inputs[0];
    transpose(x.data, positions(x.shape), x.shape[0], cx.output);
}

/// `dx[p, c] = dy[c * P + p]`
pub(super) fn adjoint(cx: &mut Adjoint<'_>) {
    let shape = cx.inputs[0].shape;
    if let Some(dx) = &mut cx.input_grads[0] {
        transpose(cx.output_grad, shape[0], positions(shape), dx);
    }
}
