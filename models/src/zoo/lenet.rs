//! The small classic for digits.

use super::ZooError;
use super::build::{Builder, at_least_one};
use crate::graph::Graph;
use crate::ops::{Conv2d, Op};
use crate::zoo::Norm;

/// LeNet-5 in its modern form: rectifiers and max pooling.
///
/// Two 5 x 5 convolutions of 6 and 16 channels with bias (the first padded by 2), each with 2 x 2 max
/// pooling, then hidden layers of 120 and 84 and a linear head. It has no norm. Nodes are `conv1`,
/// `relu1`, `pool1`, `conv2`, …, `flatten`, `hidden1`, `hidden2`, `head`.
///
/// # Shapes
/// `input` (`[channels, height, width]`, sides of at least 12) `-> [classes]`
/// # Errors
/// [`ZooError`] when `classes` or a dimension is 0 or the image is too small.
/// # Source
/// LeCun et al. 1998, "Gradient-based learning applied to document recognition", figure 2.
pub fn lenet(input: [usize; 3], classes: usize) -> Result<Graph, ZooError> {
    at_least_one(input, classes)?;
    // No norm is asked for, so which one does not matter.
    let mut builder = Builder::new(input.to_vec(), Norm::Batch);
    let mut from = Graph::INPUT.to_owned();
    let mut channels = input[0];
    for (i, width, padding) in [(1, 6, 2), (2, 16, 0)] {
        let conv = Op::Conv2d(Conv2d {
            in_channels: channels,
            out_channels: width,
            kernel: [5; 2],
            stride: [1; 2],
            padding: [padding; 2],
            dilation: [1; 2],
            groups: 1,
            bias: true,
        });
        let conv = builder.node(format!("conv{i}"), conv, &[&from]);
        let relu = builder.node(format!("relu{i}"), Op::Relu, &[&conv]);
        from = builder.max_pool(format!("pool{i}"), 2, 2, 0, &relu);
        channels = width;
    }
    let mut features = builder.values(&from)?;
    from = builder.node("flatten".into(), Op::Flatten, &[&from]);
    for (i, width) in [(1, 120), (2, 84)] {
        let hidden = builder.linear(format!("hidden{i}"), [features, width], &from);
        from = builder.node(format!("hidden{i}.relu"), Op::Relu, &[&hidden]);
        features = width;
    }
    let head = builder.linear("head".into(), [features, classes], &from);
    builder.finish(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo::moving_values;

    #[test]
    fn it_has_the_known_parameter_count_on_digits() {
        assert_eq!(moving_values(&lenet([1, 28, 28], 10).unwrap()), 61_706);
        assert!(lenet([1, 8, 8], 10).is_err(), "too small");
    }
}
