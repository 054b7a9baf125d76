-- Orders that were given up although their provider may have taken them: each is given back until the provider says that
-- nothing of it is there, whatever happens to this process, or until it would be over by itself.
CREATE TABLE owed_releases (
    lease           TEXT    PRIMARY KEY,
    provider        BLOB    NOT NULL CHECK (length(provider) = 32),
    address         TEXT    NOT NULL,
    since_unix_ms   INTEGER NOT NULL CHECK (since_unix_ms >= 0),
    until_unix_ms   INTEGER NOT NULL CHECK (until_unix_ms >= 0),
    tries           INTEGER NOT NULL DEFAULT 0 CHECK (tries >= 0),
    next_at_unix_ms INTEGER NOT NULL CHECK (next_at_unix_ms >= 0)
) STRICT, WITHOUT ROWID;

CREATE INDEX owed_releases_next ON owed_releases (next_at_unix_ms);
