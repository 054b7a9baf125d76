-- Everything that a validator must not forget. Times are milliseconds since 1970 on the validator's clock; keys and hashes are
-- raw bytes; a number that does not fit 63 bits is stored as the largest one that does.

CREATE TABLE owner (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    hotkey BLOB NOT NULL CHECK (length(hotkey) = 32),
    netuid INTEGER NOT NULL
) STRICT;

-- Signed transcripts under their BLAKE3.
CREATE TABLE transcripts (
    hash BLOB PRIMARY KEY CHECK (length(hash) = 32),
    bytes BLOB NOT NULL
) STRICT;

-- One row for each session that came to a verdict about a provider.
CREATE TABLE evidence (
    id INTEGER PRIMARY KEY,
    provider BLOB NOT NULL CHECK (length(provider) = 32),
    lease TEXT CHECK (length(lease) = 36),
    at_unix_ms INTEGER NOT NULL,
    block INTEGER NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('passed', 'refused', 'unreachable')),
    detail TEXT NOT NULL,
    device_kind TEXT CHECK (device_kind IN ('cpu', 'gpu')),
    devices INTEGER,
    bytes_per_device INTEGER,
    ops_per_second INTEGER,
    walk_bytes_per_second INTEGER,
    transcript BLOB REFERENCES transcripts (hash),
    CHECK ((verdict = 'passed') = (device_kind IS NOT NULL)),
    CHECK ((device_kind IS NULL) = (devices IS NULL)),
    CHECK ((device_kind IS NULL) = (bytes_per_device IS NULL)),
    CHECK ((device_kind IS NULL) = (ops_per_second IS NULL)),
    CHECK ((device_kind IS NULL) = (walk_bytes_per_second IS NULL)),
    CHECK (verdict <> 'passed' OR transcript IS NOT NULL)
) STRICT;

CREATE INDEX evidence_by_provider ON evidence (provider, id);
CREATE INDEX evidence_by_transcript ON evidence (transcript);

-- Leases for proofs that were asked for and not yet seen to be over: what a killed validator must give back.
CREATE TABLE proof_leases (
    lease TEXT PRIMARY KEY CHECK (length(lease) = 36),
    provider BLOB NOT NULL CHECK (length(provider) = 32),
    address TEXT NOT NULL,
    begun_at_unix_ms INTEGER NOT NULL,
    expires_at_unix_ms INTEGER NOT NULL
) STRICT;

-- API keys by their public half; the secret half is kept as a hash.
CREATE TABLE api_keys (
    id TEXT PRIMARY KEY CHECK (length(id) = 16),
    name TEXT NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    created_at_unix_ms INTEGER NOT NULL,
    revoked_at_unix_ms INTEGER
) STRICT;

-- Leases that were brokered for renters, with what their provider last said of them.
CREATE TABLE rentals (
    lease TEXT PRIMARY KEY CHECK (length(lease) = 36),
    owner TEXT NOT NULL REFERENCES api_keys (id),
    provider BLOB NOT NULL CHECK (length(provider) = 32),
    address TEXT NOT NULL,
    offer TEXT NOT NULL,
    words BLOB NOT NULL CHECK (length(words) = 32),
    request TEXT NOT NULL,
    price_micro_usd_per_hour INTEGER NOT NULL,
    requested_at_unix_ms INTEGER NOT NULL,
    expires_at_unix_ms INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN
        ('requested', 'reserved', 'preparing', 'running', 'paused', 'ending', 'ended', 'failed')),
    reason TEXT,
    is_accepted INTEGER NOT NULL DEFAULT 0 CHECK (is_accepted IN (0, 1)),
    is_release_asked INTEGER NOT NULL DEFAULT 0 CHECK (is_release_asked IN (0, 1)),
    is_known INTEGER NOT NULL DEFAULT 1 CHECK (is_known IN (0, 1)),
    ssh TEXT,
    CHECK ((reason IS NOT NULL) = (state IN ('ending', 'ended', 'failed')))
) STRICT;

CREATE INDEX rentals_by_owner ON rentals (owner, requested_at_unix_ms);
CREATE INDEX rentals_open ON rentals (state) WHERE state NOT IN ('ended', 'failed');

-- Weights that the chain took.
CREATE TABLE weight_sets (
    id INTEGER PRIMARY KEY,
    at_unix_ms INTEGER NOT NULL,
    block INTEGER NOT NULL,
    weights TEXT NOT NULL
) STRICT;
