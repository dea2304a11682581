"""CMT: each document becomes a few vectors in a bank; a frozen decoder answers with those that match the question before it.

A compressor, the decoder itself with an adapter and a few learned tokens at the end, turns a document into memory vectors. The
same compressor reads a question; the pooled vectors of both sides are matched, the best documents are gathered by attention
that knows their scores, and what comes out stands before the question as soft tokens. The decoder's weights never change.

Paper: CMT: A Memory Compression Method for Continual Knowledge Learning of Large Language Models, arXiv:2412.07393 (2024),
abstract: the memory-aware objective, self-matching and top-k aggregation.
Differs: the abstract names the three techniques; their equations here are our own reading. The adapter is active for the whole
compression, not only for the learned tokens. Wrong memories are the best others of the batch, read as the right ones are.
The margin's gradient passes through both readings. No anchor to the decoder without memory, no quantised bank.
Cost: num_vectors * D values a document, and D for its key; a question compares N keys and reads top_k * num_vectors vectors.

Shapes: B questions, N documents, V vectors a document, k documents read, D width of the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recollect.errors import Conflict, InvalidInput, NotFound
from recollect.weights.checkpoint import read_tensors
from recollect.weights.generation import evaluating, left_padded, prompt_ids
from recollect.weights.lora import adapted


@dataclass(frozen=True)
class Example:
    """A document, a question about it, and the answer that is wanted after the question."""

    document: str
    question: str
    answer: str


@dataclass(frozen=True)
class Reading:
    """What was gathered for questions: `prefix` [B, V, D], the k best `scores` [B, k] and whose they are, best first."""

    prefix: Tensor
    scores: Tensor
    handles: list[list[str]]


class MemoryBank:
    """Memories [N, V, D] with their keys [N, D] and handles, in the order in which they were added."""

    def __init__(self, num_vectors: int, width: int, device: Any = "cpu") -> None:
        self.memories = torch.empty(0, num_vectors, width, device=device)
        self.keys = torch.empty(0, width, device=device)
        self.handles: list[str] = []
        self._next = 1

    def __len__(self) -> int:
        return len(self.handles)

    def add(self, memories: Tensor, keys: Tensor) -> list[str]:
        """Append memories [n, V, D] with keys [n, D]; their new handles."""
        made = [str(number) for number in range(self._next, self._next + len(memories))]
        self.memories = torch.cat([self.memories, memories.detach()])
        self.keys = torch.cat([self.keys, keys.detach()])
        self.handles += made
        self._next += len(made)
        return made

    def remove(self, handle: str) -> None:
        """Take a memory out. Raises NotFound for an unknown handle."""
        if handle not in self.handles:
            raise NotFound(f"handle: there is no memory {handle!r:.40}; see `handles`.")
        kept = [at for at, each in enumerate(self.handles) if each != handle]
        self.memories, self.keys = self.memories[kept], self.keys[kept]
        self.handles = [self.handles[at] for at in kept]

    def save(self, path: str | Path) -> None:
        """Write the bank to a safetensors file."""
        from safetensors.torch import save_file

        tensors = {"memories": self.memories.cpu().contiguous(), "keys": self.keys.cpu().contiguous()}
        save_file(tensors, path, {"cmt": json.dumps({"handles": self.handles, "next": self._next})})

    def load(self, path: str | Path) -> None:
        """Read what `save` wrote, in place of what is there.

        Raises NotFound without the file, InvalidInput when it holds no bank, Conflict when its vectors have another shape.
        """
        tensors, plain = read_tensors(path, "a bank of CMT", "cmt")
        memories, keys = tensors["memories"], tensors["keys"]
        if memories.shape[1:] != self.memories.shape[1:]:
            raise Conflict(f"path: its memories are {tuple(memories.shape[1:])}; load it with the model that made it.")
        self.memories, self.keys = memories.to(self.memories.device), keys.to(self.keys.device)
        self.handles, self._next = plain["handles"], plain["next"]


class Gather(nn.Module):
    """A stack of attention from a question's vectors to the memories, whose logits the documents' scores are added to."""

    def __init__(self, width: int, heads: int, layers: int, scale: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.attention = nn.ModuleList(nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers + 1))
        self.inner = nn.ModuleList(_two_layers(width) for _ in range(layers))

    def forward(self, query: Tensor, memories: Tensor, weights: Tensor) -> Tensor:
        """The prefix [B, V, D] of `query` [B, V, D] and `memories` [B, k, V, D] with `weights` [B, k] that sum to one."""
        vectors = memories.shape[2]
        bias = weights.clamp_min(1e-9).log().repeat_interleave(vectors, 1)[:, None]  # [B, 1, k V]
        context, x = memories.flatten(1, 2), query
        for at, (attention, inner) in enumerate(zip(self.attention, self.inner, strict=True)):
            mask = bias.expand(-1, x.shape[1], -1).repeat_interleave(self.heads, 0)
            x = x + attention(self.norms[2 * at](x), context, context, attn_mask=mask, need_weights=False)[0]
            x = x + inner(self.norms[2 * at + 1](x))
        return self.scale * self.norms[-1](x)


def _two_layers(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class CMT:
    """A compression memory for a decoder of transformers, which carries its adapter until `close`.

    `num_vectors` of each document, `top_k` documents read (None: all); `temperature` of the scores, `margin` in nats a token,
    `aware` and `match` the weights of their losses. `matching` False: every document is read with the same weight and nothing
    is learned about matching. `rank` and `learning_rate` are of the adapter and of Adam. Raises InvalidInput for sizes below one.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        num_vectors: int = 24,
        top_k: int | None = 5,
        temperature: float = 0.07,
        margin: float = 0.5,
        aware: float = 0.5,
        match: float = 0.1,
        matching: bool = True,
        rank: int = 8,
        layers: int = 1,
        learning_rate: float = 1e-3,
        seed: int = 0,
    ) -> None:
        for name, size in (("num_vectors", num_vectors), ("top_k", top_k), ("rank", rank), ("layers", layers)):
            if size is not None and size < 1:
                raise InvalidInput(f"{name}: {size} is below 1; give at least 1.")
        if temperature <= 0:
            raise InvalidInput(f"temperature: {temperature} is not above 0; 0.07 is usual.")
        self.tokenizer, self.top_k, self.temperature = tokenizer, top_k, temperature
        self.margin, self.aware, self.match, self.matching, self.seed = margin, aware, match, matching, seed
        model.requires_grad_(False)
        self.model = adapted(model, rank, seed=seed)
        self._body = model.get_decoder()
        self._embed = model.get_input_embeddings()
        width, scale = self._embed.weight.shape[1], float(self._embed.weight.square().mean().sqrt())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            heads = model.config.num_attention_heads
            self.parts = nn.ModuleDict(
                {
                    "project": _two_layers(width),
                    "key": nn.Linear(width, width, bias=False),
                    "query": nn.Linear(width, width, bias=False),
                    "gather": Gather(width, heads, layers, scale),
                }
            )
            self.parts.register_parameter("tokens", nn.Parameter(scale * torch.randn(num_vectors, width)))
        self.parts.to(model.device)
        self.bank = MemoryBank(num_vectors, width, model.device)
        adapter = {name: each for name, each in self.model.named_parameters() if each.requires_grad}
        self._learned = dict(self.parts.named_parameters()) | adapter
        self._optimizer = torch.optim.Adam(self._learned.values(), lr=learning_rate)

    def compress(self, texts: Sequence[str]) -> Tensor:
        """The vectors [B, V, D] of documents or questions."""
        ids, mask = left_padded([self._ids(text) for text in texts], 0)
        ids, mask = ids.to(self.model.device), mask.to(self.model.device)
        tokens: Any = self.parts.tokens
        rows = torch.cat([self._embed(ids), tokens.expand(len(ids), -1, -1)], 1)
        mask = F.pad(mask, (0, len(tokens)), value=1)
        hidden = self._body(inputs_embeds=rows, attention_mask=mask, use_cache=False).last_hidden_state
        hidden = hidden[:, -len(tokens) :]
        return hidden + self.parts["project"](hidden)

    def write(self, documents: Sequence[str]) -> list[str]:
        """Add documents to the bank; their handles. Raises InvalidInput for an empty document."""
        if not documents:
            return []
        with evaluating(self.model):
            memories = self.compress(documents)
            return self.bank.add(memories, self._pooled("key", memories))

    def read(self, questions: Sequence[str]) -> Reading:
        """Gather the memories for questions. Raises NotFound when the bank is empty."""
        if not len(self.bank):
            raise NotFound("bank: there is no memory in it; write documents first.")
        with evaluating(self.model):
            prefix, scores, places = self._gather(self.compress(questions), self.bank.memories, self.bank.keys)
        return Reading(prefix, scores, [[self.bank.handles[at] for at in row] for row in places.tolist()])

    def say(self, questions: Sequence[str], num_tokens: int = 16) -> list[str]:
        """The most likely continuation of each question with the bank before it; with an empty bank, the decoder's own."""
        return self.say_after(self.read(questions).prefix if len(self.bank) else None, questions, num_tokens)

    def say_after(self, prefix: Tensor | None, questions: Sequence[str], num_tokens: int = 16) -> list[str]:
        """The most likely continuation of each question by the frozen decoder, after soft tokens [B, V, D] or none."""
        rows, mask = self._rows([self._ids(each) for each in questions], prefix)
        end = self.tokenizer.eos_token_id
        padding = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else end or 0
        with evaluating(self.model), self.model.disable_adapter():
            made = self.model.generate(
                inputs_embeds=rows,
                attention_mask=mask,
                max_new_tokens=num_tokens,
                do_sample=False,
                pad_token_id=padding,
                eos_token_id=end,
            )
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in made]

    def losses(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """The losses of a batch whose documents are the bank: `nll` and `aware` in nats a token, `match` in nats, `total`.

        Raises InvalidInput for fewer than two different documents: there would be no wrong memory.
        """
        documents = list(dict.fromkeys(each.document for each in examples))
        if len(documents) < 2:
            raise InvalidInput("examples: they have fewer than two different documents; give more.")
        own = torch.tensor([documents.index(each.document) for each in examples], device=self.model.device)
        memories, query = self.compress(documents), self.compress([each.question for each in examples])
        keys = self._pooled("key", memories)
        nll = self._nll(self._gather(query, memories, keys)[0], examples)  # [B]
        zero = nll.new_zeros(())
        found = {"nll": nll.mean(), "aware": zero, "match": zero}
        if self.aware:
            wrong = self._nll(self._gather(query, memories, keys, without=own)[0], examples)
            found["aware"] = (self.margin - (wrong - nll)).relu().mean()
        if self.matching:
            found["match"] = F.cross_entropy(self._scores(query, keys), own)
        return found | {"total": found["nll"] + self.aware * found["aware"] + self.match * found["match"]}

    def train(
        self,
        examples: Sequence[Example],
        num_steps: int,
        batch_rows: int = 32,
        progress: Callable[[str], None] = lambda line: None,
    ) -> float:
        """Learn to compress, match and gather, on batches drawn by the seed; the mean `nll` of the last 20 steps.

        The rate falls to zero along a cosine. What is in the bank was made by the earlier weights: write it again.
        """
        rng, seen = Random(f"batches {self.seed}"), []
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, num_steps)
        for step in range(num_steps):
            found = self.losses(rng.sample(list(examples), min(batch_rows, len(examples))))
            self._optimizer.zero_grad()
            found["total"].backward()
            nn.utils.clip_grad_norm_(self._learned.values(), 1.0)
            self._optimizer.step()
            schedule.step()
            seen.append(float(found["nll"].detach()))
            if step % 50 == 0:
                parts = ", ".join(f"{name} {float(each.detach()):.2f}" for name, each in found.items())
                progress(f"step {step} of {num_steps}: {parts}")
        return sum(seen[-20:]) / max(1, len(seen[-20:]))

    def save(self, path: str | Path) -> None:
        """Write what was learned, not the bank, to a safetensors file."""
        from safetensors.torch import save_file

        save_file({name: each.detach().cpu().contiguous() for name, each in self._learned.items()}, path)

    def load(self, path: str | Path) -> None:
        """Read what `save` wrote. A bank fits only the weights that wrote it: load that too, or write again.

        Raises NotFound without the file, InvalidInput when it is no such file, Conflict when its weights have other shapes.
        """
        found, _ = read_tensors(path, "a compressor of CMT")
        wanted = {name: each.shape for name, each in self._learned.items()}
        if {name: each.shape for name, each in found.items()} != wanted:
            raise Conflict(f"path: the weights in {path} have other shapes; make the memory with the settings of then.")
        with torch.no_grad():
            for name, each in self._learned.items():
                each.copy_(found[name])

    def close(self) -> Any:
        """Take the adapter off; the decoder as it was."""
        return self.model.unload()

    def _ids(self, text: str) -> list[int]:
        ids = prompt_ids(self.tokenizer, text)
        if not text.strip() or not ids:
            raise InvalidInput("text: it is empty; write something.")
        return ids

    def _pooled(self, side: str, vectors: Tensor) -> Tensor:
        return F.normalize(self.parts[side](vectors.mean(1)), dim=-1)

    def _scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """How well each document fits each question [B, N]: cosines over the temperature, or zero without matching."""
        if not self.matching:
            return query.new_zeros(len(query), len(keys))
        return self._pooled("query", query) @ keys.T / self.temperature

    def _gather(
        self, query: Tensor, memories: Tensor, keys: Tensor, without: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(prefix [B, V, D], best scores [B, k], their places [B, k]); `without` [B] names a document to leave out of each row."""
        scores = self._scores(query, keys)
        if without is not None:
            scores = scores.scatter(1, without[:, None], float("-inf"))
        count = len(keys) - (without is not None)
        best, places = scores.topk(min(self.top_k or count, count), 1)
        return self.parts["gather"](query, memories[places], best.softmax(1)), best, places

    def _rows(self, ids: Sequence[Sequence[int]], prefix: Tensor | None) -> tuple[Tensor, Tensor]:
        """(embeddings, mask) of rows of tokens right after their prefix; what fills them up stands before it."""
        padded, mask = left_padded(ids, 0)
        rows, mask = self._embed(padded.to(self.model.device)), mask.to(self.model.device)
        if prefix is None:
            return rows, mask
        vectors, filling = prefix.shape[1], (mask == 0).sum(1, keepdim=True)
        places = torch.arange(vectors + rows.shape[1], device=rows.device).expand(len(rows), -1)
        moved = torch.where(places < filling, places + vectors, places - filling)
        order = torch.where(places < filling + vectors, moved, places)[..., None].expand(-1, -1, rows.shape[2])
        return torch.cat([prefix, rows], 1).gather(1, order), (places >= filling).long()

    def _nll(self, prefix: Tensor, examples: Sequence[Example]) -> Tensor:
        """Nats a token [B] of each answer after its question and prefix, by the frozen decoder."""
        answers = [self.tokenizer.encode(each.answer, add_special_tokens=False) for each in examples]
        asked = [self._ids(each.question) for each in examples]
        rows, mask = self._rows([[*one, *other] for one, other in zip(asked, answers, strict=True)], prefix)
        width = max(len(answer) for answer in answers)
        labels, known = left_padded(answers, 0)
        labels, known = labels.to(rows.device), known.to(rows.device)
        with self.model.disable_adapter():
            out = self.model(inputs_embeds=rows, attention_mask=mask, use_cache=False, logits_to_keep=width + 1)
        losses = F.cross_entropy(out.logits[:, :-1].float().transpose(1, 2), labels, reduction="none") * known
        return losses.sum(1) / known.sum(1)
