//! Values that are computed while they are read.
//!
//! What a norm and a rectifier make of a value costs less to compute again than to write to memory
//! and read back, so they are kept as a [`Map`] beside the value they stand on. The same holds for
//! the gradient that comes back through both: [`Back`].

use super::channels::tile_len;
use super::element::Element;

/// `v = min(max(z * scale + shift, low), high)`, per channel and perhaps per sample.
///
/// Not-a-number stays not-a-number.
#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    channels: usize,
    /// Per sample (or once for all), repeated to a tile.
    scale: Vec<f32>,
    shift: Vec<f32>,
    low: f32,
    high: f32,
}

/// Repeats each sample's `channels` values to a tile.
fn tiled<const N: usize>(
    channels: usize,
    samples: usize,
    f: impl Fn(usize, usize) -> [f32; N],
) -> [Vec<f32>; N] {
    let tile = tile_len(channels);
    let mut all = [(); N].map(|()| Vec::with_capacity(samples * tile));
    for sample in 0..samples {
        for channel in 0..channels {
            for (all, v) in all.iter_mut().zip(f(sample, channel)) {
                all.push(v);
            }
        }
        let from = sample * tile;
        for all in &mut all {
            for _ in 1..tile / channels {
                all.extend_from_within(from..from + channels);
            }
        }
    }
    all
}

/// The tile of one sample; all samples share one where there is only one.
#[inline(always)]
fn of_sample(all: &[f32], channels: usize, sample: usize) -> &[f32] {
    let tile = tile_len(channels);
    let from = if all.len() > tile { sample * tile } else { 0 };
    &all[from..from + tile]
}

impl Map {
    /// The map that changes nothing.
    #[must_use]
    pub fn identity(channels: usize) -> Self {
        Self::affine(channels, 1, |_, _| (1.0, 0.0))
    }

    /// `z * scale + shift`, with `(scale, shift) = f(sample, channel)` for `samples` samples, or one
    /// for all.
    #[must_use]
    pub fn affine(channels: usize, samples: usize, f: impl Fn(usize, usize) -> (f32, f32)) -> Self {
        let [scale, shift] = tiled(channels, samples, |s, c| f(s, c).into());
        Self {
            channels,
            scale,
            shift,
            low: f32::NEG_INFINITY,
            high: f32::INFINITY,
        }
    }

    /// The map followed by `min(max(v, 0), high)`.
    #[must_use]
    pub fn rectified(self, high: f32) -> Self {
        Self {
            low: 0.0,
            high,
            ..self
        }
    }

    /// The map of `z + before`, per channel.
    #[must_use]
    pub fn after_shift(mut self, before: &[f32]) -> Self {
        for (i, (s, t)) in self.scale.iter().zip(&mut self.shift).enumerate() {
            *t += s * before[i % self.channels];
        }
        self
    }

    /// Channels of the values it is for.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Whether samples differ.
    #[must_use]
    pub fn is_per_sample(&self) -> bool {
        self.scale.len() > tile_len(self.channels)
    }

    /// Whether anything is cut off.
    #[must_use]
    pub fn rectifies(&self) -> bool {
        self.low > f32::NEG_INFINITY || self.high < f32::INFINITY
    }

    /// Bytes owned.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        (self.scale.capacity() + self.shift.capacity()) * size_of::<f32>()
    }

    #[inline(always)]
    pub(super) fn tiles(&self, sample: usize) -> (&[f32], &[f32]) {
        (
            of_sample(&self.scale, self.channels, sample),
            of_sample(&self.shift, self.channels, sample),
        )
    }

    #[inline(always)]
    pub(super) fn limits(&self) -> Limits {
        Limits {
            low: self.low,
            high: self.high,
        }
    }
}

/// Where a map cuts, by value: read through a reference in a loop, both would be loaded for every
/// value under a mask.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    low: f32,
    high: f32,
}

impl Limits {
    /// Of a rectifier, or of nothing.
    pub(super) fn rectifier(most: Option<f32>) -> Self {
        let (low, high) = most.map_or((f32::NEG_INFINITY, f32::INFINITY), |most| (0.0, most));
        Self { low, high }
    }

    #[inline(always)]
    pub(super) fn cut(self, u: f32) -> f32 {
        // In this order a comparison with not-a-number keeps it.
        let u = if u < self.low { self.low } else { u };
        if u > self.high { self.high } else { u }
    }

    /// Whether a gradient passes where the map made `u` before it cut.
    #[inline(always)]
    pub(super) fn passes(self, u: f32) -> bool {
        (u > self.low) & (u < self.high)
    }
}

/// The adjoint of a [`Map`] whose scale and shift may depend on the value:
/// `dz = g' * factor - z * slope - offset`, `g'` the gradient where the map did not cut.
///
/// For a norm over a batch, `factor = r w`, `slope = r^2 w sum(g' h) / n` and
/// `offset = r w sum(g') / n - mean slope` with `h = (z - mean) r`.
#[derive(Debug, Clone, PartialEq)]
pub struct Back {
    channels: usize,
    factor: Vec<f32>,
    /// Slope and offset; a map that stands still has none.
    follow: Option<(Vec<f32>, Vec<f32>)>,
}

