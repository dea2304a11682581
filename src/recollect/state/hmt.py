"""HMT: a short-window decoder that reads segment by segment with three memories, as people are said to.

Sensory: the last `sensory_tokens` of the previous segment, word for word. Short-term: one vector that sums up a segment, which
the decoder itself writes at the segment's end. Long-term: the last `memory_segments` such vectors. Before a segment is read,
its beginning is summed up into a query, and attention over the long-term memory recalls a mixture P of what was like it:
S = decoder([T; x[:j]; T])[-1], P = softmax((S Wq) (M Wk)^T / sqrt(d)) M; the segment is read as [P; sensory; x; P], and the last
output is its summary. Without `recall`, P is the previous summary: the recurrent memory transformer (RMT).

Paper: HMT: Hierarchical Memory Transformer for Efficient Long Context Language Processing, arXiv:2405.06067 (2024), section 3;
released code where it says more (no value nor output projection in the recall).
Differs: gradients end where `bptt_segments` say, which the released code does not do; the scale of the recall is the same in
training and generation; its queries and keys begin alike; padding never enters a summary. The paper's query sees the first
half of the segment whose tokens are then predicted; `recall_from="sensory"` asks with the previous segment's end instead, and
no prediction sees itself.
Cost: `memory_segments` vectors and `sensory_tokens` numbers a row; about 1.5 passes of the decoder over each segment.

Shapes: B rows, T tokens of a call, L tokens of a segment, k sensory tokens, c summaries held, E width, V vocabulary.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.cache_utils import DynamicCache

from recollect.errors import InvalidInput, NotFound
from recollect.state.layer import State, detach, map_state, select

QUERIES = ("segment", "sensory")


@dataclass(frozen=True)
class HMTSettings:
    """How an HMT reads; `segment_tokens` + `sensory_tokens` + 2 is what the decoder sees at once."""

    segment_tokens: int = 1024
    sensory_tokens: int = 32
    memory_segments: int = 300
    recall: bool = True  # False: RMT
    recall_from: str = "segment"  # or "sensory"
    recall_size: int | None = None  # of queries and keys; None: the width
    summary_share: float = 0.5  # of a segment, that is summed up for the query
    bptt_segments: int = 6  # after so many the gradient ends

    def __post_init__(self):
        if self.recall_from not in QUERIES:
            raise InvalidInput(f"recall_from: {self.recall_from!r:.20} is not known; use one of {', '.join(QUERIES)}.")
        for name in ("segment_tokens", "memory_segments", "bptt_segments"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name}: {getattr(self, name)} is below 1.")
        if not 0 <= self.sensory_tokens <= self.segment_tokens:
            raise InvalidInput("sensory_tokens: must be 0 to segment_tokens.")
        if not 0 < self.summary_share <= 1:
            raise InvalidInput("summary_share: must be above 0 and at most 1.")
        if self.recall_from == "sensory" and not self.sensory_tokens:
            raise InvalidInput("recall_from: there are no sensory tokens to ask with; set sensory_tokens.")


@dataclass
class HMTOutput:
    """Logits [B, T, V], the state after the call, the mean loss in nats (with labels), and what each segment recalled:
    weights over the summaries held then, [B, c] each, the newest last; none where none was held."""

    logits: Tensor
    state: State
    loss: Tensor | None
    recalled: list[Tensor]


class HMT(nn.Module):
    """A decoder of transformers with hierarchical memory; train it as a whole, or freeze what you like of `backbone`.

    A state is a tree of tensors as those of the layers of this home: `detach`, `select`, `save_state` work on it. Each call
    begins with a segment of its own, so a text that is read in several calls is read as at once when all but the last have
    a multiple of `segment_tokens`.
    """

    def __init__(self, backbone: Any, settings: HMTSettings):
        super().__init__()
        self.backbone, self.settings = backbone, settings
        table = backbone.get_input_embeddings().weight
        E, size, spread = table.shape[1], settings.recall_size or table.shape[1], table.detach().float().std()
        like = {"device": table.device, "dtype": table.dtype}
        self.prompt = nn.Parameter(torch.randn(E, **like) * spread)  # T: asks for a summary
        self.first = nn.Parameter(torch.randn(E, **like) * spread)  # M0: what an empty memory recalls
        self.query = nn.Linear(E, size, bias=False, **like)
        self.key = nn.Linear(E, size, bias=False, **like)
        self.key.load_state_dict(self.query.state_dict())  # alike at first, so that recall begins by likeness

    @classmethod
    def from_backbone(cls, model: Any, **settings: Any) -> HMT:
        """An HMT on any decoder of transformers; `settings` are those of HMTSettings. Raises InvalidInput."""
        return cls(model, HMTSettings(**settings))

    def initial_state(self, num_rows: int = 1) -> State:
        """Nothing read yet; what is there (`held`, `known`) is told on the CPU, so that to ask is not to wait for a GPU."""
        table, k = self.backbone.get_input_embeddings().weight, self.settings.sensory_tokens
        return {
            "bank": table.new_zeros(num_rows, 0, table.shape[1]),
            "held": torch.zeros(num_rows, 0, dtype=torch.bool, device="cpu"),
            "sensory": torch.zeros(num_rows, k, dtype=torch.long, device=table.device),
            "known": torch.zeros(num_rows, k, dtype=torch.bool, device="cpu"),
        }

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        state: State | None = None,
    ) -> HMTOutput:
        """Read tokens [B, T], segment by segment; the loss is that of predicting labels [B, T] (-100: not counted).

        Rows may be padded on either side. Raises InvalidInput for a state of other rows.
        """
        B, L = len(input_ids), self.settings.segment_tokens
        now = self.initial_state(B) if state is None else _told(state)
        if len(now["bank"]) != B:
            raise InvalidInput(f"state: has {len(now['bank'])} rows, input_ids {B}; give the state of these rows.")
        keep = _all(input_ids) if attention_mask is None else attention_mask.bool().cpu()
        ids, real = _front(input_ids, keep)
        parts, recalled = [], []
        for number, start in enumerate(range(0, ids.shape[1], L)):
            if number and number % self.settings.bptt_segments == 0:
                now = detach(now)
            x, mask = ids[:, start : start + L], real[:, start : start + L]
            recall, weights = self._recall(x, mask, now)
            hidden, summary = self._read(recall, x, mask, now)
            now = self._after(now, x, mask, summary)
            parts.append(self._logits(hidden))
            if weights is not None:
                recalled.append(weights)
        packed = torch.cat(parts, dim=1)
        logits = packed
        if not keep.all():
            logits = packed.new_zeros(*input_ids.shape, packed.shape[-1])
            logits[keep] = packed[real]
        loss = None
        if labels is not None:
            loss = cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
        return HMTOutput(logits, now, loss, recalled)

    @torch.no_grad()
    def read(self, input_ids: Tensor, attention_mask: Tensor | None = None, state: State | None = None) -> State:
        """The state after tokens [B, T]."""
        return self(input_ids, attention_mask, state=state).state

    def _recall(self, x: Tensor, mask: Tensor, state: State) -> tuple[Tensor, Tensor | None]:
        """(P [B, E], weights [B, c] or None) for a segment x [B, L]; without tokens, its query is the sensory memory."""
        bank, held = state["bank"], state["held"]
        some = held.any(dim=1).to(bank.device) if not held.all() else None
        if not held.any():
            return self.first.expand(len(bank), -1), None
        if not self.settings.recall:
            return bank[:, -1] if some is None else torch.where(some[:, None], bank[:, -1], self.first), None
        if self.settings.recall_from == "sensory" or not x.shape[1]:
            x, mask = state["sensory"], state["known"]
        else:
            share = max(round(self.settings.segment_tokens * self.settings.summary_share), 1)
            x, mask = x[:, :share], mask[:, :share]
        ends = self.prompt.expand(len(x), 1, -1)
        one = mask.new_ones(len(x), 1)
        whole = torch.cat([ends, self._embed(x), ends], dim=1)
        asked = self._decode(whole, torch.cat([one, mask, one], dim=1))[:, -1]
        queries, keys = self.query(asked).float(), self.key(bank).float()
        scores = torch.einsum("bd,bcd->bc", queries, keys) / keys.shape[-1] ** 0.5
        if some is None:
            weights = torch.softmax(scores, dim=-1)
            return torch.einsum("bc,bce->be", weights.to(bank.dtype), bank), weights
        there = held.to(scores.device)
        weights = torch.softmax(scores.masked_fill(~there, torch.finfo(scores.dtype).min), dim=-1) * there
        mixed = torch.einsum("bc,bce->be", weights.to(bank.dtype), bank)
        return torch.where(some[:, None], mixed, self.first), weights

    def _read(self, recall: Tensor, x: Tensor, mask: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """(hidden states [B, L, E] at x, summary [B, E]) of [P; sensory; x; P]."""
        head, known = self._head(recall, state)
        end, one = recall[:, None], mask.new_ones(len(x), 1)
        whole = torch.cat([head, self._embed(x), end], dim=1)
        hidden = self._decode(whole, torch.cat([known, mask, one], dim=1))
        return hidden[:, head.shape[1] : -1], hidden[:, -1]

    def _head(self, recall: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """[P; sensory] [B, 1 + k, E] and their mask; P alone before anything was read."""
        one = state["known"].new_ones(len(recall), 1)
        if not state["known"].any():
            return recall[:, None], one
        embedded = torch.cat([recall[:, None], self._embed(state["sensory"])], dim=1)
        return embedded, torch.cat([one, state["known"]], dim=1)

    def _after(self, state: State, x: Tensor, mask: Tensor, summary: Tensor) -> State:
        """The state after a segment; rows without tokens in it stay as they were."""
        read = mask.any(dim=1)
        bank = torch.cat([state["bank"], summary[:, None]], dim=1)
        held = torch.cat([state["held"], read[:, None]], dim=1)
        kept = min(self.settings.memory_segments, int(held.sum(dim=1).max()) or 1)
        ids, known = torch.cat([state["sensory"], x], dim=1), torch.cat([state["known"], mask], dim=1)
        bank, held = _last(bank, held, kept)
        sensory, known = _last(ids, known, self.settings.sensory_tokens)
        return {"bank": bank, "held": held, "sensory": sensory, "known": known}

    def _embed(self, ids: Tensor) -> Tensor:
        return self.backbone.get_input_embeddings()(ids)

    def _decode(self, inputs: Tensor, mask: Tensor, cache: Any = None) -> Tensor:
        """Normed hidden states [B, S, E] of embedded inputs [B, S, E] where `mask` [B, S]; with a cache, of all.

        The decoder is given them with all padding in front, since windows of attention count it.
        """
        decoder = self.backbone.get_decoder()
        if mask.all():
            options = {"cache": cache, "use_cache": cache is not None}
            return decoder(inputs_embeds=inputs, **options).last_hidden_state
        mask = mask.to(inputs.device)
        order = mask.long().argsort(dim=1, stable=True)
        packed = inputs.gather(1, order[..., None].expand_as(inputs))
        real = mask.gather(1, order)
        places = (real.cumsum(dim=1) - 1).clamp(min=0)
        hidden = decoder(inputs_embeds=packed, attention_mask=real.long(), position_ids=places, use_cache=False)
        return hidden.last_hidden_state.gather(1, order.argsort(dim=1)[..., None].expand_as(inputs))

    def _logits(self, hidden: Tensor) -> Tensor:
        logits = self.backbone.get_output_embeddings()(hidden)
        cap = getattr(self.backbone.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    # Generation.

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        state: State | None = None,
        max_new_tokens: int = 64,
        do_sample: bool = False,
        temperature: float = 1.0,
        eos_token_id: int | None = None,
    ) -> tuple[Tensor, State]:
        """(what is new [B, up to `max_new_tokens`], padded after the end; the state after it), row by row.

        A segment that begins within the reply asks the long-term memory by the sensory one. `eos_token_id` None: the
        model's. Raises InvalidInput for a row without tokens.
        """
        config = self.backbone.config
        ends = config.eos_token_id if eos_token_id is None else eos_token_id
        ends = set() if ends is None else set(ends) if isinstance(ends, list) else {ends}
        keep = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        replies, states = [], []
        for row in range(len(input_ids)):
            ids = input_ids[row, keep[row].bool()]
            if not len(ids) or max_new_tokens < 1 or temperature <= 0:
                raise InvalidInput("input_ids: a row needs a token, max_new_tokens 1 and temperature more than 0.")
            at = torch.tensor([row], device=ids.device)
            before = self.initial_state() if state is None else select(_told(state), at)
            reply, after = self._continue(ids[None], before, max_new_tokens, do_sample, temperature, ends)
            replies.append(reply)
            states.append(after)
        most = max(len(reply) for reply in replies)
        padded = [reply + [config.pad_token_id or 0] * (most - len(reply)) for reply in replies]
        return torch.tensor(padded, device=input_ids.device), _stack(states)

    def _continue(
        self, ids: Tensor, state: State, most: int, sample: bool, temperature: float, ends: set[int]
    ) -> tuple[list[int], State]:
        """Tokens that follow one row of tokens [1, T], and the state after them."""
        L = self.settings.segment_tokens
        whole = (ids.shape[1] - 1) // L * L
        if whole:
            state = self.read(ids[:, :whole], state=state)
        x, reply = ids[:, whole:], []
        cache, recall = self._open(x, state)
        hidden = self._extend(self._embed(x), cache)
        while len(reply) < most and not (reply and reply[-1] in ends):
            scores = self._logits(hidden[:, -1:])[:, -1].float()
            if sample:
                token = torch.multinomial(torch.softmax(scores / temperature, dim=-1), 1)
            else:
                token = scores.argmax(dim=-1, keepdim=True)
            reply.append(int(token))
            if x.shape[1] == L:
                summary = self._extend(recall[:, None], cache)[:, -1]
                state = self._after(state, x, _all(x), summary)
                x = x[:, :0]
                cache, recall = self._open(x, state)
            x = torch.cat([x, token], dim=1)
            hidden = self._extend(self._embed(token), cache)
        summary = self._extend(recall[:, None], cache)[:, -1]
        return reply, self._after(state, x, _all(x), summary)

    def _open(self, x: Tensor, state: State) -> tuple[Any, Tensor]:
        """(cache, P) of one row's segment of which [P; sensory] is read."""
        recall, _ = self._recall(x, _all(x), state)
        cache = DynamicCache()
        head, known = self._head(recall, state)
        self._extend(head[:, known[0]], cache)
        return cache, recall

    def _extend(self, inputs: Tensor, cache: Any) -> Tensor:
        """Hidden states of inputs [1, S, E] behind what is in the cache."""
        return self._decode(inputs, _all(inputs), cache)

    # Files.

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what HMT adds and its settings into a folder, and the backbone into `backbone` in it."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hmt.json").write_text(json.dumps(asdict(self.settings), indent=2) + "\n", "utf-8")
        own = {
            name: each.detach().cpu() for name, each in self.state_dict().items() if not name.startswith("backbone.")
        }
        save_file(own, str(folder / "hmt.safetensors"))
        self.backbone.save_pretrained(folder / "backbone")

    @classmethod
    def from_pretrained(cls, folder: str | Path, backbone: Any = None) -> HMT:
        """The HMT in a folder, on its own backbone (None) or another of the same width. Raises NotFound, InvalidInput."""
        from safetensors.torch import load_file
        from transformers import AutoModelForCausalLM

        folder = Path(folder)
        if not (folder / "hmt.json").is_file():
            raise NotFound(f"folder: there is no HMT in {folder}.")
        model = backbone or AutoModelForCausalLM.from_pretrained(folder / "backbone", local_files_only=True)
        made = cls(model, HMTSettings(**json.loads((folder / "hmt.json").read_text("utf-8"))))
        try:
            made.load_state_dict(load_file(str(folder / "hmt.safetensors")), strict=False)
        except RuntimeError:
            raise InvalidInput(f"backbone: its width is not that of the HMT in {folder}.") from None
        return made


