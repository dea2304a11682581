"""LongMem: a frozen decoder writes what it read into a bank of keys and values; a small side network reads it back.

The text is read in windows of `segment_tokens`. The backbone, never changed, encodes a window; the keys and values of its
layer `memory_layer`, before rotation, go to the bank when their tokens leave the window. The side network has a `reduction`-th
of the layers, each begun as a copy of the last backbone layer of its share, and each is also given what the backbone's
layers of that share added (the cross-network residual). Its layer above `memory_layer` reads the bank: each token finds, for
each head, the `num_retrieved_tokens / chunk_tokens` chunks whose mean key is nearest, and a learned gate for each head mixes
what their tokens say into the attention to the window. Only the side network is trained (adapt.py). Since what is written
does not depend on it, the bank never becomes stale.

Paper: Augmenting Language Models with Long-Term Memory, arXiv:2306.07174 (2023), section 2; released code where it says more.
Differs: keys are kept without rotation and met by queries without it, where the paper's backbone uses ALiBi. The last
cross-network residual ends before the final norm (the released code after it). Each row has a bank of its own, and a bank
of one row may be shared. `overlap_tokens` keeps the end of a window as the beginning of the next (0 in the paper, where the
first token of a window sees only the bank). A memory layer that is not the last of its share is copied all the same.
Cost: the backbone's pass, half of it again for the side network, one inner product a chunk for each token and head; for the
bank see bank.py. Reading without logits costs the backbone up to the memory layer only.

Shapes: B rows, T new tokens, S tokens of the window, E width, V vocabulary, H query heads, G key-value heads, D head size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.cache_utils import DynamicCache

from recollect.errors import InvalidInput, NotFound
from recollect.state.bank import SEARCHES, MemoryBank
from recollect.state.decoder import decoder_of, first_layers, logits_of, read
from recollect.state.sidenet import SideNet


@dataclass(frozen=True)
class LongMemSettings:
    """How a LongMem is built and how it reads; the defaults are the paper's for language modelling."""

    memory_layer: int | None = None  # of the backbone, from 0; None: at three quarters (17 of 24)
    reduction: int = 2  # backbone layers for one side layer
    segment_tokens: int = 1024  # the window; at most what the backbone was trained to
    overlap_tokens: int = 0  # of a full window, that begin the next
    memory_tokens: int = 65536  # capacity of the bank, a row
    chunk_tokens: int = 4  # 2 for demonstrations
    num_retrieved_tokens: int = 64  # a token and head
    search: str = "exact"  # or "usearch"
    memory_device: str | None = None  # where keys and values are kept; None: with the model
    skip_special_tokens: bool = True  # begin, end and padding tokens, which attract attention, are not written

    def __post_init__(self):
        if self.search not in SEARCHES:
            raise InvalidInput(f"search: {self.search!r:.20} is not known; use one of {', '.join(SEARCHES)}.")
        if self.reduction < 1:
            raise InvalidInput(f"reduction: {self.reduction} is below 1.")
        if not 0 <= self.overlap_tokens < self.segment_tokens:
            raise InvalidInput(
                f"overlap_tokens: must be below segment_tokens, {self.segment_tokens}, and not negative."
            )
        if not 1 <= self.chunk_tokens <= min(self.num_retrieved_tokens, self.memory_tokens):
            raise InvalidInput("chunk_tokens: must be at least 1, and at most num_retrieved_tokens and memory_tokens.")


@dataclass
class LongMemOutput:
    """What a call gives: logits [B, T, V], and with labels the mean loss in nats."""

    logits: Tensor
    loss: Tensor | None = None


@dataclass
class Window:
    """What the rows still attend to directly: ids [B, S] and mask [B, S], False at padding.

    After a full pass also the memory layer's keys and values [B, G, S, D], and the cache of both networks.
    """

    ids: Tensor
    mask: Tensor
    keys: Tensor | None = None
    values: Tensor | None = None
    cache: Any = None


