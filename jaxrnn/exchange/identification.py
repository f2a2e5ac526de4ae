"""Which of a file's tensors is what in a character model, and the sizes of that model.

A character model has an embedding (V, F), recurrent layers (G * H, F or H) and an output layer
(V, H). Recurrent weights are known by PyTorch's names for them; the others by our names, else by
their shapes, else by usual names.

Shapes: V vocabulary, F embedding size, H hidden size, G gates.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jaxrnn.exchange.contents import Contents, Stored, TensorFileError
from jaxrnn.exchange.names import is_weight, renamed, without

RECURRENT = re.compile(r"(weight|bias)_(ih|hh|hr)(?:_l(\d+))?(_reverse)?(_raw)?")
"""PyTorch's names of recurrent weights; `_raw` is what a weight drop makes of them."""
CELLS_BY_ROWS = {1: "tanh", 3: "gru", 4: "lstm"}
"""The cells by G, the rows of `weight_hh` in H. relu has as many as tanh."""
EMBEDDING, OUTPUT, OUTPUT_BIAS, TIED_BIAS = "e.weight", "l_out.weight", "l_out.bias", "bias_out"
WINDOWED = ("l_in.weight", "l_hidden.weight")
"""Weights of the models that are a loop by hand."""
EMBEDDINGS = re.compile(r"e|emb\w*|encoder|wte|lookup|tok\w*|char\w*|word\w*|\w*embed\w*")
"""Usual names of embeddings."""
OUTPUTS = re.compile(r"l_out|decoder|out\w*|fc\w*|linear\w*|\w*head|proj\w*|classifier|dense|h2o")
"""Usual names of output layers."""


@dataclass(frozen=True)
class Identified:
    """The weights of a character model, by our names for them in PyTorch.

    Attributes:
        tensors: what was identified by our names, all else by the file's.
        sizes: the values of a `Config` that the shapes tell; empty where they tell nothing.
        vocabulary: V, or None where nothing tells it.
        notes: what was left out or assumed, a sentence each.
        complete: whether there are an embedding, recurrent layers and an output layer.
    """

    tensors: dict[str, np.ndarray]
    sizes: dict[str, Any] = field(default_factory=dict)
    vocabulary: int | None = None
    notes: tuple[str, ...] = ()
    complete: bool = False


def identify(
    contents: Contents,
    *,
    key: str | None = None,
    drop: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
) -> Identified:
    """Find the weights of a character model among what a file holds.

    Args:
        contents: what the file holds.
        key: where the weights are; where they usually are if None.
        drop: patterns of tensors to leave out.
        names: pattern of the file's names to our name.

    Raises:
        TensorFileError: if a tensor that is called like a weight can be none, if it cannot be told
            what is what, or if the model is of a kind that this project does not have.
    """
    outcomes: list[Identified | TensorFileError] = []
    for keys, table in contents.candidates(key):
        try:
            found = _identified(renamed(without(table, drop), names or {}))
        except TensorFileError as error:
            outcomes.append(error)
            continue
        if keys:
            found = replace(found, notes=(f"The weights under {keys} are taken.", *found.notes))
        if found.complete:
            return found
        outcomes.append(found)
    likeliest = outcomes[0]
    if isinstance(likeliest, TensorFileError):
        raise likeliest
    return likeliest


def _identified(named: Mapping[str, Stored]) -> Identified:
    """The weights among tensors that have their short or new names."""
    rest = dict(named)
    notes = _leave_out_counters(rest)
    layers = _recurrent_layers(rest, notes)
    tensors = dict(layers)
    if not layers:
        # A loop by hand, or nothing that we know: our own names decide.
        tensors = {name: rest.pop(name) for name in list(rest) if _is_ours(name)}
        _leave_out_duplicates(rest, tensors, notes)
        arrays = {name: stored.array for name, stored in (tensors | rest).items()}
        embedding = arrays.get(EMBEDDING)
        sizes = _windowed_sizes(arrays)
        return Identified(arrays, sizes, _rows(embedding), tuple(notes), complete=bool(sizes))
    sizes = _recurrent_sizes(layers)
    tensors |= _ends(rest, sizes)
    _leave_out_duplicates(rest, tensors, notes)
    arrays = {name: stored.array for name, stored in (tensors | rest).items()}
    if sizes:
        _add_implied(arrays, sizes, notes, alone=not any(len(s.shape) > 1 for s in rest.values()))
    complete = bool(sizes) and EMBEDDING in arrays and OUTPUT in arrays
    vocabulary = _rows(arrays.get(EMBEDDING))
    return Identified(arrays, sizes, vocabulary, tuple(notes), complete=complete)


