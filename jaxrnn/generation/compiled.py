"""Generation as one call into the compiled library: all tokens, without a step of XLA's.

Shapes: N tokens to generate, B texts at once, D layers, H hidden size, V vocabulary, F fields of
the cell's carry.
"""

import jax
import jax.numpy as jnp
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
    cell, rnn = components.stack.cell, components.rnn
    functions = generated(cell)
    assert functions is not None, f"the cell {cell.name!r} does not run compiled"
    layers, dtype = range(components.stack.num_layers), components.kernel.dtype
    token = token.astype(jnp.int32)
    gates = len(cell.gates)
    nothing = jnp.zeros((0,), dtype)
    window = window_of(cell)
    inner = carry
    if window > 1:
        inner = tuple(carry_of(cell, layer.h, layer.c) for layer in carry)
    # (D, B, H), and (F - 1, D, B, H) or nothing
    h, others = split_carry(cell.carry(*(jnp.stack(fields) for fields in zip(*inner, strict=True))))

    def stacked(arrays: list[Array]) -> Array:
        return jnp.stack(arrays) if arrays else nothing

    def params(layer: int) -> dict[str, Array]:
        return {name: rnn[f"{name}_l{layer}"] for name in cell.params}

    def bias_of(kind: str, layer: int) -> Array:
        zeros = jnp.zeros((gates * h.shape[-1],), dtype)  # of a stack without biases
        return rnn.get(f"{kind}_l{layer}", zeros)

    weights_ih = [rnn[f"weight_ih_l{d}"] for d in layers]
    older = []  # in a window of 2, the columns of the input before
    if window > 1:
        older = [jnp.split(weight, 2, axis=1)[1] for weight in weights_ih]
        weights_ih = [jnp.split(weight, 2, axis=1)[0] for weight in weights_ih]
    table = components.embedding @ weights_ih[0].T  # (V, G * H)
    if older:
        before = jnp.concatenate([components.embedding, carry[0].x.astype(dtype)])
        table = jnp.concatenate([table, before @ older[0].T])  # (2 * V + B, G * H)
    if cell.recurrent:
        table = table + bias_of("bias_ih", 0)
        weights_hh = [pack(rnn[f"weight_hh_l{d}"], gates) for d in layers]
        biases_hh = [bias_of("bias_hh", d) for d in layers]
        biases_ih = [bias_of("bias_ih", d) for d in layers[1:]]
    else:
        # The only bias takes the place of the recurrent half of the gates.
        weights_hh = [pack(weight, gates) for weight in older[1:]]
        biases_hh = [bias_of("bias_ih", d) for d in layers]
        biases_ih = []
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
        stacked(weights_hh),
        stacked([pack(weight, gates) for weight in weights_ih[1:]]),
        stacked(biases_hh),
        stacked(biases_ih),
        stacked([stacked_params(cell, params(d), like=bias) for d in layers if cell.params]),
        table,
        pack(components.kernel.T, 1),
        bias,
        h,
        others,
        stacked([layer.x.astype(dtype) for layer in carry[1:]] if older else []),
        token,
        nothing if uniforms is None else uniforms.astype(dtype),
        inverse_temperature.astype(dtype),
        jnp.asarray(length if count is None else count, jnp.int32),
        cell=functions.fingerprint,
    )
    after = join_carry(cell, h, others)
    carries = tuple(cell.carry(*(field[d] for field in after)) for d in layers)
    if older:
        made = length if count is None else count
        read = jnp.concatenate([token[None], generated_tokens])[jnp.maximum(made, 1) - 1]  # (B,)
        newest = [components.embedding[jnp.maximum(read, 0)], *(field.h for field in carries[:-1])]
        carries = tuple(
            WithInput(layer.h, state_of(layer), jnp.where(made > 0, x, start.x))
            for layer, x, start in zip(carries, newest, carry, strict=True)
        )
    return carries, generated_tokens
