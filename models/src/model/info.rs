//! The description of a model: what goes in, what comes out, and in which units.

use std::collections::BTreeSet;

use super::ModelError;
use crate::graph::Checked;
use crate::image::{ImageInput, ImageRule, ValueRange};

/// Longest class, channel, input, output or architecture name in bytes: they are printed in tables
/// and logs.
pub const MAX_NAME_BYTES: usize = 128;

/// Version of the description that this program writes.
///
/// It rises when a program that does not know the new keys would feed a model wrongly; keys that
/// such a program may pass over are added without.
pub const DESCRIPTION_VERSION: u32 = 1;

/// Name of the input where none is said.
const INPUT_NAME: &str = "input";
/// Name of the output where none is said.
const OUTPUT_NAME: &str = "logits";

/// What goes into a model and comes out of it. The input's shape is the graph's.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// [`DESCRIPTION_VERSION`], or 0 for a model from before descriptions: input and output have
    /// their default names then, and there is no image rule. Kept when a model is read and written,
    /// so that releases made from an old file keep their bytes.
    pub description_version: u32,
    /// Architecture, e.g. `tcn`.
    pub architecture: String,
    /// Name of the input, for people and for other formats.
    pub input_name: String,
    /// Per-channel mean of the raw input, in the channel's unit; subtracted first.
    pub input_mean: Vec<f32>,
    /// Per-channel standard deviation of the raw input, in the channel's unit; divided by.
    pub input_std: Vec<f32>,
    /// Channels as [`Channel::parse`] reads them, e.g. `acc_x [g]`; empty where nothing is known.
    pub channels: Vec<String>,
    /// Samples per second of the input windows; absent where the input has no time.
    pub sampling_rate_hz: Option<f64>,
    /// How images become the input; absent where it is no image, or nothing is known.
    pub image: Option<ImageRule>,
    /// Name of the output: one logit for each class.
    pub output_name: String,
    /// Class names in logit order.
    pub classes: Vec<String>,
}

impl Default for ModelInfo {
    /// A description of nothing yet: of the newest version, with the default names.
    fn default() -> Self {
        Self {
            description_version: DESCRIPTION_VERSION,
            architecture: String::new(),
            input_name: INPUT_NAME.to_owned(),
            input_mean: Vec::new(),
            input_std: Vec::new(),
            channels: Vec::new(),
            sampling_rate_hz: None,
            image: None,
            output_name: OUTPUT_NAME.to_owned(),
            classes: Vec::new(),
        }
    }
}

/// A channel's name and unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channel<'a> {
    /// Name, e.g. `acc_x`.
    pub name: &'a str,
    /// Unit, e.g. `g`; `None` where there is none.
    pub unit: Option<&'a str>,
}

impl<'a> Channel<'a> {
    /// Reads `name [unit]` or `name`. Neither part holds brackets, begins or ends with a space, or
    /// is empty.
    ///
    /// # Errors
    /// [`ModelError::Channel`].
    pub fn parse(text: &'a str) -> Result<Self, ModelError> {
        let (name, unit) = match text.strip_suffix(']') {
            None => (text, None),
            Some(open) => match open.split_once(" [") {
                None => (text, None),
                Some((name, unit)) => (name, Some(unit)),
            },
        };
        let plain =
            |part: &str| !part.is_empty() && part.trim() == part && !part.contains(['[', ']']);
        if plain(name) && unit.is_none_or(plain) {
            return Ok(Self { name, unit });
        }
        Err(ModelError::Channel(
            text.chars().take(MAX_NAME_BYTES).collect(),
        ))
    }
}

/// The order of an input's dimensions, as model files say it: `C` channels or features, `T` time,
/// `H` height, `W` width.
#[must_use]
pub fn layout(input: &[usize]) -> &'static str {
    match input.len() {
        0 | 1 => "C",
        2 => "CT",
        _ => "CHW",
    }
}

impl ModelInfo {
    /// Checks the description against the graph's input and output.
    pub(super) fn check(&self, graph: &Checked) -> Result<(), ModelError> {
        self.check_version()?;
        check_name("architecture", &self.architecture)?;
        check_name("input", &self.input_name)?;
        check_name("output", &self.output_name)?;
        self.check_channels(graph)?;
        self.check_normalisation()?;
        if let Some(rate) = self.sampling_rate_hz {
            if !rate.is_finite() || rate <= 0.0 {
                return Err(ModelError::SamplingRate(rate));
            }
            if self.image.is_some() {
                return Err(ModelError::ImageRate(rate));
            }
        }
        if let Some(rule) = self.image {
            ImageInput::new(rule, &graph.input)?;
            self.check_range(rule.range)?;
        }
        let output = &graph.shapes[graph.output];
        if output != &[self.classes.len()] {
            return Err(ModelError::Classes {
                got: self.classes.len(),
                output: output.clone(),
            });
        }
        check_names("class", &self.classes)
    }

