//! The agent at work: carries out what its phase says, and writes down what happens before acting
//! on it.
//!
//! ```text
//!   loop: phase ──work──> event ──step──> (phase, effects) ──one transaction──> disk ──> phase
//! ```
//!
//! One file per phase: `idle`, `preparing`, `training`, `uploading`; each answers the event
//! that ends it. Apart from training, a stop simply drops the work in hand, for that is what a power
//! cut does, and every phase survives one; training is asked to save first.

mod idle;
mod preparing;
mod training;
mod uploading;
mod why;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod budgets;
#[cfg(test)]
mod classes;
#[cfg(test)]
mod precision;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use lamplight_models::{image::ImageInput, lane::LaneKind, train::Precision};
use lamplight_proto::{
    envelope::TrustedKeys,
    ids::{Digest, Lease, UnixMillis},
    keys::{KeyError, SigningKey},
    offer::RoundOffer,
    refusal::{Reason, Refusal},
};

use crate::{
    dir::NodeDir,
    home::Home,
    limits::Limits,
    link::{Backoff, Link, LinkError, Report, ReportEvent, backoff::jittered},
    lock::DirLock,
    node::{Effect, Event, Phase},
    source::{SampleSource, SourceError},
    stop::Stop,
    store::{NodeRecord, StoreError, StoreHandle, phase::Keys},
};

/// Opens the node's data for a model that takes images like this, or says nothing of images. Called
/// for every task and dropped behind it, so that an idle agent holds no samples.
pub type OpenSource =
    Arc<dyn Fn(Option<&ImageInput>) -> Result<Box<dyn SampleSource>, SourceError> + Send + Sync>;

/// A clock that is off by more than this is worth a warning.
const CLOCK_TOLERANCE_MS: u64 = 5 * 60 * 1000;

/// How this node works.
#[derive(Clone)]
pub struct Config {
    /// The node's data.
    pub source: OpenSource,
    /// Where matrix products run.
    pub device: LaneKind,
    /// Threads of the CPU a product may use.
    pub threads: usize,
    /// In which numbers training calculates; a task that has begun keeps those it began with.
    pub precision: Precision,
    /// How often training is saved, beside the end of every epoch.
    pub checkpoint_every: Duration,
    /// At most one progress report in this time.
    pub report_every: Duration,
    /// What the node's owner allows, whatever a task asks.
    pub limits: Limits,
}

/// Why an agent cannot go on. What it was doing is on disk, and another start goes on with it.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The directory's store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node's key cannot be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The directory belongs to no node yet.
    #[error(
        "{0} is not enrolled; run `lamplight agent enrol` with a join token, or give --token-file"
    )]
    NotEnrolled(PathBuf),
    /// The key in the directory is not the one that enrolled.
    #[error(
        "{path} belongs to {got}, but {want} enrolled here; restore the key, or enrol in an empty directory"
    )]
    OtherKey {
        /// The key's file.
        path: PathBuf,
        /// Whose key it is.
        got: String,
        /// Who enrolled.
        want: String,
    },
    /// Coordinator and agent speak different protocols, or an operator retired this node.
    #[error("the coordinator refuses this agent: {0}")]
    Refused(Refusal),
}

/// The coordinator's clock as last heard, carried on by this machine's monotonic one.
#[derive(Debug, Clone, Copy)]
struct Clock {
    heard: UnixMillis,
    at: Instant,
}

impl Clock {
    fn now(self) -> UnixMillis {
        self.heard.after(self.at.elapsed())
    }
}

/// A node.
pub struct Agent<L> {
    dir: NodeDir,
    store: StoreHandle,
    lock: Arc<DirLock>,
    link: L,
    config: Config,
    node: NodeRecord,
    key: Arc<SigningKey>,
    keys: Keys,
    phase: Phase,
    clock: Option<Clock>,
    backoff: Backoff,
    /// The model file the node runs.
    running: Option<Digest>,
    /// The wait that came with the last poll.
    wait: Duration,
    clock_warned: bool,
    /// The offer whose waiting the coordinator has heard of.
    waiting_told: Option<Lease>,
}

