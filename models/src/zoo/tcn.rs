//! A temporal convolution net for sensor windows.

use serde::{Deserialize, Serialize};

use super::build::Builder;
use super::{Norm, ZooError};
use crate::graph::Graph;
use crate::ops::{Conv1d, Op};

/// Positions a stride must leave: below that, pooling would have nothing to average.
const MIN_POSITIONS: usize = 4;

/// What a temporal convolution net looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcnConfig {
    /// Sensor channels of the input.
    pub channels: usize,
    /// Samples per window.
    pub length: usize,
    /// Channels each block makes; one block per entry.
    pub widths: Vec<usize>,
    /// Taps of every convolution.
    pub kernel: usize,
    /// Step of each block's convolution; lowered where a window is too short for it.
    pub strides: Vec<usize>,
    /// Distance between taps, per block.
    pub dilations: Vec<usize>,
    /// Norm after every convolution.
    pub norm: Norm,
    /// Classes told apart.
    pub classes: usize,
}

impl TcnConfig {
    /// Four blocks of 32, 48, 64 and 64 channels with 5 taps, each after the first halving the
    /// length, group norm of 8 groups: a few ten thousand parameters, enough for activity windows.
    #[must_use]
    pub fn new(channels: usize, length: usize, classes: usize) -> Self {
        Self {
            channels,
            length,
            widths: vec![32, 48, 64, 64],
            kernel: 5,
            strides: vec![1, 2, 2, 2],
            dilations: vec![1; 4],
            norm: Norm::Group { groups: 8 },
            classes,
        }
    }
}

/// Convolution, norm and ReLU per block, global average pooling, linear head.
///
/// Nodes are `block{i}.conv`, `block{i}.norm`, `block{i}.relu`, `pool`, `head`. Convolutions are
/// padded by half their dilated extent and have no bias, because the norm behind them has one. On
/// windows too short for the strides, a stride is lowered until it leaves 4 positions or is 1.
///
/// # Shapes
/// `[channels, length] -> [classes]`
/// # Errors
/// [`ZooError`] when a count is zero, the lists differ in length, groups do not divide a width, or
/// a kernel (one with an even extent, on a very short window) does not fit.
/// # Source
/// Bai et al. 2018, "An empirical evaluation of generic convolutional and recurrent networks for
/// sequence modeling", without its causal padding: a whole window is there before it is classified.
pub fn tcn(config: &TcnConfig) -> Result<Graph, ZooError> {
    config.check()?;
    let mut builder = Builder::new(vec![config.channels, config.length], config.norm);
    let mut from = Graph::INPUT.to_owned();
    let (mut channels, mut length) = (config.channels, config.length);
    for (i, &width) in config.widths.iter().enumerate() {
        let dilation = config.dilations[i];
        let extent = (config.kernel - 1).saturating_mul(dilation);
        let padding = extent / 2;
        // One less than the positions a stride of 1 makes; the window may not fit at all, which
        // the graph's validation then reports.
        let last = length
            .saturating_add(2 * padding)
            .saturating_sub(extent.saturating_add(1));
        let stride = longest_stride(last, config.strides[i]);
        let conv = Op::Conv1d(Conv1d {
            in_channels: channels,
            out_channels: width,
            kernel: config.kernel,
            stride,
            padding,
            dilation,
            groups: 1,
            bias: false,
        });
        let conv = builder.node(format!("block{i}.conv"), conv, &[&from]);
        let norm = builder.norm(format!("block{i}.norm"), width, &conv)?;
        from = builder.node(format!("block{i}.relu"), Op::Relu, &[&norm]);
        channels = width;
        length = last / stride + 1;
    }
    builder.classify(&from, channels, config.classes)
}

/// The largest stride up to `wanted` that leaves [`MIN_POSITIONS`] positions, at least 1.
fn longest_stride(last: usize, wanted: usize) -> usize {
    wanted.min(last / (MIN_POSITIONS - 1)).max(1)
}

