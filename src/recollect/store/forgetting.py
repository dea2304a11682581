"""Deletion that is complete: rows, derived notes, index entries, counts, and the bytes they leave in the files.

A deletion is one transaction. After it the full-text index is merged (its old segments would keep the words), the
write-ahead log is truncated, the rows of the vector index are overwritten, and the file is searched for what was deleted;
if anything is found, it is rewritten (`VACUUM`). What a busy reader delays is remembered in the table `state` and finished
at the next chance.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from recollect.store.notes import refresh_time
from recollect.store.sqlite import BUSY_TIMEOUT_S, TERM_DTYPE, Database


def delete(db: Database, seqs: Sequence[int], notes: Sequence[int] = (), *, scrub: bool = True) -> dict[str, Any]:
    """Delete episodes, everything derived only from them, and the given notes; returns what went, for the receipt.

    Of the notes that rest on other episodes too, those that each source alone carries stay; those that had taken the place
    of older notes go as well, which brings the older ones back; the rest are flagged.
    scrub: whether the bytes in the file's free space are to be looked after too (`scrub`).
    """
    with db.transaction():
        doomed = db.rows_in(
            "SELECT e.seq, e.id, e.text, e.terms, s.user, e.speaker, e.source_id, e.meta, s.name, u.name "
            "FROM episodes e JOIN sessions s ON s.ref = e.session JOIN users u ON u.ref = s.user WHERE e.seq IN ({})",
            seqs,
        )
        gone = {row[0] for row in doomed}
        touched = sorted({row[0] for row in db.rows_in("SELECT note FROM note_sources WHERE episode IN ({})", gone)})
        survivors: set[int] = set()
        for note, episode in db.rows_in("SELECT note, episode FROM note_sources WHERE note IN ({})", touched):
            if episode not in gone:
                survivors.add(note)
        survivors -= set(notes)
        carried = dict(db.rows_in("SELECT seq, id FROM notes WHERE any_source = 1 AND seq IN ({})", survivors))
        survivors -= set(carried)
        survivors -= {
            row[0] for row in db.rows_in("SELECT replaced_by FROM notes WHERE replaced_by IN ({})", survivors)
        }
        notes = sorted(set(notes) | (set(touched) - survivors - set(carried)))
        note_rows = db.rows_in(
            "SELECT n.seq, n.id, n.text, n.key, n.meta, s.user FROM notes n JOIN sessions s ON s.ref = n.session "
            "WHERE n.seq IN ({})",
            notes,
        )
        flagged = db.rows_in("SELECT seq, id FROM notes WHERE seq IN ({})", survivors)
        ids = [row[1] for row in doomed] + [row[1] for row in note_rows]
        chunks = [
            row[0]
            for row in db.rows_in("SELECT id FROM chunks WHERE episode IN ({})", gone)
            + db.rows_in("SELECT id FROM chunks WHERE note IN ({})", notes)
        ]
        embedded = db.rows_in("SELECT chunk, tokens IS NOT NULL FROM embeddings WHERE chunk IN ({})", chunks)
        num_links = len(
            {
                row
                for end in ("source", "target")
                for row in db.rows_in(f"SELECT source, target, relation, method FROM links WHERE {end} IN ({{}})", ids)
            }
        )
        counts: dict[int, Counter[int]] = {}
        totals: dict[int, list[int]] = {}
        voices: Counter[tuple[int, str]] = Counter()
        for _, _, _, terms, user, speaker, *_ in doomed:
            array = np.frombuffer(terms, TERM_DTYPE)
            counts.setdefault(user, Counter()).update(set(array.tolist()))
            total = totals.setdefault(user, [0, 0])
            total[0] += 1
            total[1] += len(array)
            if speaker:
                voices[user, speaker] += 1
        db.count(counts, totals, voices, sign=-1)
        delete_fts = "INSERT INTO {0}_fts ({0}_fts, rowid, text, owner) VALUES ('delete', ?, ?, ?)"
        db.run_many(delete_fts.format("episodes"), ((row[0], row[2], f"u{row[4]}") for row in doomed))
        db.run_many(delete_fts.format("notes"), ((row[0], row[3] or row[2], f"u{row[5]}") for row in note_rows))
        db.run_many("DELETE FROM links WHERE source = ?", ((id_,) for id_ in ids))
        db.run_many("DELETE FROM links WHERE target = ?", ((id_,) for id_ in ids))
        db.run_many("DELETE FROM note_sources WHERE episode = ?", ((seq,) for seq in gone))
        db.run_many("UPDATE notes SET stale = 1 WHERE seq = ?", ((seq,) for seq in survivors))
        db.run_many("DELETE FROM notes WHERE seq = ?", ((seq,) for seq in notes))
        for id_ in carried.values():
            refresh_time(db, id_)
        db.run_many("DELETE FROM episodes WHERE seq = ?", ((seq,) for seq in gone))
        db.run(
            "DELETE FROM sessions WHERE NOT EXISTS (SELECT 1 FROM episodes e WHERE e.session = sessions.ref) "
            "AND NOT EXISTS (SELECT 1 FROM notes n WHERE n.session = sessions.ref)"
        )
        db.run(
            "DELETE FROM users WHERE NOT EXISTS (SELECT 1 FROM sessions s WHERE s.user = users.ref) "
            "AND NOT EXISTS (SELECT 1 FROM links l WHERE l.user = users.ref)"
        )
        db.bump_epoch()
        db.run_many("INSERT OR IGNORE INTO erasing VALUES (?)", ((chunk,) for chunk in chunks))
        if scrub:
            db.set_state("scrub", "1")
        names = {name for row in doomed for name in (row[5], row[8], row[9]) if name} - _names(db)
    return {
        "episodes": [row[1] for row in doomed],
        "notes": [row[1] for row in note_rows],
        "flagged": [row[1] for row in flagged],
        "num_links": num_links,
        "num_vectors": len(embedded),
        "num_token_vectors": sum(row[1] for row in embedded),
        "num_index_entries": len(doomed) + len(note_rows),
        "traces": [text for row in doomed for text in (row[2], row[6], row[7]) if text]
        + [text for row in note_rows for text in row[2:5] if text]
        + sorted(names),
    }


def _names(db: Database) -> set[str]:
    """The names of users, sessions and speakers that are still in use."""
    return {
        row[0]
        for row in db.rows("SELECT name FROM users UNION SELECT name FROM sessions UNION SELECT speaker FROM speakers")
    }


def scrub(db: Database, traces: Sequence[str] | None = None) -> bool:
    """Remove the last bytes of what was deleted: merge the full-text index, truncate the log, look, rewrite if needed.

    traces: texts that were deleted; the file is rewritten when one of them still stands in it, and, as when an earlier
    deletion is finished, if they are not known (None).
    Returns False when another process kept the log busy; the flag `scrub` in the state stays, and the next forget, verify
    or close tries again.
    """
    for table in ("episodes_fts", "notes_fts"):
        db.run(f"INSERT INTO {table} ({table}) VALUES ('optimize')")
    clean = db.in_memory or _truncate_log(db)
    if clean and not db.in_memory and (traces is None or _holds(db, traces)):
        db.run("VACUUM")
        clean = _truncate_log(db)
    if clean:
        db.set_state("scrub", None)
        if not db.in_memory:
            _truncate_log(db)
    return clean


def _truncate_log(db: Database, wait_s: float = 5.0) -> bool:
    """Move the write-ahead log into the file and cut it to nothing; False when a reader held it for `wait_s`."""
    deadline = time.monotonic() + wait_s
    db.run("PRAGMA busy_timeout = 200")
    try:
        while db.rows("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True
    finally:
        db.run(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")


_SEARCH = """
import json, sys
samples = [bytes.fromhex(sample) for sample in json.load(sys.stdin)]
overlap = max(map(len, samples))
tail = b""
with open(sys.argv[1], "rb") as file:
    while block := file.read(1 << 24):
        if any(sample in tail + block for sample in samples):
            sys.exit(10)
        tail = block[-overlap:]
sys.exit(11)
"""


def _holds(db: Database, traces: Sequence[str]) -> bool:
    """Whether the beginning, the middle or the end of any of these texts still stands somewhere in the file.

    A process of its own reads the file: were it opened and closed in this one, POSIX would drop every lock that SQLite
    holds on it here, and another process could damage it.
    """
    samples = {
        part.encode()
        for text in traces[:500]
        for part in (text[:40], text[len(text) // 2 :][:40], text[-40:])
        if len(part) >= 4
    }
    if not samples:
        return False
    asked = json.dumps([sample.hex() for sample in samples])
    command = [sys.executable, "-I", "-S", "-c", _SEARCH, db.path]
    try:
        found = subprocess.run(command, input=asked, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        return True
    return found.returncode != 11
