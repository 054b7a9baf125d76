-- A commit that is final waits for its epoch or its round beside the weights of later epochs: only what is signed and not
-- final is open.

UPDATE weight_submissions SET is_open = 0 WHERE step = 'committed';
