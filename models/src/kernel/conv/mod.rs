//! Convolutions, forward and both gradients, directly on channels-last images.
//!
//! Work is cut into *items*: an image, or a band of a large one. A member of the team takes the
//! item's part of the image as a slab (computing norm and rectifier while it reads, see
//! [`super::view`]), runs register tiles over it for one panel of weights after the other, and
//! finishes what it made while that is still in its cache. Nothing the size of a batch is ever
//! written beside inputs and outputs.
//!
//! Linear layers are convolutions of one tap over an image of one row: the batch.

mod depthwise;
mod panels;
mod ready;
mod run;
mod slab;
mod strip;
mod sweep;
mod weight;

#[cfg(test)]
mod tests;

use super::cpu::{Cpu, Workspace};
use super::element::Element;
use super::patch::Window;
use super::view::View;
use panels::Direction;
use sweep::Sweep;

/// Bytes of a slab aimed at: it should stay in a core's second-level cache with a panel of weights.
const SLAB_BYTES: usize = 192 << 10;

/// A convolution with its shapes worked out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conv {
    /// How the window slides.
    pub window: Window,
    /// Channels made.
    pub out_channels: usize,
    /// Independent groups of channels.
    pub groups: usize,
}

/// What becomes of old values where results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// They are replaced.
    Set,
    /// Results are added to them.
    Add,
}

/// A finished part of a result: whole positions, all channels.
#[derive(Debug)]
pub struct Part<'a, T> {
    /// The member of the team that made it.
    pub member: usize,
    /// Its sample; 0 where samples were not told apart, as positions of the view read were alike for all
    /// of them.
    pub sample: usize,
    /// Place of its first value in the whole result.
    pub at: usize,
    /// Its values.
    pub values: &'a mut [T],
}

impl Conv {
    /// A fully connected layer over a batch of this size.
    #[must_use]
    pub fn linear(inputs: usize, outputs: usize, batch: usize) -> Self {
        Self {
            window: Window {
                channels: inputs,
                input: [1, batch],
                output: [1, batch],
                kernel: [1; 2],
                stride: [1; 2],
                padding: [0; 2],
                dilation: [1; 2],
            },
            out_channels: outputs,
            groups: 1,
        }
    }

