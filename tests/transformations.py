"""JAX's transformations of a recurrent layer, each as a function from a backend to numbers.

As a program it prints, as JSON, what those of several devices give; it needs four of them.
"""

import json
import sys
from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from helpers import random_stack, random_tree, relative
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from jaxrnn import GRU, MIN_GRU, QRNN, RNN, CharLM
from jaxrnn.recurrent.recurrence import backend

T, B, I, H = 3, 4, 2, 3


class Problem(NamedTuple):
    """A layer as functions of its parameters, carry and inputs.

    Attributes:
        run: the carry after the last step, and the outputs.
        loss: one number that depends on all of them.
        arguments: parameters, carry and inputs.
        differentiated: which of them have a gradient.
    """

    run: Callable[..., Any]
    loss: Callable[..., Array]
    arguments: tuple[Any, ...]
    differentiated: tuple[int, ...] = (0, 1, 2)

    @property
    def of_params(self) -> Callable[[Any], Array]:
        """The loss as a function of the parameters alone."""
        return lambda params: self.loss(params, *self.arguments[1:])


def problem_of(cell: Any, dtype: Any = jnp.float64) -> Problem:
    """A layer of the cell with random numbers, none of them zero."""
    rnn = RNN(cell, H)
    wide = np.float64 if dtype == jnp.float64 else np.float32
    arguments = random_stack(rnn, I, B, T, wide)
    arguments = jax.tree.map(lambda leaf: leaf.astype(dtype), arguments)

    def run(params: Any, carry: Any, xs: Any) -> Any:
        return rnn.apply({"params": params}, carry, xs)

    def loss(params: Any, carry: Any, xs: Any) -> Array:
        return sum_of(jax.tree.map(jnp.sin, run(params, carry, xs)))

    return Problem(run, loss, arguments)


def reading(cell: Any) -> Problem:
    """A character model of two layers of the cell, in float64.

    Its windows have so many characters that the first layer reads rows of a table.
    """
    model = CharLM(7, I, H, cell=cell, num_layers=2)
    tokens = jnp.arange(16 * 2 * B).reshape(16, 2 * B) % model.vocab_size
    carry = random_tree(jax.random.key(0), model.initial_carry(2 * B, jnp.float64))
    shapes = jax.eval_shape(model.init, jax.random.key(0), carry, tokens)["params"]
    params = random_tree(jax.random.key(1), shapes)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)

    def run(params: Any, carry: Any, tokens: Any) -> Any:
        return model.apply({"params": params}, carry, tokens)

    def loss(params: Any, carry: Any, tokens: Any) -> Array:
        return sum_of(jax.tree.map(jnp.sin, run(params, carry, tokens)))

    return Problem(run, loss, (params, carry, tokens), differentiated=(0, 1))


def sum_of(tree: Any) -> Array:
    """The sum of all numbers of a tree."""
    return sum((leaf.sum() for leaf in jax.tree.leaves(tree)), start=jnp.zeros(()))


def squared(function: Callable[[Any], Any]) -> Callable[[Any], Array]:
    """The sum of the squares of all numbers of a function's result."""
    return lambda params: sum_of(jax.tree.map(jnp.square, function(params)))


def repeated(tree: Any, count: int = 3) -> Any:
    """Several copies of a tree, of which no two are equal, along a new first axis."""
    return jax.tree.map(lambda leaf: jnp.stack([leaf * (1 + n) for n in range(count)]), tree)


def _per_example(p: Problem, params: Any) -> Any:
    def of_one(params: Any, carry: Any, x: Any) -> Array:
        batch_of_one = jax.tree.map(lambda field: field[None], carry)
        return p.loss(params, batch_of_one, x[:, None])

    return jax.vmap(jax.grad(of_one), (None, 0, 1))(params, *p.arguments[1:])


def _over_batch(p: Problem, params: Any) -> Any:
    carry, xs = p.arguments[1:]
    return jax.vmap(lambda c, x: p.run(params, c, x))(repeated(carry), repeated(xs))


def _in_a_scan(p: Problem, params: Any) -> Any:
    carry, xs = p.arguments[1:]

    def windows(params: Any) -> Array:
        def body(carry: Any, scale: Any) -> Any:
            carry, ys = p.run(params, carry, xs * scale)
            return carry, ys.sum()

        carry_after, sums = jax.lax.scan(body, carry, jnp.arange(1.0, 4.0))
        return sum_of((carry_after, sums))

    return jax.grad(windows)(params)


