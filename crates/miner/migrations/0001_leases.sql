-- The provider's leases: what was agreed, where each one stands, and everything that ever happened to it.

CREATE TABLE node (
    id             INTEGER PRIMARY KEY CHECK (id = 1),
    hotkey         TEXT    NOT NULL,
    -- The highest nonce that was accepted ahead of our clock: after a restart nothing up to it is accepted.
    nonce_floor_ns INTEGER NOT NULL DEFAULT 0 CHECK (nonce_floor_ns >= 0)
) STRICT;

CREATE TABLE lease (
    id              TEXT    PRIMARY KEY,
    offer           TEXT    NOT NULL,
    purpose         TEXT    NOT NULL CHECK (purpose IN ('proof', 'rental')),
    holder          TEXT    NOT NULL,
    -- A JSON list of OpenSSH keys.
    ssh_keys        TEXT    NOT NULL,
    image           TEXT    NOT NULL,
    -- SHA-256 of the words in which it was asked for: the same id with other words is another request.
    words           BLOB    NOT NULL CHECK (length(words) = 32),
    state           TEXT    NOT NULL CHECK (state IN (
        'requested', 'reserved', 'preparing', 'running', 'paused', 'ending', 'ended', 'failed')),
    reason          TEXT    CHECK ((reason IS NOT NULL) = (state IN ('ending', 'ended', 'failed'))),
    generation      INTEGER NOT NULL CHECK (generation >= 0),
    requested_at_ms INTEGER NOT NULL CHECK (requested_at_ms >= 0),
    expires_at_ms   INTEGER NOT NULL CHECK (expires_at_ms >= requested_at_ms)
) STRICT, WITHOUT ROWID;

-- An offer is held by one lease or by none, whatever the program believes.
CREATE UNIQUE INDEX lease_holds_offer ON lease (offer)
    WHERE state IN ('reserved', 'preparing', 'running', 'paused', 'ending');

CREATE INDEX lease_open ON lease (requested_at_ms)
    WHERE state NOT IN ('ended', 'failed');

CREATE INDEX lease_finished ON lease (requested_at_ms)
    WHERE state IN ('ended', 'failed');

CREATE TABLE lease_event (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    lease         TEXT    NOT NULL REFERENCES lease (id) ON DELETE CASCADE,
    generation    INTEGER NOT NULL,
    event         TEXT    NOT NULL,
    state         TEXT    NOT NULL,
    reason        TEXT,
    expires_at_ms INTEGER NOT NULL,
    at_ms         INTEGER NOT NULL,
    UNIQUE (lease, generation)
) STRICT;

CREATE TRIGGER lease_event_is_append_only BEFORE UPDATE ON lease_event
BEGIN
    SELECT RAISE(ABORT, 'lease_event is append-only');
END;
