"""A recurrence whose backward pass is written by hand, under every transformation of JAX.

Reverse mode runs the passes that were written for speed. Forward mode, and derivatives of
derivatives, which are rarer, are those of the same function in JAX's own operations.
"""

from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Bool, Float

from jaxrnn.recurrent.cells import Carry, Cell, Params
from jaxrnn.recurrent.inputs import Inputs, Projection, input_gates
from jaxrnn.recurrent.transposition import alike, linear_call


class Arguments(NamedTuple):
    """What the recurrence runs on; see `jaxrnn.recurrent.recurrence.recurrence`.

    With a `projection`, `x_gates` are the layer's inputs, (T, B, I).
    """

    weight_hh: Float[Array, "GH H"] | None
    bias_hh: Float[Array, " GH"]
    carry: Carry
    x_gates: Inputs
    mask: Bool[Array, "T B"] | None = None
    params: Params | None = None
    resets: Bool[Array, "T B"] | None = None
    projection: Projection | None = None


def with_gates(inputs: Arguments) -> Arguments:
    """The same with the input half of the gates instead of the layer's inputs."""
    if inputs.projection is None:
        return inputs
    return inputs._replace(x_gates=input_gates(inputs.x_gates, inputs.projection), projection=None)


class Wanted(NamedTuple):
    """Which gradients somebody asks for, of those that cost a product at every step."""

    carry: bool
    x_gates: bool


class HandWritten:
    """A way to run the recurrence, `way(cell, reverse, inputs) -> (last, ys)`.

    The inputs and results are those of `jaxrnn.recurrent.recurrence.recurrence`.

    Attributes:
        run: the recurrence, `run(cell, reverse, inputs) -> (last, ys)`.
        forward: the same, and what the backward pass needs:
            `forward(cell, reverse, inputs) -> ((last, ys), residuals)`.
        backward: the gradients of the inputs, `Arguments` with None where there is none:
            `backward(cell, reverse, wanted, inputs, residuals, gradients)`, given those of the
            results.
        plain: the recurrence in JAX's own operations, called as `run`.
    """

    def __init__(
        self,
        run: Callable[..., Any],
        forward: Callable[..., Any],
        backward: Callable[..., Any],
        plain: Callable[..., Any],
    ) -> None:
        self.run = run
        self.forward = forward
        self.backward = backward
        self.plain = plain

    def __call__(self, cell: Cell, reverse: bool, inputs: Arguments) -> tuple[Carry, Array]:
        """Run over time; see `jaxrnn.recurrent.recurrence.recurrence`."""
        inputs = alike(inputs)
        # As it is now: the derivatives, and what is chosen at lowering, are traced later.
        cell = copy(cell)
        run = jax.custom_jvp(partial(self.run, cell, reverse))
        passes = (self.forward, self.backward, self.plain)
        run.defjvp(partial(_differentiated, *passes, cell, reverse), symbolic_zeros=True)
        results: tuple[Carry, Array] = run(inputs)
        return results


