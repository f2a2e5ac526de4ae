"""Reading a small table instead of large inputs.

Shapes: T time steps, B batch, V rows of the table, I input size.
"""

from typing import NamedTuple

from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int


class EmbeddedTokens(NamedTuple):
    """Rows of a table instead of (T, B, ...) inputs: step t reads `table[tokens[t]]`.

    A product with the table serves all the T * B places where its rows are read, and the loop over
    time reads from a small table instead of from the inputs of all steps. A token outside the table
    reads the nearest row, on every backend.
    """

    table: Float[Array, "V I"]
    tokens: Int[Array, "T B"]

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, B, I), as the inputs that are read have it."""
        return (*self.tokens.shape, self.table.shape[-1])

    def astype(self, dtype: DTypeLike) -> "EmbeddedTokens":
        """The same rows in another precision."""
        return self._replace(table=self.table.astype(dtype))
