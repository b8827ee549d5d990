//! The contract between nodes, coordinator and operators.
//!
//! ```text
//!   network ──> wire::X ──TryFrom──> domain type ──> rooms of agent and coordinator
//!   network ──> Envelope ──verify──> Verified<T>     only this goes further
//! ```
//!
//! Reading order: [`wire`] (generated), [`ids`] (names that must not be mixed), [`envelope`] (what is
//! signed is bytes), [`offer`], [`delta`], [`release`] (the signed payloads), [`refusal`] (why a call
//! is refused), [`cause`] (why a node delivers nothing), [`budget`] (what a task may use of a node),
//! [`bounds`] (how large a task may be), [`tag`] (what operators say of nodes), [`version`] (who may speak), [`needs`] (what an agent must
//! know to do a task), [`keys`], [`token`], [`tls`], [`chunk`], [`settings`] (what people write into
//! files), [`doctor`] (what is wrong with a machine).
//!
//! Invariants: nothing here trusts a length, a name or a signature it has not checked; no other crate
//! of the workspace decodes a signed payload or checks a signature itself.

pub mod asks;
pub mod bounds;
pub mod budget;
pub mod cause;
pub mod chunk;
pub mod console;
pub mod delta;
pub mod doctor;
pub mod envelope;
pub mod ids;
pub mod keys;
pub mod needs;
pub mod offer;
pub mod refusal;
pub mod release;
pub mod settings;
pub mod tag;
pub mod tls;
pub mod token;
pub mod version;

/// Messages and services generated from `proto/lamplight/v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated code; its documentation is the .proto files"
)]
pub mod wire {
    tonic::include_proto!("lamplight.v1");
}

/// The compiled protocol, for the reflection service.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lamplight_descriptor.bin"));

/// A message that does not parse into its domain type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} is malformed: {fault}")]
pub struct Malformed {
    /// Message or type that was expected.
    pub message: &'static str,
    /// The field and what is wrong with it.
    pub fault: String,
}

impl Malformed {
    /// `message` is malformed for this reason.
    pub fn new(message: &'static str, fault: impl Into<String>) -> Self {
        Self {
            message,
            fault: fault.into(),
        }
    }
}
