"""Contextual Memory Reweaving: hidden states of earlier segments, at several depths, are reconstructed and read again.

Text is read in segments. Of each finished segment the most surprising tokens are kept, as a stack of their hidden states
at a few layers. While a later segment passes one of these layers, the stacks are re-expressed in the layer's own space by
low-rank maps, mixed over depths, read by cross-attention, and added by a gate that starts closed. The decoder is frozen;
only the maps, the reading and the gates are trained.

Paper: Contextual Memory Reweaving in Large Language Models Using Layered Latent State Reconstruction, arXiv:2502.02046
(2025).
Reading: the paper names the idea (states captured at layers, reconstructed, integrated) and says neither what is kept nor by
what equations. Those here are ours. Surprise alone selects; the attention that a token received is not used.
Cost: M * L * E values a row, whatever the length; O(T M) more attention at each of L layers.

Shapes: B rows, T tokens, M kept tokens, L captured layers, E width, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect.errors import InvalidInput
from recollect.state.decoder import decoder_of
from recollect.state.layer import State, detach

AGES = 16  # kinds of age, in powers of two of segments


class Reweave(nn.Module):
    """Reading at one layer: reconstruction of the kept states, cross-attention, gate."""

    def __init__(self, dim: int, own: int, num_layers: int, num_heads: int, rank: int):
        super().__init__()
        self.own = own  # which of the captured layers this is
        self.down = nn.ModuleList(nn.Linear(dim, rank) for _ in range(num_layers))
        self.up = nn.ModuleList(nn.Linear(rank, dim) for _ in range(num_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(num_layers))
        self.depth, self.age = nn.Embedding(num_layers, dim), nn.Embedding(AGES, dim)
        for table in (self.depth, self.age):
            nn.init.normal_(table.weight, std=0.02)
        mix = torch.zeros(num_layers)
        mix[own] = 2.0
        self.mix = nn.Parameter(mix)  # w_l
        self.norm = nn.LayerNorm(dim)
        self.read = nn.MultiheadAttention(dim, num_heads, bias=False, add_zero_attn=True, batch_first=True)
        self.gate = nn.Linear(2 * dim, 1)
        nn.init.constant_(self.gate.bias, -3.0)
        self.share = nn.Parameter(torch.zeros(()))  # beta: at 0 the decoder is as it was

    def reconstruct(self, latents: Tensor) -> Tensor:
        """Z_{l' to l} of kept states [B, M, L, E], before depth and age are added: [B, M, L, E]."""
        found = [
            norm(up(F.gelu(down(F.layer_norm(latents[:, :, number], latents.shape[-1:])))))
            for number, (down, up, norm) in enumerate(zip(self.down, self.up, self.norms, strict=True))
        ]
        return torch.stack(found, 2)

    def forward(self, hidden: Tensor, latents: Tensor, ages: Tensor, there: Tensor) -> Tensor:
        """What is added to hidden states [B, T, E]; latents [B, M, L, E], ages [B, M] in segments, there [B, M]."""
        each = self.reconstruct(latents) + self.depth.weight
        age = self.age((ages.float().clamp(min=1).log2().long()).clamp(max=AGES - 1))
        memory = (self.mix.softmax(0)[:, None] * each).sum(2) + age
        x = self.norm(hidden.to(memory.dtype))
        found, _ = self.read(x, memory, memory, key_padding_mask=~there, need_weights=False)
        gate = self.gate(torch.cat([x, found], -1)).sigmoid()
        return (self.share.tanh() * gate * found).to(hidden.dtype)


class MemoryReweaving(nn.Module):
    """A frozen decoder of transformers that reads its own earlier hidden states.

    model = MemoryReweaving(decoder, layers=(1, 3, 5)); output = model(ids); output = model(more, output["state"])
    """

    def __init__(
        self,
        backbone: Any,
        layers: Sequence[int] | None = None,  # captured and read at; None: at a quarter, a half and three quarters
        memory_tokens: int = 256,
        kept_tokens: int = 16,  # of each segment
        segment_tokens: int = 512,
        rank: int | None = None,  # None: an eighth of the width
    ):
        super().__init__()
        decoder = decoder_of(backbone)
        count, dim = len(decoder.layers), decoder.config.hidden_size
        layers = sorted({count // 4, count // 2, 3 * count // 4}) if layers is None else sorted(set(layers))
        if not layers or not all(0 <= layer < count for layer in layers):
            raise InvalidInput(f"layers: {list(layers)} are not layers of a model with {count}; count from 0.")
        if not 1 <= kept_tokens <= min(memory_tokens, segment_tokens):
            raise InvalidInput("kept_tokens: must be at least 1, and at most memory_tokens and segment_tokens.")
        self.backbone, self.layers = backbone.eval().requires_grad_(False), list(layers)
        self.memory_tokens, self.kept_tokens, self.segment_tokens = memory_tokens, kept_tokens, segment_tokens
        heads = decoder.config.num_attention_heads
        self.adapters = nn.ModuleList(
            Reweave(dim, number, len(self.layers), heads, rank or max(1, dim // 8))
            for number in range(len(self.layers))
        ).to(next(decoder.parameters()).device)
        self._decoder_layers = [decoder.layers[layer] for layer in self.layers]
        self.dim = dim

    def train(self, mode: bool = True) -> MemoryReweaving:
        """Training mode for the adapters; the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def initial_state(self, num_rows: int = 1) -> State:
        """Nothing kept: `latents` [B, 0, L, E] and the `ages` [B, 0] of kept tokens, in segments."""
        like = next(self.adapters.parameters())
        return {
            "latents": like.new_zeros(num_rows, 0, len(self.layers), self.dim),
            "ages": like.new_zeros(num_rows, 0, dtype=torch.int64),
        }

    def forward(self, input_ids: Tensor, state: State | None = None, labels: Tensor | None = None) -> dict[str, Any]:
        """`logits` [B, T, V] of ids read in segments, the `state` after the last, and with `labels` the `loss`.

        A segment reads what earlier ones left, and is captured when it is whole or the call ends; what is captured carries
        no gradient. `labels` [B, T] are the tokens themselves, -100 where none is counted. In training the loss includes a
        tenth of the reconstruction loss: a state rebuilt from a lower layer shall be that of the layer itself.
        """
        state = self.initial_state(input_ids.shape[0]) if state is None else state
        logits, rebuilt = [], []
        for start in range(0, input_ids.shape[1], self.segment_tokens):
            ids = input_ids[:, start : start + self.segment_tokens]
            scores, caught = self._pass(ids, state)
            if self.training and state["latents"].shape[1]:
                rebuilt.append(self.reconstruction_loss(state["latents"]))
            logits.append(scores)
            state = self._capture(ids, scores, caught, state)
        output: dict[str, Any] = {"logits": torch.cat(logits, 1), "state": state}
        if labels is not None:
            shifted = output["logits"][:, :-1].flatten(0, 1).float()
            output["loss"] = F.cross_entropy(shifted, labels[:, 1:].flatten())
            if rebuilt:
                output["loss"] = output["loss"] + 0.1 * torch.stack(rebuilt).mean()
        return output

    def _pass(self, ids: Tensor, state: State) -> tuple[Tensor, list[Tensor]]:
        """Logits [B, T, V] of one segment, and the hidden states [B, T, E] behind each captured layer."""
        caught: list[Tensor] = []
        there = torch.ones_like(state["ages"], dtype=torch.bool)

        def leaves(module: nn.Module, args: tuple[Any, ...], output: Any, number: int) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            caught.append(hidden.detach())
            if state["latents"].shape[1]:
                hidden = hidden + self.adapters[number](hidden, state["latents"], state["ages"], there)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        with ExitStack() as hooks:
            for number, layer in enumerate(self._decoder_layers):
                handle = layer.register_forward_hook(
                    lambda module, args, output, number=number: leaves(module, args, output, number)
                )
                hooks.callback(handle.remove)
            scores = self.backbone(input_ids=ids, use_cache=False).logits
        return scores, caught

    def _capture(self, ids: Tensor, scores: Tensor, caught: list[Tensor], state: State) -> State:
        """The state after a segment: its most surprising tokens join, the oldest ones leave when there are too many."""
        with torch.no_grad():
            losses = F.cross_entropy(scores[:, :-1].mT.float(), ids[:, 1:], reduction="none")
            chosen = self.choose(F.pad(losses, (1, 0)))
            latents = torch.stack(caught, 2)  # [B, T, L, E]
            new = latents.gather(1, chosen[..., None, None].expand(-1, -1, *latents.shape[2:]))
            kept = torch.cat([state["latents"], new.to(state["latents"].dtype)], 1)
            ages = torch.cat([state["ages"], torch.zeros_like(chosen)], 1) + 1
        return detach({"latents": kept[:, -self.memory_tokens :], "ages": ages[:, -self.memory_tokens :]})

    def choose(self, losses: Tensor) -> Tensor:
        """Which tokens of a segment are kept, [B, kept], in order, by the loss of each [B, T]; the first has 0."""
        return losses.topk(min(self.kept_tokens, losses.shape[1]), dim=1).indices.sort(1).values

    def reconstruction_loss(self, latents: Tensor) -> Tensor:
        """Mean squared distance of states rebuilt from lower layers to the layer's own, normed."""
        losses = [latents.new_zeros(())]
        for number, adapter in enumerate(self.adapters):
            assert isinstance(adapter, Reweave)
            target = F.layer_norm(latents[:, :, number : number + 1], latents.shape[-1:])
            if number:
                losses.append((adapter.reconstruct(latents)[:, :, :number] - target).square().mean())
        return torch.stack(losses).mean()

    @torch.no_grad()
    def generate(
        self, input_ids: Tensor, max_new_tokens: int = 32, state: State | None = None, temperature: float = 0.0
    ) -> Tensor:
        """What follows ids [B, T]: [B, max_new_tokens], greedily, or sampled at a temperature above 0.

        Whole segments are captured, also while generating; the last, unfinished one is read anew for each token.
        """
        memory: State = state or self.initial_state(input_ids.shape[0])
        whole = (input_ids.shape[1] - 1) // self.segment_tokens * self.segment_tokens
        if whole:
            memory = self(input_ids[:, :whole], memory)["state"]
        open_ids, found = input_ids[:, whole:], []
        for _ in range(max_new_tokens):
            if open_ids.shape[1] > self.segment_tokens:
                memory = self(open_ids[:, : self.segment_tokens], memory)["state"]
                open_ids = open_ids[:, self.segment_tokens :]
            last = self._pass(open_ids, memory)[0][:, -1].float()
            if temperature > 0:
                token = torch.multinomial((last / temperature).softmax(-1), 1)
            else:
                token = last.argmax(-1, keepdim=True)
            found.append(token)
            open_ids = torch.cat([open_ids, token], 1)
        return torch.cat(found, 1)

    def save_adapters(self, path: str) -> None:
        """Write what was trained to a safetensors file; the backbone stays where it came from."""
        from safetensors.torch import save_file

        save_file({name: each.detach().contiguous() for name, each in self.adapters.state_dict().items()}, path)

    def load_adapters(self, path: str) -> None:
        """Take over what `save_adapters` wrote. Raises InvalidInput for adapters of another shape."""
        from safetensors.torch import load_file

        try:
            self.adapters.load_state_dict(load_file(path))
        except RuntimeError as error:
            raise InvalidInput(f"path: {path} holds adapters of another model ({str(error).splitlines()[0]})") from None
