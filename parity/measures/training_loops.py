"""A user's own training steps, run and recorded in either framework, batch by batch.

JAX's side is a pair of functions, `init(params) -> state` and `step(state, batch)`. PyTorch's is
one, `init(module) -> step`, whose `step(batch)` does what the body of a training loop does. The
optimizer is not asked for: PyTorch tells when one steps, and what it was given.

Shapes: N batches.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from jaxrnn.exchange.weights import WeightMap
from parity.core.bridge import (
    TORCH_DTYPES,
    is_float,
    jax_of,
    named_leaves,
    numpy_arrays,
    numpy_of,
    rebuilt,
    tensor_of,
    tensors,
    torch_device,
)
from parity.core.compare import UNIT_ROUNDOFF, Arrays
from parity.core.roundings import RandomRoundings
from parity.core.runners import precision

# Names of gradients in what a JAX step returns beside the state.
GRADIENTS = ("gradients", "grads", "grad")
# The same moment in optax's states and in torch's, where it goes by one of these names.
MOMENT_NAMES: Mapping[str, tuple[str, ...]] = {
    "mu": ("exp_avg",),
    "nu": ("exp_avg_sq", "square_avg"),
    "trace": ("momentum_buffer",),
    "sum_of_squares": ("sum",),
}
# Flax NNX calls the array of each variable so.
NNX_LEAF = "/value"


@dataclass
class Step:
    """What one batch did, all arrays by PyTorch's keys.

    Attributes:
        loss: the loss; None where the step returns none.
        weights: after the step.
        gradients: of this batch alone, before clipping; empty if they are not known.
        applied: what PyTorch's optimizer was given, clipped and accumulated; empty in JAX.
        moments: of the optimizer, as "exp_avg of dense.weight"; in JAX under optax's names.
        groups: the options of each group of parameters of PyTorch's optimizer, at its step.
        kind: the class of PyTorch's optimizer; empty if none has stepped.
        averages: of the weights, if the loops keep such.
        updates: how often an optimizer has stepped.
        rounded: paths in JAX's state that are in a lower precision than the run.
    """

    loss: float | None = None
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    gradients: dict[str, np.ndarray] = field(default_factory=dict)
    applied: dict[str, np.ndarray] = field(default_factory=dict)
    moments: dict[str, np.ndarray] = field(default_factory=dict)
    averages: dict[str, np.ndarray] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    kind: str = ""
    updates: int = 0
    rounded: tuple[str, ...] = ()


@dataclass(frozen=True)
class OptimizerCall:
    """A step of a torch optimizer, as those see it who change it.

    Attributes:
        optimizer: the optimizer; its parameters hold their gradients.
        keys: the names of the parameters.
        count: how many steps there were before.
        gradients: of the batches since the step before, summed and unclipped, by key.
    """

    optimizer: torch.optim.Optimizer
    keys: Mapping[Tensor, str]
    count: int
    gradients: Mapping[str, Tensor]

    def parameters(self) -> Iterator[tuple[str, Tensor, dict[str, Any]]]:
        """Key, parameter and group of each parameter that has a gradient."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter in self.keys:
                    yield self.keys[parameter], parameter, group


class Alteration:
    """What is done differently around a step of PyTorch's optimizer; as it stands, nothing."""

    def before(self, call: OptimizerCall) -> None:
        """Change gradients or options."""

    def after(self, call: OptimizerCall) -> None:
        """Change what the step has made of the weights."""


