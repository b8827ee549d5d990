//! How an image becomes a model's input: scaled, its middle kept, bytes turned into numbers.
//!
//! ```text
//!   image h x w, bytes ──resize──> scaled h' x w' ──middle──> H x W ──range──> [C, H, W], F32
//! ```
//!
//! The rule is part of a model's description ([`crate::model::ModelInfo::image`]), so that every
//! node feeds images as the model's author did. `H x W` is the graph's input and is not said twice.
//!
//! # The filter
//!
//! Bilinear in the sense of Pillow and of torchvision's `antialias`: a triangle around the output
//! pixel's centre whose half width is one pixel of the image, or of the output where that is the
//! larger, so that scaling down averages instead of skipping pixels. Per axis, with
//! `scale = from / to` and `centre = (o + 1/2) * scale` for output pixel `o`:
//!
//! `weight(j) = max(0, 1 - |j + 1/2 - centre| / max(scale, 1))`, divided by their sum.
//!
//! Rows first, then columns, in double precision; values are not rounded to bytes. An image that
//! has the scaled size already passes unchanged. Only pixels that are kept are computed.

use std::fmt;

/// Longest side, in pixels, that an image may be scaled to or that an input may have.
pub const MAX_SIDE: u32 = 16_384;

/// What is wrong with a rule, or with an image that it is applied to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The input is not an image's.
    #[error("an image rule needs an input of [channels, height, width], this one is {0:?}")]
    Input(Vec<usize>),
    /// The input has a number of channels that no image has.
    #[error("an image rule needs 1 channel (grey) or 3 (red, green, blue), the input has {0}")]
    Channels(usize),
    /// A side that no image has.
    #[error("{what} is {got} pixels, it must be 1 to {MAX_SIDE}")]
    Side {
        /// Which side.
        what: &'static str,
        /// Its length.
        got: usize,
    },
    /// Some images would be smaller than the input after scaling.
    #[error(
        "images are scaled to a shorter side of {side} pixels, too few for an input of {height} x \
         {width} (height x width); the shorter side must have at least {least}"
    )]
    TooSmall {
        /// Shorter side after scaling.
        side: u32,
        /// Height of the input.
        height: usize,
        /// Width of the input.
        width: usize,
        /// The larger of the two.
        least: usize,
    },
    /// An image that is not scaled has too few pixels.
    #[error(
        "the image has {got_height} x {got_width} pixels (height x width), the model takes the \
         middle {height} x {width} of it without scaling"
    )]
    Cut {
        /// Height of the image.
        got_height: usize,
        /// Width of the image.
        got_width: usize,
        /// Height of the input.
        height: usize,
        /// Width of the input.
        width: usize,
    },
    /// An image without pixels.
    #[error("the image has {height} x {width} pixels (height x width)")]
    Empty {
        /// Its height.
        height: usize,
        /// Its width.
        width: usize,
    },
    /// Bytes and size disagree.
    #[error(
        "an image of {height} x {width} pixels and {channels} channels has {want} bytes, got {got}"
    )]
    Bytes {
        /// Its height.
        height: usize,
        /// Its width.
        width: usize,
        /// Channels of a pixel.
        channels: usize,
        /// Bytes it should have.
        want: u128,
        /// Bytes there.
        got: usize,
    },
}

/// How images are scaled before their middle is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// Not at all.
    None,
    /// So that the shorter side has this many pixels; proportions stay, the longer side is rounded
    /// down.
    ShortestSide(u32),
    /// To exactly the input's height and width, whatever the proportions.
    Stretch,
}

impl Resize {
    /// The word in model files.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ShortestSide(_) => "shortest-side",
            Self::Stretch => "stretch",
        }
    }
}

/// What the bytes 0 and 255 of an image become, before a model's own mean and deviation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueRange {
    /// 0 and 1.
    Unit,
    /// 0 and 255.
    Byte,
}

impl ValueRange {
    /// Every range.
    pub const ALL: [Self; 2] = [Self::Unit, Self::Byte];

    /// The word in model files, which is also the unit of a channel in this range (`red [0-1]`).
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unit => "0-1",
            Self::Byte => "0-255",
        }
    }

    fn divisor(self) -> f32 {
        match self {
            Self::Unit => 255.0,
            Self::Byte => 1.0,
        }
    }
}

