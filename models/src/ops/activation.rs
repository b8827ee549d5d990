//! The rectifiers.

use super::{Adjoint, Forward};
use crate::kernel::elementwise;

/// `y = min(max(x, 0), most)`
pub(super) fn forward(cx: &mut Forward<'_>, most: f32) {
    elementwise::relu(cx.inputs[0].data, most, cx.output);
}

/// `dx = dy where 0 < y < most`
pub(super) fn adjoint(cx: &mut Adjoint<'_>, most: f32) {
    if let Some(dx) = &mut cx.input_grads[0] {
        elementwise::relu_adjoint(cx.output, most, cx.output_grad, dx);
    }
}
