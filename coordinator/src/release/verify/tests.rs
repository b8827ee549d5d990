use std::fs;

use lamplight_proto::{envelope::VerifyError, ids::RoundId, keys::SigningKey};
use proptest::prelude::*;

use super::*;
use crate::release::{
    fixture::{CLIP_NORM, State, delta, draft, name, put},
    sign,
};

fn newest(state: &State) -> Result<VerifyReport, VerifyFailure> {
    verify(state.files.root(), None, None, None)
}

/// The newest release must be refused because of this file; answers the message.
fn refused_for(state: &State, file: &Path) -> String {
    let failure = newest(state).expect_err("refused");
    assert_eq!(failure.file(), file, "{failure}");
    let text = failure.to_string();
    assert!(text.contains(&file.display().to_string()), "{text}");
    text
}

fn flip(path: &Path, at: usize, bit: u8) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1 << bit;
    fs::write(path, bytes).unwrap();
}

/// Changes the provenance of the newest release and signs it with `key`.
fn altered(state: &State, key: &SigningKey, alter: impl FnOnce(&mut Provenance)) -> PathBuf {
    let mut manifest = state.newest().clone();
    alter(manifest.provenance.as_mut().unwrap());
    let path = state.files.release(&manifest.model, manifest.version);
    let sealed = sign(manifest, key).unwrap();
    put(&path, sealed.signed().to_bytes());
    path
}

/// Every file the newest release stands on, keys apart.
fn files_of(state: &State) -> Vec<PathBuf> {
    let (newest, base) = (&state.releases[2], &state.releases[1]);
    let f = &state.files;
    let mut files = vec![
        f.release(&name(), newest.version),
        f.release(&name(), base.version),
        f.blob(newest.digest),
        f.blob(base.digest),
        f.blob(base.carry_digest.unwrap()),
    ];
    for c in &newest.provenance.as_ref().unwrap().contributions {
        files.push(f.blob(c.delta_digest));
        files.push(f.delta(RoundId(2), &c.node_id));
    }
    files
}

#[test]
fn the_newest_release_is_recomputed_and_every_digest_named() {
    let state = State::new();
    let report = newest(&state).unwrap();
    assert!(report.recomputed);
    assert_eq!(report.version, ModelVersion(3));
    let origin = Origin::Aggregated {
        round: RoundId(2),
        base_version: ModelVersion(2),
        deltas: 3,
    };
    assert_eq!(report.origin, origin);
    for what in [
        "tcn version 3",
        "tcn version 2",
        "carry of tcn version 2",
        "recomputed release",
        "recomputed carry",
    ] {
        assert!(report.matched.iter().any(|m| m.what == what), "{what}");
    }
    for m in &report.matched {
        assert!(state.files.root().join(&m.file).is_file(), "{m:?}");
    }
    for path in files_of(&state) {
        let below = path.strip_prefix(state.files.root()).unwrap();
        assert!(report.matched.iter().any(|m| m.file == below), "{below:?}");
    }
    // The fixture clips and caps, so both were recomputed from something.
    let made = state.newest().provenance.as_ref().unwrap();
    assert!(made.contributions.iter().any(|c| c.clip_factor < 1.0));
    assert!(made.contributions.iter().any(|c| c.weight == 25));

    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["origin"], "aggregated");
    assert_eq!(json["digest"], state.newest().digest.to_string());
    assert!(
        report
            .to_string()
            .contains(&state.newest().digest.to_string())
    );
}

#[test]
fn an_older_version_and_a_demos_parent_directory_verify_too() {
    let state = State::new();
    let report = verify(
        state.files.root(),
        Some(name()),
        Some(ModelVersion(2)),
        None,
    )
    .unwrap();
    assert_eq!(report.digest, state.releases[1].digest);

    let kept = tempfile::tempdir().unwrap();
    fs::rename(state.files.root(), kept.path().join("coordinator")).unwrap();
    assert!(verify(kept.path(), None, None, None).unwrap().recomputed);
}

#[test]
fn a_pushed_release_is_checked_as_far_as_it_goes_and_says_so() {
    let state = State::new();
    let report = verify(state.files.root(), None, Some(ModelVersion(1)), None).unwrap();
    assert_eq!((report.origin, report.recomputed), (Origin::Pushed, false));
    assert_eq!(report.matched.len(), 2);
    assert!(
        report.to_string().contains("nothing to recompute"),
        "{report}"
    );
}