    /// Whether every channel has a filter of its own: too thin for products of matrices.
    #[must_use]
    pub fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.window.channels && self.groups == self.out_channels
    }

    /// Groups whose slabs are separate: channels with filters of their own share one.
    fn slabs(&self) -> usize {
        if self.is_depthwise() { 1 } else { self.groups }
    }

    /// Channels read from one slab.
    fn depth(&self) -> usize {
        self.window.channels / self.slabs()
    }

    /// Channels made from one slab.
    fn out_depth(&self) -> usize {
        self.out_channels / self.slabs()
    }

    /// Values of the weight `[out, in / groups, kh, kw]`.
    #[must_use]
    pub fn weight_len(&self) -> usize {
        self.out_channels * (self.window.channels / self.groups) * self.window.taps()
    }

    /// Values of a result over so many samples.
    #[must_use]
    pub fn output_len(&self, batch: usize) -> usize {
        batch * self.window.positions() * self.out_channels
    }

    /// Tiles write where these extents say, by pointers: they have to fit one another.
    ///
    /// # Panics
    /// When the output's extent is not what the window makes of the input's, something is zero that may
    /// not be, groups do not divide channels, or a batch has more values than can be counted.
    fn expect_whole(&self, batch: usize) {
        let w = &self.window;
        let least = [w.channels, self.out_channels, self.groups];
        let all = w.kernel.iter().chain(&w.stride).chain(&w.dilation);
        assert!(least.iter().chain(all).all(|&n| n > 0), "zero in {self:?}");
        for d in 0..2 {
            let made = || {
                let padded = w.padding[d].checked_mul(2)?.checked_add(w.input[d])?;
                let reach = (w.kernel[d] - 1)
                    .checked_mul(w.dilation[d])?
                    .checked_add(1)?;
                Some(padded.checked_sub(reach).map_or(0, |n| n / w.stride[d] + 1))
            };
            assert_eq!(made(), Some(w.output[d]), "extent of {self:?}");
        }
        assert!(
            w.channels.is_multiple_of(self.groups) && self.out_channels.is_multiple_of(self.groups),
            "groups of {self:?}"
        );
        let countable = |extent: [usize; 2], channels: usize| {
            let n = extent[0].checked_mul(extent[1])?.checked_mul(channels)?;
            n.checked_mul(batch)?.checked_mul(size_of::<f32>())
        };
        let both = countable(w.input, w.channels).zip(countable(w.output, self.out_channels));
        let taps = countable(w.kernel, w.channels).and_then(|n| n.checked_mul(self.out_channels));
        assert!(
            both.zip(taps).is_some(),
            "too many values: {self:?}, {batch} samples"
        );
    }

    /// Where every position reads itself alone, samples are just more positions.
    fn merged(&self, batch: usize, by_sample: bool) -> (Self, usize) {
        let w = self.window;
        if !w.is_identity() || by_sample {
            return (self.clone(), batch);
        }
        let extent = [1, batch * w.positions()];
        let window = Window {
            input: extent,
            output: extent,
            ..w
        };
        (
            Self {
                window,
                ..self.clone()
            },
            1,
        )
    }

    /// `y = x * w`; `finish` sees every part of the result while it is in cache.
    ///
    /// # Shapes
    /// x `[B, H, W, C]`, weight `[out, C / groups, kh, kw]`, y `[B, Ho, Wo, out]`
    /// # Panics
    /// When a length does not fit, or the convolution's own extents do not fit one another.
    pub fn forward<T: Element>(
        &self,
        cpu: &Cpu,
        workspace: &mut Workspace,
        batch: usize,
        x: View<'_, T>,
        weight: &[f32],
        y: &mut [T],
        finish: impl Fn(Part<'_, T>) + Sync,
    ) {
        self.expect_whole(batch);
        assert_eq!(x.len(), batch * self.window.image(), "input");
        assert_eq!(weight.len(), self.weight_len(), "weight");
        assert_eq!(y.len(), self.output_len(batch), "output");
        let (conv, batch) = self.merged(batch, x.is_per_sample());
        let run = run::Run {
            cpu,
            sweeps: &[Sweep::forward(&conv)],
            groups: conv.slabs(),
            diagonal: conv.is_depthwise(),
            kernel: conv.window.kernel,
            direction: Direction::Forward,
            write: Write::Set,
            batch,
        };
        run.correlate(workspace, x, weight, y, &finish);
    }

    /// `dx = adjoint of the forward applied to g`; `finish` as in [`Conv::forward`].
    ///
    /// # Shapes
    /// g `[B, Ho, Wo, out]`, weight as in [`Conv::forward`], dx `[B, H, W, C]`
    /// # Panics
    /// When a length does not fit, or the convolution's own extents do not fit one another.
    pub fn input_gradient<T: Element>(
        &self,
        cpu: &Cpu,
        workspace: &mut Workspace,
        batch: usize,
        g: View<'_, T>,
        weight: &[f32],
        write: Write,
        dx: &mut [T],
        finish: impl Fn(Part<'_, T>) + Sync,
    ) {
        self.expect_whole(batch);
        assert_eq!(g.len(), self.output_len(batch), "output gradient");
        assert_eq!(weight.len(), self.weight_len(), "weight");
        assert_eq!(dx.len(), batch * self.window.image(), "input gradient");
        let (conv, batch) = self.merged(batch, g.is_per_sample());
        let run = run::Run {
            cpu,
            sweeps: &Sweep::backward(&conv),
            groups: conv.slabs(),
            diagonal: conv.is_depthwise(),
            kernel: conv.window.kernel,
            direction: Direction::Backward,
            write,
            batch,
        };
        run.correlate(workspace, g, weight, dx, &finish);
    }

    /// Writes the gradient of the weight.
    ///
    /// # Shapes
    /// x `[B, H, W, C]`, g `[B, Ho, Wo, out]`, dw `[out, C / groups, kh, kw]`
    /// # Panics
    /// When a length does not fit, or the convolution's own extents do not fit one another.
    pub fn weight_gradient<T: Element>(
        &self,
        cpu: &Cpu,
        workspace: &mut Workspace,
        batch: usize,
        x: View<'_, T>,
        g: View<'_, T>,
        dw: &mut [f32],
    ) {
        self.expect_whole(batch);
        assert_eq!(x.len(), batch * self.window.image(), "input");
        assert_eq!(g.len(), self.output_len(batch), "output gradient");
        assert_eq!(dw.len(), self.weight_len(), "weight gradient");
        let by_sample = x.is_per_sample() || g.is_per_sample();
        let (conv, batch) = self.merged(batch, by_sample);
        weight::gradient(&conv, cpu, workspace, batch, x, g, dw);
    }
}
