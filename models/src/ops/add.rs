//! Sum of two values: where a residual branch joins.

use super::{Adjoint, Forward};
use crate::kernel::elementwise;

/// `y = a + b`
pub(super) fn forward(cx: &mut Forward<'_>) {
    elementwise::add(cx.inputs[0].data, cx.inputs[1].data, cx.output);
}

/// `da = db = dy`
pub(super) fn adjoint(cx: &mut Adjoint<'_>) {
    for dx in cx.input_grads.iter_mut().flatten() {
        dx.copy_from_slice(cx.output_grad);
    }
}
