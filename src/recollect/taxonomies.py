"""How surveys sort continual learning, and where each system stands: data only, read by the command line and the tests.

A taxonomy has axes, each with classes; a system may stand in several. Keys of systems are those of the catalogue, also of
systems that this version does not have yet.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from recollect.errors import NotFound


@dataclass(frozen=True)
class Taxonomy:
    """A survey's classes by axis, each with the keys of the systems that stand in it."""

    key: str
    name: str
    arxiv: str
    axes: Mapping[str, Mapping[str, tuple[str, ...]]]

    def places(self, system: str) -> dict[str, list[str]]:
        """Where a system stands: the classes of each axis that it is in; axes without one are left out."""
        found = {
            axis: [name for name, keys in classes.items() if system in keys] for axis, classes in self.axes.items()
        }
        return {axis: names for axis, names in found.items() if names}


TAXONOMIES = (
    Taxonomy(
        key="cl-llm-survey",
        name="Continual Learning of Large Language Models: A Comprehensive Survey",
        arxiv="2404.16789",
        axes={
            "direction": {
                "vertical: from general to special": ("control-llm", "rehearsal-free", "i-lora", "migu"),
                "horizontal: over time and domains": (
                    *("continual-pretraining", "wise", "mac", "cmt", "scole", "refresh", "cl-thesis", "mos"),
                    *("ecotta", "prompttpp", "few-shot-memories", "migu", "i-lora"),
                ),
            },
            "stage": {
                "continual pre-training": ("continual-pretraining", "control-llm", "few-shot-memories"),
                "domain-adaptive pre-training": ("control-llm", "continual-pretraining", "ecotta"),
                "continual fine-tuning": (
                    "migu",
                    "i-lora",
                    "rehearsal-free",
                    "refresh",
                    "cl-thesis",
                    "scole",
                    "mos",
                    "prompttpp",
                ),
                "continual instruction tuning": ("migu", "i-lora", "control-llm"),
                "continual model refinement (editing)": ("wise", "mac", "cmt"),
                "continual model alignment": (),
                "continual multimodal learning": (),
            },
            "technique": {
                "rehearsal": ("i-lora", "continual-pretraining", "refresh", "cl-thesis"),
                "regularisation of parameters": ("migu", "rehearsal-free", "refresh", "cl-thesis", "ecotta"),
                "regularisation of functions": ("rehearsal-free", "control-llm", "i-lora", "refresh", "ecotta"),
                "architecture expansion": (
                    "control-llm",
                    "wise",
                    "mos",
                    "mac",
                    "cmt",
                    "prompttpp",
                    "ecotta",
                    "cl-thesis",
                ),
                "none: the stream itself": ("scole", "few-shot-memories"),
            },
        },
    ),
    Taxonomy(
        key="lifelong-survey",
        name="Towards Lifelong Learning of Large Language Models: A Survey",
        arxiv="2406.06391",
        axes={
            "scenario: knowledge in the model, pre-training": {
                "1 vertical domains": ("continual-pretraining", "control-llm", "ecotta"),
                "2 language domains": ("continual-pretraining", "control-llm"),
                "3 temporal domains": ("continual-pretraining", "mac", "cmt", "prompttpp", "few-shot-memories"),
            },
            "scenario: knowledge in the model, fine-tuning": {
                "4 text classification": ("migu", "i-lora", "refresh", "cl-thesis", "rehearsal-free", "scole", "mos"),
                "5 named entity recognition": (),
                "6 relation extraction": (),
                "7 machine translation": (),
                "8 instruction tuning": ("migu", "i-lora", "control-llm"),
                "9 knowledge editing": ("wise",),
                "10 alignment": (),
            },
            "scenario: knowledge outside of the model": {
                "11 retrieval": (
                    *("episodic", "scm", "hipporag2", "a-mem", "tim", "longmemeval", "omnilive", "mac", "cmt"),
                    *("infllm", "em-llm", "longmem", "locomo"),
                ),
                "12 tools": ("ste", "l2mac", "hiagent"),
            },
            "technique": {
                "replay": ("i-lora", "continual-pretraining", "refresh", "cl-thesis"),
                "regularisation": ("migu", "rehearsal-free", "refresh", "cl-thesis", "control-llm", "ecotta"),
                "architecture": ("control-llm", "wise", "mos", "mac", "cmt", "prompttpp", "cl-thesis", "ecotta"),
                "distillation": ("rehearsal-free", "i-lora", "control-llm", "ecotta", "refresh"),
                "none: the stream itself": ("scole", "few-shot-memories"),
            },
        },
    ),
    Taxonomy(
        key="cl-review",
        name="Continual Lifelong Learning with Neural Networks: A Review",
        arxiv="1802.07569",
        axes={
            "mechanism": {
                "regularisation": ("rehearsal-free", "refresh", "cl-thesis", "migu", "ecotta"),
                "dynamic architectures": ("control-llm", "mos", "prompttpp", "cl-thesis"),
                "complementary learning systems and replay": (
                    *("i-lora", "continual-pretraining", "refresh", "wise", "mac", "cmt", "cl-thesis"),
                    *("episodic", "scm", "hipporag2", "a-mem", "tim", "omnilive", "longmem"),
                ),
            },
            "beyond static tasks": {
                "curriculum and development": ("scole",),
                "transfer": ("few-shot-memories",),
                "intrinsic motivation": (),
                "several senses": ("omnilive",),
            },
        },
    ),
)


def taxonomy(name: str) -> Taxonomy:
    """The taxonomy of this key, or the only one whose key begins with the name. Raises NotFound, naming those there are."""
    found = [entry for entry in TAXONOMIES if name and entry.key.startswith(name)]
    exact = [entry for entry in found if entry.key == name]
    if len(exact or found) == 1:
        return (exact or found)[0]
    keys = [entry.key for entry in TAXONOMIES]
    close = difflib.get_close_matches(name, keys, n=1)
    hint = f"did you mean {close[0]}" if close else f"use one of {', '.join(keys)}"
    raise NotFound(f"taxonomy: {name!r:.40} is not known; {hint}.")
