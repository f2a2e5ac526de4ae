"""Run a pair in either framework: outputs, loss and gradients, under PyTorch's names.

A runner is a function of weights (by PyTorch's keys, in float64) and inputs. What it gives is the
same for both frameworks, `Results`: for each quantity, named arrays in the precision of the run.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import torch

from parity.core.bridge import (
    TORCH_DTYPES,
    jax_arrays,
    named_leaves,
    numpy_arrays,
    numpy_of,
    tensors,
    torch_device,
)
from parity.core.compare import Arrays
from parity.core.jaxprs import equations
from parity.core.pairs import Pair

Results = dict[str, dict[str, np.ndarray]]
Runner = Callable[[Arrays, Arrays], Results]

# How JAX multiplies matrices in each precision, if not as exactly as it can.
MATMUL_PRECISION = {"tf32": "tensorfloat32"}


@contextlib.contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Within it JAX and PyTorch compute in `dtype`, matmuls included, and float64 is allowed
    exactly for float64."""
    matmul = torch.backends.cuda.matmul
    cudnn = torch.backends.cudnn
    matmul_before = matmul.allow_tf32
    cudnn_before = cudnn.allow_tf32
    matmul.allow_tf32 = dtype == "tf32"
    cudnn.allow_tf32 = dtype == "tf32"
    try:
        # JAX rounds the factors of a matmul on a GPU, unless it is asked not to.
        matmuls = jax.default_matmul_precision(MATMUL_PRECISION.get(dtype, "highest"))
        with jax.enable_x64(dtype == "float64"), matmuls:
            yield
    finally:
        matmul.allow_tf32 = matmul_before
        cudnn.allow_tf32 = cudnn_before


def run_jax(pair: Pair, dtype: str) -> Runner:
    """The JAX runner of a pair; one program, compiled at its first call if it is not too large."""

    # `varied` are the inputs whose gradients are compared too.
    def loss_and_outputs(params: Any, varied: Any, fixed: Any) -> Any:
        inputs = {**varied, **fixed}
        return pair.jax_loss(params, inputs), pair.jax_outputs(params, inputs)

    # Running statistics and the like are weights in JAX, but have no gradient in PyTorch. A tied
    # weight has one, under the first of its names.
    module = pair.module()
    no_gradient = module.state_dict().keys() - {name for name, _ in module.named_parameters()}
    program = compiled_if_small(jax.value_and_grad(loss_and_outputs, argnums=(0, 1), has_aux=True))

    def run(weights: Arrays, inputs: Arrays) -> Results:
        with precision(dtype):
            # The weights are given in float64, whatever is computed with them.
            params = jax_params(pair, weights, dtype)
            fixed = jax_arrays(inputs, dtype)
            varied = {name: fixed.pop(name) for name in pair.differentiable}
            (loss, outputs), (d_params, d_inputs) = program(params, varied, fixed)
            # All gradients under torch's names, and without those that torch does not have.
            gradients = torch_names(pair, d_params)
            for name in no_gradient & gradients.keys():
                del gradients[name]
            for name, gradient in d_inputs.items():
                gradients[f"input {name}"] = numpy_of(gradient)
            return _results(outputs, loss, gradients)

    return run


# The time to compile grows faster than a program. Twelve blocks of a transformer with their
# gradients, 3,000 operations, take 2 to 7 s, and run in 0.1 s; 24, 6,000 operations, take minutes,
# and one operation after the other a second.
LARGEST_PROGRAM = 4500


def compiled_if_small(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one compiled program; a large one runs operation by operation."""
    chosen: list[Callable[..., Any]] = []  # at the first call: other shapes make no other size

    def run(*arguments: Any) -> Any:
        if not chosen:
            size = sum(1 for _ in equations(jax.make_jaxpr(function)(*arguments).jaxpr))
            chosen.append(function if size > LARGEST_PROGRAM else jax.jit(function))
        return chosen[0](*arguments)

    return run


def jax_params(pair: Pair, weights: Arrays, dtype: str) -> Any:
    """JAX's tree of parameters, in the precision `dtype`."""
    by_path = pair.weight_map.from_torch(weights)
    return pair.params(jax_arrays(by_path, dtype))


def torch_names(pair: Pair, tree: Any) -> dict[str, np.ndarray]:
    """JAX's gradients or moments under PyTorch's names."""
    return pair.weight_map.gradients_to_torch(numpy_arrays(named_leaves(tree)))


def run_torch(pair: Pair, dtype: str) -> Runner:
    """The PyTorch runner of a pair."""

    def run(weights: Arrays, inputs: Arrays) -> Results:
        with precision(dtype):
            module = torch_module(pair, weights, dtype)
            cast = tensors(inputs, dtype)
            for name in pair.differentiable:
                cast[name].requires_grad_()
            with cudnn_where_it_can(module):
                outputs = pair.torch_outputs(module, cast)
                loss = pair.torch_loss(module, cast)
                loss.backward()
            # Leaves that the loss does not depend on have no gradient in torch, but zeros in JAX.
            gradients = {name: gradient_of(p) for name, p in module.named_parameters()}
            for name in pair.differentiable:
                gradients[f"input {name}"] = gradient_of(cast[name])
            return _results(outputs, loss, gradients)

    return run


def torch_module(pair: Pair, weights: Arrays, dtype: str) -> torch.nn.Module:
    """The PyTorch module with these weights, in the precision `dtype`.

    Its submodules keep the training mode in which they were made.
    """
    module = pair.module().to(torch_device()).to(TORCH_DTYPES[dtype])
    module.load_state_dict(tensors(weights, dtype))
    return module


def cudnn_where_it_can(module: torch.nn.Module) -> contextlib.AbstractContextManager[None]:
    """Within it recurrent layers in evaluation mode run without cuDNN: it has no backward pass."""
    for part in module.modules():
        if isinstance(part, torch.nn.RNNBase) and not part.training:
            return without_cudnn()
    return contextlib.nullcontext()


@contextlib.contextmanager
def without_cudnn() -> Iterator[None]:
    """Within it PyTorch's own kernels run."""
    # `torch.backends.cudnn.flags` would do, but it allows TF32 as well.
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


def gradient_of(tensor: torch.Tensor) -> np.ndarray:
    """The gradient of a leaf; zeros if the loss does not depend on it."""
    if tensor.grad is None:
        return numpy_of(torch.zeros_like(tensor))
    return numpy_of(tensor.grad)


def _results(outputs: Mapping[str, Any], loss: Any, gradients: dict[str, np.ndarray]) -> Results:
    return {
        "forward": numpy_arrays(outputs),
        "loss": {"loss": numpy_of(loss)},
        "gradients": gradients,
    }
