//! Slabs: the part of an image that a piece of work reads, computed from its view, with zeros where
//! it leaves the image, in a buffer small enough for a core's second-level cache.

use std::ops::Range;

use super::sweep::Reach;
use crate::kernel::cpu::room;
use crate::kernel::element::Element;
use crate::kernel::isa::Isa;
use crate::kernel::narrow;
use crate::kernel::view::View;

/// Channels a slab takes of an image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Take {
    /// Channels of the image.
    pub channels: usize,
    /// First channel taken.
    pub first: usize,
    /// Channels taken.
    pub count: usize,
}

/// Operands of 32 bits that `channels` channels of one position take: pairs are rounded up.
pub(super) fn operands(channels: usize, pairs: bool) -> usize {
    if pairs {
        channels.div_ceil(2)
    } else {
        channels
    }
}

/// What is read of one image.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a, T> {
    /// The batch.
    pub view: &'a View<'a, T>,
    /// Height and width of an image.
    pub image: [usize; 2],
    /// Which image.
    pub sample: usize,
    /// Which channels.
    pub take: Take,
    /// Which part of it.
    pub reach: &'a Reach,
}

/// A [`Piece`] with what lies inside the image worked out.
struct Rows<'a, T> {
    piece: Piece<'a, T>,
    /// Rows and columns of the reach that lie inside.
    inside: [Range<usize>; 2],
}

impl<'a, T: Element> Piece<'a, T> {
    fn rows(self) -> Rows<'a, T> {
        let Reach {
            size, first, skip, ..
        } = self.reach;
        let inside = [0, 1].map(|d| {
            let (step, size) = (skip[d] as isize, size[d]);
            let from = if first[d] >= 0 {
                0
            } else {
                (-first[d] + step - 1) / step
            } as usize;
            let room = self.image[d] as isize - first[d];
            let to = if room <= 0 {
                0
            } else {
                ((room - 1) / step + 1) as usize
            };
            from.min(size)..to.min(size).max(from.min(size))
        });
        Rows {
            piece: self,
            inside,
        }
    }
}

impl<T: Element> Rows<'_, T> {
    /// Floats that [`Rows::write`] wants as scratch.
    fn scratch(&self) -> usize {
        let take = self.piece.take;
        if take.count == take.channels {
            0
        } else {
            take.channels * self.inside[1].len().max(1)
        }
    }

    /// Writes row `k` of the reach, channels of positions one after the other.
    #[inline(always)]
    fn write(&self, k: usize, scratch: &mut [f32], out: &mut [f32]) {
        let Piece {
            view,
            image,
            sample,
            take,
            reach,
        } = self.piece;
        let [rows, cols] = &self.inside;
        if !rows.contains(&k) || cols.is_empty() {
            out.fill(0.0);
            return;
        }
        let row = (reach.first[0] + (k * reach.skip[0]) as isize) as usize;
        let col = (reach.first[1] + (cols.start * reach.skip[1]) as isize) as usize;
        let at = ((sample * image[0] + row) * image[1] + col) * take.channels;
        let (lead, rest) = out.split_at_mut(cols.start * take.count);
        let (mid, tail) = rest.split_at_mut(cols.len() * take.count);
        lead.fill(0.0);
        tail.fill(0.0);
        let whole = take.count == take.channels;
        if whole && reach.skip[1] == 1 {
            view.read(sample, at, mid);
            return;
        }
        let step = reach.skip[1] * take.channels;
        if whole {
            for (q, position) in mid.chunks_exact_mut(take.channels).enumerate() {
                view.read(sample, at + q * step, position);
            }
            return;
        }
        let line = &mut scratch[..take.channels];
        for (q, position) in mid.chunks_exact_mut(take.count).enumerate() {
            view.read(sample, at + q * step, line);
            position.copy_from_slice(&line[take.first..][..take.count]);
        }
    }
}

/// Writes a piece as rows of positions, `stride` operands from one to the next.
///
/// `line` is scratch. What lies between positions is unspecified.
pub(super) fn fill<T: Element>(
    isa: Isa,
    piece: Piece<'_, T>,
    pairs: bool,
    stride: usize,
    line: &mut Vec<f32>,
    out: &mut [f32],
) {
    let count = piece.take.count;
    let width = operands(count, pairs);
    let [height, length] = piece.reach.size;
    let rows = piece.rows();
    let dense = !pairs && stride == width;
    let line = room(
        line,
        rows.scratch() + if dense { 0 } else { length * count },
    );
    let (scratch, line) = line.split_at_mut(rows.scratch());
    isa.run(
        #[inline(always)]
        || {
            let out = out.chunks_exact_mut(length * stride).take(height);
            for (k, out) in out.enumerate() {
                if dense {
                    rows.write(k, scratch, out);
                    continue;
                }
                rows.write(k, scratch, line);
                if pairs && stride * 2 == count {
                    narrow::neighbours(isa, line, out);
                    continue;
                }
                let positions = line.chunks_exact(count).zip(out.chunks_exact_mut(stride));
                for (line, out) in positions {
                    if pairs {
                        let (twos, odd) = line.as_chunks::<2>();
                        narrow::neighbours(isa, twos.as_flattened(), &mut out[..twos.len()]);
                        if let &[last] = odd {
                            out[twos.len()] = narrow::pair(last, 0.0);
                        }
                    } else {
                        out[..count].copy_from_slice(line);
                    }
                }
            }
        },
    );
}

/// [`fill`] for two images at once: each operand is one number of the first and one of the second,
/// which is what sums over positions want. Without a second image its place holds zeros.
///
/// # Panics
/// When the pieces have not the same size.
pub(super) fn fill_two<T: Element>(
    isa: Isa,
    first: Piece<'_, T>,
    second: Option<Piece<'_, T>>,
    stride: usize,
    line: &mut Vec<f32>,
    out: &mut [f32],
) {
    let count = first.take.count;
    let [height, length] = first.reach.size;
    let (a, b) = (first.rows(), second.map(Piece::rows));
    if let Some(b) = &b {
        assert_eq!(first.reach.size, b.piece.reach.size, "pieces are alike");
    }
    let (n, most) = (length * count, b.iter().map(Rows::scratch).max());
    let most = a.scratch().max(most.unwrap_or(0));
    let line = room(line, 2 * n + most);
    let (lines, scratch) = line.split_at_mut(2 * n);
    let (line, other) = lines.split_at_mut(n);
    other.fill(0.0);
    isa.run(
        #[inline(always)]
        || {
            let out = out.chunks_exact_mut(length * stride).take(height);
            for (k, out) in out.enumerate() {
                a.write(k, scratch, line);
                if let Some(b) = &b {
                    b.write(k, scratch, other);
                }
                if stride == count {
                    narrow::pairs(isa, line, other, out);
                    continue;
                }
                let positions = line.chunks_exact(count).zip(other.chunks_exact(count));
                for ((a, b), out) in positions.zip(out.chunks_exact_mut(stride)) {
                    narrow::pairs(isa, a, b, &mut out[..count]);
                }
            }
        },
    );
}
