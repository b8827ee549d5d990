//! Preparing: the base model is on its way here.

use lamplight_proto::{envelope::Verified, offer::RoundOffer};

use super::{Event, Outcome, Phase, Step, Training, close, fail, refused};

/// Pulls the base model.
#[derive(Debug, Clone)]
pub struct Preparing {
    offer: Verified<RoundOffer>,
}

impl Preparing {
    /// Begins on an offer.
    #[must_use]
    pub fn new(offer: Verified<RoundOffer>) -> Self {
        Self { offer }
    }

    /// The offer.
    #[must_use]
    pub fn offer(&self) -> &Verified<RoundOffer> {
        &self.offer
    }

    /// Once the base is here, training begins.
    #[must_use]
    pub fn step(self, event: Event) -> Step {
        match event {
            Event::BaseReady => (Phase::Training(Training::new(self.offer)), Vec::new()),
            Event::Failed(why) => fail(&self.offer, why),
            Event::Refused(r) => refused(&self.offer, &r),
            Event::Unwanted(why) => close(&self.offer, Outcome::Dropped, Some(why)),
            Event::Offered(..) | Event::Learned(_) | Event::Accepted(_) => {
                (Phase::Preparing(self), Vec::new())
            }
        }
    }
}
