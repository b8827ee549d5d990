//! The loops that matter on a CPU, over plain slices.
//!
//! Activations lie **channels last**: a value of shape `[C, H, W]` in a batch of `B` is
//! `[B, H, W, C]` in memory (`[C, L]` is `[B, L, C]`, `[F]` is `[B, F]`). The patches a convolution
//! reads are then runs of contiguous floats, its product writes the next activation without a
//! transpose, and everything per channel is one vector wide. [`layout`] converts at the doors.
//!
//! This is the only place of the crate where `unsafe` may stand (in [`gemm`]: raw pointers to the
//! `gemm` crate).

pub mod channels;
pub mod depthwise;
pub mod elementwise;
pub mod gemm;
pub mod layout;
pub mod patch;
pub mod pool;

/// Runs `f` compiled for the widest vectors this processor has.
///
/// The build targets the oldest processor of its family; the loops inside `f` are compiled once
/// more for newer ones and chosen at run time. Arithmetic is not reordered or contracted, so the
/// bytes are the same either way.
#[inline(always)]
pub(crate) fn simd<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}