impl Back {
    /// Of a map that stands still: `dz = g' * factor`.
    #[must_use]
    pub fn still(channels: usize, factor: impl Fn(usize) -> f32) -> Self {
        let [factor] = tiled(channels, 1, |_, c| [factor(c)]);
        Self {
            channels,
            factor,
            follow: None,
        }
    }

    /// `(factor, slope, offset) = f(sample, channel)`.
    #[must_use]
    pub fn following(
        channels: usize,
        samples: usize,
        f: impl Fn(usize, usize) -> (f32, f32, f32),
    ) -> Self {
        let [factor, slope, offset] = tiled(channels, samples, |s, c| f(s, c).into());
        Self {
            channels,
            factor,
            follow: Some((slope, offset)),
        }
    }

    /// Whether samples differ.
    #[must_use]
    pub fn is_per_sample(&self) -> bool {
        self.factor.len() > tile_len(self.channels)
    }
}

/// Numbers to read, channels last.
#[derive(Debug, Clone, Copy)]
pub enum View<'a, T> {
    /// As they lie.
    Plain(&'a [T]),
    /// Through a map.
    Mapped {
        /// The value the map stands on.
        data: &'a [T],
        /// The map.
        map: &'a Map,
    },
    /// A gradient on its way back through a map.
    Back {
        /// Gradient of what the map makes.
        grad: &'a [T],
        /// The value the map stands on; may be empty where neither `map` cuts nor `back` follows.
        data: &'a [T],
        /// The map, for where it cut.
        map: &'a Map,
        /// Its adjoint.
        back: &'a Back,
    },
}

impl<T: Element> View<'_, T> {
    /// Values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Plain(data) | Self::Mapped { data, .. } => data.len(),
            Self::Back { grad, .. } => grad.len(),
        }
    }

    /// Whether there is nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether samples are read differently.
    #[must_use]
    pub fn is_per_sample(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Mapped { map, .. } => map.is_per_sample(),
            Self::Back { map, back, .. } => map.is_per_sample() || back.is_per_sample(),
        }
    }

    /// Writes the values from `at` on, which is the beginning of a position of sample `sample`.
    #[inline(always)]
    pub(super) fn read(&self, sample: usize, at: usize, out: &mut [f32]) {
        match *self {
            Self::Plain(data) => {
                let data = &data[at..][..out.len()];
                for (o, &x) in out.iter_mut().zip(data) {
                    *o = x.widen();
                }
            }
            Self::Mapped { data, map } => {
                let (scale, shift) = map.tiles(sample);
                let limits = map.limits();
                let data = &data[at..][..out.len()];
                for (out, data) in out.chunks_mut(scale.len()).zip(data.chunks(scale.len())) {
                    for ((o, &z), (s, t)) in out.iter_mut().zip(data).zip(scale.iter().zip(shift)) {
                        *o = limits.cut(z.widen() * s + t);
                    }
                }
            }
            Self::Back {
                grad,
                data,
                map,
                back,
            } => {
                let factor = of_sample(&back.factor, back.channels, sample);
                let tile = factor.len();
                let grad = &grad[at..][..out.len()];
                if !map.rectifies() && back.follow.is_none() {
                    for (out, grad) in out.chunks_mut(tile).zip(grad.chunks(tile)) {
                        for ((o, &g), f) in out.iter_mut().zip(grad).zip(factor) {
                            *o = g.widen() * f;
                        }
                    }
                    return;
                }
                let (scale, shift) = map.tiles(sample);
                let limits = map.limits();
                let data = &data[at..][..out.len()];
                let both = grad.chunks(tile).zip(data.chunks(tile));
                let Some((slope, offset)) = &back.follow else {
                    for (out, (grad, data)) in out.chunks_mut(tile).zip(both) {
                        let maps = scale.iter().zip(shift).zip(factor);
                        for (((o, &g), &z), ((s, t), f)) in
                            out.iter_mut().zip(grad).zip(data).zip(maps)
                        {
                            let passes = limits.passes(z.widen() * s + t);
                            *o = if passes { g.widen() * f } else { 0.0 };
                        }
                    }
                    return;
                };
                let slope = of_sample(slope, back.channels, sample);
                let offset = of_sample(offset, back.channels, sample);
                for (out, (grad, data)) in out.chunks_mut(tile).zip(both) {
                    let maps = scale.iter().zip(shift).zip(factor);
                    let maps = maps.zip(slope.iter().zip(offset));
                    for (((o, &g), &z), (((s, t), f), (b, c))) in
                        out.iter_mut().zip(grad).zip(data).zip(maps)
                    {
                        let z = z.widen();
                        let g = if limits.passes(z * s + t) {
                            g.widen()
                        } else {
                            0.0
                        };
                        *o = g * f - z * b - c;
                    }
                }
            }
        }
    }
}
