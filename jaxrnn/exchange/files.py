"""Files of named tensors: safetensors, and PyTorch's own format without its pickled code.

What is read may come from anywhere, so nothing in it is ever executed: safetensors cannot hold
code, and PyTorch's files are read with `weights_only=True`, which refuses it.
"""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from jaxrnn.output import write_output
from jaxrnn.training.files import parse_json

ABOUT = "jaxrnn"
"""The entry of a safetensors header under which we say what the weights belong to."""
NESTED = ("state_dict", "model_state_dict", "model", "net", "module", "weights", "params")
"""Where training scripts keep the weights when a file holds more than them."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "_forward_module.")
"""What DataParallel, torch.compile, AveragedModel and Lightning put in front of every name."""
COUNTERS = ("num_batches_tracked", "n_averaged", "step", "_metadata")
"""Names of buffers that count something and are no weights."""
DEEPEST = 8
"""How deep in a checkpoint weights are looked for."""
CHECKPOINT = b'{"__metadata__":{"jaxrnn":"{\\"sha256\\"'
"""How the header of our own checkpoints begins."""


class TensorFileError(ValueError):
    """A file of tensors that cannot be read; the message says why."""


def write_tensors(path: Path | str, tensors: Mapping[str, np.ndarray], about: Any) -> None:
    """Write a safetensors file that `safetensors.torch.load_file` reads.

    Args:
        path: the file; one that exists is replaced at the end, in one move.
        tensors: the tensors by name.
        about: what they belong to, as JSON can express it.

    Raises:
        TensorFileError: if its name says that it is something else.
        OutputError: if the path is refused, or cannot be written.
    """
    if Path(path).suffix.lower() != ".safetensors":
        raise TensorFileError(
            f"{path} would be a safetensors file: give it a name that ends in .safetensors. "
            "PyTorch reads it with safetensors.torch.load_file."
        )
    data = serialize(dict(tensors), {"format": "pt", ABOUT: json.dumps(about)})
    write_output(path, data)


def read_tensors(
    path: Path | str, *, key: str | None = None, say: Callable[[str], None] = lambda text: None
) -> dict[str, np.ndarray]:
    """Read the tensors of a safetensors file, or of any other as PyTorch's own format.

    A checkpoint may hold more than the weights: of what lies under one of `NESTED`, the first that
    holds tensors is taken. What wrappers put in front of every name is dropped, however often.

    Args:
        path: the file.
        key: where in the checkpoint the weights are, such as "model" or "ema.model".
        say: is told, in a sentence, what was left out or done to the names.

    Raises:
        TensorFileError: if there is no such file, if it is damaged, or if it holds code or things
            that are no tensors; nothing in it has been executed.
    """
    path = Path(path)
    if not path.is_file():
        raise TensorFileError(f"There is no file {path}.")
    _check_kind(path)
    safe = path.suffix.lower() == ".safetensors"
    tensors = _read_safetensors(path) if safe else _read_torch(path, key)
    if safe and key is not None:
        raise TensorFileError(f"{path} has no keys: --key is for checkpoints of torch.save.")
    return _without_prefixes(tensors, say)


def _without_prefixes(
    tensors: dict[str, np.ndarray], say: Callable[[str], None]
) -> dict[str, np.ndarray]:
    """The tensors without what wrappers put in front of every name but those of counters."""
    while True:
        named = [name for name in tensors if name.rpartition(".")[2] not in COUNTERS]
        prefix = next((p for p in PREFIXES if named and all(n.startswith(p) for n in named)), None)
        if prefix is None:
            return tensors
        say(f"{prefix!r} in front of every name is dropped.")
        tensors = {name.removeprefix(prefix): array for name, array in tensors.items()}


def _check_kind(path: Path) -> None:
    """Refuse, with what it is, a file that is known to be something else than weights.

    Raises:
        TensorFileError: if it is.
    """
    with open(path, "rb") as file:
        begin = file.read(1 << 12)
    kind = None
    if begin[8:].startswith(CHECKPOINT):
        kind = "a checkpoint of a run of ours: go on with the run (train --resume), or export it"
    elif begin.startswith(b"\x89HDF"):
        kind = "HDF5, of Keras or TensorFlow: save the weights with PyTorch or safetensors"
    elif path.suffix.lower() != ".safetensors" and begin.lstrip()[:1] in (b"{", b"["):
        kind = "JSON: if it is the index of shards, join them (torch.save of all their tensors)"
    elif begin.startswith(b"PK"):
        names = _names_in_archive(path)
        if any("/code/" in name or name.endswith("constants.pkl") for name in names):
            kind = "TorchScript, which is code: save module.state_dict() instead"
    if kind is not None:
        raise TensorFileError(f"{path} is no file of weights but {kind}.")


def read_about(path: Path | str) -> Any | None:
    """What `write_tensors` said about the tensors, or None if this is not a file of ours."""
    if Path(path).suffix.lower() != ".safetensors" or not Path(path).is_file():
        return None
    _check_kind(Path(path))
    try:
        with safe_open(path, framework="numpy") as file:
            written = (file.metadata() or {}).get(ABOUT)
        return None if written is None else parse_json(written, "its description")
    except (SafetensorError, OSError, ValueError, AttributeError, RecursionError) as error:
        raise TensorFileError(f"{path} is damaged or no safetensors file: {error}.") from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        # "flax", unlike "numpy", knows bfloat16; without x64 it would make float64 float32.
        with jax.enable_x64(True), safe_open(path, framework="flax") as file:
            return {name: np.array(file.get_tensor(name)) for name in list(file.keys())}
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise TensorFileError(f"{path} is damaged or no safetensors file: {error}.") from error


def _read_torch(path: Path, key: str | None) -> dict[str, np.ndarray]:
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
        if type(error).__name__ == "UnpicklingError" and _begins_as_torch(path):
            raise TensorFileError(
                f"{path} holds code or objects beside tensors, which are never loaded: save the "
                "state_dict alone, where the module's class is at hand: import torch; module = "
                f"torch.load({path.name!r}, weights_only=False); "
                "torch.save(module.state_dict(), 'weights.pt')."
            ) from error
        raise TensorFileError(f"{path} is damaged or no file of PyTorch's.") from error
    tensors = _weights_in(found, path, key)
    wrong = sorted(str(name) for name, t in tensors.items() if not isinstance(t, torch.Tensor))
    if wrong or not tensors:
        raise TensorFileError(
            f"{path} is no state_dict: it holds {', '.join(wrong) or 'no tensors'}, and no "
            f"tensors under {', '.join(NESTED)}. Name the place with --key."
        )
    return {str(name): _dense(str(name), tensor, path) for name, tensor in tensors.items()}


def _names_in_archive(path: Path) -> list[str]:
    """The files in a zip archive; none if it is damaged, which PyTorch says in its turn."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except Exception:  # whatever the damage runs into
        return []


