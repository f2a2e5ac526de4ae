"""Files that `torch.save` wrote. PyTorch reads them with `weights_only=True`: no code is executed.

PyTorch is imported when a file needs it, and for nothing else.
"""

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrnn.exchange.contents import Contents, Stored, TensorFileError

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of the files that `torch.save` wrote before it wrote zip archives."""
ROOM = 1 << 26
"""Maximum number of numbers in a tensor, beyond eight for each byte of the file."""
LARGEST_PROGRAM = 1 << 26
"""Maximum number of bytes of a pickle that are searched for a hint."""
STATE_DICT = b"X\x0a\x00\x00\x00state_dict"
"""The string "state_dict" in a pickle; a module's own attributes only begin or end so."""
DEEPEST = 32
"""Maximum depth of dictionaries in dictionaries."""


def read_torch(path: Path) -> Contents:
    """The contents of a file of `torch.save`.

    Raises:
        TensorFileError: if it is damaged, no such file, or holds code or objects.
    """
    # Nothing else of this package needs PyTorch, which takes seconds to import.
    try:
        import torch
    except ImportError:
        raise TensorFileError(
            f"Reading {path} needs PyTorch (pip install torch). Or save the weights with "
            "safetensors.torch.save_file under a name that ends in .safetensors."
        ) from None
    description = _description(path)
    try:
        # Opened here: PyTorch would decide by the name, and read a .safetensors as such.
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated kinds of tensors, which are refused below
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damage runs into: KeyError, EOFError ..
        if type(error).__name__ == "UnpicklingError" and _is_refusal(str(error)):
            raise TensorFileError(_how_to_save(path, str(error), description)) from error
        raise TensorFileError(f"{path} is damaged or no file of PyTorch's.") from error
    if isinstance(found, torch.Tensor):
        raise TensorFileError(
            f"{path} holds one tensor without a name: save a dictionary, such as the state_dict."
        )
    if not isinstance(found, Mapping):
        raise TensorFileError(
            f"{path} is no state_dict: it holds no tensors by name but a {type(found).__name__}. "
            "Save module.state_dict()."
        )
    tables: dict[tuple[str, ...], dict[str, Stored]] = {}
    others: list[str] = []
    # A tensor may repeat its numbers by strides of 0, so that a small file unpacks to any size.
    most = ROOM + 8 * path.stat().st_size
    _collect(found, (), tables, others, most)
    return Contents("PyTorch", tables, tuple(others))


def _description(path: Path) -> bytes:
    """The pickle in a file, which names its contents, after a check of the kind of the file.

    Raises:
        TensorFileError: if it is something else, or would take far more memory than disk.
    """
    # The format before PyTorch 1.6: one pickle after the other.
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            beginning = file.read(LARGEST_PROGRAM)
        if beginning.startswith(b"\x80") and not beginning.startswith(LEGACY):
            raise TensorFileError(
                f"{path} is a pickle and no file of torch.save's: it may hold code, and holds code "
                "or objects beside tensors, which are never loaded. Save the state_dict with "
                "torch.save."
            )
        if not beginning.startswith(LEGACY):
            raise TensorFileError(f"{path} is damaged or no file of PyTorch's.")
        return beginning
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            # From the directory of the archive: nothing is unpacked for it.
            unpacked = sum(entry.file_size for entry in archive.infolist())
            _check_archive(path, names, unpacked)
            program = next(name for name in names if name.endswith("data.pkl"))
            if archive.getinfo(program).file_size > LARGEST_PROGRAM:
                return b""
            return archive.read(program)
    except TensorFileError:
        raise
    except Exception as error:  # BadZipFile, zlib.error, struct.error, RuntimeError if encrypted
        raise TensorFileError(f"{path} is damaged or no file of PyTorch's.") from error


