-- Samples that wait for a release with their class.

-- What a task kept aside, to train on and held out.
ALTER TABLE tasks ADD COLUMN samples_aside INTEGER;  -- NULL before it is known

-- How it stands since the newest task of each model: the samples themselves stay in their source.
CREATE TABLE aside (
    model        TEXT NOT NULL,
    class        TEXT NOT NULL,         -- as the source names it; never leaves the node
    samples      INTEGER NOT NULL,      -- above 0
    base_version INTEGER NOT NULL,      -- the release that does not have the class
    PRIMARY KEY (model, class)
) STRICT;
