//! Samples kept aside: how many, of which class, since which release.

use lamplight_models::samples::Aside;
use lamplight_proto::{
    ids::{Lease, ModelName, ModelVersion},
    offer::RoundOffer,
};
use rusqlite::params;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Store, StoreError, to_sql, view::whole};

/// Samples that wait for a release with their class, as `status` shows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct AsideView {
    /// The model.
    pub model: String,
    /// Its release that does not have the class.
    pub version: u64,
    /// The class, as the source names it.
    pub class: String,
    /// How many samples.
    pub samples: u64,
}

/// What a task kept aside.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptAside {
    /// The task.
    pub lease: Lease,
    /// Its model.
    pub model: ModelName,
    /// Its base.
    pub base_version: ModelVersion,
    /// The samples.
    pub aside: Aside,
}

impl KeptAside {
    /// Of the task of this offer.
    #[must_use]
    pub fn of(offer: &RoundOffer, aside: Aside) -> Self {
        Self {
            lease: offer.lease,
            model: offer.model.clone(),
            base_version: offer.base_version,
            aside,
        }
    }
}

impl Store {
    /// Remembers what the newest task of a model kept aside, in place of what an earlier one did: a
    /// class that a release has again is gone from the list.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was written then.
    pub fn keep_aside(&mut self, kept: &KeptAside) -> Result<(), StoreError> {
        let path = self.path.clone();
        let fail = |source| StoreError::Sql {
            path: path.clone(),
            source,
        };
        let version = to_sql("base version", kept.base_version.0)?;
        let total = to_sql("samples aside", kept.aside.values().sum())?;
        let model = kept.model.as_str();
        let tx = self.sql.transaction().map_err(fail)?;
        tx.execute(
            "UPDATE tasks SET samples_aside = ?2 WHERE lease = ?1",
            params![kept.lease.0, total],
        )
        .map_err(fail)?;
        tx.execute("DELETE FROM aside WHERE model = ?1", params![model])
            .map_err(fail)?;
        for (class, samples) in &kept.aside {
            tx.execute(
                "INSERT INTO aside (model, class, samples, base_version) VALUES (?1, ?2, ?3, ?4)",
                params![model, class, to_sql("samples aside", *samples)?, version],
            )
            .map_err(fail)?;
        }
        tx.commit().map_err(fail)
    }

    /// Everything kept aside, by model and class.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn aside(&self) -> Result<Vec<AsideView>, StoreError> {
        let mut query = self
            .sql
            .prepare("SELECT model, base_version, class, samples FROM aside ORDER BY model, class")
            .map_err(|e| self.fail(e))?;
        query
            .query_map([], |row| {
                Ok(AsideView {
                    model: row.get(0)?,
                    version: whole(row, 1)?,
                    class: row.get(2)?,
                    samples: whole(row, 3)?,
                })
            })
            .and_then(Iterator::collect)
            .map_err(|e| self.fail(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_task_of_a_model_says_what_waits() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut store = Store::open(&dir.path().join("agent.db")).expect("made");
        let kept = |model: &str, version, aside: &[(&str, u64)]| KeptAside {
            lease: Lease([1; 16]),
            model: model.parse().expect("a name"),
            base_version: ModelVersion(version),
            aside: aside.iter().map(|(c, n)| ((*c).to_owned(), *n)).collect(),
        };
        let line = |v: AsideView| format!("{} {} {} {}", v.model, v.version, v.class, v.samples);
        let mut after = |kept| {
            store.keep_aside(&kept).expect("written");
            let views = store.aside().expect("read").into_iter();
            views.map(line).collect::<Vec<_>>()
        };
        assert!(after(kept("post", 1, &[])).is_empty());
        let waits = after(kept("post", 5, &[("tram", 37), ("bus", 2)]));
        assert_eq!(waits, ["post 5 bus 2", "post 5 tram 37"]);
        // Another model's are its own.
        let waits = after(kept("door", 1, &[("bell", 1)]));
        assert_eq!(waits, ["door 1 bell 1", "post 5 bus 2", "post 5 tram 37"]);
        let waits = after(kept("post", 6, &[("tram", 40)]));
        assert_eq!(waits, ["door 1 bell 1", "post 6 tram 40"]);
        assert_eq!(after(kept("post", 7, &[])), ["door 1 bell 1"]);
    }
}
