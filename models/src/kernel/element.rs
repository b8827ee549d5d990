//! What activations and their gradients are stored as; arithmetic is always in f32.

use std::fmt::Debug;

use half::bf16;

use super::isa::Isa;
use super::narrow;

mod sealed {
    /// Kernels write elements through pointers and trust what an [`super::Element`] says of itself.
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
}

/// A stored number: f32 or bfloat16, and nothing else.
pub trait Element:
    sealed::Sealed + Copy + Default + PartialEq + Debug + Send + Sync + 'static
{
    /// Whether two of them make one operand of a register tile's pairs.
    const IS_HALF: bool;
    /// Exact value.
    fn widen(self) -> f32;
    /// Nearest value, ties to even; not-a-number stays one.
    fn narrow(value: f32) -> Self;
    /// Writes sums, on top of what is there where that counts.
    ///
    /// # Panics
    /// When lengths differ, or this processor lacks the set.
    fn store(isa: Isa, sums: &[f32], add: bool, to: &mut [Self]) {
        assert_eq!(sums.len(), to.len(), "lengths differ");
        isa.run(
            #[inline(always)]
            || {
                for (y, s) in to.iter_mut().zip(sums) {
                    *y = Self::narrow(if add { y.widen() + s } else { *s });
                }
            },
        );
    }
    /// f32 values themselves, where that is what is stored.
    fn of_floats(values: &[f32]) -> Option<&[Self]>;
    /// The values themselves, where they are f32 already.
    fn as_floats(values: &[Self]) -> Option<&[f32]>;
    /// As [`Element::as_floats`], to be written.
    fn as_floats_mut(values: &mut [Self]) -> Option<&mut [f32]>;
}

impl Element for f32 {
    const IS_HALF: bool = false;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }

    fn of_floats(values: &[f32]) -> Option<&[Self]> {
        Some(values)
    }

    fn as_floats(values: &[Self]) -> Option<&[f32]> {
        Some(values)
    }

    fn as_floats_mut(values: &mut [Self]) -> Option<&mut [f32]> {
        Some(values)
    }
}

impl Element for bf16 {
    const IS_HALF: bool = true;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    // Written out without branches so that loops over it are vectorised.
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        let even = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
        let quiet = (bits >> 16) | 0x40;
        Self::from_bits(if value.is_nan() { quiet } else { even } as u16)
    }

    fn store(isa: Isa, sums: &[f32], add: bool, to: &mut [Self]) {
        assert!(isa.is_here(), "this processor lacks {isa}");
        if !add {
            narrow::halves(isa, sums, to);
            return;
        }
        // By way of a line of sums.
        assert_eq!(sums.len(), to.len(), "lengths differ");
        isa.run(
            #[inline(always)]
            || {
                let mut line = [0.0_f32; 256];
                for (sums, to) in sums.chunks(256).zip(to.chunks_mut(256)) {
                    let line = &mut line[..to.len()];
                    for ((l, s), y) in line.iter_mut().zip(sums).zip(to.iter()) {
                        *l = y.widen() + s;
                    }
                    narrow::halves(isa, line, to);
                }
            },
        );
    }

    fn of_floats(_: &[f32]) -> Option<&[Self]> {
        None
    }

    fn as_floats(_: &[Self]) -> Option<&[f32]> {
        None
    }

    fn as_floats_mut(_: &mut [Self]) -> Option<&mut [f32]> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrowing_rounds_as_the_reference_does() {
        let mut bits = 1_u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = f32::from_bits(bits);
            let (ours, theirs) = (<bf16 as Element>::narrow(value), bf16::from_f32(value));
            assert!(
                ours == theirs || (ours.is_nan() && theirs.is_nan()),
                "{value}: {ours} and {theirs}"
            );
        }
        for value in [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            assert_eq!(<bf16 as Element>::narrow(value), bf16::from_f32(value));
        }
    }
}
