-- What a round showed besides the plot and its walks, one row for each leg that was asked. A leg without a reason was shown.

CREATE TABLE legs (
    evidence INTEGER NOT NULL REFERENCES evidence (id) ON DELETE CASCADE,
    leg TEXT NOT NULL CHECK (leg IN
        ('link', 'copy', 'net-down', 'net-up', 'ram', 'disk', 'disk-random')),
    bytes INTEGER NOT NULL,
    bytes_per_second INTEGER NOT NULL,
    reason TEXT,
    transcript BLOB REFERENCES transcripts (hash),
    PRIMARY KEY (evidence, leg)
) STRICT;

CREATE INDEX legs_by_transcript ON legs (transcript);
