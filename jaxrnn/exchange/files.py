"""Files of named tensors: safetensors, shards with an index, and PyTorch's own format.

What is read may come from anywhere, so nothing in it is ever executed: safetensors cannot hold
code, and PyTorch's files are read with `weights_only=True`, which refuses it. No value is read
before the file is known to be what it seems.
"""

import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from jaxrnn.exchange.contents import Contents, Stored
from jaxrnn.exchange.contents import TensorFileError as TensorFileError
from jaxrnn.exchange.names import short_names
from jaxrnn.exchange.torch_files import read_torch
from jaxrnn.files import CHECKPOINT_BEGINNING, UnreadableError, parse_json, read_regular
from jaxrnn.output import write_output

ABOUT = "jaxrnn"
"""Entry of a safetensors header with our description of what the weights belong to."""
SUFFIX = ".safetensors"
LARGEST_INDEX = 1 << 24
"""Maximum size of an index of shards in bytes."""
MOST_SHARDS = 1000
"""Maximum number of files that an index may name."""

DTYPES: Mapping[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}
"""Types of numbers in safetensors that can be weights."""

TORCH = (b"PK\x03\x04", b"\x80\x02\x8a\x0a")
"""First bytes of files of torch.save: a zip archive, or in the old format a fixed number."""

OTHER_FORMATS = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes",
    b"\x93NUMPY": "a NumPy array",
    b"GGUF": "a GGUF file",
    b"\x1f\x8b": "compressed with gzip",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with git lfs pull",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"<": "HTML or XML, perhaps the page of a download",
}
"""First bytes of files that hold no weights, and what those are."""


def write_tensors(path: Path | str, tensors: Mapping[str, np.ndarray], about: Any) -> None:
    """Write a safetensors file that `safetensors.torch.load_file` reads.

    Args:
        path: the file, whose name ends in .safetensors; one that exists is replaced at the end, in
            one move.
        tensors: the tensors by name.
        about: a description of what they belong to, as JSON can express it.

    Raises:
        TensorFileError: if the name says that the file is something else.
        OutputError: if the path is refused, or cannot be written.
    """
    check_suffix(path)
    data = serialize(dict(tensors), {"format": "pt", ABOUT: json.dumps(about)})
    write_output(path, data)


def check_suffix(path: Path | str) -> None:
    """Refuse a name for a safetensors file by which no program would know it.

    Raises:
        TensorFileError: if it does not end in .safetensors.
    """
    path = Path(path)
    if not path.name or path.name == "..":
        raise TensorFileError(f"{path} is a folder: name a file in it that ends in {SUFFIX}.")
    if path.suffix.lower() != SUFFIX:
        raise TensorFileError(
            f"{path} would hold safetensors, which PyTorch does not read under this name: call it "
            f"{path.with_suffix(SUFFIX).name}. "
            "safetensors.torch.load_file reads it."
        )


def read_tensors(path: Path | str, *, key: str | None = None) -> dict[str, np.ndarray]:
    """Read the tensors of a file, by their names without what wrappers put in front of them.

    A checkpoint may hold more than the weights. Those under `state_dict`, `model_state_dict` or
    `model` are taken, or those under the only key that has recurrent weights.

    Args:
        path: a safetensors file, an index of shards, or a file of `torch.save`.
        key: where the tensors are in a checkpoint, such as "model"; where they usually are if
            None.

    Raises:
        TensorFileError: if there is no such file, if it is damaged, or if it holds code or things
            that are no tensors; nothing in it has been executed.
    """
    contents = read_contents(path)
    _, table = next(contents.candidates(key))
    return {short: table[name].array for name, short in short_names(table).items()}


def read_contents(path: Path | str) -> Contents:
    """The contents of a file of weights.

    Args:
        path: a safetensors file, an index of shards, or a file of `torch.save`, whatever its name.

    Raises:
        TensorFileError: if it cannot be read or is something else; the message says what.
    """
    path = Path(path)
    try:
        beginning = _beginning(path)
        # A run's checkpoint is safetensors, too, but its names and shapes are not torch's.
        if beginning[8:].startswith(CHECKPOINT_BEGINNING):
            raise TensorFileError(
                f"{path} is a checkpoint of a run. Go on with it (train --resume), or export the "
                "run's weights: export RUN FILE.safetensors."
            )
        if _is_safetensors(path, beginning):
            return _read_safetensors(path)
        if path.suffix.lower() == ".json" or beginning.lstrip()[:1] in (b"{", b"["):
            return _read_index(path)
        for start, what in OTHER_FORMATS.items():
            if beginning.startswith(start):
                raise TensorFileError(
                    f"{path} is no file of weights: it is {what}. safetensors files, and what "
                    "torch.save wrote of a state_dict, can be imported."
                )
        return read_torch(path)
    except OSError as error:
        raise TensorFileError(f"Cannot read {path}: {error.strerror}.") from error
    except TensorFileError as error:
        # Errors of `contents` do not know the file.
        if str(path) in str(error):
            raise
        raise TensorFileError(f"{path}: {error}") from error


