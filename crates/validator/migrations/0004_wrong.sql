-- Whether a refused session gave a wrong answer, which no honest machine gives. Such a provider is not proven again before a
-- whole interval is over, also by a validator that was started again.

ALTER TABLE evidence ADD COLUMN wrong INTEGER NOT NULL DEFAULT 0 CHECK (wrong IN (0, 1));
