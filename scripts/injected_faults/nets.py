"""Nets of twenty kinds, each in PyTorch and in plain JAX.

Shapes: T time steps, B batch, C channels, F features, H hidden size, E embedding size, V tokens.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import named_scope
from torch import nn

from injected_faults.layers import (
    Weights,
    activation,
    attention,
    batch_norm,
    convolution,
    embedding,
    group_norm,
    layer_norm,
    linear,
    max_pool,
    recurrent,
    rms_norm,
)


class Net(NamedTuple):
    """The same net twice.

    Attributes:
        module: PyTorch's.
        function: JAX's, of weights by PyTorch's keys.
        inputs: arrays that both take.
    """

    module: nn.Module
    function: Callable[..., Any]
    inputs: tuple[Any, ...]


class Forward(nn.Module):
    """A module of named parts and a function that runs them."""

    def __init__(self, run: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *inputs: Any) -> Any:
        """Whatever the function does."""
        return self.run(self, *inputs)


Generator = np.random.Generator


def _normal(rng: Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def mlp(rng: Generator, *, kind: str, layers: int) -> Net:
    """Dense layers with an activation between them."""
    widths = [int(width) for width in rng.integers(5, 14, layers + 1)]
    parts: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(widths):
        parts += [nn.Linear(wide, narrow), getattr(nn, kind)()]
    module = nn.Sequential(*parts[:-1])

    def run(p: Weights, x: Any) -> Any:
        for k in range(len(module)):
            x = activation(str(k), kind, x) if k % 2 else linear(p, str(k), x)
        return x

    return Net(module, run, (_normal(rng, 6, widths[0]),))


def residual_mlp(rng: Generator, *, blocks: int) -> Net:
    """Pre-norm residual blocks."""
    size, hidden = 10, 14

    def block() -> nn.Module:
        def forward(m: Any, x: Any) -> Any:
            return x + m.second(m.act(m.first(m.norm(x))))

        first, second = nn.Linear(size, hidden), nn.Linear(hidden, size)
        return Forward(forward, norm=nn.LayerNorm(size), first=first, act=nn.SiLU(), second=second)

    module = nn.Sequential(*(block() for _ in range(blocks)))

    def run(p: Weights, x: Any) -> Any:
        for k in range(blocks):
            y = linear(p, f"{k}.first", layer_norm(p, f"{k}.norm", x))
            y = linear(p, f"{k}.second", activation(f"{k}.act", "SiLU", y))
            with named_scope(f"{k}"):
                x = x + y
        return x

    return Net(module, run, (_normal(rng, 7, size),))


def transformer(
    rng: Generator, *, blocks: int, causal: bool = False, post: bool = False, tied: bool = False
) -> Net:
    """Attention and dense layers, with the norm in front or behind; of floats, or of tokens."""
    size, hidden, heads, steps, tokens = 12, 18, 3, 6, 15
    mask = torch.triu(torch.ones(steps, steps, dtype=torch.bool), 1) if causal else None

    def block() -> nn.Module:
        def attend(m: Any, y: Any) -> Any:
            return m.attn(y, y, y, need_weights=False, attn_mask=mask)[0]

        def forward(m: Any, x: Any) -> Any:
            if post:
                x = m.norm1(x + attend(m, x))
                return m.norm2(x + m.fc2(m.act(m.fc1(x))))
            x = x + attend(m, m.norm1(x))
            return x + m.fc2(m.act(m.fc1(m.norm2(x))))

        return Forward(
            forward,
            norm1=nn.LayerNorm(size),
            attn=nn.MultiheadAttention(size, heads, batch_first=True),
            norm2=nn.LayerNorm(size),
            fc1=nn.Linear(size, hidden),
            act=nn.GELU(),
            fc2=nn.Linear(hidden, size),
        )

    def forward(m: Any, x: Any) -> Any:
        y = m.embed(x) if tied else x
        for part in m.blocks:
            y = part(y)
        y = m.norm(y)
        return y @ m.embed.weight.T if tied else m.out(y)

    ends: dict[str, nn.Module] = {"norm": nn.LayerNorm(size)}
    if tied:
        ends["embed"] = nn.Embedding(tokens, size)
    else:
        ends["out"] = nn.Linear(size, 9)
    module = Forward(forward, blocks=nn.ModuleList(block() for _ in range(blocks)), **ends)

    def run(p: Weights, x: Any) -> Any:
        y = embedding(p, "embed", x) if tied else x
        for k in range(blocks):
            y = one_block(p, f"blocks.{k}", y)
        y = layer_norm(p, "norm", y)
        return y @ p["embed.weight"].T if tied else linear(p, "out", y)

    def one_block(p: Weights, b: str, x: Any) -> Any:
        def dense(y: Any) -> Any:
            y = activation(f"{b}.act", "GELU", linear(p, f"{b}.fc1", y))
            return linear(p, f"{b}.fc2", y)

        if post:
            y = attention(p, f"{b}.attn", x, x, heads, causal=causal)
            with named_scope(b):
                y = x + y
            x = layer_norm(p, f"{b}.norm1", y)
            y = dense(x)
            with named_scope(b):
                y = x + y
            return layer_norm(p, f"{b}.norm2", y)
        y = layer_norm(p, f"{b}.norm1", x)
        y = attention(p, f"{b}.attn", y, y, heads, causal=causal)
        with named_scope(b):
            x = x + y
        y = dense(layer_norm(p, f"{b}.norm2", x))
        with named_scope(b):
            return x + y

    inputs: Any = _normal(rng, 2, steps, size)
    if tied:
        inputs = rng.integers(0, tokens, (2, steps))
    return Net(module, run, (inputs,))


def conv_net(rng: Generator) -> Net:
    """Two convolutions with batch norm, pooling, and a dense layer."""
    parts = {
        "conv1": nn.Conv2d(3, 6, 3, padding=1),
        "bn1": nn.BatchNorm2d(6),
        "act1": nn.ReLU(),
        "pool": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(6, 5, 3, stride=2),
        "bn2": nn.BatchNorm2d(5),
        "act2": nn.ReLU(),
        "fc": nn.Linear(5 * 2 * 2, 7),
    }

    def forward(m: Any, x: Any) -> Any:
        x = m.pool(m.act1(m.bn1(m.conv1(x))))
        return m.fc(m.act2(m.bn2(m.conv2(x))).flatten(1))

    def run(p: Weights, x: Any) -> Any:
        x = batch_norm(p, "bn1", convolution(p, "conv1", x, padding=1))
        x = max_pool("pool", activation("act1", "ReLU", x))
        x = batch_norm(p, "bn2", convolution(p, "conv2", x, stride=2))
        x = activation("act2", "ReLU", x)
        return linear(p, "fc", x.reshape(x.shape[0], -1))

    return Net(Forward(forward, **parts).eval(), run, (_normal(rng, 2, 3, 10, 10),))


def residual_conv_net(rng: Generator) -> Net:
    """Residual convolutions, and the mean over the picture."""
    blocks, channels = 3, 6

    def block() -> nn.Module:
        def forward(m: Any, x: Any) -> Any:
            y = m.bn2(m.conv2(m.act(m.bn1(m.conv1(x)))))
            return torch.relu(x + y)

        conv1, conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        bn1, bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        return Forward(forward, conv1=conv1, bn1=bn1, act=nn.ReLU(), conv2=conv2, bn2=bn2)

    def forward(m: Any, x: Any) -> Any:
        x = m.stem(x)
        for part in m.blocks:
            x = part(x)
        return m.head(x.mean((2, 3)))

    module = Forward(
        forward,
        stem=nn.Conv2d(3, channels, 3, padding=1),
        blocks=nn.ModuleList(block() for _ in range(blocks)),
        head=nn.Linear(channels, 5),
    ).eval()

    def run(p: Weights, x: Any) -> Any:
        x = convolution(p, "stem", x, padding=1)
        for k in range(blocks):
            b = f"blocks.{k}"
            y = batch_norm(p, f"{b}.bn1", convolution(p, f"{b}.conv1", x, padding=1))
            y = convolution(p, f"{b}.conv2", activation(f"{b}.act", "ReLU", y), padding=1)
            y = batch_norm(p, f"{b}.bn2", y)
            with named_scope(b):
                x = jnp.maximum(x + y, 0.0)
        return linear(p, "head", x.mean((2, 3)))

    return Net(module, run, (_normal(rng, 2, 3, 7, 7),))


def gated_conv_net(rng: Generator) -> Net:
    """Dilated convolutions over time with gates, as in WaveNet, and group norm."""
    channels, layers = 6, 3
    parts: dict[str, nn.Module] = {}
    for k in range(layers):
        width = 2**k
        parts[f"conv{k}"] = nn.Conv1d(channels, 2 * channels, 3, padding=width, dilation=width)
        parts[f"norm{k}"] = nn.GroupNorm(2, channels)

    def forward(m: Any, x: Any) -> Any:
        for k in range(layers):
            a, b = getattr(m, f"conv{k}")(x).chunk(2, 1)
            x = getattr(m, f"norm{k}")(x + torch.tanh(a) * torch.sigmoid(b))
        return x

    def run(p: Weights, x: Any) -> Any:
        for k in range(layers):
            y = convolution(p, f"conv{k}", x, padding=2**k, dilation=2**k)
            a, b = jnp.split(y, 2, 1)
            x = group_norm(p, f"norm{k}", x + jnp.tanh(a) * jax.nn.sigmoid(b), 2)
        return x

    return Net(Forward(forward, **parts), run, (_normal(rng, 2, channels, 12),))


def recurrent_net(rng: Generator, *, kind: str, layers: int, bidirectional: bool = False) -> Net:
    """Embedded tokens, recurrent layers, and log probabilities of the next token."""
    tokens, size, hidden = 11, 5, 7
    make: Any = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[kind]
    ways = 2 if bidirectional else 1
    parts = {
        "embed": nn.Embedding(tokens, size),
        "rnn": make(size, hidden, layers, bidirectional=bidirectional),
        "out": nn.Linear(ways * hidden, tokens),
    }

    def forward(m: Any, x: Any) -> Any:
        return torch.log_softmax(m.out(m.rnn(m.embed(x))[0]), -1)

    def run(p: Weights, x: Any) -> Any:
        x = embedding(p, "embed", x)
        x = recurrent(p, "rnn", x, kind, layers, bidirectional=bidirectional)
        return jax.nn.log_softmax(linear(p, "out", x))

    return Net(Forward(forward, **parts), run, (rng.integers(0, tokens, (6, 3)),))


def mixer(rng: Generator) -> Net:
    """Dense layers over steps and over features in turn."""
    blocks, steps, size = 3, 5, 8

    def block() -> nn.Module:
        def forward(m: Any, x: Any) -> Any:
            x = x + m.over_steps(m.norm1(x).transpose(1, 2)).transpose(1, 2)
            return x + m.act(m.over_features(m.norm2(x)))

        return Forward(
            forward,
            norm1=nn.LayerNorm(size),
            over_steps=nn.Linear(steps, steps),
            norm2=nn.LayerNorm(size),
            over_features=nn.Linear(size, size),
            act=nn.GELU(),
        )

    def run(p: Weights, x: Any) -> Any:
        for k in range(blocks):
            y = layer_norm(p, f"{k}.norm1", x)
            with named_scope(f"{k}"):
                y = y.swapaxes(1, 2)
            y = linear(p, f"{k}.over_steps", y)
            with named_scope(f"{k}"):
                x = x + y.swapaxes(1, 2)
            y = linear(p, f"{k}.over_features", layer_norm(p, f"{k}.norm2", x))
            y = activation(f"{k}.act", "GELU", y)
            with named_scope(f"{k}"):
                x = x + y
        return x

    module = nn.Sequential(*(block() for _ in range(blocks)))
    return Net(module, run, (_normal(rng, 2, steps, size),))


def gated_mlp(rng: Generator) -> Net:
    """RMS norm and gated dense layers, as in Llama."""
    blocks, size, hidden = 4, 9, 12

    def block() -> nn.Module:
        def forward(m: Any, x: Any) -> Any:
            y = m.norm(x)
            return x + m.down(m.act(m.gate(y)) * m.up(y))

        return Forward(
            forward,
            norm=nn.RMSNorm(size, eps=1e-6),
            gate=nn.Linear(size, hidden, bias=False),
            up=nn.Linear(size, hidden, bias=False),
            act=nn.SiLU(),
            down=nn.Linear(hidden, size, bias=False),
        )

    def run(p: Weights, x: Any) -> Any:
        for k in range(blocks):
            y = rms_norm(p, f"{k}.norm", x)
            gate = activation(f"{k}.act", "SiLU", linear(p, f"{k}.gate", y))
            up = linear(p, f"{k}.up", y)
            with named_scope(f"{k}"):
                y = gate * up
            y = linear(p, f"{k}.down", y)
            with named_scope(f"{k}"):
                x = x + y
        return x

    module = nn.Sequential(*(block() for _ in range(blocks)))
    return Net(module, run, (_normal(rng, 5, size),))


def autoencoder(rng: Generator) -> Net:
    """Mean, deviation and reconstruction: three outputs."""
    size, hidden, code = 12, 9, 4
    parts = {
        "encoder": nn.Linear(size, hidden),
        "act": nn.Tanh(),
        "mean": nn.Linear(hidden, code),
        "scale": nn.Linear(hidden, code),
        "positive": nn.Softplus(),
        "decoder": nn.Linear(code, size),
        "sigmoid": nn.Sigmoid(),
    }

    def forward(m: Any, x: Any) -> Any:
        h = m.act(m.encoder(x))
        mean, scale = m.mean(h), m.positive(m.scale(h))
        return mean, scale, m.sigmoid(m.decoder(mean + 0.3 * scale))

    def run(p: Weights, x: Any) -> Any:
        h = activation("act", "Tanh", linear(p, "encoder", x))
        mean = linear(p, "mean", h)
        scale = activation("positive", "Softplus", linear(p, "scale", h))
        decoded = linear(p, "decoder", mean + 0.3 * scale)
        return mean, scale, activation("sigmoid", "Sigmoid", decoded)

    return Net(Forward(forward, **parts), run, (_normal(rng, 6, size),))


def cross_attention(rng: Generator) -> Net:
    """Queries that attend to a memory, twice."""
    size, heads = 12, 2
    parts = {
        "norm1": nn.LayerNorm(size),
        "attn1": nn.MultiheadAttention(size, heads, batch_first=True),
        "norm2": nn.LayerNorm(size),
        "attn2": nn.MultiheadAttention(size, heads, batch_first=True),
        "out": nn.Linear(size, 6),
    }

    def forward(m: Any, x: Any, memory: Any) -> Any:
        for k in (1, 2):
            y = getattr(m, f"norm{k}")(x)
            x = x + getattr(m, f"attn{k}")(y, memory, memory, need_weights=False)[0]
        return m.out(x.mean(1))

    def run(p: Weights, x: Any, memory: Any) -> Any:
        for k in (1, 2):
            y = layer_norm(p, f"norm{k}", x)
            x = x + attention(p, f"attn{k}", y, memory, heads)
        return linear(p, "out", x.mean(1))

    return Net(Forward(forward, **parts), run, (_normal(rng, 2, 4, size), _normal(rng, 2, 7, size)))


def depthwise_conv_net(rng: Generator) -> Net:
    """Depthwise convolution, norm over channels, an inverted bottleneck, as in ConvNeXt."""
    blocks, channels = 2, 6

    def block() -> nn.Module:
        def forward(m: Any, x: Any) -> Any:
            y = m.norm(m.depthwise(x).permute(0, 2, 3, 1))
            return x + m.narrow(m.act(m.wide(y))).permute(0, 3, 1, 2)

        return Forward(
            forward,
            depthwise=nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            norm=nn.LayerNorm(channels),
            wide=nn.Linear(channels, 3 * channels),
            act=nn.GELU(),
            narrow=nn.Linear(3 * channels, channels),
        )

    def run(p: Weights, x: Any) -> Any:
        for k in range(blocks):
            y = convolution(p, f"{k}.depthwise", x, padding=1, groups=channels)
            with named_scope(f"{k}"):
                y = y.transpose(0, 2, 3, 1)
            y = linear(p, f"{k}.wide", layer_norm(p, f"{k}.norm", y))
            y = linear(p, f"{k}.narrow", activation(f"{k}.act", "GELU", y))
            with named_scope(f"{k}"):
                x = x + y.transpose(0, 3, 1, 2)
        return x

    module = nn.Sequential(*(block() for _ in range(blocks)))
    return Net(module, run, (_normal(rng, 2, channels, 6, 6),))


def squeeze_excite(rng: Generator) -> Net:
    """Channels weighed by what is in all of the picture."""
    channels = 8
    parts = {
        "conv": nn.Conv2d(3, channels, 3),
        "act": nn.ELU(),
        "squeeze": nn.Linear(channels, 4),
        "middle": nn.ReLU(),
        "excite": nn.Linear(4, channels),
        "gate": nn.Sigmoid(),
        "out": nn.Conv2d(channels, 4, 1),
    }

    def forward(m: Any, x: Any) -> Any:
        x = m.act(m.conv(x))
        weights = m.gate(m.excite(m.middle(m.squeeze(x.mean((2, 3))))))
        return m.out(x * weights[:, :, None, None])

    def run(p: Weights, x: Any) -> Any:
        x = activation("act", "ELU", convolution(p, "conv", x))
        y = activation("middle", "ReLU", linear(p, "squeeze", x.mean((2, 3))))
        weights = activation("gate", "Sigmoid", linear(p, "excite", y))
        return convolution(p, "out", x * weights[:, :, None, None])

    return Net(Forward(forward, **parts), run, (_normal(rng, 2, 3, 8, 8),))


def deep_set(rng: Generator) -> Net:
    """The sum over a set, and log probabilities of its class."""
    size, hidden = 5, 9
    parts = {
        "phi1": nn.Linear(size, hidden),
        "act": nn.Tanh(),
        "phi2": nn.Linear(hidden, hidden),
        "rho": nn.Linear(hidden, 6),
    }

    def forward(m: Any, x: Any) -> Any:
        return torch.log_softmax(m.rho(m.phi2(m.act(m.phi1(x))).sum(1)), -1)

    def run(p: Weights, x: Any) -> Any:
        x = linear(p, "phi2", activation("act", "Tanh", linear(p, "phi1", x)))
        return jax.nn.log_softmax(linear(p, "rho", x.sum(1)))

    return Net(Forward(forward, **parts), run, (_normal(rng, 4, 5, size),))


KINDS: dict[str, Callable[[Generator], Net]] = {
    "MLP, tanh": lambda rng: mlp(rng, kind="Tanh", layers=3),
    "MLP, 8 layers": lambda rng: mlp(rng, kind="ELU", layers=8),
    "residual MLP": lambda rng: residual_mlp(rng, blocks=6),
    "transformer, 4 blocks": lambda rng: transformer(rng, blocks=4),
    "transformer, 12 blocks": lambda rng: transformer(rng, blocks=12),
    "transformer, 24 blocks, post-norm": lambda rng: transformer(rng, blocks=24, post=True),
    "language model, causal, tied": lambda rng: transformer(rng, blocks=3, causal=True, tied=True),
    "convolutional net": conv_net,
    "residual convolutional net": residual_conv_net,
    "gated convolutions": gated_conv_net,
    "RNN": lambda rng: recurrent_net(rng, kind="rnn", layers=2),
    "GRU, bidirectional": lambda rng: recurrent_net(rng, kind="gru", layers=1, bidirectional=True),
    "LSTM, 3 layers": lambda rng: recurrent_net(rng, kind="lstm", layers=3),
    "mixer": mixer,
    "gated MLP": gated_mlp,
    "autoencoder": autoencoder,
    "cross attention": cross_attention,
    "depthwise convolutions": depthwise_conv_net,
    "squeeze and excitation": squeeze_excite,
    "deep set": deep_set,
}
"""A net of each kind from a generator."""
