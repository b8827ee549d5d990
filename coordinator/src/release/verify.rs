//! Does a release follow from its base and its deltas? Answered offline, from files alone.

mod failure;

pub use failure::VerifyFailure;

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use lamplight_models::{delta::TensorTable, quant::gguf};
use lamplight_proto::{
    delta::DeltaManifest,
    envelope::{MAX_PAYLOAD_BYTES, Payload, Signed, TrustedKeys, Verified},
    ids::{Deployment, Digest, Hasher, ModelName, ModelVersion, NodeId},
    release::{Contribution, Provenance, ReleaseManifest},
};

use super::{
    build::{BuildError, build, deltas_hold},
    files::StateFiles,
    report::{Match, Origin, VerifyReport},
};
use crate::aggregate::{clip_factor, fixed, inspect, weight};

/// Recomputes a release of the state directory `dir` (or `dir/coordinator`, if there) and compares.
///
/// Without `model` the directory must hold releases of one model only; without `version` it is the
/// newest; without `key` the release key is the directory's own `release.pub`: then the answer is
/// that the directory agrees with itself, and with a key known from elsewhere that its owner says so.
///
/// Reads the base, the release and, block by block, the deltas; writes nothing, asks no network.
///
/// # Errors
/// [`VerifyFailure`], naming the first file that does not fit, with what was wanted and found.
pub fn verify(
    dir: &Path,
    model: Option<ModelName>,
    version: Option<ModelVersion>,
    key: Option<[u8; 32]>,
) -> Result<VerifyReport, VerifyFailure> {
    let mut check = Check {
        files: StateFiles::find(dir),
        matched: Vec::new(),
    };
    let (model, version) = check.choose(model, version)?;
    let key = match key {
        Some(key) => key,
        None => public_key(&check.files.release_pub(), "release key")?,
    };
    let keys = TrustedKeys::new([key]);

    // 1. The release key signed the manifest, and the file is the one it names.
    let release = check.release(&model, version, &keys, None)?;
    let path = check.files.release(&model, version);
    check.blob(
        &format!("{model} version {version}"),
        release.digest,
        release.size,
    )?;
    let mut report = VerifyReport {
        deployment: release.deployment.clone(),
        model: model.clone(),
        version,
        origin: Origin::Pushed,
        recomputed: false,
        digest: release.digest,
        key: hex::encode(key),
        matched: Vec::new(),
    };
    let Some(made) = &release.provenance else {
        report.matched = check.matched;
        return Ok(report);
    };
    let what = manifest_of(&model, version);
    let says = Says::new(&path, &what);
    says.equal("fixed_point_bits", fixed::BITS, made.fixed_point_bits)?;
    if made.base_version >= version {
        return Err(says.contradiction(
            "base_version",
            format!("below {version}"),
            made.base_version,
        ));
    }
    let nodes = made.contributions.iter().map(|c| &c.node_id);
    if !nodes.is_sorted_by(|a, b| a < b) {
        return Err(says.contradiction("contributions", "one per node, sorted", "not so"));
    }

    // 2. The release key signed the base's manifest too, and the release names that base.
    let base = check.release(&model, made.base_version, &keys, Some(&release.deployment))?;
    says.equal("base_digest", base.digest, made.base_digest)?;
    says.equal(
        "base_carry_digest",
        Shown(base.carry_digest),
        Shown(made.base_carry_digest),
    )?;

    // 3. The base's file and carry are the ones it names.
    let what_base = format!("{model} version {}", base.version);
    let base_file = check.read_blob(&what_base, base.digest)?;
    let base_carry = match base.carry_digest {
        Some(digest) => Some(check.read_blob(&format!("carry of {what_base}"), digest)?),
        None => None,
    };
    let table = gguf::read(&base_file)
        .map(|m| deltas_hold(&m, made.trainable))
        .map_err(|e| VerifyFailure::Build {
            file: check.files.blob(base.digest),
            what: what_base,
            source: Box::new(BuildError::Base(e)),
        })?;

    // 4. Each delta is what its node signed for this round and base, and counts as the rule says.
    for contribution in &made.contributions {
        check.contribution(contribution, made, &release, &table, &says)?;
    }

    // 5. Base and deltas are put together again.
    let open = |c: &Contribution| File::open(check.files.blob(c.delta_digest));
    let built = build(
        &base_file,
        base_carry.as_deref(),
        made.rule,
        made.trainable,
        &made.contributions,
        open,
    )
    .map_err(|source| VerifyFailure::Build {
        file: path.clone(),
        what: what.clone(),
        source: Box::new(source),
    })?;

    // 6. The bytes are those of the release, and so is what rounding kept back.
    let recomputed = [
        (
            "recomputed release",
            Some(release.digest),
            Some(built.digest),
        ),
        ("recomputed carry", release.carry_digest, built.carry_digest),
    ];
    for (what, want, found) in recomputed {
        let file = want.map_or_else(|| path.clone(), |d| check.files.blob(d));
        if want != found {
            return Err(VerifyFailure::OtherBytes {
                file,
                what: what.to_owned(),
                want: Shown(want).to_string(),
                found: Shown(found).to_string(),
            });
        }
        if let Some(digest) = want {
            check.matches(what, &file, digest);
        }
    }
    report.recomputed = true;
    report.origin = Origin::Aggregated {
        round: made.round,
        base_version: made.base_version,
        deltas: made.contributions.len(),
    };
    report.matched = check.matched;
    Ok(report)
}

