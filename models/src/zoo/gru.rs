//! A recurrent net for sensor windows.

use serde::{Deserialize, Serialize};

use super::build::Builder;
use super::{Norm, ZooError};
use crate::graph::{Graph, GraphError, MAX_NODES};
use crate::ops::{Gru, GruOutput, Op};

/// What a recurrent net looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GruConfig {
    /// Sensor channels of the input.
    pub channels: usize,
    /// Samples per window.
    pub length: usize,
    /// Values of every layer's hidden state.
    pub hidden: usize,
    /// Layers on top of each other.
    pub layers: usize,
    /// Classes told apart.
    pub classes: usize,
}

impl GruConfig {
    /// One layer of 64 hidden values: about fourteen thousand parameters for six channels.
    #[must_use]
    pub fn new(channels: usize, length: usize, classes: usize) -> Self {
        Self {
            channels,
            length,
            hidden: 64,
            layers: 1,
            classes,
        }
    }
}

/// Gated recurrent units over the window, and a linear head over the last state of the last one.
///
/// Nodes are `gru0`, `gru1`, ... and `head`. There is no norm and no dropout.
///
/// # Shapes
/// `[channels, length] -> [classes]`
/// # Errors
/// [`ZooError`] when a count is zero or sizes are absurd.
/// # Source
/// Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder for statistical machine
/// translation", in PyTorch's variant; see [`Gru`].
pub fn gru(config: &GruConfig) -> Result<Graph, ZooError> {
    let counts = [
        ("channels", config.channels),
        ("length", config.length),
        ("hidden", config.hidden),
        ("layers", config.layers),
        ("classes", config.classes),
    ];
    if let Some((field, _)) = counts.into_iter().find(|(_, n)| *n == 0) {
        return Err(ZooError::Zero(field));
    }
    if config.layers > MAX_NODES {
        let (got, max) = (config.layers, MAX_NODES);
        return Err(GraphError::TooManyNodes { got, max }.into());
    }
    // No norm is ever asked of it.
    let mut builder = Builder::new(vec![config.channels, config.length], Norm::Batch);
    let mut from = Graph::INPUT.to_owned();
    let mut input = config.channels;
    for layer in 0..config.layers {
        let op = Op::Gru(Gru {
            input,
            hidden: config.hidden,
            output: if layer + 1 == config.layers {
                GruOutput::Last
            } else {
                GruOutput::Sequence
            },
        });
        from = builder.node(format!("gru{layer}"), op, &[&from]);
        input = config.hidden;
    }
    let head = builder.linear("head".into(), [config.hidden, config.classes], &from);
    builder.finish(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo::moving_values;

    /// What PyTorch's `nn.GRU` counts: `3 H (C + H + 2)` for each layer.
    fn counted(config: &GruConfig) -> usize {
        let (h, head) = (config.hidden, config.classes * (config.hidden + 1));
        let first = 3 * h * (config.channels + h + 2);
        first + (config.layers - 1) * 3 * h * (h + h + 2) + head
    }

    #[test]
    fn the_usual_net_has_its_parameter_count() {
        let config = GruConfig::new(6, 128, 6);
        assert_eq!(counted(&config), 13_824 + 390);
        assert_eq!(moving_values(&gru(&config).unwrap()), 13_824 + 390);
    }

    #[test]
    fn layers_stand_on_each_other_and_the_last_gives_on_its_last_state() {
        let config = GruConfig {
            hidden: 24,
            layers: 3,
            ..GruConfig::new(5, 40, 4)
        };
        let graph = gru(&config).unwrap();
        assert_eq!(moving_values(&graph), counted(&config));
        let checked = graph.check().unwrap();
        let names: Vec<&str> = checked.nodes.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["gru0", "gru1", "gru2", "head"]);
        assert_eq!(
            checked.shapes,
            [vec![24, 40], vec![24, 40], vec![24], vec![4]]
        );
        let parameters: Vec<String> = checked.params().map(|(name, _)| name).collect();
        let first = [
            "gru0.weight_ih",
            "gru0.weight_hh",
            "gru0.bias_ih",
            "gru0.bias_hh",
        ];
        assert_eq!(parameters[..4], first);
    }

    #[test]
    fn impossible_configurations_name_what_is_wrong() {
        let spoiled = |spoil: fn(&mut GruConfig)| {
            let mut config = GruConfig::new(3, 64, 2);
            spoil(&mut config);
            gru(&config).unwrap_err().to_string()
        };
        assert_eq!(spoiled(|c| c.length = 0), "`length` must be at least 1");
        assert_eq!(spoiled(|c| c.layers = 0), "`layers` must be at least 1");
        assert_eq!(spoiled(|c| c.hidden = 0), "`hidden` must be at least 1");
        assert!(spoiled(|c| c.hidden = usize::MAX).contains("gru0"));
        assert!(spoiled(|c| c.hidden = 1 << 20).contains("gru0"));
        assert!(spoiled(|c| c.layers = usize::MAX).contains("at most"));
    }
}
