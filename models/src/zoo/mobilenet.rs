//! A network for small devices: convolutions of single channels between 1 x 1 ones.

use super::build::{Builder, at_least_one};
use super::{Norm, ZooError};
use crate::graph::Graph;
use crate::ops::Op;

/// Rows of the paper's table: how much wider a block's middle is, channels it makes, blocks, and the
/// stride of the first.
const STAGES: [[usize; 4]; 7] = [
    [1, 16, 1, 1],
    [6, 24, 2, 2],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
];

/// Channels of the first convolution.
const STEM: usize = 32;

/// Channels of the last one.
const LAST: usize = 1280;

/// MobileNetV2 at width 1.
///
/// A 3 x 3 stem of stride 2, 17 inverted residual blocks (1 x 1 to more channels, 3 x 3 of each channel
/// by itself, 1 x 1 to few, without a rectifier behind it), a 1 x 1 convolution to 1280 channels,
/// pooling, linear. Rectifiers end at 6. There is no dropout. Nodes are `stem.conv`,
/// `block{0..16}.expand.conv`, `….depth.conv`, `….project.conv`, `….add`, `last.conv`, `pool`, `head`.
///
/// # Shapes
/// `input` (`[channels, height, width]`) `-> [classes]`
/// # Errors
/// [`ZooError`] when `classes` or a dimension is 0, or norm groups do not divide a width.
/// # Source
/// Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks", table 2.
pub fn mobilenet_v2(input: [usize; 3], classes: usize, norm: Norm) -> Result<Graph, ZooError> {
    at_least_one(input, classes)?;
    let mut builder = Builder::new(input.to_vec(), norm);
    let stem = builder.conv_norm("stem", "", [input[0], STEM], 3, 2, Graph::INPUT)?;
    let mut from = rectify(&mut builder, "stem", &stem);
    let (mut channels, mut number) = (STEM, 0);
    for [wider, width, blocks, stride] in STAGES {
        for block in 0..blocks {
            let stride = if block == 0 { stride } else { 1 };
            let prefix = format!("block{number}");
            from = inverted(
                &mut builder,
                &prefix,
                [channels, wider, width],
                stride,
                &from,
            )?;
            channels = width;
            number += 1;
        }
    }
    let last = builder.conv_norm("last", "", [channels, LAST], 1, 1, &from)?;
    let last = rectify(&mut builder, "last", &last);
    builder.classify(&last, LAST, classes)
}

fn rectify(builder: &mut Builder, prefix: &str, from: &str) -> String {
    builder.node(format!("{prefix}.relu6"), Op::Relu6, &[from])
}

/// One inverted residual block.
fn inverted(
    builder: &mut Builder,
    prefix: &str,
    [channels, wider, width]: [usize; 3],
    stride: usize,
    from: &str,
) -> Result<String, ZooError> {
    let middle = channels * wider;
    let mut at = from.to_owned();
    if wider > 1 {
        let name = format!("{prefix}.expand");
        let expanded = builder.conv_norm(&name, "", [channels, middle], 1, 1, &at)?;
        at = rectify(builder, &name, &expanded);
    }
    let name = format!("{prefix}.depth");
    let depth = builder.depthwise_norm(&name, middle, stride, &at)?;
    at = rectify(builder, &name, &depth);
    let name = format!("{prefix}.project");
    let out = builder.conv_norm(&name, "", [middle, width], 1, 1, &at)?;
    if stride == 1 && channels == width {
        Ok(builder.node(format!("{prefix}.add"), Op::Add, &[&out, from]))
    } else {
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo::moving_values;

    #[test]
    fn it_has_the_known_parameter_count_and_ten_shortcuts() {
        let graph = mobilenet_v2([3, 224, 224], 1000, Norm::Batch).unwrap();
        assert_eq!(moving_values(&graph), 3_504_872);
        let adds = graph.nodes.iter().filter(|n| n.op == Op::Add);
        assert_eq!(adds.count(), 10);
    }

    #[test]
    fn the_image_is_halved_five_times() {
        let graph = mobilenet_v2([3, 96, 96], 10, Norm::Group { groups: 8 }).unwrap();
        let checked = graph.check().unwrap();
        let at = checked
            .nodes
            .iter()
            .position(|n| n.name == "last.relu6")
            .unwrap();
        assert_eq!(checked.shapes[at], [1280, 3, 3]);
    }
}