def _all(x: Tensor) -> Tensor:
    """[B, T] for x [B, T, ...]: nothing is padding."""
    return torch.ones(x.shape[:2], dtype=torch.bool, device="cpu")


def _told(state: State) -> State:
    """A state wherever it came from, with what is there told on the CPU."""
    return state | {name: state[name].cpu() for name in ("held", "known")}


def _front(ids: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens where `keep` [B, T], in their order, with padding behind: ids and mask [B, most in a row]."""
    most = int(keep.sum(dim=1).max())
    if not most:
        raise InvalidInput("input_ids: hold no token.")
    if keep.all():
        return ids, keep
    order = (~keep).long().argsort(dim=1, stable=True)[:, :most]
    return ids.gather(1, order.to(ids.device)), keep.gather(1, order)


def _last(values: Tensor, there: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The last `num` of values [B, S, ...] that are `there` [B, S], in their order, behind others where a row has fewer."""
    start = there.shape[1] - num
    if there.all():
        return values[:, start:], there[:, start:]
    order = there.long().argsort(dim=1, stable=True)[:, start:]
    places = order.to(values.device).view(*order.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:])
    return values.gather(1, places), there.gather(1, order)


def _stack(states: list[State]) -> State:
    """One state of the rows of several, whose banks are padded in front to one length."""
    most = max(each["bank"].shape[1] for each in states)

    def pad(tensor: Tensor) -> Tensor:
        return torch.cat([tensor.new_zeros(1, most - tensor.shape[1], *tensor.shape[2:]), tensor], dim=1)

    padded = [each | {name: pad(each[name]) for name in ("bank", "held")} for each in states]
    return map_state(lambda *tensors: torch.cat(tensors), *padded)
