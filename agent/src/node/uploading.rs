//! Uploading: the signed delta is on disk and on its way out.

use lamplight_proto::{
    delta::{DeltaManifest, Receipt},
    envelope::Verified,
    offer::RoundOffer,
};

use super::{Effect, Event, Outcome, Phase, Step, close, fail, refused};

/// Sends the delta.
#[derive(Debug, Clone)]
pub struct Uploading {
    offer: Verified<RoundOffer>,
    /// Boxed: its table of tensors and digests dwarfs what other phases hold.
    manifest: Box<Verified<DeltaManifest>>,
}

/// A signed receipt that is about something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the receipt's {field} is {got}, the delta sent has {want}")]
pub struct ReceiptMismatch {
    /// Which field.
    pub field: &'static str,
    /// What the receipt says.
    pub got: String,
    /// What was sent.
    pub want: String,
}

impl Uploading {
    /// Goes on with a signed delta.
    #[must_use]
    pub fn new(offer: Verified<RoundOffer>, manifest: Verified<DeltaManifest>) -> Self {
        Self {
            offer,
            manifest: Box::new(manifest),
        }
    }

    /// The offer.
    #[must_use]
    pub fn offer(&self) -> &Verified<RoundOffer> {
        &self.offer
    }

    /// The manifest, as signed.
    #[must_use]
    pub fn manifest(&self) -> &Verified<DeltaManifest> {
        &self.manifest
    }

    /// Whether a receipt is for this delta.
    ///
    /// # Errors
    /// [`ReceiptMismatch`] with both values.
    pub fn accepts(&self, receipt: &Receipt) -> Result<(), ReceiptMismatch> {
        let m = self.manifest.get();
        let fields = [
            (
                "deployment",
                receipt.deployment.to_string(),
                m.deployment.to_string(),
            ),
            ("round", receipt.round.to_string(), m.round.to_string()),
            ("node", receipt.node_id.to_string(), m.node_id.to_string()),
            (
                "manifest digest",
                receipt.manifest_digest.to_string(),
                self.manifest.signed().payload_digest().to_string(),
            ),
            (
                "delta digest",
                receipt.delta_digest.to_string(),
                m.digest.to_string(),
            ),
            (
                "counter",
                receipt.counter.to_string(),
                m.counter.to_string(),
            ),
        ];
        match fields.into_iter().find(|(_, got, want)| got != want) {
            None => Ok(()),
            Some((field, got, want)) => Err(ReceiptMismatch { field, got, want }),
        }
    }

    /// The receipt ends the task; so does a refusal for good.
    #[must_use]
    pub fn step(self, event: Event) -> Step {
        match event {
            Event::Accepted(receipt) if self.accepts(&receipt).is_ok() => {
                let (phase, mut effects) = close(&self.offer, Outcome::Accepted, None);
                effects.insert(0, Effect::Keep(self.offer.lease, receipt));
                (phase, effects)
            }
            Event::Failed(why) => fail(&self.offer, why),
            Event::Refused(r) => refused(&self.offer, &r),
            Event::Unwanted(why) => close(&self.offer, Outcome::Dropped, Some(why)),
            Event::Offered(..) | Event::BaseReady | Event::Learned(_) | Event::Accepted(_) => {
                (Phase::Uploading(self), Vec::new())
            }
        }
    }
}
