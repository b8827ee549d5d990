//! Residual networks in their CIFAR form.

use super::build::{Builder, at_least_one};
use super::{Norm, ZooError};
use crate::graph::Graph;
use crate::ops::Op;

/// Residual units per stage of the 20-layer network: 6n + 2 = 20.
const UNITS: usize = 3;

/// Channels of the three stages.
const WIDTHS: [usize; 3] = [16, 32, 64];

/// ResNet-20 for 32 x 32 colour images.
///
/// A 3 x 3 stem, three stages of three residual units at 16, 32 and 64 channels, pooling, linear.
/// Where a unit changes shape, its shortcut is a 1 x 1 convolution of stride 2 with a norm (option
/// B of the paper). Nodes are `stem.conv`, `stage{1..3}.unit{0..2}.conv1`, `….shortcut.conv`,
/// `….add`, `pool`, `head`.
///
/// # Shapes
/// `[3, 32, 32] -> [classes]`
/// # Errors
/// [`ZooError`] when `classes` is 0 or norm groups do not divide 16, 32 and 64.
/// # Source
/// He et al. 2016, "Deep residual learning for image recognition", section 4.2.
pub fn resnet20(classes: usize, norm: Norm) -> Result<Graph, ZooError> {
    resnet20_for([3, 32, 32], classes, norm)
}

/// The same network for images of another size or number of channels: only the stem's input differs, and
/// pooling averages over whatever is left of the image.
///
/// # Shapes
/// `input` (`[channels, height, width]`) `-> [classes]`
/// # Errors
/// [`ZooError`] when `classes` or a dimension is 0 or norm groups do not divide 16, 32 and 64.
pub fn resnet20_for(input: [usize; 3], classes: usize, norm: Norm) -> Result<Graph, ZooError> {
    at_least_one(input, classes)?;
    let mut builder = Builder::new(input.to_vec(), norm);
    let stem = builder.conv_norm("stem", "", [input[0], WIDTHS[0]], 3, 1, Graph::INPUT)?;
    let mut from = builder.node("stem.relu".into(), Op::Relu, &[&stem]);
    let mut channels = WIDTHS[0];
    for (stage, width) in (1..).zip(WIDTHS) {
        for unit in 0..UNITS {
            let prefix = format!("stage{stage}.unit{unit}");
            from = residual_unit(&mut builder, &prefix, channels, width, &from)?;
            channels = width;
        }
    }
    builder.classify(&from, channels, classes)
}

/// `relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))`; the first convolution and the shortcut
/// take stride 2 when the width changes.
fn residual_unit(
    builder: &mut Builder,
    prefix: &str,
    channels: usize,
    width: usize,
    from: &str,
) -> Result<String, ZooError> {
    let changes = channels != width;
    let stride = if changes { 2 } else { 1 };
    let first = builder.conv_norm(prefix, "1", [channels, width], 3, stride, from)?;
    let first = builder.node(format!("{prefix}.relu1"), Op::Relu, &[&first]);
    let second = builder.conv_norm(prefix, "2", [width; 2], 3, 1, &first)?;
    let shortcut = if changes {
        let name = format!("{prefix}.shortcut");
        builder.conv_norm(&name, "", [channels, width], 1, stride, from)?
    } else {
        from.to_owned()
    };
    let add = builder.node(format!("{prefix}.add"), Op::Add, &[&second, &shortcut]);
    Ok(builder.node(format!("{prefix}.relu2"), Op::Relu, &[&add]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::roles;
    use crate::ops::ParamRole;

    fn count(graph: &Graph, keep: fn(ParamRole) -> bool) -> usize {
        roles(graph)
            .values()
            .filter(|p| keep(p.role))
            .map(|p| p.shape.iter().product::<usize>())
            .sum()
    }

    #[test]
    fn it_has_the_known_parameter_count() {
        let graph = resnet20(10, Norm::Batch).unwrap();
        assert_eq!(count(&graph, |r| r != ParamRole::Statistic), 272_474);
        assert_eq!(count(&graph, |r| r == ParamRole::Statistic), 1_568);
        let group = resnet20(10, Norm::Group { groups: 8 }).unwrap();
        assert_eq!(count(&group, |_| true), 272_474);
    }

    #[test]
    fn it_has_twenty_weight_layers_beside_its_two_shortcuts() {
        let graph = resnet20(10, Norm::Batch).unwrap();
        let weights = roles(&graph)
            .iter()
            .filter(|(_, p)| p.role == ParamRole::Weight)
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>();
        let shortcuts: Vec<_> = weights.iter().filter(|n| n.contains("shortcut")).collect();
        assert_eq!(
            shortcuts,
            [
                "stage2.unit0.shortcut.conv.weight",
                "stage3.unit0.shortcut.conv.weight"
            ]
        );
        assert_eq!(weights.len() - shortcuts.len(), 20);
    }

    #[test]
    fn stages_work_at_32_16_and_8_pixels() {
        let checked = resnet20(10, Norm::Batch).unwrap().check().unwrap();
        let shape = |name: &str| {
            let i = checked.nodes.iter().position(|n| n.name == name).unwrap();
            checked.shapes[i].clone()
        };
        assert_eq!(shape("stage1.unit2.relu2"), [16, 32, 32]);
        assert_eq!(shape("stage2.unit0.add"), [32, 16, 16]);
        assert_eq!(shape("stage3.unit2.conv2"), [64, 8, 8]);
        assert_eq!(shape("head"), [10]);
    }

    #[test]
    fn other_images_change_the_stem_alone() {
        let digits = resnet20_for([1, 28, 28], 10, Norm::Batch).unwrap();
        let checked = digits.check().unwrap();
        assert_eq!(checked.shapes[checked.shapes.len() - 1], [10]);
        let own = count(&digits, |r| r != ParamRole::Statistic);
        assert_eq!(own, 272_474 - 2 * 16 * 9);
        assert!(resnet20_for([1, 0, 28], 10, Norm::Batch).is_err());
    }

    #[test]
    fn groups_that_do_not_divide_a_width_are_refused() {
        let error = resnet20(10, Norm::Group { groups: 32 }).unwrap_err();
        assert_eq!(
            error.to_string(),
            "32 norm groups do not divide 16 channels of `stem.norm`"
        );
    }
}
