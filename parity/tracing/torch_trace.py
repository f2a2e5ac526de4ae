"""What a PyTorch module computes on the way to its outputs: every call of a torch function.

A call knows the module that made it, its arguments as they were, its outputs, which earlier calls
they were made from, and, after the backward pass, the gradients of the outputs. It can be made
again with other arguments.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from parity.core.bridge import numpy_of
from parity.tracing.torch_equations import EQUATIONS
from parity.tracing.torch_layers import LAYERED


class Source(NamedTuple):
    """An output of a call: the call's index and the output's number."""

    call: int
    output: int


@dataclass
class Call:
    """One call of a torch function.

    Attributes:
        index: its place in the order of execution.
        module: the dotted name of the module in which it was made, such as "blocks.5.norm"; empty
            for the outermost.
        kind: the class of that module.
        function: the torch function.
        arguments: the positional ones; tensors are copies, made before the call.
        options: the keyword arguments, likewise.
        outputs: the floating arrays that it gave.
        sources: for each of its tensors the call and the output that it is; None for a weight, a
            constant or an input.
        leaves: for each of its tensors the name of the weight or input that it is; else empty.
        gradients: of the outputs, after the backward pass; None where the loss does not depend on
            an output.
    """

    index: int
    module: str
    kind: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    outputs: list[np.ndarray]
    sources: tuple[Source | None, ...]
    leaves: tuple[str, ...]
    gradients: list[np.ndarray | None] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the function, such as "layer_norm"."""
        return getattr(self.function, "__name__", str(self.function))

    @property
    def place(self) -> str:
        """Module and function in words, such as "blocks.5.norm (LayerNorm)"."""
        return f"{self.module} ({self.kind})" if self.module else f"the outermost {self.kind}"

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The tensors among its arguments, one for each of `sources`."""
        return tensors_in([self.arguments, self.options])

    def again(
        self,
        tensors: Mapping[int, torch.Tensor] | None = None,
        *,
        arguments: Sequence[Any] | None = None,
        options: Mapping[str, Any] | None = None,
        function: Callable[..., Any] | None = None,
    ) -> list[np.ndarray]:
        """The outputs of the same call, with something else in it.

        Args:
            tensors: by number, those of `tensors` that are others.
            arguments: other positional arguments, before `tensors` are put in.
            options: other keyword arguments, likewise.
            function: another function of the same arguments.
        """
        given = [
            self.arguments if arguments is None else tuple(arguments),
            self.options if options is None else dict(options),
        ]
        # In-place functions write into their arguments, which have to be copies.
        positional, keywords = _with_tensors(given, tensors or {}, itertools.count())
        with torch.no_grad():
            result = (function or self.function)(*positional, **keywords)
        if result is None:
            result = positional[0]
        return [numpy_of(tensor) for tensor in floating(result)]

    def pulled_back(self, number: int) -> np.ndarray | None:
        """What the gradients of its outputs become for one of its tensors; None where nothing.

        Args:
            number: of `tensors`.
        """
        tensor = self.tensors[number].detach().clone().requires_grad_()
        given = [self.arguments, self.options]
        positional, keywords = _with_tensors(given, {number: tensor}, itertools.count(), keep=True)
        result = self.function(*positional, **keywords)
        outputs = []
        upstream = []
        for output, gradient in zip(floating(result), self.gradients, strict=True):
            if gradient is not None and output.requires_grad:
                outputs.append(output)
                upstream.append(torch.from_numpy(gradient))
        if not outputs:
            return None
        (pulled,) = torch.autograd.grad(outputs, [tensor], upstream, allow_unused=True)
        return None if pulled is None else numpy_of(pulled)


def floating(value: Any) -> list[torch.Tensor]:
    """The floating tensors in a nest of lists, tuples and dictionaries."""
    return [tensor for tensor in tensors_in(value) if tensor.is_floating_point()]


def tensors_in(value: Any) -> list[torch.Tensor]:
    """All tensors in a nest of lists, tuples and dictionaries."""
    if isinstance(value, torch.Tensor):
        return [value]
    found: list[torch.Tensor] = []
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            found += tensors_in(inner)
    return found


def _with_tensors(
    value: Any, tensors: Mapping[int, torch.Tensor], numbers: Iterator[int], *, keep: bool = False
) -> Any:
    """A nest of copies, with some of its tensors exchanged, counted as `tensors_in` does.

    With `keep` those that are put in are no copies, so that gradients flow back to them.
    """
    if isinstance(value, torch.Tensor):
        number = next(numbers)
        if keep and number in tensors:
            return tensors[number]
        return tensors.get(number, value).detach().clone()
    if isinstance(value, Mapping):
        named = {}
        for name, each in value.items():
            named[name] = _with_tensors(each, tensors, numbers, keep=keep)
        return named
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        inner = [_with_tensors(each, tensors, numbers, keep=keep) for each in value]
        return inner if isinstance(value, list) else tuple(inner)
    return value


def copied(value: Any) -> Any:
    """The same nest with copies of its tensors, free of their history."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {name: copied(inner) for name, inner in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(copied, value))
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        return type(value)(copied(inner) for inner in value)
    return value


