//! Plain stacks of 3 x 3 convolutions with norms.

use super::build::{Builder, at_least_one};
use super::{Norm, ZooError};
use crate::graph::Graph;
use crate::ops::Op;

/// Features of the two hidden layers.
const HIDDEN: usize = 4096;

/// Weight layers of such a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layers {
    /// 8 convolutions: 1, 1, 2, 2, 2 in the stages.
    L11,
    /// 13 convolutions: 2, 2, 3, 3, 3 in the stages.
    L16,
}

impl Layers {
    fn convolutions(self) -> [usize; 5] {
        match self {
            Self::L11 => [1, 1, 2, 2, 2],
            Self::L16 => [2, 2, 3, 3, 3],
        }
    }
}

/// A VGG network for images.
///
/// Five stages of 3 x 3 convolutions at 64, 128, 256, 512 and 512 channels, each followed by a norm and
/// a rectifier, each stage by 2 x 2 max pooling; then two hidden layers of 4096 and a linear head over
/// all that is left of the image. Convolutions have no bias, for the norm behind them has one; there is
/// no dropout. Nodes are `stage{1..5}.conv{i}`, `stage{i}.pool`, `flatten`, `hidden{1,2}`, `head`.
///
/// # Shapes
/// `input` (`[channels, height, width]`, sides of at least 32) `-> [classes]`
/// # Errors
/// [`ZooError`] when `classes` or a dimension is 0, sides are too small, or norm groups do not divide a
/// width.
/// # Source
/// Simonyan and Zisserman 2015, "Very deep convolutional networks for large-scale image recognition",
/// table 1, columns A and D, with norms.
pub fn vgg(
    layers: Layers,
    input: [usize; 3],
    classes: usize,
    norm: Norm,
) -> Result<Graph, ZooError> {
    at_least_one(input, classes)?;
    let mut builder = Builder::new(input.to_vec(), norm);
    let mut from = Graph::INPUT.to_owned();
    let mut channels = input[0];
    let widths = [64, 128, 256, 512, 512];
    for (stage, (width, count)) in (1..).zip(widths.into_iter().zip(layers.convolutions())) {
        let prefix = format!("stage{stage}");
        for i in 1..=count {
            let number = i.to_string();
            let norm = builder.conv_norm(&prefix, &number, [channels, width], 3, 1, &from)?;
            from = builder.node(format!("{prefix}.relu{i}"), Op::Relu, &[&norm]);
            channels = width;
        }
        from = builder.max_pool(format!("{prefix}.pool"), 2, 2, 0, &from);
    }
    let mut features = builder.values(&from)?;
    from = builder.node("flatten".into(), Op::Flatten, &[&from]);
    for i in 1..=2 {
        let hidden = builder.linear(format!("hidden{i}"), [features, HIDDEN], &from);
        from = builder.node(format!("hidden{i}.relu"), Op::Relu, &[&hidden]);
        features = HIDDEN;
    }
    let head = builder.linear("head".into(), [features, classes], &from);
    builder.finish(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo::moving_values;

    #[test]
    fn each_has_its_known_parameter_count_but_for_the_convolutions_biases() {
        for (layers, count, biases) in [
            (Layers::L11, 132_868_840, 64 + 128 + 2 * 256 + 4 * 512),
            (
                Layers::L16,
                138_365_992,
                2 * 64 + 2 * 128 + 3 * 256 + 6 * 512,
            ),
        ] {
            let graph = vgg(layers, [3, 224, 224], 1000, Norm::Batch).unwrap();
            assert_eq!(moving_values(&graph), count - biases, "{layers:?}");
        }
    }

    #[test]
    fn small_images_are_taken_down_to_one_position() {
        let graph = vgg(Layers::L11, [3, 32, 32], 10, Norm::Group { groups: 8 }).unwrap();
        let checked = graph.check().unwrap();
        let at = |name: &str| checked.nodes.iter().position(|n| n.name == name).unwrap();
        assert_eq!(checked.shapes[at("stage5.pool")], [512, 1, 1]);
        assert!(vgg(Layers::L11, [3, 16, 16], 10, Norm::Batch).is_err());
    }
}
