-- What a lease's provider last said about how it came to stand where it stands.
ALTER TABLE rentals ADD COLUMN detail TEXT;
