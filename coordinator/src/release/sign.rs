//! What a release's manifest says, and the signature that makes a release of it.

use lamplight_proto::{
    delta::Metrics,
    envelope::{MAX_PAYLOAD_BYTES, Payload as _, Signed, Verified},
    ids::{Deployment, Digest, ModelName, ModelVersion, RoundId, UnixMillis},
    keys::SigningKey,
    offer::Trainable,
    release::{Contribution, Provenance, ReleaseManifest, Rule},
};

use super::build::Built;
use crate::aggregate::fixed;

/// What every release says of itself, pushed or aggregated.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// The fleet.
    pub deployment: Deployment,
    /// The model.
    pub model: ModelName,
    /// Above every version before.
    pub version: ModelVersion,
    /// When it is made.
    pub created: UnixMillis,
    /// On the operator's evaluation samples.
    pub evaluation: Option<Metrics>,
}

/// What an aggregated release was made from, beside its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Lineage<'a> {
    /// The round.
    pub round: RoundId,
    /// The release it started from.
    pub base: &'a ReleaseManifest,
    /// How the deltas became one.
    pub rule: Rule,
    /// L2 bound the clip factors follow from.
    pub clip_norm: Option<f64>,
    /// Bound of the weights.
    pub weight_cap: u64,
    /// Which parameters moved.
    pub trainable: Trainable,
    /// The deltas, in any order.
    pub contributions: Vec<Contribution>,
}

/// Why a manifest cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// Its readers would refuse it.
    #[error(
        "the manifest of {contributions} deltas has {got} bytes, readers take at most {max}; \
         start rounds with a smaller cohort"
    )]
    TooLarge {
        /// Deltas named.
        contributions: usize,
        /// Bytes of the payload.
        got: usize,
        /// Bytes allowed.
        max: usize,
    },
}

impl Draft {
    /// A release an operator pushed: this file, made from nothing known here.
    #[must_use]
    pub fn pushed(self, digest: Digest, size: u64) -> ReleaseManifest {
        ReleaseManifest {
            deployment: self.deployment,
            model: self.model,
            version: self.version,
            digest,
            size,
            provenance: None,
            carry_digest: None,
            created: self.created,
            evaluation: self.evaluation,
        }
    }

    /// A release built from a base and deltas, with all that is needed to build it again.
    #[must_use]
    pub fn aggregated(self, built: &Built, lineage: Lineage<'_>) -> ReleaseManifest {
        let mut contributions = lineage.contributions;
        contributions.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        ReleaseManifest {
            provenance: Some(Provenance {
                round: lineage.round,
                base_version: lineage.base.version,
                base_digest: lineage.base.digest,
                base_carry_digest: lineage.base.carry_digest,
                rule: lineage.rule,
                clip_norm: lineage.clip_norm,
                weight_cap: lineage.weight_cap,
                fixed_point_bits: fixed::BITS,
                contributions,
                trainable: lineage.trainable,
            }),
            carry_digest: built.carry_digest,
            ..self.pushed(built.digest, built.gguf.len() as u64)
        }
    }
}

/// Signs a manifest with the release key.
///
/// # Errors
/// [`SignError::TooLarge`] when no reader would take it.
pub fn sign(
    manifest: ReleaseManifest,
    key: &SigningKey,
) -> Result<Verified<ReleaseManifest>, SignError> {
    let got = manifest.to_payload().len();
    if got > MAX_PAYLOAD_BYTES {
        let provenance = manifest.provenance.as_ref();
        return Err(SignError::TooLarge {
            contributions: provenance.map_or(0, |p| p.contributions.len()),
            got,
            max: MAX_PAYLOAD_BYTES,
        });
    }
    Ok(Signed::seal(manifest, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::fixture::{contribution, delta, draft};
    use lamplight_proto::envelope::TrustedKeys;

    fn aggregated(contributions: Vec<Contribution>) -> ReleaseManifest {
        let base = draft(1).pushed(Digest::of(b"base"), 4);
        let built = Built {
            gguf: b"file".to_vec(),
            digest: Digest::of(b"file"),
            carry: Some(b"carry".to_vec()),
            carry_digest: Some(Digest::of(b"carry")),
            model: crate::release::fixture::model(),
        };
        let lineage = Lineage {
            round: RoundId(7),
            base: &base,
            rule: Rule::FedAvg,
            clip_norm: Some(1.5),
            weight_cap: 100,
            trainable: Trainable::All,
            contributions,
        };
        draft(2).aggregated(&built, lineage)
    }

    #[test]
    fn what_is_signed_reads_back_the_same_with_contributions_sorted() {
        let c = ["c", "a", "b"].map(|n| contribution(n, &delta(1)));
        let manifest = aggregated(c.to_vec());
        let key = SigningKey::generate().unwrap();
        let bytes = sign(manifest.clone(), &key).unwrap().signed().to_bytes();
        let read = Signed::<ReleaseManifest>::from_bytes(&bytes).unwrap();
        let read = read.verify(&TrustedKeys::new([key.public()])).unwrap();
        assert_eq!(*read, manifest);
        let p = read.provenance.as_ref().unwrap();
        assert!(p.contributions.is_sorted_by(|a, b| a.node_id < b.node_id));
        assert_eq!(
            (p.base_version, p.fixed_point_bits),
            (ModelVersion(1), fixed::BITS)
        );
    }

    #[test]
    fn a_manifest_no_reader_would_take_is_not_signed() {
        let c = vec![contribution("a", &delta(1)); 41_000];
        let key = SigningKey::generate().unwrap();
        let e = sign(aggregated(c), &key).map(drop).unwrap_err();
        assert!(
            matches!(
                e,
                SignError::TooLarge {
                    contributions: 41_000,
                    ..
                }
            ),
            "{e}"
        );
    }
}