/// The files, and what matched so far.
struct Check {
    files: StateFiles,
    matched: Vec<Match>,
}

impl Check {
    fn matches(&mut self, what: &str, file: &Path, digest: Digest) {
        self.matched.push(Match {
            what: what.to_owned(),
            file: file
                .strip_prefix(self.files.root())
                .unwrap_or(file)
                .to_owned(),
            digest,
        });
    }

    /// The release asked for, or the newest of the only model.
    fn choose(
        &self,
        model: Option<ModelName>,
        version: Option<ModelVersion>,
    ) -> Result<(ModelName, ModelVersion), VerifyFailure> {
        let none =
            |directory: PathBuf, fault: String| VerifyFailure::NoRelease { directory, fault };
        let listed = |e: io::Error| format!("no releases: {e}; is this a coordinator's state?");
        let releases = self.files.releases();
        let model = match model {
            Some(model) => model,
            None => {
                let mut models = self
                    .files
                    .models()
                    .map_err(|e| none(releases.clone(), listed(e)))?;
                match (models.pop(), models.as_slice()) {
                    (Some(only), []) => only,
                    (None, _) => return Err(none(releases, "no releases".into())),
                    (Some(last), others) => {
                        let names: Vec<_> = others
                            .iter()
                            .chain([&last])
                            .map(ModelName::as_str)
                            .collect();
                        let fault = format!("several models: {}; name one", names.join(", "));
                        return Err(none(releases, fault));
                    }
                }
            }
        };
        let version = match version {
            Some(version) => version,
            None => {
                let newest = self.files.newest(&model);
                let directory = releases.join(model.as_str());
                newest
                    .map_err(|e| none(directory.clone(), listed(e)))?
                    .ok_or_else(|| none(directory, "no releases".into()))?
            }
        };
        Ok((model, version))
    }

    /// A release's manifest, believed, and of the model and version its path says.
    fn release(
        &mut self,
        model: &ModelName,
        version: ModelVersion,
        keys: &TrustedKeys,
        deployment: Option<&Deployment>,
    ) -> Result<Verified<ReleaseManifest>, VerifyFailure> {
        let file = self.files.release(model, version);
        let what = manifest_of(model, version);
        let release = signed::<ReleaseManifest>(&file, &what)?;
        let release = believed(release, keys, &file, &what)?;
        let says = Says::new(&file, &what);
        says.equal("model", model, &release.model)?;
        says.equal("version", version, release.version)?;
        if let Some(deployment) = deployment {
            says.equal("deployment", deployment, &release.deployment)?;
        }
        self.matches(&what, &file, release.signed().payload_digest());
        Ok(release)
    }

    /// Checks a file's digest and length without holding it.
    fn blob(&mut self, what: &str, want: Digest, size: u64) -> Result<(), VerifyFailure> {
        let path = self.files.blob(want);
        let (found, bytes) = hash_file(&path).map_err(|e| unreadable(&path, what, e))?;
        digest_is(&path, what, want, found)?;
        Says::new(&path, what).equal("length in bytes", size, bytes)?;
        self.matches(what, &path, want);
        Ok(())
    }

    /// Reads a file whole and checks its digest.
    fn read_blob(&mut self, what: &str, want: Digest) -> Result<Vec<u8>, VerifyFailure> {
        let path = self.files.blob(want);
        let bytes = std::fs::read(&path).map_err(|e| unreadable(&path, what, e))?;
        digest_is(&path, what, want, Digest::of(&bytes))?;
        self.matches(what, &path, want);
        Ok(bytes)
    }

