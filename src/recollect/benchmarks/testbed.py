"""A small Llama with a short trained length, made here in a few minutes: a model on which memories can be measured.

It is trained on made prose with recall episodes in it (those of haystack.py, and stretches of random tokens said twice),
each sequence `trained_tokens` long. Within that length it recalls; beyond it, it does not. Nothing is downloaded: the
tokenizer is trained on the made text too. `load` also opens any checkpoint of transformers from a folder.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from recollect.benchmarks.haystack import TASKS, Haystacks, prose
from recollect.errors import InvalidInput, NotFound, Unavailable
from recollect.store.minilm import cache_folder

if TYPE_CHECKING:
    from recollect.context.policy import ContextMemory

Progress = Callable[[int, int, str], None]  # step, of, what was measured last
INSTALL = 'torch: is not installed; `pip install "recollect[torch]"` brings it and transformers.'


@dataclass(frozen=True)
class Recipe:
    """What is trained and how; the defaults take a few minutes on one core."""

    vocabulary: int = 512
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 2
    trained_tokens: int = 256
    batch_rows: int = 12
    num_steps: int = 600
    learning_rate: float = 2e-3
    warmup_steps: int = 30
    tasks: tuple[str, ...] = ("passkey", "needle", "key-value")
    seed: int = 0


def folder_of(recipe: Recipe) -> Path:
    """Where the model of this recipe is kept, in the user's cache folder."""
    import hashlib

    name = hashlib.sha256(json.dumps(asdict(recipe)).encode()).hexdigest()[:12]
    return cache_folder() / f"testbed-{name}"


DTYPES = ("float32", "bfloat16", "float16")


def load(path: str | Path, device: str = "cpu", dtype: str | None = None) -> tuple[Any, Any]:
    """(model, tokenizer) in a folder that transformers wrote; None: float32 on a CPU, bfloat16 elsewhere.

    Nothing is downloaded. Raises NotFound when there is no such folder, InvalidInput for an unknown dtype, Unavailable
    without torch and transformers.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
        from transformers.utils import logging
    except ImportError:
        raise Unavailable(INSTALL) from None
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    if dtype not in DTYPES:
        raise InvalidInput(f"dtype: {dtype!r:.20} is not known; use one of {', '.join(DTYPES)}.")
    path = Path(path).expanduser()
    if not (path / "config.json").is_file():
        raise NotFound(
            f"model: there is no checkpoint in {path}; `recollect testbed train` makes one, or name a folder."
        )
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), local_files_only=True)
        model = model.to(device).eval()
        file = path / "tokenizer.json"
        fast = file.is_file()
        tokenizer = (
            PreTrainedTokenizerFast(tokenizer_file=str(file))
            if fast
            else AutoTokenizer.from_pretrained(path, local_files_only=True)
        )
    except (OSError, ValueError) as error:
        raise InvalidInput(f"model: {path} cannot be loaded ({str(error).splitlines()[0]:.120}).") from None
    return model, tokenizer


def load_or_train(
    recipe: Recipe | None = None,
    device: str = "cpu",
    progress: Progress = lambda *_: None,
    dtype: str | None = None,
) -> tuple[Any, Any]:
    """(model, tokenizer) of a recipe, from the cache folder or trained now."""
    recipe = recipe or Recipe()
    if not (folder_of(recipe) / "config.json").is_file():
        train(recipe, folder_of(recipe), device, progress)
    return load(folder_of(recipe), device, dtype)


def train(recipe: Recipe, folder: Path, device: str = "cpu", progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Train the model of a recipe and write it, its tokenizer and `training.json` into `folder`; returns the latter."""
    try:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        raise Unavailable(INSTALL) from None
    began = time.perf_counter()
    tokenizer = make_tokenizer(recipe.vocabulary)
    config = LlamaConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden_size,
        intermediate_size=8 * recipe.hidden_size // 3,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_heads,
        attention_bias=True,
        max_position_embeddings=recipe.trained_tokens,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model: Any = LlamaForCausalLM(config)
        start_with_induction(model)
        model.to(device)
    answers = fit(model, tokenizer, recipe, progress)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    log = {
        "recipe": asdict(recipe),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "answer_loss": round(answers, 4),
        "seconds": round(time.perf_counter() - began, 1),
    }
    (folder / "training.json").write_text(json.dumps(log, indent=2) + "\n", "utf-8")
    model.save_pretrained(folder)
    return log


def fit(model: Any, tokenizer: Any, recipe: Recipe, progress: Progress = lambda *_: None) -> float:
    """Train a model in place on the recipe's sequences; returns the loss of answers in nats, averaged over the last steps.

    `tokenizer` is one of the library tokenizers. A policy may be attached that reads `trained_tokens` in one chunk.
    """
    import torch

    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95))
    answers = math.nan
    episodes = sequences(recipe, tokenizer)
    for step in range(recipe.num_steps):
        share = step / recipe.num_steps
        rate = min(1.0, (step + 1) / recipe.warmup_steps) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate
        rows, marks = zip(*(next(episodes) for _ in range(recipe.batch_rows)), strict=True)
        ids, mark = torch.tensor(rows, device=model.device), torch.tensor(marks, device=model.device)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
        each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        each, mark = each.view(len(ids), -1), mark[:, 1:]
        recall = (each * mark).sum() / mark.sum()
        (0.2 * each.mean() + recall).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        answers = recall.item() if math.isnan(answers) else 0.95 * answers + 0.05 * recall.item()
        progress(step + 1, recipe.num_steps, f"loss of answers {answers:.2f} nats")
    return answers


