"""Calls of the stack and of the recurrence. Each function samples one and what is documented of it.

Shapes: T time steps, B batch, I input size, H hidden size, D directions, G gates.
"""

from typing import Any

from stress.calls.arguments import (
    CELLS,
    GATES,
    sample_carry,
    sample_lengths,
    sample_rows,
    sample_sizes,
    sample_tokens,
)
from stress.calls.call import FLOATS, NO_FLOATS, Draft, Sampled, Shape


def sample_rnn(d: Draft, steps: int, batch: int, inputs: int, hidden_size: int) -> dict[str, Any]:
    """The lines of a stack, its weights, a carry and inputs, right or wrong.

    Returns:
        What is documented of its results, and sizes.
    """
    cell = d.one(*CELLS)
    num_layers = d.one(1, 1, 2, 3)
    bidirectional = d.chance(0.4)
    directions = 2 if bidirectional else 1
    settings = f"{cell}, {hidden_size}, {num_layers}, bidirectional={bidirectional}"
    dropout = d.one(0.0, 0.5) if num_layers > 1 else 0.0
    bias = d.chance(0.85)
    batch_first = d.chance(0.2)
    settings += f", dropout={dropout}, bias={bias}, batch_first={batch_first}"
    d.define("rnn", f"RNN({settings})")
    d.weights = dtype = d.one(*FLOATS)
    runs = num_layers * directions
    d.define("carry", sample_carry(d, cell, runs, batch, hidden_size, optional=True))
    axes = (batch, steps) if batch_first else (steps, batch)
    d.define("xs", _sample_inputs(d, *axes, inputs))
    options = ""
    names = ["weight_ih", "weight_hh"]
    if bias:
        names += ["bias_ih", "bias_hh"]
    if d.wrong and d.chance(0.2):
        name = d.one(*names)
        d.mistake(f"{name} of another shape")
        options = f", wrong_shape={f'{name}_l0'!r}"
    elif d.chance(0.25):
        # The first weight_hh decides the precision.
        others = [f"{name}_l0" for name in names if name != "weight_hh"]
        if bias:
            others.append(f"bias_hh_l{num_layers - 1}")
        name = d.one(*others)
        options = f", other={name!r}, other_dtype={d.one(*FLOATS)!r}"
    d.define("variables", f"rnn_weights(rnn, {inputs}, {dtype!r}, seed={d.seed()}{options})")
    arrays = num_layers * directions * (2 if cell == "LSTM" else 1)
    width = directions * hidden_size
    return {
        "carry": [(batch, hidden_size)] * arrays,
        "ys": (*axes, width),
        "dtype": dtype,
        "layers": num_layers,
    }


def _sample_inputs(d: Draft, steps: int, batch: int, inputs: int) -> str:
    """Inputs (T, B, I) of a stack, or (B, T, I): an array, or tokens that are embedded."""
    if d.wrong and d.chance(0.35):
        return _wrong_inputs(d, (steps, batch, inputs))
    if d.chance(0.25):
        return _embedded_tokens(d, steps, batch, inputs)
    return d.floats((steps, batch, inputs))


def _wrong_inputs(d: Draft, shape: tuple[int, int, int]) -> str:
    steps, batch, inputs = shape
    mistake = d.one("axes", "axes", "input size", "swapped", "dtype", "None", "text", "dict")
    if mistake == "axes":
        other = d.one(shape[1:], (1, *shape), (*shape, 1), (steps,), ())
        d.mistake(f"xs of shape {other}")
        return d.floats(other)
    if mistake == "input size":
        d.mistake("xs of another input size")
        return d.floats((steps, batch, d.one(inputs + 1, 0, 2 * inputs)))
    if mistake == "swapped" and steps != batch:
        d.mistake("xs with batch and time exchanged")
        return d.floats((batch, steps, inputs))
    if mistake == "dtype":
        dtype = d.one(*NO_FLOATS)
        d.mistake(f"xs of {dtype}")
        return d.array(shape, dtype, d.one("jax", "numpy", "strided"))
    d.mistake("xs is no array")
    return d.one("None", "'text'", "{'xs': 1}")