    /// Step 4 for one delta; `release_says` names the manifest that would be wrong about it.
    fn contribution(
        &mut self,
        c: &Contribution,
        made: &Provenance,
        release: &ReleaseManifest,
        table: &TensorTable,
        release_says: &Says<'_>,
    ) -> Result<(), VerifyFailure> {
        let node = &c.node_id;

        // 4a. The manifest as received is the one the release names.
        let file = self.files.delta(made.round, node);
        let what = format!("manifest of the delta of {node}");
        let manifest = signed::<DeltaManifest>(&file, &what)?;
        digest_is(&file, &what, c.manifest_digest, manifest.payload_digest())?;

        // 4b. The node's key, from which its id follows, signed it.
        let key_file = self.files.node_pub(node);
        let key = public_key(&key_file, &format!("key of {node}"))?;
        let owner = NodeId::of_key(&key);
        if owner != *node {
            return Err(VerifyFailure::Key {
                file: key_file,
                what: format!("key of {node}"),
                fault: format!("this is the key of {owner}"),
            });
        }
        let manifest = believed(manifest, &TrustedKeys::new([key]), &file, &what)?;
        self.matches(&what, &file, c.manifest_digest);

        // 4c. It was made by this node for this round, base, fleet and file.
        let says = Says::new(&file, &what);
        says.equal("node_id", node, &manifest.node_id)?;
        says.equal("deployment", &release.deployment, &manifest.deployment)?;
        says.equal("round", made.round, manifest.round)?;
        says.equal("base_digest", made.base_digest, manifest.base_digest)?;
        says.equal("digest", c.delta_digest, manifest.digest)?;

        // 4d. The file is the one it names.
        let what = format!("delta of {node}");
        self.blob(&what, c.delta_digest, manifest.size)?;

        // 4e. Weight and clip factor follow from what the node said and sent.
        let want = weight(manifest.sample_count, made.weight_cap);
        release_says.equal(format!("weight of {node}"), want, c.weight)?;
        let path = self.files.blob(c.delta_digest);
        let file = File::open(&path).map_err(|e| unreadable(&path, &what, e))?;
        let inspected = inspect(file, table).map_err(|source| VerifyFailure::Delta {
            file: path,
            what,
            source: Box::new(source),
        })?;
        let want = clip_factor(inspected.norm_l2, made.clip_norm);
        release_says.equal(format!("clip_factor of {node}"), want, c.clip_factor)
    }
}

/// A signed statement, to be compared with what follows from other files.
struct Says<'a> {
    file: &'a Path,
    what: &'a str,
}

impl<'a> Says<'a> {
    fn new(file: &'a Path, what: &'a str) -> Self {
        Self { file, what }
    }

    fn contradiction(
        &self,
        field: impl Into<String>,
        want: impl ToString,
        found: impl ToString,
    ) -> VerifyFailure {
        VerifyFailure::Contradiction {
            file: self.file.to_owned(),
            what: self.what.to_owned(),
            field: field.into(),
            want: want.to_string(),
            found: found.to_string(),
        }
    }

    fn equal<T: PartialEq + ToString>(
        &self,
        field: impl Into<String>,
        want: T,
        found: T,
    ) -> Result<(), VerifyFailure> {
        if want == found {
            return Ok(());
        }
        Err(self.contradiction(field, want, found))
    }
}

/// A digest that may be absent, for people.
#[derive(PartialEq)]
struct Shown(Option<Digest>);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(digest) => digest.fmt(f),
            None => f.write_str("nothing"),
        }
    }
}

fn manifest_of(model: &ModelName, version: ModelVersion) -> String {
    format!("manifest of {model} version {version}")
}

fn unreadable(file: &Path, what: &str, source: io::Error) -> VerifyFailure {
    VerifyFailure::Unreadable {
        file: file.to_owned(),
        what: what.to_owned(),
        source,
    }
}

fn digest_is(file: &Path, what: &str, want: Digest, found: Digest) -> Result<(), VerifyFailure> {
    if want == found {
        return Ok(());
    }
    Err(VerifyFailure::Digest {
        file: file.to_owned(),
        what: what.to_owned(),
        want,
        found,
    })
}

/// Digest and length of a file, read in pieces.
fn hash_file(path: &Path) -> io::Result<(Digest, u64)> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new();
    let mut piece = vec![0; 1 << 16];
    let mut bytes = 0;
    loop {
        let n = file.read(&mut piece)?;
        if n == 0 {
            return Ok((hasher.finish(), bytes));
        }
        hasher.update(&piece[..n]);
        bytes += n as u64;
    }
}

/// Reads at most `limit` bytes: a file that is longer is cut, and fails its signature.
fn read_at_most(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// An envelope from a file; not believed yet.
fn signed<T: Payload>(file: &Path, what: &str) -> Result<Signed<T>, VerifyFailure> {
    // Room for type and signatures beside the payload.
    let limit = MAX_PAYLOAD_BYTES as u64 + (64 << 10);
    let bytes = read_at_most(file, limit).map_err(|e| unreadable(file, what, e))?;
    Signed::from_bytes(&bytes).map_err(|e| VerifyFailure::Signature {
        file: file.to_owned(),
        what: what.to_owned(),
        source: e.into(),
    })
}

fn believed<T: Payload>(
    signed: Signed<T>,
    keys: &TrustedKeys,
    file: &Path,
    what: &str,
) -> Result<Verified<T>, VerifyFailure> {
    signed
        .verify(keys)
        .map_err(|source| VerifyFailure::Signature {
            file: file.to_owned(),
            what: what.to_owned(),
            source,
        })
}

/// A hexadecimal Ed25519 public key from a one-line file.
fn public_key(file: &Path, what: &str) -> Result<[u8; 32], VerifyFailure> {
    let bytes = read_at_most(file, 1024).map_err(|e| unreadable(file, what, e))?;
    let mut key = [0; 32];
    hex::decode_to_slice(bytes.trim_ascii(), &mut key).map_err(|e| VerifyFailure::Key {
        file: file.to_owned(),
        what: what.to_owned(),
        fault: format!("not 64 hexadecimal digits: {e}"),
    })?;
    Ok(key)
}

#[cfg(test)]
mod tests;
