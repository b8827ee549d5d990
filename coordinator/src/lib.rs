//! The fleet's server: registers nodes, offers rounds, checks and aggregates deltas, publishes
//! releases.
//!
//! ```text
//!              TLS, certificates                 one SQLite file, one directory
//!   nodes ────────┐                                   ┌──> store
//!                 ├──> api ──> enrol, push, intake ───┼──> blob
//!   operators ────┘      │            │               │
//!                        │         round ── steps ──> aggregate ──> release
//!                        └──> watch (views)
//! ```
//!
//! Map, in reading order: [`Config`] and [`run`] (the life of a server), [`house`] (the rooms
//! together), [`round`] (phases; start with its drawing), [`intake`] (how a delta comes in),
//! [`aggregate`] and [`release`] (what becomes of it), [`enrol`], [`roster`] (what operators say of
//! nodes), [`push`], [`authority`] (who is who), [`store`], [`blob`], [`watch`], `api` (the gRPC
//! edges), [`fault`] (refused or broken), [`init`](mod@init), [`settings`] (what its operator writes),
//! [`doctor`] (what is wrong) and [`cli`].
//!
//! Invariants: nothing is announced before it is on disk; killed at any instant, a restart goes on
//! from the last committed row; the same accepted deltas give the same release, byte for byte;
//! memory is O(model), whatever the fleet's size; rooms block, only `api` and the round worker are
//! async.

pub mod aggregate;
mod api;
pub mod authority;
pub mod blob;
pub mod cli;
pub mod clock;
mod config;
pub mod dir;
pub mod doctor;
pub mod enrol;
pub mod fault;
pub mod house;
pub mod init;
pub mod intake;
pub mod push;
pub mod release;
pub mod roster;
pub mod round;
pub mod settings;
pub mod store;
pub mod watch;

pub use config::Config;
pub use house::{House, OpenError};
pub use init::{InitError, InitOptions, InitReport, init};

use std::{io, sync::Arc};

use tokio::{net::TcpListener, sync::watch as channel, time::timeout};

use lamplight_proto::tls::TlsError;

use fault::Broken;

/// Why serving failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The server's certificate, its key or the authority is unusable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The listener has no address.
    #[error("listener: {0}")]
    Listen(io::Error),
    /// The compiled protocol cannot be described.
    #[error("reflection: {0}")]
    Reflection(String),
    /// The transport failed.
    #[error("transport: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// Something of ours failed.
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// Why a coordinator did not run, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The state directory could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Serving failed.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Runs a coordinator until `shutdown` completes, then stops intake, finishes calls and the step in
/// hand, and ends within [`Config::grace`].
///
/// What the grace cuts off is not lost: it is done again after a restart.
///
/// # Errors
/// [`RunError`].
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let grace = config.grace;
    let house = tokio::task::spawn_blocking(move || House::open(config))
        .await
        .map_err(|_| OpenError::Broken(Broken::Task("opening the state directory")))??;
    let house = Arc::new(house);
    let address = house.dir.address();
    let (stop, stopped) = channel::channel(false);
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(serve(house.clone(), listener, stopped.clone()));
    let worker = house.clone();
    serving.spawn(async move { Ok(round::work::drive(worker, stopped).await?) });
    drop(house);

    let mut outcome = Ok(());
    tokio::select! {
        () = shutdown => tracing::info!(grace_s = grace.as_secs_f64(), "stopping"),
        // Neither ends by itself: something broke, and the other must not go on alone.
        Some(ended) = serving.join_next() => outcome = flatten(ended),
    }
    // An error means both have ended.
    stop.send(true).ok();
    // Whoever reads the address now would find nobody.
    if let Err(e) = tokio::fs::remove_file(&address).await {
        tracing::debug!("{}: {e}", address.display());
    }
    let rest = async {
        let mut outcome = Ok(());
        while let Some(ended) = serving.join_next().await {
            outcome = outcome.and(flatten(ended));
        }
        outcome
    };
    match timeout(grace, rest).await {
        Ok(ended) => outcome = outcome.and(ended),
        Err(_) => tracing::warn!("the grace is over; what is in hand is cut and done again later"),
    }
    tracing::info!("stopped");
    Ok(outcome?)
}

fn flatten(
    ended: Result<Result<(), ServeError>, tokio::task::JoinError>,
) -> Result<(), ServeError> {
    ended.unwrap_or(Err(Broken::Task("a part of the server").into()))
}

/// Serves gRPC on `listener` until `stop` turns true, without driving rounds: [`run`] does both.
///
/// # Errors
/// [`ServeError`].
pub async fn serve(
    house: Arc<House>,
    listener: TcpListener,
    stop: channel::Receiver<bool>,
) -> Result<(), ServeError> {
    api::serve(house, listener, stop).await
}
