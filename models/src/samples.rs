//! Labelled samples in memory: raw windows or images with a class each.

use crate::graph::Shape;

/// Labelled samples, row-major F32 in **raw** units; a model's own normalisation is applied when a
/// batch is made, so that augmentation can act on physical quantities.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Samples {
    /// Shape of one sample, e.g. `[channels, length]`.
    pub shape: Shape,
    /// Values: `len() * product(shape)`.
    pub x: Vec<f32>,
    /// Class of each sample, below `classes.len()`.
    pub y: Vec<u32>,
    /// Class names; labels index into it.
    pub classes: Vec<String>,
}

impl Samples {
    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.y.len()
    }

    /// Whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.y.is_empty()
    }

    /// Values in one sample.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.shape.iter().product()
    }

    /// Values of sample `i`.
    ///
    /// # Panics
    /// When `i >= len()`.
    #[must_use]
    pub fn sample(&self, i: usize) -> &[f32] {
        let n = self.stride();
        &self.x[i * n..(i + 1) * n]
    }

    /// The samples at these places, in this order.
    #[must_use]
    pub fn select(&self, places: &[usize]) -> Self {
        Self {
            shape: self.shape.clone(),
            x: places
                .iter()
                .flat_map(|&i| self.sample(i).iter().copied())
                .collect(),
            y: places.iter().map(|&i| self.y[i]).collect(),
            classes: self.classes.clone(),
        }
    }

    /// Bytes the values take, as kept by a node (F32).
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.x.len() * 4 + self.y.len() * 4) as u64
    }
}
