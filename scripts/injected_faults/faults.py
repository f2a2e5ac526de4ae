"""A fault in one operation of a JAX function, drawn at random.

Nothing here knows what is looked for: the operation is any of the function's, and what happens to
it is drawn from what its kind allows.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from parity.tracing.jax_trace import Interpreter

Generator = np.random.Generator
Bind = Callable[..., Any]


class Fault(NamedTuple):
    """A function with a fault in it.

    Attributes:
        function: the function.
        scope: the scope of the operation, which is the name of its module.
        words: what was done.
    """

    function: Callable[..., Any]
    scope: str
    words: str


ARITHMETIC: dict[str, Bind] = {
    "add": jnp.add,
    "sub": jnp.subtract,
    "mul": jnp.multiply,
    "div": jnp.divide,
    "max": jnp.maximum,
    "min": jnp.minimum,
}
FUNCTIONS: dict[str, Bind] = {
    "tanh": jnp.tanh,
    "logistic": lax.logistic,
    "exp": jnp.exp,
    "erf": lax.erf,
    "sin": jnp.sin,
    "square": jnp.square,
    "neg": jnp.negative,
    "abs": jnp.abs,
    "expm1": jnp.expm1,
}


def _of_arithmetic(rng: Generator, name: str) -> tuple[str, Bind]:
    others = [other for other in ARITHMETIC if other != name]
    choice = rng.choice(["other", "exchanged", "first", "constant"])
    if choice == "exchanged" and name in ("sub", "div"):
        return "operands exchanged", lambda x, y: ARITHMETIC[name](y, x)
    if choice == "first":
        return "only the first operand", lambda x, y: jnp.broadcast_to(
            x, jnp.broadcast_shapes(jnp.shape(x), jnp.shape(y))
        )
    if choice == "constant":
        factor = float(1 + rng.choice([-1, 1]) * 10 ** rng.uniform(-4, -0.3))
        return f"second operand times {factor:.4g}", lambda x, y: ARITHMETIC[name](x, y * factor)
    other = str(rng.choice(others))
    return f"{other} for {name}", ARITHMETIC[other]


def _of_function(rng: Generator, name: str) -> tuple[str, Bind]:
    other = str(rng.choice([other for other in FUNCTIONS if other != name]))
    return f"{other} for {name}", FUNCTIONS[other]


def _of_output(rng: Generator, array: Any) -> tuple[str, Bind]:
    """What may happen to any floating result."""
    shape = jnp.shape(array)
    long = [axis for axis, length in enumerate(shape) if length > 1]
    choice = rng.choice(["scaled", "shifted", "rolled", "flipped", "bfloat16", "float32"])
    if choice in ("rolled", "flipped") and long:
        axis = int(rng.choice(long))
        if choice == "rolled":
            return f"rolled along axis {axis}", lambda y: jnp.roll(y, 1, axis)
        return f"flipped along axis {axis}", lambda y: jnp.flip(y, axis)
    if choice in ("bfloat16", "float32"):
        return f"rounded to {choice}", lambda y: y.astype(choice).astype(y.dtype)
    amount = float(rng.choice([-1, 1]) * 10 ** rng.uniform(-4, 0))
    if choice == "shifted":
        return f"{amount:.4g} added", lambda y: y + amount
    return f"times {1 + amount:.4g}", lambda y: y * (1 + amount)


def _may_be_faulty(equation: Any) -> bool:
    # Casts come and go with the precision of the arguments.
    if equation.primitive.multiple_results or equation.primitive.name == "convert_element_type":
        return False
    return bool(jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating))


def _signature(equation: Any) -> tuple[str, str, tuple[int, ...]]:
    shape = equation.outvars[0].aval.shape
    return equation.primitive.name, str(equation.source_info.name_stack), shape


class _Faulty(Interpreter):
    """Runs one operation otherwise."""

    def __init__(self, place: int, changed: Callable[[Any, Sequence[Any], Bind], Any]) -> None:
        super().__init__(lambda number, around, value, made_from: value, inside_rules=True)
        self._place = place
        self._changed = changed
        self._operations = 0

    def bound(self, equation: Any, values: Sequence[Any]) -> Any:
        """The result of an operation."""
        if not _may_be_faulty(equation):
            return super().bound(equation, values)
        place = self._operations
        self._operations += 1
        if place == self._place:
            return self._changed(equation, values, super().bound)
        return super().bound(equation, values)


class _Counting(_Faulty):
    """Writes the operations down that give floating results."""

    def __init__(self) -> None:
        super().__init__(-1, lambda equation, values, bind: None)
        self.found: list[tuple[int, Any, str]] = []

    def bound(self, equation: Any, values: Sequence[Any]) -> Any:
        """The result of an operation."""
        result = super().bound(equation, values)
        if _may_be_faulty(equation):
            scopes = [str(each.source_info.name_stack) for each in (*self._around, equation)]
            scope = "/".join(scope for scope in scopes if scope)
            self.found.append((self._operations - 1, equation, scope))
        return result


def inject(rng: Generator, function: Callable[..., Any], *arguments: Any) -> Fault:
    """A fault in an operation of a function, drawn at random."""
    counting = _Counting()
    counting.start(jax.make_jaxpr(function)(*arguments), arguments)
    place, equation, scope = counting.found[int(rng.integers(len(counting.found)))]
    name = equation.primitive.name
    words, bind = _fault(rng, equation)

    def changed(again: Any, values: Sequence[Any], usual: Bind) -> Any:
        assert _signature(again) == _signature(equation), f"{again} is not {equation}"
        if bind is None:
            result = usual(again, values)
            return jnp.asarray(behind(result), result.dtype)
        like = again.outvars[0].aval
        return jnp.broadcast_to(jnp.asarray(bind(*values), like.dtype), like.shape)

    behind_words, behind = _of_output(rng, equation.outvars[0].aval)
    if bind is None:
        words = behind_words

    def faulty(*given: Any) -> Any:
        # Traced anew: other precisions make other programs, with the same operations.
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*given)
        outputs = _Faulty(place, changed).start(closed, given)
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return Fault(faulty, scope, f"{name}: {words}")


def _fault(rng: Generator, equation: Any) -> tuple[str, Bind | None]:
    """Words and another operation; None where something happens to the result."""
    name = equation.primitive.name
    if rng.random() < 0.7:
        if name in ARITHMETIC:
            return _of_arithmetic(rng, name)
        if name in FUNCTIONS:
            return _of_function(rng, name)
    return "", None
