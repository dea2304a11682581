"""The dense index: unit vectors in int8 in one memory-mapped file beside the database, scanned exactly or through usearch.

A cache: the truth is the database, and whatever is missing, stale or damaged here is made again from it. Row r - 1 of the
file holds chunk r, so that ids need no table; a deleted chunk leaves a row of zeros, which is never found.

`vectors.i8` is a header page (magic, version, dimension, whose vectors these are, a random number of this file, the count
of valid rows, the count of erasures, a checksum) and then the rows: D int8 numbers and the float32 step that they count
in. The count is written after the rows have reached the disk, so that a crash at any moment leaves whole rows and a true
count, or a header whose checksum is wrong and a file that is made again. Writers hold a lock file, readers none; nothing
is ever truncated under a reader, a file that is made again gets a new inode, and readers look for that at every search.

Exact search (`scan.py`) takes 5 ms for 100,000 rows of 384 on two cores, 8 on one, with a quarter of the memory of float32 rows.
Against float32 it finds 99% of the best 10 and of the best 200. From APPROXIMATE_FROM rows on, `build_approximate` makes a
graph over the rows that are there (`approximate.py`) or extends the one that there is; rows that came later are scanned
exactly beside it, and what it finds is scored from the rows. Erasing drops the graph, whose file would keep the bytes.

Shapes: N rows, D the embedder's dimension, k results. Ids are int64 and start at 1.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from recollect.errors import StorageFailed
from recollect.store import approximate, scan
from recollect.store.vector_file import CHECKED_BYTES, HEADER_BYTES, Header, runs, storage, write_at

Fetch = Callable[[int, int], Iterable[tuple[np.ndarray, np.ndarray]]]

APPROXIMATE_FROM = 500_000  # rows; an exact scan of fewer takes less than 50 ms on two cores

_SLICE_ROWS = 16_384  # that `verify` compares at a time
_GATHER_SHARE = 0.3  # below this share of rows allowed, they are gathered; above, everything is scanned
_BESIDE_SHARE = 0.2  # of the rows that may be scanned beside the graph before it is extended
_LOCK_TIMEOUT_S = 600


class VectorIndex:
    """The vectors of one database and embedder. Processes may share the folder; an instance belongs to one thread at a time.

    Every method that writes raises StorageFailed when the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], *, database_uuid: str, embedder_name: str, dim: int):
        """`folder` is made at the first write. Files that belong to another database or embedder count as absent."""
        self._folder = Path(folder)
        self._path = self._folder / "vectors.i8"
        self._dim = dim
        self._identity = hashlib.blake2b(f"{database_uuid}\0{embedder_name}\0{dim}".encode(), digest_size=16).digest()
        self._row = np.dtype([("values", "i1", (dim,)), ("step", "<f4")])
        self._mapped: np.ndarray | None = None
        self._mapped_file: tuple[int, int] | None = None  # device and inode
        self._graph = approximate.Graph(self._folder, dim)

    # Writing

    def sync(self, last_id: int, fetch: Fetch) -> int:
        """Append the rows up to `last_id` that are missing; returns how many ids were added, holes included.

        `fetch(first, last)` yields (ids (n,) ascending, vectors (n, D)) of what the database holds within first..last.
        """
        header = self._refresh()
        if header is not None and header.count >= last_id:
            return 0
        with self._writing() as file:
            header = self._usable_header(file)
            first = header.count + 1
            for ids, vectors in fetch(first, last_id):
                header = self._append(file, header, np.asarray(ids, np.int64), vectors)
            if header.count < last_id:
                header = self._append(file, header, np.array([last_id]), np.zeros((1, self._dim), np.float32))
            return header.count + 1 - first

    def erase(self, ids: Iterable[int]) -> list[str]:
        """Overwrite the rows of deleted chunks with zeros, on the disk; returns the files that were changed or removed.

        An id that is not in the file yet is noted, lest a reader with an older view of the database adds it later.
        """
        doomed = np.unique(np.fromiter((int(id_) for id_ in ids), np.int64))
        if not len(doomed) or not self._path.exists():
            return []
        with self._writing() as file:
            header = self._usable_header(file)
            changed = self._graph.remove()
            num_rows = (os.fstat(file).st_size - HEADER_BYTES) // self._row.itemsize
            inside = doomed[(doomed >= 1) & (doomed <= num_rows)]
            for first, last in runs(inside):
                zeros = bytes((last - first + 1) * self._row.itemsize)
                write_at(file, zeros, HEADER_BYTES + (first - 1) * self._row.itemsize)
            if len(inside):
                changed.append(str(self._path))
            later = doomed[doomed > header.count]
            if len(later):
                with self._erased_path().open("ab") as noted:
                    noted.write(later.astype("<i8").tobytes())
                    noted.flush()
                    os.fsync(noted.fileno())
            os.fsync(file)
            self._write_header(file, replace(header, erasures=header.erasures + 1))
            os.fsync(file)
        return changed

    def drop(self) -> None:
        """Remove every file of the index; the next `sync` makes them again."""
        if not self._folder.exists():
            return
        with self._locked():
            self._remove()

    def num_unlinked(self, count: int) -> int:
        """How many of `count` rows are not in the approximate index; 0 when they are too few to matter, or it cannot be made."""
        if count < APPROXIMATE_FROM or not approximate.available():
            return 0
        num_beside = count - (self._graph.num_rows if self._open_graph(self._refresh()) else 0)
        return num_beside if num_beside > _BESIDE_SHARE * count else 0

    def build_approximate(self, progress: Callable[[int], None] | None = None) -> bool:
        """Make the approximate index over the rows that are there, or extend it; False when they are few or usearch is missing.

        `progress` is told how many rows were added each time. Others may read and write meanwhile.
        """
        header = self._refresh()
        if header is None or header.count < APPROXIMATE_FROM or not approximate.available():
            return False
        assert self._mapped is not None
        rows = self._mapped[: header.count]
        self._open_graph(header)
        with storage(self._folder):
            temporary = self._graph.build(rows, progress)
        with self._locked(), storage(temporary):
            now = self._read_header()
            if now is None or (now.serial, now.erasures) != (header.serial, header.erasures):
                temporary.unlink(missing_ok=True)
                return False
            self._graph.publish(temporary, header.serial, header.erasures, header.count)
        return True

    # Reading

    def search(self, query: np.ndarray, k: int, *, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The k best (ids int64, cosines float32), best first; fewer when there are fewer.

        `query` is a unit vector (D,). `allowed` restricts the search to these ids, sorted; None is all.
        """
        header = self._refresh()
        count = header.count if header else 0
        if allowed is not None:
            allowed = np.asarray(allowed, np.int64)
            allowed = allowed[np.searchsorted(allowed, 1) : np.searchsorted(allowed, count, "right")]
        num_wanted = count if allowed is None else len(allowed)
        if not num_wanted or k < 1:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        assert self._mapped is not None
        query = np.ascontiguousarray(query, np.float32)
        if num_wanted >= max(APPROXIMATE_FROM, count // 2) and self._open_graph(header):
            found = self._graph.candidates(query, k * count // num_wanted, count)
            if allowed is not None:
                found = found[np.isin(found, allowed, assume_unique=True)]
            ids, scores = scan.best(found, scan.scores(self._mapped, query, found), k)
            if len(ids) == min(k, num_wanted):
                return ids, scores
        if allowed is None:
            return scan.best(None, scan.scores(self._mapped[:count], query), k)
        if len(allowed) < _GATHER_SHARE * count:
            return scan.best(allowed, scan.scores(self._mapped, query, allowed), k)
        return scan.best(allowed, scan.scores(self._mapped[:count], query)[allowed - 1], k)

    def get(self, ids: Iterable[int]) -> np.ndarray:
        """The vectors of ids, float32 (n, D), as the index holds them; zeros for an id that it does not have."""
        wanted = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), np.int64)
        header = self._refresh()
        outside = (wanted < 1) | (wanted > (header.count if header else 0))
        if outside.all():
            return np.zeros((len(wanted), self._dim), np.float32)
        assert self._mapped is not None
        rows = self._mapped[np.where(outside, 1, wanted) - 1]
        return np.multiply(rows["values"], np.where(outside, 0, rows["step"])[:, None], dtype=np.float32)

    @property
    def approximate(self) -> bool:
        """Whether a search over everything goes through the approximate index."""
        header = self._refresh()
        return header is not None and header.count >= APPROXIMATE_FROM and self._open_graph(header)

    @property
    def note(self) -> str | None:
        """What would make searching faster, as a sentence; None when nothing would."""
        header = self._refresh()
        if header is None or header.count < APPROXIMATE_FROM or self.approximate:
            return None
        if not approximate.available():
            return f'{header.count:,} vectors are scanned exactly; `pip install "recollect[scale]"`, then `recollect reindex`.'
        return f"{header.count:,} vectors are scanned exactly; `recollect reindex` builds the approximate index."

    def size_bytes(self) -> int:
        """Bytes of the index's files."""
        return sum(path.stat().st_size for path in self._folder.glob("*") if path.is_file())

    def verify(self, last_id: int, fetch: Fetch) -> np.ndarray:
        """The ids whose row is not what the database holds: missing, different, or there without being in the database.

        Arguments as for `sync`. Cost: one pass over both.
        """
        header = self._refresh()
        count = header.count if header else 0
        wrong: list[np.ndarray] = []
        next_id = 1
        for ids, vectors in fetch(1, max(last_id, count)):
            ids = np.asarray(ids, np.int64)
            expected = np.zeros(int(ids[-1]) - next_id + 1, self._row)
            expected[ids - next_id] = self._encode(vectors)
            wrong.append(self._differing(expected, next_id, count))
            next_id = int(ids[-1]) + 1
        while next_id <= count:
            expected = np.zeros(min(count - next_id + 1, _SLICE_ROWS), self._row)
            wrong.append(self._differing(expected, next_id, count))
            next_id += len(expected)
        return np.concatenate(wrong) if wrong else np.empty(0, np.int64)

    # Inside

    def _differing(self, expected: np.ndarray, first_id: int, count: int) -> np.ndarray:
        """Ids from `first_id` on whose row is not the expected one."""
        held = np.zeros_like(expected)
        num_held = min(max(count - first_id + 1, 0), len(expected))
        if num_held:
            assert self._mapped is not None
            held[:num_held] = self._mapped[first_id - 1 : first_id - 1 + num_held]
        differs = (held["values"] != expected["values"]).any(1) | (held["step"] != expected["step"])
        return first_id + np.flatnonzero(differs)

    def _encode(self, vectors: np.ndarray) -> np.ndarray:
        """Rows (n,) of the file from vectors (n, D): each counts in steps of 1/127 of its largest number."""
        vectors = np.asarray(vectors, np.float32)
        rows = np.zeros(len(vectors), self._row)
        rows["step"] = np.abs(vectors).max(1) / 127
        rows["values"] = np.rint(vectors / np.where(rows["step"] > 0, rows["step"], 1)[:, None])
        return rows

    def _append(self, file: int, header: Header, ids: np.ndarray, vectors: np.ndarray) -> Header:
        """Write the rows after the header's count up to the last of `ids`, then the new count."""
        rows = np.zeros(int(ids[-1]) - header.count, self._row)
        rows[ids - header.count - 1] = self._encode(vectors)
        with contextlib.suppress(FileNotFoundError):
            erased = np.frombuffer(self._erased_path().read_bytes(), "<i8") - header.count - 1
            rows[erased[(erased >= 0) & (erased < len(rows))]] = 0
        write_at(file, rows.tobytes(), HEADER_BYTES + header.count * self._row.itemsize)
        os.fsync(file)
        header = replace(header, count=int(ids[-1]))
        self._write_header(file, header)
        return header

    def _open_graph(self, header: Header | None) -> bool:
        """Have the graph of this file and of its last erasure in hand, if there is one."""
        return header is not None and self._graph.open(header.serial, header.erasures)

    def _refresh(self) -> Header | None:
        """The header as it is now, with all its rows mapped; None when there is nothing of use."""
        header = self._read_header()
        if header is None:
            self._mapped = self._mapped_file = None
            return None
        info = self._path.stat()
        inode = (info.st_dev, info.st_ino)
        if self._mapped is None or self._mapped_file != inode or len(self._mapped) < header.count:
            num_rows = (info.st_size - HEADER_BYTES) // self._row.itemsize
            if num_rows < header.count:
                return None
            # A plain view of the map: memmap's own indexing is slower.
            self._mapped = (
                np.memmap(self._path, self._row, "r", HEADER_BYTES, num_rows).view(np.ndarray)
                if num_rows
                else (np.zeros(0, self._row))
            )
            self._mapped_file = inode
        return header

    def _read_header(self) -> Header | None:
        try:
            with self._path.open("rb", buffering=0) as file:
                for _ in range(3):  # a header may be read while it is being written
                    file.seek(0)
                    header = Header.from_bytes(file.read(CHECKED_BYTES) or b"")
                    if header is not None:
                        break
        except OSError:
            return None
        return header if header is not None and header.identity == self._identity else None

    def _write_header(self, file: int, header: Header) -> None:
        write_at(file, header.to_bytes(), 0)

    def _usable_header(self, file: int) -> Header:
        os.lseek(file, 0, os.SEEK_SET)
        header = Header.from_bytes(os.read(file, CHECKED_BYTES))
        assert header is not None
        return header

    def _erased_path(self) -> Path:
        return self._folder / "erased"

    def _remove(self) -> None:
        for path in (self._path, self._erased_path(), *self._graph.files()):
            with storage(path):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        from filelock import FileLock, Timeout

        with storage(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "lock"
        try:
            lock = FileLock(path, timeout=_LOCK_TIMEOUT_S)
            lock.acquire(poll_interval=0.01)
        except Timeout:
            raise StorageFailed(
                f"index {path}: another process holds it for {_LOCK_TIMEOUT_S} s; is one stuck?"
            ) from None
        except OSError as error:
            raise StorageFailed(f"index {path}: cannot be locked ({error}); make the folder writable.") from error
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[int]:
        """The file, open and locked, with a header of ours; what was there instead is removed."""
        with self._locked(), storage(self._path):
            header = self._read_header()
            whole = header is not None and (
                self._path.stat().st_size >= HEADER_BYTES + header.count * self._row.itemsize
            )
            if not whole:
                self._remove()
                temporary = self._folder / "vectors.tmp"
                fresh = Header(self._identity, self._dim, secrets.randbits(63))
                temporary.write_bytes(fresh.to_bytes().ljust(HEADER_BYTES, b"\0"))
                temporary.replace(self._path)
            file = os.open(self._path, os.O_RDWR | getattr(os, "O_BINARY", 0))
            try:
                yield file
            finally:
                os.close(file)