def _embedded_tokens(d: Draft, steps: int, batch: int, inputs: int) -> str:
    rows = d.one(1, 5, 9)
    if d.wrong and d.chance(0.3):
        d.mistake("a table without rows")
        table = d.floats((0, inputs))
        tokens = d.integers(0, 1, (steps, batch))
    else:
        table = d.floats((rows, inputs))
        tokens = sample_tokens(d, steps, batch, rows)
        if not d.wrong:
            tokens = sample_rows(d, rows, (steps, batch))
    return f"Inputs({table}, {tokens})"


def _rnn_options(d: Draft, made: dict[str, Any], steps: int, batch: int) -> str:
    """Lengths and dropout, as further arguments of a call."""
    options = ""
    lengths = sample_lengths(d, batch, steps)
    if lengths != "None":
        options += f", lengths={d.define('lengths', lengths)}"
    if made["layers"] > 1 and d.chance(0.5):
        if d.chance(0.5):
            options += f", rngs={{'dropout': key({d.seed()})}}"
        else:
            options += f", dropout_masks=[{_dropout_masks(d, made)}]"
    return options


def _dropout_masks(d: Draft, made: dict[str, Any]) -> str:
    """A mask of the shape of the outputs between each two layers."""
    shape: Shape = made["ys"]
    count = made["layers"] - 1
    dtype = "bool"
    if d.wrong and d.chance(0.3):
        mistake = d.one("shape", "count", "dtype")
        d.mistake(f"dropout masks of another {mistake}")
        if mistake == "shape":
            shape = d.other_shape(shape)
        elif mistake == "count":
            count = d.one(0, count + 1, count - 1)
        else:
            dtype = d.one("float32", "int32")
    return ", ".join(d.array(shape, dtype, d.one("jax", "numpy")) for _ in range(count))


def rnn_apply(d: Draft) -> Sampled:
    """`RNN.apply`."""
    steps, batch, inputs, hidden_size = sample_sizes(d)
    made = sample_rnn(d, steps, batch, inputs, hidden_size)
    options = _rnn_options(d, made, steps, batch)
    call = f"rnn.apply(variables, carry, xs{options})"
    shapes = (*made["carry"], made["ys"])
    return call, {"jitted": d.chance(0.7), "shapes": shapes, "dtype": made["dtype"]}


def rnn_gradient(d: Draft) -> Sampled:
    """The gradient of `RNN.apply`."""
    steps, batch, inputs, hidden_size = sample_sizes(d)
    made = sample_rnn(d, steps, batch, inputs, hidden_size)
    options = _rnn_options(d, made, steps, batch)
    # JAX itself refuses the gradient of what has none.
    of_carry = d.chance(0.4) and not any("carry" in what for what in d.what)
    call = f"gradient(lambda variables, carry: rnn.apply(variables, carry, xs{options}), "
    call += f"variables, carry, of_carry={of_carry})"
    return call, {"jitted": d.chance(0.7)}


def rnn_init(d: Draft) -> Sampled:
    """`RNN.init`, or its first carry where its settings are wrong."""
    steps, batch, inputs, hidden_size = sample_sizes(d)
    if d.wrong and d.chance(0.4):
        sizes = f"{d.one(0, -1)}"
        num_layers = f"4, {d.one(0, -2)}"
        dropout = f"4, 2, dropout={d.one(1.0, -0.1, 2.0)}"
        setting = d.one(sizes, num_layers, dropout)
        d.mistake(f"RNN({setting})")
        d.define("rnn", f"RNN(GRU, {setting})")
        d.define("carry", "(Hidden(array((2, 4), 'float32', 'jax', seed=0)),)")
        d.define("xs", "array((3, 2, 4), 'float32', 'jax', seed=0)")
        return d.one("rnn.init(key(0), carry, xs)", "rnn.initial_carry(3)"), {}
    made = sample_rnn(d, steps, batch, inputs, hidden_size)
    d.setup = [line for line in d.setup if not line.startswith("variables = ")]
    if any("of another shape" in what or "another input size" in what for what in d.what):
        d.expected = "either"  # the weights are made for whatever comes
    return f"rnn.init(key({d.seed()}), carry, xs)", {"jitted": made["layers"] > 0}


