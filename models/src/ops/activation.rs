//! The rectifier.

use super::{Adjoint, Forward};
use crate::kernel::elementwise;

/// `y = max(x, 0)`
pub(super) fn forward(cx: &mut Forward<'_>) {
    elementwise::relu(cx.inputs[0].data, cx.output);
}

/// `dx = dy where y > 0`
pub(super) fn adjoint(cx: &mut Adjoint<'_>) {
    if let Some(dx) = &mut cx.input_grads[0] {
        elementwise::relu_adjoint(cx.output, cx.output_grad, dx);
    }
}
