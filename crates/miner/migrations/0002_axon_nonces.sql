-- The v1.9.0 door: every nonce that it accepted lies below this, so that after a restart none is accepted again.
ALTER TABLE node ADD COLUMN axon_nonce_floor_ns INTEGER NOT NULL DEFAULT 0 CHECK (axon_nonce_floor_ns >= 0);
