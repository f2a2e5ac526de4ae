"""Which weight of PyTorch's is which of JAX's, by names, shapes and order."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from jaxrnn.exchange.layouts import Tied
from jaxrnn.exchange.weights import Entry
from parity.modules.mapping.candidates import (
    QKV,
    Candidate,
    Shape,
    Weight,
    candidates,
    joined_candidates,
    split_candidates,
)
from parity.modules.mapping.names import (
    SYNONYMS,
    Name,
    difference,
    out_of_order,
    taken_apart,
    words_of,
)
from parity.modules.mapping.recurrent import Layer, layer_layouts

SLOTS = ("query", "key", "value")

# Held against a node for each leaf below it that a recurrent layer does not have.
UNUSED = 0.1
# Two ways that differ by less than this are undecided: names say the same, and order alone speaks.
CLOSE = 0.15
# Two operations that differ by less are both usual for an array of this name.
BOTH_USUAL = 0.5
# Stands for a pair that does not fit; larger than any sum of differences.
IMPOSSIBLE = 1e6


class Option(NamedTuple):
    """One way to bring a part's weights to JAX, and what is held against it.

    Attributes:
        entries: of the map.
        cost: of names, order and layout.
        known: whether the layout is that of a known framework.
    """

    entries: tuple[Entry, ...]
    cost: float
    known: bool = True

    @property
    def paths(self) -> frozenset[str]:
        """The paths that it takes."""
        return frozenset(path for one in self.entries for path in one.paths)


@dataclass
class Part:
    """Weights of PyTorch's that are decided together.

    Attributes:
        keys: theirs.
        options: the ways to bring them to JAX, the chosen one first.
        doubt: what names and shapes leave open, as a sentence; empty if nothing.
    """

    keys: tuple[str, ...]
    options: list[Option]
    doubt: str = ""

    @property
    def chosen(self) -> Option:
        """The likeliest."""
        return self.options[0]


@dataclass
class TorchSide:
    """PyTorch's weights.

    Attributes:
        weights: those of numbers with a fraction, by key; of tied ones the first.
        names: by key, taken apart.
        layers: the recurrent layers by name.
        layer_names: their names, taken apart.
        tied: all keys of a tied weight by the first.
    """

    weights: dict[str, Weight]
    names: dict[str, Name]
    layers: dict[str, Layer]
    layer_names: dict[str, Name]
    tied: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass
class JaxSide:
    """JAX's weights.

    Attributes:
        shapes: by path.
        names: by path, taken apart.
        node_names: of each inner node of the tree, by path.
    """

    shapes: dict[str, Shape]
    names: dict[str, Name]
    node_names: dict[str, Name]


def matched(theirs: TorchSide, ours: JaxSide) -> list[Part]:
    """The parts for which there is a counterpart, each with all its options."""
    free = dict(ours.shapes)
    parts = _recurrent_parts(theirs, ours, free)
    keys = [key for key in theirs.weights if key not in _keys(parts)]
    found = _fused_parts(theirs, ours, keys, free)
    parts += found
    keys = [key for key in keys if key not in _keys(found)]
    parts += _single_parts(theirs, ours, keys, free)
    return [_tied(part, theirs.tied) for part in parts]


def _keys(parts: Sequence[Part]) -> set[str]:
    return {key for part in parts for key in part.keys}


def _take(free: dict[str, Shape], option: Option) -> None:
    for path in option.paths:
        del free[path]


def _recurrent_parts(theirs: TorchSide, ours: JaxSide, free: dict[str, Shape]) -> list[Part]:
    """Recurrent layers, the surest first."""
    by_layer: dict[str, list[Option]] = {}
    for name, layer in theirs.layers.items():
        # Weights that are called and shaped alike need no search.
        options = []
        for node, node_name in ours.node_names.items():
            prefix = f"{node}/" if node else ""
            below = {p[len(prefix) :]: s for p, s in free.items() if p.startswith(prefix)}
            alike = difference(theirs.layer_names[name], node_name)
            for entries, cost, known in layer_layouts(layer, below):
                placed = tuple(
                    replace(one, paths=tuple(prefix + path for path in one.paths))
                    for one in entries
                )
                used = sum(len(one.paths) for one in placed)
                total = alike + cost + UNUSED * (len(below) - used)
                options.append(Option(placed, total, known))
        by_layer[name] = sorted(options, key=lambda option: option.cost)

    parts: list[Part] = []
    waiting = dict(by_layer)
    while waiting:
        possible = {}
        for name, options in waiting.items():
            left = [option for option in options if option.paths <= free.keys()]
            if left:
                possible[name] = left[0]
        if not possible:
            break
        name = min(possible, key=lambda name: possible[name].cost)
        chosen = possible[name]
        _take(free, chosen)
        options = [chosen, *(o for o in waiting.pop(name) if o is not chosen)]
        layer = theirs.layers[name]
        doubt = "" if chosen.known else f"the order of the gates of {name} is not known"
        parts.append(Part(layer.keys, _distinct(options), doubt))
    return parts


def _distinct(options: Sequence[Option]) -> list[Option]:
    """Each set of entries once, as it is found through several nodes."""
    found: dict[tuple[Entry, ...], Option] = {}
    for option in options:
        found.setdefault(option.entries, option)
    return list(found.values())


def slot_groups(names: Mapping[str, Sequence[str]], shapes: Mapping[str, Shape]) -> list[list[str]]:
    """Names of queries, keys and values that differ in that word alone and have one shape."""
    groups: dict[tuple[object, ...], dict[str, str]] = {}
    for name, parts in names.items():
        for depth, part in enumerate(parts):
            words = words_of(part)
            for k, word in enumerate(words):
                (meaning, *_) = SYNONYMS.get(word, (word,))
                if meaning not in SLOTS:
                    continue
                # "wq" and "bq" are of two groups.
                first = word[0] if word[0] in "wb" and len(word) == 2 else ""
                form = (*words[:k], f"{first}#", *words[k + 1 :])
                template = (*parts[:depth], form, *parts[depth + 1 :])
                groups.setdefault(template, {}).setdefault(meaning, name)
    found = []
    for group in groups.values():
        paths = [group[slot] for slot in SLOTS if slot in group]
        if len(paths) == QKV and len({shapes[path] for path in paths}) == 1:
            found.append(paths)
    return found


def _fused_parts(
    theirs: TorchSide, ours: JaxSide, keys: Sequence[str], free: dict[str, Shape]
) -> list[Part]:
    """Queries, keys and values that are one array on one side and three on the other."""
    shapes = {key: theirs.weights[key].shape for key in keys}
    torch_groups = slot_groups({key: key.split(".") for key in keys}, shapes)
    groups = slot_groups({path: path.split("/") for path in free}, free)
    if groups and not torch_groups:
        return _paired([[key] for key in keys], groups, theirs, ours, free)
    if torch_groups and not groups:
        return _paired(torch_groups, [[path] for path in free], theirs, ours, free)
    return []


def _single_parts(
    theirs: TorchSide, ours: JaxSide, keys: Sequence[str], free: dict[str, Shape]
) -> list[Part]:
    """Every other weight by itself."""
    return _paired([[key] for key in keys], [[path] for path in free], theirs, ours, free)


def _paired(
    torch_groups: Sequence[Sequence[str]],
    groups: Sequence[Sequence[str]],
    theirs: TorchSide,
    ours: JaxSide,
    free: dict[str, Shape],
) -> list[Part]:
    """The assignment of groups to groups of the smallest sum of differences."""
    options: dict[tuple[int, int], list[Option]] = {}
    costs = np.full((len(torch_groups), len(groups)), IMPOSSIBLE)
    order = np.zeros(costs.shape)  # the part of the costs that order alone makes
    for i, keys in enumerate(torch_groups):
        for j, paths in enumerate(groups):
            fits = _fitting(theirs.weights[keys[0]], free[paths[0]], keys, paths)
            if not fits:
                continue
            alike = difference(
                _of_group(theirs.names[keys[0]], keys), _of_group(ours.names[paths[0]], paths)
            )
            alike += _projection(theirs.names[keys[0]], ours.names[paths[0]])
            options[i, j] = [
                Option((Entry(tuple(keys), tuple(paths), operation),), alike + cost)
                for operation, cost in fits
            ]
            costs[i, j] = options[i, j][0].cost
            order[i, j] = out_of_order(theirs.names[keys[0]], ours.names[paths[0]])
    assigned = {
        int(i): int(j)
        for i, j in zip(*linear_sum_assignment(costs), strict=True)
        if costs[i, j] < IMPOSSIBLE
    }
    parts = []
    for i, j in assigned.items():
        first = options[i, j]
        others = [o for (k, m), found in options.items() if k == i and m != j for o in found]
        others.sort(key=lambda option: option.cost)
        doubts = (
            _doubt(torch_groups[i], first),
            _exchange(i, assigned, costs - order, torch_groups),
        )
        doubt = "; ".join(filter(None, doubts))
        # The other layouts of the chosen counterpart come before other counterparts.
        parts.append(Part(tuple(torch_groups[i]), [*first, *others], doubt))
        _take(free, first[0])
    return parts


def _fitting(
    weight: Weight, shape: Shape, keys: Sequence[str], paths: Sequence[str]
) -> list[Candidate]:
    leaf = re.split("/", paths[0])[-1]
    if len(paths) > 1:
        return split_candidates(weight, shape, leaf, len(paths))
    if len(keys) > 1:
        return joined_candidates(weight, shape, leaf, len(keys))
    return candidates(weight, shape, leaf)


def _of_group(name: Name, members: Sequence[str]) -> Name:
    # Of three the first says "query", which the one array does not.
    return name if len(members) == 1 else replace(name, words=name.words - set(SLOTS))


def _projection(theirs: Name, ours: Name) -> float:
    # An output projection is none of the queries, keys and values, whatever else they share.
    slots = set(SLOTS) | {"out"}
    a = theirs.words & slots
    b = ours.words & slots
    return 0.5 if a and b and not a & b else 0.0


def _doubt(keys: Sequence[str], options: Sequence[Option]) -> str:
    # What the shape leaves open at the chosen counterpart.
    if len(options) < 2 or options[1].cost - options[0].cost >= BOTH_USUAL:
        return ""
    (one,) = options[0].entries
    (other,) = options[1].entries
    names = f"{', '.join(keys)} as {', '.join(one.paths)}"
    return (
        f"the layout of {names}: {type(one.operation).__name__} and "
        f"{type(other.operation).__name__} both fit"
    )


def _exchange(
    i: int, assigned: Mapping[int, int], costs: np.ndarray, groups: Sequence[Sequence[str]]
) -> str:
    # Another weight with which this one could be exchanged.
    j = assigned[i]
    for k, m in assigned.items():
        if k == i:
            continue
        exchanged = costs[i, m] + costs[k, j] - costs[i, j] - costs[k, m]
        if exchanged < CLOSE:
            both = " and ".join(", ".join(groups[n]) for n in sorted((i, k)))
            return f"which of {both} is which: their order alone decides"
    return ""


def _tied(part: Part, tied: Mapping[str, tuple[str, ...]]) -> Part:
    """The part with every key of a tied weight."""
    (first, *others) = part.keys
    if first not in tied or others:
        return part
    keys = tied[first]
    options = []
    for option in part.options:
        (one,) = option.entries
        entry = Entry(keys, one.paths, Tied(len(keys), one.operation))
        options.append(option._replace(entries=(entry,)))
    return Part(keys, options, part.doubt)


def jax_side(shapes: Mapping[str, Shape]) -> JaxSide:
    """What is known of JAX's weights, from their shapes by path."""
    parts = {path: tuple(path.split("/")) for path in sorted_paths(shapes)}
    below: dict[tuple[str, ...], set[tuple[tuple[str, ...], int]]] = {}
    for path, whole in parts.items():
        for depth in range(1, len(whole) + 1):
            rest = (whole[depth:], len(shapes[path]))
            below.setdefault(whole[:depth], set()).add(rest)

    def kind(node: tuple[str, ...]) -> object:
        return frozenset(below.get(node, ()))

    nodes: dict[str, tuple[str, ...]] = {}
    for whole in parts.values():
        for depth in range(len(whole)):
            nodes["/".join(whole[:depth])] = (*whole[:depth], "weight")
    return JaxSide(
        {path: tuple(shapes[path]) for path in parts},
        taken_apart(parts, kind, {}),
        taken_apart(nodes, kind, {}),
    )


def sorted_paths(shapes: Mapping[str, Shape]) -> list[str]:
    """Paths with 10 behind 9; those of one node stay in the tree's order otherwise."""

    def key(path: str) -> list[tuple[str, int]]:
        found = []
        for part in path.split("/"):
            digits = re.search(r"\d+$", part)
            number = int(digits[0]) if digits else -1
            found.append((re.sub(r"_?\d+$", "", part), number))
        return found

    return sorted(shapes, key=key)
