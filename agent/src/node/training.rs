//! Training: the base is here, the delta is not.

use lamplight_proto::{delta::DeltaManifest, envelope::Verified, offer::RoundOffer};

use super::{Effect, Event, Outcome, Phase, Step, Uploading, close, fail, refused};

/// Fine-tunes.
#[derive(Debug, Clone)]
pub struct Training {
    offer: Verified<RoundOffer>,
}

impl Training {
    /// Goes on with an offer whose base is here.
    #[must_use]
    pub fn new(offer: Verified<RoundOffer>) -> Self {
        Self { offer }
    }

    /// The offer.
    #[must_use]
    pub fn offer(&self) -> &Verified<RoundOffer> {
        &self.offer
    }

    /// Whether a manifest answers this very offer; another one would only be refused later.
    fn answers(&self, m: &DeltaManifest) -> bool {
        let o = self.offer.get();
        m.deployment == o.deployment
            && m.node_id == o.node_id
            && m.round == o.round
            && m.window == o.window
            && m.lease == o.lease
            && m.base_digest == o.base_digest
    }

    /// Once the delta is on disk and its manifest signed, sending begins.
    #[must_use]
    pub fn step(self, event: Event) -> Step {
        match event {
            Event::Learned(manifest) if self.answers(&manifest) => {
                let next = Uploading::new(self.offer, (*manifest).clone());
                (Phase::Uploading(next), vec![Effect::Describe(manifest)])
            }
            Event::Failed(why) => fail(&self.offer, why),
            Event::Refused(r) => refused(&self.offer, &r),
            Event::Unwanted(why) => close(&self.offer, Outcome::Dropped, Some(why)),
            Event::Offered(..) | Event::BaseReady | Event::Learned(_) | Event::Accepted(_) => {
                (Phase::Training(self), Vec::new())
            }
        }
    }
}