def _check_archive(path: Path, names: list[str], unpacked: int) -> None:
    """Refuse a zip archive that `torch.save` did not write.

    Raises:
        TensorFileError: with what it is.
    """
    # TorchScript has the same archive, with code in it.
    if any("/code/" in name or name.endswith("constants.pkl") for name in names):
        raise TensorFileError(
            f"{path} is TorchScript, a program, which is never loaded. In Python: import torch; "
            f"module = torch.jit.load({path.name!r}); "
            "torch.save(module.state_dict(), 'weights.pt')."
        )
    if not any(name.endswith("data.pkl") for name in names):
        arrays = any(name.endswith(".npy") for name in names)
        what = "an archive of NumPy arrays" if arrays else "a zip archive"
        raise TensorFileError(f"{path} is no file of weights: it is {what}.")
    # A zip bomb: torch.save does not compress.
    if unpacked > 4 * path.stat().st_size + ROOM:
        raise TensorFileError(
            f"{path} is no file of PyTorch's: unpacked, it would have {unpacked:,} bytes."
        )


def _is_refusal(message: str) -> bool:
    """Whether PyTorch refused what it found, and did not just fail to read it."""
    return "Unsupported" in message or "not an allowed" in message or "GLOBAL" in message


def _how_to_save(path: Path, message: str, description: bytes) -> str:
    """Why a file with objects is not loaded, and the lines of Python that save its weights."""
    named = re.search(r"GLOBAL ([\w.]+)", message)
    what = f" ({named[1]})" if named else ""
    if named is not None and named[1].startswith("numpy."):
        return (
            f"{path} holds NumPy arrays{what}, whose pickles are never loaded. If you trust it, "
            "save them as tensors: import torch; found = "
            f"torch.load({path.name!r}, weights_only=False); torch.save({{name: "
            "torch.as_tensor(array) for name, array in found.items()}, 'weights.pt')."
        )
    # A checkpoint of a training script, or a whole module.
    weights = "found['state_dict']" if STATE_DICT in description else "found.state_dict()"
    return (
        f"{path} holds code or objects beside tensors{what}, which are never loaded. If you trust "
        "it, save its weights alone, where its classes can be imported: import torch; found = "
        f"torch.load({path.name!r}, weights_only=False, map_location='cpu'); "
        f"torch.save({weights}, 'weights.pt')."
    )


def _collect(
    found: Mapping[Any, Any],
    keys: tuple[str, ...],
    tables: dict[tuple[str, ...], dict[str, Stored]],
    others: list[str],
    most: int,
) -> None:
    """Collect the tensors of a dictionary and of the dictionaries in it."""
    import torch

    for key, value in found.items():
        name = str(key)
        if isinstance(value, torch.Tensor):
            tables.setdefault(keys, {})[name] = _stored(name, value, most)
        elif isinstance(value, Mapping) and value and len(keys) < DEEPEST:
            _collect(value, (*keys, name), tables, others, most)
        else:
            others.append(".".join((*keys, name)))


def _stored(name: str, tensor: Any, most: int) -> Stored:
    """One of PyTorch's tensors."""
    import torch

    # All is decided from the tensor's description; its numbers are converted in `values`.
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_nested:
        return Stored(name, dtype, (), lambda: np.zeros(0), "is a nested tensor")
    shape = tuple(tensor.shape)
    problem = None
    if tensor.is_meta:
        problem = "has a shape but no numbers (it was saved from the device meta)"
    elif tensor.is_quantized:
        problem = f"is quantized ({dtype}); save it after dequantize()"
    elif tensor.is_complex():
        problem = f"has complex numbers ({dtype})"
    elif not tensor.is_floating_point():
        problem = f"has integers ({dtype})"
    elif tensor.numel() > most:
        problem = f"would have {tensor.numel():,} numbers, far more than the file holds"

    def values() -> np.ndarray:
        """The numbers, dense and wide."""
        wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some layouts are called a beta
                dense = tensor.detach()
                if dense.layout != torch.strided:
                    dense = dense.to_dense()
                return np.array(dense.to(wide).resolve_neg().contiguous().numpy())
        except (RuntimeError, NotImplementedError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise TensorFileError(f"{name} ({dtype}) cannot be read: {reason:.200}") from error

    return Stored(name, dtype, shape, values, problem)
