//! A model of a few hundred bytes, deltas against it, and a whole state directory, for tests.

use std::{fs, io::Cursor};

use lamplight_models::{delta::Delta, model::Model, quant::gguf as format};
use lamplight_proto::{
    chunk::chunk_digests,
    delta::{DeltaManifest, TensorEntry},
    envelope::Signed,
    ids::{Deployment, Digest, Lease, ModelName, ModelVersion, NodeId, RoundId, UnixMillis},
    keys::SigningKey,
    offer::{Codec, Trainable},
    release::{Contribution, ReleaseManifest, Rule},
};

use super::{Draft, Lineage, StateFiles, build, sign};
use crate::aggregate::{clip_factor, weight};

#[path = "../../tests/small/mod.rs"]
mod small;

/// The base model's file.
pub(crate) fn gguf() -> Vec<u8> {
    format::write(&small::model(7)).unwrap()
}

/// The base model as its readers hold it.
pub(crate) fn model() -> Model {
    format::read(&gguf()).unwrap()
}

/// A small delta against [`model`], another one for each number.
pub(crate) fn delta(number: u64) -> Delta {
    let mut d = Delta::between(&model(), &small::model(100 + number)).unwrap();
    for (_, values) in d.tensors.values_mut() {
        values.iter_mut().for_each(|v| *v *= 0.01);
    }
    d
}

/// An unclipped contribution of weight 1 by a node known by this text.
pub(crate) fn contribution(node: &str, delta: &Delta) -> Contribution {
    Contribution {
        node_id: NodeId::of_key(node.as_bytes()),
        delta_digest: Digest::of(&delta.to_bytes()),
        manifest_digest: Digest::of(node.as_bytes()),
        weight: 1,
        clip_factor: 1.0,
    }
}

pub(crate) fn deployment() -> Deployment {
    "street".parse().unwrap()
}

pub(crate) fn name() -> ModelName {
    "tcn".parse().unwrap()
}

/// A draft of this version.
pub(crate) fn draft(version: u64) -> Draft {
    Draft {
        deployment: deployment(),
        model: name(),
        version: ModelVersion(version),
        created: UnixMillis(1_700_000_000_000),
        evaluation: None,
    }
}

/// A node with its key.
pub(crate) struct Node {
    pub(crate) key: SigningKey,
    pub(crate) id: NodeId,
}

/// A state directory: version 1 pushed, versions 2 and 3 made from three deltas each, the second
/// round on the first one's carry. One delta per round is clipped, one weight capped.
pub(crate) struct State {
    /// Removed when this goes.
    _dir: tempfile::TempDir,
    pub(crate) files: StateFiles,
    pub(crate) release_key: SigningKey,
    pub(crate) nodes: Vec<Node>,
    /// By version, from 1.
    pub(crate) releases: Vec<ReleaseManifest>,
}

pub(crate) const CLIP_NORM: f64 = 0.02;
pub(crate) const WEIGHT_CAP: u64 = 25;

impl State {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = StateFiles::new(dir.path());
        let nodes = (0..3)
            .map(|_| {
                let key = SigningKey::generate().unwrap();
                let id = NodeId::of_key(&key.public());
                Node { key, id }
            })
            .collect();
        let mut state = Self {
            _dir: dir,
            files,
            release_key: SigningKey::generate().unwrap(),
            nodes,
            releases: Vec::new(),
        };
        let hex_line = |key: &SigningKey| format!("{}\n", hex::encode(key.public()));
        put(&state.files.release_pub(), hex_line(&state.release_key));
        for node in &state.nodes {
            put(&state.files.node_pub(&node.id), hex_line(&node.key));
        }
        let base = gguf();
        let pushed = draft(1).pushed(Digest::of(&base), base.len() as u64);
        put(&state.files.blob(pushed.digest), base);
        state.publish(pushed);
        state.round(1);
        state.round(2);
        state
    }

    pub(crate) fn newest(&self) -> &ReleaseManifest {
        self.releases.last().unwrap()
    }

    /// Signs and stores a manifest.
    pub(crate) fn publish(&mut self, manifest: ReleaseManifest) {
        let path = self.files.release(&manifest.model, manifest.version);
        let sealed = sign(manifest, &self.release_key).unwrap();
        put(&path, sealed.signed().to_bytes());
        self.releases.push(sealed.get().clone());
    }

    /// Signs and stores a delta's manifest; answers its digest.
    pub(crate) fn accept(&self, key: &SigningKey, manifest: DeltaManifest) -> Digest {
        let path = self.files.delta(manifest.round, &manifest.node_id);
        let sealed = Signed::seal(manifest, key);
        put(&path, sealed.signed().to_bytes());
        sealed.signed().payload_digest()
    }

    /// What node `i` says of its delta.
    pub(crate) fn manifest(&self, round: u64, base: Digest, i: usize, d: &Delta) -> DeltaManifest {
        let bytes = d.to_bytes();
        let entry = |(name, (shape, _)): (&String, &(Vec<usize>, Vec<f32>))| TensorEntry {
            name: name.clone(),
            shape: shape.iter().map(|&d| d as u64).collect(),
        };
        DeltaManifest {
            deployment: deployment(),
            round: RoundId(round),
            window: 0,
            base_digest: base,
            node_id: self.nodes[i].id.clone(),
            counter: round,
            lease: Lease([3; 16]),
            expires: UnixMillis(1_700_000_600_000),
            tensors: d.tensors.iter().map(entry).collect(),
            codec: Codec::F32,
            size: bytes.len() as u64,
            digest: Digest::of(&bytes),
            chunk_digests: chunk_digests(&bytes),
            sample_count: 10 * (i as u64 + 1),
            before: None,
            after: None,
            training_seconds: 1.5,
            agent_version: "0.1.0".into(),
            samples_aside: 0,
        }
    }

    /// Runs a round on the newest release.
    fn round(&mut self, round: u64) {
        let base = self.newest().clone();
        let contributions: Vec<Contribution> = (0..self.nodes.len())
            .map(|i| {
                let d = delta(10 * round + i as u64);
                put(&self.files.blob(Digest::of(&d.to_bytes())), d.to_bytes());
                let manifest = self.manifest(round, base.digest, i, &d);
                Contribution {
                    node_id: self.nodes[i].id.clone(),
                    delta_digest: manifest.digest,
                    weight: weight(manifest.sample_count, WEIGHT_CAP),
                    clip_factor: clip_factor(d.norm_l2(), Some(CLIP_NORM)),
                    manifest_digest: self.accept(&self.nodes[i].key, manifest),
                }
            })
            .collect();
        let read = |digest| fs::read(self.files.blob(digest)).unwrap();
        let carry = base.carry_digest.map(read);
        let open = |c: &Contribution| Ok(Cursor::new(read(c.delta_digest)));
        let rule = Rule::FedAvg;
        let (file, carry) = (read(base.digest), carry.as_deref());
        let built = build(&file, carry, rule, Trainable::All, &contributions, open).unwrap();
        put(&self.files.blob(built.digest), &built.gguf);
        let carry = built.carry.as_ref().unwrap();
        put(&self.files.blob(Digest::of(carry)), carry);
        let lineage = Lineage {
            round: RoundId(round),
            base: &base,
            rule,
            clip_norm: Some(CLIP_NORM),
            weight_cap: WEIGHT_CAP,
            trainable: Trainable::All,
            contributions,
        };
        self.publish(draft(base.version.0 + 1).aggregated(&built, lineage));
    }
}

/// Writes a file and the directories above it.
pub(crate) fn put(path: &std::path::Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}
