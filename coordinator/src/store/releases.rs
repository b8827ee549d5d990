//! Models and their releases.

use rusqlite::{Connection, Transaction, params};

use lamplight_proto::{
    delta::Metrics,
    ids::{Digest, ModelName, ModelVersion, RoundId, UnixMillis},
};

use super::{
    StoreError, all, first, from_bytes, from_json, optional_digest, parse, signed, to_json,
    unsigned,
};

/// A model as listed.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelRow {
    /// Its name.
    pub name: ModelName,
    /// E.g. `tcn`.
    pub architecture: String,
    /// How many numbers it learns.
    pub parameters: u64,
    /// In logit order.
    pub classes: Vec<String>,
}

/// A release as kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Release {
    /// The model.
    pub model: ModelName,
    /// Its version.
    pub version: ModelVersion,
    /// Digest of the GGUF file.
    pub digest: Digest,
    /// Bytes of the GGUF file.
    pub size: u64,
    /// What quantizing rounded away.
    pub carry: Option<Digest>,
    /// The round that made it; `None` when pushed.
    pub round: Option<RoundId>,
    /// How many deltas it was made of.
    pub deltas: u32,
    /// On the operator's samples.
    pub evaluation: Option<Metrics>,
    /// When.
    pub created: UnixMillis,
    /// The signed manifest.
    pub envelope: Vec<u8>,
}

const COLUMNS: &str = "model, version, digest, size, carry_digest, round, deltas, evaluation,
    created_unix_ms, envelope";

fn read(r: &rusqlite::Row<'_>) -> Result<Release, StoreError> {
    let model: String = r.get(0)?;
    let digest: Vec<u8> = r.get(2)?;
    let round: Option<i64> = r.get(5)?;
    let evaluation: Option<String> = r.get(7)?;
    Ok(Release {
        model: parse("releases.model", &model)?,
        version: ModelVersion(unsigned("releases.version", r.get(1)?)?),
        digest: from_bytes("releases.digest", &digest)?,
        size: unsigned("releases.size", r.get(3)?)?,
        carry: optional_digest("releases.carry_digest", r.get(4)?)?,
        round: round
            .map(|n| unsigned("releases.round", n).map(RoundId))
            .transpose()?,
        deltas: r.get(6)?,
        evaluation: evaluation
            .map(|t| from_json("releases.evaluation", &t))
            .transpose()?,
        created: UnixMillis(r.get(8)?),
        envelope: r.get(9)?,
    })
}

/// Keeps a model's description.
///
/// # Errors
/// [`StoreError`].
pub fn describe(tx: &Transaction<'_>, m: &ModelRow) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO models (name, architecture, parameters, classes) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (name) DO UPDATE SET architecture = excluded.architecture,
             parameters = excluded.parameters, classes = excluded.classes",
        params![
            m.name.as_str(),
            m.architecture,
            signed("models.parameters", m.parameters)?,
            to_json("models.classes", &m.classes)?
        ],
    )?;
    Ok(())
}

/// All models by name.
///
/// # Errors
/// [`StoreError`].
pub fn models(c: &Connection) -> Result<Vec<ModelRow>, StoreError> {
    all(
        c,
        "SELECT name, architecture, parameters, classes FROM models ORDER BY name",
        [],
        |r| {
            let name: String = r.get(0)?;
            let classes: String = r.get(3)?;
            Ok(ModelRow {
                name: parse("models.name", &name)?,
                architecture: r.get(1)?,
                parameters: unsigned("models.parameters", r.get(2)?)?,
                classes: from_json("models.classes", &classes)?,
            })
        },
    )
}

/// Class names of a model's newest pushed release, in logit order; none for a model without.
///
/// # Errors
/// [`StoreError`].
pub fn classes(c: &Connection, model: &ModelName) -> Result<Vec<String>, StoreError> {
    let text = first(
        c,
        "SELECT classes FROM models WHERE name = ?1",
        [model.as_str()],
        |r| Ok(r.get::<_, String>(0)?),
    )?;
    text.map_or(Ok(Vec::new()), |t| from_json("models.classes", &t))
}

