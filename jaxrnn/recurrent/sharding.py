"""The recurrence on arrays whose rows lie on several devices.

On a mesh of `AxisType.Auto` axes XLA shares the rows out by itself. On one of `AxisType.Explicit`
axes the sharding is part of an array's type, and every operation has to say what it gives. Of the
recurrence that is known: each row stays where it is.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec, auto_axes


def is_explicit(array: Any) -> bool:
    """Whether the sharding of an array is part of its type: it lies on a mesh of explicit axes."""
    return AxisType.Explicit in jax.typeof(array).sharding.mesh.axis_types


def by_rows(run: Callable[..., Any], inputs: Any) -> Any:
    """`run(inputs)`; on a mesh of explicit axes, its results lie where the rows of x_gates do.

    Args:
        run: the recurrence, `run(inputs) -> (last, ys)`.
        inputs: its `jaxrnn.recurrent.handwritten.Arguments`.
    """
    explicit = [leaf for leaf in jax.tree.leaves(inputs) if is_explicit(leaf)]
    if not explicit:
        return run(inputs)
    values, tokens = inputs.x_gates
    spec = jax.typeof(values if tokens is None else tokens).sharding.spec  # of (T, B, ...)
    carry = jax.tree.map(lambda _: PartitionSpec(spec[1], None), inputs.carry)
    wanted = (carry, PartitionSpec(None, spec[1], None))
    with jax.sharding.use_abstract_mesh(jax.typeof(explicit[0]).sharding.mesh):
        return auto_axes(run, out_sharding=wanted)(inputs)
