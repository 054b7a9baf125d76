-- What a validator must remember: evidence, the leases that it holds, the keys that it gave out, the weights that it set.

CREATE TABLE validator (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    hotkey TEXT    NOT NULL
) STRICT;

-- One row for each proof session. Scores follow from these rows alone.
CREATE TABLE evidence (
    id                    INTEGER PRIMARY KEY,
    provider              TEXT    NOT NULL,
    lease                 TEXT,
    at_ms                 INTEGER NOT NULL CHECK (at_ms >= 0),
    verdict               TEXT    NOT NULL CHECK (verdict IN ('passed', 'refused', 'unreachable')),
    detail                TEXT    NOT NULL,
    device                TEXT    CHECK (device IN ('cpu', 'gpu')),
    devices               INTEGER CHECK (devices > 0),
    bytes_per_device      INTEGER CHECK (bytes_per_device >= 0),
    ops_per_second        INTEGER CHECK (ops_per_second >= 0),
    walk_bytes_per_second INTEGER CHECK (walk_bytes_per_second >= 0),
    -- BLAKE3 of the signed transcript, which lies beside this file under that name.
    digest                BLOB    CHECK (length(digest) = 32),
    CHECK ((verdict = 'passed') = (device IS NOT NULL)),
    CHECK (verdict <> 'passed' OR digest IS NOT NULL)
) STRICT;
CREATE INDEX evidence_by_provider ON evidence (provider, at_ms DESC);

-- Leases for proofs that were asked for and not yet given back. Written before the provider is asked.
CREATE TABLE proof_lease (
    lease    TEXT    PRIMARY KEY,
    provider TEXT    NOT NULL,
    address  TEXT    NOT NULL,
    asked_ms INTEGER NOT NULL CHECK (asked_ms >= 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE api_key (
    id         TEXT    PRIMARY KEY,
    name       TEXT    NOT NULL,
    -- BLAKE3 of the secret, which is 32 random bytes and is not stored.
    hash       BLOB    NOT NULL CHECK (length(hash) = 32),
    created_ms INTEGER NOT NULL CHECK (created_ms >= 0)
) STRICT, WITHOUT ROWID;

-- Leases that were brokered for renters. Written before the provider is asked.
CREATE TABLE rental (
    lease         TEXT    PRIMARY KEY,
    principal     TEXT    NOT NULL REFERENCES api_key (id),
    provider      TEXT    NOT NULL,
    address       TEXT    NOT NULL,
    -- The request as JSON: the same id with other words is another request.
    request       TEXT    NOT NULL,
    price         INTEGER NOT NULL CHECK (price >= 0),
    state         TEXT    NOT NULL,
    reason        TEXT,
    requested_ms  INTEGER NOT NULL CHECK (requested_ms >= 0),
    expires_ms    INTEGER NOT NULL CHECK (expires_ms >= requested_ms),
    -- How to enter, as JSON, while that is possible.
    ssh           TEXT,
    release_asked INTEGER NOT NULL DEFAULT 0 CHECK (release_asked IN (0, 1))
) STRICT, WITHOUT ROWID;
CREATE INDEX rental_by_principal ON rental (principal, requested_ms DESC);

CREATE TABLE weights_set (
    id      INTEGER PRIMARY KEY,
    block   INTEGER NOT NULL CHECK (block >= 0),
    at_ms   INTEGER NOT NULL CHECK (at_ms >= 0),
    -- [[uid, weight], …]
    weights TEXT    NOT NULL
) STRICT;
