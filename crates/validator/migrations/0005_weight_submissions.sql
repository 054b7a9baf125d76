-- Weights on their way to the chain. A row is written, with the signed extrinsic, before anything is sent: after a kill its fate
-- is asked for first, and the same bytes are sent again if it has none. At most one row is open, so no interval is said twice.
-- Numbers of the chain that may have all 64 bits are texts.

CREATE TABLE weight_submissions (
    id INTEGER PRIMARY KEY,
    decided_at_unix_ms INTEGER NOT NULL,
    genesis BLOB NOT NULL CHECK (length(genesis) = 32),
    way TEXT NOT NULL CHECK (way IN ('plain', 'hash', 'timelocked')),
    weights TEXT NOT NULL,
    version_key TEXT NOT NULL,
    salt TEXT NOT NULL,
    step TEXT NOT NULL CHECK (step IN ('sending', 'committed', 'revealing', 'done', 'failed')),
    is_open INTEGER NOT NULL CHECK (is_open IN (0, 1)),
    extrinsic BLOB NOT NULL,
    birth_block INTEGER NOT NULL,
    last_block INTEGER NOT NULL,
    said_block INTEGER,
    epoch INTEGER,
    reveal_block INTEGER,
    reveal_round INTEGER,
    ended_block INTEGER,
    note TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX weight_submissions_open ON weight_submissions (is_open) WHERE is_open = 1;