class Recorder(TorchFunctionMode):
    """Within it every call of a torch function that gives floating tensors is written down.

    Args:
        module: the module that is run.
        inputs: its inputs by name.
        fine: whether all layers that are known are taken apart into their operations.

    Attributes:
        calls: the calls in the order of execution.
        made_by: the call and output that a tensor is, by the identity of the tensor.
    """

    def __init__(
        self, module: nn.Module, inputs: Mapping[str, torch.Tensor], *, fine: bool = False
    ) -> None:
        super().__init__()
        self._layered = LAYERED | EQUATIONS if fine else LAYERED
        self._leaves = {id(weight): key for key, weight in module.named_parameters()}
        self._leaves |= {id(tensor): f"input {name}" for name, tensor in inputs.items()}
        self.calls: list[Call] = []
        self._modules = [("", type(module).__name__)]
        self._hooks: list[Any] = []
        self.made_by: dict[int, Source] = {}
        self._results: list[list[torch.Tensor]] = []
        # A tensor that is gone may leave its identity to another.
        self._alive: list[torch.Tensor] = []
        for name, part in module.named_modules():
            if name:
                self._watch(name, part)

    def _watch(self, name: str, part: nn.Module) -> None:
        def enter(*_: Any) -> None:
            self._modules.append((name, type(part).__name__))

        def leave(*_: Any) -> None:
            self._modules.pop()

        self._hooks.append(part.register_forward_pre_hook(enter))
        self._hooks.append(part.register_forward_hook(leave, always_call=True))

    def remove_hooks(self) -> None:
        """Leave the module as it was."""
        for hook in self._hooks:
            hook.remove()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Make the call and write it down."""
        options = kwargs or {}
        layered = self._layered.get(getattr(function, "__name__", ""))
        # What writes into its input or casts it does more than its equation.
        plain = not options.get("inplace") and options.get("dtype") is None
        if layered is not None and plain:
            # Several layers in one call become a call for each.
            with self:
                result = layered(self, function, args, options)
            if result is not None:
                return result
        inputs = tensors_in([args, options])
        arguments = copied(args)
        keywords = copied(options)
        result = function(*args, **options)
        # x[0] = y gives nothing, and changes its first argument.
        outputs = floating(args[0] if result is None and args else result)
        if outputs:
            self._record(function, arguments, keywords, inputs, outputs)
        return result

    def part(self, name: str) -> "Part":
        """Within it calls are those of a part of the module at hand, such as a layer."""
        return Part(self._modules, name)

    def _record(
        self, function: Any, arguments: Any, options: Any, inputs: Any, outputs: Any
    ) -> None:
        index = len(self.calls)
        module, kind = self._modules[-1]
        sources = tuple(self.made_by.get(id(tensor)) for tensor in inputs)
        arrays = [numpy_of(tensor) for tensor in outputs]
        leaves = tuple(self._leaves.get(id(tensor), "") for tensor in inputs)
        self.calls.append(
            Call(index, module, kind, function, arguments, options, arrays, sources, leaves)
        )
        for number, tensor in enumerate(outputs):
            self.made_by[id(tensor)] = Source(index, number)
            if tensor.requires_grad and not tensor.is_leaf:
                tensor.retain_grad()
        self._results.append(outputs)
        self._alive += [*inputs, *outputs]

    def add_gradients(self) -> None:
        """Give each call the gradients of its outputs, after the backward pass."""
        for call, outputs in zip(self.calls, self._results, strict=True):
            call.gradients = [_gradient(tensor) for tensor in outputs]


class Part:
    """Within it calls belong to a part of the innermost module, such as a layer of a stack."""

    def __init__(self, modules: list[tuple[str, str]], name: str) -> None:
        self._modules = modules
        self._name = name

    def __enter__(self) -> None:
        """Go into the part."""
        module, kind = self._modules[-1]
        self._modules.append((f"{module}.{self._name}".lstrip("."), kind))

    def __exit__(self, *exception: Any) -> None:
        """Leave it."""
        self._modules.pop()


def _gradient(tensor: torch.Tensor) -> np.ndarray | None:
    # A leaf has a gradient of its own, which is compared as an input's or a weight's.
    if not tensor.requires_grad or tensor.is_leaf or tensor.grad is None:
        return None
    return numpy_of(tensor.grad)


@contextlib.contextmanager
def recorded(
    module: nn.Module, inputs: Mapping[str, torch.Tensor], *, fine: bool = False
) -> Iterator[Recorder]:
    """Within it the calls of torch functions are written down, with the parts of the module.

    Args:
        module: the module.
        inputs: its inputs by name, the very tensors.
        fine: whether all layers that are known are written down operation by operation.
    """
    recorder = Recorder(module, inputs, fine=fine)
    try:
        with recorder:
            yield recorder
    finally:
        recorder.remove_hooks()


def readers(calls: Sequence[Call]) -> dict[Source, set[int]]:
    """The calls that read each output."""
    read_by: dict[Source, set[int]] = {}
    for call in calls:
        for source in call.sources:
            if source is not None:
                read_by.setdefault(source, set()).add(call.index)
    return read_by
