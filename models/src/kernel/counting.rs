//! An allocator that counts: how many bytes are allocated now, how many at most, how often.
//!
//! Peaks of training are claims until something outside the code that makes them has counted. A
//! binary built with the cargo feature `count-allocations` installs [`Counting`] as its global
//! allocator:
//!
//! ```
//! use lamplight_models::kernel::counting::Counting;
//!
//! #[global_allocator]
//! static ALLOCATOR: Counting = Counting;
//!
//! Counting::reset_peak();
//! let before = Counting::live();
//! drop(std::hint::black_box(vec![0_u8; 1 << 20]));
//! assert!(Counting::peak() >= before + (1 << 20));
//! ```
//!
//! What is counted is what the program asked for, not what the system's allocator keeps beside it;
//! the process's resident size tells that. A block that grows counts with its new size alone, though
//! the system may hold both while it copies.

#![allow(
    unsafe_code,
    reason = "an allocator's interface is unsafe; every call is passed on to the system's"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Counters of one allocator. No order among them is promised while other threads allocate, so
/// relaxed atomics are enough.
#[derive(Debug)]
struct Counters {
    live: AtomicUsize,
    peak: AtomicUsize,
    allocations: AtomicU64,
}

impl Counters {
    const fn new() -> Self {
        Self {
            live: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            allocations: AtomicU64::new(0),
        }
    }

    fn grow(&self, bytes: usize) {
        let live = self.live.fetch_add(bytes, Relaxed).wrapping_add(bytes);
        self.peak.fetch_max(live, Relaxed);
    }

    fn shrink(&self, bytes: usize) {
        self.live.fetch_sub(bytes, Relaxed);
    }

    /// A new block.
    fn made(&self, bytes: usize) {
        self.allocations.fetch_add(1, Relaxed);
        self.grow(bytes);
    }

    /// A block of another size in place of an old one.
    fn resized(&self, from: usize, to: usize) {
        self.allocations.fetch_add(1, Relaxed);
        if to >= from {
            self.grow(to - from);
        } else {
            self.shrink(from - to);
        }
    }
}

/// Of the one global allocator a program can have.
static COUNTERS: Counters = Counters::new();

/// The system's allocator, counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counting;

impl Counting {
    /// Bytes allocated and not given back.
    #[must_use]
    pub fn live() -> usize {
        COUNTERS.live.load(Relaxed)
    }

    /// Most bytes that were allocated at once since the program began or [`Counting::reset_peak`].
    #[must_use]
    pub fn peak() -> usize {
        COUNTERS.peak.load(Relaxed)
    }

    /// Allocations and changes of a block's size so far; 0 when the allocator is not installed.
    #[must_use]
    pub fn allocations() -> u64 {
        COUNTERS.allocations.load(Relaxed)
    }

    /// Begins a new peak at what is allocated now. Exact while no other thread allocates.
    pub fn reset_peak() {
        COUNTERS.peak.store(Self::live(), Relaxed);
    }
}

// SAFETY: every block comes from `System` and goes back to it with the layout it was made with;
// counting touches atomics alone, so it neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the promises of `GlobalAlloc::alloc`, which are `System`'s.
        let block = unsafe { System.alloc(layout) };
        if !block.is_null() {
            COUNTERS.made(layout.size());
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for `alloc`; the system's own way to zeros may take pages that are zero anyway.
        let block = unsafe { System.alloc_zeroed(layout) };
        if !block.is_null() {
            COUNTERS.made(layout.size());
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller hands back a block of this allocator with its layout, and all blocks of
        // this allocator are `System`'s.
        unsafe { System.dealloc(block, layout) };
        COUNTERS.shrink(layout.size());
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as for `dealloc`, and the caller promises a size that `layout`'s alignment allows.
        let moved = unsafe { System.realloc(block, layout, size) };
        // On failure the old block stays as it was, and so do the counts.
        if !moved.is_null() {
            COUNTERS.resized(layout.size(), size);
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_stays_when_blocks_go_and_falls_only_when_it_is_begun_anew() {
        let counters = Counters::new();
        let read = || {
            let all = [&counters.live, &counters.peak];
            (
                all.map(|c| c.load(Relaxed)),
                counters.allocations.load(Relaxed),
            )
        };
        counters.made(100);
        counters.made(50);
        counters.shrink(100);
        assert_eq!(read(), ([50, 150], 2));
        counters.resized(50, 80);
        assert_eq!(read(), ([80, 150], 3));
        counters.resized(80, 200);
        counters.resized(200, 10);
        assert_eq!(read(), ([10, 200], 5));
    }

    /// The tests' own allocator is the system's, so that here nobody else moves the counts.
    #[test]
    fn every_way_to_a_block_is_counted_and_works() {
        let small = Layout::from_size_align(1000, 64).unwrap();
        let large = Layout::from_size_align(5000, 64).unwrap();
        assert_eq!((Counting::live(), Counting::allocations()), (0, 0));
        // SAFETY: layouts are not of size 0; each block is written within its size, resized and given
        // back once, with the layout it has then.
        unsafe {
            let block = Counting.alloc(small);
            assert!(!block.is_null());
            block.write_bytes(7, small.size());
            let zeros = Counting.alloc_zeroed(small);
            assert!(!zeros.is_null());
            assert!((0..small.size()).all(|i| zeros.add(i).read() == 0));
            assert_eq!(Counting::live(), 2000);

            let block = Counting.realloc(block, small, large.size());
            assert!(!block.is_null());
            assert!((0..small.size()).all(|i| block.add(i).read() == 7));
            assert_eq!((Counting::live(), Counting::peak()), (6000, 6000));
            let block = Counting.realloc(block, large, small.size());
            assert_eq!((Counting::live(), Counting::peak()), (2000, 6000));

            Counting::reset_peak();
            assert_eq!(Counting::peak(), 2000);
            Counting.dealloc(block, small);
            Counting.dealloc(zeros, small);
        }
        assert_eq!(
            (Counting::live(), Counting::peak(), Counting::allocations()),
            (0, 2000, 4)
        );
    }
}
