"""A user's own training step in JAX, run and recorded batch by batch, under PyTorch's names.

JAX's side is a pair of functions, `init(params) -> state` and `step(state, batch)`. States are
whatever they are: the parameters, the moments and the average are looked for in them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxrnn.exchange.weights import WeightMap
from parity.core.bridge import is_float, jax_of, named_leaves, numpy_of, rebuilt
from parity.core.compare import Arrays
from parity.core.runners import precision
from parity.measures.training_loops import MOMENT_NAMES, Step

# Names of gradients in what a JAX step returns beside the state.
GRADIENTS = ("gradients", "grads", "grad")
# Flax NNX calls the array of each variable so.
NNX_LEAF = "/value"


@dataclass(frozen=True)
class JaxLoop:
    """A user's training step in JAX.

    Attributes:
        init: makes a state from parameters.
        step: `step(state, batch)` returns the new state, and the loss or metrics beside it.
        params: a tree of the structure of the parameters.
        params_of: the parameters in a state.
        loss: `loss(params, batch)`, to take gradients of, if the step returns none.
        weight_map: the parameters' paths and PyTorch's keys.
        average_of: the average of the parameters in a state, if it has one.
    """

    init: Callable[[Any], Any]
    step: Callable[[Any, Any], Any]
    params: Any
    params_of: Callable[[Any], Any]
    loss: Callable[[Any, Any], Any] | None
    weight_map: WeightMap
    average_of: Callable[[Any], Any] | None = None

    def state(self, weights: Arrays, dtype: str) -> Any:
        """The state before the first step, from PyTorch's weights; call it within `precision`."""
        return self.init(self._tree(self.weight_map.from_torch(weights), dtype))

    def _tree(self, by_path: Arrays, dtype: str) -> Any:
        return rebuilt(self.params, {path: jax_of(array, dtype) for path, array in by_path.items()})

    def steps(self, weights: Arrays, batches: Sequence[Any], dtype: str) -> Iterator[Step]:
        """Run it, batch by batch; arguments as `TorchLoop.steps`."""
        with precision(dtype):
            state = self.state(weights, dtype)
        for batch in batches:
            with precision(dtype):
                state, step = self.advance(state, batch, dtype)
            yield step

    def advance(self, state: Any, batch: Any, dtype: str) -> tuple[Any, Step]:
        """One step, from any state; call it within `precision`."""
        batch = jax.tree.map(lambda array: jax_of(np.asarray(array), dtype), batch)
        gradients = None
        if self.loss is not None:
            # Before the step, which may change a state in place or take its memory.
            gradients = jax.grad(self.loss)(self.params_of(state), batch)
        state, result = _state_and_result(state, self.step(state, batch))
        step = Step(loss=_loss_in(result))
        if gradients is None:
            gradients = _gradients_in(result)
        if gradients is not None:
            step.gradients = self._gradients(gradients)
        step.weights = self._weights(self.params_of(state), "params_of")
        if self.average_of is not None:
            step.averages = self._weights(self.average_of(state), "average_of")
        step.moments = self._moments(state)
        if dtype == "float64":
            step.rounded = _in_float32(state)
        return state, step

    @cached_property
    def _paths(self) -> dict[str, str]:
        """The paths of the parameters, by the same without what NNX adds to them."""
        return {_bare(path): path for path in named_leaves(self.params)}

    def _weights(self, tree: Any, source: str) -> dict[str, np.ndarray]:
        """A tree of parameters under PyTorch's names; `source` is the function that gave it."""
        leaves = {_bare(path): leaf for path, leaf in named_leaves(tree).items()}
        missing = [path for path in self._paths if path not in leaves]
        if missing:
            raise ValueError(
                f"{source} must give a tree of the structure of params, got one without "
                f"{', '.join(missing[:4])}."
            )
        by_path = {path: numpy_of(leaves[bare]) for bare, path in self._paths.items()}
        # Weights that are NaN are for the comparison to judge; the map would refuse them.
        odd = _odd(by_path)
        move = self.weight_map.gradients_to_torch if odd else self.weight_map.to_torch
        shared = self.shared_keys
        return {key: array for key, array in move(by_path).items() if key in shared}

    def _gradients(self, tree: Any) -> dict[str, np.ndarray]:
        """Gradients of all parameters, or of some, under PyTorch's names."""
        found = {}
        for place, leaf in named_leaves(tree).items():
            path = self._parameter(_bare(place))
            if path is not None:
                found[path] = numpy_of(leaf)
        if not found:
            raise ValueError(
                "jax_step must return gradients in a tree like that of params, got "
                f"{', '.join(list(named_leaves(tree))[:4]) or 'no array'}."
            )
        return self._of_some(found)

    def _of_some(self, by_path: Arrays) -> dict[str, np.ndarray]:
        """Gradients or moments of some parameters, under PyTorch's names."""
        # The map takes all parameters or none; those without an array are left out again.
        leaves = named_leaves(self.params)
        whole = {path: np.zeros(np.shape(leaf)) for path, leaf in leaves.items()}
        moved = self.weight_map.gradients_to_torch(whole | dict(by_path))
        found: dict[str, np.ndarray] = {}
        for e in self.weight_map.entries:
            if e.paths and set(e.paths) <= by_path.keys():
                found |= {key: moved[key] for key in e.keys}
        return found

    def folded(self, weights: Arrays) -> dict[str, np.ndarray]:
        """PyTorch's weights as they would come back from JAX: two folded biases are one and 0."""
        found = {key: array for key, array in weights.items() if key in self.shared_keys}
        for e in self.weight_map.entries:
            if e.paths and e.operation.inexact:
                moved = e.operation.to_torch(
                    e.operation.from_torch([np.asarray(weights[key]) for key in e.keys])
                )
                found |= dict(zip(e.keys, moved, strict=True))
        return found

    @property
    def shared_keys(self) -> frozenset[str]:
        """PyTorch's keys that have a counterpart."""
        return frozenset(key for e in self.weight_map.entries if e.paths for key in e.keys)

    def _parameter(self, rest: str) -> str | None:
        """The parameter with this path, or the only one whose path ends so."""
        if rest in self._paths:
            return self._paths[rest]
        # The params among variables: "params/dense/kernel" has the moment "mu/dense/kernel".
        paths = [path for bare, path in self._paths.items() if bare.endswith(f"/{rest}")]
        return paths[0] if rest and len(paths) == 1 else None

    def _moments(self, state: Any) -> dict[str, np.ndarray]:
        # A moment is a tree like that of the parameters, somewhere in the state: the leaf
        # ".../mu/dense/kernel" is the first moment of "dense/kernel".
        parameters = {id(leaf) for leaf in jax.tree.leaves(self.params_of(state))}
        found: dict[str, dict[str, np.ndarray]] = {}
        for place, leaf in named_leaves(state).items():
            # A module of the model may be called as a moment is.
            if id(leaf) in parameters:
                continue
            for kind in MOMENT_NAMES:
                path = self._parameter(_after(_bare(place), kind))
                if path is not None:
                    found.setdefault(kind, {})[path] = numpy_of(leaf)
        named: dict[str, np.ndarray] = {}
        for kind, leaves in found.items():
            named |= {f"{kind} of {key}": array for key, array in self._of_some(leaves).items()}
        return named


