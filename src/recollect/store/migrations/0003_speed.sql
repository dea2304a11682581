-- What is kept so that a recall need not read texts: see shape.py. NULL or of another version: made where it is read.
ALTER TABLE episodes ADD COLUMN shape INTEGER;

-- Chunks that were deleted and whose rows in the vector index still have to be overwritten.
CREATE TABLE erasing (chunk INTEGER PRIMARY KEY);
INSERT INTO erasing SELECT value FROM json_each((SELECT value FROM state WHERE key = 'erase'));
DELETE FROM state WHERE key = 'erase';
