"""Which of a file's tensors is what in a character model, and the sizes of that model.

A character model has an embedding (V, F), recurrent layers (G * H, F or H) and an output layer
(V, H). Recurrent weights are known by PyTorch's names for them, see `recurrent_layers`; the others
by our names, else by their shapes, else by usual names.

Shapes: V vocabulary, F embedding size, H hidden size, G gates.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from jaxrnn.exchange.contents import Contents, Stored, TensorFileError
from jaxrnn.exchange.names import is_weight, renamed, without
from jaxrnn.exchange.recurrent_layers import sizes_of, take_layers

EMBEDDING = "e.weight"
OUTPUT = "l_out.weight"
OUTPUT_BIAS = "l_out.bias"
TIED_BIAS = "bias_out"
HIDDEN = "l_hidden.weight"
"""Our names of weights; the last one is that of a loop by hand."""
EMBEDDINGS = re.compile(r"e|emb\w*|encoder|wte|lookup|tok\w*|char\w*|word\w*|\w*embed\w*")
"""Usual names of embeddings."""
OUTPUTS = re.compile(r"l_out|decoder|out\w*|fc\w*|linear\w*|\w*head|proj\w*|classifier|dense|h2o")
"""Usual names of output layers."""


@dataclass(frozen=True)
class Identified:
    """The weights of a character model, by our names for them in PyTorch.

    Attributes:
        tensors: the identified weights by our names, all others by the file's.
        sizes: the values of a `Config` that follow from the shapes; empty where none do.
        vocabulary: V, or None where nothing tells it.
        notes: what was left out or assumed, a sentence each.
        complete: whether there are an embedding, recurrent layers and an output layer.
    """

    tensors: dict[str, np.ndarray]
    sizes: dict[str, Any] = field(default_factory=dict)
    vocabulary: int | None = None
    notes: tuple[str, ...] = ()
    complete: bool = False

    @property
    def summary(self) -> str:
        """What was identified, in words."""
        if not self.sizes:
            return "No character model is identified."
        cell = self.sizes.get("cell")
        cells = "a loop by hand" if cell is None else f"{cell} cells"
        if cell == "tanh":
            cells = "tanh or relu cells"
        words = (
            f"A character model: {cells}, "
            f"{self.sizes.get('num_layers', 1)} layers of {self.sizes['hidden_size']}, "
            f"an embedding of {self.sizes['embedding_size']}, {self.vocabulary} tokens"
        )
        if self.sizes.get("tied"):
            words += ", a tied output layer"
        return f"{words}."


def identify(
    contents: Contents,
    *,
    key: str | None = None,
    drop: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
) -> Identified:
    """Find the weights of a character model among what a file holds.

    Args:
        contents: the contents of the file.
        key: where the weights are; where they usually are if None.
        drop: patterns of tensors to leave out.
        names: pattern of the file's names to our name.

    Raises:
        TensorFileError: if a tensor that is called like a weight can be none, if it cannot be told
            what is what, or if the model is of a kind that this project does not have.
    """
    # The first table that is a whole model; else the likeliest, or what is wrong with it.
    likeliest: Identified | TensorFileError | None = None
    for keys, table in contents.candidates(key):
        found: Identified | TensorFileError
        try:
            found = _identified(renamed(without(table, drop), names or {}))
        except TensorFileError as error:
            found = error
        else:
            if keys:
                found = replace(found, notes=(f"The weights under {keys} are taken.", *found.notes))
            if found.complete:
                return found
        likeliest = likeliest or found
    assert likeliest is not None
    if isinstance(likeliest, TensorFileError):
        raise likeliest
    return likeliest


def _identified(named: Mapping[str, Stored]) -> Identified:
    """The weights among tensors that have their short or new names."""
    # Tensors move from `rest` to `found` as they are identified; `notes` is what the user is shown.
    rest = dict(named)
    notes: list[str] = []
    _leave_out_counters(rest, notes)
    found = take_layers(rest, notes)
    has_layers = bool(found)
    sizes: dict[str, Any] = {}
    if has_layers:
        sizes = sizes_of(found)
        found |= _take_ends(rest, sizes)
    else:
        # A loop by hand, or nothing that we know: our own names decide.
        for name in list(rest):
            if name.split(".")[0] in ("e", "l_in", "l_hidden", "l_out"):
                found[name] = rest.pop(name)
    _leave_out_duplicates(rest, found, notes)

    # Only now are the numbers read.
    arrays = {name: stored.array for name, stored in (found | rest).items()}
    if not has_layers:
        sizes = _loop_sizes(arrays)
    elif sizes:
        alone = all(len(stored.shape) < 2 for stored in rest.values())
        _add_implied(arrays, sizes, notes, alone=alone)
    embedding = arrays.get(EMBEDDING)
    vocabulary = None
    if embedding is not None and embedding.ndim == 2:
        vocabulary = int(embedding.shape[0])
    has_ends = embedding is not None and OUTPUT in arrays
    complete = bool(sizes) and (has_ends or not has_layers)
    return Identified(arrays, sizes, vocabulary, tuple(notes), complete=complete)


def _add_implied(
    arrays: dict[str, np.ndarray], sizes: dict[str, Any], notes: list[str], *, alone: bool
) -> None:
    """Add the embedding of one-hot inputs, and the output layer that is the embedding's table.

    Args:
        arrays: the weights; receives what is implied.
        sizes: the values of a `Config`; receives whether the output is tied.
        notes: receives a sentence for everything that is assumed.
        alone: whether no other matrix is in the file, so that none could be the embedding.
    """
    width = sizes["embedding_size"]
    output = arrays.get(OUTPUT)  # (V, H)
    if EMBEDDING not in arrays and alone and output is not None and output.ndim == 2:
        if output.shape[0] == width:
            arrays[EMBEDDING] = np.eye(width, dtype=np.float32)  # (V, V)
            notes.append(
                f"There is no embedding: the inputs are taken as one-hot vectors of {width}."
            )
        elif output.shape[1] == width:
            # Of tensors that share memory, safetensors keeps one, whichever its name.
            arrays[EMBEDDING] = output
    embedding = arrays.get(EMBEDDING)  # (V, F)
    sizes["tied"] = False
    if embedding is None or embedding.ndim != 2:
        return
    sizes["embedding_size"] = embedding.shape[1]
    # A bias without a weight: the weight is the embedding's table.
    shared = OUTPUT not in arrays and OUTPUT_BIAS in arrays
    if shared and embedding.shape[1] == sizes["hidden_size"]:
        arrays[OUTPUT] = embedding
    if OUTPUT in arrays and np.array_equal(embedding, arrays[OUTPUT]):
        sizes["tied"] = True
        notes.append("The output layer shares the embedding's table (it is tied).")


def _leave_out_counters(rest: dict[str, Stored], notes: list[str]) -> None:
    """Remove what is no weight: counters, masks, positions; each has a note."""
    for name, stored in list(rest.items()):
        # What is called like a weight stays, so that its problem is reported as an error.
        if is_weight(name) or (stored.problem is None and stored.size > 1):
            continue
        del rest[name]
        notes.append(f"{name} ({stored.dtype}{list(stored.shape)}) is no weight and is left out.")


def _leave_out_duplicates(
    rest: dict[str, Stored], found: Mapping[str, Stored], notes: list[str]
) -> None:
    """Remove what equals a weight that is identified; each has a note."""
    for name, stored in list(rest.items()):
        for ours, other in found.items():
            if other.equals(stored):
                del rest[name]
                notes.append(f"{name} equals {ours} and is left out.")
                break


def _loop_sizes(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The widths of a loop by hand."""
    embedding = arrays.get(EMBEDDING)  # (V, F)
    hidden = arrays.get(HIDDEN)  # (H, H)
    if embedding is None or hidden is None or embedding.ndim != 2 or hidden.ndim != 2:
        return {}
    return {"embedding_size": embedding.shape[1], "hidden_size": hidden.shape[1]}


