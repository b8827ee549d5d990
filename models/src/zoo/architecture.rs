//! Networks by name.

use std::fmt;

use super::{
    Depth, GruConfig, Layers, Norm, TcnConfig, ZooError, gru, lenet, mobilenet_v2, resnet,
    resnet20_for, tcn, vgg,
};
use crate::graph::Graph;

/// A network that is known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// [`tcn`], as [`TcnConfig::new`] has it.
    Tcn,
    /// [`gru`], as [`GruConfig::new`] has it.
    Gru,
    /// [`resnet20_for`].
    ResNet20,
    /// [`resnet`] with 18 layers.
    ResNet18,
    /// [`resnet`] with 34 layers.
    ResNet34,
    /// [`resnet`] with 50 layers.
    ResNet50,
    /// [`resnet`] with 101 layers.
    ResNet101,
    /// [`resnet`] with 152 layers.
    ResNet152,
    /// [`mobilenet_v2`].
    MobileNetV2,
    /// [`vgg`] with 11 layers.
    Vgg11,
    /// [`vgg`] with 16 layers.
    Vgg16,
    /// [`lenet`].
    LeNet,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Tcn,
        Self::Gru,
        Self::ResNet20,
        Self::ResNet18,
        Self::ResNet34,
        Self::ResNet50,
        Self::ResNet101,
        Self::ResNet152,
        Self::MobileNetV2,
        Self::Vgg11,
        Self::Vgg16,
        Self::LeNet,
    ];

    /// As people and model files write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcn => "tcn",
            Self::Gru => "gru",
            Self::ResNet20 => "resnet20",
            Self::ResNet18 => "resnet18",
            Self::ResNet34 => "resnet34",
            Self::ResNet50 => "resnet50",
            Self::ResNet101 => "resnet101",
            Self::ResNet152 => "resnet152",
            Self::MobileNetV2 => "mobilenetv2",
            Self::Vgg11 => "vgg11",
            Self::Vgg16 => "vgg16",
            Self::LeNet => "lenet",
        }
    }

    /// What it is for, in a few words.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Self::Tcn => "Temporal convolutions, for sensor windows [channels, length]",
            Self::Gru => "Gated recurrent unit, for sensor windows; it has no norm",
            Self::ResNet20 => {
                "Residual net of 20 layers, for small images [channels, height, width]"
            }
            Self::ResNet18 => "Residual net of 18 layers, for images of 64 pixels and more",
            Self::ResNet34 => "Residual net of 34 layers",
            Self::ResNet50 => "Residual net of 50 layers, with bottlenecks",
            Self::ResNet101 => "Residual net of 101 layers, with bottlenecks",
            Self::ResNet152 => "Residual net of 152 layers, with bottlenecks",
            Self::MobileNetV2 => "Light net for small devices, for images of 64 pixels and more",
            Self::Vgg11 => "Plain net of 11 layers, for images of 32 pixels and more",
            Self::Vgg16 => "Plain net of 16 layers",
            Self::LeNet => "Small classic for digits; it has no norm",
        }
    }

    /// The network for inputs of this shape.
    ///
    /// # Shapes
    /// `input` `[channels, length]` or `[channels, height, width]`, `-> [classes]`
    /// # Errors
    /// [`ZooError`] when the input has another number of dimensions, or as the network's own function
    /// has it.
    pub fn graph(self, input: &[usize], classes: usize, norm: Norm) -> Result<Graph, ZooError> {
        if let Self::Tcn | Self::Gru = self {
            let &[channels, length] = input else {
                return Err(self.unfit(input));
            };
            if self == Self::Gru {
                return gru(&GruConfig::new(channels, length, classes));
            }
            return tcn(&TcnConfig {
                norm,
                ..TcnConfig::new(channels, length, classes)
            });
        }
        let image: [usize; 3] = input.try_into().map_err(|_| self.unfit(input))?;
        let residual = |depth| resnet(depth, image, classes, norm);
        match self {
            Self::Tcn | Self::Gru => Err(self.unfit(input)),
            Self::ResNet20 => resnet20_for(image, classes, norm),
            Self::ResNet18 => residual(Depth::D18),
            Self::ResNet34 => residual(Depth::D34),
            Self::ResNet50 => residual(Depth::D50),
            Self::ResNet101 => residual(Depth::D101),
            Self::ResNet152 => residual(Depth::D152),
            Self::MobileNetV2 => mobilenet_v2(image, classes, norm),
            Self::Vgg11 => vgg(Layers::L11, image, classes, norm),
            Self::Vgg16 => vgg(Layers::L16, image, classes, norm),
            Self::LeNet => lenet(image, classes),
        }
    }

    fn unfit(self, input: &[usize]) -> ZooError {
        let (want, other) = match self {
            Self::Tcn | Self::Gru => ("windows of [channels, length]", Self::ResNet20),
            _ => ("images of [channels, height, width]", Self::Tcn),
        };
        ZooError::Input {
            architecture: self.name(),
            want,
            got: input.to_vec(),
            other: other.name(),
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No network has the name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no network is called {name:?}; known: {}", known())]
pub struct UnknownArchitecture {
    /// What was asked for.
    pub name: String,
}

fn known() -> String {
    Architecture::ALL.map(Architecture::name).join(", ")
}

impl std::str::FromStr for Architecture {
    type Err = UnknownArchitecture;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|a| a.name() == text);
        known.ok_or_else(|| UnknownArchitecture {
            name: text.chars().take(64).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_and_makes_a_network() {
        for architecture in Architecture::ALL {
            assert_eq!(architecture.name().parse(), Ok(architecture));
            let input: &[usize] = match architecture {
                Architecture::Tcn | Architecture::Gru => &[6, 128],
                _ => &[3, 32, 32],
            };
            let graph = architecture.graph(input, 5, Norm::Group { groups: 8 });
            let checked = graph.expect("a network").check().expect("valid");
            assert_eq!(checked.shapes[checked.output], [5], "{architecture}");
        }
    }

    #[test]
    fn an_input_of_another_kind_names_a_network_that_takes_it() {
        let e = Architecture::ResNet18.graph(&[6, 128], 5, Norm::Batch);
        assert_eq!(
            e.unwrap_err().to_string(),
            "resnet18 takes images of [channels, height, width], not [6, 128]; tcn takes those"
        );
        let e = Architecture::Tcn.graph(&[3, 32, 32], 5, Norm::Batch);
        assert!(e.unwrap_err().to_string().ends_with("resnet20 takes those"));
        let e = Architecture::Gru.graph(&[3, 32, 32], 5, Norm::Batch);
        assert!(e.unwrap_err().to_string().ends_with("resnet20 takes those"));
        let e = "alexnet".parse::<Architecture>().unwrap_err().to_string();
        assert!(e.contains("resnet50"), "{e}");
    }
}