def initial_carry(d: Draft) -> Sampled:
    """`RNN.initial_carry`."""
    cell = d.one(*CELLS)
    batch = d.one(0, 1, 5)
    hidden_size = d.one(1, 4)
    num_layers = d.one(1, 2)
    dtype = d.one("float32", "float16", "bfloat16")
    if d.wrong:
        d.mistake("a negative batch")
        batch = -3
    call = f"RNN({cell}, {hidden_size}, {num_layers}).initial_carry({batch}, {dtype!r})"
    arrays = num_layers * (2 if cell == "LSTM" else 1)
    return call, {"shapes": ((batch, hidden_size),) * arrays, "dtype": dtype}


def recurrence(d: Draft) -> Sampled:
    """`recurrence`, the loop over time alone."""
    steps, batch, _, hidden_size = sample_sizes(d)
    cell = d.one(*CELLS)
    width = GATES[cell] * hidden_size
    d.weights = dtype = d.one("float32", "float32", "float64", "bfloat16")
    shapes: dict[str, Shape] = {"weight_hh": (width, hidden_size), "bias_hh": (width,)}
    wrong = d.one(*shapes, "x_gates", "mask") if d.wrong and d.chance(0.6) else None
    for name, shape in shapes.items():
        if name == wrong and d.chance(0.7):
            other = d.other_shape(shape)
            d.mistake(f"{name} of shape {other}")
            d.define(name, d.array(other, dtype))
        elif name == wrong:
            other_dtype = d.one(*NO_FLOATS)
            d.mistake(f"{name} of {other_dtype}")
            d.define(name, d.array(shape, other_dtype, "jax"))
        else:
            right = dtype if name == "weight_hh" else d.one(*FLOATS)
            d.define(name, d.array(shape, right, "jax"))
    d.define("carry", f"bare({sample_carry(d, cell, 1, batch, hidden_size, single=True)})")
    d.define("x_gates", _sample_gates(d, (steps, batch, width), wrong=wrong == "x_gates"))
    d.define("mask", "None")
    if wrong == "mask":
        other, other_dtype = d.one(
            (d.other_shape((steps, batch)), "bool"), ((steps, batch), "float32"), ((), "bool")
        )
        d.mistake(f"mask of shape {other}, {other_dtype}")
        d.define("mask", d.array(other, other_dtype, "jax"))
    elif d.chance(0.5):
        d.define("mask", d.array((steps, batch), "bool", d.one("jax", "numpy", "fortran")))
    call = f"recurrence({cell}, {d.chance(0.5)}, weight_hh, bias_hh, carry, x_gates, mask)"
    arrays = 2 if cell == "LSTM" else 1
    results = (*[(batch, hidden_size)] * arrays, (steps, batch, hidden_size))
    return call, {"jitted": d.chance(0.7), "shapes": results, "dtype": dtype}


def _sample_gates(d: Draft, shape: tuple[int, int, int], *, wrong: bool) -> str:
    """The gates' parts from the inputs, (T, B, G H)."""
    steps, batch, width = shape
    if wrong:
        other = d.other_shape(shape)
        # Another number of steps is another call; of rows, only the carry can tell.
        if len(other) == 3 and other[1:] == shape[1:]:
            other = (*other, 1)
        d.mistake(f"x_gates of shape {other}")
        return d.floats(other)
    if d.chance(0.3):
        tokens = sample_rows(d, 7, (steps, batch))
        return f"Inputs({d.floats((7, width))}, {tokens})"
    return d.floats(shape)


def repackage(d: Draft) -> Sampled:
    """`repackage`."""
    batch = d.one(1, 3)
    hidden_size = d.one(1, 4)
    d.wrong = False
    d.define("carry", sample_carry(d, d.one("GRU", "LSTM"), d.one(1, 2), batch, hidden_size))
    return "repackage(carry)", {}