def _begins_as_torch(path: Path) -> bool:
    """Whether a file begins as those of torch.save do: a zip archive, or formerly a pickle."""
    with open(path, "rb") as file:
        return file.read(2)[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def _dense(name: str, tensor: Any, path: Path) -> np.ndarray:
    """The numbers of one of PyTorch's tensors, whatever its layout; integers as they are.

    Raises:
        TensorFileError: if it has no values, or complex ones.
    """
    import torch

    if tensor.is_meta:
        raise TensorFileError(f"{name} in {path} has a shape but no values (device meta).")
    if tensor.is_complex():
        raise TensorFileError(f"{name} in {path} has complex numbers, {tensor.dtype}.")
    try:
        tensor = tensor.detach()
        if tensor.is_quantized:
            tensor = tensor.dequantize()
        if tensor.layout != torch.strided:
            tensor = tensor.to_dense()
        if not tensor.is_floating_point():
            return np.array(tensor.contiguous().numpy())
        return np.array(
            tensor.to(torch.float32 if tensor.element_size() == 1 else tensor.dtype)
            .to(torch.float64)
            .contiguous()
            .numpy()
        )
    except (RuntimeError, NotImplementedError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TensorFileError(f"{name} in {path} cannot be read: {reason}") from error


def _weights_in(found: Any, path: Path, key: str | None, depth: int = DEEPEST) -> Mapping[Any, Any]:
    """The state dict in what a checkpoint holds: under `key`, or where it usually is.

    Raises:
        TensorFileError: if there is nothing under `key`.
    """
    if key is not None:
        for name in key.split("."):
            if not isinstance(found, Mapping) or name not in found:
                there = ", ".join(map(str, found)) if isinstance(found, Mapping) else "no keys"
                raise TensorFileError(f"There is no {key!r} in {path}: it has {there:.300}.")
            found = found[name]
        return found if isinstance(found, Mapping) else {}
    if not isinstance(found, Mapping):
        return {}
    for name in NESTED:
        inner = found.get(name)
        if depth and isinstance(inner, Mapping) and inner:
            deeper = _weights_in(inner, path, None, depth - 1)
            return deeper or inner
    return found
