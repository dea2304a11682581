-- Records: what is true. Everything else in this file of the schema can be rebuilt from them.
CREATE TABLE users (
  ref INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  num_episodes INTEGER NOT NULL DEFAULT 0,
  num_terms INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE sessions (
  ref INTEGER PRIMARY KEY,
  user INTEGER NOT NULL REFERENCES users (ref),
  agent TEXT NOT NULL DEFAULT '',    -- '' stands for none
  name TEXT NOT NULL DEFAULT '',
  UNIQUE (user, agent, name)
);
CREATE TABLE episodes (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  key BLOB NOT NULL UNIQUE,          -- hash of scope, source id or content, and time: the same twice is stored once
  session INTEGER NOT NULL REFERENCES sessions (ref),
  position INTEGER NOT NULL,         -- turn number within the session
  at INTEGER NOT NULL,               -- microseconds since 1970 UTC
  at_offset INTEGER NOT NULL,        -- minutes east of UTC of the writer's clock
  recorded INTEGER NOT NULL,
  recorded_offset INTEGER NOT NULL,
  speaker TEXT,
  source_id TEXT,
  text TEXT NOT NULL,
  meta TEXT,                         -- JSON, or NULL for none
  terms BLOB NOT NULL                -- hashes of the stems, uint32 each: a cache for ranking
);
CREATE INDEX episodes_by_session ON episodes (session, position);
CREATE INDEX episodes_by_time ON episodes (at);
CREATE TABLE notes (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  session INTEGER NOT NULL REFERENCES sessions (ref),
  kind TEXT NOT NULL,
  text TEXT NOT NULL,
  method TEXT NOT NULL,
  method_version TEXT NOT NULL,
  at INTEGER NOT NULL,               -- the latest of its sources' times: known from then on
  at_offset INTEGER NOT NULL,
  recorded INTEGER NOT NULL,
  recorded_offset INTEGER NOT NULL,
  valid_from INTEGER,
  valid_to INTEGER,
  stale INTEGER NOT NULL DEFAULT 0,  -- 1 when one of several sources was forgotten: to be derived again
  meta TEXT,
  terms BLOB NOT NULL
);
CREATE INDEX notes_by_session ON notes (session);
CREATE TABLE note_sources (
  note INTEGER NOT NULL REFERENCES notes (seq) ON DELETE CASCADE,
  episode INTEGER NOT NULL REFERENCES episodes (seq),
  PRIMARY KEY (note, episode)
) WITHOUT ROWID;
CREATE INDEX note_sources_by_episode ON note_sources (episode);
CREATE TABLE links (
  source TEXT NOT NULL,
  target TEXT NOT NULL,
  relation TEXT NOT NULL,
  weight REAL NOT NULL DEFAULT 1.0,
  method TEXT NOT NULL DEFAULT '',
  user INTEGER NOT NULL REFERENCES users (ref),
  PRIMARY KEY (source, target, relation, method)
) WITHOUT ROWID;
CREATE INDEX links_by_target ON links (target);

-- Caches: full-text index, term counts of each user, chunks and their embeddings.
CREATE VIEW episodes_text AS
  SELECT e.seq, e.text, 'u' || s.user AS owner FROM episodes e JOIN sessions s ON s.ref = e.session;
CREATE VIEW notes_text AS
  SELECT n.seq, n.text, 'u' || s.user AS owner FROM notes n JOIN sessions s ON s.ref = n.session;
CREATE VIRTUAL TABLE episodes_fts USING fts5 (
  text, owner, content='episodes_text', content_rowid='seq', tokenize='porter unicode61 remove_diacritics 2'
);
CREATE VIRTUAL TABLE notes_fts USING fts5 (
  text, owner, content='notes_text', content_rowid='seq', tokenize='porter unicode61 remove_diacritics 2'
);
INSERT INTO episodes_fts (episodes_fts, rank) VALUES ('rank', 'bm25(1.0, 0.0)');
INSERT INTO notes_fts (notes_fts, rank) VALUES ('rank', 'bm25(1.0, 0.0)');
CREATE TABLE term_counts (
  user INTEGER NOT NULL,
  term INTEGER NOT NULL,
  num_episodes INTEGER NOT NULL,
  PRIMARY KEY (user, term)
) WITHOUT ROWID;
CREATE TABLE speakers (
  user INTEGER NOT NULL,
  speaker TEXT NOT NULL,
  num_episodes INTEGER NOT NULL,
  PRIMARY KEY (user, speaker)
) WITHOUT ROWID;
CREATE TABLE chunks (
  id INTEGER PRIMARY KEY AUTOINCREMENT,  -- also the row in the vector index
  episode INTEGER REFERENCES episodes (seq) ON DELETE CASCADE,
  note INTEGER REFERENCES notes (seq) ON DELETE CASCADE,
  first INTEGER NOT NULL,                -- characters of the record's text
  last INTEGER NOT NULL,
  CHECK ((episode IS NULL) <> (note IS NULL))
);
CREATE INDEX chunks_by_episode ON chunks (episode) WHERE episode IS NOT NULL;
CREATE INDEX chunks_by_note ON chunks (note) WHERE note IS NOT NULL;
CREATE TABLE embeddings (
  chunk INTEGER PRIMARY KEY REFERENCES chunks (id) ON DELETE CASCADE,
  vector BLOB NOT NULL,
  tokens BLOB
);
-- Chunks made by another embedder while `reindex` runs; they replace `chunks` and `embeddings` when all are there.
CREATE TABLE next_chunks (
  id INTEGER PRIMARY KEY,
  episode INTEGER REFERENCES episodes (seq) ON DELETE CASCADE,
  note INTEGER REFERENCES notes (seq) ON DELETE CASCADE,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL,
  vector BLOB NOT NULL,
  tokens BLOB
);
CREATE INDEX next_chunks_by_episode ON next_chunks (episode);
CREATE INDEX next_chunks_by_note ON next_chunks (note);
CREATE TABLE state (
  key TEXT PRIMARY KEY,
  value TEXT NOT NULL
) WITHOUT ROWID;
