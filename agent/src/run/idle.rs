//! Idle: deliver what is left to say, poll, judge.

use super::{Agent, AgentError, not_for_good};
use crate::{
    link::{Link, LinkError, Report, ReportEvent, backoff::jittered},
    node::{Event, Known},
};

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
        let known = Known {
            deployment: self.node.deployment.clone(),
            node_id: self.node.node_id.clone(),
            now: polled.now,
            highest,
            done_before,
        };
        Ok(Some(Event::Offered(Box::new(offer), known)))
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
