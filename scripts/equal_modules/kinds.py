"""Kinds of modules: each draws an example of its own sizes from a generator.

Shapes: B batch, T time steps, C channels, F features, H hidden size.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax
from torch import nn
from torch.nn import functional

from equal_modules.examples import Call, Example, Generator, Mistakes, dense, normal, size

# A part in 1e9 on top: the smallest mistake that is tried.
SLIGHTLY = {"a part in 1e9": {"gain": 1 + 1e-9}}


def _linear(rng: Generator) -> Example:
    module = nn.Linear(size(rng), size(rng), bias=bool(rng.random() < 0.8))

    def port(p: Any, x: Any, gain: float = 1.0, reverse: bool = False) -> Any:
        y = gain * (x @ p["weight"].T)
        y = y[..., ::-1] if reverse else y
        return y + p["bias"] if "bias" in p else y

    inputs = (normal(rng, size(rng, 1, 40), module.in_features),)
    return Example(port, module, inputs, {**SLIGHTLY, "units reversed": {"reverse": True}})


ACTIVATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "relu": (jax.nn.relu, functional.relu),
    "tanh": (jnp.tanh, torch.tanh),
    "gelu": (lambda x: jax.nn.gelu(x, approximate=False), functional.gelu),
    "silu": (jax.nn.silu, functional.silu),
    "sigmoid": (jax.nn.sigmoid, torch.sigmoid),
    "leaky relu": (jax.nn.leaky_relu, functional.leaky_relu),
    # PyTorch's is the identity above 20, which is 2e-9 less there.
    "softplus": (lambda x: jnp.where(x > 20, x, jax.nn.softplus(x)), functional.softplus),
    "elu": (jax.nn.elu, functional.elu),
}


def _mlp(rng: Generator) -> Example:
    name = str(rng.choice(list(ACTIVATIONS)))
    in_jax, in_torch = ACTIVATIONS[name]
    widths = [size(rng) for _ in range(int(rng.integers(3, 6)))]
    layers = [nn.Linear(i, o) for i, o in itertools.pairwise(widths)]

    def forward(module: Any, x: Any) -> Any:
        for k in range(len(layers) - 1):
            x = in_torch(getattr(module, f"layer{k}")(x))
        return getattr(module, f"layer{len(layers) - 1}")(x)

    def port(p: Any, x: Any, skip: bool = False, last: bool = False) -> Any:
        for k in range(len(layers) - 1):
            x = dense(p, f"layer{k}", x)
            x = x if skip and k == 0 else in_jax(x)
        x = dense(p, f"layer{len(layers) - 1}", x)
        return in_jax(x) if last else x

    module = Call(forward, **{f"layer{k}": layer for k, layer in enumerate(layers)})
    mistakes: Mistakes = {
        "an activation is missing": {"skip": True},
        "one too many": {"last": True},
    }
    return Example(port, module, (normal(rng, size(rng, 1, 32), widths[0]),), mistakes)


def _convolution(rank: int) -> Callable[[Generator], Example]:
    kind = {1: nn.Conv1d, 2: nn.Conv2d}[rank]

    def draw(rng: Generator) -> Example:
        groups = int(rng.choice([1, 2]))
        channels, features = (groups * size(rng, 1, 5) for _ in range(2))
        options: dict[str, Any] = {
            "stride": int(rng.integers(1, 3)),
            "padding": int(rng.integers(0, 3)),
            "dilation": int(rng.integers(1, 3)),
        }
        width = int(rng.integers(2, 4))
        module = kind(channels, features, width, groups=groups, **options)

        def port(p: Any, x: Any, flip: bool = False, shift: int = 0) -> Any:
            kernel = jnp.flip(p["weight"], -1) if flip else p["weight"]
            pad = options["padding"]
            y = lax.conv_general_dilated(
                x,
                kernel,
                (options["stride"],) * rank,
                [(pad + shift, pad - shift)] * rank,
                rhs_dilation=(options["dilation"],) * rank,
                feature_group_count=groups,
            )
            return y + p["bias"].reshape(-1, *(1,) * rank)

        inputs = (normal(rng, size(rng, 1, 4), channels, *(size(rng, 8, 12) for _ in range(rank))),)
        mistakes: Mistakes = {"kernel flipped": {"flip": True}, "padding shifted": {"shift": 1}}
        return Example(port, module, inputs, mistakes)

    return draw


def _normalized(x: Any, axes: Any, epsilon: float, ddof: int = 0) -> Any:
    mean = x.mean(axes, keepdims=True)
    return (x - mean) / jnp.sqrt(x.var(axes, keepdims=True, ddof=ddof) + epsilon)


def _layer_norm(rng: Generator) -> Example:
    features = size(rng, 3)
    module = nn.LayerNorm(features, elementwise_affine=bool(rng.random() < 0.8))

    def port(p: Any, x: Any, epsilon: float = 1e-5, ddof: int = 0) -> Any:
        y = _normalized(x, -1, epsilon, ddof)
        return y * p["weight"] + p["bias"] if p else y

    inputs = (normal(rng, size(rng, 2, 12), size(rng, 1, 5), features),)
    mistakes: Mistakes = {"epsilon 1e-6": {"epsilon": 1e-6}, "variance of a sample": {"ddof": 1}}
    return Example(port, module, inputs, mistakes)


def _batch_norm(training: bool) -> Callable[[Generator], Example]:
    def draw(rng: Generator) -> Example:
        channels = size(rng, 2, 12)
        module = nn.BatchNorm2d(channels).train(training)

        def port(p: Any, x: Any, epsilon: float = 1e-5, ddof: int = 0) -> Any:
            shape = (1, -1, 1, 1)
            if training:
                y = _normalized(x, (0, 2, 3), epsilon, ddof)
            else:
                deviation = jnp.sqrt(p["running_var"].reshape(shape) + epsilon)
                y = (x - p["running_mean"].reshape(shape)) / deviation
            y = y * (1 + ddof * 1e-3 * (not training))
            return y * p["weight"].reshape(shape) + p["bias"].reshape(shape)

        inputs = (normal(rng, size(rng, 2, 6), channels, size(rng, 2, 5), size(rng, 2, 5)),)
        mistakes: Mistakes = {
            "epsilon 1e-3": {"epsilon": 1e-3},
            "variance of a sample": {"ddof": 1},
        }
        return Example(port, module, inputs, mistakes)

    return draw


def _group_norm(rng: Generator) -> Example:
    groups = int(rng.integers(2, 5))
    channels = groups * size(rng, 2, 4)
    module = nn.GroupNorm(groups, channels)

    def port(p: Any, x: Any, epsilon: float = 1e-5, interleaved: bool = False) -> Any:
        batch, _, *space = x.shape
        if interleaved:
            y = x.reshape(batch, channels // groups, groups, *space)
            y = _normalized(y, (1, 3), epsilon)
        else:
            y = x.reshape(batch, groups, channels // groups, *space)
            y = _normalized(y, (2, 3), epsilon)
        return y.reshape(x.shape) * p["weight"][:, None] + p["bias"][:, None]

    inputs = (normal(rng, size(rng, 1, 6), channels, size(rng, 2, 9)),)
    mistakes: Mistakes = {"epsilon 1e-6": {"epsilon": 1e-6}, "other groups": {"interleaved": True}}
    return Example(port, module, inputs, mistakes)


def _rms_norm(rng: Generator) -> Example:
    features = size(rng, 3)
    module = nn.RMSNorm(features, eps=1e-6)

    def port(p: Any, x: Any, epsilon: float = 1e-6, centered: bool = False) -> Any:
        x = x - x.mean(-1, keepdims=True) if centered else x
        return x * lax.rsqrt((x**2).mean(-1, keepdims=True) + epsilon) * p["weight"]

    mistakes: Mistakes = {
        "epsilon 1e-5": {"epsilon": 1e-5},
        "the mean subtracted": {"centered": True},
    }
    return Example(port, module, (normal(rng, size(rng, 2, 20), features),), mistakes)


def _softmax(log: bool) -> Callable[[Generator], Example]:
    in_torch = torch.log_softmax if log else torch.softmax
    in_jax = jax.nn.log_softmax if log else jax.nn.softmax

    def draw(rng: Generator) -> Example:
        features = size(rng)

        def port(p: Any, x: Any, axis: int = -1, temperature: float = 1.0) -> Any:
            return in_jax(dense(p, "dense", x) / temperature, axis)

        module = Call(
            lambda module, x: in_torch(module.dense(x), -1), dense=nn.Linear(features, size(rng, 3))
        )
        inputs = (normal(rng, size(rng, 2, 20), features),)
        mistakes: Mistakes = {
            "another axis": {"axis": 0},
            "temperature 1.0001": {"temperature": 1.0001},
        }
        return Example(port, module, inputs, mistakes)

    return draw


def _activation(
    in_torch: Callable[..., Any], in_jax: Callable[..., Any], **mistakes: Callable[..., Any]
) -> Callable[[Generator], Example]:
    # A dense layer and a function; wrong are other functions.
    def draw(rng: Generator) -> Example:
        features = size(rng)

        def port(p: Any, x: Any, function: Callable[..., Any] = in_jax) -> Any:
            return function(dense(p, "dense", x))

        module = Call(
            lambda module, x: in_torch(module.dense(x)), dense=nn.Linear(features, size(rng))
        )
        wrong = {name: {"function": function} for name, function in mistakes.items()}
        return Example(port, module, (normal(rng, size(rng, 2, 32), features),), wrong)

    return draw


def _attention(rng: Generator) -> Example:
    heads = int(rng.integers(1, 4))
    width = heads * size(rng, 2, 6)
    length = size(rng, 2, 8)
    scale = (width // heads) ** -0.5
    parts = {name: nn.Linear(width, width) for name in ("q", "k", "v", "o")}
    causal = bool(rng.random() < 0.5)

    def forward(module: Any, x: Any, mask: Any) -> Any:
        def split(y: Any) -> Any:
            return y.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, T, H) to (B, heads, T, d)

        q, k, v = (split(getattr(module, name)(x)) for name in ("q", "k", "v"))
        if causal:
            mask = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return module.o(y.transpose(1, 2).flatten(-2))

    def port(p: Any, x: Any, mask: Any, factor: float = scale, transposed: bool = False) -> Any:
        q, k, v = (dense(p, name, x).reshape(*x.shape[:2], heads, -1) for name in ("q", "k", "v"))
        if causal:
            mask = jnp.tril(jnp.ones((length, length), bool))
        mask = mask.T if transposed else mask
        scores = jnp.einsum("bthd,bshd->bhts", q, k) * factor
        scores = jnp.where(mask, scores, -jnp.inf)
        y = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores, -1), v)
        return dense(p, "o", y.reshape(x.shape))

    mask = rng.random((length, length)) < 0.5
    mask |= np.eye(length, dtype=bool)
    mistakes: Mistakes = {
        "scale of the width": {"factor": width**-0.25},
        "mask transposed": {"transposed": True},
    }
    inputs = (normal(rng, size(rng, 1, 4), length, width), mask)
    return Example(port, Call(forward, **parts), inputs, mistakes)


def _embedding(rng: Generator) -> Example:
    count = size(rng, 3, 20)
    padding = 0 if rng.random() < 0.5 else None
    module = nn.Embedding(count, size(rng), padding_idx=padding)

    def port(p: Any, tokens: Any, trained: bool = False, shift: int = 0) -> Any:
        table = p["weight"]
        if padding is not None and not trained:
            table = table.at[padding].set(lax.stop_gradient(table[padding]))
        return table[(tokens + shift) % count]

    tokens = rng.integers(0, count, (size(rng, 2, 6), size(rng, 2, 6)))
    tokens.ravel()[:2] = 0, count - 1
    mistakes: Mistakes = {"rows shifted": {"shift": 1}}
    if padding is not None:
        mistakes["padding row trained"] = {"trained": True}
    return Example(port, module, (tokens,), mistakes)


def _gates(p: Any, x: Any, h: Any) -> tuple[Any, Any]:
    return (
        x @ p["weight_ih_l0"].T + p["bias_ih_l0"],
        h @ p["weight_hh_l0"].T + p["bias_hh_l0"],
    )


def _gru(rng: Generator) -> Example:
    features, hidden, steps, batch = (size(rng, 2, 7) for _ in range(4))

    def port(p: Any, xs: Any, h: Any, before: bool = False, swapped: bool = False) -> Any:
        def step(h: Any, x: Any) -> tuple[Any, Any]:
            xr, xz, xn = jnp.split(_gates(p, x, h)[0], 3, -1)
            hr, hz, hn = jnp.split(_gates(p, x, h)[1], 3, -1)
            r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
            if before:
                hn = (r * h) @ p["weight_hh_l0"][-hidden:].T + p["bias_hh_l0"][-hidden:]
            n = jnp.tanh(xn + (hn if before else r * hn))
            h = z * n + (1 - z) * h if swapped else (1 - z) * n + z * h
            return h, h

        h, ys = lax.scan(step, h[0], xs)
        return ys, h[None]

    mistakes: Mistakes = {
        "reset before the product": {"before": True},
        "z swapped": {"swapped": True},
    }
    inputs = (normal(rng, steps, batch, features), normal(rng, 1, batch, hidden))
    return Example(port, nn.GRU(features, hidden), inputs, mistakes)


def _lstm(rng: Generator) -> Example:
    features, hidden, steps, batch = (size(rng, 2, 7) for _ in range(4))

    def port(p: Any, xs: Any, carry: Any, forget: float = 0.0, order: str = "ifgo") -> Any:
        def step(carry: Any, x: Any) -> tuple[Any, Any]:
            h, c = carry
            gates = jnp.split(sum(_gates(p, x, h)), 4, -1)
            by_name = dict(zip(order, gates, strict=True))
            i, f, o = (jax.nn.sigmoid(by_name[k] + (forget if k == "f" else 0)) for k in "ifo")
            c = f * c + i * jnp.tanh(by_name["g"])
            h = o * jnp.tanh(c)
            return (h, c), h

        (h, c), ys = lax.scan(step, (carry[0][0], carry[1][0]), xs)
        return ys, (h[None], c[None])

    mistakes: Mistakes = {"a forget bias of 1": {"forget": 1.0}, "another order": {"order": "igfo"}}
    state = (normal(rng, 1, batch, hidden), normal(rng, 1, batch, hidden))
    inputs = (normal(rng, steps, batch, features), state)
    return Example(port, nn.LSTM(features, hidden), inputs, mistakes)


def _rnn(rng: Generator) -> Example:
    features, hidden, steps, batch = (size(rng, 2, 7) for _ in range(4))
    name = str(rng.choice(["tanh", "relu"]))
    functions = {"tanh": jnp.tanh, "relu": jax.nn.relu}
    other = "relu" if name == "tanh" else "tanh"

    def port(p: Any, xs: Any, h: Any, kind: str = name, folded: bool = False) -> Any:
        def step(h: Any, x: Any) -> tuple[Any, Any]:
            from_x, from_h = _gates(p, x, h)
            h = functions[kind](from_x + (0 if folded else from_h))
            return h, h

        h, ys = lax.scan(step, h[0], xs)
        return ys, h[None]

    mistakes: Mistakes = {"another function": {"kind": other}, "no carry": {"folded": True}}
    inputs = (normal(rng, steps, batch, features), normal(rng, 1, batch, hidden))
    return Example(port, nn.RNN(features, hidden, nonlinearity=name), inputs, mistakes)


def _residual(rng: Generator) -> Example:
    width, blocks = size(rng, 4, 16), int(rng.integers(2, 9))
    parts: dict[str, nn.Module] = {}
    for k in range(blocks):
        parts[f"norm{k}"] = nn.LayerNorm(width)
        parts[f"up{k}"] = nn.Linear(width, 2 * width)
        parts[f"down{k}"] = nn.Linear(2 * width, width)

    def forward(module: Any, x: Any) -> Any:
        for k in range(blocks):
            y = getattr(module, f"up{k}")(getattr(module, f"norm{k}")(x))
            x = x + getattr(module, f"down{k}")(functional.gelu(y))
        return x

    def port(p: Any, x: Any, epsilon: float = 1e-5, approximate: bool = False) -> Any:
        for k in range(blocks):
            eps = epsilon if k == blocks // 2 else 1e-5
            y = _normalized(x, -1, eps) * p[f"norm{k}.weight"] + p[f"norm{k}.bias"]
            y = jax.nn.gelu(dense(p, f"up{k}", y), approximate=approximate and k == blocks // 2)
            x = x + dense(p, f"down{k}", y)
        return x

    mistakes: Mistakes = {
        "epsilon 1e-6 in one": {"epsilon": 1e-6},
        "tanh GELU in one": {"approximate": True},
    }
    return Example(port, Call(forward, **parts), (normal(rng, size(rng, 2, 12), width),), mistakes)


def _pooling(rng: Generator) -> Example:
    width = int(rng.integers(2, 4))
    largest = bool(rng.random() < 0.5)
    module: nn.Module = nn.MaxPool1d(width) if largest else nn.AvgPool1d(width)

    def port(p: Any, x: Any, stride: int = width, other: bool = False) -> Any:
        sizes = ((1, 1, width), (1, 1, stride), "VALID")
        if largest != other:
            return lax.reduce_window(x, -jnp.inf, lax.max, *sizes)[..., : x.shape[-1] // width]
        return lax.reduce_window(x, 0.0, lax.add, *sizes)[..., : x.shape[-1] // width] / width

    inputs = (normal(rng, size(rng, 1, 6), size(rng, 1, 6), width * size(rng, 2, 5)),)
    mistakes: Mistakes = {"stride 1": {"stride": 1}, "the other pooling": {"other": True}}
    return Example(port, module, inputs, mistakes)


def _variance(rng: Generator) -> Example:
    features, offset = size(rng), float(10 ** rng.uniform(0, 1))

    def port(p: Any, x: Any, ddof: int = 0, scale: float = 1e-3) -> Any:
        return jnp.sqrt((dense(p, "dense", x) * scale + offset).var(-1, ddof=ddof))

    def forward(module: Any, x: Any) -> Any:
        return (module.dense(x) * 1e-3 + offset).var(-1, correction=0).sqrt()

    module = Call(forward, dense=nn.Linear(features, size(rng, 6, 24)))
    mistakes: Mistakes = {"of a sample": {"ddof": 1}, "another scale": {"scale": 1.0001e-3}}
    return Example(port, module, (normal(rng, size(rng, 2, 32), features),), mistakes)


def _cumulative(rng: Generator) -> Example:
    features = size(rng)

    def port(p: Any, x: Any, reverse: bool = False, exclusive: bool = False) -> Any:
        y = dense(p, "dense", x)
        total = lax.cumsum(y, 0, reverse=reverse)
        return total - y if exclusive else total

    module = Call(lambda module, x: module.dense(x).cumsum(0), dense=nn.Linear(features, size(rng)))
    mistakes: Mistakes = {"reversed": {"reverse": True}, "exclusive": {"exclusive": True}}
    return Example(port, module, (normal(rng, size(rng, 2, 64), features),), mistakes)


def _sorting(rng: Generator) -> Example:
    features = size(rng, 3, 16)
    count = int(rng.integers(1, features))

    def forward(module: Any, x: Any) -> Any:
        y = x * module.gain.weight[0]
        return y.sort(-1).values, y.topk(count, -1).values, y.amax(0), y.max(-1).values

    def port(p: Any, x: Any, descending: bool = False, axis: int = 0) -> Any:
        y = x * p["gain.weight"][0]
        top = lax.top_k(y, count)[0]
        return jnp.sort(y, -1, descending=descending), top, y.max(axis), y.max(-1)

    rows = features  # so that a wrong axis has the right shape
    module = Call(forward, gain=nn.Linear(features, 1, bias=False))
    mistakes: Mistakes = {"descending": {"descending": True}, "another axis": {"axis": 1}}
    return Example(port, module, (normal(rng, rows, features),), mistakes)


def _clip(rng: Generator) -> Example:
    features = size(rng)
    low, high = -float(rng.uniform(0.2, 2)), float(rng.uniform(0.2, 2))

    def port(p: Any, x: Any, top: float = high, far: float = jnp.inf) -> Any:
        x = jnp.minimum(x, far)
        return jnp.clip(dense(p, "dense", x), low, top), x

    def forward(module: Any, x: Any) -> Any:
        return module.dense(x).clamp(low, high), x

    module = Call(forward, dense=nn.Linear(features, size(rng)))
    mistakes: Mistakes = {
        "another limit": {"top": high * (1 + 1e-6)},
        "a clip at 100": {"far": 100.0},
    }
    return Example(port, module, (normal(rng, size(rng, 2, 32), features),), mistakes)


def _bilinear(rng: Generator) -> Example:
    left, right = (size(rng, 2, 10) for _ in range(2))
    left = right if rng.random() < 0.5 else left
    module = nn.Bilinear(left, right, size(rng, 2, 10))

    def port(p: Any, x: Any, y: Any, gain: float = 1.0, lost: bool = False) -> Any:
        z = gain * jnp.einsum("bi,oij,bj->bo", x, p["weight"], y)
        return z if lost else z + p["bias"]

    rows = size(rng, 2, 12)
    inputs = (normal(rng, rows, left), normal(rng, rows, right))
    return Example(port, module, inputs, {**SLIGHTLY, "no bias": {"lost": True}})


def _tied(rng: Generator) -> Example:
    count, width = size(rng, 3, 20), size(rng)
    table = nn.Embedding(count, width)
    head = nn.Linear(width, count, bias=False)
    head.weight = table.weight

    def forward(module: Any, tokens: Any) -> Any:
        return {"logits": module.head(torch.tanh(module.table(tokens)))}

    def port(p: Any, tokens: Any, scale: float = 1.0, untied: bool = False) -> Any:
        weights = p["table.weight"]
        y = jnp.tanh(weights[tokens] * scale)
        return {"logits": y @ (lax.stop_gradient(weights) if untied else weights).T}

    tokens = rng.integers(0, count, (size(rng, 2, 6), size(rng, 2, 6)))
    mistakes: Mistakes = {"scaled": {"scale": width**0.5}, "head not trained": {"untied": True}}
    return Example(port, Call(forward, table=table, head=head), (tokens,), mistakes)


def _choice(rng: Generator) -> Example:
    features = size(rng)

    def forward(module: Any, x: Any) -> Any:
        logits = module.dense(x)
        return {"logits": logits, "best": logits.argmax(-1), "positive": logits > 0}

    def port(p: Any, x: Any, smallest: bool = False, shift: int = 0) -> Any:
        logits = dense(p, "dense", x)
        best = logits.argmin(-1) if smallest else logits.argmax(-1)
        return {"best": best + shift, "logits": logits, "positive": logits > 0}

    module = Call(forward, dense=nn.Linear(features, size(rng, 3)))
    mistakes: Mistakes = {"the smallest": {"smallest": True}, "off by one": {"shift": 1}}
    return Example(port, module, (normal(rng, size(rng, 2, 32), features),), mistakes)


def _unit(rng: Generator) -> Example:
    features = size(rng, 3)

    def port(p: Any, x: Any, epsilon: float = 1e-12, power: float = 2.0) -> Any:
        y = dense(p, "dense", x)
        norm = (jnp.abs(y) ** power).sum(-1, keepdims=True) ** (1 / power)
        return y / jnp.maximum(norm, epsilon)

    module = Call(
        lambda module, x: functional.normalize(module.dense(x), dim=-1),
        dense=nn.Linear(features, size(rng, 3), bias=False),
    )
    mistakes: Mistakes = {"a large epsilon": {"epsilon": 1e-1}, "another norm": {"power": 1.0}}
    return Example(port, module, (normal(rng, size(rng, 2, 32), features),), mistakes)


def _cross_entropy(rng: Generator) -> Example:
    features, classes = size(rng), size(rng, 3)
    rows = size(rng, 2, 32)

    def forward(module: Any, x: Any, targets: Any) -> Any:
        return functional.cross_entropy(module.dense(x), targets, ignore_index=0)

    def port(p: Any, x: Any, targets: Any, ignored: int = 0, total: bool = False) -> Any:
        log_probs = jax.nn.log_softmax(dense(p, "dense", x))
        losses = -jnp.take_along_axis(log_probs, targets[:, None], -1)[:, 0]
        counted = targets != ignored
        loss = jnp.where(counted, losses, 0).sum()
        return loss if total else loss / counted.sum()

    targets = rng.integers(0, classes, rows)
    targets[:2] = 0, 1
    module = Call(forward, dense=nn.Linear(features, classes))
    mistakes: Mistakes = {"nothing ignored": {"ignored": -1}, "the sum": {"total": True}}
    if rows < 3:
        mistakes.pop("the sum")  # one target counts: the sum is the mean
    return Example(port, module, (normal(rng, rows, features), targets), mistakes)


def _conv_net(rng: Generator) -> Example:
    channels, classes = size(rng, 2, 6), size(rng, 2, 8)
    parts = {
        "conv": nn.Conv2d(3, channels, 3, padding=1),
        "norm": nn.BatchNorm2d(channels).eval(),
        "head": nn.Linear(channels, classes),
    }

    def forward(module: Any, x: Any) -> Any:
        y = functional.relu(module.norm(module.conv(x)))
        return module.head(functional.max_pool2d(y, 2).mean((2, 3)))

    def port(p: Any, x: Any, epsilon: float = 1e-5, pooled: bool = True) -> Any:
        y = lax.conv_general_dilated(x, p["conv.weight"], (1, 1), [(1, 1)] * 2)
        y = y + p["conv.bias"][:, None, None]
        deviation = jnp.sqrt(p["norm.running_var"] + epsilon)[:, None, None]
        y = (y - p["norm.running_mean"][:, None, None]) / deviation
        y = y * p["norm.weight"][:, None, None] + p["norm.bias"][:, None, None]
        y = jax.nn.relu(y)
        if pooled:
            y = lax.reduce_window(y, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        return dense(p, "head", y.mean((2, 3)))

    module = Call(forward, **parts)
    side = 2 * size(rng, 2, 5)
    mistakes: Mistakes = {"epsilon 1e-3": {"epsilon": 1e-3}, "no pooling": {"pooled": False}}
    return Example(port, module, (normal(rng, size(rng, 1, 4), 3, side, side),), mistakes)


def _tanh_gelu(x: Any) -> Any:
    return jax.nn.gelu(x, approximate=True)


KINDS: dict[str, Callable[[Generator], Example]] = {
    "linear": _linear,
    "MLP": _mlp,
    "convolution, 1 axis": _convolution(1),
    "convolution, 2 axes": _convolution(2),
    "convolutional net": _conv_net,
    "layer norm": _layer_norm,
    "batch norm, evaluation": _batch_norm(training=False),
    "batch norm, training": _batch_norm(training=True),
    "group norm": _group_norm,
    "RMS norm": _rms_norm,
    "softmax": _softmax(log=False),
    "log-softmax": _softmax(log=True),
    "tanh": _activation(torch.tanh, jnp.tanh, sigmoid=jax.nn.sigmoid),
    "GELU": _activation(functional.gelu, ACTIVATIONS["gelu"][0], tanh_form=_tanh_gelu),
    "SiLU": _activation(
        functional.silu, jax.nn.silu, sigmoid_form=lambda x: x * jax.nn.sigmoid(1.702 * x)
    ),
    "softplus": _activation(
        functional.softplus, ACTIVATIONS["softplus"][0], without_threshold=jax.nn.softplus
    ),
    "ELU": _activation(functional.elu, jax.nn.elu, SELU=jax.nn.selu),
    "attention": _attention,
    "embedding": _embedding,
    "GRU": _gru,
    "LSTM": _lstm,
    "RNN": _rnn,
    "residual blocks": _residual,
    "pooling": _pooling,
    "variance, ill-conditioned": _variance,
    "cumulative sum": _cumulative,
    "sort and maximum": _sorting,
    "clip": _clip,
    "bilinear form": _bilinear,
    "tied weights": _tied,
    "integer outputs": _choice,
    "unit length": _unit,
    "cross-entropy": _cross_entropy,
}
