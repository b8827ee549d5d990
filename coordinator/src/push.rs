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
    /// A release may have other classes than the one before: nodes map labels by name and keep
    /// samples of vanished classes aside. Its tensors may differ, too, for deltas are made against
    /// one release only.
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
            if newest.is_some() {
                let before = releases::classes(tx, model)?;
                if before != described.classes {
                    let change = change(&before, &described.classes);
                    tracing::info!(model = %model, "the classes change: {change}");
                }
            }
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

/// What nodes will notice of other classes, in words.
fn change(before: &[String], after: &[String]) -> String {
    let missing = |of: &[String], from: &[String]| {
        let names: Vec<&str> = (of.iter().filter(|c| !from.contains(c)))
            .map(String::as_str)
            .collect();
        names.join(", ")
    };
    let (gone, new) = (missing(before, after), missing(after, before));
    match (gone.as_str(), new.as_str()) {
        ("", "") => "they have another order".to_owned(),
        ("", new) => format!("new: {new}"),
        (gone, "") => format!("gone: {gone}; nodes keep such samples aside"),
        (gone, new) => format!("gone: {gone}; nodes keep such samples aside; new: {new}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_classes_is_told_by_name() {
        let says = |before: &[&str], after: &[&str]| {
            let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
            change(&names(before), &names(after))
        };
        assert_eq!(says(&["a", "b"], &["b", "a"]), "they have another order");
        assert_eq!(says(&["a"], &["b", "a"]), "new: b");
        assert_eq!(
            says(&["a", "b", "c"], &["c", "a", "d"]),
            "gone: b; nodes keep such samples aside; new: d"
        );
        assert!(says(&["a", "b"], &["a"]).starts_with("gone: b"));
    }
}
