"""A cell is run on shapes alone where it is made: a mistake in it is one line, there.

Shapes: B batch, I input size, H hidden size, G the number of gates of the cell.

What a cell gives is compared with what the recurrence needs, before any array is there. A step that
fails on the sizes chosen here may still run on others (it may close over an array of some width):
`Cell` leaves that to its first use, where the sizes are the caller's and the error is one line too.
"""

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxrnn.array_checks import described
from jaxrnn.checks import shown

# The package's own functions are not run: the tests do, and it would take 0.3 s of every start.
PACKAGE = __name__.partition(".")[0]

# B and H of a dry run, and I where it may differ from H. Powers of two: heads divide them.
BATCH_SIZE = 4
HIDDEN_SIZE = 64
INPUT_SIZE = 32


def is_own(function: Any) -> bool:
    """Whether a function is one of this package's."""
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__module__", "")).partition(".")[0] == PACKAGE


def names_of(what: str, names: Any, *, least: int) -> tuple[str, ...]:
    """Names of gates or parameters as a tuple.

    Raises:
        ValueError: if they are one text, or fewer than `least`.
    """
    listed = isinstance(names, Iterable) and not isinstance(names, str)
    if not listed or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{what} must be a tuple of names such as ('f', 'n'), got {shown(names)}.")
    if len(names) < least:
        raise ValueError(f"{what} must have at least {least} name, got none.")
    return tuple(names)


def check_carry_type(cell: str, carry: Any) -> None:
    """Refuse what is no NamedTuple whose first field is `h`.

    Raises:
        ValueError: if it is another class, an instance, or `h` stands elsewhere.
    """
    fields = getattr(carry, "_fields", None)
    if not isinstance(carry, type) or not issubclass(carry, tuple) or fields is None:
        raise ValueError(
            f"The carry of the cell {cell!r} must be a NamedTuple, the class itself, such as "
            f"jaxrnn.Hidden; got {carry!r:.60}."
        )
    if fields[:1] != ("h",):
        raise ValueError(
            f"The first field of the carry of the cell {cell!r} must be h, the output; its fields "
            f"are {', '.join(fields)}."
        )


def check_call(cell: str, name: str, function: Any, *arguments: str, **options: Any) -> None:
    """Refuse what cannot be called with arguments of these names.

    Raises:
        ValueError: if it is no function, or takes others.
    """
    taken = ", ".join([*arguments, *(f"{option}=" for option in options)])
    if not callable(function):
        raise ValueError(
            f"{name} of the cell {cell!r} must be a function of ({taken}), got {function!r:.60}."
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # some functions that are not written in Python do not say
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise ValueError(
            f"{name} of the cell {cell!r} must be a function of ({taken}): {error}."
        ) from None


def shapes_of(function: Callable[..., Any], what: str, *arguments: Any, **options: Any) -> Any:
    """The shapes that a function of the user's gives; as `jax.eval_shape`, with errors in words.

    Args:
        function: the function.
        what: what it is, at the beginning of a message: "The step of the cell 'mine'".
        arguments: its arguments, as shapes or arrays.
        options: its further arguments.

    Raises:
        ValueError: if the function fails.
    """
    try:
        return jax.eval_shape(function, *arguments, **options)
    except Exception as error:  # anything can go wrong in the user's code
        shown = ", ".join(map(described, (*arguments, *options.values())))
        raise ValueError(f"{what} fails on {shown}: {in_words(error)}") from error


def in_words(error: Exception) -> str:
    """What an error of a function that JAX traces means."""
    if isinstance(error, jax.errors.TracerBoolConversionError):
        return "it decides by a value, which is not known yet: take jnp.where."
    if isinstance(error, jax.errors.TracerArrayConversionError):
        return "it computes with NumPy or reads an array's values: take jax.numpy."
    if isinstance(error, jax.errors.JAXTypeError):
        return "it needs a value that is not known yet: take functions of jax.numpy alone."
    first = str(error).strip().partition("\n")[0].rstrip(".")
    return f"{type(error).__name__}: {first}."


def check_gives(what: str, got: Any, like: Any, *, exactly: bool = True) -> None:
    """Refuse a carry of another structure, other shapes or another precision.

    Args:
        what: what gives it, at the beginning of the message.
        got: what it gives.
        like: what it must give.
        exactly: whether the precision counts, too; if not, any floating one will do.

    Raises:
        ValueError: if it differs.
    """
    same = described(got) == described(like)
    structure: Any = jax.tree.structure(like)
    if not exactly and structure == jax.tree.structure(got):
        pairs = zip(jax.tree.leaves(got), jax.tree.leaves(like), strict=True)
        same = all(
            one.shape == other.shape and jnp.issubdtype(one.dtype, jnp.floating)
            for one, other in pairs
        )
    if not same:
        raise ValueError(
            f"{what} must give {described(like)}, as it takes it; it gives {described(got)}."
        )


def check_step(
    cell: Any, carry: Any, shape: tuple[int, int], dtype: DTypeLike, params: Any = None
) -> None:
    """Refuse a cell whose step gives another carry than it takes.

    Args:
        cell: the cell.
        carry: what it takes.
        shape: (B, G * H), of each half of the gates.
        dtype: their precision.
        params: the cell's parameters per unit, by name.

    Raises:
        ValueError: if the step fails, or the structure, a shape or a dtype differs.
    """
    one = jax.ShapeDtypeStruct(shape, dtype)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), carry)
    what = f"The step of the cell {cell.name!r}"
    check_gives(what, shapes_of(cell.step, what, like, one, one, **(params or {})), like)


