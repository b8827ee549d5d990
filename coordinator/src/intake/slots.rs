//! One upload at a time per owner; a newer call takes over from an older one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use lamplight_proto::refusal::{Reason, Refusal};

/// Slots nobody holds are dropped above this many.
const KEPT: usize = 4096;

/// The upload of one owner. The number says which call has it; the lock is held while a chunk is
/// written, never while one is waited for, so that a caller that vanished blocks nobody.
pub type Slot = Arc<AsyncMutex<u64>>;

/// A slot by owner.
#[derive(Default)]
pub struct Slots(Mutex<HashMap<String, Slot>>);

impl Slots {
    /// The slot of an owner.
    #[must_use]
    pub fn of(&self, owner: &str) -> Slot {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= KEPT {
            slots.retain(|_, s| Arc::strong_count(s) > 1);
        }
        slots.entry(owner.to_owned()).or_default().clone()
    }
}

/// A call's hold on a slot.
pub struct Hold {
    slot: Slot,
    mine: u64,
}

impl Hold {
    /// Takes the slot over from whoever has it, after their chunk in hand.
    pub async fn take(slot: Slot) -> (Self, OwnedMutexGuard<u64>) {
        let mut guard = slot.clone().lock_owned().await;
        *guard += 1;
        let mine = *guard;
        (Self { slot, mine }, guard)
    }

    /// Locks the slot for one chunk.
    ///
    /// # Errors
    /// Refuses when a newer call has taken over.
    pub async fn lock(&self) -> Result<OwnedMutexGuard<u64>, Refusal> {
        let guard = self.slot.clone().lock_owned().await;
        if *guard == self.mine {
            Ok(guard)
        } else {
            Err(Refusal::new(
                Reason::Conflict,
                "a newer call goes on with this upload; this one ends",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newer_call_takes_over_and_the_older_is_told() {
        let slots = Slots::default();
        let (old, guard) = Hold::take(slots.of("node-1")).await;
        drop(guard);
        assert!(old.lock().await.is_ok());
        let (new, guard) = Hold::take(slots.of("node-1")).await;
        drop(guard);
        assert_eq!(
            old.lock().await.err().map(|r| r.reason),
            Some(Reason::Conflict)
        );
        assert!(new.lock().await.is_ok());
        let (_other, guard) = Hold::take(slots.of("node-2")).await;
        drop(guard);
        assert!(new.lock().await.is_ok());
    }
}