impl TcnConfig {
    fn check(&self) -> Result<(), ZooError> {
        let blocks = self.widths.len();
        if blocks == 0 {
            return Err(ZooError::NoBlocks);
        }
        let lists = [("strides", &self.strides), ("dilations", &self.dilations)];
        for (field, list) in lists {
            if list.len() != blocks {
                return Err(ZooError::Blocks {
                    field,
                    got: list.len(),
                    want: blocks,
                });
            }
        }
        let counts = [
            ("channels", self.channels),
            ("length", self.length),
            ("kernel", self.kernel),
            ("classes", self.classes),
        ];
        let entries = [
            ("widths", &self.widths),
            ("strides", &self.strides),
            ("dilations", &self.dilations),
        ];
        let entries = entries
            .into_iter()
            .flat_map(|(field, list)| list.iter().map(move |&n| (field, n)));
        match counts.into_iter().chain(entries).find(|(_, n)| *n == 0) {
            Some((field, _)) => Err(ZooError::Zero(field)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::roles;
    use crate::zoo::moving_values;

    fn lengths(config: &TcnConfig) -> Vec<usize> {
        let checked = tcn(config).unwrap().check().unwrap();
        let convs = checked.nodes.iter().zip(&checked.shapes);
        convs
            .filter(|(n, _)| n.name.ends_with(".conv"))
            .map(|(_, s)| s[1])
            .collect()
    }

    #[test]
    fn the_usual_net_halves_the_length_and_has_its_parameter_count() {
        let config = TcnConfig::new(6, 128, 6);
        assert_eq!(lengths(&config), [128, 64, 32, 16]);
        let count = moving_values(&tcn(&config).unwrap());
        let convs = 6 * 32 * 5 + 32 * 48 * 5 + 48 * 64 * 5 + 64 * 64 * 5;
        let norms = 2 * (32 + 48 + 64 + 64);
        assert_eq!(count, convs + norms + 64 * 6 + 6);
    }

    #[test]
    fn names_are_readable_and_in_order() {
        let graph = tcn(&TcnConfig::new(7, 128, 5)).unwrap();
        let names: Vec<&str> = graph.nodes.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names[..3], ["block0.conv", "block0.norm", "block0.relu"]);
        assert_eq!(names[11..], ["block3.relu", "pool", "head"]);
    }

    #[test]
    fn short_windows_get_shorter_strides_down_to_one_sample() {
        assert_eq!(lengths(&TcnConfig::new(3, 16, 2)), [16, 8, 4, 4]);
        assert_eq!(lengths(&TcnConfig::new(3, 5, 2)), [5, 5, 5, 5]);
        assert_eq!(lengths(&TcnConfig::new(3, 1, 2)), [1, 1, 1, 1]);
        let mut long_step = TcnConfig::new(3, 16, 2);
        long_step.strides = vec![8, 8, 8, 8];
        assert_eq!(lengths(&long_step), [4, 4, 4, 4]);
    }

    #[test]
    fn dilation_keeps_the_length() {
        let mut config = TcnConfig::new(3, 64, 2);
        config.dilations = vec![1, 2, 4, 8];
        config.strides = vec![1; 4];
        assert_eq!(lengths(&config), [64; 4]);
    }

    #[test]
    fn an_even_kernel_wider_than_the_window_is_an_error_naming_the_node() {
        let mut config = TcnConfig::new(3, 2, 2);
        config.kernel = 4;
        // Each block shortens the window by one: 2, 1, then the kernel does not fit.
        let error = tcn(&config).unwrap_err();
        assert!(error.to_string().contains("block1.conv"), "{error}");
    }

    #[test]
    fn impossible_configurations_name_the_field() {
        let spoiled = |spoil: fn(&mut TcnConfig)| {
            let mut config = TcnConfig::new(3, 64, 2);
            spoil(&mut config);
            tcn(&config).unwrap_err().to_string()
        };
        assert_eq!(spoiled(|c| c.length = 0), "`length` must be at least 1");
        assert_eq!(spoiled(|c| c.kernel = 0), "`kernel` must be at least 1");
        assert_eq!(
            spoiled(|c| c.strides[2] = 0),
            "`strides` must be at least 1"
        );
        assert_eq!(
            spoiled(|c| c.widths.clear()),
            "`widths` is empty, at least one block is needed"
        );
        assert_eq!(
            spoiled(|c| c.dilations.truncate(2)),
            "`dilations` has 2 entries for 4 blocks"
        );
        assert_eq!(
            spoiled(|c| c.norm = Norm::Group { groups: 5 }),
            "5 norm groups do not divide 32 channels of `block0.norm`"
        );
        assert!(spoiled(|c| c.dilations[0] = usize::MAX).contains("block0.conv"));
    }

    #[test]
    fn batch_norm_can_be_chosen() {
        let mut config = TcnConfig::new(3, 64, 2);
        config.norm = Norm::Batch;
        assert!(roles(&tcn(&config).unwrap()).contains_key("block0.norm.running_var"));
    }
}