/// How any image becomes a model's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageRule {
    /// How it is scaled.
    pub resize: Resize,
    /// What its bytes become.
    pub range: ValueRange,
}

impl ImageRule {
    /// The rule for a model trained on images of one size: these pass as they are, and others are
    /// brought to that size, without changing proportions where it is square.
    #[must_use]
    pub fn of_size(height: usize, width: usize, range: ValueRange) -> Self {
        let resize = match u32::try_from(height) {
            Ok(side) if height == width => Resize::ShortestSide(side),
            _ => Resize::Stretch,
        };
        Self { resize, range }
    }
}

impl fmt::Display for ImageRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.resize {
            Resize::None => write!(f, "not scaled, the middle kept")?,
            Resize::ShortestSide(side) => write!(
                f,
                "scaled to a shorter side of {side} (bilinear), the middle kept"
            )?,
            Resize::Stretch => write!(f, "stretched to the input's size (bilinear)")?,
        }
        write!(f, ", values {}", self.range.word())
    }
}

/// A rule together with the size of the input, checked: it can be applied to any image, unless that
/// is not to be scaled and has too few pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageInput {
    rule: ImageRule,
    channels: usize,
    height: usize,
    width: usize,
}

/// Where an image's kept pixels lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Height and width after scaling.
    pub scaled: [usize; 2],
    /// Row and column of the first pixel kept, in the scaled image: half of what is left over,
    /// rounded down.
    pub origin: [usize; 2],
}

impl ImageInput {
    /// Checks a rule against an input's shape `[C, H, W]`.
    ///
    /// # Errors
    /// [`ImageError`]: no image's shape, or a rule under which some images would not fill the input.
    pub fn new(rule: ImageRule, input: &[usize]) -> Result<Self, ImageError> {
        let &[channels, height, width] = input else {
            return Err(ImageError::Input(input.to_vec()));
        };
        if !matches!(channels, 1 | 3) {
            return Err(ImageError::Channels(channels));
        }
        let in_range = |what, got: usize| {
            let fits = (1..=MAX_SIDE as usize).contains(&got);
            fits.then_some(()).ok_or(ImageError::Side { what, got })
        };
        in_range("the input's height", height)?;
        in_range("the input's width", width)?;
        if let Resize::ShortestSide(side) = rule.resize {
            in_range("the shorter side after scaling", side as usize)?;
            let least = height.max(width);
            if (side as usize) < least {
                return Err(ImageError::TooSmall {
                    side,
                    height,
                    width,
                    least,
                });
            }
        }
        Ok(Self {
            rule,
            channels,
            height,
            width,
        })
    }

    /// The rule.
    #[must_use]
    pub fn rule(&self) -> ImageRule {
        self.rule
    }

