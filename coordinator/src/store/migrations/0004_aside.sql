-- From a delta's manifest: labelled samples whose class the base does not have. 0 from agents that
-- do not say.
ALTER TABLE participants ADD COLUMN samples_aside INTEGER NOT NULL DEFAULT 0;