class RoundedCorrection(Alteration):
    """Adam with a bias correction that is wrong by as much as one in float32 can be.

    Of `1 - b2 ** t` float32 leaves a relative error of up to u / (1 - b2), and the root halves it.
    optax computes it so, PyTorch in float64.

    Args:
        sign: 1 or -1, for steps that are a little too long or too short.
    """

    def __init__(self, sign: int) -> None:
        self.sign = sign
        self.rates: list[Any] = []

    def before(self, call: OptimizerCall) -> None:
        """Another rate does the same to the step."""
        self.rates = [group["lr"] for group in call.optimizer.param_groups]
        for group in call.optimizer.param_groups:
            largest = max(map(float, group.get("betas", ())), default=0.0)
            if largest:
                error = UNIT_ROUNDOFF["float32"] / max(1 - largest, 1e-6) / 2
                group["lr"] = group["lr"] * (1 + self.sign * error)

    def after(self, call: OptimizerCall) -> None:
        """Set the rates back."""
        for group, rate in zip(call.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate


class TorchLoop(NamedTuple):
    """A user's loop in PyTorch.

    Attributes:
        init: `init(module)` makes the optimizer and returns `step(batch)`, which returns the loss;
            or that and an average of the weights: a module, or tensors by key.
        module: copied for every run.
    """

    init: Callable[[nn.Module], Any]
    module: nn.Module

    def steps(
        self,
        weights: Arrays,
        batches: Sequence[Any],
        dtype: str,
        *,
        alteration: Alteration | None = None,
        roundings: int | None = None,
        seed: int = 0,
    ) -> Iterator[Step]:
        """Run it, batch by batch.

        Args:
            weights: where it starts: a state dict.
            batches: trees of NumPy arrays.
            dtype: the precision.
            alteration: what the optimizer is to do differently.
            roundings: the seed of other roundings of every operation; PyTorch's own if None.
            seed: of PyTorch's own random numbers, should the step sample any.
        """
        with precision(dtype), torch.random.fork_rng():
            torch.manual_seed(seed)
            module = copy.deepcopy(self.module).to(torch_device()).to(TORCH_DTYPES[dtype])
            module.load_state_dict(_typed(module, weights, dtype))
            step = self.init(module)
            average = None
            if isinstance(step, tuple):
                step, average = step
            recorder = _Recorder(module, alteration or Alteration(), average)
        rounding: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if roundings is not None:
            rounding = RandomRoundings(dtype, roundings)
        for batch in batches:
            # The precision is that of a run, and not of what is done between its steps.
            with precision(dtype), recorder.recording() as recorded:
                given = _torch_batch(batch, dtype)
                with rounding:
                    loss = step(given)
                if isinstance(loss, tuple | list):
                    loss = loss[0]
                if isinstance(loss, Tensor):
                    loss = loss.item()
                recorded.loss = None if loss is None else float(loss)
                recorder.finish(recorded)
            yield recorded


class _Recorder:
    """Listens to a module's gradients and to every optimizer that moves its parameters."""

    def __init__(self, module: nn.Module, alteration: Alteration, average: Any) -> None:
        self.module = module
        self.average = average
        self.alteration = alteration
        self.keys: dict[Tensor, str] = {
            parameter: key for key, parameter in module.named_parameters()
        }
        self.count = 0
        self.optimizer: torch.optim.Optimizer | None = None
        self.batch: dict[str, Tensor] = {}  # gradients of this batch
        self.since: dict[str, Tensor] = {}  # gradients since the last step of the optimizer
        self.step = Step()

    @contextlib.contextmanager
    def recording(self) -> Iterator[Step]:
        """Listen while a batch is processed, and no longer."""
        self.step = Step()
        self.batch = {}
        handles = [
            register_optimizer_step_pre_hook(lambda optimizer, *_: self._before(optimizer)),
            register_optimizer_step_post_hook(lambda optimizer, *_: self._after(optimizer)),
        ]
        for parameter, key in self.keys.items():
            if parameter.requires_grad:
                handles.append(parameter.register_hook(self._listener(key)))
        try:
            yield self.step
        finally:
            for handle in handles:
                handle.remove()

    def finish(self, step: Step) -> None:
        """What can be read only once the batch is processed."""
        step.gradients = numpy_arrays(self.batch)
        step.weights = numpy_arrays(self.module.state_dict())
        if self.average is not None:
            step.averages = self._averages(step.weights)
        for parameter, key in self.keys.items():
            state = {} if self.optimizer is None else self.optimizer.state.get(parameter, {})
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    step.moments[f"{name} of {key}"] = numpy_of(value)

    def _averages(self, weights: Arrays) -> dict[str, np.ndarray]:
        # `AveragedModel` puts "module." before every key.
        average = self.average
        named = average.state_dict() if isinstance(average, nn.Module) else average
        found = numpy_arrays({key.removeprefix("module."): a for key, a in named.items()})
        return {key: array for key, array in found.items() if key in weights}

    def _listener(self, key: str) -> Callable[[Tensor], None]:
        def listen(gradient: Tensor) -> None:
            for known in (self.batch, self.since):
                known[key] = gradient.detach() + known.get(key, 0.0)

        return listen

    def _call(self, optimizer: torch.optim.Optimizer) -> OptimizerCall | None:
        # None if it is the optimizer of another module.
        for group in optimizer.param_groups:
            if any(parameter in self.keys for parameter in group["params"]):
                return OptimizerCall(optimizer, self.keys, self.count, self.since)
        return None

    def _before(self, optimizer: torch.optim.Optimizer) -> None:
        call = self._call(optimizer)
        if call is None:
            return
        self.optimizer = optimizer
        self.step.kind = type(optimizer).__name__
        self.step.applied |= {key: numpy_of(p.grad) for key, p, _ in call.parameters()}
        for group in optimizer.param_groups:
            options = {name: value for name, value in group.items() if name != "params"}
            options["keys"] = [self.keys[p] for p in group["params"] if p in self.keys]
            self.step.groups.append(options)
        self.alteration.before(call)

    def _after(self, optimizer: torch.optim.Optimizer) -> None:
        call = self._call(optimizer)
        if call is None:
            return
        self.alteration.after(call)
        self.step.updates += 1
        self.count += 1
        self.since = {}


def _typed(module: nn.Module, weights: Arrays, dtype: str) -> dict[str, Tensor]:
    # A state dict in the precision of the run; what counts, such as a buffer, stays whole.
    found = {}
    for key, tensor in tensors(weights, dtype).items():
        kind = module.state_dict()[key].dtype
        found[key] = tensor if kind.is_floating_point else tensor.to(kind)
    return found


def _torch_batch(batch: Any, dtype: str) -> Any:
    return jax.tree.map(lambda array: tensor_of(np.asarray(array), dtype), batch)


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
    structure = _structure(before)
    if _structure(returned) == structure:
        return returned, None
    if isinstance(returned, tuple) and len(returned) >= 2:
        if _structure(returned[0]) == structure:
            return returned[0], returned[1] if len(returned) == 2 else returned[1:]
        if _structure(returned[-1]) == structure:
            raise ValueError(
                "jax_step must return the state first, (state, loss); got it as the last."
            )
    # Only objects can have changed in place, as those of NNX do; arrays and their trees cannot.
    if _is_plain(before):
        raise ValueError(
            "jax_step must return the new state, or (state, loss), of the same structure as the "
            f"state that it gets; got {_structure(returned)} for {structure}."
        )
    return before, returned


def _structure(tree: Any) -> Any:
    return jax.tree.structure(tree)


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
    return float(result) if np.size(result) == 1 else None


def _gradients_in(result: Any) -> Any:
    """The gradients in what a step returned beside the state, if it names them."""
    for name in GRADIENTS:
        if isinstance(result, Mapping) and name in result:
            return result[name]
        if hasattr(result, name):
            return getattr(result, name)
    return None
