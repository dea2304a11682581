"""Trees of tensors and plain values on disk: tensors as safetensors, everything else as JSON; nothing is executed.

A tree is made of dicts (keys are strings or integers), lists, tuples, tensors and JSON values.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recollect.errors import InvalidInput, NotFound


def save_tree(tree: Any, folder: Path, name: str) -> None:
    """Write `<name>.json` and `<name>.safetensors` into the folder; each replaces an older one in one move."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    plain = json.dumps(_encode(tree, tensors), allow_nan=True)
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f"{name}.safetensors.new"
    save_file(tensors, new)
    os.replace(new, folder / f"{name}.safetensors")
    (folder / f"{name}.json.new").write_text(plain, "utf-8")
    os.replace(folder / f"{name}.json.new", folder / f"{name}.json")


def load_tree(folder: Path, name: str, device: torch.device | str = "cpu") -> Any:
    """The tree that `save_tree` wrote; what lay on the CPU comes back there, everything else on the device.

    Raises NotFound when there is none, InvalidInput when it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / f"{name}.json").is_file():
        raise NotFound(f"folder: there is no {name}.json in {folder}; name a folder that was saved into.")
    try:
        plain = json.loads((folder / f"{name}.json").read_text("utf-8"))
        return _decode(plain, load_file(folder / f"{name}.safetensors"), device)
    except (ValueError, KeyError, OSError, SafetensorError) as error:
        raise InvalidInput(f"folder: {folder / name} cannot be read ({error!s:.120}); save it again.") from None


def read_tensors(path: str | Path, what: str, kind: str = "") -> tuple[dict[str, Tensor], Any]:
    """(tensors by name, on the CPU; plain values) of a safetensors file whose metadata hold JSON under `kind`.

    Without a `kind` there are no plain values: None. `what` says in errors what the file should hold. Raises NotFound
    without the file, InvalidInput when it holds something else.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise NotFound(f"path: there is no file {path}; name one that {what} was saved to.")
    try:
        with safe_open(path, "pt") as file:
            plain = json.loads((file.metadata() or {})[kind]) if kind else None
            return {name: file.get_tensor(name) for name in file.keys()}, plain  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError):
        raise InvalidInput(f"path: {path} does not hold {what}; save one there first.") from None


def _encode(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, Tensor):
        key = str(len(tensors))
        tensors[key] = tree.detach().to("cpu", copy=True).contiguous()
        return {"tensor": key, "on": tree.device.type}
    if isinstance(tree, dict):
        return {"items": [[key, _encode(value, tensors)] for key, value in tree.items()]}
    if isinstance(tree, tuple):
        return {"tuple": [_encode(value, tensors) for value in tree]}
    if isinstance(tree, list):
        return [_encode(value, tensors) for value in tree]
    if tree is None or isinstance(tree, str | int | float | bool):
        return tree
    raise InvalidInput(f"state: a {type(tree).__name__} cannot be saved; keep tensors and plain values in it.")


def _decode(plain: Any, tensors: dict[str, Tensor], device: torch.device | str) -> Any:
    if isinstance(plain, list):
        return [_decode(value, tensors, device) for value in plain]
    if isinstance(plain, dict):
        if "tensor" in plain:
            return tensors[plain["tensor"]].to("cpu" if plain["on"] == "cpu" else device)
        if "tuple" in plain:
            return tuple(_decode(value, tensors, device) for value in plain["tuple"])
        return {key: _decode(value, tensors, device) for key, value in plain["items"]}
    return plain
