"""Arguments of calls as expressions, right or wrong: carries, lengths, tokens.

Shapes: T time steps, B batch, I input size, H hidden size, V vocabulary.
"""

from stress.calls.call import FLOATS, LAYOUTS, NO_FLOATS, Draft, Shape

CELLS = ("TANH", "RELU", "GRU", "LSTM", "OWN")
GATES = {"TANH": 1, "RELU": 1, "GRU": 3, "LSTM": 4, "OWN": 2}
FIELDS = {"Hidden": 1, "HiddenAndCell": 2}
"""Number of arrays in each kind of carry."""


def sample_sizes(d: Draft) -> tuple[int, int, int, int]:
    """T, B, I and H."""
    steps = d.one(1, 2, 3, 5, 6, 0)
    batch = d.one(1, 2, 4, 6, 7, 0, 65)
    return steps, batch, d.one(1, 3, 5), d.one(1, 2, 4, 8, 9)


def sample_carry(
    d: Draft,
    cell: str,
    runs: int,
    batch: int,
    hidden_size: int,
    *,
    single: bool = False,
    optional: bool = False,
) -> str:
    """A carry as an expression, right or with whatever mistake a carry can have.

    Args:
        d: the draft.
        cell: the name of the cell.
        runs: the number of recurrences, one for each layer and direction.
        batch: B.
        hidden: H.
        single: whether only the first one is used, so that their number does not matter.
        optional: whether None is right, and stands for the initial carry.
    """
    if optional and not d.wrong and d.chance(0.1):
        return "None"
    kind = "HiddenAndCell" if cell == "LSTM" else "Hidden"
    fields = FIELDS[kind]
    shape = (batch, hidden_size)
    dtype = d.one(*FLOATS)
    right = _carries(d, runs, kind, fields, shape, dtype)
    if not (d.wrong and d.chance(0.5)):
        return f"list({right})" if d.chance(0.1) else right
    mistakes = ["shape", "shape", "batch", "kind", "plain", "dict", "dtype", "text"]
    if not optional:
        mistakes.append("None")
    if not single:
        mistakes += ["layers", "bare"]
    mistake = d.one(*mistakes)
    if mistake == "shape":
        other_shape = d.other_shape(shape)
        d.mistake(f"carry of shape {other_shape}")
        return _carries(d, runs, kind, fields, other_shape, dtype)
    if mistake == "batch":
        other_shape = d.one(
            (200_000, hidden_size),
            (batch, 4096),
            (batch + 1, hidden_size),
            (1, hidden_size),
            (0, hidden_size),
        )
        if other_shape == shape:
            return right
        d.mistake("carry of another batch")
        return _carries(d, runs, kind, fields, other_shape, dtype)
    if mistake == "layers":
        count = d.one(0, runs + 1, runs - 1, 2 * runs)
        d.mistake("carry of other layers")
        return _carries(d, count, kind, fields, shape, dtype)
    if mistake == "kind":
        other = "Hidden" if kind == "HiddenAndCell" else "HiddenAndCell"
        d.mistake(f"carry of {other}")
        return _carries(d, runs, other, FIELDS[other], shape, dtype)
    if mistake == "dtype":
        other_dtype = d.one(*NO_FLOATS)
        d.mistake(f"carry of {other_dtype}")
        return _carries(d, runs, kind, fields, shape, other_dtype)
    if mistake == "plain":
        d.mistake("carry of plain tuples")
        return _carries(d, runs, "plain", fields, shape, dtype)
    d.mistake(f"carry is {mistake}")
    expressions = {
        "None": "None",
        "dict": f'{{"h": {right}}}',
        "bare": f"{right}[0]",
        "text": "'text'",
    }
    return expressions[mistake]


def _carries(d: Draft, count: int, kind: str, fields: int, shape: Shape, dtype: str) -> str:
    """A tuple of `count` carries with `fields` arrays each."""
    carries = []
    for _ in range(count):
        arrays = [d.array(shape, dtype, layout_of_arrays(d)) for _ in range(fields)]
        carries.append(f"{kind}({', '.join(arrays)})")
    comma = "," if carries else ""
    return f"({', '.join(carries)}{comma})"


def layout_of_arrays(d: Draft) -> str:
    """Where an array lies in memory; lists are none."""
    arrays = [layout for layout in LAYOUTS if layout != "list"]
    return d.one("jax", "jax", *arrays)


def sample_lengths(d: Draft, batch: int, steps: int) -> str:
    """Lengths (B,), or None."""
    if not (d.wrong and d.chance(0.3)):
        if d.chance(0.5):
            return "None"
        if d.chance(0.2):  # on the device, values outside count as the nearest ones inside
            return f"integers(-3, {steps + 4}, ({batch},), 'int32', 'jax', seed={d.seed()})"
        return d.integers(0, steps + 1, (batch,))
    mistake = d.one("shape", "shape", "one row", "negative", "longer", "dtype", "text")
    if mistake == "shape":
        shape = d.other_shape((batch,))
        d.mistake(f"lengths of shape {shape}")
        return d.integers(0, steps + 1, shape)
    if mistake == "one row" and batch != 1:
        d.mistake("lengths of one row")
        return d.integers(0, steps + 1, (1,))
    if mistake in ("negative", "longer") and batch:
        d.mistake(f"lengths that are {mistake}")
        low, high = (-5, 0) if mistake == "negative" else (steps + 1, steps + 9)
        return f"integers({low}, {high}, ({batch},), 'int32', 'numpy', seed={d.seed()})"
    if mistake == "dtype":
        dtype = d.one("float32", "bool", "complex64")
        d.mistake(f"lengths of {dtype}")
        return d.array((batch,), dtype, d.one("jax", "numpy"))
    d.mistake("lengths are text")
    return "'text'"


def sample_rows(d: Draft, rows: int, shape: Shape) -> str:
    """Which rows of a table are read: some outside of it, which read the nearest one."""
    if d.chance(0.7):
        return d.integers(0, rows, shape)
    low, high, dtype = d.one((-9, rows + 9, "int32"), (-(2**40), 2**40, "int64"))
    return d.integers(low, high, shape, dtype)


def sample_tokens(
    d: Draft, steps: int, batch: int, vocabulary: int, *, name: str = "tokens", host: bool = False
) -> str:
    """Tokens (T, B). On the host, values outside [0, V) must be refused where `host` says so."""
    if not (d.wrong and d.chance(0.4)):
        return d.integers(0, vocabulary, (steps, batch))
    mistake = d.one("dtype", "axes", "axes", "None", "text", "outside" if host else "dtype")
    if mistake == "dtype":
        dtype = d.one("float32", "bool", "complex64", "float64")
        d.mistake(f"{name} of {dtype}")
        return d.array((steps, batch), dtype, d.one("jax", "numpy"))
    if mistake == "axes":
        shape = d.one((steps,), (1, steps, batch), (steps, batch, 1), ())
        d.mistake(f"{name} of shape {shape}")
        return d.integers(0, vocabulary, shape)
    if mistake == "outside" and steps * batch:
        d.mistake(f"{name} outside the vocabulary")
        low, high = d.one((-4, 0), (vocabulary, vocabulary + 5))
        return f"integers({low}, {high}, ({steps}, {batch}), 'int32', 'numpy', seed={d.seed()})"
    d.mistake(f"{name} is {'None' if mistake == 'None' else 'text'}")
    return "None" if mistake == "None" else "'text'"