def _add_implied(
    arrays: dict[str, np.ndarray], sizes: dict[str, Any], notes: list[str], *, alone: bool
) -> None:
    """Add the embedding of one-hot inputs, and the output layer that is the embedding's table.

    Args:
        arrays: the weights; what is implied is put in.
        sizes: the values of a `Config`; whether the output is tied is put in.
        notes: what is assumed is put in.
        alone: whether no other matrix is in the file, so that none could be the embedding.
    """
    width = sizes["embedding_size"]
    output = arrays.get(OUTPUT)
    if EMBEDDING not in arrays and alone and output is not None and output.ndim == 2:
        if output.shape[0] == width:
            arrays[EMBEDDING] = np.eye(width, dtype=np.float32)
            notes.append(
                f"There is no embedding: the inputs are taken as one-hot vectors of {width}."
            )
        elif output.shape[1] == width:
            # Of tensors that share memory, safetensors keeps one, whichever its name.
            arrays[EMBEDDING] = output
    embedding = arrays.get(EMBEDDING)
    sizes["tied"] = False
    if embedding is None or embedding.ndim != 2:
        return
    sizes["embedding_size"] = embedding.shape[1]
    shared = OUTPUT not in arrays and OUTPUT_BIAS in arrays
    if shared and embedding.shape[1] == sizes["hidden_size"]:
        arrays[OUTPUT] = embedding
    if OUTPUT in arrays and np.array_equal(embedding, arrays[OUTPUT]):
        sizes["tied"] = True
        notes.append("The output layer shares the embedding's table (it is tied).")


def _is_ours(name: str) -> bool:
    """Whether a name is one of a loop by hand."""
    return name.split(".")[0] in ("e", "l_in", "l_hidden", "l_out")


def _leave_out_counters(rest: dict[str, Stored]) -> list[str]:
    """Take away what is no weight: counters, masks, positions; and say so."""
    notes = []
    for name, stored in list(rest.items()):
        alike = is_weight(name)
        if alike or (stored.problem is None and stored.size > 1):
            continue
        del rest[name]
        shape = list(stored.shape)
        notes.append(f"{name} ({stored.dtype}{shape}) is no weight and is left out.")
    return notes


def _leave_out_duplicates(
    rest: dict[str, Stored], taken: Mapping[str, Stored], notes: list[str]
) -> None:
    """Take away what equals a weight that is taken; and say so."""
    for name, stored in list(rest.items()):
        equal = [ours for ours, other in taken.items() if other.equals(stored)]
        if equal:
            del rest[name]
            notes.append(f"{name} equals {equal[0]} and is left out.")


def _recurrent_layers(rest: dict[str, Stored], notes: list[str]) -> dict[str, Stored]:
    """Take the recurrent weights out of `rest`, as rnn.weight_ih_l0 and so on."""
    modules: dict[str, dict[str, Stored]] = {}
    for name in list(rest):
        module, _, leaf = name.rpartition(".")
        match = RECURRENT.fullmatch(leaf)
        if match is None:
            continue
        if match[2] == "hr":
            raise TensorFileError(f"{name} is a projection (proj_size), which no model here has.")
        if match[4]:
            raise TensorFileError(
                f"{name} reads the text backwards: a model that writes reads forwards only."
            )
        modules.setdefault(module, {})[leaf] = rest.pop(name)
    modules = {module: _without_masked(module, m, notes) for module, m in modules.items()}
    modules = _without_copies(modules, notes)
    layers: dict[str, Stored] = {}
    for series in _series(modules):
        stacked = _stacked(modules, series)
        twice = sorted(set(stacked) & set(layers))
        if twice:
            named = ", ".join(module or "the file itself" for module in modules)
            raise TensorFileError(
                f"There are recurrent weights in {named}. Say which to take, --rename "
                f"{series[0]}=rnn, and leave out the others: --drop {next(iter(modules))}."
            )
        layers |= stacked
    _check_widths(layers)
    return layers


def _without_masked(
    module: str, weights: Mapping[str, Stored], notes: list[str]
) -> dict[str, Stored]:
    """A module's weights, with the raw ones of a weight drop in place of those that it masked."""
    found = dict(weights)
    for leaf in weights:
        if not leaf.endswith("_raw"):
            continue
        plain = leaf.removesuffix("_raw")
        found[plain] = found.pop(leaf)
        where = f"{module}.{leaf}".removeprefix(".")
        notes.append(f"{where} is taken as {plain}: a weight drop keeps the weights there.")
    return found


