"""A weight map that writes itself: from a tree of parameters and a PyTorch module.

Names, shapes and order give the likeliest map. Where they leave a choice, both functions are run on
random weights, and what agrees is kept.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from torch import nn

from jaxrnn.exchange.layouts import Fill
from jaxrnn.exchange.operations import Absent
from jaxrnn.exchange.weights import Entry, WeightMap, WeightMapError
from parity.core.bridge import named_leaves
from parity.modules.mapping.candidates import Shape, Weight
from parity.modules.mapping.code import map_code
from parity.modules.mapping.matching import Part, jax_side, matched
from parity.modules.mapping.stacks import Tree, stacked_entries, unstacked_trees
from parity.modules.mapping.torch_side import tied_keys, torch_side
from parity.modules.mapping.trying import (
    AGREE,
    Trial,
    agreement,
    decide,
    likely,
    without_shown_doubts,
)

ROUNDED = 1e-5
"""Round-off of float32 lies below, a wrong layout of random weights above."""
DIFFERENT = 0.01
"""What porters get wrong beside the layout, as an epsilon, moves the outputs by less as a rule."""
MOST_OPTIONS = 3000
"""Options that are tried against what names say: each takes some milliseconds."""
SEED = 0
"""Of the random weights on which the functions are tried."""


class SuggestedMap(WeightMap):
    """A weight map, and what is to be known of how it was found.

    Attributes:
        ambiguous: what names and shapes leave open and trying has not decided, a sentence each.
        unmatched: weights without a counterpart, on either side, a sentence each.
        agreement: how far apart the outputs are on random weights, relative, in float64; None
            where nothing was tried.
    """

    def __init__(
        self,
        entries: Iterable[Entry],
        *,
        ambiguous: Sequence[str] = (),
        unmatched: Sequence[str] = (),
        agreement: float | None = None,
        notes: Mapping[Entry, str] | None = None,
    ) -> None:
        super().__init__(entries)
        self.ambiguous = tuple(ambiguous)
        self.unmatched = tuple(unmatched)
        self.agreement = agreement
        self._notes = dict(notes or {})

    def code(self) -> str:
        """The map as Python code to paste; it makes `weight_map`."""
        return map_code(self.entries, self._remarks(), self._notes)

    def __str__(self) -> str:
        """The code."""
        return self.code()

    def _remarks(self) -> list[str]:
        remarks = [f"Not decided: {sentence}." for sentence in self.ambiguous]
        remarks += [f"No counterpart: {sentence}." for sentence in self.unmatched]
        if self.agreement is not None:
            tried = f"On random weights the outputs are {self.agreement:.1e} apart"
            if self.agreement > ROUNDED:
                tried += ": the functions differ, or the map is wrong"
            elif self.agreement > AGREE:
                tried += ": one of the functions computes in float32, or differs a little"
            remarks.append(f"{tried}.")
        return remarks


def suggest_map(
    params: Any,
    torch_module: nn.Module,
    *,
    jax_function: Callable[..., Any] | None = None,
    inputs: Sequence[Any] | None = None,
) -> SuggestedMap:
    """The weight map between a tree of parameters and a PyTorch module.

    Args:
        params: JAX's parameters: dictionaries of Linen or Haiku, an Equinox module without what is
            no array (`eqx.filter(model, eqx.is_array)`), an NNX state or pure dictionary, a list of
            Keras variables, or any other tree of arrays.
        torch_module: the module whose weights they are.
        jax_function: `jax_function(params, *inputs)`, to decide by trying what names and shapes
            leave open. It has to give what `torch_module(*inputs)` gives, in the same order.
        inputs: arrays, or tuples of arrays, as both take them.

    Returns:
        A map, to be used as any other. `print` shows it as code, with comments on what is not
        decided and what has no counterpart; those are its `ambiguous` and `unmatched`.

    Raises:
        WeightMapError: if weights of both sides are left and none fits another; all are named.
        ValueError: if there is a function without inputs or the other way round, if a leaf is no
            array, or if the two cannot be compared.
    """
    if (jax_function is None) != (inputs is None):
        raise ValueError("jax_function and inputs must be given together, to try, or not at all.")
    leaves = named_leaves(params)
    _check_leaves(leaves)
    names = _own_names(leaves)
    shapes = {names[p]: tuple(np.shape(leaf)) for p, leaf in leaves.items() if _is_weight(leaf)}
    paths = {name: path for path, name in names.items() if name != path}

    match = _best_match(torch_module, shapes, paths)
    _check_left(match)
    parts, tree = match.parts, match.tree

    apart = None
    if jax_function is not None and inputs is not None and parts:
        trial = Trial(jax_function, params, torch_module, inputs, tree)
        parts, apart = _tried(trial, parts, torch_module, match.untied)
    entries, notes = _entries(parts, torch_module, tree)
    more, unmatched = _without_counterpart(torch_module, leaves, match)
    _check_counters(leaves, entries, more)
    doubts = dict.fromkeys(part.doubt for part in parts if part.doubt)
    for keys in match.untied.values():
        named = ", ".join(keys)
        doubts[f"{named} are one weight in PyTorch, whose gradient is the sum of several here"] = (
            None
        )
    return SuggestedMap(
        [*entries, *more],
        ambiguous=list(doubts),
        unmatched=unmatched,
        agreement=apart,
        notes=notes,
    )


def _check_leaves(leaves: Mapping[str, Any]) -> None:
    if not leaves:
        raise ValueError("params must be a tree with arrays, got none.")
    for path, leaf in leaves.items():
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise ValueError(
                f"params must be a tree of arrays, got {leaf!r} at {path}. Of an Equinox module "
                "take `eqx.filter(model, eqx.is_array)`."
            )


def _is_weight(leaf: Any) -> bool:
    # Counters, random keys and the like are none.
    return bool(jax.numpy.issubdtype(jax.numpy.dtype(str(leaf.dtype)), jax.numpy.inexact))


def _own_names(leaves: Mapping[str, Any]) -> dict[str, str]:
    """What each leaf is called by its own framework; by its path where that says it."""
    names = {}
    for path, leaf in leaves.items():
        # A Keras variable stands in a list, and knows where it belongs.
        own = getattr(leaf, "path", None)
        # In a state of NNX every path ends in the attribute of the variable.
        names[path] = own if isinstance(own, str) and own else path.removesuffix("/value")
    # Names that say the same of two leaves are none.
    unique = len(set(names.values())) == len(names) and "" not in names.values()
    return names if unique else {path: path for path in leaves}


class Match(NamedTuple):
    """What names, shapes and order give.

    Attributes:
        parts: with a counterpart.
        tree: the names of JAX's weights.
        weights: PyTorch's, by key.
        keys_left: those without a counterpart.
        names_left: JAX's without a counterpart.
        untied: keys of weights that PyTorch ties and JAX does not, by the first.
    """

    parts: list[Part]
    tree: Tree
    weights: dict[str, Weight]
    keys_left: list[str]
    names_left: list[str]
    untied: dict[str, tuple[str, ...]]


def _best_match(module: nn.Module, shapes: Mapping[str, Shape], paths: Mapping[str, str]) -> Match:
    """The match that leaves the fewest weights, the simplest of several."""
    tied = tied_keys(module.state_dict())
    best: Match | None = None
    for untied in ({}, tied) if tied else ({},):
        theirs = torch_side(module, tied={} if untied else tied)
        # As the tree is, then with the layers of stacked arrays taken apart.
        for tree in unstacked_trees(shapes, paths):
            parts = matched(theirs, jax_side(tree.shapes))
            known = {key for part in parts for key in part.keys}
            taken = {name for part in parts for name in part.chosen.paths}
            keys = [key for key in theirs.weights if key not in known]
            names = [name for name in tree.shapes if name not in taken]
            match = Match(parts, tree, theirs.weights, keys, names, untied)
            if best is None or len(keys + names) < len(best.keys_left + best.names_left):
                best = match
            if not keys and not names:
                return match
    assert best is not None  # the tree as it is comes first
    return best


def _check_left(match: Match) -> None:
    """Refuse weights of both sides that are left and do not fit each other."""
    if not match.keys_left or not match.names_left:
        return
    theirs = ", ".join(f"{key} {match.weights[key].shape}" for key in match.keys_left)
    ours = ", ".join(f"{match.tree.path(n)} {match.tree.shapes[n]}" for n in match.names_left)
    raise WeightMapError(
        f"Nothing fits what is left: of PyTorch {theirs}; of JAX {ours}. Compare the sizes of the "
        "two models, or write these entries by hand."
    )


def _tried(
    trial: Trial, parts: list[Part], module: nn.Module, untied: Mapping[str, tuple[str, ...]]
) -> tuple[list[Part], float]:
    """The parts as the outputs show them, and how far apart those are."""
    shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    likeliest = agreement(trial, parts, shapes, SEED, untied)
    if likeliest <= AGREE:
        return without_shown_doubts(trial, parts, shapes, SEED), likeliest
    if untied:
        # The parts are not independent, and cannot be decided one by one.
        return parts, likeliest
    decided = decide(trial, likely(parts), shapes, SEED)
    apart = agreement(trial, decided, shapes, SEED, untied)
    if apart > DIFFERENT and sum(len(part.options) for part in parts) < MOST_OPTIONS:
        # Names may lie: look at what they speak against.
        widely = decide(trial, parts, shapes, SEED)
        apart_widely = agreement(trial, widely, shapes, SEED, untied)
        if apart_widely < apart:
            decided, apart = widely, apart_widely
    if apart <= AGREE:
        decided = without_shown_doubts(trial, decided, shapes, SEED)
    return decided, apart


def _entries(
    parts: Sequence[Part], module: nn.Module, tree: Tree
) -> tuple[list[Entry], dict[Entry, str]]:
    """The entries in PyTorch's order, and a comment for those that are called by a number."""
    place = {key: k for k, key in enumerate(module.state_dict())}
    entries = [one for part in parts for one in part.chosen.entries]
    entries = stacked_entries(entries, tree)
    entries.sort(key=lambda one: place[one.keys[0]])
    # A place in a list says little.
    called = {path: name for name, path in tree.paths.items() if not path.endswith("/value")}
    notes = {}
    for one in entries:
        names = [called[path] for path in one.paths if path in called]
        if names:
            notes[one] = ", ".join(names)
    return entries, notes


