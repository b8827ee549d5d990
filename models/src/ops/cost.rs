//! What an operator costs per sample, from shapes alone.

use std::ops::Add;

use serde::{Deserialize, Serialize};

use super::{Gru, Op, ParamRole, ShapeError};
use crate::graph::Shape;

/// Work and traffic of one operator for **one sample**.
///
/// A multiplication and an addition count as one operation each, so a convolution takes
/// `2 Cout Ho Wo (Cin / g) Kh Kw`. Bytes count each value moved once, in F32; weights are moved once
/// per batch and stand apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Operations of the forward.
    pub forward_flop: u64,
    /// Operations of the input gradients.
    pub input_adjoint_flop: u64,
    /// Operations of the parameter gradients.
    pub param_adjoint_flop: u64,
    /// Bytes of activations the forward reads.
    pub bytes_read: u64,
    /// Bytes of activations the forward writes.
    pub bytes_written: u64,
    /// Bytes of parameters the forward reads (statistics included).
    pub bytes_weights: u64,
}

impl Cost {
    /// Cost of [`super::softmax_cross_entropy`] for one sample: largest logit, difference,
    /// exponential and sum take 4 operations a class; the gradient divides and scales each.
    #[must_use]
    pub fn of_softmax_cross_entropy(classes: usize) -> Self {
        let logits = classes as u64;
        Self {
            forward_flop: logits.saturating_mul(4),
            input_adjoint_flop: logits.saturating_mul(2),
            bytes_read: logits.saturating_mul(4),
            // The loss, an F64.
            bytes_written: 8,
            ..Self::default()
        }
    }

    /// Operations of a full training step: forward and both gradients.
    #[must_use]
    pub fn step_flop(&self) -> u64 {
        self.forward_flop
            .saturating_add(self.input_adjoint_flop)
            .saturating_add(self.param_adjoint_flop)
    }
}

impl Add for Cost {
    type Output = Self;

    fn add(self, b: Self) -> Self {
        Self {
            forward_flop: self.forward_flop.saturating_add(b.forward_flop),
            input_adjoint_flop: self.input_adjoint_flop.saturating_add(b.input_adjoint_flop),
            param_adjoint_flop: self.param_adjoint_flop.saturating_add(b.param_adjoint_flop),
            bytes_read: self.bytes_read.saturating_add(b.bytes_read),
            bytes_written: self.bytes_written.saturating_add(b.bytes_written),
            bytes_weights: self.bytes_weights.saturating_add(b.bytes_weights),
        }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), Add::add)
    }
}

/// Product that stays at the largest number rather than wrap: shapes may come from a file.
fn product(factors: &[usize]) -> u64 {
    factors
        .iter()
        .fold(1_u64, |n, &f| n.saturating_mul(f as u64))
}

impl Op {
    /// Cost for one sample with inputs of these shapes.
    ///
    /// # Errors
    /// [`ShapeError`] when the operator does not take them.
    pub fn cost(&self, inputs: &[&Shape]) -> Result<Cost, ShapeError> {
        let output = self.output_shape(inputs)?;
        let out = product(&output);
        let read = inputs
            .iter()
            .fold(0_u64, |n, s| n.saturating_add(product(s)));
        let params = self.params();
        let weights = params
            .iter()
            .fold(0_u64, |n, p| n.saturating_add(product(&p.shape)));
        let has_bias = params.iter().any(|p| p.role == ParamRole::Bias);
        let bias = if has_bias { out } else { 0 };

        // Operations per pass: forward, input gradients, parameter gradients.
        let (forward, input, param) = match self {
            Self::Conv1d(_) | Self::Conv2d(_) | Self::Linear(_) => {
                // Each output value is one dot product with its filter: all but the first
                // dimension of the weight.
                let filter = product(&params[0].shape[1..]);
                let products = out.saturating_mul(filter).saturating_mul(2);
                let with_bias = products.saturating_add(bias);
                (with_bias, products, with_bias)
            }
            Self::Gru(g) => recurrent(g, inputs[0][1]),
            // Mean 1, squares 3, map 4; adjoint: sums 4 (shared, counted with the parameters), map 5.
            Self::BatchNorm(_) | Self::GroupNorm(_) => (
                out.saturating_mul(8),
                out.saturating_mul(5),
                out.saturating_mul(4),
            ),
            Self::Relu | Self::Relu6 => (out, out, 0),
            Self::MaxPool1d(p) | Self::AvgPool1d(p) => pooling(self, out, &[p.kernel]),
            Self::MaxPool2d(p) | Self::AvgPool2d(p) => pooling(self, out, &p.kernel),
            Self::GlobalAvgPool => (read, read, 0),
            Self::Add => (out, 0, 0),
            Self::Flatten => (0, 0, 0),
        };
        Ok(Cost {
            forward_flop: forward,
            input_adjoint_flop: input,
            param_adjoint_flop: param,
            bytes_read: read.saturating_mul(4),
            bytes_written: out.saturating_mul(4),
            bytes_weights: weights.saturating_mul(4),
        })
    }
}