    fn check_version(&self) -> Result<(), ModelError> {
        let got = self.description_version;
        if got > DESCRIPTION_VERSION {
            return Err(ModelError::DescriptionVersion { got });
        }
        let beyond_old = [
            ("input_name", self.input_name != INPUT_NAME),
            ("output_name", self.output_name != OUTPUT_NAME),
            ("image", self.image.is_some()),
        ];
        match beyond_old.into_iter().find(|(_, is_set)| *is_set) {
            Some((field, _)) if got == 0 => Err(ModelError::Undescribed { field }),
            _ => Ok(()),
        }
    }

    fn check_channels(&self, graph: &Checked) -> Result<(), ModelError> {
        let want = graph.input.first().copied().unwrap_or(0);
        let lengths = [
            ("input_mean", self.input_mean.len()),
            ("input_std", self.input_std.len()),
            ("channels", self.channels.len()),
        ];
        for (field, got) in lengths {
            let may_be_absent = field == "channels" && got == 0;
            if got != want && !may_be_absent {
                return Err(ModelError::ChannelCount {
                    field,
                    got,
                    want,
                    input: graph.input.clone(),
                });
            }
        }
        let mut seen = BTreeSet::new();
        for text in &self.channels {
            check_name("channel", text)?;
            let channel = Channel::parse(text)?;
            if !seen.insert(channel.name) {
                return Err(ModelError::DuplicateName {
                    field: "channel",
                    name: channel.name.to_owned(),
                });
            }
        }
        Ok(())
    }

    fn check_normalisation(&self) -> Result<(), ModelError> {
        let bad = |field, rule, (channel, &value): (usize, &f32)| ModelError::Normalisation {
            field,
            channel,
            value,
            rule,
        };
        let means = self.input_mean.iter().enumerate();
        if let Some(at) = means.into_iter().find(|(_, v)| !v.is_finite()) {
            return Err(bad("input_mean", "finite", at));
        }
        let stds = self.input_std.iter().enumerate();
        if let Some(at) = stds.into_iter().find(|(_, v)| !v.is_finite() || **v <= 0.0) {
            return Err(bad("input_std", "finite and above 0", at));
        }
        Ok(())
    }

    /// A channel whose unit is a range of values must mean the rule's.
    fn check_range(&self, range: ValueRange) -> Result<(), ModelError> {
        for text in &self.channels {
            let unit = Channel::parse(text)?.unit;
            let named = ValueRange::ALL.into_iter().find(|r| unit == Some(r.word()));
            if let Some(named) = named
                && named != range
            {
                return Err(ModelError::Range {
                    channel: text.clone(),
                    got: named.word(),
                    want: range.word(),
                });
            }
        }
        Ok(())
    }
}

fn check_name(field: &'static str, name: &str) -> Result<(), ModelError> {
    let fits = (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control);
    if fits {
        return Ok(());
    }
    Err(ModelError::Name {
        field,
        name: name.chars().take(MAX_NAME_BYTES).collect(),
    })
}

/// Checks names of classes, wherever they come from: printable, bounded and unique.
///
/// # Errors
/// [`ModelError::Name`] or [`ModelError::DuplicateName`].
pub fn check_classes(classes: &[String]) -> Result<(), ModelError> {
    check_names("class", classes)
}

