-- What a lease was sold is stored with it and never computed again. Leases of before this have NULL here until the next
-- start of the node, which gives them what they had: the whole machine.
ALTER TABLE lease ADD COLUMN cores_milli INTEGER CHECK (cores_milli >= 0);
ALTER TABLE lease ADD COLUMN memory_bytes INTEGER CHECK (memory_bytes >= 0);
ALTER TABLE lease ADD COLUMN disk_bytes INTEGER CHECK (disk_bytes >= 0);
-- A JSON list of GPU UUIDs.
ALTER TABLE lease ADD COLUMN gpus TEXT;
ALTER TABLE lease ADD COLUMN price_micro_usd_per_hour INTEGER CHECK (price_micro_usd_per_hour >= 0);
-- The key of the second slot; ssh_keys is the first.
ALTER TABLE lease ADD COLUMN terminal_key TEXT;
-- What it asked for beyond its share, as JSON.
ALTER TABLE lease ADD COLUMN options TEXT NOT NULL DEFAULT '{}';
-- Leases of the v1.9.0 door: SHA-256 of the RSA key that they belong to, and the password as the gateway keeps it.
ALTER TABLE lease ADD COLUMN owner_key BLOB CHECK (owner_key IS NULL OR length(owner_key) = 32);
ALTER TABLE lease ADD COLUMN password_hash TEXT CHECK ((password_hash IS NULL) = (owner_key IS NULL));
ALTER TABLE lease ADD COLUMN restart_asked INTEGER NOT NULL DEFAULT 0 CHECK (restart_asked IN (0, 1));
ALTER TABLE lease ADD COLUMN warned_ms INTEGER CHECK (warned_ms >= 0);
ALTER TABLE lease ADD COLUMN detail TEXT;
ALTER TABLE lease_event ADD COLUMN detail TEXT;

CREATE INDEX lease_owner_key ON lease (owner_key, requested_at_ms) WHERE owner_key IS NOT NULL;

-- A GPU is in one lease or in none, whatever the program believes: the triggers below fail where it would be in two.
CREATE TABLE held_gpu (
    gpu   TEXT PRIMARY KEY,
    lease TEXT NOT NULL REFERENCES lease (id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE INDEX held_gpu_lease ON held_gpu (lease);

CREATE TRIGGER lease_holds_gpus_from_the_start AFTER INSERT ON lease
WHEN NEW.state IN ('reserved', 'preparing', 'running', 'paused', 'ending') AND NEW.gpus IS NOT NULL
BEGIN
    INSERT INTO held_gpu (gpu, lease) SELECT value, NEW.id FROM json_each(NEW.gpus);
END;

CREATE TRIGGER lease_holds_gpus AFTER UPDATE OF state, gpus ON lease
WHEN NEW.state <> OLD.state OR NEW.gpus IS NOT OLD.gpus
BEGIN
    DELETE FROM held_gpu WHERE lease = NEW.id;
    INSERT INTO held_gpu (gpu, lease) SELECT value, NEW.id FROM json_each(NEW.gpus)
        WHERE NEW.gpus IS NOT NULL
          AND NEW.state IN ('reserved', 'preparing', 'running', 'paused', 'ending');
END;
