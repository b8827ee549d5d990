//! Residual networks in their ImageNet form: 18 to 152 layers.

use super::build::{Builder, at_least_one};
use super::{Norm, ZooError};
use crate::graph::Graph;
use crate::ops::Op;

/// Channels of the four stages, before a bottleneck widens them.
const WIDTHS: [usize; 4] = [64, 128, 256, 512];

/// How much wider a bottleneck's output is than its middle.
const EXPANSION: usize = 4;

/// Weight layers of a residual network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Units of two 3 x 3 convolutions: 2, 2, 2, 2.
    D18,
    /// Units of two 3 x 3 convolutions: 3, 4, 6, 3.
    D34,
    /// Bottlenecks: 3, 4, 6, 3.
    D50,
    /// Bottlenecks: 3, 4, 23, 3.
    D101,
    /// Bottlenecks: 3, 8, 36, 3.
    D152,
}

impl Depth {
    fn units(self) -> [usize; 4] {
        match self {
            Self::D18 => [2, 2, 2, 2],
            Self::D34 | Self::D50 => [3, 4, 6, 3],
            Self::D101 => [3, 4, 23, 3],
            Self::D152 => [3, 8, 36, 3],
        }
    }

    fn is_bottleneck(self) -> bool {
        !matches!(self, Self::D18 | Self::D34)
    }
}

/// A residual network for images.
///
/// A 7 x 7 stem of stride 2, 3 x 3 max pooling of stride 2, four stages of residual units at 64, 128,
/// 256 and 512 channels (four times that behind bottlenecks), pooling, linear. Each stage but the first
/// halves the image; in a bottleneck the 3 x 3 convolution does, not the 1 x 1 before it. Shortcuts that
/// change the shape are 1 x 1 convolutions with a norm. Nodes are `stem.conv`, `stem.pool`,
/// `stage{1..4}.unit{i}.conv1`, `….shortcut.conv`, `….add`, `pool`, `head`.
///
/// # Shapes
/// `input` (`[channels, height, width]`) `-> [classes]`
/// # Errors
/// [`ZooError`] when `classes` or a dimension is 0, or norm groups do not divide a width.
/// # Source
/// He et al. 2016, "Deep residual learning for image recognition", table 1; the place of the stride as
/// in version 1.5, which PyTorch's models have.
pub fn resnet(
    depth: Depth,
    input: [usize; 3],
    classes: usize,
    norm: Norm,
) -> Result<Graph, ZooError> {
    at_least_one(input, classes)?;
    let mut builder = Builder::new(input.to_vec(), norm);
    let stem = builder.conv_norm("stem", "", [input[0], WIDTHS[0]], 7, 2, Graph::INPUT)?;
    let stem = builder.node("stem.relu".into(), Op::Relu, &[&stem]);
    let mut from = builder.max_pool("stem.pool".into(), 3, 2, 1, &stem);
    let mut channels = WIDTHS[0];
    for (stage, (width, units)) in (1..).zip(WIDTHS.into_iter().zip(depth.units())) {
        for unit in 0..units {
            let prefix = format!("stage{stage}.unit{unit}");
            let stride = if stage > 1 && unit == 0 { 2 } else { 1 };
            let out = if depth.is_bottleneck() {
                width * EXPANSION
            } else {
                width
            };
            let last = if depth.is_bottleneck() {
                bottleneck(&mut builder, &prefix, [channels, width, out], stride, &from)?
            } else {
                plain(&mut builder, &prefix, [channels, width], stride, &from)?
            };
            let shortcut = if channels != out || stride > 1 {
                let name = format!("{prefix}.shortcut");
                builder.conv_norm(&name, "", [channels, out], 1, stride, &from)?
            } else {
                from
            };
            let add = builder.node(format!("{prefix}.add"), Op::Add, &[&last, &shortcut]);
            from = builder.node(format!("{prefix}.relu"), Op::Relu, &[&add]);
            channels = out;
        }
    }
    builder.classify(&from, channels, classes)
}

/// Two 3 x 3 convolutions.
fn plain(
    builder: &mut Builder,
    prefix: &str,
    [channels, width]: [usize; 2],
    stride: usize,
    from: &str,
) -> Result<String, ZooError> {
    let first = builder.conv_norm(prefix, "1", [channels, width], 3, stride, from)?;
    let first = builder.node(format!("{prefix}.relu1"), Op::Relu, &[&first]);
    builder.conv_norm(prefix, "2", [width; 2], 3, 1, &first)
}

/// 1 x 1 to fewer channels, 3 x 3, and 1 x 1 to more.
fn bottleneck(
    builder: &mut Builder,
    prefix: &str,
    [channels, width, out]: [usize; 3],
    stride: usize,
    from: &str,
) -> Result<String, ZooError> {
    let first = builder.conv_norm(prefix, "1", [channels, width], 1, 1, from)?;
    let first = builder.node(format!("{prefix}.relu1"), Op::Relu, &[&first]);
    let second = builder.conv_norm(prefix, "2", [width; 2], 3, stride, &first)?;
    let second = builder.node(format!("{prefix}.relu2"), Op::Relu, &[&second]);
    builder.conv_norm(prefix, "3", [width, out], 1, 1, &second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::roles;
    use crate::ops::ParamRole;
    use crate::zoo::moving_values;

    const IMAGE: [usize; 3] = [3, 224, 224];

    #[test]
    fn each_depth_has_its_known_parameter_count_and_weight_layers() {
        for (depth, layers, count) in [
            (Depth::D18, 18, 11_689_512),
            (Depth::D34, 34, 21_797_672),
            (Depth::D50, 50, 25_557_032),
            (Depth::D101, 101, 44_549_160),
            (Depth::D152, 152, 60_192_808),
        ] {
            let graph = resnet(depth, IMAGE, 1000, Norm::Batch).unwrap();
            assert_eq!(moving_values(&graph), count, "{depth:?}");
            let roles = roles(&graph);
            let weights = roles
                .iter()
                .filter(|(name, p)| p.role == ParamRole::Weight && !name.contains("shortcut"));
            assert_eq!(weights.count(), layers, "{depth:?}");
        }
    }

    #[test]
    fn stages_work_at_56_28_14_and_7_pixels() {
        for (depth, channels) in [
            (Depth::D34, [64, 128, 256, 512]),
            (Depth::D50, [256, 512, 1024, 2048]),
        ] {
            let checked = resnet(depth, IMAGE, 10, Norm::Batch)
                .unwrap()
                .check()
                .unwrap();
            for (stage, side) in [56, 28, 14, 7].into_iter().enumerate() {
                let name = format!("stage{}.unit2.relu", stage + 1);
                let i = checked.nodes.iter().position(|n| n.name == name).unwrap();
                assert_eq!(checked.shapes[i], [channels[stage], side, side]);
            }
        }
    }

    #[test]
    fn small_and_grey_images_are_taken_and_nothing_is_not() {
        let small = resnet(Depth::D18, [1, 16, 16], 3, Norm::Group { groups: 8 }).unwrap();
        assert_eq!(small.check().unwrap().shapes.last().unwrap(), &[3]);
        assert!(resnet(Depth::D18, [1, 16, 0], 3, Norm::Batch).is_err());
    }
}
