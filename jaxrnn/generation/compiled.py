"""Generation as one call into the compiled library: all tokens, without a step of XLA's.

Shapes: N tokens to generate, B texts at once, D layers, H hidden size, V vocabulary, F fields of
the cell's carry.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.nn.model import Components
from jaxrnn.recurrent.cells import Carry, Cell
from jaxrnn.recurrent.compiled.calls import join_carry, pack, split_carry, stacked_params
from jaxrnn.recurrent.compiled.generated import generated
from jaxrnn.recurrent.layer import WithInput
from jaxrnn.recurrent.linear import carry_of, state_of, window_of
from jaxrnn.recurrent.recurrence import which_backend


def runs_compiled(components: Components) -> bool:
    """Whether `generate_compiled` can run a model on this machine."""
    cell = components.stack.cell
    if not isinstance(cell, Cell):
        return False
    dtypes = {array.dtype for array in jax.tree.leaves(components.arrays)}
    way = which_backend(cell, components.rnn["weight_ih_l0"].dtype)
    stack = components.stack
    plain = not stack.bidirectional and not stack.proj_size
    return way == "compiled" and len(dtypes) == 1 and plain


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
    """Generate `length` tokens after `token`, as `jaxrnn.generation.decoding` does step by step.

    Args:
        components: the model.
        carry: the carry before `token`.
        token: the last token of each text so far.
        uniforms: what decides on each token, from [0, 1); None chooses the most likely ones.
        length: N.
        temperature: the logits are divided by it, where tokens are sampled.
        banned: which tokens are never generated.
        count: how many of the N tokens to generate, N if None. The rest are 0.

    Returns:
        The carry before the last token, and the tokens; -1 where the model gives none a finite
        probability.
    """
    cell = components.stack.cell
    functions = generated(cell)
    assert functions is not None, f"the cell {cell.name!r} does not run compiled"
    layers, dtype = range(components.stack.num_layers), components.kernel.dtype
    token = token.astype(jnp.int32)
    windowed = window_of(cell) > 1
    inner = carry
    if windowed:
        inner = tuple(carry_of(cell, layer.h, layer.c) for layer in carry)
    # (D, B, H), and (F - 1, D, B, H) or nothing
    h, others = split_carry(cell.carry(*(jnp.stack(fields) for fields in zip(*inner, strict=True))))
    newest = [layer.x.astype(dtype) for layer in carry] if windowed else []
    weights = _weights(components, newest[:1])
    bias = jnp.where(banned, -jnp.inf, components.bias)
    inverse_temperature = jnp.ones(()) if uniforms is None else 1 / jnp.asarray(temperature, dtype)
    like = jax.ShapeDtypeStruct
    call = jax.ffi.ffi_call(
        "jaxrnn_generate",
        (
            like((length, len(token)), jnp.int32),
            like(h.shape, dtype),
            like(others.shape, dtype),
        ),
        vmap_method="sequential",
    )
    generated_tokens, h, others = call(
        _stacked(weights.hh, dtype),
        _stacked(weights.ih, dtype),
        _stacked(weights.biases_hh, dtype),
        _stacked(weights.biases_ih, dtype),
        _stacked(weights.params, dtype),
        weights.table,
        pack(components.kernel.T, 1),
        bias,
        h,
        others,
        _stacked(newest[1:], dtype),
        token,
        _stacked([], dtype) if uniforms is None else uniforms.astype(dtype),
        inverse_temperature.astype(dtype),
        jnp.asarray(length if count is None else count, jnp.int32),
        cell=functions.fingerprint,
    )
    after = join_carry(cell, h, others)
    carries = tuple(cell.carry(*(field[d] for field in after)) for d in layers)
    if windowed:
        made = length if count is None else count
        read = jnp.concatenate([token[None], generated_tokens])[jnp.maximum(made, 1) - 1]  # (B,)
        newest = [components.embedding[jnp.maximum(read, 0)], *(field.h for field in carries[:-1])]
        carries = tuple(
            WithInput(layer.h, state_of(layer), jnp.where(made > 0, x, start.x))
            for layer, x, start in zip(carries, newest, carry, strict=True)
        )
    return carries, generated_tokens


class _Weights(NamedTuple):
    """The parameters of a stack as the library takes them, layer by layer, matrices packed.

    Attributes:
        hh: what is multiplied in each layer by the carry or, in a window of 2, by the input before
            (in the layers from the second on).
        ih: input weights of the layers from the second on.
        biases_hh: those of `hh`; where there is no recurrent product, the only ones.
        biases_ih: those of `ih`.
        params: the cell's own.
        table: (V, G * H), the first layer's gates of each token; in a window of 2 with a row for
            each token and each text as the input before, (2 * V + B, G * H).
    """

    hh: list[Array]
    ih: list[Array]
    biases_hh: list[Array]
    biases_ih: list[Array]
    params: list[Array]
    table: Array


def _weights(components: Components, before: Sequence[Float[Array, "B I"]]) -> _Weights:
    """The parameters; `before` are the inputs before the first token, in a window of 2."""
    cell, rnn, embedding = components.stack.cell, components.rnn, components.embedding
    layers, gates = range(components.stack.num_layers), len(cell.gates)
    zeros = jnp.zeros((len(rnn["weight_ih_l0"]),), embedding.dtype)  # of a stack without biases
    biases = {k: [rnn.get(f"{k}_l{d}", zeros) for d in layers] for k in ("bias_ih", "bias_hh")}
    weights = [rnn[f"weight_ih_l{d}"] for d in layers]
    older: list[Array] = []  # in a window of 2, the columns of the input before
    if before:
        older = [jnp.split(weight, 2, axis=1)[1] for weight in weights]
        weights = [jnp.split(weight, 2, axis=1)[0] for weight in weights]
    table = embedding @ weights[0].T
    if before:
        rows = jnp.concatenate([embedding, *before])
        table = jnp.concatenate([table, rows @ older[0].T])
    params = []
    if cell.params:
        of_layers = [{name: rnn[f"{name}_l{d}"] for name in cell.params} for d in layers]
        params = [stacked_params(cell, own, like=embedding) for own in of_layers]
    if cell.recurrent:
        table = table + biases["bias_ih"][0]
        products = [rnn[f"weight_hh_l{d}"] for d in layers]
        biases_hh, biases_ih = biases["bias_hh"], biases["bias_ih"][1:]
    else:
        # The only bias takes the place of the recurrent half of the gates.
        products, biases_hh, biases_ih = older[1:], biases["bias_ih"], []
    return _Weights(
        [pack(weight, gates) for weight in products],
        [pack(weight, gates) for weight in weights[1:]],
        biases_hh,
        biases_ih,
        params,
        table,
    )


def _stacked(arrays: Sequence[Array], dtype: DTypeLike) -> Array:
    """Arrays along a new first axis; an empty array where there are none."""
    return jnp.stack(arrays) if arrays else jnp.zeros((0,), dtype)
