//! A team of threads that does one piece of work at a time, together.
//!
//! A layer of a small network takes less time than the kernel needs to wake a sleeping thread, so
//! members look for the next piece a little while before they sleep, and whoever asks works too.
//! Shares are cut by the member's number alone: the same work and the same number of members gives
//! the same bytes.

use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Looks for work before a member sleeps: some tens of microseconds, longer than the serial parts
/// between two layers.
const LOOKS: u32 = 4_000;

/// What a member does, by its number.
type Work<'a> = dyn Fn(usize) + Sync + 'a;

/// The work at hand. The pointer is good while `Shared::left` is above zero.
#[derive(Clone, Copy)]
struct Job(*const Work<'static>);

// SAFETY: the work behind the pointer is `Sync`, and `Team::run` keeps it alive until every member
// is done with it.
unsafe impl Send for Job {}

#[derive(Default)]
struct Desk {
    job: Option<Job>,
    /// Members that sleep until the next round; telling nobody would still be a call to the system.
    asleep: usize,
}

#[derive(Default)]
struct Shared {
    /// Counts pieces of work; a member does each once.
    round: AtomicUsize,
    /// Members that have yet to finish the round.
    left: AtomicUsize,
    stop: AtomicBool,
    desk: Mutex<Desk>,
    /// Signalled when a round begins or the team stops.
    begun: Condvar,
    /// Signalled when the last member is done.
    done: Condvar,
    panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
}

/// Threads that work together. Dropping it ends them.
pub struct Team {
    shared: Arc<Shared>,
    /// One caller at a time.
    turn: Mutex<()>,
    threads: Vec<JoinHandle<()>>,
}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Team")
            .field("members", &self.members())
            .finish()
    }
}

/// Nothing here is left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Team {
    /// A team of `members`, the caller included; 0 counts as 1. Threads that the system refuses are
    /// done without.
    #[must_use]
    pub fn new(members: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let threads = (1..members)
            .map_while(|member| {
                let shared = Arc::clone(&shared);
                thread::Builder::new()
                    .name(format!("kernel-{member}"))
                    .spawn(move || serve(&shared, member))
                    .ok()
            })
            .collect();
        Self {
            shared,
            turn: Mutex::new(()),
            threads,
        }
    }

    /// Members, the caller included.
    #[must_use]
    pub fn members(&self) -> usize {
        self.threads.len() + 1
    }

    /// Calls `work(member)` once for every member, at the same time, and returns when all are done.
    /// Work must not ask the team for more.
    ///
    /// # Panics
    /// With the panic of a member, when all are done.
    pub fn run(&self, work: &Work<'_>) {
        if self.threads.is_empty() {
            work(0);
            return;
        }
        let _turn = lock(&self.turn);
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. This function does not return, nor unwind, before
        // `left` is zero, and members touch the work only while they count in `left`.
        let job =
            Job(unsafe { std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) });
        shared.left.store(self.threads.len(), Ordering::Relaxed);
        {
            let mut desk = lock(&shared.desk);
            desk.job = Some(job);
            shared.round.fetch_add(1, Ordering::Release);
            if desk.asleep > 0 {
                shared.begun.notify_all();
            }
        }
        let mine = catch_unwind(AssertUnwindSafe(|| work(0)));
        let mut looks = 0;
        while shared.left.load(Ordering::Acquire) > 0 && looks < LOOKS {
            std::hint::spin_loop();
            looks += 1;
        }
        if shared.left.load(Ordering::Acquire) > 0 {
            let mut desk = lock(&shared.desk);
            while shared.left.load(Ordering::Acquire) > 0 {
                desk = shared
                    .done
                    .wait(desk)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
        let theirs = lock(&shared.panic).take();
        match (mine, theirs) {
            (Err(panic), _) | (Ok(()), Some(panic)) => resume_unwind(panic),
            (Ok(()), None) => {}
        }
    }

    /// Calls `work(member, share)` with shares of `0..n` that are as equal as can be, for members that
    /// have one.
    ///
    /// # Panics
    /// As [`Team::run`].
    pub fn split(&self, n: usize, work: impl Fn(usize, Range<usize>) + Sync) {
        let members = self.members().min(n);
        if members <= 1 {
            if n > 0 {
                work(0, 0..n);
            }
            return;
        }
        self.run(&|member| {
            if member < members {
                work(member, share(n, members, member));
            }
        });
    }
}

