"""A bank of cached attention keys and values, read by the chunk: what LongMem keeps of a text that left its window.

Each row is a stream of its own. Its tokens lie in chunks of `chunk_tokens` in the order in which they were written, so that
writing in pieces equals writing at once; past `capacity_tokens` the oldest chunk makes room. A query finds the chunks whose
mean key has the largest inner product with it, and attends to their tokens. Storage grows with what is written.

`device` is where keys and values lie ("cpu" for banks larger than an accelerator's memory); the means of the chunks, by
which one searches, lie where the queries are. Search is exact, or by a graph of usearch for each row and head
(`search="usearch"`, on the CPU, approximate).

Cost: capacity * heads * head size * 2 values, and the means, a 2 * `chunk_tokens`-th part in float32; a query costs one
inner product a chunk, and reads the tokens of the chunks found.

Shapes: B rows, H query heads, G key-value heads, T queries, D head size, C chunks of storage, P tokens of a chunk, K chunks
that are found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recollect.errors import InvalidInput, NotFound, Unavailable
from recollect.native import load_usearch

SEARCHES = ("exact", "usearch")
_SCORES = 1 << 26  # inner products at a time
_GATHERED = 1 << 24  # numbers of retrieved keys at a time
_FORMAT = "recollect-bank-1"


class MemoryBank:
    """Keys and values of past tokens, one stream a row; `search` for chunks, `attend` to what they hold.

    A bank of one row may be read by any number of rows of queries: knowledge that they share.
    """

    written: list[int]  # tokens ever written, of each row
    keys: Any  # [B, G, C, P, D], or None while nothing is written
    values: Any  # as keys
    means: Any  # [B, G, C, D] float32
    filled: Any  # [B, C]: tokens in each chunk

    def __init__(
        self, capacity_tokens: int = 65536, chunk_tokens: int = 4, search: str = "exact", device: str | None = None
    ):
        """`device`: where keys and values lie; None: where they come from. Raises InvalidInput, Unavailable."""
        if chunk_tokens < 1 or capacity_tokens < chunk_tokens:
            raise InvalidInput(f"capacity_tokens: {capacity_tokens} holds no chunk of {chunk_tokens}; use more.")
        if search not in SEARCHES:
            raise InvalidInput(f"search: {search!r:.20} is not known; use one of {', '.join(SEARCHES)}.")
        self.capacity_tokens, self.chunk_tokens, self.search_kind = capacity_tokens, chunk_tokens, search
        self.device = device
        self._graphs = _Graphs() if search == "usearch" else None
        self.clear()

    @property
    def num_rows(self) -> int:
        """Streams; 0 before anything is written."""
        return len(self.written)

    def __len__(self) -> int:
        """Tokens that are held, of all rows."""
        return 0 if self.keys is None else int(self.filled.sum())

    def size_bytes(self) -> int:
        """Bytes of keys, values and means, as allocated."""
        if self.keys is None:
            return 0
        return sum(part.numel() * part.element_size() for part in (self.keys, self.values, self.means))

    def held(self, rows: int) -> Tensor:
        """[rows] bool: which of so many rows of queries have something to read. Raises InvalidInput for a wrong number."""
        if self.keys is None:
            return torch.zeros(rows, dtype=torch.bool)
        if self.num_rows not in (1, rows):
            raise InvalidInput(f"memory: it holds {self.num_rows} streams, which {rows} rows of queries cannot read.")
        return (self.filled > 0).any(dim=1).expand(rows)

    def clear(self, rows: list[int] | None = None) -> None:
        """Empty some rows, or the whole bank (None), which then takes any number of rows."""
        if rows is None:
            self.written = []
            for name in ("keys", "values", "means", "filled"):
                setattr(self, name, None)
            if self._graphs is not None:
                self._graphs.clear(None)
            return
        for row in rows if self.keys is not None else []:
            self.written[row] = 0
            self.filled[row] = 0
            for name in ("keys", "values", "means"):
                getattr(self, name)[row] = 0
            if self._graphs is not None:
                self._graphs.clear(row)

    def forget(self, row: int, start: int, stop: int) -> int:
        """Erase every chunk of a row that holds some of the tokens `start` to `stop` - 1 of its stream, as counted by
        `positions`; returns how many tokens are gone. What is written afterwards begins a new chunk."""
        if self.keys is None or stop <= start:
            return 0
        P, C = self.chunk_tokens, self.keys.shape[2]
        last = -(-self.written[row] // P)
        chunks = torch.arange(max(start // P, last - C, 0), min(-(-stop // P), last), device=self.filled.device)
        slots = chunks % C
        gone = int(self.filled[row, slots].sum())
        self.filled[row, slots] = 0
        for name in ("keys", "values", "means"):
            part = getattr(self, name)
            part[row][:, slots.to(part.device)] = 0
        if self._graphs is not None:
            self._graphs.drop(row, slots)
        if len(chunks) and chunks[-1] == last - 1:
            self.written[row] = last * P
        return gone

    def add(self, keys: Tensor, values: Tensor, keep: Tensor | None = None) -> None:
        """Append tokens: keys and values [B, G, T, D], not rotated; `keep` [B, T] is False at what is passed over.

        Raises InvalidInput when the number of rows is not that of the bank.
        """
        B, _, T, _ = keys.shape
        if self.keys is not None and self.num_rows != B:
            raise InvalidInput(f"memory: it holds {self.num_rows} streams; {B} cannot be written to it.")
        keys, values = keys.detach(), values.detach()
        counts = [T] * B if keep is None else keep.sum(dim=1).tolist()
        self._make_room(keys, max((old + new for old, new in zip(self.written or [0] * B, counts, strict=True))))
        for row, count in enumerate(counts):
            if count:
                kept = slice(None) if keep is None or count == T else keep[row].nonzero()[:, 0]
                self._append(row, keys[row][:, kept], values[row][:, kept], count)

    def _append(self, row: int, keys: Tensor, values: Tensor, count: int) -> None:
        """Tokens [G, count, D] to a row."""
        P, C = self.chunk_tokens, self.keys.shape[2]
        old = self.written[row]
        new = self.written[row] = old + count
        last = -(-new // P)  # chunks so far
        first = max(old // P, last - C)
        at = torch.arange(max(old, first * P), new)
        place = ((at // P) % C).to(self.keys.device)
        inside = (at % P).to(self.keys.device)
        for part, given in ((self.keys, keys), (self.values, values)):
            part[row][:, place, inside] = given[:, count - len(at) :].to(part.device, part.dtype)
        chunks = torch.arange(first, last)
        filled, slots = (new - chunks * P).clamp(max=P), chunks % C
        self.filled[row, slots.to(self.filled.device)] = filled.to(self.filled.device)
        slots, filled = slots.to(self.keys.device), filled.to(self.keys.device)
        there = torch.arange(P, device=filled.device) < filled[:, None]  # [chunks, P]
        block = self.keys[row][:, slots].float() * there[..., None]
        means = (block.sum(dim=2) / filled[:, None]).to(self.means.device)
        self.means[row][:, slots.to(self.means.device)] = means
        if self._graphs is not None:
            self._graphs.put(row, slots, means)

    def _make_room(self, like: Tensor, tokens: int) -> None:
        """Storage for so many tokens a row, at most the capacity."""
        B, G, _, D = like.shape
        P, most = self.chunk_tokens, self.capacity_tokens // self.chunk_tokens
        have = 0 if self.keys is None else self.keys.shape[2]
        need = min(-(-tokens // P), most)
        if need <= have:
            return
        C = min(most, max(need, 2 * have))
        place = self.device or like.device
        bigger = {
            "keys": torch.zeros(B, G, C, P, D, dtype=like.dtype, device=place),
            "values": torch.zeros(B, G, C, P, D, dtype=like.dtype, device=place),
            "means": torch.zeros(B, G, C, D, device=like.device),
            "filled": torch.zeros(B, C, dtype=torch.long, device=like.device),
        }
        for name, tensor in bigger.items():
            if have:
                (tensor[:, :have] if name == "filled" else tensor[:, :, :have]).copy_(getattr(self, name))
            setattr(self, name, tensor)
        self.written = self.written or [0] * B

    def search(self, queries: Tensor, num_chunks: int) -> tuple[Tensor, Tensor]:
        """(slots [B, H, T, K], which of them hold something [B, H, T, K]) of the chunks nearest to `queries` [B, H, T, D].

        K is `num_chunks`, or the chunks of storage if these are fewer. A query head searches its key-value head's chunks.
        """
        B, H, T, D = queries.shape
        G, C = self.means.shape[1:3]
        if self._graphs is not None:
            return self._graphs.search(queries.detach(), G, min(num_chunks, C), self.num_rows)
        grouped = queries.detach().float().reshape(B, G, H // G * T, D)
        empty = (self.filled == 0)[:, None, None]
        found = []
        for start in range(0, grouped.shape[2], step := max(1, _SCORES // (B * G * C))):
            scores = grouped[:, :, start : start + step] @ self.means.transpose(-1, -2)
            found.append(scores.masked_fill_(empty, -torch.inf).topk(min(num_chunks, C), dim=-1))
        slots = torch.cat([each.indices for each in found], dim=2).view(B, H, T, -1)
        scores = torch.cat([each.values for each in found], dim=2).view(B, H, T, -1)
        return slots, scores > -torch.inf

    def positions(self, slots: Tensor) -> Tensor:
        """The place in its stream of the first token of each chunk: `slots` [B, H, T, K] to numbers of the same shape."""
        P, C = self.chunk_tokens, self.keys.shape[2]
        newest = torch.tensor([-(-written // P) - 1 for written in self.written], device=slots.device)
        newest = newest.view(-1, 1, 1, 1)
        return (newest - (newest - slots) % C) * P

    def attend(
        self, queries: Tensor, num_chunks: int, scaling: float, softcap: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """(output [B, H, T, D], slots [B, H, T, K]): each query's softmax over the tokens of the chunks nearest to it.

        `queries` [B, H, T, D] are not rotated. Gradients pass through the queries, not through the choice nor into the
        bank; what was gathered is gathered anew for them. Rows without memory give zeros.
        """
        slots, there = self.search(queries, num_chunks)
        B, H, T, D = queries.shape
        step = max(1, _GATHERED // (B * H * D * slots.shape[3] * self.chunk_tokens))
        outputs = []
        for start in range(0, T, step):
            cut = slice(start, start + step)
            given = (queries[:, :, cut], slots[:, :, cut], there[:, :, cut], scaling, softcap)
            if torch.is_grad_enabled() and queries.requires_grad:
                outputs.append(checkpoint(self._mix, *given, use_reentrant=False))
            else:
                outputs.append(self._mix(*given))
        return torch.cat(outputs, dim=2), slots

    def _mix(self, queries: Tensor, slots: Tensor, there: Tensor, scaling: float, softcap: float | None) -> Tensor:
        keys, values, real = self.read(slots, there, queries.dtype)
        scores = (keys @ queries[..., None])[..., 0].float() * scaling
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        weights = torch.softmax(scores.masked_fill(~real, torch.finfo(scores.dtype).min), dim=-1) * real
        return (weights.to(values.dtype)[..., None, :] @ values)[..., 0, :]

    def read(self, slots: Tensor, there: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values [B, H, T, K * P, D] of chunks [B, H, T, K], and which of them are tokens [B, H, T, K * P]."""
        B, H, T, _ = slots.shape
        G, P = self.keys.shape[1], self.chunk_tokens
        row = (torch.arange(B) if self.num_rows == B else torch.zeros(B, dtype=torch.long))[:, None, None, None]
        head = (torch.arange(H) // (H // G))[None, :, None, None]
        filled = self.filled[row.to(slots.device), slots]
        real = (torch.arange(P, device=slots.device) < filled[..., None]) & there[..., None]
        at = slots.to(self.keys.device)
        row, head = row.to(at.device), head.to(at.device)
        keys, values = (
            part[row, head, at].to(slots.device, dtype).view(B, H, T, -1, part.shape[-1])
            for part in (self.keys, self.values)
        )
        return keys, values, real.view(B, H, T, -1)

    def save(self, path: str | Path) -> None:
        """Write the bank to a safetensors file; what a model still has in its window is not in it."""
        from safetensors.torch import save_file

        tensors = {"written": torch.tensor(self.written, dtype=torch.long)}
        if self.keys is not None:
            tensors |= {name: getattr(self, name).cpu().contiguous() for name in ("keys", "values", "means", "filled")}
        about = {"format": _FORMAT, "capacity": str(self.capacity_tokens), "chunk": str(self.chunk_tokens)}
        save_file(tensors, str(path), metadata=about)

    def load(self, path: str | Path, device: str | torch.device | None = None) -> None:
        """Take over the bank in a file; `device` is where queries will be (None: the CPU).

        Raises NotFound without such a file, InvalidInput when it is no bank or one of other sizes; nothing is changed then.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise NotFound(f"path: there is no memory in {path}.")
        try:
            with safe_open(str(path), framework="pt") as file:
                about, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise InvalidInput(f"path: {path} cannot be read ({error}).") from None
        sizes = (_FORMAT, str(self.capacity_tokens), str(self.chunk_tokens))
        if (about.get("format"), about.get("capacity"), about.get("chunk")) != sizes:
            raise InvalidInput(f"path: {path} is no memory of {sizes[1]} tokens in chunks of {sizes[2]}.")
        self.clear()
        self.written = tensors.pop("written").tolist()
        for name, tensor in tensors.items():
            setattr(self, name, tensor.to(self.device or device or "cpu" if name in ("keys", "values") else device))
        if self._graphs is not None:
            for row in range(self.num_rows):
                slots = self.filled[row].nonzero()[:, 0]
                self._graphs.put(row, slots, self.means[row][:, slots])


class _Graphs:
    """A graph of usearch over the chunk means of each row and head."""

    def __init__(self):
        try:
            self._make = load_usearch()
        except ImportError:
            raise Unavailable('search: usearch is not installed; `pip install "recollect[scale]"` brings it.') from None
        self._graphs: dict[tuple[int, int], Any] = {}

    def clear(self, row: int | None) -> None:
        """Drop the graphs of a row, or all (None)."""
        self._graphs = {} if row is None else {at: graph for at, graph in self._graphs.items() if at[0] != row}

    def drop(self, row: int, slots: Tensor) -> None:
        """Take the chunks in slots [n] of a row out."""
        for at, graph in self._graphs.items():
            if at[0] == row and len(slots):
                graph.remove(slots.cpu().numpy())

    def put(self, row: int, slots: Tensor, means: Tensor) -> None:
        """Place the means [G, n, D] of chunks, over those that were in their slots [n]."""
        at = slots.cpu().numpy()
        for head, vectors in enumerate(means.float().cpu().numpy()):
            graph = self._graphs.get((row, head))
            if graph is None:
                graph = self._graphs[row, head] = self._make(ndim=vectors.shape[1], metric="ip", dtype="f32")
            graph.remove(at)
            graph.add(at, vectors)

    def search(self, queries: Tensor, num_heads: int, num_chunks: int, num_rows: int) -> tuple[Tensor, Tensor]:
        """As MemoryBank.search, of queries [B, H, T, D]."""
        B, H, T, D = queries.shape
        slots = torch.zeros(B, H, T, num_chunks, dtype=torch.long)
        there = torch.zeros(B, H, T, num_chunks, dtype=torch.bool)
        grouped = queries.float().cpu().reshape(B, num_heads, H // num_heads, T, D)
        for row in range(B):
            for head in range(num_heads):
                graph = self._graphs.get((row if num_rows == B else 0, head))
                if graph is None or not len(graph):
                    continue
                vectors = grouped[row, head].reshape(-1, D).numpy()
                found = graph.search(vectors, min(num_chunks, len(graph)))
                keys = torch.from_numpy(found.keys.astype("int64")).view(H // num_heads, T, -1)
                counts = torch.as_tensor(getattr(found, "counts", [keys.shape[2]]), dtype=torch.long).view(-1)
                counts = counts.expand(len(vectors)).reshape(H // num_heads, T, 1)
                real = torch.arange(keys.shape[2]) < counts
                part = slice(head * (H // num_heads), (head + 1) * (H // num_heads))
                slots[row, part, :, : keys.shape[2]] = keys.where(real, 0)
                there[row, part, :, : keys.shape[2]] = real
        return slots.to(queries.device), there.to(queries.device)
