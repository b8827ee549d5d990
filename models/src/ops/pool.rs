//! Pooling: maximum and mean over windows of any kernel and stride, and the mean over everything.

use super::{Adjoint, Forward, Op, OpError, positions};
use crate::kernel::{patch::Window, pool};

/// The window, and whether it takes the maximum.
fn window(op: &Op, shape: &[usize]) -> Result<(Window, bool), OpError> {
    let out = op.output_shape(&[&shape.to_vec()])?;
    let flat = |kernel, stride, padding| ([1, kernel], [1, stride], [0, padding]);
    let ((kernel, stride, padding), is_max) = match op {
        Op::MaxPool1d(p) => (flat(p.kernel, p.stride, p.padding), true),
        Op::AvgPool1d(p) => (flat(p.kernel, p.stride, p.padding), false),
        Op::MaxPool2d(p) => ((p.kernel, p.stride, p.padding), true),
        Op::AvgPool2d(p) => ((p.kernel, p.stride, p.padding), false),
        _ => unreachable!("only pooling operators come here"),
    };
    let plane = |s: &[usize]| match *s {
        [_, h, w] => [h, w],
        _ => [1, positions(s)],
    };
    let window = Window {
        channels: shape[0],
        input: plane(shape),
        output: plane(&out),
        kernel,
        stride,
        padding,
        dilation: [1, 1],
    };
    Ok((window, is_max))
}

/// `y[p] = max or mean over the window at p`
pub(super) fn forward(op: &Op, cx: &mut Forward<'_>) -> Result<(), OpError> {
    let x = cx.inputs[0];
    let (w, is_max) = window(op, x.shape)?;
    if is_max {
        cx.saved.places.resize(cx.output.len(), 0);
        pool::max(x.data, &w, cx.output, &mut cx.saved.places);
    } else {
        pool::mean(x.data, &w, cx.output);
    }
    Ok(())
}

/// The gradient goes to the winner, or in equal shares to all taps.
pub(super) fn adjoint(op: &Op, cx: &mut Adjoint<'_>) -> Result<(), OpError> {
    let (w, is_max) = window(op, cx.inputs[0].shape)?;
    let Some(dx) = &mut cx.input_grads[0] else {
        return Ok(());
    };
    if is_max {
        super::expect_len(
            "the saved places",
            cx.saved.places.len(),
            cx.output_grad.len(),
        )?;
        pool::max_adjoint(cx.output_grad, &cx.saved.places, &w, dx);
    } else {
        pool::mean_adjoint(cx.output_grad, &w, dx);
    }
    Ok(())
}

/// `y[c] = mean over all positions of x[., c]`
pub(super) fn global_forward(cx: &mut Forward<'_>) {
    let x = cx.inputs[0];
    pool::global_mean(x.data, positions(x.shape), x.shape[0], cx.output);
}

/// `dx[p, c] = dy[c] / P`
pub(super) fn global_adjoint(cx: &mut Adjoint<'_>) {
    let shape = cx.inputs[0].shape;
    if let Some(dx) = &mut cx.input_grads[0] {
        pool::global_mean_adjoint(cx.output_grad, positions(shape), shape[0], dx);
    }
}
