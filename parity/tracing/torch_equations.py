"""PyTorch's layers by their equations, for a closer look at them: dense ones, convolutions, norms,
activations, attention and recurrent layers.

Each gives the numbers of the one call, operation by operation; None where the call stays as it is.

Shapes: T time steps, B batch, C channels, H hidden size, G groups.
"""

import math
from typing import Any

import torch
from torch.nn import functional

from parity.tracing.torch_layers import LAYERED, Layered


def _given(names: str, args: Any, options: Any) -> dict[str, Any]:
    """The arguments of a call by name."""
    return dict(zip(names.split(), args, strict=False)) | dict(options)


def _affine(y: torch.Tensor, weight: Any, bias: Any) -> torch.Tensor:
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def _by_channel(vector: Any, rank: int) -> Any:
    # (C,) to (1, C, 1, ...).
    return None if vector is None else vector.reshape(1, -1, *(1,) * (rank - 2))


def _standardized(x: torch.Tensor, axes: tuple[int, ...], eps: float) -> torch.Tensor:
    centered = x - x.mean(axes, keepdim=True)
    variance = torch.square(centered).mean(axes, keepdim=True)
    return centered / torch.sqrt(variance + eps)


def _linear(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    given = _given("input weight bias", args, options)
    bias = given.get("bias")
    if bias is None:
        return None
    return functional.linear(given["input"], given["weight"]) + bias


def _convolution(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    given = _given("input weight bias stride padding dilation groups", args, options)
    bias = given.pop("bias", None)
    if bias is None:
        return None
    x, weight = given.pop("input"), given.pop("weight")
    rank = weight.ndim
    y = function(x, weight, **given)
    # Without a batch, there is one axis less.
    return y + bias.reshape(-1, *(1,) * (rank - 2))


def _layer_norm(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    given = _given("input normalized_shape weight bias eps", args, options)
    axes = tuple(range(-len(given["normalized_shape"]), 0))
    y = _standardized(given["input"], axes, given.get("eps", 1e-5))
    return _affine(y, given.get("weight"), given.get("bias"))


def _rms_norm(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    given = _given("input normalized_shape weight eps", args, options)
    x = given["input"]
    axes = tuple(range(-len(given["normalized_shape"]), 0))
    eps = given.get("eps")
    square = torch.square(x).mean(axes, keepdim=True)
    y = x / torch.sqrt(square + (torch.finfo(x.dtype).eps if eps is None else eps))
    return _affine(y, given.get("weight"), None)


def _group_norm(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    given = _given("input num_groups weight bias eps", args, options)
    x = given["input"]  # (B, C, ...)
    grouped = x.reshape(x.shape[0], given["num_groups"], -1)  # (B, G, C / G * ...)
    y = _standardized(grouped, (-1,), given.get("eps", 1e-5)).reshape(x.shape)
    weight, bias = (_by_channel(given.get(name), x.ndim) for name in ("weight", "bias"))
    return _affine(y, weight, bias)


def _batch_norm(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    names = "input running_mean running_var weight bias training momentum eps"
    given = _given(names, args, options)
    if given.get("training") or given.get("running_mean") is None:
        return None  # it would change the running statistics
    x = given["input"]
    mean, variance = (_by_channel(given[name], x.ndim) for name in ("running_mean", "running_var"))
    y = (x - mean) / torch.sqrt(variance + given.get("eps", 1e-5))
    weight, bias = (_by_channel(given.get(name), x.ndim) for name in ("weight", "bias"))
    return _affine(y, weight, bias)


def _mean(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    given = _given("input dim keepdim", args, options)
    x, axes = given["input"], given.get("dim")
    if axes is None:
        return None
    total = x.sum(axes, keepdim=given.get("keepdim", False))
    return total / (x.numel() // total.numel()) if total.numel() else None


def _gelu(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    given = _given("input", args, options)
    x = given["input"]
    if given.get("approximate", "none") == "tanh":
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))
        return x * (0.5 * (1 + torch.tanh(inner)))
    return 0.5 * x * torch.erfc(-x / math.sqrt(2))


def _silu(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    x = _given("input", args, options)["input"]
    return x * torch.sigmoid(x)


def _elu(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    given = _given("input alpha", args, options)
    x = given["input"]
    alpha = given.get("alpha", 1.0)
    if function.__name__ == "celu":
        return torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0) / alpha))
    return torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


# Klambauer et al. 2017.
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


def _selu(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    x = _given("input", args, options)["input"]
    return SELU_SCALE * torch.where(x > 0, x, SELU_ALPHA * torch.expm1(x.clamp(max=0)))


def _softplus_of(x: Any) -> Any:
    # max(x, 0) + log(1 + exp(-|x|)).
    return x.clamp(min=0) + torch.log1p(torch.exp(-torch.abs(x)))


def _softplus(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    given = _given("input beta threshold", args, options)
    if given.get("beta", 1.0) != 1.0:
        return None
    x = given["input"]
    # Beyond the threshold PyTorch gives the input itself.
    return torch.where(x > given.get("threshold", 20.0), x, _softplus_of(x))


def _mish(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    x = _given("input", args, options)["input"]
    return x * torch.tanh(_softplus_of(x))


def _log_sigmoid(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    return -_softplus_of(-_given("input", args, options)["input"])


def _softsign(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    x = _given("input", args, options)["input"]
    return x / (torch.abs(x) + 1)


def _hard_swish(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    x = _given("input", args, options)["input"]
    return x * ((x + 3).clamp(min=0).clamp(max=6) / 6)


def _softmax(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    given = _given("input dim dtype", args, options)
    x, axis = given["input"], given.get("dim")
    if axis is None or given.get("dtype") is not None:
        return None
    shifted = x - x.amax(axis, keepdim=True)
    if function.__name__ == "log_softmax":
        return shifted - torch.log(torch.exp(shifted).sum(axis, keepdim=True))
    exponential = torch.exp(shifted)
    return exponential / exponential.sum(axis, keepdim=True)


def _dot_product_attention(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    given = _given("query key value attn_mask dropout_p is_causal scale", args, options)
    if given.get("dropout_p") or given.get("is_causal") or given.get("enable_gqa"):
        return None
    q, k, v = given["query"], given["key"], given["value"]  # (..., T, E), (..., S, E)
    scale = given.get("scale")
    scores = torch.mul(q @ k.transpose(-2, -1), scale or 1 / math.sqrt(q.shape[-1]))
    mask = given.get("attn_mask")
    if mask is not None:
        scores = (
            scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        )
    return _softmax(recorder, torch.softmax, (scores, -1), {}) @ v


def _tanh_step(gates: Any, recurrent: Any, carry: Any) -> Any:
    return (torch.tanh(gates + recurrent),)


def _relu_step(gates: Any, recurrent: Any, carry: Any) -> Any:
    return (torch.relu(gates + recurrent),)


def _gru_step(gates: Any, recurrent: Any, carry: Any) -> Any:
    xr, xz, xn = gates.chunk(3, -1)
    hr, hz, hn = recurrent.chunk(3, -1)
    z = torch.sigmoid(xz + hz)
    n = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
    return ((1 - z) * n + z * carry[0],)


def _lstm_step(gates: Any, recurrent: Any, carry: Any) -> Any:
    i, f, g, o = (gates + recurrent).chunk(4, -1)
    c = torch.sigmoid(f) * carry[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


STEPS = {"rnn_tanh": _tanh_step, "rnn_relu": _relu_step, "gru": _gru_step, "lstm": _lstm_step}


def _recurrent(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    """Step by step, where there is one layer and one direction; else as in `torch_layers`."""
    if options or len(args) != 9 or isinstance(args[3], torch.Tensor):
        return None  # packed sequences have another signature
    xs, carry, weights, has_biases, layers, _, _, both, batch_first = args
    if layers > 1 or both:
        return LAYERED[function.__name__](recorder, function, args, options)
    if len(weights) != (4 if has_biases else 2):
        return None  # with a projection
    w_ih, w_hh, *biases = weights
    b_ih, b_hh = biases or (None, None)
    time = 1 if batch_first else 0
    states = tuple(state[0] for state in (carry if isinstance(carry, list | tuple) else (carry,)))
    gates = functional.linear(xs, w_ih, b_ih)  # (T, B, gates)
    ys = []
    for t in range(xs.shape[time]):
        recurrent = functional.linear(states[0], w_hh, b_hh)
        states = STEPS[function.__name__](gates.select(time, t), recurrent, states)
        ys.append(states[0])
    return (torch.stack(ys, time), *(state[None] for state in states))


EQUATIONS: dict[str, Layered] = {
    "linear": _linear,
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv3d": _convolution,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "mean": _mean,
    "gelu": _gelu,
    "silu": _silu,
    "elu": _elu,
    "celu": _elu,
    "selu": _selu,
    "softplus": _softplus,
    "mish": _mish,
    "log_sigmoid": _log_sigmoid,
    "softsign": _softsign,
    "hardswish": _hard_swish,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "scaled_dot_product_attention": _dot_product_attention,
    "lstm": _recurrent,
    "gru": _recurrent,
    "rnn_tanh": _recurrent,
    "rnn_relu": _recurrent,
}
"""How the calls of these functions are taken apart."""
