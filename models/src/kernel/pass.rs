//! Passes over whole values: where nothing else reads them while they are made.

use super::cells::Cells;
use super::channels;
use super::cpu::Cpu;
use super::element::Element;
use super::isa::Isa;
use super::view::{Limits, View};

/// Values in the buffer through which views are read, about.
const LINE: usize = 4096;

/// Extents of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Samples.
    pub batch: usize,
    /// Positions of a sample.
    pub positions: usize,
    /// Channels of a position.
    pub channels: usize,
}

impl Extent {
    /// Values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.batch * self.positions * self.channels
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cuts all positions into lines inside one sample and shares them out:
    /// `f(member, lines)`, each line `(sample, first value, values)`.
    fn lines(
        &self,
        cpu: &Cpu,
        f: impl Fn(usize, &mut dyn Iterator<Item = (usize, usize, usize)>) + Sync,
    ) {
        let (positions, channels) = (self.positions, self.channels);
        let step = (LINE / channels.max(1)).max(1);
        cpu.split(self.len(), self.batch * positions, |member, share| {
            let mut at = share.start;
            let mut lines = std::iter::from_fn(|| {
                if at >= share.end {
                    return None;
                }
                let sample = at / positions;
                let end = share.end.min((sample + 1) * positions).min(at + step);
                let line = (sample, at * channels, (end - at) * channels);
                at = end;
                Some(line)
            });
            f(member, &mut lines);
        });
    }
}

/// `out = view`
pub fn make<T: Element, O: Element>(cpu: &Cpu, extent: Extent, view: View<'_, T>, out: &mut [O]) {
    assert_eq!(out.len(), extent.len(), "output");
    let cells = Cells::new(out);
    extent.lines(cpu, |_, lines| {
        let mut line = Vec::new();
        for (sample, at, n) in lines {
            // SAFETY: lines do not overlap.
            let out = unsafe { cells.range(at..at + n) };
            cpu.isa().run(
                #[inline(always)]
                || {
                    if let Some(out) = O::as_floats_mut(out) {
                        view.read(sample, at, out);
                        return;
                    }
                    line.resize(n, 0.0);
                    view.read(sample, at, &mut line);
                    O::store(cpu.isa(), &line, false, out);
                },
            );
        }
    });
}

/// `out = min(max(a + b, 0), most)`, or just the sum without `most`.
pub fn sum<T: Element>(
    cpu: &Cpu,
    extent: Extent,
    (a, b): (View<'_, T>, View<'_, T>),
    most: Option<f32>,
    out: &mut [T],
) {
    assert_eq!(out.len(), extent.len(), "output");
    let limits = Limits::rectifier(most);
    let cells = Cells::new(out);
    extent.lines(cpu, |_, lines| {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for (sample, at, n) in lines {
            left.resize(n, 0.0);
            right.resize(n, 0.0);
            // SAFETY: lines do not overlap.
            let out = unsafe { cells.range(at..at + n) };
            cpu.isa().run(
                #[inline(always)]
                || {
                    a.read(sample, at, &mut left);
                    b.read(sample, at, &mut right);
                    for ((o, a), b) in out.iter_mut().zip(&left).zip(&right) {
                        *o = T::narrow(limits.cut(a + b));
                    }
                },
            );
        }
    });
}

/// `y = min(max(y * scale + shift + other, 0), most)`, in place over some finished values of a
/// sample: what inference makes of a product, and training of one with a bias.
pub fn finish<T: Element>(
    cpu: &Cpu,
    sample: usize,
    at: usize,
    y: &mut [T],
    map: &super::view::Map,
    other: Option<View<'_, T>>,
    most: Option<f32>,
) {
    let limits = Limits::rectifier(most);
    let (scale, shift) = map.tiles(sample);
    let n = scale.len();
    let mut line = vec![
        0.0;
        if other.is_some() {
            y.len().min(LINE.next_multiple_of(n))
        } else {
            0
        }
    ];
    cpu.isa().run(
        #[inline(always)]
        || {
            let Some(other) = other else {
                for y in y.chunks_mut(n) {
                    for (y, (s, t)) in y.iter_mut().zip(scale.iter().zip(shift)) {
                        *y = T::narrow(limits.cut(y.widen() * s + t));
                    }
                }
                return;
            };
            for (i, y) in y.chunks_mut(line.len()).enumerate() {
                let line = &mut line[..y.len()];
                other.read(sample, at + i * LINE.next_multiple_of(n), line);
                for (y, line) in y.chunks_mut(n).zip(line.chunks(n)) {
                    let maps = scale.iter().zip(shift);
                    for ((y, (s, t)), o) in y.iter_mut().zip(maps).zip(line) {
                        *y = T::narrow(limits.cut(y.widen() * s + t + o));
                    }
                }
            }
        },
    );
}

