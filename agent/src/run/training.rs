//! Training: on a thread of its own, watched from here.

use std::{
    future::pending,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use lamplight_models::samples::Aside;
use lamplight_proto::{
    budget::Hours,
    cause::{Told, TrainingFault},
    delta::DeltaManifest,
    envelope::Verified,
    ids::{Lease, RoundId, UnixMillis},
    keys::write_aside,
    offer::RoundOffer,
    refusal::Reason,
};
use tokio::{sync::watch, time::MissedTickBehavior};

use super::{Agent, AgentError, NOT_WAITED_FOR, idle::WAITING, why::disk};
use crate::{
    learn::{self, LearnError, Learned, Progress, Settings},
    link::{Link, LinkError, Report, ReportEvent},
    node::{Event, Why},
    power,
    stop::Stop,
    store::aside::KeptAside,
};

/// Tells the training thread to stop when whoever watches it is gone.
struct Halt(Arc<AtomicBool>);

impl Halt {
    fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Drop for Halt {
    fn drop(&mut self) {
        self.now();
    }
}

impl<L: Link> Agent<L> {
    /// Fine-tunes and signs. `None` when a stop was wanted: training is saved then.
    pub(super) async fn training(
        &mut self,
        offer: &Verified<RoundOffer>,
        stop: &Stop,
    ) -> Result<Option<Event>, AgentError> {
        // 1. Within the hours that task and node allow; what was learned before they ended is kept. Told
        //    anew each time: it is the only sign of life meanwhile, and the round may have ended.
        let bounds = self.config.limits.bounds(&offer.budget);
        if let Some(wait) = bounds.hours.opens_in(self.time()).filter(|w| !w.is_zero()) {
            if let Some(why) = self.expired(offer) {
                return Ok(Some(Event::Unwanted(why)));
            }
            tokio::select! {
                biased;
                () = stop.wanted() => return Ok(None),
                wanted = self.say_waiting(offer, wait) => if !wanted? {
                    return Ok(Some(Event::Unwanted(NOT_WAITED_FOR.to_owned())));
                }
            }
            tokio::select! {
                () = stop.wanted() => {}
                () = tokio::time::sleep(wait.min(WAITING)) => {}
            }
            return Ok(None);
        }
        self.waiting_told = None;

        // 2. The base was whole when training began; that may have been before a power cut.
        tokio::select! {
            biased;
            () = stop.wanted() => return Ok(None),
            ended = self.base(offer) => if let Some(event) = ended? {
                return Ok(Some(event));
            }
        }
        let closed = closed(bounds.hours.clone(), self.time());

        // 3. Learn on a thread that may block; its progress and our wishes pass between.
        let settings = Settings {
            base: self.dir.model(offer.base_digest),
            checkpoint: self.dir.checkpoint(offer.lease),
            checkpoint_every: self.config.checkpoint_every,
            device: self.config.device,
            threads: self.config.threads,
            precision: self.config.precision,
            bounds,
            assumed_power_watts: self.config.limits.assumed_power_watts,
            powercap: power::POWERCAP.into(),
        };
        let halt = Halt(Arc::default());
        let (flag, open, lock) = (
            halt.0.clone(),
            self.config.source.clone(),
            self.lock.clone(),
        );
        let (tell, progress) = watch::channel(None);
        let task = offer.get().clone();
        let mut thread = tokio::task::spawn_blocking(move || {
            // Held so that nobody else opens the directory while a checkpoint is written.
            let _lock = lock;
            learn::learn(&task, &settings, &*open, &mut |p| {
                tell.send_replace(Some(p));
                if flag.load(Ordering::Relaxed) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
        });
        let every = self.config.report_every;
        let unwanted = report(&self.link, offer.round, offer.lease, progress, every);
        let mut dropped = false;
        let ended = tokio::select! {
            biased;
            ended = &mut thread => ended,
            () = stop.wanted() => {
                halt.now();
                thread.await
            }
            () = closed => {
                tracing::info!(round = %offer.round, "the hours of training are over; saving");
                halt.now();
                thread.await
            }
            () = unwanted => {
                dropped = true;
                halt.now();
                thread.await
            }
        };

        // 4. What came of it.
        let learned = match ended {
            _ if dropped => {
                return Ok(Some(Event::Unwanted(NOT_WAITED_FOR.to_owned())));
            }
            Ok(Ok(learned)) => learned,
            Ok(Err(LearnError::Stopped)) => return Ok(None),
            Ok(Err(e)) => {
                if let LearnError::AllAside { aside, .. } = &e {
                    self.keep_aside(offer, aside.clone()).await?;
                }
                return Ok(Some(Event::Failed(e.into())));
            }
            Err(e) => {
                let full = format!("the training thread broke: {e}");
                let why = Why::new(Told::Training(TrainingFault::Broken), full);
                return Ok(Some(Event::Failed(why)));
            }
        };
        self.keep_aside(offer, learned.aside.clone()).await?;
        match self.keep(offer, learned).await? {
            Ok(manifest) => Ok(Some(Event::Learned(Box::new(manifest)))),
            Err(why) => Ok(Some(Event::Failed(why))),
        }
    }

    /// Remembers which samples wait for a release with their class.
    async fn keep_aside(&self, offer: &RoundOffer, aside: Aside) -> Result<(), AgentError> {
        let kept = KeptAside::of(offer, aside);
        Ok(self.store.call(move |s| s.keep_aside(&kept)).await?)
    }

    /// Writes the delta, takes the lease's counter, signs.
    async fn keep(
        &mut self,
        offer: &RoundOffer,
        learned: Learned,
    ) -> Result<Result<Verified<DeltaManifest>, Why>, AgentError> {
        let path = self.dir.delta(offer.lease);
        if let Err(e) = write_aside(&path, &learned.delta, 0o600) {
            return Ok(Err(disk(&e, format!("{}: {e}", path.display()))));
        }
        let (lease, precision) = (offer.lease, learned.precision);
        self.store
            .call(move |s| s.keep_precision(lease, precision))
            .await?;
        let counter = self.store.call(move |s| s.counter(lease)).await?;
        Ok(Ok(learn::manifest(offer, &learned, counter, &self.key)))
    }
}

/// Ends when the hours do; `now` is the time it begins at.
async fn closed(hours: Hours, now: UnixMillis) {
    let began = Instant::now();
    while hours.contain(now.after(began.elapsed())) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Reports progress at a bounded rate; ends when the coordinator no longer wants the task.
async fn report<L: Link>(
    link: &L,
    round: RoundId,
    lease: Lease,
    mut progress: watch::Receiver<Option<Progress>>,
    every: Duration,
) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if progress.changed().await.is_err() {
            // The thread has ended; its result is on the way.
            return pending().await;
        }
        let Some(p) = *progress.borrow_and_update() else {
            continue;
        };
        let event = ReportEvent::Progress {
            phase: "training",
            step: p.step,
            steps: p.steps,
            loss: p.loss,
        };
        let report = Report {
            round,
            lease,
            event,
        };
        match link.report(report).await {
            Ok(true) => {}
            Ok(false) => return,
            // Nobody will take the delta; the next poll hears the same and ends the agent.
            Err(LinkError::Refused(r)) if r.reason == Reason::Retired => return,
            Err(e) => tracing::debug!("the report was lost: {e}"),
        }
    }
}
