-- Ports of leases that others reach at this machine. A port leads into one lease or into none, whatever the program
-- believes, and stays its lease's until nothing of it is left: the number was told to people.
CREATE TABLE lease_port (
    port           INTEGER PRIMARY KEY CHECK (port BETWEEN 1 AND 65535),
    lease          TEXT    NOT NULL REFERENCES lease (id) ON DELETE CASCADE,
    container_port INTEGER NOT NULL CHECK (container_port BETWEEN 1 AND 65535),
    UNIQUE (lease, container_port)
) STRICT;

CREATE TRIGGER lease_frees_ports AFTER UPDATE OF state ON lease
WHEN NEW.state IN ('ended', 'failed')
BEGIN
    DELETE FROM lease_port WHERE lease = NEW.id;
END;
