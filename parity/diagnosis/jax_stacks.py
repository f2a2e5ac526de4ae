"""The library's recurrent stack, each layer and direction of which can be run by itself.

Shapes: T time steps, B batch, H hidden size.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.nn.layers import RNN
from parity.core.bridge import numpy_of
from parity.core.pairs import projection
from parity.core.runners import precision
from parity.diagnosis.identify import layer_weights
from parity.diagnosis.stacks import NAMES, Case, Part, Ran


class OnePart(RNN):
    """The library's stack, of which only one layer and direction is run."""

    @nn.compact
    def __call__(self, name: str, carry: Any, xs: Any, mask: Any) -> Any:  # type: ignore[override]
        """The carry after the last step and the outputs."""
        return self._run(name, carry, xs, mask)


class Recorded(RNN):
    """The library's stack, which keeps what goes into every layer and direction."""

    def _run(self, name: str, carry: Any, xs: Any, mask: Any) -> Any:
        last, ys = super()._run(name, carry, xs, mask)
        self.sow("intermediates", name, (tuple(carry), xs, tuple(last), ys))
        return last, ys


class JaxStack:
    """The library's stack; its programs are compiled once for each layer, direction and shape."""

    def __init__(self, case: Case) -> None:
        stack = self.stack = case.stack
        self.weights = case.weights
        options = {
            field: getattr(stack, field)
            for field in ("cell", "hidden_size", "num_layers", "bidirectional", "dropout")
        }
        self.one, self.all = OnePart(**options, parent=None), Recorded(**options, parent=None)
        self.program = jax.jit(
            jax.value_and_grad(self._projected, argnums=(1, 2, 3), has_aux=True),
            static_argnums=0,
        )

    def _projected(self, name: str, weights: Any, carry: Any, xs: Any, mask: Any) -> Any:
        params = {key: jnp.asarray(array) for key, array in self.weights.items()}
        params |= {f"{kind}_{name}": array for kind, array in weights.items()}
        carry = self.stack.cell.carry(*carry)
        last, ys = self.one.apply({"params": params}, name, carry, xs, mask)
        fields = {f"carry.{f}": getattr(last, f) for f in last._fields}
        return projection({"ys": ys, **fields}), (tuple(last), ys)

    def part(self, name: str, part: Part) -> Ran:
        """One layer and direction."""
        with precision("float64"):
            weights = {kind: jnp.asarray(a) for kind, a in zip(NAMES, part.w, strict=True)}
            carry = tuple(jnp.asarray(field) for field in part.carry)
            mask = None if part.mask is None else jnp.asarray(part.mask)
            results = self.program(name, weights, carry, jnp.asarray(part.xs), mask)
            (_, (last, ys)), (d_weights, d_carry, d_xs) = results
            gradients = d_weights | {"xs": d_xs}
            gradients |= {f"carry.{f}": d for f, d in zip("hc", d_carry, strict=False)}
            named = {name: numpy_of(d) for name, d in gradients.items()}
            return Ran(tuple(numpy_of(field) for field in last), numpy_of(ys), None, named)

    def free(self, case: Case) -> tuple[dict[str, tuple[Part, Ran]], np.ndarray, dict[str, Any]]:
        """The whole stack: what every part got and gave, the outputs, the weights' gradients."""

        def run(weights: Any, xs: Any) -> Any:
            """The projection, the outputs, and what every part got and gave."""
            carry = tuple(self.stack.cell.carry(*fields) for fields in case.carry)
            options: dict[str, Any] = {"lengths": case.lengths, "dropout_masks": case.masks or None}
            (_, ys), kept = self.all.apply(
                {"params": weights}, carry, xs, **options, mutable="intermediates"
            )
            return projection({"ys": ys}), (ys, kept["intermediates"])

        with precision("float64"):
            weights = {name: jnp.asarray(array) for name, array in case.weights.items()}
            program = jax.jit(jax.grad(run, has_aux=True))
            gradients, (ys, kept) = program(weights, jnp.asarray(case.xs))
            parts = {name: _recorded(case, name, seen[0]) for name, seen in kept.items()}
            return parts, numpy_of(ys), {n: numpy_of(d) for n, d in gradients.items()}


def _recorded(case: Case, name: str, seen: Any) -> tuple[Part, Ran]:
    carry, xs, last, ys = jax.tree.map(numpy_of, seen)
    w = layer_weights(case.weights, f"_{name}")
    reverse = name.endswith("_reverse")
    part = Part(case.stack.cell.name, w, xs, carry, reverse, case.mask)
    return part, Ran(last, ys, None, {})
