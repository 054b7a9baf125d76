-- The newest signed catalogue of each signer that this validator has used: an older one is refused.
CREATE TABLE catalogues (
    signer BLOB PRIMARY KEY CHECK (length(signer) = 32),
    version INTEGER NOT NULL,
    digest BLOB NOT NULL CHECK (length(digest) = 32)
) STRICT;
