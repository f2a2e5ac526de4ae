"""A layer whose output is a projection of the cell's, as `proj_size` of `torch.nn.LSTM`.

Shapes: T time steps, B batch, I input size, H hidden size, P projection size, G gates of the cell.

The output, and what the recurrent product reads, is narrower than the cell state. So the gates
need fewer numbers for as large a memory: G * H * P + P * H instead of G * H * H.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxrnn.array_checks import as_carry, described
from jaxrnn.checks import check_at_least_1
from jaxrnn.recurrent.cells import Carry, Cell, Initializer, Params
from jaxrnn.recurrent.inputs import Inputs, Projection, input_gates
from jaxrnn.recurrent.layer import Param, uniform, where_rows


@dataclass(frozen=True)
class ProjectedLayer:
    """A layer of a cell with a cell state `c`, whose `h` is projected from H to P units.

        h' = W_hr h'

    The parameters are those of `torch.nn.LSTM`: `weight_ih` (G * H, I), `weight_hh` (G * H, P),
    `weight_hr` (P, H), `bias_ih` and `bias_hh` (G * H,), and the cell's own, (H,). Sak, Senior and
    Beaufays 2014, https://arxiv.org/abs/1402.1128.

    It is a plain `lax.scan` with JAX's own derivatives.

    Attributes:
        cell: what one step does; it must read `c` alone of its carry.
        hidden_size: H.
        proj_size: P.
        recurrent_init: how `weight_hh` starts; as the others, uniform in +-1 / sqrt(H), if None.
        bias: whether there are `bias_ih` and `bias_hh`.

    Raises:
        ValueError: if P does not lie in [1, H), or the cell has no cell state, or no recurrent
            gates.
    """

    cell: Cell
    hidden_size: int
    proj_size: int
    recurrent_init: Initializer | None = None
    bias: bool = True

    def __post_init__(self) -> None:
        check_at_least_1(proj_size=self.proj_size)
        if self.proj_size >= self.hidden_size:
            raise ValueError(
                f"proj_size must be less than hidden_size, {self.hidden_size}, got "
                f"{self.proj_size}."
            )
        cell = self.cell
        gated = isinstance(cell, Cell) and cell.recurrent
        if not gated or "c" not in cell.carry._fields:
            name = getattr(cell, "name", type(cell).__name__)
            raise ValueError(
                "proj_size is for cells with recurrent gates and a cell state c, such as "
                f"jaxrnn.LSTM; {name} is none."
            )
        if cell.zoneout is not None:
            raise ValueError(f"proj_size is for cells without zoneout; {cell.name} has it.")

    def initial_carry(
        self, batch_size: int, dtype: DTypeLike = jnp.float32, *, input_size: int | None = None
    ) -> Carry:
        """Zeros: `h` is (B, P), every other field (B, H)."""
        carry = self.cell.zeros(batch_size, self.hidden_size, dtype)
        return carry._replace(h=jnp.zeros((batch_size, self.proj_size), dtype))

    def __call__(
        self,
        param: Param,
        carry: Carry,
        xs: Inputs,
        mask: Bool[Array, "T B"] | None,
        *,
        reverse: bool,
        resets: Bool[Array, "T B"] | None = None,
    ) -> tuple[Carry, Float[Array, "T B P"]]:
        """The loop over products, step and projection; all in the precision of `weight_hh`."""
        # The parameters, by torch's names.
        H = self.hidden_size
        P = self.proj_size
        GH = len(self.cell.gates) * H
        init = uniform(1 / math.sqrt(H))
        weight_ih = param("weight_ih", init, (GH, xs.shape[-1]))
        weight_hh = param("weight_hh", self.recurrent_init or init, (GH, P))
        dtype = weight_hh.dtype
        weight_hr = param("weight_hr", init, (P, H)).astype(dtype)
        if self.bias:
            bias_ih = param("bias_ih", init, (GH,)).astype(dtype)
            bias_hh = param("bias_hh", init, (GH,)).astype(dtype)
        else:
            bias_ih = bias_hh = jnp.zeros((GH,), dtype)
        own = {
            name: param(name, self.cell.param_init.get(name, init), (H,)).astype(dtype)
            for name in self.cell.params
        }
        # The input half of the gates needs no carry: one product for all steps, (T, B, G * H).
        projection = Projection(weight_ih.astype(dtype), bias_ih)
        x_gates = input_gates(xs.astype(dtype), projection).dense()
        batch_size = x_gates.shape[1]
        like = jax.eval_shape(lambda: self.initial_carry(batch_size, dtype))
        carry = as_carry(carry, like)
        self._check_step(batch_size, dtype, own)

        def step(carry: Carry, here: Any) -> tuple[Carry, Array]:
            x, running, reset = here  # (B, G * H), (B,), (B,)
            if reset is not None:
                zeroed = reset if running is None else reset & running
                carry = where_rows(zeroed, self.initial_carry(batch_size, dtype), carry)
            h_gates = carry.h @ weight_hh.T + bias_hh  # (B, P) -> (B, G * H)
            after = self.cell.step(carry._replace(h=None), x, h_gates, **own)
            after = after._replace(h=after.h @ weight_hr.T)  # (B, H) -> (B, P)
            if running is None:
                return after, after.h
            # A step that does not count leaves the carry as it is.
            after = where_rows(running, after, carry)
            return after, jnp.where(running[:, None], after.h, 0)

        return lax.scan(step, carry, (x_gates, mask, resets), reverse=reverse)

    def _check_step(self, batch_size: int, dtype: DTypeLike, own: Params) -> None:
        """Refuse a step that reads `h`, which has P units here, or that gives another carry."""
        like = jax.eval_shape(lambda: self.cell.zeros(batch_size, self.hidden_size, dtype))
        gates = jax.ShapeDtypeStruct((batch_size, len(self.cell.gates) * self.hidden_size), dtype)
        try:
            after = jax.eval_shape(self.cell.step, like._replace(h=None), gates, gates, **own)
        except (AttributeError, TypeError) as error:
            raise ValueError(
                f"proj_size is for cells whose step reads c alone of the carry, such as "
                f"jaxrnn.LSTM; that of {self.cell.name!r} fails without h."
            ) from error
        if described(after) != described(like):
            raise ValueError(
                f"The step of the cell {self.cell.name!r} must give {described(like)}, it gives "
                f"{described(after)}."
            )