/// Keeps a release.
///
/// # Errors
/// [`StoreError`].
pub fn insert(tx: &Transaction<'_>, release: &Release) -> Result<(), StoreError> {
    let evaluation = release
        .evaluation
        .map(|m| to_json("releases.evaluation", &m))
        .transpose()?;
    tx.execute(
        "INSERT INTO releases (model, version, digest, size, carry_digest, round, deltas,
             evaluation, created_unix_ms, envelope)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            release.model.as_str(),
            signed("releases.version", release.version.0)?,
            release.digest.as_bytes(),
            signed("releases.size", release.size)?,
            release.carry.map(|d| *d.as_bytes()),
            release
                .round
                .map(|r| signed("releases.round", r.0))
                .transpose()?,
            release.deltas,
            evaluation,
            release.created.0,
            release.envelope
        ],
    )?;
    Ok(())
}

/// The newest release of a model.
///
/// # Errors
/// [`StoreError`].
pub fn newest(c: &Connection, model: &ModelName) -> Result<Option<Release>, StoreError> {
    first(
        c,
        &format!("SELECT {COLUMNS} FROM releases WHERE model = ?1 ORDER BY version DESC LIMIT 1"),
        [model.as_str()],
        read,
    )
}

/// One release.
///
/// # Errors
/// [`StoreError`].
pub fn find(
    c: &Connection,
    model: &ModelName,
    version: ModelVersion,
) -> Result<Option<Release>, StoreError> {
    // A version above what SQLite holds is a version that does not exist.
    let Ok(version) = i64::try_from(version.0) else {
        return Ok(None);
    };
    first(
        c,
        &format!("SELECT {COLUMNS} FROM releases WHERE model = ?1 AND version = ?2"),
        params![model.as_str(), version],
        read,
    )
}

/// The release of a model with this content.
///
/// # Errors
/// [`StoreError`].
pub fn with_digest(
    c: &Connection,
    model: &ModelName,
    digest: Digest,
) -> Result<Option<Release>, StoreError> {
    first(
        c,
        &format!(
            "SELECT {COLUMNS} FROM releases WHERE model = ?1 AND digest = ?2
             ORDER BY version LIMIT 1"
        ),
        params![model.as_str(), digest.as_bytes()],
        read,
    )
}

/// Model and version of the newest release with this content, whatever its model.
///
/// # Errors
/// [`StoreError`].
pub fn newest_with_digest(
    c: &Connection,
    digest: Digest,
) -> Result<Option<(ModelName, ModelVersion)>, StoreError> {
    first(
        c,
        "SELECT model, version FROM releases WHERE digest = ?1
         ORDER BY created_unix_ms DESC, version DESC LIMIT 1",
        [digest.as_bytes()],
        |r| {
            let model: String = r.get(0)?;
            let version = unsigned("releases.version", r.get(1)?)?;
            Ok((parse("releases.model", &model)?, ModelVersion(version)))
        },
    )
}

/// All releases of a model, oldest first.
///
/// # Errors
/// [`StoreError`].
pub fn list(c: &Connection, model: &ModelName) -> Result<Vec<Release>, StoreError> {
    all(
        c,
        &format!("SELECT {COLUMNS} FROM releases WHERE model = ?1 ORDER BY version"),
        [model.as_str()],
        read,
    )
}

/// Whether a blob is the model file of a release.
///
/// # Errors
/// [`StoreError`].
pub fn is_model_file(c: &Connection, digest: Digest) -> Result<bool, StoreError> {
    Ok(
        c.prepare_cached("SELECT EXISTS (SELECT 1 FROM releases WHERE digest = ?1)")?
            .query_row([digest.as_bytes()], |r| r.get(0))?,
    )
}

/// Whether a release names a blob: its model file, its carry, one of its deltas, or the samples it
/// was evaluated on.
///
/// # Errors
/// [`StoreError`].
pub fn names(c: &Connection, digest: Digest) -> Result<bool, StoreError> {
    Ok(c.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM releases WHERE digest = ?1 OR carry_digest = ?1)
             OR EXISTS (SELECT 1 FROM participants p JOIN rounds r ON r.id = p.round
                        WHERE p.delta_digest = ?1 AND r.phase = 'published')
             OR EXISTS (SELECT 1 FROM tasks WHERE evaluation_digest = ?1)",
    )?
    .query_row([digest.as_bytes()], |r| r.get(0))?)
}
