"""Files of named tensors: safetensors, and PyTorch's own format without its pickled code.

What is read may come from anywhere, so nothing in it is ever executed: safetensors cannot hold
code, and PyTorch's files are read with `weights_only=True`, which refuses it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from jaxrnn.training.files import write_whole

ABOUT = "jaxrnn"
"""The entry of a safetensors header under which we say what the weights belong to."""
NESTED = ("state_dict", "model_state_dict", "model")
"""Where training scripts keep the weights when a file holds more than them."""
PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put in front of every name."""


class TensorFileError(ValueError):
    """A file of tensors that cannot be read; the message says why."""


def write_tensors(path: Path | str, tensors: Mapping[str, np.ndarray], about: Any) -> None:
    """Write a safetensors file that `safetensors.torch.load_file` reads.

    Args:
        path: the file; one that exists is replaced at the end, in one move.
        tensors: the tensors by name.
        about: what they belong to, as JSON can express it.

    Raises:
        TensorFileError: if the file cannot be written.
    """
    data = serialize(dict(tensors), {"format": "pt", ABOUT: json.dumps(about)})
    try:
        write_whole(Path(path), data)
    except OSError as error:
        raise TensorFileError(f"Cannot write {path}: {error.strerror}.") from error


def read_tensors(path: Path | str) -> dict[str, np.ndarray]:
    """Read the tensors of a `.safetensors` file, or of any other as PyTorch's own format.

    A checkpoint may hold more than the weights: those under `state_dict`, `model_state_dict` or
    `model` are taken. A `module.` or `_orig_mod.` in front of every name is dropped.

    Raises:
        TensorFileError: if there is no such file, if it is damaged, or if it holds code or things
            that are no tensors; nothing in it has been executed.
    """
    path = Path(path)
    if not path.is_file():
        raise TensorFileError(f"There is no file {path}.")
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): array for name, array in tensors.items()}
    return tensors


def read_about(path: Path | str) -> Any | None:
    """What `write_tensors` said about the tensors, or None if this is not a file of ours."""
    if Path(path).suffix != ".safetensors" or not Path(path).is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            written = (file.metadata() or {}).get(ABOUT)
        return None if written is None else json.loads(written)
    except (SafetensorError, OSError, ValueError) as error:
        raise TensorFileError(f"{path} is damaged or no safetensors file: {error}.") from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        # "flax", unlike "numpy", knows bfloat16; without x64 it would make float64 float32.
        with jax.enable_x64(True), safe_open(path, framework="flax") as file:
            return {name: np.array(file.get_tensor(name)) for name in list(file.keys())}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise TensorFileError(f"{path} is damaged or no safetensors file: {error}.") from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise TensorFileError(
            f"Reading {path} needs PyTorch (pip install torch). Or save the weights with "
            "safetensors.torch.save_file under a name that ends in .safetensors."
        ) from None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damage runs into: KeyError, EOFError ..
        if type(error).__name__ == "UnpicklingError":
            raise TensorFileError(
                f"{path} holds code or objects beside tensors, which are never loaded: save the "
                "state_dict alone."
            ) from error
        raise TensorFileError(f"{path} is damaged or no file of PyTorch's.") from error
    tensors = _weights_in(found)
    wrong = sorted(str(name) for name, t in tensors.items() if not isinstance(t, torch.Tensor))
    if wrong or not tensors:
        raise TensorFileError(
            f"{path} is no state_dict: it holds {', '.join(wrong) or 'no tensors'}, and no "
            f"tensors under {', '.join(NESTED)}."
        )
    return {str(name): tensor.to(torch.float64).numpy() for name, tensor in tensors.items()}


def _weights_in(found: Any) -> Mapping[Any, Any]:
    """The state dict in what a checkpoint holds."""
    if not isinstance(found, Mapping):
        return {}
    nested = [found[name] for name in NESTED if isinstance(found.get(name), Mapping)]
    return nested[0] if nested else found
