"""A user's own training loop in PyTorch, run and recorded batch by batch.

It is a function, `init(module) -> step`, whose `step(batch)` does what the body of a training loop
does. The optimizer is not asked for: PyTorch tells when one steps, and what it was given.

Shapes: N batches.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from parity.core.bridge import (
    TORCH_DTYPES,
    numpy_arrays,
    numpy_of,
    tensor_of,
    tensors,
    torch_device,
)
from parity.core.compare import UNIT_ROUNDOFF, Arrays
from parity.core.roundings import RandomRoundings
from parity.core.runners import precision

# The same moment in optax's states and in torch's, where it goes by one of these names.
MOMENT_NAMES: Mapping[str, tuple[str, ...]] = {
    "mu": ("exp_avg",),
    "nu": ("exp_avg_sq", "square_avg"),
    "trace": ("momentum_buffer",),
    "sum_of_squares": ("sum",),
}


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
