//! Memory for activations and gradients, used over and over.

use std::sync::Arc;

use crate::kernel::element::Element;

/// Buffers nobody reads any more, waiting to be used again.
#[derive(Debug)]
pub(super) struct Pool<T> {
    pub free: Vec<Vec<T>>,
    live: usize,
    pub peak: usize,
}

impl<T: Element> Pool<T> {
    pub(super) fn new() -> Self {
        Self {
            free: Vec::new(),
            live: 0,
            peak: 0,
        }
    }

    /// A buffer of this length with unspecified values: the smallest that fits, else a new one.
    pub(super) fn take(&mut self, len: usize) -> Vec<T> {
        self.live += len;
        self.peak = self.peak.max(self.live);
        let fitting = self.free.iter().enumerate();
        let best = fitting
            .filter(|(_, b)| b.capacity() >= len)
            .min_by_key(|(_, b)| b.capacity())
            .map(|(i, _)| i);
        // With none that fits, the largest goes: what is kept stays near what one step needs.
        let mut buffer = match best {
            Some(i) => self.free.swap_remove(i),
            None => {
                let largest = self
                    .free
                    .iter()
                    .enumerate()
                    .max_by_key(|(_, b)| b.capacity());
                if let Some(i) = largest.map(|(i, _)| i) {
                    self.free.swap_remove(i);
                }
                Vec::new()
            }
        };
        buffer.resize(len, T::default());
        buffer
    }

    pub(super) fn give(&mut self, buffer: Vec<T>) {
        self.live -= buffer.len();
        self.free.push(buffer);
    }

    /// Gives back a gradient unless somebody else still reads it.
    pub(super) fn release(&mut self, gradient: Arc<Vec<T>>) {
        if let Ok(buffer) = Arc::try_unwrap(gradient) {
            self.give(buffer);
        }
    }
}
