"""A policy on a model: what is swapped while it is attached, how a long input is cut into chunks, and the kept memory.

While attached, three things of the model are replaced, and put back on leaving:

- the configuration that its attention modules read, by a shallow copy that names an attention function of our own
  (a copy, because several models may share one configuration);
- its `rotary_emb`, by one that does not rotate (see rotary.py);
- `forward` of the model itself, by `Attached._forward`, which finds the memory, cuts the input into chunks and sets
  padding aside. The original one does all the computing.

Layers with a sliding window of their own, in a model that has full layers too (Gemma 2 and 3), keep that window; the
policy governs the full layers. Where every layer has a window (Mistral), the policy governs all.
"""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from recollect.context.attention import Window, sink_window
from recollect.context.cache import Layer, MemoryCache, Size
from recollect.context.in_place import InPlace
from recollect.context.rotary import Rotary, Unrotated
from recollect.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from recollect.context.policy import ContextMemory

_numbers = itertools.count()


def is_attached(model: Any) -> bool:
    """Whether a policy is attached to the model."""
    return any(isinstance(part, Unrotated) for part in model.modules())


class Attached:
    """A policy on a model, and the memory of the model's last call."""

    def __init__(self, policy: ContextMemory, model: Any):
        decoder, attentions = _parts(model)
        if is_attached(model):
            raise Conflict("model: a policy is attached to it already; leave that block first.")
        apply = getattr(sys.modules[type(attentions[0]).__module__], "apply_rotary_pos_emb", None)
        if apply is None:
            raise InvalidInput(f"model: {type(model).__name__} rotates positions in a way of its own.")
        self.policy, self.model = policy, model
        config = decoder.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self._shape = (heads, attentions[0].head_dim)
        self._types, self._windows = _layer_kinds(config, len(attentions))
        self._rotary = Rotary(decoder.rotary_emb, apply)
        keyed = isinstance(getattr(decoder.rotary_emb, "rope_type", None), dict)
        kinds = [kind if keyed else None for kind in self._types]
        self._rotations = [self._rotary.of(kind) for kind in kinds]
        self._has_head = "logits_to_keep" in inspect.signature(model.forward).parameters
        if policy.needs_logits and not self._has_head:
            raise InvalidInput(f"model: {type(policy).__name__} reads logits, and {type(model).__name__} has none.")
        self._now: MemoryCache | None = None  # the memory of the call that is under way
        self._pads: list[int] = []  # of each unit: columns of the chunk that are padding
        self.memory = self._fresh()

        self._name = f"recollect-{next(_numbers)}"
        shadow = copy.copy(config)
        shadow._attn_implementation_internal = self._name
        self._configs = [part for part in model.modules() if getattr(part, "config", None) is config]
        self._config, self._decoder, self._rotary_emb = config, decoder, decoder.rotary_emb
        self._own_forward = model.__dict__.get("forward")
        self._original = model.forward
        plain = len(set(self._types)) == 1 and self._rotary.is_fixed(kinds[0]) and self._has_head
        plain = plain and not getattr(config, "attn_logit_softcapping", None)
        self._in_place = InPlace(policy, model, decoder, self._original, self._rotary, kinds[0], plain)
        ALL_ATTENTION_FUNCTIONS[self._name] = self._attention
        for part in self._configs:
            part.config = shadow
        decoder.rotary_emb = Unrotated(self._rotary.width(kinds[0]))

        @functools.wraps(self._original)
        def forward(*args: Any, **options: Any) -> Any:
            return self._forward(*args, **options)

        model.forward = forward

    def detach(self) -> None:
        """Put everything back; the kept memory stays readable."""
        if self._own_forward is None:
            del self.model.forward
        else:
            self.model.forward = self._own_forward
        self._decoder.rotary_emb = self._rotary_emb
        for part in self._configs:
            part.config = self._config
        del ALL_ATTENTION_FUNCTIONS[self._name]
        self._in_place.forget()
        self._now = None

    # The kept memory.

    def read(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> None:
        """Read tokens [B, T] into the kept memory, in chunks; `attention_mask` [B, T] is 0 at left padding."""
        self._read(*self._with_unread(input_ids, attention_mask))

    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
        """Go on from the kept memory with tokens [B, T]; returns only what is new, [B, up to `max_new_tokens`].

        `options` are those of `model.generate`. With several beams or returned sequences the search runs on a copy of
        the memory; the kept one then reads the prompt and, for one returned sequence a row, the reply that was chosen.
        """
        ids, mask = self._with_unread(input_ids, attention_mask)
        config = options.get("generation_config") or self.model.generation_config
        beams, sequences = (
            options.get(name) or getattr(config, name) or 1 for name in ("num_beams", "num_return_sequences")
        )
        kept, seen = self.memory, self.memory.num_seen
        searched = kept
        if max(beams, sequences) > 1:
            searched = kept.copy()
            searched.batch_repeat_interleave(max(beams, sequences))
        whole = torch.cat([mask.new_ones(mask.shape[0], seen), mask], dim=1)
        options |= {"cache": searched, "return_dict_in_generate": False}
        before = kept.checkpoint()
        try:
            output = self.model.generate(ids, attention_mask=whole, **options)
            self.memory = kept
            if searched is not kept:
                self._read(ids, mask)
        except BaseException:
            kept.restore(before)
            raise
        finally:
            self.memory = kept
        if searched is kept:
            kept.unread = output[:, kept.num_seen - seen :]
        else:
            kept.unread = output[:, ids.shape[1] :] if sequences == 1 else None
        return output[:, ids.shape[1] :]

    def forget(self) -> None:
        """Start with an empty memory."""
        self.memory = self._fresh()
        self._in_place.forget()

    def size_bytes(self) -> Size:
        """Bytes that the kept memory holds on the model's device and in host memory, with the room to decode in place."""
        size = self.memory.size_bytes()
        return size._replace(device=size.device + self._in_place.nbytes())

    def stats(self) -> dict[str, Any]:
        """What was read, kept and attended to; see `MemoryCache.stats`."""
        return self.memory.stats()

    def save(self, path: str | Path) -> None:
        """Write the kept memory to a safetensors file."""
        self.memory.save(path)

    def load(self, path: str | Path) -> None:
        """Take over the memory in a file; for errors see `MemoryCache.load`."""
        memory = self._fresh()
        memory.load(path, self.model.device)
        self.memory = memory

    def _fresh(self) -> MemoryCache:
        return MemoryCache(self.policy, len(self._types), self._shape)

    def _with_unread(self, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens and mask [B, T], behind those that were generated last and are not read yet."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        unread = self.memory.unread
        if unread is None or not unread.shape[1]:
            return input_ids, mask
        if unread.shape[0] != input_ids.shape[0]:
            raise _wrong_rows(input_ids.shape[0], unread.shape[0])
        if not mask.all():
            raise InvalidInput(
                "attention_mask: padding cannot stand between a reply and the next turn; read rows one by one."
            )
        return torch.cat([unread, input_ids], dim=1), torch.cat([torch.ones_like(unread), mask], dim=1)

    def _read(self, input_ids: Tensor, mask: Tensor) -> None:
        with torch.no_grad():
            self.model(input_ids=input_ids, attention_mask=mask, cache=self.memory, logits_to_keep=1)
        self.memory.unread = None

    # A call of the model.

    def _forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """`forward` of the attached model: the same arguments and results, with the policy's memory as the cache."""
        inputs = {"input_ids": input_ids} if input_ids is not None else {"inputs_embeds": inputs_embeds}
        ((name, given),) = inputs.items()
        if given is None or (input_ids is None and self.policy.needs_logits):
            raise InvalidInput("input_ids: are missing; this policy reads tokens.")
        if options.get("output_attentions"):
            raise InvalidInput("output_attentions: attention weights are not handed out while a policy is attached.")
        B, T = given.shape[:2]
        if self.policy.chunk_tokens < T and options.get("output_hidden_states"):
            raise InvalidInput("output_hidden_states: read at most chunk_tokens at once to have them.")
        memory = self._memory_for(cache, B)
        starts = _starts(attention_mask, B, T)
        unusual = labels is not None or any(
            options.get(name) for name in ("output_hidden_states", "output_router_logits")
        )
        if T == 1 and input_ids is not None and not unusual and self._in_place.takes(memory, bool(starts.any())):
            self.memory = memory
            return self._in_place.step(memory, input_ids, options.get("use_cache"), return_dict)
        last = logits_to_keep if isinstance(logits_to_keep, int) and labels is None else 0
        before = memory.checkpoint()
        try:
            self._now, self.memory = memory, memory
            memory.split(starts)
            if T > 1:
                for unit in memory.units:
                    self.policy.begin_turn(unit)
            scores, outputs = [], None
            for start in range(0, T, self.policy.chunk_tokens):
                chunk = given[:, start : start + self.policy.chunk_tokens]
                wanted = start + chunk.shape[1] - max(start, T - last if last else 0)  # columns of logits, if any
                outputs = self._chunk(name, chunk, starts - start, max(wanted, 1), options)
                if wanted > 0:
                    scores.append(outputs[0][:, -wanted:])
        except BaseException:
            memory.restore(before)
            raise
        finally:
            self._now = None
        assert outputs is not None
        head = "logits" if self._has_head else "last_hidden_state"
        result = dict(outputs)
        result[head] = torch.cat(scores, dim=1) if len(scores) > 1 else scores[0]
        if isinstance(logits_to_keep, Tensor):
            result[head] = result[head][:, logits_to_keep]
        result["cache"] = None if options.get("use_cache") is False else memory
        if labels is not None:
            result["loss"] = self.model.loss_function(result[head], labels, vocab_size=result[head].shape[-1])
        outputs = type(outputs)(**result)
        return outputs.to_tuple() if return_dict is False else outputs

    def _chunk(self, name: str, chunk: Tensor, starts: Tensor, wanted: int, options: dict[str, Any]) -> Any:
        """One chunk [B, T] through the model; `starts` [B] counts each row's padding in it."""
        memory = self._now
        assert memory is not None
        T = chunk.shape[1]
        self._pads = [min(max(int(starts[unit.rows[0]]), 0), T) for unit in memory.units]
        reading = [(unit, pad) for unit, pad in zip(memory.units, self._pads, strict=True) if pad < T]
        for unit, pad in reading:
            self.policy.before_chunk(unit, T - pad)
        options = options | {name: chunk, "cache": memory, "use_cache": True, "return_dict": True}
        if self._has_head:
            options["logits_to_keep"] = 0 if self.policy.needs_logits else wanted
        outputs = self._original(**options)
        for unit, pad in reading:
            if self.policy.needs_logits:
                self.policy.after_chunk(unit, chunk[unit.rows, pad:], outputs.logits[unit.rows, pad:])
            unit.num_read += T - pad
        memory.num_seen += T
        return outputs

    def _attention(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float,
        dropout: float = 0.0,
        softcap: float | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        """The attention function that the model's layers call: [B, H, T, D] unrotated to [B, T, H, D]."""
        room = self._in_place.stepping
        if self._now is None and room is None:
            raise InvalidInput("model: while a policy is attached, call the model itself and not a part of it.")
        if options.get("s_aux") is not None:
            raise InvalidInput("model: its attention has learned sinks, which policies do not know.")
        if room is not None:
            return room.attend(module.layer_idx, query, key, value, scaling).transpose(1, 2).contiguous(), None
        assert self._now is not None
        alone = self._pads == [0]  # one unit without padding, whose output is all there is
        whole = None if alone else query.new_zeros(*query.shape[:3], value.shape[-1])
        for unit, pad in zip(self._now.units, self._pads, strict=True):
            if pad == query.shape[2]:
                continue
            every = len(unit.rows) == len(query)
            rows = slice(None) if every else unit.rows
            queries, keys, values = (x[rows, :, pad:] for x in (query, key, value))
            index, window = module.layer_idx, self._windows[module.layer_idx]
            layer = Layer(
                index,
                len(self._types),
                unit.layers[index],
                unit.shared,
                unit.num_read,
                self._rotations[index],
                scaling,
                softcap,
                dropout,
                unit.counts if window is None else {},
            )
            if window is None:
                output = self.policy.attend(layer, queries, keys, values)
            else:
                output = sink_window(layer, queries, keys, values, Window(window))
            if whole is None:
                whole = output
            else:
                whole[rows, :, pad:] = output
        assert whole is not None
        return whole.transpose(1, 2).contiguous(), None

    def _memory_for(self, cache: Any, rows: int) -> MemoryCache:
        """The memory that the caller passed, or a new one for a call without a past."""
        if isinstance(cache, MemoryCache):
            if cache.policy is not self.policy or cache.shape != self._shape or cache.num_layers != len(self._types):
                raise InvalidInput("cache: this memory belongs to another policy or model.")
            memory = cache
        elif cache is not None and cache.get_seq_length() > 0:
            raise InvalidInput("cache: a cache that was filled without the policy cannot be used; pass none.")
        else:
            memory = self._fresh()
        if memory.num_rows not in (0, rows):
            raise _wrong_rows(rows, memory.num_rows)
        if not memory.num_rows:
            memory.open(rows)
        return memory


def _wrong_rows(rows: int, kept: int) -> InvalidInput:
    return InvalidInput(f"input_ids: {rows} rows for a memory of {kept}; give as many, or call forget() first.")


def _starts(mask: Tensor | None, rows: int, length: int) -> Tensor:
    """How many of the last `length` columns are left padding, [rows]; raises InvalidInput for any other mask."""
    if mask is None:
        return torch.zeros(rows, dtype=torch.long)
    if mask.ndim != 2 or mask.shape[0] != rows or mask.shape[1] < length:
        raise InvalidInput(
            f"attention_mask: has shape {tuple(mask.shape)}; give one number a token, [{rows}, {length}]."
        )
    valid = mask[:, mask.shape[1] - length :].bool().cpu()
    starts = (~valid).sum(dim=1)
    if (valid != (torch.arange(length) >= starts[:, None])).any():
        raise InvalidInput("attention_mask: only left padding can be read; set padding_side='left' in the tokenizer.")
    return starts


def _parts(model: Any) -> tuple[Any, list[Any]]:
    """The decoder within a model, and the attention module of each of its layers; raises InvalidInput without them."""
    for part in model.modules():
        if hasattr(part, "rotary_emb") and hasattr(part, "layers"):
            attentions = [getattr(layer, "self_attn", None) for layer in part.layers]
            if attentions and all(hasattr(each, "layer_idx") for each in attentions):
                return part, attentions
    raise InvalidInput(f"model: {type(model).__name__} is not a decoder with rotary positions that can be attached to.")


def _layer_kinds(config: Any, num_layers: int) -> tuple[list[str | None], list[int | None]]:
    """(kind, own window) of each layer; a window counts only where other layers of the model have none."""
    types: list[str | None] = list(getattr(config, "layer_types", None) or [None] * num_layers)
    if unknown := {kind for kind in types if kind not in (None, "full_attention", "sliding_attention")}:
        raise InvalidInput(
            f"model: it has layers of the kind {', '.join(map(str, sorted(map(str, unknown))))}, which policies do not know."
        )
    windows = [config.sliding_window if kind == "sliding_attention" else None for kind in types]
    return types, [None] * num_layers if all(windows) else windows
