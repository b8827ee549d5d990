//! A release that was really made, and hostile ones.

use std::io::{self, Cursor};

use lamplight_coordinator::aggregate::fixed;
use lamplight_coordinator::release::build;
use lamplight_models::quant::gguf;
use lamplight_proto::delta::{DeltaManifest, TensorEntry};
use lamplight_proto::envelope::Payload as _;
use lamplight_proto::ids::Digest;
use lamplight_proto::offer::Trainable;
use lamplight_proto::release::{Contribution, Provenance, Rule};

use super::models::{small_delta, small_model};
use super::{Seed, proto};
use crate::parts;
use crate::release::Files;

impl Files<'_> {
    fn join(&self) -> Vec<u8> {
        parts::join(&[
            self.release_manifest,
            self.base_manifest,
            self.delta_manifest,
            self.base,
            self.base_carry,
            self.delta,
            self.release,
            self.carry,
        ])
    }
}

pub(super) fn seeds() -> Vec<Seed> {
    let base = gguf::write(&small_model(1)).expect("a valid model");
    let delta = small_delta();
    let file = delta.to_bytes();
    let counted = Contribution {
        delta_digest: Digest::of(&file),
        weight: 240,
        clip_factor: 1.0,
        ..proto::contribution()
    };
    let open = |_: &Contribution| Ok::<_, io::Error>(Cursor::new(file.clone()));
    let contributions = [counted.clone()];
    let built = build(
        &base,
        None,
        Rule::FedAvg,
        Trainable::All,
        &contributions,
        open,
    )
    .expect("they fit");
    let made = Provenance {
        clip_norm: Some(1e6),
        fixed_point_bits: fixed::BITS,
        ..proto::provenance(counted)
    };
    let manifest = DeltaManifest {
        tensors: delta
            .tensors
            .iter()
            .map(|(name, (shape, _))| TensorEntry {
                name: name.clone(),
                shape: shape.iter().map(|&d| d as u64).collect(),
            })
            .collect(),
        ..proto::manifest()
    };
    let good = Files {
        release_manifest: &proto::release(Some(made.clone())).to_payload(),
        base_manifest: &proto::release(None).to_payload(),
        delta_manifest: &manifest.to_payload(),
        base: &base,
        base_carry: b"",
        delta: &file,
        release: &built.gguf,
        carry: built.carry.as_deref().unwrap_or_default(),
    };
    let pushed = Files {
        release_manifest: &proto::release(None).to_payload(),
        ..good
    };
    let other_weight = Provenance {
        weight_cap: 1,
        ..made
    };
    let other_weight = Files {
        release_manifest: &proto::release(Some(other_weight)).to_payload(),
        ..good
    };
    let no_base = Files {
        base: b"GGUF",
        delta: b"",
        release: b"x",
        carry: b"",
        ..good
    };
    vec![
        Seed::new("release", "good-aggregated", good.join()),
        Seed::new("release", "good-pushed", pushed.join()),
        Seed::new("release", "bad-weight", other_weight.join()),
        Seed::new("release", "bad-base", no_base.join()),
    ]
}
