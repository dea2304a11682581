"""A tokenizer of whole words and a tiny decoder, for tests that need text and a model."""

from __future__ import annotations

from typing import Any

WORDS = "the a of is in sea town red blue green ana bo cara dan home lives likes tea rain sun Answer :".split()


def tokenizer(words: list[str] = WORDS, ends: bool = True) -> Any:
    """A tokenizer of transformers that knows these words; with `ends`, a first, a last and a filling token too."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = {word: number for number, word in enumerate(["<bos>", "<eos>", "<pad>", "<unk>", *words])}
    made = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"} if ends else {}
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", **special)
