"""Generation as one call into the compiled library: all characters, without a step of XLA's.

Shapes: N tokens to generate, B texts at once, D layers, H hidden size, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.nn.model import Components
from jaxrnn.recurrent.cells import TANH, Carry
from jaxrnn.recurrent.compiled.calls import NUMBERS, pack
from jaxrnn.recurrent.recurrence import input_gates, which_backend


def runs_compiled(components: Components) -> bool:
    """Whether `generate_compiled` can run a model on this machine."""
    dtypes = {array.dtype for array in jax.tree.leaves(components.arrays)}
    way = which_backend(components.stack.cell, components.rnn["weight_hh_l0"].dtype)
    return way == "compiled" and len(dtypes) == 1 and not components.stack.bidirectional


def generate_compiled(
    components: Components,
    carry: tuple[Carry, ...],
    token: Int[Array, " B"],
    uniforms: Float[Array, "N B"] | None,
    length: int,
    *,
    temperature: Float[Array, ""] | float,
    banned: Bool[Array, " V"],
    count: Int[Array, ""] | int | None = None,
) -> tuple[tuple[Carry, ...], Int[Array, "N B"]]:
    """Write `length` characters after `token`, as `jaxrnn.generation.decoding` does step by step.

    Args:
        components: the model.
        carry: the carry before `token`.
        token: the last character of each text so far.
        uniforms: what decides on each character, from [0, 1); None writes the most likely ones.
        length: N.
        temperature: the logits are divided by it, where characters are drawn.
        banned: which tokens are never written.
        count: how many of the N tokens to generate, N if None. The rest are 0.

    Returns:
        The carry before the last character, and the characters; -1 where the model gives none a
        finite probability.
    """
    cell, rnn = components.stack.cell, components.rnn
    layers, dtype = range(components.stack.num_layers), components.kernel.dtype
    token = token.astype(jnp.int32)
    h, *c = (jnp.stack(fields) for fields in zip(*carry, strict=True))
    nothing = jnp.zeros((0,), dtype)

    def stacked(arrays: list[Array]) -> Array:
        return jnp.stack(arrays) if arrays else nothing

    table = input_gates(components.embedding, rnn["weight_ih_l0"], rnn["bias_ih_l0"])
    bias = jnp.where(banned, -jnp.inf, components.bias)
    inverse_temperature = jnp.ones(()) if uniforms is None else 1 / jnp.asarray(temperature, dtype)
    like = jax.ShapeDtypeStruct
    call = jax.ffi.ffi_call(
        "jaxrnn_write",
        (
            like((length, len(token)), jnp.int32),
            like(h.shape, dtype),
            like(c[0].shape if c else (0,), dtype),
        ),
        vmap_method="sequential",
    )
    written, *last = call(
        stacked([pack(cell, rnn[f"weight_hh_l{d}"]) for d in layers]),
        stacked([pack(cell, rnn[f"weight_ih_l{d}"]) for d in layers[1:]]),
        stacked([rnn[f"bias_hh_l{d}"] for d in layers]),
        stacked([rnn[f"bias_ih_l{d}"] for d in layers[1:]]),
        table,
        pack(TANH, components.kernel.T),
        bias,
        h,
        c[0] if c else nothing,
        token,
        nothing if uniforms is None else uniforms.astype(dtype),
        inverse_temperature.astype(dtype),
        jnp.asarray(length if count is None else count, jnp.int32),
        cell=np.int64(NUMBERS[cell]),
    )
    fields = last if c else last[:1]
    return tuple(cell.carry(*(field[d] for field in fields)) for d in layers), written
