"""Run somebody's JAX function and PyTorch module: outputs, and gradients under PyTorch's names.

The gradients are those of a fixed weighted sum of the outputs, the same on both sides: a product of
the cotangents and the Jacobian. No loss is computed, so that none is rounded.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from jaxrnn.exchange.weights import WeightMap
from parity.core.bridge import (
    TORCH_DTYPES,
    is_float,
    jax_arrays,
    named_leaves,
    numpy_arrays,
    numpy_of,
    rebuilt,
    tensors,
    torch_device,
)
from parity.core.cases import Case
from parity.core.compare import Arrays
from parity.core.runners import compiled_if_small, cudnn_where_it_can, precision
from parity.modules.inputs import arguments
from parity.modules.outputs import by_name, cotangent, named_outputs, paths_of
from parity.modules.weights import State, mapped_weights

Results = dict[str, dict[str, np.ndarray]]
"""Of "forward" and "gradients", named arrays in the precision of the run."""
Runner = Callable[[Case], Results]


@dataclass(frozen=True)
class ModulePair:
    """A JAX function and a PyTorch module that should be the same.

    Attributes:
        function: `function(params, *inputs)`.
        params: JAX's tree of parameters; its structure counts.
        module: the PyTorch module.
        weight_map: carries weights across.
        state: the module's state dict.
        structure: how leaves make the inputs.
        names: whether outputs are matched by name.
        masks: for modules of dropout by name, the mask that replaces the random one.
    """

    function: Callable[..., Any]
    params: Any
    module: nn.Module
    weight_map: WeightMap
    state: State
    structure: Any
    names: bool = False
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)

    def called(self, params: Any, leaves: Mapping[str, Any]) -> Any:
        """What the JAX function gives."""
        return self.function(params, *arguments(self.structure, leaves))

    def jax_params(self, weights: Arrays, dtype: str) -> Any:
        """JAX's tree of parameters from weights by PyTorch's keys, in a precision."""
        by_path = mapped_weights(self.weight_map, self.state, weights)
        return rebuilt(self.params, jax_arrays(by_path, dtype))


def output_names(pair: ModulePair, case: Case, dtype: str) -> bool:
    """Whether both sides give outputs of the same names; nothing of JAX's is computed."""
    ours: list[Any] = []
    with precision(dtype):
        params = pair.jax_params(case.weights, dtype)

        def called(params: Any, leaves: Any) -> Any:
            outputs = pair.called(params, leaves)
            ours.extend(paths_of(outputs))
            return named_outputs(outputs, names=False)

        jax.eval_shape(called, params, jax_arrays(case.inputs, dtype))
        with torch.no_grad():
            outputs = prepared(pair, case.weights, dtype)(*_torch_arguments(pair, case, dtype))
    return by_name(ours, paths_of(outputs))


def run_jax(pair: ModulePair, dtype: str) -> Runner:
    """The JAX runner; one program, compiled at its first call if it is not too large."""

    def outputs_and_gradients(params: Any, fixed_params: Any, varied: Any, fixed: Any) -> Any:
        def called(params: Any, varied: Any) -> Any:
            tree = rebuilt(pair.params, {**params, **fixed_params})
            outputs = named_outputs(pair.called(tree, {**varied, **fixed}), names=pair.names)
            arrays = {name: jnp.asarray(leaf) for name, leaf in outputs.items()}
            floats = {k: v for k, v in arrays.items() if jnp.issubdtype(v.dtype, jnp.floating)}
            others = {k: v for k, v in arrays.items() if k not in floats}
            return floats, others

        floats, pullback, others = jax.vjp(called, params, varied, has_aux=True)
        cotangents = {}
        for name, y in floats.items():
            weights = jnp.asarray(cotangent(name, y.shape), y.dtype)
            # What is not finite, as behind a mask of -inf, has no part in the sum.
            cotangents[name] = jnp.where(jnp.isfinite(y), weights, 0)
        return {**floats, **others}, pullback(cotangents)

    program = compiled_if_small(outputs_and_gradients)
    inexact = {path for path, leaf in named_leaves(pair.params).items() if _has_gradient(leaf)}

    def run(case: Case) -> Results:
        with precision(dtype):
            by_path = mapped_weights(pair.weight_map, pair.state, case.weights)
            arrays = jax_arrays(by_path, dtype)
            params = {path: arrays[path] for path in arrays if path in inexact}
            fixed_params = {path: arrays[path] for path in arrays if path not in inexact}
            leaves = jax_arrays(case.inputs, dtype)
            varied = {name: leaves[name] for name in leaves if is_float(case.inputs[name])}
            fixed = {name: leaves[name] for name in leaves if name not in varied}
            outputs, (d_params, d_inputs) = program(params, fixed_params, varied, fixed)
            by_path = numpy_arrays(d_params)
            for path, array in fixed_params.items():
                by_path[path] = np.zeros(array.shape)
            gradients = _torch_names(pair, by_path)
            for name, gradient in d_inputs.items():
                gradients[f"input {name}"] = numpy_of(gradient)
            return {"forward": numpy_arrays(outputs), "gradients": gradients}

    return run