def _without_counterpart(
    module: nn.Module, leaves: Mapping[str, Any], match: Match
) -> tuple[list[Entry], list[str]]:
    """Entries for weights of one side alone, and a sentence for each that is no counter."""
    entries = []
    sentences = []
    for key, tensor in module.state_dict().items():
        shape = tuple(tensor.shape)
        counter = not tensor.is_floating_point()
        if key in match.keys_left or counter:
            entries.append(Entry((key,), (), Absent(shape)))
        if key in match.keys_left:
            sentences.append(f"{key} {shape} of PyTorch")
    origin = match.tree.origin
    wholes = dict.fromkeys(origin[n][0] if n in origin else n for n in match.names_left)
    for path in map(match.tree.path, wholes):
        array = np.asarray(leaves[path])
        value = float(np.mean(array.astype(np.float64)))
        entries.append(Entry((), (path,), Fill(array.shape, value)))
        sentences.append(f"{path} {array.shape} of JAX, taken as {value:g} everywhere")
    return entries, sentences


def _check_counters(leaves: Mapping[str, Any], *tables: Sequence[Entry]) -> None:
    """Refuse leaves that are no weights: there is nothing that they could be compared with."""
    known = {path for table in tables for one in table for path in one.paths}
    for path, leaf in leaves.items():
        if path not in known:
            raise WeightMapError(f"{path} has type {leaf.dtype} and is no weight: take it out.")