/// Names that are printable, bounded and unique.
pub(crate) fn check_names(field: &'static str, names: &[String]) -> Result<(), ModelError> {
    let mut seen = BTreeSet::new();
    for name in names {
        check_name(field, name)?;
        if !seen.insert(name) {
            return Err(ModelError::DuplicateName {
                field,
                name: name.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{ImageError, Resize};
    use crate::model::Model;
    use crate::model::fixture::{image_model, tcn_model};

    #[test]
    fn channels_have_a_name_and_perhaps_a_unit() {
        let parse = |text| Channel::parse(text).map(|c| (c.name, c.unit));
        assert_eq!(parse("acc_x [g]"), Ok(("acc_x", Some("g"))));
        assert_eq!(parse("red"), Ok(("red", None)));
        assert_eq!(parse("wind speed [m/s]"), Ok(("wind speed", Some("m/s"))));
        for bad in [
            "",
            " ",
            "[g]",
            " [g]",
            "a []",
            "a [ g]",
            "a[g]",
            "a [g",
            "a g]",
            "a [g] ",
            "a [g] [h]",
            "a [[g]]",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    type Spoil = fn(&mut ModelInfo);
    type Expect = fn(&ModelError) -> bool;

    fn refused(model: &Model, cases: &[(Spoil, Expect)]) {
        for (i, (spoil, expected)) in cases.iter().enumerate() {
            let mut m = model.clone();
            m.check().unwrap();
            spoil(&mut m.info);
            let error = m.check().unwrap_err();
            assert!(expected(&error), "case {i}: {error}");
        }
    }

    #[test]
    fn a_description_that_does_not_fit_the_graph_is_refused() {
        refused(
            &tcn_model(7),
            &[
                (
                    |i| i.input_mean.truncate(2),
                    |e| {
                        matches!(
                            e,
                            ModelError::ChannelCount {
                                field: "input_mean",
                                got: 2,
                                want: 3,
                                ..
                            }
                        )
                    },
                ),
                (
                    |i| i.input_std.push(1.0),
                    |e| {
                        matches!(
                            e,
                            ModelError::ChannelCount {
                                field: "input_std",
                                ..
                            }
                        )
                    },
                ),
                (
                    |i| i.channels.truncate(1),
                    |e| {
                        matches!(
                            e,
                            ModelError::ChannelCount {
                                field: "channels",
                                ..
                            }
                        )
                    },
                ),
                (
                    |i| i.input_std[1] = 0.0,
                    |e| {
                        matches!(
                            e,
                            ModelError::Normalisation {
                                field: "input_std",
                                channel: 1,
                                ..
                            }
                        )
                    },
                ),
                (
                    |i| i.input_mean[2] = f32::INFINITY,
                    |e| {
                        matches!(
                            e,
                            ModelError::Normalisation {
                                field: "input_mean",
                                channel: 2,
                                ..
                            }
                        )
                    },
                ),
                (
                    |i| i.classes.truncate(3),
                    |e| matches!(e, ModelError::Classes { got: 3, .. }),
                ),
                (
                    |i| i.classes[1] = i.classes[0].clone(),
                    |e| matches!(e, ModelError::DuplicateName { field: "class", .. }),
                ),
                (
                    |i| i.classes[0].clear(),
                    |e| matches!(e, ModelError::Name { field: "class", .. }),
                ),
                (
                    |i| i.sampling_rate_hz = Some(f64::NAN),
                    |e| matches!(e, ModelError::SamplingRate(_)),
                ),
                (
                    |i| i.channels[0] = "acc_0 g]".into(),
                    |e| matches!(e, ModelError::Channel(_)),
                ),
                (
                    |i| i.channels[1] = "acc_0 [m/s²]".into(),
                    |e| {
                        matches!(
                            e,
                            ModelError::DuplicateName {
                                field: "channel",
                                ..
                            }
                        )
                    },
                ),
                (
                    |i| i.input_name.clear(),
                    |e| matches!(e, ModelError::Name { field: "input", .. }),
                ),
                (
                    |i| i.output_name = "a\nb".into(),
                    |e| {
                        matches!(
                            e,
                            ModelError::Name {
                                field: "output",
                                ..
                            }
                        )
                    },
                ),
            ],
        );
    }

    #[test]
    fn an_image_rule_that_contradicts_the_rest_is_refused() {
        refused(
            &image_model(1),
            &[
                (
                    |i| i.sampling_rate_hz = Some(50.0),
                    |e| matches!(e, ModelError::ImageRate(_)),
                ),
                (
                    |i| i.image.as_mut().unwrap().resize = Resize::ShortestSide(31),
                    |e| matches!(e, ModelError::Image(ImageError::TooSmall { side: 31, .. })),
                ),
                (
                    |i| i.image.as_mut().unwrap().range = ValueRange::Byte,
                    |e| e.to_string().contains("`red [0-1]` names the range 0-1"),
                ),
                (
                    |i| i.description_version = 0,
                    |e| matches!(e, ModelError::Undescribed { field: "image" }),
                ),
            ],
        );
        let mut windows = tcn_model(1);
        windows.info.image = image_model(1).info.image;
        windows.info.sampling_rate_hz = None;
        assert!(matches!(
            windows.check(),
            Err(ModelError::Image(ImageError::Input(_)))
        ));
    }

    #[test]
    fn a_description_of_a_newer_program_is_refused() {
        let mut m = tcn_model(1);
        m.info.description_version = DESCRIPTION_VERSION + 1;
        let e = m.check().unwrap_err().to_string();
        assert!(e.contains("version 2") && e.contains("up to 1"), "{e}");
        m.info.description_version = 0;
        m.check().unwrap();
    }
}