ONE_DEVICE: dict[str, Callable[[Problem, Any], Any]] = {
    "`grad`, `vjp`, `jacrev`": lambda p, w: jax.grad(p.loss, (0, 1, 2))(w, *p.arguments[1:]),
    "`checkpoint`": lambda p, w: jax.grad(jax.checkpoint(p.of_params))(w),
    "inside `lax.scan`": _in_a_scan,
    "second derivative": lambda p, w: jax.grad(squared(jax.grad(p.of_params)))(w),
    "second derivative of `checkpoint`": lambda p, w: jax.grad(
        squared(jax.grad(jax.checkpoint(p.of_params)))
    )(w),
    "third derivative": lambda p, w: jax.grad(squared(jax.grad(squared(jax.grad(p.of_params)))))(w),
    "`jvp`": lambda p, w: jax.jvp(p.of_params, (w,), (w,)),
    "`linearize`": lambda p, w: jax.linearize(p.of_params, w)[1](w),
    "`jacfwd`": lambda p, w: jax.jacfwd(p.of_params)(w),
    "forward over reverse": lambda p, w: jax.jvp(jax.grad(p.of_params), (w,), (w,)),
    "`hessian`": lambda p, w: jax.hessian(p.of_params)(w),
    "`vmap` over parameters": lambda p, w: jax.vmap(jax.grad(p.of_params))(repeated(w)),
    "`vmap` over batches": _over_batch,
    "gradients per example": _per_example,
}
"""Functions of a problem and its parameters, by their names in the README's table."""


def text_and_numbers(function: Callable[..., Any], *arguments: Any) -> tuple[str, Any]:
    """A function as one program: its text and its results."""
    program = jax.jit(function).trace(*arguments).lower()
    return program.as_text(), program.compile()(*arguments)


class Seen(NamedTuple):
    """What a program on several devices did.

    Attributes:
        problem: "layer", or "characters" for a QRNN that reads them.
        name: of the transformation, as in the README's table.
        way: the backend that was asked for.
        error: the largest difference from the same program on one device, relative.
        compiled: whether it calls the compiled library.
        gathers: how many times it gathers what lies on several devices.
    """

    problem: str
    name: str
    way: str
    error: float
    compiled: bool
    gathers: int


def _on_a_mesh(kind: AxisType) -> Callable[[Problem], Any]:
    def put(p: Problem) -> Any:
        mesh = jax.make_mesh((4,), ("rows",), axis_types=(kind,))
        specs = (P(), P("rows"), P(None, "rows"))
        return tuple(
            jax.device_put(argument, NamedSharding(mesh, spec))
            for argument, spec in zip(p.arguments, specs, strict=True)
        )

    return lambda p: (jax.grad(p.loss, p.differentiated), put(p))


def _shard_map(check: bool) -> Callable[[Problem], Any]:
    def shared(p: Problem) -> Any:
        mesh = jax.make_mesh((4,), ("rows",), axis_types=(AxisType.Auto,))
        specs = (P(), P("rows"), P(None, "rows"))

        def total(params: Any, carry: Any, xs: Any) -> Array:
            return jax.lax.psum(p.loss(params, carry, xs), "rows")

        loss = jax.shard_map(total, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=check)
        return jax.grad(loss, p.differentiated), p.arguments

    return shared


SEVERAL_DEVICES: dict[str, Callable[[Problem], Any]] = {
    "`shard_map`": _shard_map(True),
    "`shard_map(check_vma=False)`": _shard_map(False),
    "a batch on a mesh, `AxisType.Auto`": _on_a_mesh(AxisType.Auto),
    "a batch on a mesh, `AxisType.Explicit`": _on_a_mesh(AxisType.Explicit),
}
"""For a problem, the function that gives its gradients, and what it is to be called with."""


def main() -> None:
    """The gradients of all of `SEVERAL_DEVICES` on every backend named."""
    jax.config.update("jax_enable_x64", True)
    seen: list[Seen] = []
    for way, kind in product(sys.argv[1:], ("layer", "characters")):
        layer = MIN_GRU if way == "parallel" else GRU
        problem = problem_of(layer) if kind == "layer" else reading(QRNN)
        with backend("autodiff"):
            gradient = jax.grad(problem.loss, problem.differentiated)
            expected = jax.jit(gradient)(*problem.arguments)
        for name, shared in SEVERAL_DEVICES.items():
            with backend(way):  # type: ignore[arg-type]
                function, arguments = shared(problem)
                program = jax.jit(function).lower(*arguments).compile()
                error = relative(program(*arguments), expected)
            text = program.as_text() or ""
            gathers = text.count("all-gather(")
            seen.append(Seen(kind, name, way, error, "jaxrnn_" in text, gathers))
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
