"""What a layer reads at every time step: inputs of its own, or rows of a small table.

Shapes: T time steps, B batch, V rows of the table, I input size, K rows that a place reads.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxrnn.array_checks import as_array, as_floats, as_integers
from jaxrnn.recurrent.sharding import is_explicit


class Inputs(NamedTuple):
    """A sequence of inputs, or a table and which of its rows each step reads.

    With a table, a product serves all the T * B places where its rows are read, and the loop over
    time reads from a small table instead of from the inputs of all steps. A token outside the table
    reads the nearest row, on every backend.

    Attributes:
        values: the inputs, (T, B, I); with `tokens`, the table, (V, I).
        tokens: step t of sequence b reads `values[tokens[t, b]]`, or the sum of K rows; None if
            `values` are the inputs.
    """

    values: Float[Array, "T B I"] | Float[Array, "V I"]
    tokens: Int[Array, "T B"] | Int[Array, "T B K"] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, B, I), whether the inputs are read from a table or not."""
        if self.tokens is None:
            return self.values.shape
        return (*self.tokens.shape[:2], self.values.shape[-1])

    def map(self, function: Callable[[Array], Array]) -> "Inputs":
        """The inputs after a function of the last axis, such as a product with a weight."""
        return self._replace(values=function(self.values))

    def astype(self, dtype: DTypeLike) -> "Inputs":
        """The same inputs in another precision."""
        return self._replace(values=self.values.astype(dtype))

    def dense(self) -> Float[Array, "T B I"]:
        """The inputs themselves: rows of a table are gathered."""
        if self.tokens is None:
            return self.values
        rows = rows_of(self.values, self.tokens)
        return rows if self.tokens.ndim == 2 else rows.sum(axis=2)


class Projection(NamedTuple):
    """What makes the input half of the gates of a layer's inputs, x @ weight_ih.T + bias_ih."""

    weight_ih: Float[Array, "GH I"]
    bias_ih: Float[Array, " GH"]


def input_gates(xs: Inputs, projection: Projection) -> Inputs:
    """The input half of the gates at every step, (T, B, G * H); of a table, that of its rows."""
    weight_ih, bias_ih = projection
    return xs.map(lambda values: values @ weight_ih.T + bias_ih)


def rows_of(table: Float[Array, "V I"], tokens: Int[Array, "*N"]) -> Float[Array, "*N I"]:
    """The rows of a table by their numbers; of a number outside, the nearest row."""
    if not is_explicit(tokens):
        return table.at[tokens].get(mode="clip")
    # The rows lie where the numbers do.
    sharding = jax.typeof(tokens).sharding
    wanted = sharding.update(spec=PartitionSpec(*sharding.spec, None))
    return table.at[tokens].get(mode="clip", out_sharding=wanted)


def inputs_of(xs: Any) -> Inputs:
    """`Inputs` as they are, and anything else, such as an array, as inputs without a table."""
    return xs if isinstance(xs, Inputs) else Inputs(xs)


def as_inputs(xs: Any, axes: Sequence[str] = ("T", "B")) -> Inputs:
    """The inputs of a layer, checked.

    Args:
        xs: an array (T, B, I) of floating numbers, or `Inputs`.
        axes: the leading axes by their letters, if they are others than T and B.

    Raises:
        ValueError: if the inputs, the table or the tokens are no such arrays.
    """
    values, tokens = inputs_of(xs)
    if tokens is None:
        values = as_array("xs", values, (*axes, "I"))
        return Inputs(as_floats("xs", values, values.shape, values.dtype))
    tokens = as_integers("tokens", tokens, axes)
    values = as_array("the table", values, ("V", "I"))
    return Inputs(as_floats("the table", values, values.shape, values.dtype), tokens)
