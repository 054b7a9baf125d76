-- Where a lease's ports are reached, as its provider last said: a JSON list.
ALTER TABLE rentals ADD COLUMN ports TEXT NOT NULL DEFAULT '[]';
