//! Phase and journal: each step of a node in one transaction.

use lamplight_proto::{
    delta::{DeltaManifest, Metrics},
    envelope::{Signed, TrustedKeys, Verified},
    ids::{Digest, Lease, ModelName, ModelVersion, UnixMillis},
    offer::RoundOffer,
};
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::{Damage, Store, StoreError, outbox, to_sql};
use crate::node::{Effect, Phase, Preparing, Training, Uploading};

/// The keys that what is read back must be signed with.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The coordinator's release key: offers, receipts.
    pub release: TrustedKeys,
    /// The node's own key: manifests.
    pub own: TrustedKeys,
}

impl Store {
    /// The phase as last written. Signatures are checked again: a disk may lie.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the row does not hold what was written.
    pub fn phase(&self, keys: &Keys) -> Result<Phase, StoreError> {
        type Row = (String, Option<Vec<u8>>, Option<Vec<u8>>);
        let (name, offer, manifest): Row = self
            .sql
            .query_row(
                "SELECT phase.name, tasks.offer, phase.manifest
                 FROM phase LEFT JOIN tasks USING (task) WHERE phase.id = 1",
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
            .map_err(|e| self.fail(e))?;
        restore(&name, offer, manifest, keys)
            .map_err(|Damage(fault)| self.damaged("the phase", fault))
    }

    /// Writes a step: the phase and all its effects, or nothing.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was written then.
    pub fn write_step(
        &mut self,
        phase: &Phase,
        effects: &[Effect],
        at: UnixMillis,
    ) -> Result<(), StoreError> {
        let path = self.path.clone();
        let fail = |source| StoreError::Sql {
            path: path.clone(),
            source,
        };
        let tx = self.sql.transaction().map_err(fail)?;
        for effect in effects {
            let statement = prepare(effect, at)?;
            statement(&tx).map_err(fail)?;
        }
        let lease = phase.holds().map(|(lease, _)| lease.0);
        let manifest = match phase {
            Phase::Uploading(p) => Some(p.manifest().signed().to_bytes()),
            Phase::Idle(_) | Phase::Preparing(_) | Phase::Training(_) => None,
        };
        tx.execute(
            "UPDATE phase SET name = ?1, manifest = ?2,
                 task = (SELECT task FROM tasks WHERE lease = ?3) WHERE id = 1",
            params![phase.name(), manifest, lease],
        )
        .map_err(fail)?;
        tx.commit().map_err(fail)
    }

    /// The counter for a lease: the one it was given before, else the next. On disk before anybody
    /// can sign with it, so no two deltas ever share one, and a lease never has two.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn counter(&mut self, lease: Lease) -> Result<u64, StoreError> {
        let counter: i64 = self
            .sql
            .query_row(
                "INSERT INTO counters (lease, counter)
                 VALUES (?1, (SELECT coalesce(max(counter), 0) + 1 FROM counters))
                 ON CONFLICT (lease) DO UPDATE SET counter = counter RETURNING counter",
                params![lease.0],
                |row| row.get(0),
            )
            .map_err(|e| self.fail(e))?;
        u64::try_from(counter).map_err(|e| self.damaged("the counter", e))
    }

    /// The highest release of a model this node has believed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn highest(&self, model: &ModelName) -> Result<Option<(ModelVersion, Digest)>, StoreError> {
        let row: Option<(i64, String)> = self
            .sql
            .query_row(
                "SELECT version, digest FROM versions WHERE model = ?1",
                params![model.as_str()],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()
            .map_err(|e| self.fail(e))?;
        let Some((version, digest)) = row else {
            return Ok(None);
        };
        let version = u64::try_from(version).map_err(|e| self.damaged("a version", e))?;
        let digest = digest.parse().map_err(|e| self.damaged("a version", e))?;
        Ok(Some((ModelVersion(version), digest)))
    }

    /// Whether the task of this lease has ended.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn done_before(&self, lease: Lease) -> Result<bool, StoreError> {
        self.sql
            .query_row(
                "SELECT EXISTS (SELECT 1 FROM tasks WHERE lease = ?1 AND outcome IS NOT NULL)",
                params![lease.0],
                |row| row.get(0),
            )
            .map_err(|e| self.fail(e))
    }
}

fn restore(
    name: &str,
    offer: Option<Vec<u8>>,
    manifest: Option<Vec<u8>>,
    keys: &Keys,
) -> Result<Phase, Damage> {
    let offer = || -> Result<Verified<RoundOffer>, Damage> {
        let bytes = offer
            .as_deref()
            .ok_or_else(|| Damage("its task is missing".to_owned()))?;
        Ok(Signed::from_bytes(bytes)?.verify(&keys.release)?)
    };
    match name {
        "idle" => Ok(Phase::idle()),
        "preparing" => Ok(Phase::Preparing(Preparing::new(offer()?))),
        "training" => Ok(Phase::Training(Training::new(offer()?))),
        "uploading" => {
            let bytes = manifest.ok_or_else(|| Damage("its manifest is missing".to_owned()))?;
            let manifest: Verified<DeltaManifest> =
                Signed::from_bytes(&bytes)?.verify(&keys.own)?;
            Ok(Phase::Uploading(Uploading::new(offer()?, manifest)))
        }
        other => Err(Damage(format!("no phase is named {other:?}"))),
    }
}

