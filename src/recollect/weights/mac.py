"""MAC: documents become small modulations of a frozen decoder in one forward pass; a question attends over all of them.

An encoder, trained once, maps a document to `num_vectors` vectors, which a bank keeps. For a question a second encoder makes as
many, which attend to the whole bank in any order; the outcome is expanded to keys and values that stand before the first token
in every layer. A stream of documents then costs one forward pass each and no gradient, and the decoder never changes.

Paper: Online Adaptation of Language Models with a Memory of Amortized Contexts, arXiv:2403.04317 (2024), section 3.
Differs: the encoders are copies of the decoder's body with learned slots at the end of the text, where the paper decodes slots
with T5; give another body of transformers as `encoder`. Its token embeddings stay as they are, and their sum over the text is added
to what each slot reads. The prefix is scaled to the size of the decoder's own keys and values. A training step may hold several
banks, and be read in groups. Before training, texts that share words read each other: both encoders start alike, so do queries and
keys in the aggregator, which hands on what it attends to unchanged, and the residual layers of slots start at zero.
Cost: num_vectors * D values a document. A question reads them all, or `group` documents at a time.

Shapes: B texts, T tokens, G banks, N documents a bank, Q questions a bank, V vectors, D the decoder's width, E the encoder's,
L layers, p tokens of the prefix, H heads of keys of size S.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recollect.errors import Conflict, InvalidInput, NotFound
from recollect.weights.bank import Bank, Removal, handle_of
from recollect.weights.generation import evaluating, left_padded, prompt_ids
from recollect.weights.mac_networks import CrossBlock, SlotEncoder, SlotMLPs
from recollect.weights.texts import Document

Item = TypeVar("Item")
Banks = Sequence[Sequence[Document]]  # of one training step; all of one size


class MAC(nn.Module):
    """Networks and bank for one decoder of transformers, which is frozen in place and is not saved with them.

    `num_vectors` (V) of each document, at most 2 p L, the vectors of a prefix of `prefix_tokens` (p). `backprop_ratio`: share of a
    bank's documents through which gradients flow in training, and which ask the questions. `encoder`: a body of transformers
    that takes `inputs_embeds`, copied for documents and questions; None: the decoder's own body. `encoder_tokenizer`: its
    tokenizer, where it is not the decoder's. Raises InvalidInput for sizes that do not fit.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        num_vectors: int = 24,
        prefix_tokens: int = 2,
        agg_layers: int = 4,
        agg_heads: int = 8,
        backprop_ratio: float = 0.25,
        encoder: Any = None,
        encoder_tokenizer: Any = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        config, width = model.config, model.get_input_embeddings().weight.shape[1]
        outs = 2 * prefix_tokens * config.num_hidden_layers
        if not 1 <= num_vectors <= outs:
            raise InvalidInput(f"num_vectors: {num_vectors} is not from 1 to {outs}, the vectors of the prefix.")
        if not 0 < backprop_ratio <= 1:
            raise InvalidInput(f"backprop_ratio: {backprop_ratio} is not above 0 and at most 1; 0.25 is usual.")
        if agg_layers < 1 or agg_heads < 1 or width % agg_heads:
            raise InvalidInput(f"agg_heads: {agg_heads} heads in {agg_layers} layers do not divide a width of {width}.")
        self._model, self.tokenizer = (
            (model.requires_grad_(False),),
            tokenizer,
        )  # in a tuple: it is no part of this module
        self.encoder_tokenizer = encoder_tokenizer or tokenizer
        self.prefix_tokens, self.backprop_ratio, self.seed = prefix_tokens, backprop_ratio, seed
        body = model.get_decoder() if encoder is None else encoder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            keys = self._own_keys()
            self.scales: Tensor
            self.register_buffer("scales", torch.stack([each.float().square().mean().sqrt() for each in keys]))
            self.documents = SlotEncoder(deepcopy(body), num_vectors, width)
            self.questions = deepcopy(self.documents)
            self.aggregator = nn.ModuleList(CrossBlock(width, agg_heads) for _ in range(agg_layers))
            self.norm = nn.LayerNorm(width)
            self.kv_heads, self.head_size = keys[0].shape[1], keys[0].shape[3]
            self.expand = SlotMLPs(outs, width, self.kv_heads * self.head_size, F.gelu)
        self._sources = [
            at for at in range(num_vectors) for _ in range(outs // num_vectors + (at < outs % num_vectors))
        ]
        self.to(model.device)
        self.bank = Bank(num_vectors, width, model.device)

    @property
    def model(self) -> Any:
        """The frozen decoder."""
        return self._model[0]

    def encode(self, texts: Sequence[str]) -> Tensor:
        """The modulations [B, V, D] of documents. Raises InvalidInput for an empty one."""
        return self.documents(*self._rows(texts))

    def ask(self, questions: Sequence[str]) -> Tensor:
        """What questions bring to the bank, [B, V, D]. Raises InvalidInput for an empty one."""
        return self.questions(*self._rows(questions))

    def aggregate(self, asked: Tensor, bank: Tensor, group: int | None = None) -> Tensor:
        """What questions [G, Q, V, D] make of the modulations [G, N, V, D] of their banks: [G, Q, V, D].

        With `group`, so many documents are read at a time, and what each group gave a question is read in their place until one
        group is left (step 7). Raises InvalidInput for a group below two.
        """
        if group is not None and group < 2:
            raise InvalidInput(f"group: {group} is below 2; read at least two documents at a time.")
        while group is not None and bank.shape[1] > group:
            bank = torch.stack([self._attended(asked, part) for part in bank.split(group, 1)], 2).flatten(0, 1)
            asked = asked.flatten(0, 1)[:, None]
        return self._attended(asked, bank)

    def prefix(self, modulations: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [B, H, p, S] of each layer, from modulations [B, V, D] (step 4)."""
        made = self.expand(self.norm(modulations)[:, self._sources])
        made = made.view(len(made), self.prefix_tokens, len(self.scales), self.kv_heads, self.head_size)
        scaled = (made * self.scales[:, None, None]).permute(2, 0, 3, 1, 4).to(self.model.dtype)  # [2 L, B, H, p, S]
        return list(zip(scaled[::2], scaled[1::2], strict=True))

    def write(self, documents: Sequence[str], batch_rows: int = 64) -> list[str]:
        """Put documents into the bank, without a gradient; their handles. A text that is there already is kept once.

        Raises InvalidInput for an empty document, and writes none then.
        """
        handles = [handle_of(text) for text in documents]
        new = {key: text for key, text in zip(handles, documents, strict=True) if key not in self.bank.handles}
        texts = list(new.values())
        with evaluating(self):
            made = [self.encode(texts[at : at + batch_rows]) for at in range(0, len(texts), batch_rows)]
        if made:
            self.bank.add(list(new), torch.cat(made))
        return handles

    def forget(self, handles: Sequence[str]) -> Removal:
        """Take documents out of the bank; `undo()` of what is returned puts them back. Raises NotFound for an unknown handle."""
        return self.bank.remove(handles)

    def read(self, questions: Sequence[str], group: int | None = None, subset: Sequence[str] | None = None) -> Tensor:
        """The modulation [B, V, D] that the bank, or its documents with the handles in `subset`, hold for each question.

        Raises NotFound when there are none, or for an unknown handle.
        """
        bank = self.bank.memories if subset is None else self.bank.memories[self.bank.places(subset)]
        if not len(bank):
            raise NotFound("bank: there is no memory in it; write documents first.")
        with evaluating(self):
            return self.aggregate(self.ask(questions)[None], bank[None], group).flatten(0, 1)

    def say(
        self,
        questions: Sequence[str],
        num_tokens: int = 16,
        group: int | None = None,
        subset: Sequence[str] | None = None,
    ) -> list[str]:
        """The most likely continuation of each question with the bank; with an empty bank, the decoder's own."""
        return self.say_under(self.read(questions, group, subset) if len(self.bank) else None, questions, num_tokens)

    def say_under(self, modulations: Tensor | None, questions: Sequence[str], num_tokens: int = 16) -> list[str]:
        """The most likely continuation of each question by the frozen decoder, under modulations [B, V, D] or none."""
        end = self.tokenizer.eos_token_id
        ids, mask = left_padded([_ids(self.tokenizer, each) for each in questions], 0)
        ids, mask = ids.to(self.model.device), mask.to(self.model.device)
        said: list[Tensor] = []
        ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        with evaluating(self.model), evaluating(self):
            cache = self._cache(modulations)
            while len(said) < num_tokens and not ended.all():
                ids = self._logits(ids, mask, cache, 1)[:, -1].argmax(-1, keepdim=True)
                mask = F.pad(mask, (0, 1), value=1)
                said.append(ids)
                ended |= ids[:, 0] == (-1 if end is None else end)
        rows = torch.cat(said, 1).tolist()
        kept = [row[: row.index(end)] if end in row else row for row in rows]
        return [self.tokenizer.decode(row) for row in kept]

    def loss(self, banks: Banks, rng: Random, group: int | None = None) -> Tensor:
        """The mean loss of answers in nats a token (steps 5 and 6); `rng` draws which documents ask, and what.

        Of each bank a share of `backprop_ratio`, at least one document, is encoded with gradients and asks one of its questions;
        the others are encoded without and only distract. Raises InvalidInput for banks of different sizes or without questions.
        """
        size = len(banks[0]) if banks else 0
        if not size or any(len(bank) != size for bank in banks):
            raise InvalidInput("banks: they are not of one size of at least one document; make them so.")
        if not all(document.questions for bank in banks for document in bank):
            raise InvalidInput("banks: a document has no questions; give each at least one to train on.")
        mixed = [rng.sample(list(bank), size) for bank in banks]
        number = max(1, round(self.backprop_ratio * size))
        memories = self.encode([each.text for bank in mixed for each in bank[:number]]).unflatten(0, (len(banks), -1))
        if number < size:
            with torch.no_grad():
                others = self.encode([each.text for bank in mixed for each in bank[number:]])
            memories = torch.cat([memories, others.unflatten(0, (len(banks), -1))], 1)
        questions = [rng.choice(each.questions) for bank in mixed for each in bank[:number]]
        asked = self.ask([each.prompt for each in questions]).unflatten(0, (len(banks), -1))
        return self._nll(self.aggregate(asked, memories, group).flatten(0, 1), questions)

    def learn(
        self,
        steps: Iterable[tuple[Banks, int | None]],
        num_steps: int,
        learning_rate: float = 1e-5,
        warm_up: float = 0.01,
        clip_norm: float = 100.0,
    ) -> Iterator[float]:
        """Train the networks on the banks of each step, read in groups of so many or at once; gives each step's loss.

        Adam, with a rate that rises over a share of `warm_up` of `num_steps`. The bank is emptied: earlier weights made it.
        `growing` makes such steps from documents.
        """
        self.bank.remove(self.bank.handles)
        optimizer = torch.optim.Adam([each for each in self.parameters() if each.requires_grad], lr=learning_rate)
        rise = max(1.0, warm_up * num_steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / rise))
        rng = Random(f"questions {self.seed}")
        for _, (banks, group) in zip(range(num_steps), steps, strict=False):
            optimizer.zero_grad()
            loss = self.loss(banks, rng, group)
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters(), clip_norm)
            optimizer.step()
            schedule.step()
            yield float(loss.detach())

    def save(self, path: str | Path) -> None:
        """Write what was learned, neither the bank nor the decoder, to a safetensors file."""
        from safetensors.torch import save_file

        save_file({name: each.cpu().contiguous() for name, each in self._kept().items()}, path)

    def load(self, path: str | Path) -> None:
        """Read what `save` wrote. A bank fits only the weights that wrote it: load that too, or write again.

        Raises NotFound without the file, InvalidInput when it is no such file, Conflict when its weights have other shapes.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not Path(path).is_file():
            raise NotFound(f"path: there is no file {path}; name one that networks were saved to.")
        try:
            found = load_file(path)
        except SafetensorError:
            raise InvalidInput(f"path: {path} holds no networks of MAC; save some there first.") from None
        if {name: each.shape for name, each in found.items()} != {
            name: each.shape for name, each in self._kept().items()
        }:
            raise Conflict(f"path: the weights in {path} have other shapes; make the memory with the settings of then.")
        self.load_state_dict(found, strict=False)

    def _kept(self) -> dict[str, Tensor]:
        """What is learned, and the scales: all but the encoders' tables of tokens."""
        fixed = {name for name, each in self.named_parameters() if not each.requires_grad}
        return {name: each for name, each in self.state_dict().items() if name not in fixed}

    def _attended(self, asked: Tensor, bank: Tensor) -> Tensor:
        """Questions [G, Q, V, D] after all blocks over banks [G, N, V, D]; they do not see one another."""
        x, context = asked.flatten(1, 2), bank.flatten(1, 2)
        for block in self.aggregator:
            x = block(x, context)
        return x.view_as(asked)

    def _rows(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, mask = left_padded([_ids(self.encoder_tokenizer, text) for text in texts], 0)
        return ids.to(self.model.device), mask.to(self.model.device)

    def _own_keys(self) -> list[Tensor]:
        """The decoder's keys and values [1, H, 64, S] of random tokens: layer after layer, keys before values."""
        table = self.model.get_input_embeddings().weight
        length = min(64, getattr(self.model.config, "max_position_embeddings", 64))
        ids = torch.randint(len(table), (1, length)).to(table.device)
        with evaluating(self.model):
            cache = self.model(input_ids=ids, use_cache=True).cache
        return [each for layer in cache.layers for each in (layer.keys, layer.values)]

    def _cache(self, modulations: Tensor | None) -> Any:
        """A cache of its own that holds the prefix, or nothing."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, (key, value) in enumerate([] if modulations is None else self.prefix(modulations)):
            cache.update(key, value, layer)
        return cache

    def _logits(self, ids: Tensor, mask: Tensor, cache: Any, last: int) -> Tensor:
        """The `last` logits after a cache that begins with the prefix; `mask` is of all tokens but the prefix.

        The first token of a row stands at place p, or at 0 without a prefix, however far it was filled up.
        """
        begun = cache.get_seq_length() + ids.shape[1] - mask.shape[1]  # p, or 0
        places = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :] + begun
        return self.model(
            input_ids=ids,
            attention_mask=F.pad(mask, (begun, 0), value=1),
            position_ids=places,
            cache=cache,
            use_cache=True,
            logits_to_keep=last,
        ).logits

    def _nll(self, modulations: Tensor, questions: Sequence[Any]) -> Tensor:
        """Nats a token of the answers, their last token included, under modulations [B, V, D]."""
        end = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        answers = [[*self.tokenizer.encode(each.answer, add_special_tokens=False), *end] for each in questions]
        rows = [[*_ids(self.tokenizer, each.prompt), *answer] for each, answer in zip(questions, answers, strict=True)]
        ids, mask = left_padded(rows, 0)
        labels, known = left_padded(answers, 0)
        ids, mask, labels, known = (each.to(self.model.device) for each in (ids, mask, labels, known))
        logits = self._logits(ids, mask, self._cache(modulations), labels.shape[1] + 1)[:, :-1].float()
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none") * known
        return losses.sum() / known.sum()


def growing(
    documents: Sequence[Item],
    num_steps: int,
    batch_documents: int = 32,
    backprop_ratio: float = 0.25,
    group: int | None = None,
    seed: int = 0,
) -> Iterator[tuple[list[list[Item]], int | None]]:
    """Banks of each step of training: they grow from one document, twice as large each time, over the first half of the steps.

    A step has as many banks as let gradients flow through `batch_documents`; a bank is one of the two largest sizes so far, at
    most `batch_documents` / `backprop_ratio`, and holds no document twice. With `group` every second step is read in groups,
    so that training knows them. Raises InvalidInput for fewer documents than the largest step draws.
    """
    rng, most = Random(f"steps {seed}"), int(batch_documents / backprop_ratio)
    if len(documents) < most:
        raise InvalidInput(f"documents: there are {len(documents)}, and a step draws {most}; give more.")
    sizes = [1 << power for power in range(most.bit_length())]
    for step in range(num_steps):
        known = min(len(sizes), 1 + 2 * step * len(sizes) // num_steps)
        size = rng.choice(sizes[max(0, known - 2) : known])
        number = max(1, batch_documents // max(1, round(backprop_ratio * size)))
        drawn = rng.sample(documents, number * size)
        banks = [drawn[at : at + size] for at in range(0, len(drawn), size)]
        yield banks, group if group is not None and step % 2 else None


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids = prompt_ids(tokenizer, text)
    if not text.strip() or not ids:
        raise InvalidInput("text: it is empty; write something.")
    return ids
