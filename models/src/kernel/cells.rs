//! A slice that several threads write at once, each its own places.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice to be shared by a [`super::team::Team`].
#[derive(Clone, Copy)]
pub(super) struct Cells<'a, T> {
    first: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: `Cells::range` hands out places to callers who promise that no two threads get the same ones;
// `Cells::place` makes a pointer, and whoever reads or writes through it promises so there.
unsafe impl<T: Send> Sync for Cells<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Cells<'_, T> {}

impl<'a, T> Cells<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self {
            first: slice.as_mut_ptr(),
            len: slice.len(),
            slice: PhantomData,
        }
    }

    /// The places in `range`.
    ///
    /// # Safety
    /// While the result lives, no other thread touches these places and this one has no second
    /// reference to them.
    /// # Panics
    /// When the range leaves the slice.
    #[allow(
        clippy::mut_from_ref,
        reason = "that is what this is for; the caller promises"
    )]
    pub(super) unsafe fn range(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} of {}",
            self.len
        );
        // SAFETY: inside the slice this was made of, and the caller's alone.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(range.start), range.len()) }
    }

    /// A pointer to the first place of `range`, good to its end.
    ///
    /// # Panics
    /// When the range leaves the slice.
    pub(super) fn place(&self, range: &Range<usize>) -> *mut T {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} of {}",
            self.len
        );
        // SAFETY: inside the slice this was made of, or one past its end.
        unsafe { self.first.add(range.start) }
    }
}
