"""Which of a file's tensors are recurrent layers: PyTorch's names, in one module or in several.

Shapes: F embedding size, H hidden size, G gates.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxrnn.exchange.contents import Stored, TensorFileError

RECURRENT = re.compile(r"(weight|bias)_(ih|hh|hr)(?:_l(\d+))?(_reverse)?(_raw)?")
"""PyTorch's names of recurrent weights, with `_raw` where a weight drop renamed them."""
CELLS_BY_GATES = {1: "tanh", 3: "gru", 4: "lstm"}
"""Cells by G, the rows of `weight_hh` in H. relu has as many as tanh."""

Modules = dict[str, dict[str, Stored]]
"""Weights by the module that they are in, such as "encoder.rnn", and by their own name in it."""


def take_layers(rest: dict[str, Stored], notes: list[str]) -> dict[str, Stored]:
    """Take the recurrent weights out of `rest`, as rnn.weight_ih_l0 and so on.

    Args:
        rest: the tensors of a file; those that are recurrent weights are removed.
        notes: receives a sentence for everything that is left out or assumed.

    Raises:
        TensorFileError: if there are layers of a kind that no model here has, or several stacks.
    """
    modules: Modules = {}
    for name in list(rest):
        module, _, leaf = name.rpartition(".")
        match = RECURRENT.fullmatch(leaf)
        if match is None:
            continue
        if match[2] == "hr":
            raise TensorFileError(f"{name} is a projection (proj_size), which no model here has.")
        if match[4]:
            raise TensorFileError(
                f"{name} reads the text backwards: a model that generates reads forwards only."
            )
        modules.setdefault(module, {})[leaf] = rest.pop(name)

    for module, weights in modules.items():
        _unmask(module, weights, notes)
    modules = _without_copies(modules, notes)

    # Each module is a stack, or one layer of a stack. A model has one stack.
    layers: dict[str, Stored] = {}
    for series in _series(modules):
        stack = _stacked(modules, series)
        if not layers.keys().isdisjoint(stack):
            named = ", ".join(module or "the file itself" for module in modules)
            raise TensorFileError(
                f"There are recurrent weights in {named}. Say which to take, --rename "
                f"{series[0]}=rnn, and leave out the others: --drop {next(iter(modules))}."
            )
        layers |= stack
    _check_widths(layers)
    return layers


def sizes_of(layers: Mapping[str, Stored]) -> dict[str, Any]:
    """The values of a `Config` that follow from the shapes of the recurrent weights.

    Returns:
        The cell, H, the number of layers, and F; nothing where the shapes do not fit together.
    """
    recurrent = layers.get("rnn.weight_hh_l0")  # (G * H, H)
    into = layers.get("rnn.weight_ih_l0")  # (G * H, F)
    if recurrent is None or into is None or len(recurrent.shape) != 2 or len(into.shape) != 2:
        return {}
    rows, hidden_size = recurrent.shape
    if hidden_size == 0 or rows % hidden_size:
        return {}
    gates = rows // hidden_size
    if gates not in CELLS_BY_GATES:
        return {}
    # Layers are numbered from 0, without a gap.
    numbers = {int(name.rpartition("_l")[2]) for name in layers}
    if numbers != set(range(len(numbers))):
        return {}
    return {
        "cell": CELLS_BY_GATES[gates],
        "hidden_size": hidden_size,
        "num_layers": len(numbers),
        "embedding_size": into.shape[1],
    }


def _unmask(module: str, weights: dict[str, Stored], notes: list[str]) -> None:
    """Put the raw weights of a weight drop in place of those that it masked."""
    for leaf in list(weights):
        if not leaf.endswith("_raw"):
            continue
        plain = leaf.removesuffix("_raw")
        weights[plain] = weights.pop(leaf)
        where = f"{module}.{leaf}".removeprefix(".")
        notes.append(f"{where} is taken as {plain}: a weight drop keeps the weights there.")


def _without_copies(modules: Modules, notes: list[str]) -> Modules:
    """The modules without those that hold the same numbers as another one."""
    distinct: Modules = {}
    for module, weights in modules.items():
        for original, others in distinct.items():
            if weights.keys() == others.keys() and all(
                weights[leaf].equals(others[leaf]) for leaf in weights
            ):
                notes.append(f"{module} equals {original} and is left out.")
                break
        else:
            distinct[module] = weights
    return distinct


def _series(modules: Modules) -> list[list[str]]:
    """Modules that are the layers of one stack, in order: their names differ in one number."""
    by_form: dict[str, list[str]] = {}
    for module, weights in modules.items():
        # A module with a layer 1 is a stack itself.
        if any(map(_layer_of, weights)):
            continue
        parts = module.split(".")
        for place, part in enumerate(parts):
            if part.isdecimal():
                form = ".".join([*parts[:place], "#", *parts[place + 1 :]])
                by_form.setdefault(form, []).append(module)
    alone = dict.fromkeys(modules)
    series = []
    for names in by_form.values():
        if len(names) > 1:
            series.append(sorted(names, key=_numbers))
            for name in names:
                alone.pop(name, None)
    return [*([module] for module in alone), *series]


def _numbers(module: str) -> list[int]:
    """The numbers in a module's name: by them, layer 10 comes behind layer 9."""
    return [int(part) for part in module.split(".") if part.isdecimal()]


def _layer_of(leaf: str) -> int:
    """The number of the layer in a weight's name; 0 for a cell, which has none."""
    match = RECURRENT.fullmatch(leaf)
    return int(match[3] or 0) if match else 0


def _stacked(modules: Modules, series: Sequence[str]) -> dict[str, Stored]:
    """The weights of the modules of a series, as those of one stack called rnn."""
    stack = {}
    for number, module in enumerate(series):
        for leaf, stored in modules[module].items():
            match = RECURRENT.fullmatch(leaf)
            assert match is not None
            layer = number if len(series) > 1 else _layer_of(leaf)
            stack[f"rnn.{match[1]}_{match[2]}_l{layer}"] = stored
    return stack


def _check_widths(layers: Mapping[str, Stored]) -> None:
    """Refuse layers of different widths: those of one stack here have the same."""
    widths = []
    for name, stored in layers.items():
        if not name.startswith("rnn.weight_hh_l") or len(stored.shape) != 2:
            continue
        rows, width = stored.shape
        # Gates are square; what is not is reported with what was expected.
        if rows % max(width, 1) == 0:
            widths.append(width)
    if len(set(widths)) > 1:
        raise TensorFileError(
            f"The recurrent layers have different widths ({', '.join(map(str, widths))}): the "
            "layers of one model here have the same width."
        )
