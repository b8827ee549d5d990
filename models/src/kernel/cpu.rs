//! What kernels run on: instructions and threads.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cells::Cells;
use super::isa::Isa;
use super::team::Team;

/// Values of a simple pass below which waking a team costs more than it saves.
const WORTH_SPLITTING: usize = 16 << 10;

/// Instructions and a team of threads.
#[derive(Debug)]
pub struct Cpu {
    isa: Isa,
    team: Team,
}

impl Cpu {
    /// The best instructions there are and so many threads, the caller's included; 0 counts as 1.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self::with(Isa::best(), threads)
    }

    /// These instructions, for comparisons.
    ///
    /// # Panics
    /// When this processor lacks them.
    #[must_use]
    pub fn with(isa: Isa, threads: usize) -> Self {
        assert!(isa.is_here(), "this processor lacks {isa}");
        Self {
            isa,
            team: Team::new(threads),
        }
    }

    /// The instructions.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// [`Team::split`] where there is enough to do: the caller alone is faster over few values.
    pub fn split(&self, values: usize, n: usize, work: impl Fn(usize, Range<usize>) + Sync) {
        if values >= WORTH_SPLITTING {
            self.team.split(n, work);
        } else if n > 0 {
            work(0, 0..n);
        }
    }

    /// Calls `f(i, chunk)` for each chunk of `each` values of `all`, shared out as by [`Cpu::split`].
    ///
    /// # Panics
    /// When `all` is not whole chunks.
    pub fn chunks<T: Send>(
        &self,
        values: usize,
        all: &mut [T],
        each: usize,
        f: impl Fn(usize, &mut [T]) + Sync,
    ) {
        if all.is_empty() {
            return;
        }
        assert_eq!(all.len() % each, 0, "whole chunks");
        let n = all.len() / each;
        let cells = Cells::new(all);
        self.split(values, n, |_, share| {
            for i in share {
                // SAFETY: each chunk is in one member's share.
                f(i, unsafe { cells.range(i * each..(i + 1) * each) });
            }
        });
    }

    /// The threads.
    #[must_use]
    pub fn team(&self) -> &Team {
        &self.team
    }
}

/// Buffers that kernels work in, kept from call to call.
#[derive(Debug, Default)]
pub struct Workspace {
    /// Weights as panels.
    pub(super) panels: Vec<f32>,
    members: Vec<Mutex<Bench>>,
}

/// One member's buffers.
#[derive(Debug, Default)]
pub(super) struct Bench {
    pub slab: Vec<f32>,
    pub other: Vec<f32>,
    pub sums: Vec<f32>,
    pub line: Vec<f32>,
    /// Rows of weights on their way into pairs.
    pub half: Vec<f32>,
}

impl Workspace {
    /// Splits into the panels and the members' buffers.
    pub(super) fn parts(&mut self, members: usize) -> (&mut Vec<f32>, &[Mutex<Bench>]) {
        while self.members.len() < members {
            self.members.push(Mutex::default());
        }
        (&mut self.panels, &self.members)
    }

    /// Bytes owned.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let of_member = |bench: &Mutex<Bench>| {
            let b = take(bench);
            [&b.slab, &b.other, &b.sums, &b.line, &b.half]
                .iter()
                .map(|v| v.capacity())
                .sum::<usize>()
        };
        let members: usize = self.members.iter().map(of_member).sum();
        (self.panels.capacity() + members) * size_of::<f32>()
    }
}

/// A member's buffers: never contended, and scratch survives a panic.
pub(super) fn take(bench: &Mutex<Bench>) -> MutexGuard<'_, Bench> {
    bench.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A buffer of this length with unspecified values.
pub(super) fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    // Under AddressSanitizer each is a block of its own, so that a step past its end is seen, and
    // reading what nobody wrote shows in the results.
    if cfg!(exact_buffers) {
        *buffer = Vec::new();
        buffer.reserve_exact(len);
        buffer.resize(len, f32::NAN);
    } else if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}