impl<L: Link> Agent<L> {
    /// An agent that goes on where its directory says.
    ///
    /// # Errors
    /// [`AgentError`] when the directory is not enrolled or damaged.
    pub fn new(home: Home, link: L, config: Config) -> Result<Self, AgentError> {
        let Home { dir, store, lock } = home;
        let node = store
            .node()?
            .ok_or_else(|| AgentError::NotEnrolled(dir.root().to_owned()))?;
        let key = SigningKey::load_or_create(&dir.signing_key())?;
        let own = lamplight_proto::ids::NodeId::of_key(&key.public());
        if own != node.node_id {
            return Err(AgentError::OtherKey {
                path: dir.signing_key(),
                got: own.to_string(),
                want: node.node_id.to_string(),
            });
        }
        let keys = Keys {
            release: TrustedKeys::new([node.release_key]),
            own: TrustedKeys::new([key.public()]),
        };
        let phase = store.phase(&keys)?;
        let running = store.newest_base()?;
        let agent = Self {
            store: StoreHandle::new(store, lock.clone()),
            dir,
            lock,
            link,
            config,
            node,
            key: Arc::new(key),
            keys,
            phase,
            clock: None,
            backoff: Backoff::LINK,
            running,
            wait: Duration::ZERO,
            clock_warned: false,
            waiting_told: None,
        };
        agent.tidy();
        if let Some(offer) = agent.phase.offer() {
            tracing::info!(phase = agent.phase.name(), round = %offer.round, "going on after a restart");
        }
        Ok(agent)
    }

    /// What the node is doing.
    #[must_use]
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Works until a stop is wanted.
    ///
    /// # Errors
    /// [`AgentError`]; everything else is retried, reported or journalled.
    pub async fn run(mut self, stop: Stop) -> Result<(), AgentError> {
        tracing::info!(node = %self.node.node_id, deployment = %self.node.deployment, "agent started");
        while !stop.is_wanted() {
            self.turn(&stop).await?;
        }
        tracing::info!(phase = self.phase.name(), "agent stopped");
        Ok(())
    }

