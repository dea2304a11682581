"""MemoryLM: a language model of any layers with a state, which transformers can save, load and generate with.

Embedding; blocks of a layer and a gated MLP, each behind a norm and beside a residual; head. The configuration names the
layer of each block and its settings. What was read is a `StateCache`, carried as `cache`: generation goes on
from it, training detaches it to cut the gradient, and it can be saved.

Importing this module registers the model with AutoConfig and AutoModelForCausalLM.

Shapes: B rows, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from recollect.errors import InvalidInput, Unavailable
from recollect.state.layer import State, detach, load_state, num_rows, save_state, select, size_bytes
from recollect.state.layers import make_layer


class MemoryLMConfig(PreTrainedConfig):
    """What a MemoryLM is made of.

    `blocks`: one mapping a block, with the name of its layer under "layer" (see `recollect.state.layers`) and the layer's
    settings beside it. `mlp_ratio`: the MLP's inner width over `hidden_size`; 0 leaves it out.
    """

    model_type = "recollect-memory-lm"
    keys_to_ignore_at_inference = ["cache"]  # noqa: RUF012

    vocab_size: int = 512
    hidden_size: int = 128
    blocks: list[dict[str, Any]] | None = None  # None: four of linear attention
    mlp_ratio: float = 2.0
    norm_eps: float = 1e-6
    initializer_range: float = 0.02
    max_position_embeddings: int = 4096  # trained length; nothing is bounded by it
    tie_word_embeddings: bool = True
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.blocks is None:
            self.blocks = [{"layer": "linear-attention"}] * 4
        self.blocks = [dict(block) for block in self.blocks]
        for block in self.blocks:
            if "layer" not in block:
                raise InvalidInput(f"blocks: {block} names no layer; give {{'layer': name, ...settings}}.")
        self.num_hidden_layers = len(self.blocks)
        super().__post_init__(**kwargs)


class StateCache:
    """What a MemoryLM has read: the state of each block, and how many tokens it was."""

    is_compileable = False
    is_linear = (False,)  # it knows how many tokens it has read

    def __init__(self, states: State | None = None, num_read: int = 0):
        self.states: State = {} if states is None else states
        self.num_read = num_read

    def detach(self) -> StateCache:
        """The same memory without gradient: where truncated back-propagation stops."""
        return StateCache(detach(self.states), self.num_read)

    def size_bytes(self) -> int:
        """Bytes of all states, over all rows."""
        return size_bytes(self.states)

    def save(self, path: str | Path) -> None:
        """Write the memory to a safetensors file."""
        save_state({"states": self.states, "num_read": torch.tensor([self.num_read])}, path)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> StateCache:
        """The memory in a file that `save` wrote. Raises NotFound or InvalidInput, as `load_state`."""
        found = load_state(path, device)
        if found.keys() != {"states", "num_read"}:
            raise InvalidInput(
                f"path: {path} holds a state, but not of a model; name a file that `StateCache.save` wrote."
            )
        return cls(found["states"], int(found["num_read"]))

    # What transformers asks of a cache.

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens read so far, padding included."""
        return self.num_read

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row r becomes what row `beam_idx[r]` is (beam search)."""
        self.states = select(self.states, beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order."""
        self.states = select(self.states, indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row `repeats` times."""
        rows = torch.arange(num_rows(self.states) or 0)
        self.states = select(self.states, rows.repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        """Raises Unavailable: a state cannot be wound back."""
        raise Unavailable("crop: a state cannot be wound back; generate without an assistant model.")


class Block(nn.Module):
    """x + layer(norm(x)), then x + mlp(norm(x)) with a gated MLP (SwiGLU)."""

    def __init__(self, config: MemoryLMConfig, layer: str, **settings: Any):
        super().__init__()
        D, inner = config.hidden_size, round(config.mlp_ratio * config.hidden_size)
        self.norm = nn.RMSNorm(D, eps=config.norm_eps)
        self.layer = make_layer(layer, D, **settings)
        if not self.layer.causal:
            raise InvalidInput(f"blocks: {layer} looks ahead and cannot model language; use a causal layer.")
        self.mlp_norm = nn.RMSNorm(D, eps=config.norm_eps) if inner else None
        self.mlp_in = nn.Linear(D, 2 * inner, bias=False) if inner else None
        self.mlp_out = nn.Linear(inner, D, bias=False) if inner else None

    def forward(self, x: Tensor, state: State | None, reset: Tensor | None) -> tuple[Tensor, State]:
        """(x [B, T, D], state) for x [B, T, D]."""
        y, after = self.layer(self.norm(x), state, reset)
        x = x + y
        if self.mlp_norm and self.mlp_in and self.mlp_out:
            gate, value = self.mlp_in(self.mlp_norm(x)).chunk(2, -1)
            x = x + self.mlp_out(F.silu(gate) * value)
        return x, after


class MemoryLM(PreTrainedModel, GenerationMixin):
    """A language model of layers with a state.

    model = MemoryLM(MemoryLMConfig(blocks=[{"layer": "lstm"}, {"layer": "attention", "num_heads": 4}]))
    """

    config: MemoryLMConfig
    config_class = MemoryLMConfig
    main_input_name = "input_ids"
    _is_stateful = True
    _tied_weights_keys = {"lm_head.weight": "embed.weight"}  # noqa: RUF012

    def __init__(self, config: MemoryLMConfig):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, **block) for block in config.blocks or ())
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        nn.init.normal_(self.embed.weight, std=config.initializer_range)
        nn.init.normal_(self.lm_head.weight, std=config.initializer_range)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: layers begin as their constructors made them."""

    def get_input_embeddings(self) -> nn.Module:
        """The embedding [V, D]."""
        return self.embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding."""
        self.embed = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: StateCache | None = None,
        labels: Tensor | None = None,
        reset: Tensor | None = None,
        use_cache: bool | None = None,
        inputs_embeds: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, T, V] of the next token, the loss if there are `labels`, and the memory after the last token.

        `cache`: the memory to go on from, which is left as it was. `attention_mask` [B, columns read and new]: 0
        for padding on the left, which no state remembers; on the right it is allowed where no memory is kept. `reset`
        [B, T]: True where a row forgets what came before, as at the first token of a document. `labels` [B, T]: the tokens
        themselves; -100 is not counted; the loss includes what layers add in training. Raises InvalidInput for inputs that
        do not fit.
        """
        x = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        keep = self.config.use_cache and not self.training if use_cache is None else use_cache
        past = cache or StateCache()
        if attention_mask is not None:
            started = _starts(attention_mask, past.num_read, x.shape[1], keep)
            reset = started if reset is None or started is None else reset | started
        states = {}
        for number, block in enumerate(self.blocks):
            x, states[str(number)] = block(x, past.states.get(str(number)), reset)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(self.norm(x[:, kept]))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
            loss = loss + self.auxiliary_loss()
        memory: Any = StateCache(states, past.num_read + x.shape[1]) if keep else None
        return CausalLMOutputWithPast(loss=loss, logits=logits, cache=memory)  # pyright: ignore

    def auxiliary_loss(self) -> Tensor:
        """What the layers want added to the loss of the last call in training; zero otherwise."""
        added = [block.layer.auxiliary_loss for block in self._blocks()] if self.training else []
        return sum((each for each in added if each is not None), torch.zeros((), device=self.device))

    def state_bytes(self, num_tokens: int = 0) -> int:
        """Bytes of one row's memory after `num_tokens` tokens, all blocks together."""
        return sum(block.layer.state_bytes(num_tokens) for block in self._blocks())

    def _blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.blocks))

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any) -> None:
        """The first call makes the memory, unless one was given."""

    @staticmethod
    def _supports_default_dynamic_cache() -> bool:
        return False


