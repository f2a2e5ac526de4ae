"""Oracles: slow, obvious versions of what the library does fast."""

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxrnn import RNN, Cell
from jaxrnn.recurrent import scan
from jaxrnn.recurrent.cells import Carry
from jaxrnn.recurrent.compiled import calls
from jaxrnn.recurrent.handwritten import Arguments
from jaxrnn.recurrent.inputs import inputs_of
from jaxrnn.runs import checkpoints
from jaxrnn.runs.config import Config
from jaxrnn.runs.experiment import prepare
from jaxrnn.runs.run import Run
from jaxrnn.training.history import Position, Progress

EXACT = 1e-12
"""For float64: round-off of sums of about 100 terms is near 1e-15, a wrong term near 1e-2."""
FLOAT32 = 2e-5
"""For float32 gradients of a few steps: 100 times its round-off."""


def relative(x: Any, y: Any) -> float:
    """The largest |x - y|_2 / |y|_2 over the leaves of two trees of the same structure."""
    errors = jax.tree.map(_relative, x, y)
    return max(jax.tree.leaves(errors), default=0.0)


def _relative(x: Any, y: Any) -> float:
    x, y = np.asarray(x, float), np.asarray(y, float)
    assert x.shape == y.shape
    scale = np.linalg.norm(y)
    return float(np.linalg.norm(x - y) / scale) if scale else float(np.linalg.norm(x))


def scan_oracle(
    cell: Cell, reverse: bool, weight_hh: Any, bias_hh: Any, carry: Carry, x_gates: Any
) -> tuple[Carry, Any]:
    """`recurrence` as a plain `lax.scan`, with autodiff's own backward pass."""

    def body(carry: Carry, x: Any) -> tuple[Carry, Any]:
        carry = cell.step(carry, x, carry.h @ weight_hh.T + bias_hh)
        return carry, carry.h

    return lax.scan(body, carry, x_gates, reverse=reverse)


def loop_oracle(
    cell: Cell, reverse: bool, weight_hh: Any, bias_hh: Any, carry: Carry, x_gates: Any
) -> tuple[Carry, Any]:
    """`recurrence` as a Python loop."""
    steps = range(len(x_gates))
    ys: list[Any] = [None] * len(x_gates)
    for t in reversed(steps) if reverse else steps:
        carry = cell.step(carry, x_gates[t], carry.h @ weight_hh.T + bias_hh)
        ys[t] = carry.h
    return carry, jnp.stack(ys)


def on_arrays(run: Callable[..., Any]) -> Callable[..., Any]:
    """`scanned` or `compiled`, called as `recurrence`."""

    @wraps(run)
    def with_inputs(
        cell: Cell, reverse: bool, weight: Any, bias: Any, carry: Carry, x_gates: Any, *rest: Any
    ) -> Any:
        return run(cell, reverse, Arguments(weight, bias, carry, inputs_of(x_gates), *rest))

    return with_inputs


scanned = on_arrays(scan.scanned)
compiled = on_arrays(calls.compiled)


def normal(seed: int, *shape: int, dtype: Any = float) -> jax.Array:
    """Standard normal numbers. NumPy draws them: JAX would compile a program for each shape."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(dtype))


def random_tree(key: jax.Array, like: Any) -> Any:
    """A tree of standard normal numbers in the shapes of `like`: no zero hides a missing term."""
    # NumPy draws them: JAX would compile a program for each shape.
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape).astype(x.dtype)), like)


def random_stack(
    rnn: RNN, inputs: int, batch: int, steps: int, dtype: Any, seed: int = 0
) -> tuple[Any, Any, Any]:
    """Parameters, carry and inputs of a stack: random, nothing zero."""
    first = rnn.initial_carry(batch, dtype, input_size=inputs)
    carry = random_tree(jax.random.key(seed), first)
    xs = normal(seed + 1, steps, batch, inputs, dtype=dtype)
    shapes = jax.eval_shape(rnn.init, jax.random.key(0), carry, xs)["params"]
    params = random_tree(jax.random.key(seed + 2), shapes)
    # As large as those that a stack starts with.
    scale = rnn.hidden_size**-0.5
    return jax.tree.map(lambda p: jnp.asarray(np.asarray(p) * scale, dtype), params), carry, xs


def untrained_run(folder: Path | str, *, corpus: str, prompt: str = "the", **options: Any) -> Run:
    """A small run at random weights, after no update.

    Args:
        folder: its place.
        corpus: its text.
        prompt: what samples begin with.
        options: other values of its `Config`.
    """
    small = {"embedding_size": 4, "hidden_size": 8, "batch_size": 4, "bptt": 10, "seed": 3}
    plain = {"model": "CharSeqStatefulRnn", "random_bptt": False, "min_frequency": 1}
    experiment = prepare(Config(corpus=corpus, **{**small, **plain, **options}))
    run = Run.create(folder, experiment, prompt=prompt)
    run.save("last", Progress(experiment.fresh_state(), Position(), 1), float("inf"))
    return run


def with_valid_checksum(header, body=b""):
    """A checkpoint with any header, whose checksum is right: as an attacker would make it."""
    described = {"sha256": "0" * 64, "format": checkpoints.FORMAT, "metadata": {}}
    begin = {"__metadata__": {"jaxrnn": json.dumps(described)}}
    text = json.dumps(begin | header, separators=(",", ":")).encode()
    return checkpoints.with_header_checksum(len(text).to_bytes(8, "little") + text + body)