def extend(
    model: Any, tokenizer: Any, recipe: Recipe, policy: ContextMemory | None, progress: Progress = lambda *_: None
) -> float:
    """Train a loaded model in place on to `recipe.trained_tokens`, under a policy or with full attention (None).

    The rotary base is raised first; returns the loss of answers in nats. Raises InvalidInput when the model was trained
    to more tokens than that or its positions are scaled already.
    """
    from recollect.context.longgen import raise_rope_base

    raise_rope_base(model, recipe.trained_tokens)
    attached = nullcontext() if policy is None else replace(policy, chunk_tokens=recipe.trained_tokens).attach(model)
    model.train()
    with attached:
        answers = fit(model, tokenizer.backend_tokenizer, recipe, progress)
    model.eval()
    return answers


def start_with_induction(model: Any) -> None:
    """Set the first head of the first two layers to an induction circuit, in place.

    A head that looks at the previous token, and one that looks for the present token among the previous ones and copies
    what followed it, are what recall is made of (Olsson et al., In-context Learning and Induction Heads, 2022). Gradient
    descent finds them too, but not within the few minutes that training takes with them given.

    The first head attends by biases alone: in the fast rotary frequencies its query is its key turned by one position.
    The second compares tokens in the slow frequencies, which hardly turn within the trained length.
    """
    import torch

    config, decoder = model.config, model.model
    width, size = config.hidden_size, config.hidden_size // config.num_attention_heads
    half, turn = size // 2, decoder.rotary_emb.inv_freq
    fast = [each for each in range(half) if turn[each] > 0.05]
    slow = [each for each in range(half) if turn[each] < 0.5 / config.max_position_embeddings]
    slow += [each + half for each in slow]
    previous, match = (decoder.layers[number].self_attn for number in (0, 1))
    read, write, copy = (torch.linalg.qr(torch.randn(width, size))[0] for _ in range(3))  # each [width, size]
    with torch.no_grad():
        decoder.embed_tokens.weight.normal_(0, width**-0.5)
        previous.k_proj.bias[fast] = 5.0
        previous.q_proj.bias[fast] = 5.0 * torch.cos(turn[fast])
        previous.q_proj.bias[[each + half for each in fast]] = -5.0 * torch.sin(turn[fast])
        previous.v_proj.weight[:size], previous.o_proj.weight[:, :size] = read.T, write * width**-0.5
        match.q_proj.weight[:size], match.k_proj.weight[:size] = 0.0, 0.0
        match.q_proj.weight[slow], match.k_proj.weight[slow] = 2.2 * read.T[: len(slow)], 2.2 * write.T[: len(slow)]
        match.v_proj.weight[:size], match.o_proj.weight[:, :size] = copy.T, copy


def make_tokenizer(vocabulary: int) -> Any:
    """A byte-pair tokenizer, digits apart, trained on made text; the first three tokens begin, end and pad a document."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|bos|>", "<|eos|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = Random("tokenizer")
    sentences = prose(rng)
    lines = [next(sentences) for _ in range(3000)]
    for _ in range(300):
        for task in TASKS.values():
            said, _, question, answer = task(rng, 256)
            lines += [*said, f"{question} {answer}."]
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


class _Encoding:
    """A tokenizer of the library tokenizers, seen as one of transformers."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, token_ids: Any) -> str:
        return self.tokenizer.decode(list(token_ids))


def sequences(recipe: Recipe, tokenizer: Any) -> Iterator[tuple[list[int], list[bool]]]:
    """Training sequences of `trained_tokens` tokens without end, and where in them an answer is to be predicted.

    Each packs episodes of mixed length: a statement somewhere in prose, then its question and answer; or random tokens,
    prose, and the same tokens again.
    """
    encoding = _Encoding(tokenizer)
    haystacks, rng = Haystacks(encoding, seed=recipe.seed), Random(f"sequences {recipe.seed}")
    special = 3
    while True:
        tokens, marks = [0], [False]
        while len(tokens) < recipe.trained_tokens:
            room = recipe.trained_tokens - len(tokens)
            length = min(room, int(2 ** rng.uniform(5.5, math.log2(recipe.trained_tokens))))
            if room < 64:
                length = room
                body, said = haystacks.prompt("passkey", 64, rng).tokens[:length], []
            elif rng.random() < 0.25:
                count = rng.randint(4, length // 3)
                said = [rng.randrange(special, recipe.vocabulary) for _ in range(count)]
                body = [*said, *haystacks.filler(length - 2 * count, rng)]
            else:
                task = rng.choice(recipe.tasks)
                prompt = haystacks.prompt(task, max(length - 10, 54), rng)
                body, said = prompt.tokens, encoding.encode(f" {prompt.answer}.")
            tokens += [*body, *said]
            marks += [False] * len(body) + [True] * len(said)
        yield tokens[: recipe.trained_tokens], marks[: recipe.trained_tokens]
