"""What a JAX function computes on the way to its outputs: every operation, with its numbers.

The function is traced once and then interpreted operation by operation. What is called (`jit`,
`checkpoint`, the rules of one's own) is looked into, short scans are unrolled, and of a `cond` the
branch that is taken is followed. No framework has to be known for it.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parity.core.jaxprs import users_line

# Longer scans are one operation: their steps would take longer than the search is worth.
LONGEST_SCAN = 64


class Value(NamedTuple):
    """One result of one operation.

    Attributes:
        number: its place among all results, the same in every run.
        array: the numbers.
        operation: the name of the primitive.
        scope: the names of the modules around it, such as "Net/blocks_5/norm", where the framework
            gives them.
        line: the user's line of code, such as "model.py:34 in __call__"; empty if none is known.
        made_from: the numbers of the results that it was made from.
    """

    number: int
    array: np.ndarray
    operation: str
    scope: str
    line: str
    made_from: tuple[int, ...]

    @property
    def place(self) -> str:
        """Scope and line in words."""
        return ", ".join(part for part in (self.scope, self.line) if part) or self.operation


class _Held(NamedTuple):
    """A value of the interpreter and the number of the result that it is, or None."""

    value: Any
    number: int | None


# An equation and those that call the function in which it is, the outermost first.
Around = tuple[Any, ...]
# (index, equations, value, indices of what it was made from) -> the value to go on with.
Visit = Callable[[int, Around, Any, tuple[int, ...]], Any]


class Program:
    """A traced function, which can be run with everything in sight.

    Args:
        function: a pure function of arrays.
        arguments: trees of arrays, of the shapes and dtypes with which it will be run.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        self._closed = closed
        self._structure = jax.tree.structure(shapes)

    def values(
        self, *arguments: Any, replaced: Mapping[int, np.ndarray] | None = None
    ) -> tuple[Any, list[Value]]:
        """The outputs, and every floating result on the way, with `replaced` ones put in."""
        values: list[Value] = []
        replaced = replaced or {}

        def visit(index: int, around: Around, value: Any, made_from: tuple[int, ...]) -> Any:
            if index in replaced:
                value = jnp.asarray(replaced[index], value.dtype).reshape(value.shape)
            if jnp.issubdtype(value.dtype, jnp.floating):
                values.append(Value(index, np.asarray(value), *_described(around), made_from))
            return value

        return self._run(visit, arguments, inside_rules=True), values

    def perturbed(self, indices: Sequence[int]) -> Callable[..., Any]:
        """A function of zeros, one for each of the results `indices`, that are added to them.

        The derivative in these zeros is the gradient of the results. Derivative rules of the user's
        own stay in force, so the indices are those of `outer_values`.
        """
        places = {index: k for k, index in enumerate(indices)}

        def run(zeros: Sequence[Any], *arguments: Any) -> Any:
            def visit(index: int, around: Around, value: Any, made_from: tuple[int, ...]) -> Any:
                del around, made_from
                return value + zeros[places[index]] if index in places else value

            return self._run(visit, arguments, inside_rules=False)

        return run

    def outer_values(self, *arguments: Any) -> list[Value]:
        """As `values`, without looking into functions that have derivative rules of their own."""
        values: list[Value] = []

        def visit(index: int, around: Around, value: Any, made_from: tuple[int, ...]) -> Any:
            if jnp.issubdtype(value.dtype, jnp.floating):
                values.append(Value(index, np.asarray(value), *_described(around), made_from))
            return value

        self._run(visit, arguments, inside_rules=False)
        return values

    def _run(self, visit: Visit, arguments: Any, *, inside_rules: bool) -> Any:
        outputs = Interpreter(visit, inside_rules=inside_rules).start(self._closed, arguments)
        return jax.tree.unflatten(self._structure, outputs)


