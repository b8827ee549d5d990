//! Preparing: the base model comes here.

use std::fs;

use lamplight_proto::{cause::Told, offer::RoundOffer};

use super::{Agent, AgentError, NOT_WAITED_FOR, not_for_good, why::disk};
use crate::{
    link::{Link, LinkError},
    node::{Event, Why},
    pull::{PullError, pull},
};

/// Times the bytes may differ from the signed digest before the task is given up: a flipped bit on
/// the way is bad luck once, not three times.
const MOST_ALTERATIONS: u32 = 3;

impl<L: Link> Agent<L> {
    /// Pulls the base until it is here.
    pub(super) async fn preparing(&mut self, offer: &RoundOffer) -> Result<Event, AgentError> {
        Ok(self.base(offer).await?.unwrap_or(Event::BaseReady))
    }

    /// Sees to it that the base is here, whole and with the right digest; `None` when it is, else
    /// the event that ends the task.
    pub(super) async fn base(&mut self, offer: &RoundOffer) -> Result<Option<Event>, AgentError> {
        let mut altered = 0;
        loop {
            if let Some(why) = self.expired(offer) {
                return Ok(Some(Event::Unwanted(why)));
            }
            if !self.tell(offer).await? {
                return Ok(Some(Event::Unwanted(NOT_WAITED_FOR.to_owned())));
            }
            let part = self.dir.part(offer.base_digest);
            let here = |part: &std::path::Path| fs::metadata(part).map_or(0, |m| m.len());
            let before = here(&part);
            let e = match pull(&self.link, &self.dir, offer.base_digest, offer.base_size).await {
                Ok(_) => {
                    self.backoff.reset();
                    return Ok(None);
                }
                Err(e) => e,
            };
            if here(&part) > before {
                self.backoff.reset();
            }
            match e {
                PullError::Link(LinkError::Refused(r)) => {
                    not_for_good(&r)?;
                    return Ok(Some(Event::Refused(r)));
                }
                PullError::Altered { .. } | PullError::Chunk(_) => {
                    altered += 1;
                    if altered >= MOST_ALTERATIONS {
                        let full = format!("the base model was pulled {altered} times: {e}");
                        return Ok(Some(Event::Failed(Why::new(Told::Transfer, full))));
                    }
                    tracing::warn!(round = %offer.round, "{e}; pulling again");
                }
                PullError::Io { ref source, .. } => {
                    let full = format!("pulling the base model: {e}");
                    return Ok(Some(Event::Failed(disk(source, full))));
                }
                PullError::Link(e) => self.wait_out(&e).await,
                PullError::Short { .. } => {
                    self.wait_out(&LinkError::fault("pull", &e)).await;
                }
            }
        }
    }
}
