-- What operators say of nodes: their state and tags; and which rounds passed a node over.

ALTER TABLE nodes ADD COLUMN state TEXT NOT NULL DEFAULT 'active'
    CHECK (state IN ('active', 'draining', 'retired'));
ALTER TABLE nodes ADD COLUMN state_reason TEXT NOT NULL DEFAULT '';          -- the operator's words
ALTER TABLE nodes ADD COLUMN state_since_unix_ms INTEGER NOT NULL DEFAULT 0; -- 0: since it enrolled

CREATE TABLE node_tags (
    node  TEXT NOT NULL REFERENCES nodes (id),
    key   TEXT NOT NULL, -- e.g. site
    value TEXT NOT NULL, -- e.g. chicago
    PRIMARY KEY (node, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX node_tags_by_tag ON node_tags (key, value);

-- Nodes a round would have asked, but for something about the node.
CREATE TABLE passed_over (
    node   TEXT    NOT NULL REFERENCES nodes (id),
    round  INTEGER NOT NULL REFERENCES rounds (id),
    reason TEXT    NOT NULL, -- e.g. that it was draining
    PRIMARY KEY (node, round)
) STRICT, WITHOUT ROWID;
