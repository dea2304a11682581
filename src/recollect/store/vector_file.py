"""The file of the vector index: its header, and writing bytes at a place."""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recollect.errors import StorageFailed

_MAGIC = b"RCLVEC1\0"
_HEADER = struct.Struct("<8sI16sQQQ")  # magic, dimension, identity, serial, count, erasures; then a CRC-32
HEADER_BYTES = 4096  # before the first row
CHECKED_BYTES = _HEADER.size + 4  # of a header and its checksum


@dataclass(frozen=True, slots=True)
class Header:
    """What the file begins with: whose vectors these are, and how many of its rows are valid."""

    identity: bytes  # 16 bytes: a hash of the database, the embedder and the dimension
    dim: int
    serial: int  # a random number of this file
    count: int = 0  # rows 0 to count - 1 are valid
    erasures: int = 0

    def to_bytes(self) -> bytes:
        """The header with its checksum, CHECKED_BYTES long."""
        packed = _HEADER.pack(_MAGIC, self.dim, self.identity, self.serial, self.count, self.erasures)
        return packed + zlib.crc32(packed).to_bytes(4, "little")

    @classmethod
    def from_bytes(cls, data: bytes) -> Header | None:
        """The header, or None when the bytes are not one."""
        packed, checksum = data[: _HEADER.size], data[_HEADER.size : _HEADER.size + 4]
        if len(checksum) < 4 or zlib.crc32(packed).to_bytes(4, "little") != checksum:
            return None
        magic, dim, identity, serial, count, erasures = _HEADER.unpack(packed)
        return cls(identity, dim, serial, count, erasures) if magic == _MAGIC else None


def runs(ids: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first, last) of the runs of consecutive numbers in sorted ids."""
    for run in np.split(ids, np.flatnonzero(np.diff(ids) != 1) + 1):
        if len(run):
            yield int(run[0]), int(run[-1])


def write_at(file: int, data: bytes, offset: int) -> None:
    """Write all of some bytes at a place."""
    os.lseek(file, offset, os.SEEK_SET)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into StorageFailed, naming the file."""
    try:
        yield
    except StorageFailed:
        raise
    except OSError as error:
        raise StorageFailed(f"index {path}: cannot be written ({error}); is the disk full or read-only?") from error
