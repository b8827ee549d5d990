//! Rounding f32 to bfloat16, in runs: one by one as numbers, and two by two as the operands that pairs
//! are multiplied as.
//!
//! Rounding is to nearest, ties to even. Where the processor has an instruction for it that is used,
//! which takes values below the smallest normal number (1.2e-38) as zeros.

use half::bf16;

use super::element::Element as _;
use super::isa::Isa;

/// Two numbers as one operand.
#[inline(always)]
pub(super) fn pair(a: f32, b: f32) -> f32 {
    let bits = |v: f32| u32::from(bf16::narrow(v).to_bits());
    f32::from_bits(bits(a) | bits(b) << 16)
}

/// Operands of one number of `a` and one of `b` each.
///
/// # Panics
/// When lengths differ.
#[inline(always)]
pub(super) fn pairs(isa: Isa, a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(
        a.len() == out.len() && b.len() == out.len(),
        "lengths differ"
    );
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512Bf16 {
        // SAFETY: sets come from a `Cpu` or through `Element::store`, which both look whether they are there; all are as long as `out`.
        unsafe { x86::pairs(a.as_ptr(), b.as_ptr(), out.as_mut_ptr(), out.len()) };
        return;
    }
    let _ = isa;
    for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
        *o = pair(*a, *b);
    }
}

/// Neighbours of `line` as operands, two by two.
///
/// # Panics
/// When `line` is not twice as long as `out`.
#[inline(always)]
pub(super) fn neighbours(isa: Isa, line: &[f32], out: &mut [f32]) {
    assert_eq!(line.len(), 2 * out.len(), "lengths differ");
    // SAFETY: an operand of 32 bits has room for two numbers of 16 and is aligned for them; any bits
    // are an f32, and nobody else looks at `out` meanwhile. Of a pair the first number has the low
    // bits, which is where it lies first: processors that multiply pairs are little-endian.
    let numbers =
        unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<bf16>(), 2 * out.len()) };
    halves(isa, line, numbers);
}

/// The numbers of `line`.
///
/// # Panics
/// When lengths differ.
#[inline(always)]
pub(super) fn halves(isa: Isa, line: &[f32], out: &mut [bf16]) {
    assert_eq!(line.len(), out.len(), "lengths differ");
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512Bf16 {
        // SAFETY: sets come from a `Cpu` or through `Element::store`, which both look whether they are there; both are as long as `out`.
        unsafe { x86::halves(line.as_ptr(), out.as_mut_ptr(), out.len()) };
        return;
    }
    let _ = isa;
    for (o, v) in out.iter_mut().zip(line) {
        *o = bf16::narrow(*v);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use half::bf16;
    use std::arch::x86_64::*;

    /// # Safety
    /// The processor has these features; `line` is readable and `out` writable for `n` numbers.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn halves(line: *const f32, out: *mut bf16, n: usize) {
        let mut i = 0;
        // SAFETY: in both loops `i` and what is taken from there on end before `n`, masked lanes are
        // not touched; a register of pairs is 512 bits like one of integers.
        unsafe {
            while i + 32 <= n {
                let (low, high) = (
                    _mm512_loadu_ps(line.add(i)),
                    _mm512_loadu_ps(line.add(i + 16)),
                );
                let both = _mm512_cvtne2ps_pbh(high, low);
                out.add(i).cast::<__m512bh>().write_unaligned(both);
                i += 32;
            }
            while i < n {
                let mask = 0xFFFF_u16 >> (16 - (n - i).min(16));
                let some = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, line.add(i)));
                let some = std::mem::transmute::<__m256bh, __m256i>(some);
                _mm256_mask_storeu_epi16(out.add(i).cast(), mask, some);
                i += 16;
            }
        }
    }

    /// # Safety
    /// As [`halves`], for `a`, `b` and `out`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn pairs(a: *const f32, b: *const f32, out: *mut f32, n: usize) {
        let mut order = [0_u16; 32];
        for (k, place) in order.iter_mut().enumerate() {
            *place = (k / 2 + k % 2 * 16) as u16;
        }
        let mut i = 0;
        // SAFETY: as in `halves`; `order` has 512 bits.
        unsafe {
            let order = _mm512_loadu_epi16(order.as_ptr().cast());
            while i < n {
                let mask = 0xFFFF_u16 >> (16 - (n - i).min(16));
                let (first, second) = (
                    _mm512_maskz_loadu_ps(mask, a.add(i)),
                    _mm512_maskz_loadu_ps(mask, b.add(i)),
                );
                let both = _mm512_cvtne2ps_pbh(second, first);
                let both = std::mem::transmute::<__m512bh, __m512i>(both);
                let both = _mm512_permutexvar_epi16(order, both);
                _mm512_mask_storeu_epi32(out.add(i).cast(), mask, both);
                i += 16;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_any_length_are_rounded_as_single_numbers() {
        for isa in Isa::available().iter().copied() {
            for n in [0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 100] {
                let numbers = |k: usize| (0..n).map(move |i| (i * k) as f32 * 0.371 - 9.0);
                let (a, mut b): (Vec<f32>, Vec<f32>) =
                    (numbers(7).collect(), numbers(11).collect());
                if let Some(last) = b.last_mut() {
                    *last = f32::NAN;
                }
                let mut out = vec![bf16::ONE; n + 1];
                halves(isa, &a, &mut out[..n]);
                let want: Vec<bf16> = a.iter().map(|&v| bf16::from_f32(v)).collect();
                assert_eq!(out[..n], want, "{isa} {n}");
                assert_eq!(out[n], bf16::ONE, "{isa} {n}: past the end");
                let mut both = vec![1.0; n + 1];
                pairs(isa, &a, &b, &mut both[..n]);
                assert_eq!(both[n].to_bits(), 1.0_f32.to_bits(), "{isa} {n}");
                for ((o, a), b) in both.iter().zip(&a).zip(&b) {
                    let [low, high] = [o.to_bits() as u16, (o.to_bits() >> 16) as u16];
                    assert_eq!(bf16::from_bits(low), bf16::from_f32(*a), "{isa} {n}");
                    let high = bf16::from_bits(high);
                    assert!(
                        high == bf16::from_f32(*b) || high.is_nan() && b.is_nan(),
                        "{isa} {n}: {high} of {b}"
                    );
                }
            }
        }
    }
}
