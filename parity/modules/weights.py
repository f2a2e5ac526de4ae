"""The weights of somebody's PyTorch module: which are compared, and how they are sampled.

A state dict has more in it than weights: counts, masks, tables that are computed once, names that
stand for the same tensor. What the map does not name of those stays as the module has it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from jaxrnn.exchange.weights import WeightMap
from parity.core.bridge import is_float, named_leaves, numpy_arrays, numpy_of, rounded
from parity.core.compare import (
    UNIT_ROUNDOFF,
    Arrays,
    Comparison,
    Finding,
    Outcome,
    relative_l2,
)

# Buffers that a norm replaces by what it sees in training; they are sampled as weights are.
STATISTICS = ("running_mean", "running_var")
# Weights around zero: matrices in +-2 / sqrt(fan in), vectors in +-0.5, tables in +-1.5.
MATRIX_BOUND = 2.0
VECTOR_BOUND = 0.5
TABLE_BOUND = 1.5
# Weights that all have one sign keep it: they are multiplied by a factor from this range.
FACTORS = (0.5, 1.5)


@dataclass(frozen=True)
class State:
    """A module's state dict, sorted by what is done with each key.

    Attributes:
        own: every array as the module has it.
        compared: keys that the weight map names.
        aliases: keys that stand for the same tensor as one of those, by that one's name.
        trained: for each parameter with a gradient, by torch's name, the compared keys that stand
            for it.
        frozen: compared parameters with `requires_grad=False`.
        buffers: compared buffers.
        kept: keys that are left out, and stay as the module has them.
        remarks: what was left out, in words.
    """

    own: dict[str, np.ndarray]
    compared: tuple[str, ...]
    aliases: dict[str, str]
    trained: dict[str, tuple[str, ...]]
    frozen: tuple[str, ...]
    buffers: tuple[str, ...]
    kept: tuple[str, ...]
    remarks: tuple[str, ...]

    def complete(self, weights: Arrays) -> dict[str, np.ndarray]:
        """A whole state dict from the compared weights."""
        whole = dict(self.own)
        for key in whole:
            source = self.aliases.get(key, key)
            if source in weights:
                whole[key] = weights[source]
        return whole


def state_of(module: nn.Module, weight_map: WeightMap) -> State:
    """Sort a module's state dict.

    Args:
        module: the module.
        weight_map: names the keys that are compared.

    Raises:
        ValueError: if a parameter holds complex numbers.
    """
    tensors = module.state_dict(keep_vars=True)
    own = numpy_arrays(tensors)
    for key, array in own.items():
        if array.dtype.kind == "c":
            raise ValueError(f"weights must be real, got {array.dtype} as {key}.")
    mapped = [key for key in weight_map.keys if key in own]
    by_tensor: dict[int, list[str]] = {}
    for key, tensor in tensors.items():
        by_tensor.setdefault(id(tensor), []).append(key)

    aliases: dict[str, str] = {}
    remarks: list[str] = []
    for keys in by_tensor.values():
        named = [key for key in keys if key in mapped]
        for key in keys:
            if named and key != named[0]:
                aliases[key] = named[0]
        if len(keys) > 1 and len(named) > 1 and len({_entry(weight_map, k) for k in named}) > 1:
            remarks.append(
                f"{' and '.join(keys)} are one tensor in PyTorch, and several in JAX: the sum of "
                "their gradients was compared, and training moves them apart."
            )
    buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}
    left_out = [key for key in own if key not in mapped and key not in aliases]
    left_out = [key for key in left_out if _may_be_left_out(module, key, own[key], buffers)]
    if left_out:
        remarks.append(
            f"{', '.join(left_out)} stayed as in the PyTorch module: the map does not name them, "
            "and they are no parameters."
        )
    trained: dict[str, tuple[str, ...]] = {}
    frozen: list[str] = []
    for name, parameter in module.named_parameters():
        keys = [key for key in by_tensor.get(id(parameter), [name]) if key in mapped]
        if not parameter.requires_grad:
            frozen += keys
        elif keys:
            trained[name] = tuple(keys)
    if frozen:
        remarks.append(
            f"{', '.join(frozen)}: frozen in PyTorch (requires_grad=False), so that there is no "
            "gradient to compare."
        )
    compared = tuple(key for key in mapped if key not in aliases)
    return State(
        own,
        compared,
        aliases,
        trained,
        tuple(frozen),
        tuple(key for key in mapped if key in buffers),
        tuple(left_out),
        tuple(remarks),
    )


def _entry(weight_map: WeightMap, key: str) -> int:
    return next(k for k, entry in enumerate(weight_map.entries) if key in entry.keys)


def _may_be_left_out(module: nn.Module, key: str, array: np.ndarray, buffers: set[str]) -> bool:
    # What is no parameter, but for the statistics that a norm in evaluation mode computes with.
    if key not in buffers:
        return False
    owner, _, name = key.rpartition(".")
    return name not in STATISTICS or module.get_submodule(owner).training


def check_fit(weight_map: WeightMap, state: State, params: Any) -> None:
    """Refuse a map that does not fit the module and the parameters.

    Raises:
        WeightMapError: all is named.
    """
    shapes = {path: tuple(np.shape(leaf)) for path, leaf in named_leaves(params).items()}
    needed = {}
    for key, array in state.own.items():
        aside = key in state.kept or key in state.aliases
        if key in weight_map.keys or not aside:
            # Names and shapes are looked at here; values are judged later.
            needed[key] = np.zeros(array.shape, array.dtype)
    weight_map.from_torch(needed, like=shapes)


def sampled_weights(
    module: nn.Module, state: State, rng: np.random.Generator, dtype: str
) -> dict[str, np.ndarray]:
    """Weights for a comparison: no bias is zero, and no number of one sign changes it.

    Buffers other than running statistics, and what holds no floats, are the module's own. The row
    of an embedding that stands for padding stays what it is.

    Args:
        module: the module.
        state: its state dict.
        rng: the generator.
        dtype: the precision that has to hold them; float32 for float64.
    """
    stored = "float32" if dtype == "float64" else dtype
    weights = {}
    for key in state.compared:
        own = state.own[key]
        owner, _, name = key.rpartition(".")
        weights[key] = own
        if not is_float(own) or (key in state.buffers and name not in STATISTICS):
            continue
        wide = np.asarray(own, np.float64)
        part = _owner(module, owner)
        sampled = _sampled(wide, part, rng)
        padding = getattr(part, "padding_idx", None)
        if name == "weight" and isinstance(part, nn.Embedding) and padding is not None:
            sampled[padding] = wide[padding]
        weights[key] = rounded(sampled, stored)
    return weights


def _owner(module: nn.Module, name: str) -> nn.Module | None:
    try:
        return module.get_submodule(name)
    except AttributeError:  # a state dict may have names of its own making
        return None


def _sampled(own: np.ndarray, owner: nn.Module | None, rng: np.random.Generator) -> np.ndarray:
    # Numbers of the kind that the module has: of its sign, if it has one.
    if own.size and (np.all(own > 0) or np.all(own < 0)):
        return own * rng.uniform(*FACTORS, own.shape)
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag):
        bound = TABLE_BOUND
    elif own.ndim < 2:
        bound = VECTOR_BOUND
    else:
        bound = MATRIX_BOUND / np.sqrt(np.prod(own.shape[1:]))  # (out, in, ...): the fan in
    return np.asarray(rng.uniform(-bound, bound, own.shape))


def given_weights(state: State, dtype: str) -> dict[str, np.ndarray]:
    """The module's own weights, as a precision can hold them."""
    stored = "float32" if dtype == "float64" else dtype
    weights = {key: state.own[key] for key in state.compared}
    return {
        key: rounded(array, stored) if is_float(array) else array for key, array in weights.items()
    }


