-- What an agent must remember across power cuts. Written in one transaction per step of its phases.

-- One row: who this node is. Written at enrolment, never changed.
CREATE TABLE node (
    id               INTEGER PRIMARY KEY CHECK (id = 1),
    node_id          TEXT NOT NULL,     -- node-<first 8 bytes of the signing key's SHA-256, hex>
    deployment       TEXT NOT NULL,
    release_key      BLOB NOT NULL,     -- Ed25519 public key, 32 bytes
    enrolled_unix_ms INTEGER NOT NULL   -- this node's clock
) STRICT;

-- One row per lease ever taken up or declined: the journal.
CREATE TABLE tasks (
    task             INTEGER PRIMARY KEY,
    lease            BLOB NOT NULL UNIQUE,  -- 16 bytes
    round            INTEGER NOT NULL,
    model            TEXT NOT NULL,
    base_version     INTEGER NOT NULL,
    base_digest      TEXT NOT NULL,     -- SHA-256, hex
    offer            BLOB NOT NULL,     -- the signed envelope, as received
    started_unix_ms  INTEGER NOT NULL,  -- this node's clock
    ended_unix_ms    INTEGER,           -- NULL while it runs
    outcome          TEXT,              -- accepted, failed, refused, dropped, declined; NULL while it runs
    reason           TEXT,              -- why, when not accepted
    samples          INTEGER,           -- windows trained on
    training_seconds REAL,
    before_accuracy  REAL,              -- on the node's held-out windows
    before_loss      REAL,
    after_accuracy   REAL,
    after_loss       REAL,
    delta_digest     TEXT,              -- SHA-256, hex
    delta_bytes      INTEGER,
    receipt          BLOB               -- the signed envelope, as received; accepted tasks only
) STRICT;

-- One row: what the node is doing.
CREATE TABLE phase (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    name     TEXT NOT NULL,             -- idle, preparing, training, uploading
    task     INTEGER REFERENCES tasks (task),
    manifest BLOB                       -- the signed envelope being sent; uploading only
) STRICT;
INSERT INTO phase (id, name) VALUES (1, 'idle');

-- The counter each lease was given, before anything was signed with it.
CREATE TABLE counters (
    lease   BLOB PRIMARY KEY,
    counter INTEGER NOT NULL UNIQUE
) STRICT;

-- The highest release of each model this node has believed.
CREATE TABLE versions (
    model   TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    digest  TEXT NOT NULL               -- SHA-256, hex
) STRICT;

-- Failures the coordinator has not heard of yet.
CREATE TABLE outbox (
    id     INTEGER PRIMARY KEY,
    round  INTEGER NOT NULL,
    lease  BLOB NOT NULL,
    reason TEXT NOT NULL
) STRICT;
