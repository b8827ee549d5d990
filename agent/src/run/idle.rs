//! Idle: deliver what is left to say, poll, judge.

use std::{path::Path, time::Duration};

use lamplight_proto::{cause::Told, ids::UnixMillis, needs, offer::RoundOffer};

use super::{Agent, AgentError, not_for_good};
use crate::{
    link::{Link, LinkError, Report, ReportEvent, backoff::jittered},
    node::{Event, Known},
    power::{self, Meter},
};

/// Between two looks at an offer that waits for its hours: an operator may stop the task meanwhile.
pub(super) const WAITING: Duration = Duration::from_secs(30);

impl<L: Link> Agent<L> {
    /// One poll. Answers the offer it brought, or waits as long as the coordinator suggests.
    pub(super) async fn idle(&mut self) -> Result<Option<Event>, AgentError> {
        self.deliver().await?;
        let polled = match self.link.poll(self.phase.name(), self.running).await {
            Ok(polled) => polled,
            Err(e) => {
                if let LinkError::Refused(r) = &e {
                    not_for_good(r)?;
                }
                self.wait_out(&e).await;
                return Ok(None);
            }
        };
        self.backoff.reset();
        self.heard(polled.now);
        self.wait = polled.wait;
        let Some(offer) = polled.offer else {
            tokio::time::sleep(jittered(polled.wait)).await;
            return Ok(None);
        };
        // Nothing in an offer is looked at before its signature.
        let offer = match offer.verify(&self.keys.release) {
            Ok(offer) => offer,
            Err(e) => {
                tracing::warn!("an offer is not believed: {e}");
                tokio::time::sleep(jittered(polled.wait)).await;
                return Ok(None);
            }
        };
        let (model, lease) = (offer.model.clone(), offer.lease);
        let (highest, done_before) = self
            .store
            .call(move |s| Ok((s.highest(&model)?, s.done_before(lease)?)))
            .await?;
        let has_base = self.dir.model(offer.base_digest).is_file();
        let limits = &self.config.limits;
        let has_meter =
            || Meter::open(Path::new(power::POWERCAP), limits.assumed_power_watts).is_some();
        let beyond = limits.allow(&offer, has_base, has_meter).err();
        let is_known = needs::unknown(&offer.needs).is_none();
        if is_known && beyond.is_none() && self.not_now(&offer, polled.now).await? {
            return Ok(None);
        }
        let known = Known {
            beyond,
            deployment: self.node.deployment.clone(),
            node_id: self.node.node_id.clone(),
            now: polled.now,
            highest,
            done_before,
        };
        Ok(Some(Event::Offered(Box::new(offer), known)))
    }

    /// Whether the offer has to wait for the hours in which task and node allow training. The
    /// coordinator is told why nothing happens, once for each offer.
    async fn not_now(&mut self, offer: &RoundOffer, now: UnixMillis) -> Result<bool, AgentError> {
        let hours = self.config.limits.bounds(&offer.budget).hours;
        let ours = offer.node_id == self.node.node_id && offer.deployment == self.node.deployment;
        let opens_in = match hours.opens_in(now) {
            // Whatever else there is to say of the offer, it is said at once.
            Some(Duration::ZERO) | None => return Ok(false),
            _ if !ours || offer.expires <= now => return Ok(false),
            Some(wait) => wait,
        };
        if self.waiting_told != Some(offer.lease) {
            self.say_waiting(offer, opens_in).await?;
        }
        // Not past the opening, and not so long that a change of the task goes unnoticed.
        let wait = self.wait.max(WAITING).min(opens_in);
        tokio::time::sleep(jittered(wait)).await;
        Ok(true)
    }

    /// Tells that the task waits for its hours; whether the round still waits for this node.
    pub(super) async fn say_waiting(
        &mut self,
        offer: &RoundOffer,
        opens_in: Duration,
    ) -> Result<bool, AgentError> {
        if self.waiting_told != Some(offer.lease) {
            tracing::info!(
                round = %offer.round,
                "training is allowed {}; {} s to go",
                self.config.limits.bounds(&offer.budget).hours,
                opens_in.as_secs()
            );
        }
        let report = Report {
            round: offer.round,
            lease: offer.lease,
            event: ReportEvent::Waiting(Told::Window {
                opens_in_seconds: Some(opens_in.as_secs()),
            }),
        };
        match self.link.report(report).await {
            Ok(wanted) => {
                self.waiting_told = Some(offer.lease);
                Ok(wanted)
            }
            Err(LinkError::Refused(r)) => {
                not_for_good(&r)?;
                self.waiting_told = Some(offer.lease);
                Ok(true)
            }
            // Said again the next time.
            Err(e) => {
                tracing::debug!("the report was lost: {e}");
                Ok(true)
            }
        }
    }

    /// Sends the failures the coordinator has not heard of. What cannot be sent now stays.
    async fn deliver(&mut self) -> Result<(), AgentError> {
        let letters = self.store.call(|s| s.outbox()).await?;
        for letter in letters {
            let report = Report {
                round: letter.round,
                lease: letter.lease,
                event: ReportEvent::Failure(letter.told),
            };
            match self.link.report(report).await {
                Ok(_) => {}
                Err(LinkError::Refused(r)) => {
                    not_for_good(&r)?;
                    tracing::debug!(round = %letter.round, "the failure report was refused: {r}");
                }
                // The poll that follows waits the fault out.
                Err(_) => return Ok(()),
            }
            self.store.call(move |s| s.delivered(letter.id)).await?;
        }
        Ok(())
    }
}