def _differentiated(
    forward_pass: Callable[..., Any],
    backward_pass: Callable[..., Any],
    plain_run: Callable[..., Any],
    cell: Cell,
    reverse: bool,
    primals: Any,
    dots: Any,
) -> Any:
    """The results, and their tangents as a linear call whose transpose is the backward pass."""
    (inputs,) = primals
    (dots,) = dots
    tree: Any
    leaves, tree = jax.tree.flatten(inputs)
    flat_dots = jax.tree.leaves(dots, is_leaf=_is_zero)
    # Which leaves are differentiated at all.
    active = [not _is_zero(dot) for dot in flat_dots]
    asked = tree.unflatten(active)
    wanted = Wanted(any(jax.tree.leaves(asked.carry)), any(jax.tree.leaves(asked.x_gates)))
    # The structure of the residuals, known as soon as the forward pass is traced.
    structure: list[Any] = []

    def plain(leaves: Sequence[Any]) -> Any:
        return plain_run(cell, reverse, tree.unflatten(leaves))

    def of_active(leaves: Sequence[Any]) -> Callable[[Sequence[Any]], Any]:
        return lambda some: plain(_replaced(leaves, active, some))

    def forward(leaves: Sequence[Any]) -> Any:
        results, residuals = forward_pass(cell, reverse, tree.unflatten(leaves))
        flat, residuals_tree = jax.tree.flatten(residuals)
        structure[:] = [residuals_tree]
        return results, flat

    def plain_forward(leaves: Sequence[Any]) -> Any:
        return plain(leaves), None

    def backward(leaves: Sequence[Any], residuals: Any, gradients: Any) -> list[Any]:
        inputs = tree.unflatten(leaves)
        kept = structure[0].unflatten(residuals)
        given = backward_pass(cell, reverse, wanted, inputs, kept, gradients)
        return _chosen(tree.flatten_up_to(given), active)

    def plain_backward(leaves: Sequence[Any], _: Any, gradients: Any) -> list[Any]:
        pull = jax.vjp(of_active(leaves), _chosen(leaves, active))[1]
        return list(pull(gradients)[0])

    def tangents(leaves: Sequence[Any], dots: Sequence[Any]) -> Any:
        return jax.jvp(of_active(leaves), [_chosen(leaves, active)], [list(dots)])[1]

    pull = _with_derivatives_of(backward, plain_backward)
    results, residuals = _with_derivatives_of(forward, plain_forward)(leaves)
    result_dots = linear_call(
        lambda kept, dots: tangents(kept[0], dots),
        lambda kept, gradients: pull(*kept, gradients),
        (leaves, residuals),
        _chosen(flat_dots, active),
        results,
    )
    return results, result_dots


def _with_derivatives_of(
    function: Callable[..., Any], plain: Callable[..., Any]
) -> Callable[..., Any]:
    """A function whose derivatives are those of another one; zero where that one gives None."""
    fast = jax.custom_jvp(function)

    def differentiated(inputs: Any, dots: Any) -> Any:
        tree: Any
        leaves, tree = jax.tree.flatten(inputs)
        flat_dots = jax.tree.leaves(dots, is_leaf=_is_zero)
        active = [not _is_zero(dot) for dot in flat_dots]

        def of_active(some: Sequence[Any]) -> Any:
            return plain(*tree.unflatten(_replaced(leaves, active, some)))

        results = fast(*inputs)
        some_dots = _chosen(flat_dots, active)
        _, result_dots = jax.jvp(of_active, [_chosen(leaves, active)], [some_dots])
        # Residuals are of no use but to the backward pass, whose derivatives do not need them.
        filled = jax.tree.map(
            lambda dot, part: _zeros(part) if dot is None else dot,
            result_dots,
            results,
            is_leaf=lambda dot: dot is None,
        )
        return results, filled

    fast.defjvp(differentiated, symbolic_zeros=True)
    return fast


def _is_zero(dot: Any) -> bool:
    """Whether a tangent is zero whatever happens: of an integer, or not differentiated."""
    zero = isinstance(dot, jax.custom_derivatives.SymbolicZero)
    return zero or getattr(dot, "dtype", None) == jax.dtypes.float0


def _zeros(tree: Any) -> Any:
    """Tangents that are zero."""
    return jax.tree.map(jax.custom_derivatives.zero_from_primal, tree)


def _chosen(leaves: Sequence[Any], active: Sequence[bool]) -> list[Any]:
    return [leaf for leaf, there in zip(leaves, active, strict=True) if there]


def _replaced(leaves: Sequence[Any], active: Sequence[bool], some: Sequence[Any]) -> list[Any]:
    """The leaves with the active ones replaced."""
    rest = iter(some)
    return [next(rest) if there else leaf for leaf, there in zip(leaves, active, strict=True)]