class LongMem(nn.Module):
    """A frozen decoder with a bank and a side network that reads it; made by `from_backbone` or `from_pretrained`.

    Rows of a batch are streams: each call goes on where the last one stopped, until `reset`. Rows may be padded on either
    side. `memory` is the bank, with `save`, `load` and `clear`; it may be replaced by another of the same sizes.
    """

    def __init__(self, backbone: Any, settings: LongMemSettings, dtype: torch.dtype | None = None):
        super().__init__()
        decoder = decoder_of(backbone)
        count = len(decoder.layers)
        layer = settings.memory_layer
        if layer is None:
            layer = max(round(0.75 * -(-count // settings.reduction)), 1) * settings.reduction - 1
            layer = min(layer, count - 1)
        if not 0 <= layer < count:
            raise InvalidInput(f"memory_layer: {layer} is not one of 0 to {count - 1}.")
        self.backbone, self.settings, self.memory_layer = backbone.eval(), settings, layer
        num_chunks = settings.num_retrieved_tokens // settings.chunk_tokens
        self.side = SideNet(decoder, settings.reduction, layer, num_chunks, dtype)
        self.memory = MemoryBank(settings.memory_tokens, settings.chunk_tokens, settings.search, settings.memory_device)
        self.window: Window | None = None
        config = decoder.config
        special = (config.bos_token_id, config.eos_token_id, config.pad_token_id)
        self._special = [
            token for each in special if each is not None for token in (each if isinstance(each, list) else [each])
        ]

    @classmethod
    def from_backbone(cls, model: Any, dtype: torch.dtype | None = None, **settings: Any) -> LongMem:
        """A LongMem on a decoder of transformers, the side network begun from its layers, in `dtype` (None: the model's).

        `settings` are those of LongMemSettings. The model is put into evaluation mode and else left alone. Raises
        InvalidInput for a model without rotary positions, or a setting that cannot be.
        """
        return cls(model, LongMemSettings(**settings), dtype)

    def train(self, mode: bool = True) -> LongMem:
        """Training mode for the side network; the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.side.parameters()).device

    # The stream.

    def reset(self, rows: list[int] | None = None, memory: bool = True) -> None:
        """Begin a new text in some rows, or in all (None); with `memory` False, what is in the bank stays."""
        if memory:
            self.memory.clear(rows)
        if rows is None:
            self.window = None
        elif self.window is not None:
            self.window.mask[rows] = False
            self.window.cache = None

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        write: bool = True,
        use_memory: bool = True,
    ) -> LongMemOutput:
        """Read on with tokens [B, T]; the loss is that of predicting labels [B, T] (-100: not counted) one token ahead.

        With `write` False, what leaves the window is dropped; with `use_memory` False, the bank is not read.
        """
        keep = self._mask(input_ids, attention_mask)
        logits: Tensor | None = None
        for now, ids, mask in self._pieces(input_ids, keep, write):
            if logits is not None and self.side.training and torch.is_grad_enabled():
                raise InvalidInput(
                    "input_ids: in training, give one window at a time; the bank changes between windows."
                )
            part = self._pass(ids, mask, use_memory)
            if now.all():
                logits = part
                break
            if logits is None:
                logits = part.new_zeros(*input_ids.shape, part.shape[-1])
            logits[now] = part[mask]
        if logits is None:
            raise InvalidInput("input_ids: hold no token.")
        loss = None
        if labels is not None:
            loss = cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
        return LongMemOutput(logits, loss)

    @torch.no_grad()
    def read(self, input_ids: Tensor, attention_mask: Tensor | None = None, write: bool = True) -> None:
        """Read on with tokens [B, T] without predicting any: the backbone up to the memory layer is all that runs."""
        for _, ids, mask in self._pieces(input_ids, self._mask(input_ids, attention_mask), write):
            self._extend(ids, mask)

    def advance(self, num_tokens: int, write: bool = True) -> None:
        """Move the windows on that cannot take so many tokens more, as reading on would do later."""
        if self.window is not None:
            full = self.window.mask.sum(dim=1) + num_tokens > self.settings.segment_tokens
            if full.any():
                self._move_on(full, write)

    def flush(self) -> None:
        """Write what is still in the window to the bank, and begin with an empty window."""
        if self.window is not None and self.window.mask.any():
            self._write(self.window.mask)
        self.window = None

    def memorize(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> None:
        """Write tokens [B, T], demonstrations for one, to the bank: `read` and `flush`."""
        self.read(input_ids, attention_mask)
        self.flush()

    def _mask(self, ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """[B, T] bool; begins the window of a new stream."""
        B = len(ids)
        if self.window is None:
            self.window = Window(ids.new_zeros(B, 0), torch.zeros(B, 0, dtype=torch.bool, device=ids.device))
        if len(self.window.ids) != B:
            raise InvalidInput(
                f"input_ids: {B} rows cannot go on with {len(self.window.ids)} streams; call reset first."
            )
        return torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()

    def _pieces(self, ids: Tensor, keep: Tensor, write: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Cut new tokens [B, T] so that each piece fits into the windows, which are moved on before a piece when full.

        Gives (where they stand in the input [B, T], ids and mask [B, P], padded on the left).
        """
        assert self.window is not None
        while keep.any():
            held = self.window.mask.sum(dim=1)
            full = (held == self.settings.segment_tokens) & keep.any(dim=1)
            if full.any():
                self._move_on(full, write)
                held = self.window.mask.sum(dim=1)
            now = keep & (keep.cumsum(dim=1) <= self.settings.segment_tokens - held[:, None])
            keep = keep & ~now
            yield now, *_pack(ids, now)

    def _move_on(self, full: Tensor, write: bool) -> None:
        """Let all but the last `overlap_tokens` leave the windows of some rows [B]."""
        window = self.window
        assert window is not None
        rank = window.mask.flip(1).cumsum(dim=1).flip(1)  # 1 at the last token
        leaving = window.mask & full[:, None] & (rank > self.settings.overlap_tokens)
        if write:
            self._write(leaving)
        self.window = Window(*_pack(window.ids, window.mask & ~leaving))

    @torch.no_grad()
    def _write(self, leaving: Tensor) -> None:
        """Write tokens of the window, where `leaving` [B, S], to the bank."""
        window = self.window
        assert window is not None
        if window.keys is None:
            view = first_layers(decoder_of(self.backbone), self.memory_layer + 1)
            reading = read(view, [self.memory_layer], **self._inputs(window.ids, window.mask))
            _, window.keys, window.values = reading.heads[self.memory_layer]
        assert window.values is not None
        if self.settings.skip_special_tokens:
            leaving = leaving & ~torch.isin(window.ids, torch.tensor(self._special, device=window.ids.device))
        self.memory.add(window.keys, window.values, leaving)

    def _extend(self, ids: Tensor, mask: Tensor) -> None:
        """Put tokens [B, P] into the window; what a pass would have given is made when it is needed."""
        window = self.window
        assert window is not None
        self.window = Window(*_pack(torch.cat([window.ids, ids], dim=1), torch.cat([window.mask, mask], dim=1)))

    def _pass(self, ids: Tensor, mask: Tensor, use_memory: bool) -> Tensor:
        """Logits [B, P, V] of new tokens, which fit into the window, by both networks."""
        window = self.window
        assert window is not None
        if window.cache is None or _gaps(torch.cat([window.mask, mask], dim=1)):
            self._extend(ids, mask)
            window = self.window
            assert window is not None
            window.cache = DynamicCache()
            new = window.ids
        else:
            new = ids
            window.ids = torch.cat([window.ids, ids], dim=1)
            window.mask = torch.cat([window.mask, mask], dim=1)
        inputs = self._inputs(new, window.mask)
        reading = read(decoder_of(self.backbone), [self.memory_layer], **inputs, cache=window.cache)
        _, keys, values = reading.heads[self.memory_layer]
        window.keys = keys if window.keys is None else torch.cat([window.keys, keys], dim=2)
        window.values = values if window.values is None else torch.cat([window.values, values], dim=2)
        hidden = self.side(reading, self.memory if use_memory else None, window.cache)
        for layer in window.cache.layers[-len(self.side.layers) :]:
            layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
        return logits_of(self.backbone, hidden[:, -ids.shape[1] :])

    def _inputs(self, ids: Tensor, window: Tensor) -> dict[str, Any]:
        """The decoder's inputs for tokens [B, P] at the end of a window, whose mask is [B, S]."""
        window = window | ~window.any(dim=1, keepdim=True)  # a row without tokens shall have something to attend to
        places = (window.cumsum(dim=1) - 1).clamp(min=0)[:, window.shape[1] - ids.shape[1] :]
        return {"input_ids": ids, "attention_mask": None if window.all() else window.long(), "position_ids": places}

    # Generation.

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        max_new_tokens: int = 64,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        eos_token_id: int | None = None,
        write: bool = True,
        use_memory: bool = True,
    ) -> Tensor:
        """Read tokens [B, T] and go on; returns what is new, [B, up to `max_new_tokens`], padded after the end.

        Greedy, or sampled from the least set of tokens that holds `top_p` of the chance. `eos_token_id` None: the
        model's. The stream then stands behind the reply. Raises InvalidInput for a row without tokens.
        """
        config = self.backbone.config
        ends = config.eos_token_id if eos_token_id is None else eos_token_id
        ends = torch.tensor([] if ends is None else ends, dtype=torch.long, device=input_ids.device).view(-1)
        keep = self._mask(input_ids, attention_mask)
        if not keep.any(dim=1).all():
            raise InvalidInput("input_ids: a row holds no token to go on from.")
        if max_new_tokens < 1 or temperature <= 0:
            raise InvalidInput("max_new_tokens: it and temperature must be above 0.")
        ids, keep = _pack(input_ids, keep)
        if ids.shape[1] > 1:
            self.read(ids[:, :-1], keep[:, :-1], write)
        last, going, made = ids[:, -1:], keep[:, -1:], []
        final = last
        while len(made) < max_new_tokens and going.any():
            scores = self(last, going, write=write, use_memory=use_memory).logits[:, -1].float()
            last = _choose(scores, temperature, top_p) if do_sample else scores.argmax(dim=-1, keepdim=True)
            last = last.where(going, config.pad_token_id or 0)
            made.append(last)
            final = last.where(going, final)
            going = going & ~torch.isin(last, ends)
        self.read(final, write=write)
        return torch.cat(made, dim=1)

    # Files.

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the side network and the settings into a folder; the backbone is not copied."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        about = asdict(self.settings) | {
            "memory_layer": self.memory_layer,
            "dtype": str(next(self.side.parameters()).dtype),
        }
        (folder / "longmem.json").write_text(json.dumps(about, indent=2) + "\n", "utf-8")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.side.state_dict().items()}
        save_file(tensors, str(folder / "side.safetensors"))

    @classmethod
    def from_pretrained(cls, folder: str | Path, backbone: Any) -> LongMem:
        """The LongMem in a folder, on the backbone that it was made with.

        Raises NotFound without such a folder, InvalidInput for a backbone of another shape.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        if not (folder / "longmem.json").is_file():
            raise NotFound(f"folder: there is no side network in {folder}.")
        about = json.loads((folder / "longmem.json").read_text("utf-8"))
        dtype = getattr(torch, about.pop("dtype").removeprefix("torch."))
        made = cls(backbone, LongMemSettings(**about), dtype)
        try:
            made.side.load_state_dict(load_file(str(folder / "side.safetensors")))
        except RuntimeError:
            raise InvalidInput(f"backbone: the side network in {folder} was made for another.") from None
        return made


def _gaps(mask: Tensor) -> bool:
    """Whether padding stands between tokens of a row, where windows of attention would count it."""
    count = mask.cumsum(dim=1)
    return bool((~mask & (count > 0) & (count < count[:, -1:])).any())


def _pack(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens where `mask` [B, S], in their order, with padding on the left: ids and mask [B, most in a row]."""
    most = int(mask.sum(dim=1).max()) if mask.shape[1] else 0
    order = mask.long().argsort(dim=1, stable=True)[:, mask.shape[1] - most :]
    return ids.gather(1, order), mask.gather(1, order)


def _choose(scores: Tensor, temperature: float, top_p: float) -> Tensor:
    """Tokens [B, 1] drawn from the most likely ones that hold `top_p` of the chance, by scores [B, V]."""
    chances, tokens = torch.softmax(scores / temperature, dim=-1).sort(dim=-1, descending=True)
    chances = chances.where(chances.cumsum(dim=-1) - chances < top_p, 0.0)
    return tokens.gather(1, torch.multinomial(chances, 1))