#[test]
fn a_key_from_elsewhere_is_what_counts() {
    let state = State::new();
    let (root, own) = (state.files.root(), state.release_key.public());
    let other = SigningKey::generate().unwrap().public();
    // The directory's own key is not even looked at.
    fs::remove_file(state.files.release_pub()).unwrap();
    verify(root, None, None, Some(own)).unwrap();
    let e = verify(root, None, None, Some(other)).unwrap_err();
    assert!(
        matches!(
            e,
            VerifyFailure::Signature {
                source: VerifyError::UnknownKey(_),
                ..
            }
        ),
        "{e}"
    );
}

#[test]
fn one_flipped_byte_of_a_delta_names_it_with_both_digests() {
    let state = State::new();
    let c = &state.newest().provenance.as_ref().unwrap().contributions[1];
    let path = state.files.blob(c.delta_digest);
    let last = fs::read(&path).unwrap().len() - 1;
    flip(&path, last, 0);
    let text = refused_for(&state, &path);
    let found = Digest::of(&fs::read(&path).unwrap());
    for part in [
        format!("delta of {}", c.node_id),
        c.delta_digest.to_string(),
        found.to_string(),
    ] {
        assert!(text.contains(&part), "{text}: {part}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn any_flipped_bit_of_any_file_is_found_and_the_file_named(
        places in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..8), 11)
    ) {
        let state = State::new();
        let files = files_of(&state);
        prop_assert_eq!(files.len(), places.len());
        for (path, (at, bit)) in files.iter().zip(places) {
            let good = fs::read(path).unwrap();
            flip(path, at.index(good.len()), bit);
            refused_for(&state, path);
            fs::write(path, good).unwrap();
        }
        prop_assert!(newest(&state).is_ok());
    }
}

#[test]
fn every_missing_file_is_named() {
    let state = State::new();
    let made = state.newest().provenance.as_ref().unwrap();
    let mut files = files_of(&state);
    // Without the newest manifest, version 2 is the newest, which is another story.
    files.remove(0);
    files.push(state.files.release_pub());
    files.extend(
        made.contributions
            .iter()
            .map(|c| state.files.node_pub(&c.node_id)),
    );
    for path in files {
        let good = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let e = newest(&state).unwrap_err();
        assert!(matches!(e, VerifyFailure::Unreadable { .. }), "{e}");
        refused_for(&state, &path);
        fs::write(&path, good).unwrap();
    }
}

#[test]
fn a_replaced_node_key_is_found() {
    let state = State::new();
    let node = &state.nodes[0];
    let path = state.files.node_pub(&node.id);
    let other = SigningKey::generate().unwrap();
    put(&path, hex::encode(other.public()));
    let text = refused_for(&state, &path);
    assert!(
        text.contains(NodeId::of_key(&other.public()).as_str()),
        "{text}"
    );
    put(&path, "no key\n");
    refused_for(&state, &path);
}

#[test]
fn a_manifest_signed_by_another_key_is_not_believed() {
    let state = State::new();
    let stranger = SigningKey::generate().unwrap();
    let path = altered(&state, &stranger, |p| p.contributions[0].weight += 1);
    assert!(refused_for(&state, &path).contains("no trusted key"));
}