    /// Does what the phase says until something happens, a poll brought nothing, or a stop is
    /// wanted.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn turn(&mut self, stop: &Stop) -> Result<(), AgentError> {
        let event = match &self.phase {
            // Training saves before it stops.
            Phase::Training(p) => {
                let offer = p.offer().clone();
                self.training(&offer, stop).await?
            }
            _ => {
                let stop = stop.clone();
                tokio::select! {
                    biased;
                    () = stop.wanted() => None,
                    event = self.interruptible() => event?,
                }
            }
        };
        let Some(event) = event else {
            return Ok(());
        };
        let offered = matches!(event, Event::Offered(..));
        self.apply(event).await?;
        // An offer that came to nothing is likely to come again: not at once.
        if offered && matches!(self.phase, Phase::Idle(_)) {
            tokio::select! {
                () = stop.wanted() => {}
                () = tokio::time::sleep(jittered(self.wait)) => {}
            }
        }
        Ok(())
    }

    async fn interruptible(&mut self) -> Result<Option<Event>, AgentError> {
        match self.phase.clone() {
            Phase::Idle(_) => self.idle().await,
            Phase::Preparing(p) => self.preparing(p.offer()).await.map(Some),
            Phase::Uploading(p) => self.uploading(&p).await.map(Some),
            Phase::Training(_) => Ok(None),
        }
    }

    /// Works out the next phase, writes it and its effects, and only then takes it up.
    async fn apply(&mut self, event: Event) -> Result<(), AgentError> {
        let (next, effects) = self.phase.clone().step(event);
        if effects.is_empty() && next.name() == self.phase.name() {
            return Ok(());
        }
        for effect in &effects {
            announce(effect);
        }
        let written = next.clone();
        self.store
            .call(move |s| s.write_step(&written, &effects, UnixMillis::now()))
            .await?;
        self.phase = next;
        if let Some((_, base)) = self.phase.holds() {
            self.running = Some(base);
        } else {
            self.tidy();
        }
        Ok(())
    }

    /// Throws away what no task needs. What cannot be removed now is tried again after the next
    /// task.
    fn tidy(&self) {
        if let Err(e) = self.dir.tidy(self.phase.holds()) {
            tracing::warn!("{} cannot be tidied: {e}", self.dir.root().display());
        }
    }

    /// Remembers the coordinator's time.
    fn heard(&mut self, now: UnixMillis) {
        self.clock = Some(Clock {
            heard: now,
            at: Instant::now(),
        });
        let off = UnixMillis::now().0.abs_diff(now.0);
        if off > CLOCK_TOLERANCE_MS && !self.clock_warned {
            self.clock_warned = true;
            tracing::warn!(
                "this machine's clock is {} s off the coordinator's; offers are judged by the coordinator's",
                off / 1000
            );
        }
    }

    /// The coordinator's time, or before its first word this machine's.
    fn time(&self) -> UnixMillis {
        self.clock.map_or_else(UnixMillis::now, Clock::now)
    }

    /// Why an offer is not worth going on with, by the coordinator's clock if that is known.
    fn expired(&self, offer: &RoundOffer) -> Option<String> {
        let now = self.clock?.now();
        (offer.expires <= now).then(|| {
            format!(
                "the offer expired at {} ms, the coordinator's clock shows {} ms",
                offer.expires.0, now.0
            )
        })
    }

    /// Tells the coordinator how a task goes; whether it is still wanted. A lost report harms
    /// nothing: without an answer the task goes on.
    async fn tell(&self, offer: &RoundOffer) -> Result<bool, AgentError> {
        let report = Report {
            round: offer.round,
            lease: offer.lease,
            event: ReportEvent::Progress {
                phase: self.phase.name(),
                step: 0,
                steps: 0,
                loss: 0.0,
            },
        };
        match self.link.report(report).await {
            Ok(wanted) => Ok(wanted),
            Err(LinkError::Refused(r)) => {
                not_for_good(&r)?;
                tracing::debug!("the report was refused: {r}");
                Ok(true)
            }
            Err(e) => {
                tracing::debug!("the report was lost: {e}");
                Ok(true)
            }
        }
    }

    /// Logs trouble with the link and waits before the next try.
    async fn wait_out(&mut self, e: &LinkError) {
        let wait = self.backoff.wait();
        let hint = match e {
            LinkError::Fault {
                maybe_refused: true,
                ..
            } => " (the coordinator may be refusing this node's certificate)",
            _ => "",
        };
        // The first failure may be a restart; a long silence is for people.
        if self.backoff.failures() <= 3 {
            tracing::info!("{e}{hint}; again in {} ms", wait.as_millis());
        } else {
            tracing::warn!(
                failures = self.backoff.failures(),
                "{e}{hint}; again in {} ms",
                wait.as_millis()
            );
        }
        tokio::time::sleep(wait).await;
    }
}

/// Why a task ends that nobody wants any more.
const NOT_WAITED_FOR: &str = "the round no longer waits for this node";

/// Refusals that end the agent: a coordinator that speaks another protocol, for waiting teaches neither
/// of them, and one whose operator retired this node, for that is never undone.
fn not_for_good(refusal: &Refusal) -> Result<(), AgentError> {
    match refusal.reason {
        Reason::Protocol | Reason::Retired => Err(AgentError::Refused(refusal.clone())),
        _ => Ok(()),
    }
}

/// What people should see of a step.
fn announce(effect: &Effect) {
    match effect {
        Effect::Open(o) => {
            tracing::info!(round = %o.round, model = %o.model, base = %o.base_version, "task begun");
        }
        Effect::Decline { offer, reason } => {
            tracing::warn!(round = %offer.round, "offer declined: {reason}");
        }
        Effect::Describe(m) => {
            let accuracy = |m: Option<lamplight_proto::delta::Metrics>| m.map(|m| m.accuracy);
            tracing::info!(
                round = %m.round,
                samples = m.sample_count,
                aside = m.samples_aside,
                seconds = m.training_seconds,
                before = ?accuracy(m.before),
                after = ?accuracy(m.after),
                "trained"
            );
        }
        Effect::Keep(_, receipt) => {
            tracing::info!(round = %receipt.round, counter = receipt.counter, "delta accepted");
        }
        Effect::Close {
            outcome,
            reason: Some(reason),
            ..
        } => tracing::warn!("task {outcome}: {reason}"),
        Effect::Warn(text) => tracing::warn!("{text}"),
        Effect::Close { .. } | Effect::Report { .. } => {}
    }
}
