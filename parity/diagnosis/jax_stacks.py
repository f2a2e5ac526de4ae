"""The library's recurrent stack, each layer and direction of which can be run by itself.

Shapes: T time steps, B batch, H hidden size.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.nn.layers import RNN
from jaxrnn.recurrent.inputs import Inputs
from parity.core.bridge import jax_arrays, numpy_arrays, numpy_of
from parity.core.pairs import named_fields, projection
from parity.core.runners import precision
from parity.diagnosis.identify import layer_weights
from parity.diagnosis.stacks import Part, PartResults, Parts, StackCase

# Options of a stack that its subclasses here share.
OPTIONS = ("cell", "hidden_size", "num_layers", "bidirectional", "dropout")


class OnePart(RNN):
    """The library's stack, of which only one layer and direction is run."""

    @nn.compact
    def __call__(self, name: str, carry: Any, xs: Any, mask: Any) -> Any:  # type: ignore[override]
        """The carry after the last step and the outputs."""
        return self._run(name, carry, Inputs(xs), mask, {})


class Recorded(RNN):
    """The library's stack, which records what every layer and direction reads and computes."""

    def _run(self, name: str, carry: Any, xs: Inputs, mask: Any, options: Any) -> Any:
        last, ys = super()._run(name, carry, xs, mask, options)
        self.sow("intermediates", name, (carry, xs.dense(), last, ys))
        return last, ys


class FreeRun(NamedTuple):
    """The whole stack in one go.

    Attributes:
        parts: what every layer and direction reads and computes.
        ys: the outputs.
        gradients: of the weights.
    """

    parts: Parts
    ys: np.ndarray
    gradients: dict[str, np.ndarray]


class JaxStack:
    """The library's stack; its programs are compiled once for each layer, direction and shape."""

    def __init__(self, case: StackCase) -> None:
        self.stack = case.stack
        self.weights = case.weights
        options = {name: getattr(case.stack, name) for name in OPTIONS}
        self.one_part = OnePart(**options, parent=None)
        self.recorded = Recorded(**options, parent=None)
        # One program for all parts: the name is static, so each is compiled when it is first run.
        self.program = jax.jit(
            jax.value_and_grad(self._projected, argnums=(1, 2, 3), has_aux=True),
            static_argnums=0,
        )

    def _projected(self, name: str, weights: Any, carry: Any, xs: Any, mask: Any) -> Any:
        # The module has all weights; those of this part are arguments, for their gradients.
        params = jax_arrays(self.weights, "float64")
        for kind, array in weights.items():
            params[f"{kind}_{name}"] = array
        last, ys = self.one_part.apply({"params": params}, name, carry, xs, mask)
        return projection({"ys": ys, **named_fields(last, last)}), (last, ys)

    def part(self, name: str, part: Part) -> PartResults:
        """One layer and direction."""
        with precision("float64"):
            results = self.program(
                name,
                jax_arrays(part.weights, "float64"),
                jax.tree.map(jnp.asarray, part.carry),
                jnp.asarray(part.xs),
                None if part.mask is None else jnp.asarray(part.mask),
            )
            # value_and_grad gives ((projection, results), gradients).
            (_, (last, ys)), (d_weights, d_carry, d_xs) = results
            gradients = {**d_weights, "xs": d_xs, **named_fields(d_carry, d_carry)}
            last = jax.tree.map(numpy_of, last)
            return PartResults(last, numpy_of(ys), None, numpy_arrays(gradients))

    def free(self, case: StackCase) -> FreeRun:
        """The whole stack."""

        def run(weights: Any, xs: Any) -> Any:
            (_, ys), recorded = self.recorded.apply(
                {"params": weights},
                jax.tree.map(jnp.asarray, case.carry),
                xs,
                lengths=case.lengths,
                dropout_masks=case.masks or None,
                mutable="intermediates",
            )
            return projection({"ys": ys}), (ys, recorded["intermediates"])

        with precision("float64"):
            weights = jax_arrays(case.weights, "float64")
            program = jax.jit(jax.grad(run, has_aux=True))
            gradients, (ys, recorded) = program(weights, jnp.asarray(case.xs))
            parts = {}
            for name, calls in recorded.items():
                parts[name] = _recorded_part(case, name, calls[0])  # sow collects calls; one here
            return FreeRun(parts, numpy_of(ys), numpy_arrays(gradients))


def _recorded_part(case: StackCase, name: str, recorded: Any) -> tuple[Part, PartResults]:
    carry, xs, last, ys = jax.tree.map(numpy_of, recorded)
    part = Part(
        case.stack.cell.name,
        layer_weights(case.weights, name),
        xs,
        carry,
        name.endswith("_reverse"),
        case.mask,
    )
    return part, PartResults(last, ys, None, {})