def _take_ends(rest: dict[str, Stored], sizes: Mapping[str, Any]) -> dict[str, Stored]:
    """Take the embedding and the output layer out of `rest`, by our names."""
    found = {}
    for ours in (EMBEDDING, OUTPUT, OUTPUT_BIAS):
        if ours in rest:
            found[ours] = rest.pop(ours)
    if TIED_BIAS in rest:
        found[OUTPUT_BIAS] = rest.pop(TIED_BIAS)

    # What does not have our name is known by its shape, if the layers tell F and H.
    if sizes and EMBEDDING not in found:
        name = _embedding(rest, sizes["embedding_size"])
        if name is not None:
            found[EMBEDDING] = rest.pop(name)
    if sizes and OUTPUT not in found:
        name = _output(rest, sizes["hidden_size"], found.get(EMBEDDING))
        if name is not None:
            found[OUTPUT] = rest.pop(name)
            bias = _bias_of(name)
            if OUTPUT_BIAS not in found and bias in rest:
                found[OUTPUT_BIAS] = rest.pop(bias)

    # A tied model whose output layer was left out by safetensors: its bias is there.
    if OUTPUT not in found and OUTPUT_BIAS not in found and EMBEDDING in found:
        shape = found[EMBEDDING].shape[:1]  # (V,)
        biases = [name for name in rest if is_weight(name) and rest[name].shape == shape]
        if len(biases) == 1:
            found[OUTPUT_BIAS] = rest.pop(biases[0])
    return found