/// A window costs its taps; the adjoint of a maximum touches one value, of a mean all of them.
fn pooling(op: &Op, out: u64, kernel: &[usize]) -> (u64, u64, u64) {
    let forward = out.saturating_mul(product(kernel));
    match op {
        Op::MaxPool1d(_) | Op::MaxPool2d(_) => (forward, out, 0),
        _ => (forward, forward, 0),
    }
}

/// A step takes two products (`3 H C` and `3 H H` terms), 4 additions of biases to each unit, 3 gates
/// with a product and a sum before the last, and 3 operations for the new state.
///
/// The adjoint makes the gates anew, takes 17 operations for the gradients of their sums and one
/// product on to the step before: shared, counted with the parameters, as are their own two products and
/// the biases' sums. The input's gradient is one product.
fn recurrent(g: &Gru, steps: usize) -> (u64, u64, u64) {
    let units = product(&[g.hidden, steps]);
    let by_input = product(&[6, g.input, g.hidden, steps]);
    let by_state = product(&[6, g.hidden, g.hidden, steps]);
    let sum = |terms: [u64; 3]| terms.into_iter().fold(0, u64::saturating_add);
    let gates = sum([by_input, by_state, units.saturating_mul(9)]);
    let forward = gates.saturating_add(units.saturating_mul(3));
    let gradients = sum([by_state, units.saturating_mul(17), gates]);
    let own = sum([by_input, by_state, units.saturating_mul(4)]);
    (forward, by_input, gradients.saturating_add(own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{BatchNorm, Conv1d, Conv2d, GroupNorm, GruOutput, Linear, Pool1d, Pool2d};

    #[test]
    fn a_grouped_convolution_follows_the_formula() {
        let conv = Op::Conv2d(Conv2d {
            in_channels: 8,
            out_channels: 12,
            kernel: [3, 5],
            stride: [2, 1],
            padding: [1, 2],
            dilation: [1, 1],
            groups: 4,
            bias: false,
        });
        let cost = conv.cost(&[&vec![8, 16, 10]]).expect("cost");
        let flop = 2 * 12 * 8 * 10 * (8 / 4) * 3 * 5;
        assert_eq!(cost.forward_flop, flop);
        assert_eq!(cost.step_flop(), 3 * flop);
        assert_eq!(cost.bytes_read, 4 * 8 * 16 * 10);
        assert_eq!(cost.bytes_written, 4 * 12 * 8 * 10);
        assert_eq!(cost.bytes_weights, 4 * 12 * 2 * 15);
    }

    #[test]
    fn every_operator_counts_what_its_loops_do() {
        let check = |op: Op, inputs: &[Shape], flop: [u64; 3], bytes: [u64; 3]| {
            let cost = op.cost(&inputs.iter().collect::<Vec<_>>()).expect("cost");
            let kind = op.kind();
            let got = [
                cost.forward_flop,
                cost.input_adjoint_flop,
                cost.param_adjoint_flop,
            ];
            assert_eq!(got, flop, "{kind}: operations");
            let got = [cost.bytes_read, cost.bytes_written, cost.bytes_weights];
            assert_eq!(got, bytes.map(|values| 4 * values), "{kind}: bytes");
        };
        // 4 outputs at 5 places, each a product of 3 channels with 2 taps and a bias.
        let conv1d = Op::Conv1d(Conv1d {
            in_channels: 3,
            out_channels: 4,
            kernel: 2,
            stride: 2,
            padding: 0,
            dilation: 1,
            groups: 1,
            bias: true,
        });
        let products = 2 * 20 * 6;
        let flop = [products + 20, products, products + 20];
        check(conv1d, &[vec![3, 10]], flop, [30, 20, 24 + 4]);
        let linear = Op::Linear(Linear {
            in_features: 7,
            out_features: 5,
            bias: true,
        });
        check(linear, &[vec![7]], [75, 70, 75], [7, 5, 40]);
        // 5 steps of 4 units that read 3 channels: products of 360 and 480 operations.
        let gru = |output| {
            Op::Gru(Gru {
                input: 3,
                hidden: 4,
                output,
            })
        };
        let gates = 360 + 480 + 20 * 9;
        let flop = [
            gates + 20 * 3,
            360,
            gates + 480 + 20 * 17 + 360 + 480 + 20 * 4,
        ];
        let weights = 12 * 3 + 12 * 4 + 24;
        check(
            gru(GruOutput::Sequence),
            &[vec![3, 5]],
            flop,
            [15, 20, weights],
        );
        check(gru(GruOutput::Last), &[vec![3, 5]], flop, [15, 4, weights]);
        let batch = Op::BatchNorm(BatchNorm {
            channels: 3,
            eps: 1e-5,
            momentum: 0.1,
        });
        check(batch, &[vec![3, 4]], [96, 60, 48], [12, 12, 12]);
        let group = Op::GroupNorm(GroupNorm {
            channels: 4,
            groups: 2,
            eps: 1e-5,
        });
        check(group, &[vec![4, 3]], [96, 60, 48], [12, 12, 8]);
        check(Op::Relu, &[vec![3, 4]], [12, 12, 0], [12, 12, 0]);
        let sum = [vec![3, 4], vec![3, 4]];
        check(Op::Add, &sum, [12, 0, 0], [24, 12, 0]);
        check(Op::Flatten, &[vec![3, 4]], [0, 0, 0], [12, 12, 0]);
        let mean = [12, 12, 0];
        check(Op::GlobalAvgPool, &[vec![3, 4]], mean, [12, 3, 0]);
        // Windows of 3 with step 2 over 9 values are 4.
        let line = || Pool1d {
            kernel: 3,
            stride: 2,
            padding: 0,
        };
        let lines = [vec![2, 9]];
        check(Op::MaxPool1d(line()), &lines, [24, 8, 0], [18, 8, 0]);
        check(Op::AvgPool1d(line()), &lines, [24, 24, 0], [18, 8, 0]);
        let plane = || Pool2d {
            kernel: [2, 3],
            stride: [2, 3],
            padding: [0, 0],
        };
        let planes = [vec![1, 4, 6]];
        check(Op::MaxPool2d(plane()), &planes, [24, 4, 0], [24, 4, 0]);
        check(Op::AvgPool2d(plane()), &planes, [24, 24, 0], [24, 4, 0]);
    }

    #[test]
    fn the_loss_costs_a_few_operations_a_class() {
        let cost = Cost::of_softmax_cross_entropy(10);
        assert_eq!((cost.forward_flop, cost.step_flop()), (40, 60));
        assert_eq!((cost.bytes_read, cost.bytes_written), (40, 8));
    }

    #[test]
    fn absurd_sizes_saturate() {
        let linear = Op::Linear(Linear {
            in_features: usize::MAX,
            out_features: usize::MAX,
            bias: true,
        });
        let cost = linear.cost(&[&vec![usize::MAX]]).expect("cost");
        assert_eq!(cost.forward_flop, u64::MAX);
    }
}
