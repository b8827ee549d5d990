-- The coordinator's memory. Times are milliseconds since 1970 UTC; digests are SHA-256, 32 bytes.

CREATE TABLE deployment (
    one             INTEGER PRIMARY KEY CHECK (one = 1), -- there is one row
    name            TEXT    NOT NULL,                    -- bound into everything that is signed
    created_unix_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE nodes (
    id                TEXT    PRIMARY KEY,        -- `node-` and 16 hexadecimal digits of the key's digest
    signing_key       BLOB    NOT NULL,           -- Ed25519 public key, 32 bytes
    name              TEXT    NOT NULL,           -- for people
    certificate       BLOB    NOT NULL,           -- newest TLS certificate, DER
    enrolled_unix_ms  INTEGER NOT NULL,
    last_seen_unix_ms INTEGER NOT NULL DEFAULT 0, -- 0 before the first poll
    phase             TEXT    NOT NULL DEFAULT '',-- what it said it was doing
    running_digest    BLOB,                       -- model file it said it runs; NULL before the first
    agent_version     TEXT    NOT NULL DEFAULT '',
    last_counter      INTEGER NOT NULL DEFAULT 0, -- of its last accepted delta; later ones must be higher
    deltas_accepted   INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE tokens (
    id              TEXT    PRIMARY KEY,              -- public half of a join token
    secret_digest   BLOB    NOT NULL,                 -- the secret itself is not kept
    created_unix_ms INTEGER NOT NULL,
    expires_unix_ms INTEGER NOT NULL,
    used_by         TEXT    REFERENCES nodes (id),    -- NULL while unused
    tls_key_digest  BLOB,                             -- of the TLS key it was used with
    certificate     BLOB                              -- what it was answered with, DER
) STRICT;

CREATE TABLE models (
    name         TEXT    PRIMARY KEY,
    architecture TEXT    NOT NULL, -- of the newest pushed release
    parameters   INTEGER NOT NULL, -- how many numbers it learns
    classes      TEXT    NOT NULL  -- JSON array of names in logit order
) STRICT;

CREATE TABLE releases (
    model           TEXT    NOT NULL REFERENCES models (name),
    version         INTEGER NOT NULL, -- only ever rises within a model
    digest          BLOB    NOT NULL, -- of the GGUF file
    size            INTEGER NOT NULL, -- bytes of the GGUF file
    carry_digest    BLOB,             -- what quantizing rounded away; NULL when nothing is carried
    round           INTEGER REFERENCES rounds (id), -- NULL when an operator pushed it
    deltas          INTEGER NOT NULL, -- how many it was made of
    evaluation      TEXT,             -- JSON metrics; NULL when not evaluated
    created_unix_ms INTEGER NOT NULL,
    envelope        BLOB    NOT NULL, -- the signed manifest
    PRIMARY KEY (model, version)
) STRICT;
CREATE INDEX releases_by_digest ON releases (digest);

CREATE TABLE tasks (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    idempotency_key   BLOB    NOT NULL UNIQUE, -- the operator's
    request_digest    BLOB    NOT NULL,        -- a repeated key must repeat the request
    model             TEXT    NOT NULL REFERENCES models (name),
    rounds            INTEGER NOT NULL,        -- how many, one after the other
    target            INTEGER NOT NULL,        -- accepted deltas that close a round; 0: the whole cohort
    minimum           INTEGER NOT NULL,        -- fewer at the end abandon a round
    deadline_seconds  INTEGER NOT NULL,        -- of each round
    cohort            TEXT,                    -- JSON array of node ids; NULL: all enrolled as a round opens
    training          BLOB    NOT NULL,        -- protobuf lamplight.v1.Training
    clip_norm         REAL,                    -- L2 bound of a delta; NULL: none
    weight_cap        INTEGER NOT NULL,        -- bound of a node's sample count
    evaluation_digest BLOB,                    -- blob of samples; NULL: no evaluation
    state             TEXT    NOT NULL CHECK (state IN ('running', 'done', 'stopped')),
    reason            TEXT    NOT NULL DEFAULT '', -- why stopped
    created_unix_ms   INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX one_running_task_per_model ON tasks (model) WHERE state = 'running';

CREATE TABLE rounds (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    task             INTEGER NOT NULL REFERENCES tasks (id),
    place            INTEGER NOT NULL,        -- in its task, from 1
    base_version     INTEGER NOT NULL,        -- release it starts from
    phase            TEXT    NOT NULL CHECK (phase IN
        ('collecting', 'aggregating', 'evaluating', 'publishing', 'published', 'abandoned')),
    knows            TEXT,                    -- JSON of what the phase knows beside its participants
    reason           TEXT    NOT NULL DEFAULT '', -- why abandoned
    release_version  INTEGER,                 -- NULL until published
    evaluation       TEXT,                    -- JSON metrics of the release
    started_unix_ms  INTEGER NOT NULL,
    deadline_unix_ms INTEGER NOT NULL,
    ended_unix_ms    INTEGER,                 -- NULL while it runs
    UNIQUE (task, place)
) STRICT;
CREATE INDEX open_rounds ON rounds (id) WHERE ended_unix_ms IS NULL;

CREATE TABLE participants (
    round            INTEGER NOT NULL REFERENCES rounds (id),
    node             TEXT    NOT NULL REFERENCES nodes (id),
    lease            BLOB    NOT NULL UNIQUE, -- 16 random bytes; the same in every offer of the round
    state            TEXT    NOT NULL CHECK (state IN
        ('offered', 'refused', 'accepted', 'failed', 'missing')),
    reason           TEXT    NOT NULL DEFAULT '', -- why refused or failed
    model_bytes      INTEGER NOT NULL DEFAULT 0,  -- of the base that this node pulled
    manifest_digest  BLOB,                    -- from here on: of the accepted delta
    delta_digest     BLOB,
    delta_bytes      INTEGER,
    delta_norm       REAL,                    -- L2, before clipping
    clip_factor      REAL,                    -- what aggregation multiplied it by, in (0, 1]
    counter          INTEGER,
    sample_count     INTEGER,
    before           TEXT,                    -- JSON metrics on the node's held-out samples
    after            TEXT,                    -- JSON metrics on the node's held-out samples
    training_seconds REAL,
    accepted_unix_ms INTEGER,
    receipt          BLOB,                    -- signed envelope; repeated commits answer it
    PRIMARY KEY (round, node)
) STRICT, WITHOUT ROWID;
CREATE INDEX participants_by_node ON participants (node, round);
CREATE INDEX participants_by_delta ON participants (delta_digest);

CREATE TABLE uploads (
    node            TEXT    PRIMARY KEY REFERENCES nodes (id), -- one at a time
    round           INTEGER NOT NULL REFERENCES rounds (id),
    manifest_digest BLOB    NOT NULL, -- names the upload
    envelope        BLOB    NOT NULL  -- the signed manifest as received
) STRICT;
