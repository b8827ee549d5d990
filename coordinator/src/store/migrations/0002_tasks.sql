-- Tasks that recur, choose nodes by tags, and bound what a round may use.

ALTER TABLE tasks ADD COLUMN name TEXT NOT NULL DEFAULT '';     -- for people
ALTER TABLE tasks ADD COLUMN cohort_tags TEXT NOT NULL DEFAULT '[]'; -- JSON array of key=value
ALTER TABLE tasks ADD COLUMN budget BLOB;                       -- protobuf lamplight.v1.Budget; NULL: no bound
ALTER TABLE tasks ADD COLUMN codec TEXT NOT NULL DEFAULT 'f32'; -- how deltas are written
ALTER TABLE tasks ADD COLUMN every_seconds INTEGER;             -- NULL: one round after the other
ALTER TABLE tasks ADD COLUMN until_unix_ms INTEGER;             -- no round begins from then on; NULL: no such bound
ALTER TABLE tasks ADD COLUMN next_round_unix_ms INTEGER;        -- NULL: none is planned, or one runs
CREATE INDEX planned_rounds ON tasks (next_round_unix_ms) WHERE next_round_unix_ms IS NOT NULL;
ALTER TABLE tasks ADD COLUMN stop_asked INTEGER NOT NULL DEFAULT 0; -- 1: no further round begins