type Statement<'a> = Box<dyn FnOnce(&Transaction<'_>) -> rusqlite::Result<()> + 'a>;

/// What an effect writes; numbers are checked before the transaction sees them.
fn prepare(effect: &Effect, at: UnixMillis) -> Result<Statement<'_>, StoreError> {
    Ok(match effect {
        Effect::Open(offer) => {
            let insert = insert_task(offer, at, None)?;
            let version = to_sql("base version", offer.base_version.0)?;
            Box::new(move |tx| {
                insert(tx)?;
                // Only ever raised, whatever order offers come in.
                tx.execute(
                    "INSERT INTO versions (model, version, digest) VALUES (?1, ?2, ?3)
                     ON CONFLICT (model) DO UPDATE SET version = excluded.version,
                         digest = excluded.digest WHERE excluded.version > version",
                    params![offer.model.as_str(), version, offer.base_digest.to_string()],
                )
                .map(drop)
            })
        }
        Effect::Decline { offer, reason } => insert_task(offer, at, Some(reason))?,
        Effect::Describe(m) => {
            let samples = to_sql("sample count", m.sample_count)?;
            let bytes = to_sql("delta size", m.size)?;
            let part = |m: Option<Metrics>| (m.map(|m| m.accuracy), m.map(|m| m.loss));
            let (before, after) = (part(m.before), part(m.after));
            Box::new(move |tx| {
                tx.execute(
                    "UPDATE tasks SET samples = ?2, training_seconds = ?3, before_accuracy = ?4,
                         before_loss = ?5, after_accuracy = ?6, after_loss = ?7,
                         delta_digest = ?8, delta_bytes = ?9 WHERE lease = ?1",
                    params![
                        m.lease.0,
                        samples,
                        m.training_seconds,
                        before.0,
                        before.1,
                        after.0,
                        after.1,
                        m.digest.to_string(),
                        bytes
                    ],
                )
                .map(drop)
            })
        }
        Effect::Keep(lease, receipt) => Box::new(move |tx| {
            tx.execute(
                "UPDATE tasks SET receipt = ?2 WHERE lease = ?1",
                params![lease.0, receipt.signed().to_bytes()],
            )
            .map(drop)
        }),
        Effect::Close {
            lease,
            outcome,
            reason,
        } => Box::new(move |tx| {
            tx.execute(
                "UPDATE tasks SET ended_unix_ms = ?2, outcome = ?3, reason = ?4 WHERE lease = ?1",
                params![lease.0, at.0, outcome.as_str(), reason],
            )
            .map(drop)
        }),
        Effect::Report { round, lease, told } => {
            let round = to_sql("round", round.0)?;
            let told = outbox::to_json(*told);
            Box::new(move |tx| {
                tx.execute(
                    "INSERT INTO outbox (round, lease, told) VALUES (?1, ?2, ?3)",
                    params![round, lease.0, told],
                )
                .map(drop)
            })
        }
        Effect::Warn(_) => Box::new(|_| Ok(())),
    })
}

fn insert_task<'a>(
    offer: &'a Verified<RoundOffer>,
    at: UnixMillis,
    declined: Option<&'a String>,
) -> Result<Statement<'a>, StoreError> {
    let round = to_sql("round", offer.round.0)?;
    let version = to_sql("base version", offer.base_version.0)?;
    let outcome = declined.map(|_| crate::node::Outcome::Declined.as_str());
    let ended = declined.map(|_| at.0);
    Ok(Box::new(move |tx| {
        tx.execute(
            "INSERT INTO tasks (lease, round, model, base_version, base_digest, offer,
                 started_unix_ms, ended_unix_ms, outcome, reason)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                offer.lease.0,
                round,
                offer.model.as_str(),
                version,
                offer.base_digest.to_string(),
                offer.signed().to_bytes(),
                at.0,
                ended,
                outcome,
                declined
            ],
        )
        .map(drop)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_has_one_counter_for_ever_and_counters_only_rise() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("agent.db");
        let mut last = 0;
        for lease in 0..5_u8 {
            // Another start of the agent each time.
            let mut store = Store::open(&path).expect("opened");
            let counter = store.counter(Lease([lease; 16])).expect("counted");
            assert!(counter > last);
            last = counter;
            for earlier in 0..=lease {
                let again = store.counter(Lease([earlier; 16])).expect("counted");
                assert_eq!(again, u64::from(earlier) + 1);
            }
        }
    }
}
