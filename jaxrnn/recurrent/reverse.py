"""A mark on the inputs of a function whose backward pass is written by hand.

JAX takes a function with a backward pass of its own through reverse mode only, and says so in words
that help nobody who never wrote one. The mark is the identity. Its tangent is the identity too, but
one that can only be transposed, which is what reverse mode does with it: whoever evaluates it, in
forward mode, is told what to use instead.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

MESSAGE = (
    "Forward-mode derivatives (jvp, linearize, jacfwd, hessian) do not go through the fast "
    "recurrence, whose backward pass is written by hand: compute them within "
    "`with jaxrnn.backend('autodiff'):`, or use reverse mode (grad, vjp, jacrev)."
)

_mark = Primitive("recurrence_input")
_tangent = Primitive("recurrence_input_tangent")


def reverse_mode_only(*trees: Any) -> tuple[Any, ...]:
    """The same trees, through whose floating arrays no forward-mode derivative goes."""
    return jax.tree.map(_marked, trees)


def _marked(leaf: Any) -> Any:
    return _mark.bind(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _refuse(*_: Any, **__: Any) -> Any:
    raise ValueError(MESSAGE)


def _batched(primitive: Primitive) -> Any:
    return lambda arrays, axes: (primitive.bind(arrays[0]), axes[0])


_mark.def_impl(lambda x: x)
_mark.def_abstract_eval(lambda x: x)
mlir.register_lowering(_mark, lambda context, x: [x])
batching.primitive_batchers[_mark] = _batched(_mark)
ad.primitive_jvps[_mark] = lambda primals, tangents: (
    _mark.bind(*primals),
    tangents[0] if isinstance(tangents[0], ad.Zero) else _tangent.bind(*tangents),
)

_tangent.def_impl(_refuse)
_tangent.def_abstract_eval(lambda x: x)
mlir.register_lowering(_tangent, _refuse)
batching.primitive_batchers[_tangent] = _batched(_tangent)
ad.deflinear2(_tangent, lambda cotangent, _: [cotangent])
