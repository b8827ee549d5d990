//! Which vector instructions this processor has, found once when the program runs.

use std::fmt;
use std::sync::OnceLock;

/// A set of vector instructions that kernels are compiled for.
///
/// The build targets the oldest processor of its family; kernels are compiled once more for newer
/// ones and chosen at run time. Results of two sets differ by rounding: newer ones fuse
/// multiplication and addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// What every processor of the build's target has.
    Portable,
    /// x86-64 with AVX2 and FMA: 8 floats.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL: 16 floats.
    Avx512,
    /// [`Isa::Avx512`] with dot products of bfloat16 pairs.
    Avx512Bf16,
    /// AArch64 with NEON: 4 floats.
    Neon,
}

impl Isa {
    /// All sets this processor has, [`Isa::Portable`] first, the best last.
    #[must_use]
    pub fn available() -> &'static [Self] {
        static FOUND: OnceLock<Vec<Isa>> = OnceLock::new();
        FOUND.get_or_init(detect)
    }

    /// The best set this processor has.
    #[must_use]
    pub fn best() -> Self {
        Self::available().last().copied().unwrap_or(Self::Portable)
    }

    /// Whether products of bfloat16 pairs are instructions here.
    #[must_use]
    pub fn multiplies_bf16(self) -> bool {
        self == Self::Avx512Bf16
    }

    /// The name in listings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Neon => "neon",
        }
    }

    /// Runs `f` compiled for this set: its loops are vectorised anew where `f` and what it calls
    /// are inlined. Arithmetic is not reordered or contracted, so the bytes do not depend on the set.
    ///
    /// # Panics
    /// When this processor lacks the set.
    #[inline(always)]
    pub(crate) fn run<R>(self, f: impl FnOnce() -> R) -> R {
        match self {
            Self::Portable | Self::Neon => f(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                assert!(self.is_here(), "this processor lacks {self}");
                // SAFETY: the features were just found to be there.
                unsafe { x86::avx2(f) }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Avx512Bf16 => {
                assert!(self.is_here(), "this processor lacks {self}");
                // SAFETY: as above; the bfloat16 set includes the other.
                unsafe { x86::avx512(f) }
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("{self} is of another family of processors"),
        }
    }

    /// Whether this processor has the set.
    #[must_use]
    pub fn is_here(self) -> bool {
        Self::available().contains(&self)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Vec<Isa> {
    let mut found = vec![Isa::Portable];
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        found.push(Isa::Avx2);
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            found.push(Isa::Avx512);
            if is_x86_feature_detected!("avx512bf16") {
                found.push(Isa::Avx512Bf16);
            }
        }
    }
    found
}

#[cfg(target_arch = "aarch64")]
fn detect() -> Vec<Isa> {
    let mut found = vec![Isa::Portable];
    if std::arch::is_aarch64_feature_detected!("neon") {
        found.push(Isa::Neon);
    }
    found
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detect() -> Vec<Isa> {
    vec![Isa::Portable]
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2<R>(f: impl FnOnce() -> R) -> R {
        f()
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub(super) fn avx512<R>(f: impl FnOnce() -> R) -> R {
        f()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_found_runs_and_gives_the_same_bytes() {
        let x: Vec<f32> = (0..1000_u16).map(|i| f32::from(i) * 0.37).collect();
        let scale = |isa: Isa| isa.run(|| x.iter().map(|v| v * 1.7 + 0.3).collect::<Vec<f32>>());
        let plain = scale(Isa::Portable);
        for &isa in Isa::available() {
            assert_eq!(scale(isa), plain, "{isa}");
        }
        assert_eq!(Isa::available()[0], Isa::Portable);
    }
}
