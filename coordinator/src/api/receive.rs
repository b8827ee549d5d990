//! Bytes on their way in, for deltas and operators' blobs alike.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};
use tonic::{Status, Streaming};

use lamplight_proto::wire::Chunk;

use super::{Desk, status};
use crate::{
    blob::Part,
    fault::{Broken, Fault},
    intake::{Hold, Slot},
};

/// An upload that brings less than [`PROGRESS_BYTES`] in this time is ended; it may be resumed. The
/// time watches progress, never the whole duration.
const PROGRESS_TIME: Duration = Duration::from_secs(60);
/// See [`PROGRESS_TIME`]. Keeps a caller from holding a transfer with a trickle.
const PROGRESS_BYTES: u64 = 64 << 10;

/// Opens a part under its slot and reads how much is here, ending any older call's hold on it.
pub(super) async fn here(
    slot: Slot,
    open: impl FnOnce() -> Result<Option<Part>, Fault> + Send + 'static,
    total: u64,
) -> Result<u64, Status> {
    let (_hold, guard) = Hold::take(slot).await;
    let part = blocking(open).await?;
    drop(guard);
    Ok(part.map_or(total, |p| p.received()))
}

async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(f)
        .await
        .unwrap_or_else(|_| Err(Broken::Task("an upload").into()))
        .map_err(status)
}

impl Desk {
    /// Writes a stream of chunks into a part. `chunk_of` takes the chunk out of a message, refusing
    /// one that belongs elsewhere. Answers the bytes that are here in the end.
    pub(super) async fn receive<M>(
        &self,
        slot: Slot,
        open: impl FnOnce() -> Result<Option<Part>, Fault> + Send + 'static,
        total: u64,
        first: M,
        mut rest: Streaming<M>,
        chunk_of: impl Fn(M) -> Result<Chunk, Status>,
    ) -> Result<u64, Status> {
        let (hold, guard) = Hold::take(slot).await;
        let Some(mut part) = blocking(open).await? else {
            return Ok(total);
        };
        drop(guard);
        let mut next = Some(first);
        let mut mark = (Instant::now(), part.received());
        while let Some(message) = next.take() {
            let chunk = chunk_of(message)?;
            let permit = self.uploads.clone().acquire_owned().await;
            let guard = hold.lock().await?;
            part = blocking(move || {
                part.take(chunk)?;
                Ok(part)
            })
            .await?;
            drop((guard, permit));
            let received = part.received();
            if received - mark.1 >= PROGRESS_BYTES {
                mark = (Instant::now(), received);
            }
            next = timeout_at(mark.0 + PROGRESS_TIME, rest.message())
                .await
                .map_err(|_| {
                    Status::deadline_exceeded(format!(
                        "less than {PROGRESS_BYTES} bytes came in {} s; resume at {received}",
                        PROGRESS_TIME.as_secs()
                    ))
                })??;
        }
        Ok(part.received())
    }
}

/// The first message of a stream.
pub(super) async fn first<M>(stream: &mut Streaming<M>) -> Result<M, Status> {
    tokio::time::timeout(PROGRESS_TIME, stream.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the stream brought nothing"))??
        .ok_or_else(|| Status::invalid_argument("the stream is empty"))
}

/// The house, for closures that run on blocking threads.
pub(super) fn shared(desk: &Desk) -> Arc<crate::house::House> {
    desk.house.clone()
}
