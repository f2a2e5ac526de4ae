"""A port evaluated once in float64, with weights and inputs of one's own."""

import copy
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.extend.core import subjaxprs

from jaxrnn.tree import named_leaves
from third_party.cases import Port

AGREEMENT = {"float64": 1e-9, "float32": 1e-5}
"""Largest difference of outputs that may be equal, by precision, relative to the largest number:
above the round-off in any of the cases."""

JAX_DTYPES = {"float64": jnp.float64, "float32": jnp.float32}
TORCH_DTYPES = {"float64": torch.float64, "float32": torch.float32}


class Numbers(NamedTuple):
    """Weights by PyTorch's keys, and inputs in their order, the leaves of a tree."""

    weights: dict[str, np.ndarray]
    inputs: list[np.ndarray]


def sampled(port: Port, seed: int = 0) -> Numbers:
    """Weights that leave no bias zero, and the inputs of the port."""
    rng = np.random.default_rng(seed)
    weights = {}
    for key, tensor in port.module.state_dict().items():
        array = rng.uniform(-1, 1, tuple(tensor.shape))
        if key.endswith("running_var"):
            array = np.abs(array) + 0.5  # a variance is positive
        weights[key] = array
    inputs = [np.asarray(leaf) for leaf in jax.tree.leaves(port.inputs)]
    return Numbers(weights, inputs)


class Evaluation:
    """Both sides of a port, ready to be evaluated many times.

    Args:
        port: the port.
        dtype: the precision.
        compiled: whether JAX compiles the function, which takes longer than to evaluate it once.
    """

    def __init__(self, port: Port, dtype: str = "float64", *, compiled: bool = True) -> None:
        self.dtype = dtype
        self._port = port
        self._structure = jax.tree.structure(port.inputs)
        self._params_structure = jax.tree.structure(port.params)
        self._paths = list(named_leaves(port.params))
        self._program = jax.jit(port.function) if compiled else port.function

    def arguments(self, numbers: Numbers) -> tuple[Any, ...]:
        """Parameters and inputs in JAX; to be called within `jax.enable_x64` for float64."""
        by_path = self._port.weight_map.from_torch(numbers.weights)
        leaves = [self._jax_array(by_path[path]) for path in self._paths]
        arrays = [self._jax_array(array) for array in numbers.inputs]
        params = jax.tree.unflatten(self._params_structure, leaves)
        return (params, *jax.tree.unflatten(self._structure, arrays))

    def in_jax(self, numbers: Numbers) -> list[np.ndarray]:
        """The outputs in JAX."""
        with jax.enable_x64(self.dtype == "float64"):
            outputs = self._program(*self.arguments(numbers))
            return [np.asarray(leaf) for leaf in jax.tree.leaves(outputs)]

    def in_torch(self, numbers: Numbers) -> list[np.ndarray]:
        """The outputs in PyTorch."""
        module = copy.deepcopy(self._port.module).to(TORCH_DTYPES[self.dtype])
        module.load_state_dict({key: self._tensor(a) for key, a in numbers.weights.items()})
        tensors = [self._tensor(array) for array in numbers.inputs]
        with torch.no_grad():
            outputs = module(*jax.tree.unflatten(self._structure, tensors))
        return [leaf.numpy() for leaf in jax.tree.leaves(outputs)]

    def differences(self, numbers: Numbers) -> list[np.ndarray]:
        """How far each output of JAX is from PyTorch's, number by number.

        Raises:
            ValueError: if there are not as many outputs, or of other shapes.
        """
        pairs = zip(self.in_jax(numbers), self.in_torch(numbers), strict=True)
        return [np.abs(ours - theirs) for ours, theirs in pairs]

    def _jax_array(self, array: np.ndarray) -> jax.Array:
        return jnp.asarray(array, JAX_DTYPES[self.dtype] if _is_float(array) else jnp.int32)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.tensor(array)
        return tensor.to(TORCH_DTYPES[self.dtype]) if _is_float(array) else tensor


def agrees(port: Port, dtype: str = "float64") -> bool:
    """Whether both sides give the same outputs from sampled weights.

    A quick look at the forward pass alone; `parity.check` decides.
    """
    evaluation = Evaluation(port, dtype, compiled=False)
    numbers = sampled(port)
    try:
        ours = evaluation.in_jax(numbers)
        theirs = evaluation.in_torch(numbers)
    except (TypeError, ValueError, RuntimeError):
        return False  # shapes that do not fit each other
    if [array.shape for array in ours] != [array.shape for array in theirs]:
        return False
    for got, expected in zip(ours, theirs, strict=True):
        size = np.abs(expected).max(initial=0.0)
        if np.abs(got - expected).max(initial=0.0) > AGREEMENT[dtype] * size:
            return False
    return True


def why_not_float64(port: Port) -> str:
    """Why a JAX function cannot be compared in float64; empty if it can.

    Some modules compute a part in float32 whatever they are given: their trace in float64 casts
    there. Others do not run in float64 at all.
    """
    evaluation = Evaluation(port)
    try:
        with jax.enable_x64(True):
            trace = jax.make_jaxpr(port.function)(*evaluation.arguments(sampled(port)))
    except TypeError:
        return "it does not run in float64"
    if _casts_down(trace.jaxpr):
        return "a part of it computes in float32 always"
    return ""


def _casts_down(jaxpr: Any) -> bool:
    """Whether float64 becomes float32 anywhere in a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "convert_element_type":
            before = equation.invars[0].aval.dtype
            if before == jnp.float64 and equation.params["new_dtype"] == jnp.float32:
                return True
    return any(_casts_down(inner) for inner in subjaxprs(jaxpr))


def _is_float(array: np.ndarray) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))
