//! Idle: polls, and judges what is offered.

use super::{
    Effect, Event, Phase, Preparing, Step,
    offer::{Verdict, judge},
};

/// Polls for work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Idle;

impl Idle {
    /// An offer that holds against what the node knows becomes a task.
    #[must_use]
    pub fn step(self, event: Event) -> Step {
        let Event::Offered(offer, known) = event else {
            return (Phase::Idle(self), Vec::new());
        };
        match judge(&offer, &known) {
            Verdict::Take => {
                let effects = vec![Effect::Open(offer.clone())];
                (Phase::Preparing(Preparing::new(*offer)), effects)
            }
            Verdict::DoneBefore => (Phase::Idle(self), Vec::new()),
            Verdict::Ignore(declined) => {
                (Phase::Idle(self), vec![Effect::Warn(declined.to_string())])
            }
            Verdict::Decline(declined, told) => {
                let reason = declined.to_string();
                let report = Effect::Report {
                    round: offer.round,
                    lease: offer.lease,
                    told,
                };
                (
                    Phase::Idle(self),
                    vec![Effect::Decline { offer, reason }, report],
                )
            }
        }
    }
}
