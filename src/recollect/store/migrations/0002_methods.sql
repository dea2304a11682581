-- What methods derive: notes that take each other's place, and how far each method has read the episodes.
CREATE TABLE runs (
  ref INTEGER PRIMARY KEY AUTOINCREMENT,
  user INTEGER NOT NULL REFERENCES users (ref) ON DELETE CASCADE,
  method TEXT NOT NULL,
  recorded INTEGER NOT NULL,             -- microseconds since 1970 UTC
  recorded_offset INTEGER NOT NULL,
  calls INTEGER NOT NULL DEFAULT 0,      -- of a language model
  input_tokens INTEGER NOT NULL DEFAULT 0,
  output_tokens INTEGER NOT NULL DEFAULT 0,
  seconds REAL NOT NULL DEFAULT 0
);
ALTER TABLE notes ADD COLUMN key TEXT;                               -- what it is found by; NULL for its text
ALTER TABLE notes ADD COLUMN any_source INTEGER NOT NULL DEFAULT 0;  -- 1 when each of its sources alone carries it
ALTER TABLE notes ADD COLUMN run INTEGER REFERENCES runs (ref);      -- the consolidation that made it
ALTER TABLE notes ADD COLUMN replaced_by INTEGER REFERENCES notes (seq) ON DELETE SET NULL;
ALTER TABLE notes ADD COLUMN closed_by INTEGER REFERENCES notes (seq) ON DELETE SET NULL;  -- what ended its validity
ALTER TABLE notes ADD COLUMN same BLOB;   -- a hash that near-identical texts share; NULL where nobody looks for them
ALTER TABLE notes ADD COLUMN about TEXT;  -- of a fact: its subject, case-folded
CREATE INDEX notes_by_same ON notes (method, same) WHERE same IS NOT NULL;
CREATE INDEX notes_by_about ON notes (method, about) WHERE about IS NOT NULL;
CREATE INDEX notes_by_method ON notes (method, kind);
CREATE INDEX notes_by_run ON notes (run) WHERE run IS NOT NULL;
CREATE INDEX notes_replaced ON notes (replaced_by) WHERE replaced_by IS NOT NULL;
CREATE INDEX notes_closed ON notes (closed_by) WHERE closed_by IS NOT NULL;
CREATE INDEX notes_stale ON notes (method) WHERE stale = 1;
ALTER TABLE links ADD COLUMN run INTEGER REFERENCES runs (ref);
CREATE INDEX links_by_user ON links (user, method);
-- Every episode of the user up to `upto` is derived by the method, or waits in `underived`.
CREATE TABLE derivations (
  method TEXT NOT NULL,
  user INTEGER NOT NULL REFERENCES users (ref) ON DELETE CASCADE,
  version TEXT NOT NULL,
  upto INTEGER NOT NULL,                 -- the last row of `episodes` that was read
  PRIMARY KEY (method, user)
) WITHOUT ROWID;
CREATE TABLE underived (
  method TEXT NOT NULL,
  episode INTEGER NOT NULL REFERENCES episodes (seq) ON DELETE CASCADE,
  attempts INTEGER NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (method, episode)
) WITHOUT ROWID;
CREATE INDEX underived_by_episode ON underived (episode);
DROP VIEW notes_text;
CREATE VIEW notes_text AS
  SELECT n.seq, coalesce(n.key, n.text) AS text, 'u' || s.user AS owner
  FROM notes n JOIN sessions s ON s.ref = n.session;
