-- What the coordinator is told is a closed set of causes, words and numbers, kept as JSON. Reports
-- that an older agent left behind are in its own free words, which stay here: their cause is `other`.
ALTER TABLE outbox RENAME TO outbox_in_words;
CREATE TABLE outbox (
    id    INTEGER PRIMARY KEY,
    round INTEGER NOT NULL,
    lease BLOB NOT NULL,
    told  TEXT NOT NULL                 -- JSON of what is sent
) STRICT;
INSERT INTO outbox (id, round, lease, told) SELECT id, round, lease, '"other"' FROM outbox_in_words;
DROP TABLE outbox_in_words;