def _in_float32(state: Any) -> tuple[str, ...]:
    # What a state keeps in float32 whatever it is given; single numbers lose nothing to speak of.
    return tuple(
        path
        for path, leaf in named_leaves(state).items()
        if getattr(leaf, "dtype", None) == np.float32 and np.ndim(leaf) > 0
    )


def _bare(path: str) -> str:
    return path.removesuffix(NNX_LEAF)


def _after(path: str, part: str) -> str:
    # What follows a part of a path; empty if it has no such part.
    _head, found, rest = f"/{path}".partition(f"/{part}/")
    return rest if found else ""


def _odd(arrays: Arrays) -> bool:
    # NaN and infinity are judged, where the map would refuse them.
    return any(is_float(a) and not np.isfinite(a.astype(float)).all() for a in arrays.values())


def _state_and_result(before: Any, returned: Any) -> tuple[Any, Any]:
    """What a step returned, taken apart: the state, and what is beside it."""
    if _is_like(before, returned):
        return returned, None
    if isinstance(returned, tuple) and len(returned) >= 2:
        if _is_like(before, returned[0]):
            return returned[0], returned[1] if len(returned) == 2 else returned[1:]
        if _is_like(before, returned[-1]):
            raise ValueError(
                "jax_step must return the state first, (state, loss); got it as the last."
            )
    # Only objects can have changed in place, as those of NNX do; arrays and their trees cannot.
    if _is_plain(before):
        raise ValueError(
            "jax_step must return the new state, or (state, loss), of the same structure as the "
            f"state that it gets; got {jax.tree.structure(returned)} for "
            f"{jax.tree.structure(before)}."
        )
    return before, returned


def _is_like(state: Any, other: Any) -> bool:
    """Whether something may be the next state: of the same structure, with the same objects in it.

    To JAX an object of a class that it does not know is a leaf, like a loss.
    """
    structure: Any = jax.tree.structure(state)
    if structure != jax.tree.structure(other):
        return False
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True)
    return all(_is_plain(leaf) or type(leaf) is type(there) for leaf, there in pairs)


def _is_plain(tree: Any) -> bool:
    # Whether a tree is one of dicts, tuples and lists alone, which no step changes in place.
    if isinstance(tree, dict):
        return all(map(_is_plain, tree.values()))
    if isinstance(tree, tuple | list):
        return all(map(_is_plain, tree))
    return isinstance(tree, jax.Array | np.ndarray | int | float) or tree is None


def _loss_in(result: Any) -> float | None:
    """The loss in what a step returned beside the state; None if there is none."""
    if result is None:
        return None
    if isinstance(result, Mapping):
        return _loss_in(result.get("loss"))
    if hasattr(result, "loss"):
        return _loss_in(result.loss)
    if isinstance(result, tuple | list):
        return _loss_in(result[0]) if result else None
    # An array of one, whatever its shape, is a number.
    return float(np.asarray(result).item()) if np.size(result) == 1 else None


def _gradients_in(result: Any) -> Any:
    """The gradients in what a step returned beside the state, if it names them."""
    for name in GRADIENTS:
        if isinstance(result, Mapping) and name in result:
            return result[name]
        if hasattr(result, name):
            return getattr(result, name)
    return None