/// Share `i` of `0..n` cut into `parts`.
#[must_use]
pub fn share(n: usize, parts: usize, i: usize) -> Range<usize> {
    n * i / parts..n * (i + 1) / parts
}

impl Drop for Team {
    fn drop(&mut self) {
        {
            let _desk = lock(&self.shared.desk);
            self.shared.stop.store(true, Ordering::Release);
            self.shared.begun.notify_all();
        }
        for thread in self.threads.drain(..) {
            // A member catches the panics of its work; there is nothing to learn here.
            let _ = thread.join();
        }
    }
}

/// A member's life.
fn serve(shared: &Shared, member: usize) {
    let mut seen = 0;
    loop {
        let mut looks = 0;
        let news = |round: usize| round != seen || shared.stop.load(Ordering::Acquire);
        while !news(shared.round.load(Ordering::Acquire)) && looks < LOOKS {
            std::hint::spin_loop();
            looks += 1;
        }
        let job = {
            let mut desk = lock(&shared.desk);
            while !news(shared.round.load(Ordering::Acquire)) {
                desk.asleep += 1;
                desk = shared
                    .begun
                    .wait(desk)
                    .unwrap_or_else(PoisonError::into_inner);
                desk.asleep -= 1;
            }
            if shared.round.load(Ordering::Acquire) == seen {
                return;
            }
            desk.job
        };
        seen = shared.round.load(Ordering::Acquire);
        if let Some(Job(work)) = job {
            // SAFETY: this member counts in `left`, so `Team::run` has not returned and the work
            // is alive.
            let work = unsafe { &*work };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(member))) {
                lock(&shared.panic).get_or_insert(panic);
            }
        }
        if shared.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            // The lock keeps the news from slipping between the caller's look and its sleep.
            let _desk = lock(&shared.desk);
            shared.done.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_member_works_once_in_every_round() {
        for members in [1, 2, 3, 7] {
            let team = Team::new(members);
            let counts: Vec<AtomicUsize> = (0..members).map(|_| AtomicUsize::new(0)).collect();
            for round in 0..200 {
                team.run(&|member| {
                    counts[member].fetch_add(1, Ordering::Relaxed);
                });
                if round % 50 == 0 {
                    // Long enough that the others sleep.
                    thread::sleep(Duration::from_millis(3));
                }
            }
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 200));
        }
    }

    #[test]
    fn shares_cover_everything_once() {
        for n in [0, 1, 5, 100] {
            for members in [1, 2, 3, 8] {
                let team = Team::new(members);
                let seen: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                team.split(n, |_, share| {
                    for i in share {
                        seen[i].fetch_add(1, Ordering::Relaxed);
                    }
                });
                assert!(seen.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_member_that_panics_does_not_end_the_team() {
        let team = Team::new(3);
        for bad in 0..3 {
            let run = catch_unwind(AssertUnwindSafe(|| {
                team.run(&|member| assert_ne!(member, bad, "planted"));
            }));
            assert!(run.is_err());
        }
        let sum = AtomicUsize::new(0);
        team.run(&|member| {
            sum.fetch_add(member, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 3);
    }

    #[test]
    fn two_callers_take_turns() {
        let team = Team::new(2);
        let sum = AtomicUsize::new(0);
        thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    for _ in 0..100 {
                        team.run(&|_| {
                            sum.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 600);
    }
}