def _starts(mask: Tensor, num_read: int, num_new: int, keep: bool) -> Tensor | None:
    """[B, T]: the first token after padding on the left, of those that are new; None where nothing is padded."""
    seen = mask.bool()
    if seen.shape[1] == num_new and num_read:  # of the new tokens alone
        seen = torch.cat([seen.new_ones(len(seen), num_read), seen], 1)
    if seen.shape[1] != num_read + num_new:
        raise InvalidInput(
            f"attention_mask: has {mask.shape[1]} columns; give {num_read + num_new}, of what was read and what is new."
        )
    if seen[:, max(0, num_read - 1) :].all():
        return None
    ended = (seen[:, :-1] & ~seen[:, 1:]).cumsum(1).bool()  # padding on the right has begun
    if ended.any() and (keep or (ended & seen[:, 1:]).any()):
        raise InvalidInput("attention_mask: only left padding can be kept out of a memory; pad on the left.")
    before = F.pad(seen[:, :-1], (1, 0), value=True)
    return (seen & ~before)[:, num_read:]


def memory_lm(
    vocab_size: int, hidden_size: int, layers: Sequence[str | Mapping[str, Any]], seed: int = 0, **settings: Any
) -> MemoryLM:
    """A new MemoryLM; `layers` holds names, or mappings as in `MemoryLMConfig.blocks`."""
    blocks = [{"layer": each} if isinstance(each, str) else dict(each) for each in layers]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MemoryLM(MemoryLMConfig(vocab_size=vocab_size, hidden_size=hidden_size, blocks=blocks, **settings))


AutoConfig.register(MemoryLMConfig.model_type, MemoryLMConfig, exist_ok=True)
AutoModelForCausalLM.register(MemoryLMConfig, MemoryLM, exist_ok=True)
