//! The loops that matter on a CPU, over plain slices.
//!
//! Activations lie **channels last**: a value of shape `[C, H, W]` in a batch of `B` is
//! `[B, H, W, C]` in memory (`[C, L]` is `[B, L, C]`, `[F]` is `[B, F]`). The patches a convolution
//! reads are then runs of contiguous floats, its product writes the next activation without a
//! transpose, and everything per channel is one vector wide. [`layout`] converts at the doors.
//!
//! This is the only place of the crate where `unsafe` may stand: vector instructions, pointers that
//! walk a tile, threads that write disjoint places of one buffer, and (in `counting`, behind the feature
//! `count-allocations`) an allocator's interface.
//!
//! From the inside out: [`isa`] and the registers it names, register tiles over them, [`team`] (the
//! threads), [`view`] (values computed while they are read), [`conv`].

#![allow(
    unsafe_code,
    reason = "vector instructions, and threads that write disjoint places of one buffer"
)]

pub mod ceiling;
mod cells;
pub mod channels;
pub mod conv;
#[cfg(any(test, feature = "count-allocations"))]
pub mod counting;
pub mod cpu;
pub mod element;
pub mod elementwise;
pub mod gates;
pub mod gemm;
pub mod isa;
mod lanes;
pub mod layout;
pub mod moments;
mod narrow;
pub mod pass;
pub mod patch;
pub mod pool;
pub mod team;
mod tile;
mod transpose;
pub mod view;

#[cfg(test)]
mod tests;

/// [`isa::Isa::run`] for the best this processor has.
#[inline(always)]
pub(crate) fn simd<R>(f: impl FnOnce() -> R) -> R {
    // Tests look at every set, one after the other.
    #[cfg(test)]
    let isa = tests::pinned().unwrap_or_else(isa::Isa::best);
    #[cfg(not(test))]
    let isa = isa::Isa::best();
    isa.run(f)
}