/// `g = 0` where the rectifier that made `y` cut.
///
/// # Panics
/// When lengths differ.
pub fn mask<T: Element>(isa: Isa, y: &[T], most: f32, g: &mut [T]) {
    assert_eq!(y.len(), g.len(), "gradient");
    let limits = Limits::rectifier(Some(most));
    isa.run(
        #[inline(always)]
        || {
            for (g, y) in g.iter_mut().zip(y) {
                *g = if limits.passes(y.widen()) {
                    *g
                } else {
                    T::default()
                };
            }
        },
    );
}

/// [`mask`] over a whole value.
pub fn mask_all<T: Element>(cpu: &Cpu, y: &[T], most: f32, g: &mut [T]) {
    assert_eq!(y.len(), g.len(), "gradient");
    let cells = Cells::new(g);
    cpu.split(y.len(), y.len(), |_, share| {
        // SAFETY: shares do not overlap.
        let g = unsafe { cells.range(share.clone()) };
        mask(cpu.isa(), &y[share], most, g);
    });
}

/// `to += from`
pub fn accumulate<T: Element>(cpu: &Cpu, from: &[T], to: &mut [T]) {
    assert_eq!(from.len(), to.len(), "sum");
    let cells = Cells::new(to);
    cpu.split(from.len(), from.len(), |_, share| {
        // SAFETY: shares do not overlap.
        let to = unsafe { cells.range(share.clone()) };
        cpu.isa().run(
            #[inline(always)]
            || {
                for (t, f) in to.iter_mut().zip(&from[share]) {
                    *t = T::narrow(t.widen() + f.widen());
                }
            },
        );
    });
}

/// `to = from`, in another type.
pub fn convert<A: Element, B: Element>(cpu: &Cpu, from: &[A], to: &mut [B]) {
    assert_eq!(from.len(), to.len(), "conversion");
    let cells = Cells::new(to);
    cpu.split(from.len(), from.len(), |_, share| {
        // SAFETY: shares do not overlap.
        let to = unsafe { cells.range(share.clone()) };
        cpu.isa().run(
            #[inline(always)]
            || {
                for (t, f) in to.iter_mut().zip(&from[share]) {
                    *t = B::narrow(f.widen());
                }
            },
        );
    });
}

/// Sum of each channel over all positions of all samples.
#[must_use]
pub fn channel_sums<T: Element>(cpu: &Cpu, extent: Extent, view: View<'_, T>) -> Vec<f64> {
    let members = cpu.team().members();
    let mut all = vec![0.0; members * extent.channels];
    let cells = Cells::new(&mut all);
    extent.lines(cpu, |member, lines| {
        let (mut line, mut partial) = (Vec::new(), Vec::new());
        // SAFETY: each member has its own sums.
        let sums = unsafe { cells.range(member * extent.channels..(member + 1) * extent.channels) };
        for (sample, at, n) in lines {
            line.resize(n, 0.0);
            cpu.isa().run(
                #[inline(always)]
                || view.read(sample, at, &mut line),
            );
            channels::sum(cpu.isa(), &line, sums, &mut partial);
        }
    });
    let (total, others) = all.split_at_mut(extent.channels);
    for sums in others.chunks_exact(extent.channels.max(1)) {
        for (t, s) in total.iter_mut().zip(sums) {
            *t += s;
        }
    }
    total.to_vec()
}
