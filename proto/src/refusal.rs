//! Why a call is refused: one closed set of reasons, carried in the status details.

use std::fmt;

use prost::Message as _;
use tonic::{Code, Status};

use crate::{Malformed, envelope::VerifyError, wire};

pub use wire::refusal::Reason;

/// A refusal: the protocol's answer, not a fault of the store or the network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind; [`Reason::Unspecified`] when a newer peer gave one that is not known here.
    pub reason: Reason,
    /// One sentence naming both values, and the remedy where there is one.
    pub message: String,
}

impl Refusal {
    /// Refuses for this reason.
    pub fn new(reason: Reason, message: impl fmt::Display) -> Self {
        Self {
            reason,
            message: message.to_string(),
        }
    }

    /// The refusal a peer put into a status, if it did.
    #[must_use]
    pub fn in_status(status: &Status) -> Option<Self> {
        if status.details().is_empty() {
            return None;
        }
        let r = wire::Refusal::decode(status.details()).ok()?;
        // A reason that only a newer peer knows is a refusal all the same: repeating the call
        // changes nothing, and the message says what to do.
        (r.reason != Reason::Unspecified as i32).then(|| Self {
            reason: r.reason(),
            message: r.message,
        })
    }

    /// The reason as listings and logs show it, e.g. `wrong-base`.
    #[must_use]
    pub fn name(&self) -> String {
        self.reason.name()
    }
}

impl Reason {
    /// The reason as listings and logs show it, e.g. `wrong-base`.
    #[must_use]
    pub fn name(self) -> String {
        self.as_str_name()
            .trim_start_matches("REASON_")
            .to_ascii_lowercase()
            .replace('_', "-")
    }
}

fn code(reason: Reason) -> Code {
    match reason {
        Reason::Unspecified => Code::Unknown,
        Reason::Unauthenticated => Code::Unauthenticated,
        Reason::Token | Reason::UnknownKey | Reason::BadSignature | Reason::Retired => {
            Code::PermissionDenied
        }
        Reason::Malformed
        | Reason::AlteredPayload
        | Reason::WrongShape
        | Reason::NonFinite
        | Reason::WrongAddressee => Code::InvalidArgument,
        Reason::Oversize => Code::OutOfRange,
        Reason::NotFound => Code::NotFound,
        Reason::Conflict | Reason::Replay => Code::AlreadyExists,
        Reason::Protocol | Reason::WrongBase | Reason::RoundClosed => Code::FailedPrecondition,
    }
}

impl From<Refusal> for Status {
    fn from(r: Refusal) -> Self {
        let details = wire::Refusal {
            reason: r.reason as i32,
            message: r.message.clone(),
        };
        Status::with_details(code(r.reason), r.message, details.encode_to_vec().into())
    }
}

impl From<Malformed> for Refusal {
    fn from(e: Malformed) -> Self {
        Self::new(Reason::Malformed, e)
    }
}

impl From<VerifyError> for Refusal {
    fn from(e: VerifyError) -> Self {
        let reason = match &e {
            VerifyError::WrongType { .. } | VerifyError::Malformed(_) => Reason::Malformed,
            VerifyError::TooLarge { .. } => Reason::Oversize,
            VerifyError::UnknownKey(_) => Reason::UnknownKey,
            VerifyError::BadSignature(_) => Reason::BadSignature,
        };
        Self::new(reason, e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_the_status_it_travels_in() {
        let r = Refusal::new(Reason::WrongBase, "delta is against a, the round wants b");
        let status = Status::from(r.clone());
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(Refusal::in_status(&status), Some(r.clone()));
        assert_eq!(r.name(), "wrong-base");
    }

    #[test]
    fn a_reason_of_a_newer_peer_is_still_a_refusal() {
        let newer = wire::Refusal {
            reason: 9999,
            message: "the moon is full; try again tomorrow".into(),
        };
        let details = newer.encode_to_vec().into();
        let status = Status::with_details(Code::FailedPrecondition, "", details);
        let refusal = Refusal::in_status(&status).expect("a refusal");
        assert_eq!(refusal.reason, Reason::Unspecified);
        assert_eq!(refusal.message, newer.message);
        assert_eq!(refusal.name(), "unspecified");
    }

    #[test]
    fn a_status_without_details_is_no_refusal() {
        assert_eq!(Refusal::in_status(&Status::internal("disk full")), None);
    }
}
