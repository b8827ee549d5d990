//! Who a certificate says its holder is.

use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use lamplight_proto::ids::{Deployment, Label, NodeId};

const SCHEME: &str = "lamplight://";

/// The caller, as its certificate names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A node.
    Node(NodeId),
    /// An operator.
    Operator(Label),
}

/// Why a certificate names nobody here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Not X.509.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// No role, or more than one.
    #[error("the certificate names no role of a fleet; use a node's or an operator's")]
    NoRole,
    /// The role is not one known here.
    #[error("the certificate names the role {0:?}, known are node and operator")]
    Role(String),
    /// Another fleet's.
    #[error("the certificate belongs to deployment {got:?}, this is {want}")]
    Deployment {
        /// Named in the certificate.
        got: String,
        /// This one.
        want: Deployment,
    },
}

impl Peer {
    /// The URI that stands for this role in a certificate.
    #[must_use]
    pub fn uri(&self, deployment: &Deployment) -> String {
        match self {
            Self::Node(id) => format!("{SCHEME}{deployment}/node/{id}"),
            Self::Operator(name) => format!("{SCHEME}{deployment}/operator/{name}"),
        }
    }

    /// Reads the role out of a certificate that the TLS layer has already verified.
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn of_certificate(der: &[u8], deployment: &Deployment) -> Result<Self, PeerError> {
        let (_, certificate) = parse_x509_certificate(der).map_err(|_| PeerError::Unreadable)?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| PeerError::Unreadable)?
            .ok_or(PeerError::NoRole)?;
        let mut roles = names.value.general_names.iter().filter_map(|n| match n {
            GeneralName::URI(uri) => uri.strip_prefix(SCHEME),
            _ => None,
        });
        let (Some(role), None) = (roles.next(), roles.next()) else {
            return Err(PeerError::NoRole);
        };
        let shown = || role.chars().take(80).collect::<String>();
        let mut parts = role.split('/');
        let (Some(fleet), Some(kind), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(PeerError::Role(shown()));
        };
        if fleet != deployment.as_str() {
            return Err(PeerError::Deployment {
                got: fleet.chars().take(80).collect(),
                want: deployment.clone(),
            });
        }
        let malformed = |_| PeerError::Role(shown());
        match kind {
            "node" => name.parse().map(Self::Node).map_err(malformed),
            "operator" => name.parse().map(Self::Operator).map_err(malformed),
            _ => Err(PeerError::Role(shown())),
        }
    }
}