def array(*shape: int) -> Any:
    """An array in a dry run."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def dry_run(cell: Any) -> None:
    """Run the step of a gated cell.

    Raises:
        ValueError: if it gives another carry than it takes, or fails on any sizes.
    """
    what = f"The step of the cell {cell.name!r}"
    carry = cell.carry(*(array(BATCH_SIZE, HIDDEN_SIZE) for _ in cell.carry._fields))
    gates = array(BATCH_SIZE, len(cell.gates) * HIDDEN_SIZE)
    params = {name: array(HIDDEN_SIZE) for name in cell.params}
    try:
        after = shapes_of(cell.step, what, carry, gates, gates, **params)
    except ValueError as error:
        if depends_on_sizes(error.__cause__):
            return
        raise
    check_gives(what, after, carry, exactly=False)


def dry_run_linear(cell: Any) -> None:
    """Run the coefficients and the output of a linear cell.

    Raises:
        ValueError: if they give other shapes than (B, H), or fail on any sizes.
    """
    state = array(BATCH_SIZE, HIDDEN_SIZE)
    gates = array(BATCH_SIZE, len(cell.gates) * HIDDEN_SIZE)
    params = {name: array(HIDDEN_SIZE) for name in cell.params}
    try:
        what = f"coefficients of the cell {cell.name!r}"
        pair = shapes_of(cell.coefficients, what, gates, **params)
        if not isinstance(pair, tuple) or described(pair) != described((state, state)):
            raise ValueError(
                f"{what} must give (a, b), {described((state, state))}; it gives {described(pair)}."
            )
        what = f"output of the cell {cell.name!r}"
        output = shapes_of(cell.output, what, state, gates, **params)
        check_gives(what, output, state, exactly=False)
    except ValueError as error:
        if not depends_on_sizes(error.__cause__):
            raise


def depends_on_sizes(error: BaseException | None) -> bool:
    """Whether an error of a step may be one of the sizes that it was run on."""
    if isinstance(error, jax.errors.JAXTypeError):
        return False
    return isinstance(error, TypeError | ValueError | IndexError)


def dry_run_free(cell: Any) -> None:
    """Make the parameters of a free cell, and run its step.

    Raises:
        ValueError: if one of both fails, or gives something else than it must.
    """
    try:
        _dry_run_free(cell, INPUT_SIZE)
    except ValueError as error:
        # Some cells add their input to their output: those need I = H.
        if not depends_on_sizes(error.__cause__):
            raise
        _dry_run_free(cell, HIDDEN_SIZE)


def _dry_run_free(cell: Any, input_size: int) -> None:
    init = f"init of the cell {cell.name!r}"
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = shapes_of(lambda key: cell.init(key, input_size, HIDDEN_SIZE), init, key)
    if not isinstance(params, dict) or not params:
        raise ValueError(
            f"{init} must give a dictionary of at least one array by name, got {described(params)}."
        )
    carry = shapes_of(
        lambda: cell.initial_carry(BATCH_SIZE, HIDDEN_SIZE, jnp.float32),
        f"carry_init of the cell {cell.name!r}",
    )
    if not isinstance(carry, cell.carry):
        raise ValueError(
            f"carry_init of the cell {cell.name!r} must give a {cell.carry.__name__}, the cell's "
            f"carry; it gives {described(carry)}."
        )
    x = array(BATCH_SIZE, input_size)
    check_free_step(cell, params, carry, x, HIDDEN_SIZE, exactly=False)


def check_free_step(
    cell: Any, params: Any, carry: Any, x: Any, hidden_size: int, *, exactly: bool = True
) -> None:
    """Refuse a free cell whose step gives another carry than it takes, or no output (B, H).

    Args:
        cell: the cell.
        params: its parameters by name.
        carry: what the step takes.
        x: its input, (B, I), or the shape of it.
        hidden_size: H.
        exactly: see `check_gives`.

    Raises:
        ValueError: if the step fails or gives something else.
    """
    what = f"The step of the cell {cell.name!r}"
    result = shapes_of(cell.step, what, params, carry, x)
    pair = isinstance(result, tuple) and len(result) == 2 and not hasattr(result, "_fields")
    if not pair:
        raise ValueError(
            f"{what} must give the carry and the output, (carry, y); it gives {described(result)}."
        )
    after, y = result
    check_gives(what, after, carry, exactly=exactly)
    shape = (x.shape[0], hidden_size)
    if jnp.shape(y) != shape:
        raise ValueError(f"{what} must give outputs of shape {shape}, it gives {jnp.shape(y)}.")
