"""A call as lines of Python, and a draft of one.

What a call is expected to do is sampled with it: give results, refuse, or either of them where
nothing is documented.
"""

import random
from dataclasses import dataclass, field
from typing import Any, Literal

Expected = Literal["result", "error", "either"]
Shape = tuple[int, ...]
Sampled = tuple[str, dict[str, Any]]
"""A call's expression, and what is documented of its results: fields of `Call`."""

FLOATS = ("float32", "float32", "float32", "float64", "float16", "bfloat16")
"""Right for every floating array: they are cast to the precision of the weights."""
NO_FLOATS = ("int32", "uint8", "bool", "complex64")
LAYOUTS = ("jax", "numpy", "fortran", "strided", "reversed", "read-only", "unaligned", "list")


@dataclass(frozen=True)
class Call:
    """A call as lines of Python.

    Attributes:
        number: which one of its seed.
        subject: what is called.
        what: the mistake in it, or "right".
        expected: what it must do.
        x64: whether JAX's 64-bit types are on.
        setup: lines that make its arguments; the same for every backend.
        expression: the call.
        jitted: whether it is executed in one program, where that is possible.
        shapes: the shapes of the leaves of its result, if they are documented.
        dtype: the precision of its floating leaves, if that is documented.
        weights: the precision of the weights, which decides how near two backends must be.
        may_be_nan: whether NaN is documented.
        traced: whether it can be run on shapes alone.
    """

    number: int
    subject: str
    what: str
    expected: Expected
    x64: bool
    setup: tuple[str, ...]
    expression: str
    jitted: bool = False
    shapes: tuple[Shape, ...] | None = None
    dtype: str | None = None
    weights: str = "float32"
    may_be_nan: bool = False
    traced: bool = True

    def program(self) -> str:
        """The lines to run it by hand, from the folder tests/."""
        call = f"jax.jit(lambda: {self.expression})()" if self.jitted else self.expression
        lines = ["from stress.calls.namespace import *"]
        if self.x64:
            lines.append('jax.config.update("jax_enable_x64", True)')
        lines += self.setup
        lines.append('with backend("compiled"):  # and "scan", "autodiff"')
        lines.append(f"    print({call})")
        return "\n".join(lines)


@dataclass
class Draft:
    """A call in the making: its random numbers, the lines so far, and the mistakes in them."""

    rng: random.Random
    x64: bool
    wrong: bool
    setup: list[str] = field(default_factory=list)
    what: list[str] = field(default_factory=list)
    expected: Expected = "result"
    weights: str = "float32"
    may_be_nan: bool = False

    def one(self, *choices: Any) -> Any:
        """One of the choices."""
        return self.rng.choice(choices)

    def chance(self, share: float) -> bool:
        """True with this probability."""
        return self.rng.random() < share

    def seed(self) -> int:
        """A seed for a line of the call."""
        return self.rng.randrange(1000)

    def define(self, name: str, expression: str) -> str:
        """Add a line that gives an expression a name, which is returned."""
        self.setup.append(f"{name} = {expression}")
        return name

    def mistake(self, what: str, expected: Expected = "error") -> None:
        """Note a mistake. Of several, one that must be refused counts."""
        self.what.append(what)
        if expected == "error" or self.expected == "result":
            self.expected = expected

    def array(self, shape: Shape, dtype: str, layout: str | None = None) -> str:
        """A floating (or, for a mistake, another) array as an expression."""
        layout = layout or self.one("jax", "jax", *LAYOUTS)
        if layout == "list" and (dtype != "float32" or 0 in shape):
            layout = "numpy"
        return f"array({shape}, {dtype!r}, {layout!r}, seed={self.seed()})"

    def floats(self, shape: Shape) -> str:
        """An array of any precision as an expression."""
        return self.array(shape, self.one(*FLOATS))

    def integers(self, low: int, high: int, shape: Shape, dtype: str | None = None) -> str:
        """Integers in [low, high) as an expression."""
        dtype = dtype or self.one("int32", "int32", "int64", "uint8", "int16")
        layout = self.one("jax", "numpy", "fortran", "strided", "read-only")
        return f"integers({low}, {high}, {shape}, {dtype!r}, {layout!r}, seed={self.seed()})"

    def other_shape(self, shape: Shape) -> Shape:
        """A shape that is not this one."""
        kind = self.one("more axes", "fewer axes", "size", "size", "size", "swapped")
        if kind == "more axes":
            return self.one((1, *shape), (*shape, 1))
        if kind == "fewer axes" and shape:
            return shape[1:]
        if kind == "swapped" and len(set(shape)) > 1:
            return tuple(reversed(shape)) if shape[0] != shape[-1] else (*shape[1:], shape[0])
        if not shape:
            return (1,)
        axis = self.rng.randrange(len(shape))
        size = shape[axis]
        others = [other for other in (0, 1, size + 1, size * 2, 64) if other != size]
        return (*shape[:axis], self.one(*others), *shape[axis + 1 :])
