//! Registers of floats, one type per instruction set, and the multiply-accumulate that products are
//! made of.
//!
//! An operand is 32 bits: one f32, or two bfloat16 whose products are added to the same sum. Kernels
//! written over [`Dot`] are the same for both.

/// A register of sums and what is multiplied into it.
pub(super) trait Dot {
    /// A register of operands.
    type Operand: Copy;
    /// A register of f32 sums.
    type Sum: Copy;
    /// Values in a register.
    const LANES: usize;

    /// All zeros.
    ///
    /// # Safety
    /// As for all functions here: the processor has the instructions, and pointers are good for
    /// [`Dot::LANES`] values (for one value in [`Dot::spread`]); alignment does not matter beyond
    /// that of f32.
    unsafe fn zero() -> Self::Sum;
    /// Sums from memory.
    ///
    /// # Safety
    /// As [`Dot::zero`].
    unsafe fn load_sum(from: *const f32) -> Self::Sum;
    /// Sums to memory.
    ///
    /// # Safety
    /// As [`Dot::zero`].
    unsafe fn store_sum(sum: Self::Sum, to: *mut f32);
    /// Operands from memory.
    ///
    /// # Safety
    /// As [`Dot::zero`].
    unsafe fn load(from: *const f32) -> Self::Operand;
    /// One operand in all places.
    ///
    /// # Safety
    /// As [`Dot::zero`].
    unsafe fn spread(from: *const f32) -> Self::Operand;
    /// `sum + a b` in every place.
    ///
    /// # Safety
    /// As [`Dot::zero`].
    unsafe fn add_product(sum: Self::Sum, a: Self::Operand, b: Self::Operand) -> Self::Sum;
}

/// Four floats without any instruction of their own: the compiler uses what the build's target has.
pub(super) struct Portable;

impl Dot for Portable {
    type Operand = [f32; 4];
    type Sum = [f32; 4];
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> [f32; 4] {
        [0.0; 4]
    }
    #[inline(always)]
    unsafe fn load_sum(from: *const f32) -> [f32; 4] {
        // SAFETY: the caller's pointer is good for four floats.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_sum(sum: [f32; 4], to: *mut f32) {
        // SAFETY: as above.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(sum) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 4] {
        // SAFETY: as above.
        unsafe { Self::load_sum(from) }
    }
    #[inline(always)]
    unsafe fn spread(from: *const f32) -> [f32; 4] {
        // SAFETY: the caller's pointer is good for one float.
        [unsafe { *from }; 4]
    }
    #[inline(always)]
    unsafe fn add_product(sum: [f32; 4], a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| sum[i] + a[i] * b[i])
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use super::Dot;
    use std::arch::x86_64::*;

    /// Eight floats.
    pub(in crate::kernel) struct Avx2;

    impl Dot for Avx2 {
        type Operand = __m256;
        type Sum = __m256;
        const LANES: usize = 8;

        // SAFETY (all of these): the caller vouches for the instructions and the pointers.
        #[inline(always)]
        unsafe fn zero() -> __m256 {
            // SAFETY: see above.
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load_sum(from: *const f32) -> __m256 {
            // SAFETY: see above.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store_sum(sum: __m256, to: *mut f32) {
            // SAFETY: see above.
            unsafe { _mm256_storeu_ps(to, sum) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            // SAFETY: see above.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn spread(from: *const f32) -> __m256 {
            // SAFETY: see above.
            unsafe { _mm256_set1_ps(*from) }
        }
        #[inline(always)]
        unsafe fn add_product(sum: __m256, a: __m256, b: __m256) -> __m256 {
            // SAFETY: see above.
            unsafe { _mm256_fmadd_ps(a, b, sum) }
        }
    }

    /// Sixteen floats.
    pub(in crate::kernel) struct Avx512;

    impl Dot for Avx512 {
        type Operand = __m512;
        type Sum = __m512;
        const LANES: usize = 16;

        // SAFETY (all of these): the caller vouches for the instructions and the pointers.
        #[inline(always)]
        unsafe fn zero() -> __m512 {
            // SAFETY: see above.
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load_sum(from: *const f32) -> __m512 {
            // SAFETY: see above.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store_sum(sum: __m512, to: *mut f32) {
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(to, sum) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            // SAFETY: see above.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn spread(from: *const f32) -> __m512 {
            // SAFETY: see above.
            unsafe { _mm512_set1_ps(*from) }
        }
        #[inline(always)]
        unsafe fn add_product(sum: __m512, a: __m512, b: __m512) -> __m512 {
            // SAFETY: see above.
            unsafe { _mm512_fmadd_ps(a, b, sum) }
        }
    }

    /// Sixteen sums of products of bfloat16 pairs.
    pub(in crate::kernel) struct Avx512Pairs;

    impl Dot for Avx512Pairs {
        type Operand = __m512bh;
        type Sum = __m512;
        const LANES: usize = 16;

        // SAFETY (all of these): the caller vouches for the instructions and the pointers; any bits
        // are a register of pairs.
        #[inline(always)]
        unsafe fn zero() -> __m512 {
            // SAFETY: see above.
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load_sum(from: *const f32) -> __m512 {
            // SAFETY: see above.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store_sum(sum: __m512, to: *mut f32) {
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(to, sum) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512bh {
            // SAFETY: see above.
            unsafe { std::mem::transmute::<__m512, __m512bh>(_mm512_loadu_ps(from)) }
        }
        #[inline(always)]
        unsafe fn spread(from: *const f32) -> __m512bh {
            // SAFETY: see above. Through an integer: a float load could quiet a signalling pattern.
            unsafe {
                let both = from.cast::<i32>().read_unaligned();
                std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(both))
            }
        }
        #[inline(always)]
        unsafe fn add_product(sum: __m512, a: __m512bh, b: __m512bh) -> __m512 {
            // SAFETY: see above.
            unsafe { _mm512_dpbf16_ps(sum, a, b) }
        }
    }
}

/// NEON. Tested under an emulator (`.ci/neon`), not yet run on such a processor.
#[cfg(target_arch = "aarch64")]
pub(super) mod arm {
    use super::Dot;
    use std::arch::aarch64::*;

    /// Four floats.
    pub(in crate::kernel) struct Neon;

    impl Dot for Neon {
        type Operand = float32x4_t;
        type Sum = float32x4_t;
        const LANES: usize = 4;

        // SAFETY (all of these): the caller vouches for the instructions and the pointers.
        #[inline(always)]
        unsafe fn zero() -> float32x4_t {
            // SAFETY: see above.
            unsafe { vdupq_n_f32(0.0) }
        }
        #[inline(always)]
        unsafe fn load_sum(from: *const f32) -> float32x4_t {
            // SAFETY: see above.
            unsafe { vld1q_f32(from) }
        }
        #[inline(always)]
        unsafe fn store_sum(sum: float32x4_t, to: *mut f32) {
            // SAFETY: see above.
            unsafe { vst1q_f32(to, sum) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> float32x4_t {
            // SAFETY: see above.
            unsafe { vld1q_f32(from) }
        }
        #[inline(always)]
        unsafe fn spread(from: *const f32) -> float32x4_t {
            // SAFETY: see above.
            unsafe { vld1q_dup_f32(from) }
        }
        #[inline(always)]
        unsafe fn add_product(sum: float32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: see above.
            unsafe { vfmaq_f32(sum, a, b) }
        }
    }
}
