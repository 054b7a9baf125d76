-- Whose turn it is: when a lease was given its offer, whatever became of it afterwards.
ALTER TABLE lease ADD COLUMN granted_at_ms INTEGER CHECK (granted_at_ms >= 0);

UPDATE lease SET granted_at_ms = (
    SELECT min(at_ms) FROM lease_event
    WHERE lease_event.lease = lease.id AND lease_event.event IN ('reserved', 'granted'));

CREATE INDEX lease_proof_granted ON lease (holder, granted_at_ms)
    WHERE purpose = 'proof' AND granted_at_ms IS NOT NULL;

-- Who wanted to prove an offer since when, and found it taken: whoever was served since then gives way for a while.
CREATE TABLE turned_away (
    offer       TEXT    NOT NULL,
    holder      TEXT    NOT NULL,
    first_at_ms INTEGER NOT NULL CHECK (first_at_ms >= 0),
    last_at_ms  INTEGER NOT NULL CHECK (last_at_ms >= 0),
    PRIMARY KEY (offer, holder)
) STRICT, WITHOUT ROWID;