def _without_copies(
    modules: Mapping[str, dict[str, Stored]], notes: list[str]
) -> dict[str, dict[str, Stored]]:
    """The modules without those that hold the same numbers as another one."""
    kept: dict[str, dict[str, Stored]] = {}
    for module, weights in modules.items():
        same = [name for name, others in kept.items() if _equal(weights, others)]
        if same:
            notes.append(f"{module} equals {same[0]} and is left out.")
        else:
            kept[module] = weights
    return kept


def _equal(one: Mapping[str, Stored], other: Mapping[str, Stored]) -> bool:
    return one.keys() == other.keys() and all(one[name].equals(other[name]) for name in one)


def _series(modules: Mapping[str, Mapping[str, Stored]]) -> list[list[str]]:
    """Modules that are the layers of one stack, in order: their names differ in one number."""
    by_form: dict[str, list[str]] = {}
    for module, weights in modules.items():
        parts = module.split(".")
        if any(_layer_of(leaf) != 0 for leaf in weights):
            continue
        for place, part in enumerate(parts):
            if part.isdecimal():
                form = ".".join([*parts[:place], "#", *parts[place + 1 :]])
                by_form.setdefault(form, []).append(module)
    series = [sorted(names, key=_numbers) for names in by_form.values() if len(names) > 1]
    in_series = {module for names in series for module in names}
    return [[module] for module in modules if module not in in_series] + series


def _numbers(module: str) -> list[int]:
    return [int(part) for part in module.split(".") if part.isdecimal()]


def _layer_of(leaf: str) -> int:
    match = RECURRENT.fullmatch(leaf)
    return int(match[3] or 0) if match else 0


def _stacked(
    modules: Mapping[str, Mapping[str, Stored]], series: Sequence[str]
) -> dict[str, Stored]:
    """The weights of the modules of a series, as those of one stack called rnn."""
    found = {}
    for number, module in enumerate(series):
        for leaf, stored in modules[module].items():
            match = RECURRENT.fullmatch(leaf)
            assert match is not None
            layer = number if len(series) > 1 else _layer_of(leaf)
            found[f"rnn.{match[1]}_{match[2]}_l{layer}"] = stored
    return found


def _check_widths(layers: Mapping[str, Stored]) -> None:
    """Refuse layers of different widths: those of one stack here have the same."""
    widths = {}
    for name, stored in layers.items():
        if not name.startswith("rnn.weight_hh_l") or len(stored.shape) != 2:
            continue
        # Gates are square; what is not is reported with what was expected.
        if stored.shape[0] % max(stored.shape[1], 1) == 0:
            widths[name] = stored.shape[1]
    if len(set(widths.values())) > 1:
        named = ", ".join(str(width) for width in widths.values())
        raise TensorFileError(
            f"The recurrent layers have different widths ({named}): the layers of one model here "
            "have the same width."
        )