class Interpreter:
    """Runs equations one by one, and shows each result.

    Args:
        visit: is shown each result, and gives the value to go on with.
        inside_rules: whether to look into functions that have derivative rules of their own.
    """

    def __init__(self, visit: Visit, *, inside_rules: bool) -> None:
        self._visit = visit
        self._count = 0
        self._inside_rules = inside_rules
        self._around: Around = ()

    def start(self, closed: Any, arguments: Any) -> list[Any]:
        """The flat outputs of a closed jaxpr for a tree of arguments."""
        flat = [_Held(leaf, None) for leaf in jax.tree.leaves(arguments)]
        return [held.value for held in self.run(closed.jaxpr, closed.consts, flat)]

    def run(self, jaxpr: Any, constants: Sequence[Any], arguments: Sequence[_Held]) -> list[_Held]:
        """The outputs of a jaxpr."""
        known: dict[Any, _Held] = {}

        def read(atom: Any) -> _Held:
            # A literal has a value, a variable is looked up.
            return _Held(atom.val, None) if hasattr(atom, "val") else known[atom]

        known.update(zip(jaxpr.constvars, [_Held(c, None) for c in constants], strict=True))
        known.update(zip(jaxpr.invars, arguments, strict=True))
        for equation in jaxpr.eqns:
            inputs = [read(atom) for atom in equation.invars]
            known.update(zip(equation.outvars, self._results(equation, inputs), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _results(self, equation: Any, inputs: list[_Held]) -> list[_Held]:
        name = equation.primitive.name
        inner = _called(equation, inside_rules=self._inside_rules)
        if inner is not None:
            with self._inside(equation):
                return self.run(inner.jaxpr, inner.consts, inputs)
        if name == "scan" and equation.params["length"] <= LONGEST_SCAN:
            with self._inside(equation):
                return self._scan(equation.params, inputs)
        if name == "cond":
            index, *rest = inputs
            branch = equation.params["branches"][int(index.value)]
            with self._inside(equation):
                return self.run(branch.jaxpr, branch.consts, rest)
        outputs = self.bound(equation, [held.value for held in inputs])
        if not equation.primitive.multiple_results:
            outputs = [outputs]
        made_from = tuple(held.number for held in inputs if held.number is not None)
        return [self._shown(equation, output, made_from) for output in outputs]

    def bound(self, equation: Any, values: Sequence[Any]) -> Any:
        """What an operation gives."""
        options = equation.primitive.get_bind_params(equation.params)
        with getattr(equation.ctx, "manager", None) or contextlib.nullcontext():
            return equation.primitive.bind(*values, **options)

    @contextlib.contextmanager
    def _inside(self, equation: Any) -> Iterator[None]:
        """Within it equations are those of the function that `equation` calls."""
        before = self._around
        self._around = (*before, equation)
        try:
            yield
        finally:
            self._around = before

    def _shown(self, equation: Any, value: Any, made_from: tuple[int, ...]) -> _Held:
        index = self._count
        self._count += 1
        if not hasattr(value, "dtype") or jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
            return _Held(value, index)  # a random key
        around = (*self._around, equation)
        return _Held(self._visit(index, around, value, made_from), index)

    def _scan(self, params: Mapping[str, Any], inputs: list[_Held]) -> list[_Held]:
        constants = inputs[: params["num_consts"]]
        carry = inputs[params["num_consts"] : params["num_consts"] + params["num_carry"]]
        stacked = inputs[params["num_consts"] + params["num_carry"] :]
        body = params["jaxpr"]
        steps = range(params["length"])
        rows: dict[int, list[_Held]] = {}
        for step in reversed(steps) if params["reverse"] else steps:
            xs = [_Held(held.value[step], held.number) for held in stacked]
            outputs = self.run(body.jaxpr, body.consts, [*constants, *carry, *xs])
            carry = outputs[: params["num_carry"]]
            rows[step] = outputs[params["num_carry"] :]
        together = []
        for column in zip(*(rows[step] for step in steps), strict=True):
            # (T, ...); the stack is a result of its own, made from its rows' values.
            last = max((held.number for held in column if held.number is not None), default=None)
            together.append(_Held(jnp.stack([held.value for held in column]), last))
        return [*carry, *self._stacks(together)]

    def _stacks(self, stacks: Sequence[_Held]) -> list[_Held]:
        # What a scan stacks is shown as a result, under the name of no equation.
        return [self._shown(_STACKED, held.value, _made_from(held)) for held in stacks]


def _made_from(held: _Held) -> tuple[int, ...]:
    return () if held.number is None else (held.number,)


class _NoSource(NamedTuple):
    """Stands for where a stacked result comes from."""

    name_stack: str = ""
    traceback: Any = None


class _Named(NamedTuple):
    """Stands for the primitive of a stacked result."""

    name: str


class _Stacked(NamedTuple):
    """Stands for the equation of a stacked result."""

    primitive: _Named = _Named("scan")
    source_info: _NoSource = _NoSource()


_STACKED = _Stacked()

# Primitives that only call a function, and those whose function has a derivative rule of its own.
CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "remat")
RULES = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin")


def _called(equation: Any, *, inside_rules: bool) -> Any:
    """The function that an equation calls, as a closed jaxpr; None if it is an operation."""
    name = equation.primitive.name
    if name not in CALLS and not (inside_rules and name in RULES):
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(key)
        if inner is not None:
            # A checkpointed function's jaxpr is open and has no constants.
            return inner if hasattr(inner, "consts") else _Open(inner)
    return None


class _Open(NamedTuple):
    """A jaxpr without constants."""

    jaxpr: Any
    consts: tuple[Any, ...] = ()


def _described(around: Around) -> tuple[str, str, str]:
    """Operation, scope and line of the last of some equations."""
    scopes = [str(equation.source_info.name_stack) for equation in around]
    lines = [users_line(equation) for equation in around]
    # The functions of libraries have no lines of the user's; what calls them has.
    line = next((line for line in reversed(lines) if line), "")
    return around[-1].primitive.name, "/".join(scope for scope in scopes if scope), line
