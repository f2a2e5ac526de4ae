"""Run a pair on either side: outputs, loss and gradients, under PyTorch's names.

A side is a function of weights (by PyTorch's keys, in float64) and inputs. What it gives is the
same for both, `Results`: for each check, named arrays in the precision of the run.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import torch

from parity.core.bridge import jax_of, named_leaves, numpy_of, tensor_of
from parity.core.compare import Arrays
from parity.core.pairs import Pair

Results = dict[str, dict[str, np.ndarray]]
Side = Callable[[Arrays, Arrays], Results]

PRODUCTS = {"tf32": "tensorfloat32"}
"""How JAX multiplies matrices in each precision, if not as exactly as it can."""


@contextlib.contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Within it JAX and PyTorch compute in `dtype`, products included, and float64 is allowed
    exactly for float64."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    torch.backends.cudnn.allow_tf32 = dtype == "tf32"
    products = jax.default_matmul_precision(PRODUCTS.get(dtype, "highest"))
    try:
        with jax.enable_x64(dtype == "float64"), products:
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def torch_device() -> torch.device:
    """Where PyTorch computes: on the GPU if it sees one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def run_jax(pair: Pair, dtype: str) -> Side:
    """The JAX side of a pair; one program, compiled at its first call."""

    def loss_and_outputs(params: Any, varied: Any, fixed: Any) -> Any:
        """The loss, and the outputs beside it."""
        inputs = {**varied, **fixed}
        return pair.jax_loss(params, inputs), pair.jax_outputs(params, inputs)

    # Running statistics and the like are weights of the JAX side, but have no gradient in PyTorch.
    buffers = {name for name, _ in pair.module().named_buffers()}
    program = jax.jit(jax.value_and_grad(loss_and_outputs, argnums=(0, 1), has_aux=True))

    def run(weights: Arrays, inputs: Arrays) -> Results:
        """Results of the JAX side."""
        with precision(dtype):
            params = jax_params(pair, weights, dtype)
            cast = {name: jax_of(array, dtype) for name, array in inputs.items()}
            varied = {name: cast[name] for name in pair.differentiable}
            fixed = {name: cast[name] for name in cast if name not in varied}
            (loss, outputs), (d_params, d_inputs) = program(params, varied, fixed)
            named = torch_names(pair, d_params)
            gradients = {name: d for name, d in named.items() if name not in buffers}
            gradients |= {f"input {name}": numpy_of(d) for name, d in d_inputs.items()}
            return _results(outputs, loss, gradients)

    return run


def jax_params(pair: Pair, weights: Arrays, dtype: str) -> Any:
    """The JAX side's tree of parameters, in the precision `dtype`."""
    moved = pair.weight_map.from_torch(weights)
    return pair.params({path: jax_of(array, dtype) for path, array in moved.items()})


def torch_names(pair: Pair, tree: Any) -> dict[str, np.ndarray]:
    """Gradients or moments of the JAX side under PyTorch's names."""
    leaves = {path: numpy_of(leaf) for path, leaf in named_leaves(tree).items()}
    return pair.weight_map.gradients_to_torch(leaves)


def run_torch(pair: Pair, dtype: str) -> Side:
    """The PyTorch side of a pair."""

    def run(weights: Arrays, inputs: Arrays) -> Results:
        """Results of the PyTorch side."""
        with precision(dtype):
            module = torch_module(pair, weights, dtype)
            cast = {n: tensor_of(a, dtype, torch_device()) for n, a in inputs.items()}
            for name in pair.differentiable:
                cast[name].requires_grad_()
            with _cudnn_where_it_can(module):
                outputs = pair.torch_outputs(module, cast)
                loss = pair.torch_loss(module, cast)
                loss.backward()
            gradients = {name: gradient_of(p) for name, p in module.named_parameters()}
            gradients |= {f"input {n}": gradient_of(cast[n]) for n in pair.differentiable}
            return _results(outputs, loss, gradients)

    return run


def torch_module(pair: Pair, weights: Arrays, dtype: str) -> torch.nn.Module:
    """The PyTorch module with these weights, in the precision `dtype`.

    Its submodules keep the training mode in which they were made.
    """
    module = pair.module().to(torch_device()).to(tensor_of(np.zeros(1), dtype).dtype)
    module.load_state_dict({key: tensor_of(array, dtype) for key, array in weights.items()})
    return module


def _cudnn_where_it_can(module: torch.nn.Module) -> contextlib.AbstractContextManager[None]:
    """Without cuDNN if a recurrent layer is in evaluation mode, where that has no backward pass."""
    layers = [part for part in module.modules() if isinstance(part, torch.nn.RNNBase)]
    trains = all(layer.training for layer in layers)
    return contextlib.nullcontext() if trains else without_cudnn()


@contextlib.contextmanager
def without_cudnn() -> Iterator[None]:
    """Within it PyTorch's own kernels run; `torch.backends.cudnn.flags` would allow TF32, too."""
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


def gradient_of(tensor: torch.Tensor) -> np.ndarray:
    """The gradient of a leaf; zeros if the loss does not depend on it."""
    return numpy_of(torch.zeros_like(tensor) if tensor.grad is None else tensor.grad)


def _results(outputs: Mapping[str, Any], loss: Any, gradients: dict[str, np.ndarray]) -> Results:
    return {
        "forward": {name: numpy_of(output) for name, output in outputs.items()},
        "loss": {"loss": numpy_of(loss)},
        "gradients": gradients,
    }


def draw_weights(pair: Pair, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights for a comparison: no bias is zero, and the gates leave their linear range.

    Matrices are uniform in +-2 / sqrt(fan in), tables of an embedding in +-1.5, vectors in +-0.5,
    and running variances in 0.75 +-0.5.
    """
    weights = {}
    for key, tensor in pair.module().state_dict().items():
        shape = tuple(tensor.shape)
        bound = 0.5 if len(shape) < 2 else 1.5 if key == "e.weight" else 2 / np.sqrt(shape[-1])
        middle = 0.75 if key.endswith("running_var") else 0.0
        weights[key] = middle + rng.uniform(-bound, bound, shape)
    return weights