def _recurrent_sizes(layers: Mapping[str, Stored]) -> dict[str, Any]:
    """Cell, width and depth, as far as the shapes of the recurrent weights tell them."""
    first = layers.get("rnn.weight_hh_l0")
    into = layers.get("rnn.weight_ih_l0")
    if first is None or into is None or len(first.shape) != 2 or len(into.shape) != 2:
        return {}
    rows, hidden = first.shape
    depth = {int(name.rpartition("_l")[2]) for name in layers}
    if hidden == 0 or rows % hidden or rows // hidden not in CELLS_BY_ROWS:
        return {}
    if depth != set(range(len(depth))):
        return {}
    return {
        "cell": CELLS_BY_ROWS[rows // hidden],
        "hidden_size": hidden,
        "num_layers": len(depth),
        "embedding_size": into.shape[1],
    }


def _windowed_sizes(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Widths of a loop by hand."""
    embedding = arrays.get(EMBEDDING)
    hidden = arrays.get(WINDOWED[1])
    if embedding is None or hidden is None or embedding.ndim != 2 or hidden.ndim != 2:
        return {}
    return {"embedding_size": embedding.shape[1], "hidden_size": hidden.shape[1]}


def _ends(rest: dict[str, Stored], sizes: Mapping[str, Any]) -> dict[str, Stored]:
    """Take the embedding and the output layer out of `rest`, by our names."""
    width = sizes.get("embedding_size")
    hidden = sizes.get("hidden_size")
    found = {}
    for ours in (EMBEDDING, OUTPUT, OUTPUT_BIAS, TIED_BIAS):
        if ours in rest:
            found[OUTPUT_BIAS if ours == TIED_BIAS else ours] = rest.pop(ours)
    if EMBEDDING not in found and width is not None:
        name = _embedding(rest, width)
        if name is not None:
            found[EMBEDDING] = rest.pop(name)
    if OUTPUT not in found and hidden is not None:
        name = _output(rest, hidden, found.get(EMBEDDING))
        if name is not None:
            found[OUTPUT] = rest.pop(name)
            bias = f"{name.rpartition('.')[0]}.bias".removeprefix(".")
            if OUTPUT_BIAS not in found and bias in rest:
                found[OUTPUT_BIAS] = rest.pop(bias)
    if OUTPUT not in found and OUTPUT_BIAS not in found and EMBEDDING in found:
        # A tied model whose output layer was left out by safetensors: its bias is there.
        shape = found[EMBEDDING].shape[:1]
        biases = [n for n, s in rest.items() if is_weight(n) and s.shape == shape]
        if len(biases) == 1:
            found[OUTPUT_BIAS] = rest.pop(biases[0])
    return found


def _groups(rest: Mapping[str, Stored]) -> list[list[str]]:
    """The names of matrices, those that hold the same numbers together."""
    groups: list[list[str]] = []
    for name, stored in rest.items():
        if len(stored.shape) != 2 or stored.problem:
            continue
        same = [group for group in groups if rest[group[0]].equals(stored)]
        if same:
            same[0].append(name)
        else:
            groups.append([name])
    return groups


def _embedding(rest: Mapping[str, Stored], width: int) -> str | None:
    """The name of the embedding, or None where no tensor can be it."""
    possible = [group for group in _groups(rest) if rest[group[0]].shape[1] == width]
    without_bias = [g for g in possible if any(not _has_bias(n, rest) for n in g)]
    # What has a bias is an output layer, and an embedding as well only where both are one.
    chosen = without_bias or [group for group in possible if len(group) > 1]
    group = _only(chosen, EMBEDDINGS, "embedding_size", "e")
    if group is None:
        return None
    named = [name for name in group if not _has_bias(name, rest)]
    usual = [name for name in named if _usual(name, EMBEDDINGS)]
    return (usual or named or group)[0]


def _output(rest: Mapping[str, Stored], hidden: int, embedding: Stored | None) -> str | None:
    """The name of the output layer's weight, or None where no tensor can be it."""
    possible = [
        group
        for group in _groups(rest)
        if rest[group[0]].shape[1] == hidden
        and (embedding is None or rest[group[0]].shape[0] == embedding.shape[0])
    ]
    with_bias = [g for g in possible if any(_has_bias(n, rest) for n in g)]
    group = _only(with_bias or possible, OUTPUTS, "output layer", "l_out")
    if group is None:
        return None
    named = [name for name in group if _has_bias(name, rest)]
    usual = [name for name in group if _usual(name, OUTPUTS)]
    return (named or usual or group)[0]


def _only(
    groups: list[list[str]], usual: re.Pattern[str], what: str, ours: str
) -> list[str] | None:
    """The only group, or the only one with a usual name; None where there is none.

    Raises:
        TensorFileError: if several are as likely.
    """
    if len(groups) > 1:
        narrowed = [group for group in groups if any(_usual(name, usual) for name in group)]
        groups = narrowed or groups
    if len(groups) > 1:
        named = ", ".join(group[0] for group in groups)
        module = groups[0][0].rpartition(".")[0]
        raise TensorFileError(
            f"The {what} may be any of {named}: say which, for example --rename {module}={ours}."
        )
    return groups[0] if groups else None


def _usual(name: str, pattern: re.Pattern[str]) -> bool:
    """Whether the module of a tensor has a usual name."""
    module = name.rpartition(".")[0].rpartition(".")[2]
    return pattern.fullmatch(module) is not None


def _has_bias(name: str, rest: Mapping[str, Stored]) -> bool:
    return f"{name.rpartition('.')[0]}.bias".removeprefix(".") in rest


def _rows(array: np.ndarray | None) -> int | None:
    return None if array is None or array.ndim != 2 else int(array.shape[0])


def summary(found: Identified) -> str:
    """What was identified, in words."""
    if not found.sizes:
        return "No character model is identified."
    sizes = found.sizes
    cell = {"tanh": "tanh or relu"}.get(sizes.get("cell", ""), sizes.get("cell"))
    words: Iterable[str] = (
        f"{cell} cells" if cell else "a loop by hand",
        f"{sizes.get('num_layers', 1)} layers of {sizes['hidden_size']}",
        f"an embedding of {sizes['embedding_size']}",
        f"{found.vocabulary} tokens",
        *(["a tied output layer"] if sizes.get("tied") else []),
    )
    return "A character model: " + ", ".join(words) + "."