def _beginning(path: Path) -> bytes:
    """The first bytes of a regular file.

    Raises:
        TensorFileError: if there is none, or it is empty.
    """
    try:
        mode = path.stat().st_mode  # of what a link leads to
    except FileNotFoundError:
        raise TensorFileError(f"There is no file {path}.") from None
    except ValueError as error:  # a name with a zero byte
        raise TensorFileError(f"There is no file {str(path)!r}: {error}.") from None
    if stat.S_ISDIR(mode):
        endings = (SUFFIX, ".pt", ".pth", ".bin", ".ckpt", ".index.json")
        files = [name for name in sorted(os.listdir(path)) if name.lower().endswith(endings)]
        named = f", such as {', '.join(files[:5])}" if files else ""
        raise TensorFileError(f"{path} is a folder: name a file of weights{named}.")
    if not stat.S_ISREG(mode):
        raise TensorFileError(f"{path} is no regular file.")
    with open(path, "rb") as file:
        beginning = file.read(512)
    if not beginning:
        raise TensorFileError(
            f"{path} is damaged or no file of PyTorch's or safetensors: it is empty."
        )
    return beginning


def _is_safetensors(path: Path, beginning: bytes) -> bool:
    """Whether a file claims to be safetensors: by its name, or by its first bytes."""
    # Eight bytes with the length of the header, then the header, which is JSON.
    length = int.from_bytes(beginning[:8], "little")
    if beginning[8:9] == b"{" and length < path.stat().st_size:
        return True
    known = beginning.startswith((*TORCH, *OTHER_FORMATS))
    return path.suffix.lower() == SUFFIX and not known


def _read_safetensors(path: Path) -> Contents:
    """The tensors of a safetensors file; their values are read one by one."""
    try:
        # This checks the whole header against the size of the file.
        with safe_open(path, framework="numpy") as file:
            about = (file.metadata() or {}).get(ABOUT)
        with open(path, "rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            header = json.loads(raw.read(length))
    except (SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        raise TensorFileError(
            f"{path} is damaged or no safetensors file: {error!s:.200}."
        ) from error
    header.pop("__metadata__", None)
    table = {}
    for name, entry in header.items():
        table[name] = _stored(path, name, entry, 8 + length)  # offsets count from behind the header
    if not table:
        raise TensorFileError(f"{path} holds no tensors.")
    return Contents("safetensors", {(): table}, about=about)


def _stored(path: Path, name: str, entry: Mapping[str, Any], start: int) -> Stored:
    """A tensor of a safetensors file, by its entry in the header."""
    shape = tuple(entry["shape"])
    kind = str(entry["dtype"])
    begin, end = entry["data_offsets"]

    def values() -> np.ndarray:
        """The numbers, read from the file now."""
        with open(path, "rb") as file:
            file.seek(start + begin)
            data = file.read(end - begin)
        array = np.frombuffer(data, DTYPES[kind]).reshape(shape)
        # Half precision is exact in float32.
        return array.astype(np.float64 if kind == "F64" else np.float32)

    if kind not in DTYPES:
        return Stored(name, kind, shape, values, f"has numbers of the kind {kind}")
    return Stored(name, np.dtype(DTYPES[kind]).name, shape, values)


def _read_index(path: Path) -> Contents:
    """The tensors of all the shards that an index names; they lie beside it."""
    try:
        index = parse_json(read_regular(path, at_most=LARGEST_INDEX), path)
    except UnreadableError as error:
        raise TensorFileError(f"{path} is no file of weights: {error}") from error
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise TensorFileError(
            f"{path} is no file of weights: it is JSON, and no index of shards. (A list of tokens "
            "goes to --vocabulary.)"
        )
    # All names are checked before the first file is opened.
    files = sorted(set(map(str, places.values())))
    for file in files:
        # A file of somebody else's does not make us open what it likes.
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", file):
            raise TensorFileError(f"{path} names a shard that does not lie beside it: {file!r}.")
        if file.endswith(".json") or len(files) > MOST_SHARDS:
            raise TensorFileError(f"{path} is no index of shards: it names {file!r}.")
    merged: dict[str, Stored] = {}
    for file in files:
        contents = read_contents(path.with_name(file))
        _, table = next(contents.candidates(None))
        for name, place in places.items():
            if place != file:
                continue
            if name not in table:
                raise TensorFileError(f"{path} says that {name} is in {file}, where it is not.")
            merged[name] = table[name]
    return Contents(f"index of {len(files)} shards", {(): merged})
