//! State directories that their own owner made hostile: every digest and signature fits, the rest is
//! what the input says. Without that, nothing behind the first digest would ever be reached.

use std::sync::LazyLock;

use lamplight_coordinator::release::{self, StateFiles};
use lamplight_proto::chunk::chunk_digests;
use lamplight_proto::delta::DeltaManifest;
use lamplight_proto::ids::{Digest, ModelName, ModelVersion, NodeId, RoundId};
use lamplight_proto::keys::SigningKey;
use lamplight_proto::release::ReleaseManifest;
use lamplight_proto::wire;
use prost::Message as _;
use prost::bytes::Bytes;

use crate::memory::within;
use crate::proto::sealed;
use crate::{Answer, parts};

/// Bytes of memory per byte of all files: a model in several forms at once, sums of 16 bytes a value.
const FILES: u64 = 256;

/// The owner's key, and the key of the one node.
static KEYS: LazyLock<[SigningKey; 2]> =
    LazyLock::new(|| [(); 2].map(|()| SigningKey::generate().expect("the system has randomness")));

const MODEL: &str = "tcn";
const DEPLOYMENT: &str = "lamps";
const BASE: ModelVersion = ModelVersion(1);
const RELEASE: ModelVersion = ModelVersion(2);
const ROUND: RoundId = RoundId(3);

/// The files a release is made of, as an input holds them, in this order.
pub(crate) struct Files<'a> {
    pub(crate) release_manifest: &'a [u8],
    pub(crate) base_manifest: &'a [u8],
    pub(crate) delta_manifest: &'a [u8],
    pub(crate) base: &'a [u8],
    pub(crate) base_carry: &'a [u8],
    pub(crate) delta: &'a [u8],
    pub(crate) release: &'a [u8],
    pub(crate) carry: &'a [u8],
}

/// See [`crate::TARGETS`].
pub fn verify(input: &[u8]) -> Answer {
    let [
        release_manifest,
        base_manifest,
        delta_manifest,
        base,
        base_carry,
        delta,
        release,
        carry,
    ] = parts::split(input);
    let files = Files {
        release_manifest,
        base_manifest,
        delta_manifest,
        base,
        base_carry,
        delta,
        release,
        carry,
    };
    let Some(dir) = files.lay_out() else {
        return Answer::Refused;
    };
    let model: ModelName = MODEL.parse().expect("a plain name");
    let verified = within(input.len(), FILES, || {
        release::verify(dir.path(), Some(model), Some(RELEASE), None)
    });
    if let Ok(report) = &verified {
        assert_eq!(report.digest, Digest::of(release));
    }
    Answer::of(&verified)
}

fn digest(bytes: &[u8]) -> Bytes {
    Digest::of(bytes).to_bytes()
}

/// Empty stands for none.
fn optional_digest(bytes: &[u8]) -> Bytes {
    if bytes.is_empty() {
        Bytes::new()
    } else {
        digest(bytes)
    }
}

impl Files<'_> {
    /// Makes names, sizes and digests fit, signs, and writes. `None` when a manifest is no message.
    fn lay_out(&self) -> Option<tempfile::TempDir> {
        let [owner, node_key] = &*KEYS;
        let node = NodeId::of_key(&node_key.public());
        let mut delta = wire::DeltaManifest::decode(self.delta_manifest).ok()?;
        delta.deployment = DEPLOYMENT.into();
        delta.round = ROUND.0;
        delta.node_id = node.to_string();
        delta.base_digest = digest(self.base);
        delta.digest = digest(self.delta);
        delta.size = self.delta.len() as u64;
        delta.chunk_digests = chunk_digests(self.delta)
            .iter()
            .map(|d| d.to_bytes())
            .collect();
        let delta = delta.encode_to_vec();

        let mut base = wire::ReleaseManifest::decode(self.base_manifest).ok()?;
        base.deployment = DEPLOYMENT.into();
        base.model = MODEL.into();
        base.version = BASE.0;
        base.digest = digest(self.base);
        base.size = self.base.len() as u64;
        base.carry_digest = optional_digest(self.base_carry);

        let mut release = wire::ReleaseManifest::decode(self.release_manifest).ok()?;
        release.deployment = DEPLOYMENT.into();
        release.model = MODEL.into();
        release.version = RELEASE.0;
        release.digest = digest(self.release);
        release.size = self.release.len() as u64;
        release.carry_digest = optional_digest(self.carry);
        if let Some(made) = &mut release.provenance {
            made.round = ROUND.0;
            made.base_version = BASE.0;
            made.base_digest = digest(self.base);
            made.base_carry_digest = optional_digest(self.base_carry);
            if let Some(first) = made.contributions.first_mut() {
                first.node_id = node.to_string();
                first.delta_digest = digest(self.delta);
                first.manifest_digest = digest(&delta);
            }
        }

        let dir = parts::directory(&[]);
        let files = StateFiles::new(dir.path());
        let model: ModelName = MODEL.parse().expect("a plain name");
        let manifest = |m: &wire::ReleaseManifest| {
            sealed::<ReleaseManifest>(&m.encode_to_vec(), owner).to_bytes()
        };
        let hex = |key: &SigningKey| hex::encode(key.public()).into_bytes();
        let mut all = vec![
            (files.release_pub(), hex(owner)),
            (files.node_pub(&node), hex(node_key)),
            (files.release(&model, RELEASE), manifest(&release)),
            (files.release(&model, BASE), manifest(&base)),
            (
                files.delta(ROUND, &node),
                sealed::<DeltaManifest>(&delta, node_key).to_bytes(),
            ),
        ];
        for blob in [
            self.base,
            self.base_carry,
            self.delta,
            self.release,
            self.carry,
        ] {
            all.push((files.blob(Digest::of(blob)), blob.to_vec()));
        }
        for (path, bytes) in all {
            parts::write(&path, &bytes);
        }
        Some(dir)
    }
}
