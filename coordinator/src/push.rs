//! An operator's blobs, and the releases made of them.

use lamplight_models::quant::gguf;
use lamplight_proto::{
    ids::{Digest, ModelName, ModelVersion},
    refusal::{Reason, Refusal},
};

use crate::{
    dir::write_file,
    fault::Fault,
    house::House,
    release::{self, Draft},
    store::{
        releases::{self, ModelRow, Release},
        tasks,
    },
};

impl House {
    /// Makes a blob the next release of a model. The same digest again is the same release.
    ///
    /// # Errors
    /// Refuses a blob that is not here or no model file, and any push while a task runs.
    pub fn push(&self, model: &ModelName, digest: Digest) -> Result<Release, Fault> {
        if let Some(done) = self
            .store
            .read(|c| releases::with_digest(c, model, digest))?
        {
            return Ok(done);
        }
        let Some(size) = self.blobs.size(digest)? else {
            return Err(Refusal::new(
                Reason::NotFound,
                format!("blob {digest} is not here; upload it first"),
            )
            .into());
        };
        let parsed = gguf::read(&self.blobs.read(digest)?).map_err(|e| {
            Refusal::new(
                Reason::Malformed,
                format!(
                    "blob {digest} is no model file: {e}; make one with: lamplight model pretrain"
                ),
            )
        })?;
        let described = ModelRow {
            name: model.clone(),
            parameters: parsed.parameter_count() as u64,
            architecture: parsed.info.architecture,
            classes: parsed.info.classes,
        };
        let release = self.store.write(|tx| {
            if let Some(done) = releases::with_digest(tx, model, digest)? {
                return Ok(done);
            }
            if let Some(task) = tasks::running(tx, model)? {
                return Err(Refusal::new(
                    Reason::Conflict,
                    format!(
                        "task {task} makes releases of {model}; push when it has ended, or stop it: \
                         lamplight task stop {task}"
                    ),
                )
                .into());
            }
            let newest = releases::newest(tx, model)?;
            let version = ModelVersion(newest.map_or(0, |r| r.version.0) + 1);
            let draft = Draft {
                deployment: self.deployment.clone(),
                model: model.clone(),
                version,
                created: self.now(),
                evaluation: None,
            };
            let created = draft.created;
            let signed = release::sign(draft.pushed(digest, size), &self.release_key)
                .map_err(|e| Refusal::new(Reason::Oversize, e))?;
            let envelope = signed.signed().to_bytes();
            write_file(&self.dir.files().release(model, version), &envelope)?;
            let release = Release {
                model: model.clone(),
                version,
                digest,
                size,
                carry: None,
                round: None,
                deltas: 0,
                evaluation: None,
                created,
                envelope,
            };
            releases::describe(tx, &described)?;
            releases::insert(tx, &release)?;
            Ok::<_, Fault>(release)
        })?;
        tracing::info!(model = %model, version = release.version.0, digest = %digest, "release pushed");
        Ok(release)
    }

    /// A release; the newest when no version is named.
    ///
    /// # Errors
    /// Refuses one that does not exist.
    pub fn release(
        &self,
        model: &ModelName,
        version: Option<ModelVersion>,
    ) -> Result<Release, Fault> {
        let found = self.store.read(|c| match version {
            None => releases::newest(c, model),
            Some(v) => releases::find(c, model, v),
        })?;
        Ok(found.ok_or_else(|| {
            let what = match version {
                None => format!("model {model} has no release"),
                Some(v) => format!("model {model} has no release {v}"),
            };
            Refusal::new(Reason::NotFound, what)
        })?)
    }
}
