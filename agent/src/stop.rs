//! The wish to stop, seen by everything that waits.

use std::future::pending;

use tokio::sync::watch;

/// Can ask for a stop. Asking twice is asking once.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// Can see that a stop is wanted.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

/// Both ends.
#[must_use]
pub fn channel() -> (Stopper, Stop) {
    let (tx, rx) = watch::channel(false);
    (Stopper(tx), Stop(rx))
}

impl Stopper {
    /// Asks for a stop.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Whether a stop is wanted.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        *self.0.borrow()
    }

    /// Ends when a stop is wanted; never, when nobody is left to ask for one.
    pub async fn wanted(&self) {
        let mut rx = self.0.clone();
        if rx.wait_for(|stop| *stop).await.is_err() {
            pending::<()>().await;
        }
    }
}