    /// Shape of what [`Self::apply`] makes: `[C, H, W]`.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        [self.channels, self.height, self.width]
    }

    /// Where the kept pixels of an image of `height x width` lie.
    ///
    /// # Errors
    /// [`ImageError`]: the image has no pixels, or too few where it is not scaled.
    pub fn geometry(&self, height: usize, width: usize) -> Result<Geometry, ImageError> {
        if height == 0 || width == 0 {
            return Err(ImageError::Empty { height, width });
        }
        let scaled = match self.rule.resize {
            Resize::None if height < self.height || width < self.width => {
                return Err(ImageError::Cut {
                    got_height: height,
                    got_width: width,
                    height: self.height,
                    width: self.width,
                });
            }
            Resize::None => [height, width],
            Resize::Stretch => [self.height, self.width],
            Resize::ShortestSide(side) => {
                let short = height.min(width) as u128;
                [height, width].map(|length| {
                    let scaled = length as u128 * u128::from(side) / short;
                    // Only an image longer than memory could overflow; what is kept stays in it.
                    usize::try_from(scaled).unwrap_or(usize::MAX)
                })
            }
        };
        Ok(Geometry {
            scaled,
            origin: [(scaled[0] - self.height) / 2, (scaled[1] - self.width) / 2],
        })
    }

    /// Turns an image into the model's raw input: scaled, its middle kept, in the rule's range, not
    /// yet normalised.
    ///
    /// # Shapes
    /// `pixels`: `[height, width, C]`, row by row from the top left, the channels of a pixel beside
    /// each other (RGB8 for three channels, grey for one). Result: `[C, H, W]`.
    /// # Errors
    /// [`ImageError`]: bytes that do not fit the size, and what [`Self::geometry`] finds.
    pub fn apply(
        &self,
        pixels: &[u8],
        height: usize,
        width: usize,
    ) -> Result<Vec<f32>, ImageError> {
        let channels = self.channels;
        let want = (height as u128 * width as u128).saturating_mul(channels as u128);
        if pixels.len() as u128 != want {
            return Err(ImageError::Bytes {
                height,
                width,
                channels,
                want,
                got: pixels.len(),
            });
        }
        self.apply_with(height, width, |row, column| {
            let at = (row * width + column) * channels;
            match pixels[at..at + channels] {
                [red, green, blue] => [red, green, blue],
                _ => [pixels[at]; 3],
            }
        })
    }

    /// As [`Self::apply`], for pixels that lie in any other way: `pixel(row, column)` answers red,
    /// green and blue, from the top left. An input of one channel takes the first of them.
    ///
    /// Takes memory for its result and one row of it, whatever the size of the image.
    ///
    /// # Errors
    /// What [`Self::geometry`] finds.
    pub fn apply_with(
        &self,
        height: usize,
        width: usize,
        pixel: impl Fn(usize, usize) -> [u8; 3],
    ) -> Result<Vec<f32>, ImageError> {
        let Geometry { scaled, origin } = self.geometry(height, width)?;
        let rows = taps(height, scaled[0], origin[0], self.height);
        let columns = taps(width, scaled[1], origin[1], self.width);
        let plane = self.height * self.width;
        let mut sums = vec![0.0; self.channels * plane];
        let mut narrow = vec![[0.0_f64; 3]; self.width];
        let (Some(top), Some(bottom)) = (rows.first(), rows.last()) else {
            return Ok(Vec::new());
        };
        // Taps begin and end later the further down they are.
        let mut open = 0;
        for row in top.first..bottom.end {
            for (sum, tap) in narrow.iter_mut().zip(&columns) {
                *sum = [0.0; 3];
                for column in tap.first..tap.end {
                    let weight = tap.weight(column);
                    for (sum, value) in sum.iter_mut().zip(pixel(row, column)) {
                        *sum += weight * f64::from(value);
                    }
                }
            }
            while rows[open].end <= row {
                open += 1;
            }
            let reached = rows[open..].iter().take_while(|tap| tap.first <= row);
            for (line, tap) in (open..).zip(reached) {
                let weight = tap.weight(row);
                for channel in 0..self.channels {
                    let at = channel * plane + line * self.width;
                    let line = &mut sums[at..at + self.width];
                    for (out, sum) in line.iter_mut().zip(&narrow) {
                        *out += weight * sum[channel];
                    }
                }
            }
        }
        let divisor = self.rule.range.divisor();
        Ok(sums.into_iter().map(|v| v as f32 / divisor).collect())
    }
}

/// What one output pixel is made of, along one axis. Weights are computed when they are used: for a
/// sliver of an image they would take many times its own memory.
struct Tap {
    /// First pixel of the image.
    first: usize,
    /// Behind the last.
    end: usize,
    /// In pixels of the image.
    centre: f64,
    /// Half width of the triangle, in pixels of the image.
    support: f64,
    /// What makes the sum of weights 1.
    factor: f64,
}

impl Tap {
    fn triangle(&self, pixel: usize) -> f64 {
        (1.0 - (pixel as f64 + 0.5 - self.centre).abs() / self.support).max(0.0)
    }

    fn weight(&self, pixel: usize) -> f64 {
        self.factor * self.triangle(pixel)
    }
}

/// The taps of `count` output pixels from `start` on, of an axis of `from` pixels scaled to `to`.
fn taps(from: usize, to: usize, start: usize, count: usize) -> Vec<Tap> {
    let scale = from as f64 / to as f64;
    let support = scale.max(1.0);
    (start..start + count)
        .map(|output| {
            let centre = (output as f64 + 0.5) * scale;
            // Conversion saturates: what lies before the first pixel begins there.
            let first = ((centre - support + 0.5).floor() as usize).min(from - 1);
            let end = ((centre + support + 0.5).floor() as usize).clamp(first + 1, from);
            let mut tap = Tap {
                first,
                end,
                centre,
                support,
                factor: 1.0,
            };
            tap.factor = 1.0 / (first..end).map(|j| tap.triangle(j)).sum::<f64>();
            tap
        })
        .collect()
}

#[cfg(test)]
mod tests;