def mapped_weights(weight_map: WeightMap, state: State, weights: Arrays) -> dict[str, np.ndarray]:
    """The weights by the paths of JAX."""
    named = set(weight_map.keys)
    whole = state.complete(weights)
    return weight_map.from_torch({key: array for key, array in whole.items() if key in named})


def weight_findings(name: str, weight_map: WeightMap, state: State, params: Any) -> list[Finding]:
    """Are JAX's parameters, as they are, the module's own weights? One finding for each path.

    They may differ by two roundings in the precision of the less exact of the two: a sum of biases
    is rounded, and a checkpoint may be stored in bfloat16.

    Args:
        name: of the comparison.
        weight_map: carries the module's weights over.
        state: the module's state dict.
        params: JAX's parameters.
    """
    own = {key: state.own[key] for key in state.compared}
    expected = mapped_weights(weight_map, state, own)
    keys = {path: e.keys for e in weight_map.entries for path in e.paths}
    findings = []
    for path, leaf in named_leaves(params).items():
        got = numpy_of(leaf)
        stored = _coarser(got, *(state.own[key] for key in keys[path]))
        limit = 2 * UNIT_ROUNDOFF.get(stored, 2.0**-11)
        what = Comparison(name, "weights", stored)
        source = " and ".join(keys[path])
        label = f"{path} ({source})"
        if not np.isfinite(np.asarray(got, np.float64)).all():
            findings.append(
                what.finding("C0", label, Outcome.FAIL, value=1.0, note="NaN or infinite in JAX")
            )
            continue
        distance = relative_l2(got, expected[path])
        outcome = Outcome.PASS if distance <= limit else Outcome.FAIL
        note = "" if outcome is Outcome.PASS else "JAX's parameter is not PyTorch's weight"
        findings.append(what.finding("C1", label, outcome, value=distance, limit=limit, note=note))
    return findings


def _coarser(*arrays: np.ndarray) -> str:
    # The name of the least exact precision among floats; of the first array if there are none.
    names = [str(array.dtype) for array in arrays if is_float(array)]
    order = ("float64", "float32", "float16", "bfloat16")
    return max(names, key=order.index) if names else str(arrays[0].dtype)