#[test]
fn even_the_release_key_cannot_say_what_does_not_follow() {
    type Alter = fn(&mut Provenance);
    let cases: [(&str, Alter); 9] = [
        ("weight of node-", |p| p.contributions[0].weight += 1),
        ("clip_factor of node-", |p| {
            p.contributions[2].clip_factor *= 0.5
        }),
        ("clip_factor of node-", |p| {
            p.clip_norm = Some(CLIP_NORM * 1.01)
        }),
        ("weight of node-", |p| p.weight_cap = 5),
        ("base_digest", |p| p.base_digest = Digest::of(b"other")),
        ("base_carry_digest", |p| p.base_carry_digest = None),
        ("base_version", |p| p.base_version = ModelVersion(3)),
        ("fixed_point_bits", |p| p.fixed_point_bits = 32),
        ("contributions", |p| p.contributions.swap(0, 1)),
    ];
    for (part, alter) in cases {
        let state = State::new();
        let path = altered(&state, &state.release_key, alter);
        let text = refused_for(&state, &path);
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_base_of_another_fleet_is_found() {
    let state = State::new();
    let mut base = state.releases[1].clone();
    base.deployment = "elsewhere".parse().unwrap();
    let path = state.files.release(&name(), base.version);
    let sealed = sign(base, &state.release_key).unwrap();
    put(&path, sealed.signed().to_bytes());
    assert!(refused_for(&state, &path).contains("deployment is elsewhere, street is right"));
}

#[test]
fn a_delta_left_out_gives_other_bytes() {
    let state = State::new();
    altered(&state, &state.release_key, |p| {
        drop(p.contributions.remove(1))
    });
    let text = refused_for(&state, &state.files.blob(state.newest().digest));
    assert!(text.contains("base and deltas give"), "{text}");
}

#[test]
fn a_delta_signed_for_another_round_base_or_fleet_does_not_count() {
    type Alter = fn(&mut DeltaManifest);
    let cases: [(&str, Alter); 5] = [
        ("round", |m| m.round = RoundId(1)),
        ("base_digest", |m| m.base_digest = Digest::of(b"other")),
        ("deployment", |m| {
            m.deployment = "elsewhere".parse().unwrap()
        }),
        ("digest", |m| m.digest = Digest::of(b"other")),
        ("length in bytes", |m| m.size -= 1),
    ];
    for (field, alter) in cases {
        let state = State::new();
        // The node of the first contribution signs another story, and the release names it.
        let id = state.newest().provenance.as_ref().unwrap().contributions[0]
            .node_id
            .clone();
        let i = state.nodes.iter().position(|n| n.id == id).unwrap();
        let base = state.releases[1].digest;
        let d = delta(20 + i as u64);
        let mut manifest = state.manifest(2, base, i, &d);
        alter(&mut manifest);
        let sealed = Signed::seal(manifest, &state.nodes[i].key);
        let path = state.files.delta(RoundId(2), &id);
        put(&path, sealed.signed().to_bytes());
        let digest = sealed.signed().payload_digest();
        altered(&state, &state.release_key, |p| {
            p.contributions[0].manifest_digest = digest
        });
        let blob = state.files.blob(Digest::of(&d.to_bytes()));
        let at_fault = if field == "length in bytes" {
            &blob
        } else {
            &path
        };
        let text = refused_for(&state, at_fault);
        assert!(text.contains(field), "{field}: {text}");
    }
}

#[test]
fn a_manifest_under_another_version_or_model_is_found() {
    let state = State::new();
    let f = &state.files;
    let as_four = f.release(&name(), ModelVersion(4));
    fs::copy(f.release(&name(), ModelVersion(3)), &as_four).unwrap();
    assert!(refused_for(&state, &as_four).contains("version is 3, 4 is right"));

    let other = ModelName::try_from("other".to_owned()).unwrap();
    let as_other = f.release(&other, ModelVersion(1));
    put(
        &as_other,
        fs::read(f.release(&name(), ModelVersion(1))).unwrap(),
    );
    let e = verify(f.root(), Some(other), None, None).unwrap_err();
    assert!(
        e.to_string().contains("model is tcn, other is right"),
        "{e}"
    );
}

#[test]
fn directories_without_one_clear_release_say_what_to_do() {
    let empty = tempfile::tempdir().unwrap();
    let e = verify(empty.path(), None, None, None).unwrap_err();
    assert!(
        e.to_string().contains("is this a coordinator's state?"),
        "{e}"
    );
    let state = State::new();
    fs::create_dir(state.files.releases().join("second")).unwrap();
    let e = newest(&state).unwrap_err();
    assert!(e.to_string().contains("second, tcn; name one"), "{e}");
    let e = verify(
        state.files.root(),
        Some(name()),
        Some(ModelVersion(9)),
        None,
    )
    .unwrap_err();
    assert!(matches!(e, VerifyFailure::Unreadable { .. }), "{e}");
}

#[test]
fn an_evaluation_made_up_afterwards_breaks_the_signature() {
    let state = State::new();
    let honest = draft(3);
    let path = state.files.release(&honest.model, honest.version);
    let envelope = fs::read(&path).unwrap();
    let mut manifest = state.newest().clone();
    manifest.evaluation = Some(lamplight_proto::delta::Metrics {
        samples: 10,
        loss: 0.0,
        accuracy: 1.0,
    });
    // The old signature under the new payload.
    let mut forged = Signed::<ReleaseManifest>::from_bytes(&envelope)
        .unwrap()
        .to_wire();
    forged.payload = manifest.to_payload().into();
    put(
        &path,
        Signed::<ReleaseManifest>::from_wire(forged).to_bytes(),
    );
    assert!(refused_for(&state, &path).contains("does not match the bytes"));
}
