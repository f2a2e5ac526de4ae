"""Layers in plain JAX with the weights of PyTorch's, by PyTorch's keys and in its layouts.

Each runs in a scope with the name of the module that it is, which tells where an operation is.

Shapes: T time steps, B batch, C channels, F features, H hidden size, E embedding size, N heads.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax, named_scope

Weights = Mapping[str, Any]


def linear(p: Weights, name: str, x: Any) -> Any:
    """`torch.nn.Linear`: (..., F) to (..., H)."""
    with named_scope(name):
        y = x @ p[f"{name}.weight"].T
        return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def layer_norm(p: Weights, name: str, x: Any) -> Any:
    """`torch.nn.LayerNorm` over the last axis."""
    with named_scope(name):
        centered = x - x.mean(-1, keepdims=True)
        variance = (centered**2).mean(-1, keepdims=True)
        return centered / jnp.sqrt(variance + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def rms_norm(p: Weights, name: str, x: Any) -> Any:
    """`torch.nn.RMSNorm` over the last axis, with epsilon 1e-6."""
    with named_scope(name):
        return x * lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p[f"{name}.weight"]


def group_norm(p: Weights, name: str, x: Any, groups: int) -> Any:
    """`torch.nn.GroupNorm`: (B, C, ...)."""
    with named_scope(name):
        grouped = x.reshape(x.shape[0], groups, -1)
        centered = grouped - grouped.mean(-1, keepdims=True)
        scaled = centered / jnp.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
        shape = (1, -1, *(1,) * (x.ndim - 2))
        weight = p[f"{name}.weight"].reshape(shape)
        return scaled.reshape(x.shape) * weight + p[f"{name}.bias"].reshape(shape)


def batch_norm(p: Weights, name: str, x: Any) -> Any:
    """`torch.nn.BatchNorm` in evaluation mode: (B, C, ...)."""
    with named_scope(name):
        shape = (1, -1, *(1,) * (x.ndim - 2))
        mean = p[f"{name}.running_mean"].reshape(shape)
        variance = p[f"{name}.running_var"].reshape(shape)
        scaled = (x - mean) / jnp.sqrt(variance + 1e-5)
        return scaled * p[f"{name}.weight"].reshape(shape) + p[f"{name}.bias"].reshape(shape)


def convolution(
    p: Weights,
    name: str,
    x: Any,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Any:
    """`torch.nn.Conv1d` and `Conv2d`: (B, C, ...) to (B, F, ...)."""
    with named_scope(name):
        rank = x.ndim - 2
        y = lax.conv_general_dilated(
            x,
            p[f"{name}.weight"],
            (stride,) * rank,
            [(padding, padding)] * rank,
            rhs_dilation=(dilation,) * rank,
            feature_group_count=groups,
        )
        return y + p[f"{name}.bias"].reshape(1, -1, *(1,) * rank)


def embedding(p: Weights, name: str, tokens: Any) -> Any:
    """`torch.nn.Embedding`: (...) to (..., E)."""
    with named_scope(name):
        return p[f"{name}.weight"][tokens]


def max_pool(name: str, x: Any) -> Any:
    """`torch.nn.MaxPool2d(2)`: (B, C, ...)."""
    with named_scope(name):
        window = (1, 1, *(2,) * (x.ndim - 2))
        return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


ACTIVATIONS = {
    "ReLU": lambda x: jnp.maximum(x, 0.0),
    "Tanh": jnp.tanh,
    "GELU": lambda x: 0.5 * x * (1 + lax.erf(x / jnp.sqrt(2.0))),
    "SiLU": lambda x: x * lax.logistic(x),
    "Sigmoid": lax.logistic,
    "Softplus": lambda x: jnp.logaddexp(x, 0.0),
    "ELU": lambda x: jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0.0))),
}


def activation(name: str, kind: str, x: Any) -> Any:
    """`torch.nn.ReLU` and so on."""
    with named_scope(name):
        return ACTIVATIONS[kind](x)


def attention(
    p: Weights, name: str, x: Any, memory: Any, heads: int, *, causal: bool = False
) -> Any:
    """`torch.nn.MultiheadAttention(batch_first=True)`: (B, T, E) and (B, S, E) to (B, T, E)."""
    with named_scope(name):
        wq, wk, wv = jnp.split(p[f"{name}.in_proj_weight"], 3)
        bq, bk, bv = jnp.split(p[f"{name}.in_proj_bias"], 3)

        def split(y: Any) -> Any:
            # (B, T, E) to (B, N, T, E / N).
            return y.reshape(*y.shape[:2], heads, -1).transpose(0, 2, 1, 3)

        q, k, v = split(x @ wq.T + bq), split(memory @ wk.T + bk), split(memory @ wv.T + bv)
        scores = (q / jnp.sqrt(float(q.shape[-1]))) @ k.swapaxes(-1, -2)  # (B, N, T, S)
        if causal:
            steps = jnp.arange(scores.shape[-1])
            scores = jnp.where(steps[:, None] >= steps, scores, -jnp.inf)
        weights = jax.nn.softmax(scores, -1)
        merged = (weights @ v).transpose(0, 2, 1, 3).reshape(x.shape)
        with named_scope("out_proj"):
            return merged @ p[f"{name}.out_proj.weight"].T + p[f"{name}.out_proj.bias"]


def _tanh_step(gates: Any, recurrent: Any, carry: Any) -> Any:
    return (jnp.tanh(gates + recurrent),)


def _gru_step(gates: Any, recurrent: Any, carry: Any) -> Any:
    xr, xz, xn = jnp.split(gates, 3, -1)
    hr, hz, hn = jnp.split(recurrent, 3, -1)
    z = lax.logistic(xz + hz)
    n = jnp.tanh(xn + lax.logistic(xr + hr) * hn)
    return ((1 - z) * n + z * carry[0],)


def _lstm_step(gates: Any, recurrent: Any, carry: Any) -> Any:
    i, f, g, o = jnp.split(gates + recurrent, 4, -1)
    c = lax.logistic(f) * carry[1] + lax.logistic(i) * jnp.tanh(g)
    return lax.logistic(o) * jnp.tanh(c), c


STEPS = {"rnn": (_tanh_step, 1), "gru": (_gru_step, 1), "lstm": (_lstm_step, 2)}


def recurrent(
    p: Weights, name: str, xs: Any, kind: str, layers: int = 1, *, bidirectional: bool = False
) -> Any:
    """`torch.nn.RNN`, `GRU` and `LSTM` from a carry of zeros: (T, B, F) to (T, B, D * H)."""
    step, fields = STEPS[kind]
    for layer in range(layers):
        ways = []
        for way in ("", "_reverse")[: 2 if bidirectional else 1]:
            part = f"{name}.layer {layer}{', backwards' if way else ''}"
            scope = part if layers > 1 or bidirectional else name
            suffix = f"l{layer}{way}"
            with named_scope(scope):
                w_hh, b_hh = p[f"{name}.weight_hh_{suffix}"], p[f"{name}.bias_hh_{suffix}"]
                gates = xs @ p[f"{name}.weight_ih_{suffix}"].T + p[f"{name}.bias_ih_{suffix}"]
                zeros = (jnp.zeros((xs.shape[1], w_hh.shape[1]), xs.dtype),) * fields

                def body(carry: Any, x: Any, w_hh: Any = w_hh, b_hh: Any = b_hh) -> Any:
                    carry = step(x, carry[0] @ w_hh.T + b_hh, carry)
                    return carry, carry[0]

                ways.append(lax.scan(body, zeros, gates, reverse=bool(way))[1])
        xs = ways[0] if len(ways) == 1 else jnp.concatenate(ways, -1)
    return xs