def _groups(rest: Mapping[str, Stored], columns: int, rows: int | None = None) -> list[list[str]]:
    """The names of matrices of a shape, those that hold the same numbers together.

    Args:
        rest: the tensors.
        columns: the length of the second axis.
        rows: the length of the first axis; any if None.
    """
    groups: list[list[str]] = []
    for name, stored in rest.items():
        if len(stored.shape) != 2 or stored.problem or stored.shape[1] != columns:
            continue
        if rows is not None and stored.shape[0] != rows:
            continue
        for group in groups:
            if rest[group[0]].equals(stored):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def _embedding(rest: Mapping[str, Stored], width: int) -> str | None:
    """The name of the embedding, or None where no tensor can be it."""
    is_usual = partial(_has_usual_name, EMBEDDINGS)

    def has_no_bias(name: str) -> bool:
        return _bias_of(name) not in rest

    possible = _groups(rest, columns=width)
    # What has a bias is an output layer, and an embedding as well only where both are one: saved
    # under two names, with the same numbers.
    chosen = [group for group in possible if any(map(has_no_bias, group))]
    chosen = chosen or [group for group in possible if len(group) > 1]
    group = _only(chosen, is_usual, "embedding", "e")
    if group is None:
        return None
    return _preferred(group, lambda name: has_no_bias(name) and is_usual(name), has_no_bias)


def _output(rest: Mapping[str, Stored], hidden: int, embedding: Stored | None) -> str | None:
    """The name of the output layer's weight, or None where no tensor can be it."""
    is_usual = partial(_has_usual_name, OUTPUTS)

    def has_bias(name: str) -> bool:
        return _bias_of(name) in rest

    # It predicts as many tokens as the embedding has rows.
    rows = None if embedding is None else embedding.shape[0]
    possible = _groups(rest, columns=hidden, rows=rows)
    with_bias = [group for group in possible if any(map(has_bias, group))]
    group = _only(with_bias or possible, is_usual, "output layer", "l_out")
    if group is None:
        return None
    return _preferred(group, has_bias, is_usual)


def _only(
    groups: list[list[str]], is_usual: Callable[[str], bool], what: str, ours: str
) -> list[str] | None:
    """The only group, or the only one with a usual name; None where there is none.

    Raises:
        TensorFileError: if several are as likely.
    """
    if len(groups) > 1:
        narrowed = [group for group in groups if any(map(is_usual, group))]
        groups = narrowed or groups
    if len(groups) > 1:
        # A guess could be wrong in silence, so the user decides.
        named = ", ".join(group[0] for group in groups)
        module = groups[0][0].rpartition(".")[0]
        raise TensorFileError(
            f"The {what} may be any of {named}: say which, for example --rename {module}={ours}."
        )
    return next(iter(groups), None)


def _preferred(names: Sequence[str], *conditions: Callable[[str], bool]) -> str:
    """The first name that meets the earliest condition that any meets, else the first name."""
    for condition in conditions:
        for name in names:
            if condition(name):
                return name
    return names[0]


def _has_usual_name(usual: re.Pattern[str], name: str) -> bool:
    """Whether the module of a tensor has a usual name."""
    module = name.rpartition(".")[0].rpartition(".")[2]
    return usual.fullmatch(module) is not None


def _bias_of(name: str) -> str:
    """The name of the bias in the module of a tensor."""
    return f"{name.rpartition('.')[0]}.bias".removeprefix(".")