def _has_gradient(leaf: Any) -> bool:
    return is_float(np.asarray(leaf)) if np.ndim(leaf) == 0 else is_float(leaf)


def _torch_names(pair: ModulePair, by_path: Arrays) -> dict[str, np.ndarray]:
    # JAX's gradients of the parameters that PyTorch has one of. Names of the same tensor are summed
    # up, unless they come from the same arrays.
    by_key = pair.weight_map.gradients_to_torch(by_path)
    entries = {key: k for k, entry in enumerate(pair.weight_map.entries) for key in entry.keys}
    gradients = {}
    for name, keys in pair.state.trained.items():
        each = {entries[key]: by_key[key] for key in reversed(keys)}
        gradients[name] = np.sum(list(each.values()), axis=0)
    return gradients


def prepared(pair: ModulePair, weights: Arrays, dtype: str) -> nn.Module:
    """A copy of the PyTorch module with these weights, in a precision.

    Its submodules keep the training mode in which they are given.
    """
    module = copy.deepcopy(pair.module).to(torch_device()).to(TORCH_DTYPES[dtype])
    module.load_state_dict(tensors(pair.state.complete(weights), dtype))
    for name, mask in pair.masks.items():
        part = module.get_submodule(name)
        part.register_forward_hook(_masking(mask))
    return module


def _masking(mask: np.ndarray) -> Callable[[nn.Module, Any, Any], torch.Tensor]:
    def masked(part: nn.Module, inputs: Any, output: Any) -> torch.Tensor:
        (x,) = inputs
        kept = torch.tensor(np.asarray(mask, np.float64), dtype=x.dtype, device=x.device)
        return x * kept / (1 - part.p)  # type: ignore[operator]

    return masked


def _torch_arguments(pair: ModulePair, case: Case, dtype: str) -> Any:
    return arguments(pair.structure, tensors(case.inputs, dtype))


def run_torch(pair: ModulePair, dtype: str) -> Runner:
    """The PyTorch runner."""

    def run(case: Case) -> Results:
        with precision(dtype):
            module = prepared(pair, case.weights, dtype)
            leaves = tensors(case.inputs, dtype)
            varied = [name for name in leaves if is_float(case.inputs[name])]
            for name in varied:
                leaves[name].requires_grad_()
            with cudnn_where_it_can(module):
                raw = module(*arguments(pair.structure, leaves))
                outputs = {
                    name: torch.as_tensor(leaf)
                    for name, leaf in named_outputs(raw, names=pair.names).items()
                }
                parameters = dict(module.named_parameters())
                trained = {name: parameters[name] for name in pair.state.trained}
                wanted = trained | {f"input {name}": leaves[name] for name in varied}
                gradients = _gradients(outputs, wanted)
            return {"forward": numpy_arrays(outputs), "gradients": gradients}

    return run


def _gradients(
    outputs: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> dict[str, np.ndarray]:
    # Zeros for what no output depends on, as in JAX.
    attached = {name: y for name, y in outputs.items() if y.requires_grad}
    found: Any = [None] * len(wanted)
    if attached and wanted:
        cotangents = []
        for name, y in attached.items():
            weights = torch.tensor(cotangent(name, y.shape), dtype=y.dtype, device=y.device)
            cotangents.append(torch.where(y.isfinite(), weights, 0))
        found = torch.autograd.grad(
            list(attached.values()), list(wanted.values()), cotangents, allow_unused=True
        )
    gradients = {}
    for (name, tensor), gradient in zip(wanted.items(), found, strict=True):
        gradients[name] = numpy_of(torch.zeros_like(tensor) if gradient is None else gradient)
    return gradients
