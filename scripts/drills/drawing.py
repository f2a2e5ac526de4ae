"""Draw calls of the public functions: right ones, and ones with a single mistake in them.

A call is a few lines of Python, which a process executes and a person can read and run again. What
it is expected to do is drawn with it: give results, refuse, or either of them where nothing is
documented. Call number n of a seed is a pure function of both.

Shapes: T time steps, B batch, I input size, H hidden size, D directions, V vocabulary.
"""

import random
from dataclasses import dataclass, field
from typing import Any, Literal

Expected = Literal["result", "error", "either"]
Shape = tuple[int, ...]

FLOATS = ("float32", "float32", "float32", "float64", "float16", "bfloat16")
"""Right for every floating array: they are cast to the precision of the weights."""
NO_FLOATS = ("int32", "uint8", "bool", "complex64")
LAYOUTS = ("jax", "numpy", "fortran", "strided", "reversed", "read-only", "unaligned", "list")
CELLS = ("TANH", "RELU", "GRU", "LSTM", "OWN")
GATES = {"TANH": 1, "RELU": 1, "GRU": 3, "LSTM": 4, "OWN": 2}
MODELS = (
    "Char3Model",
    "CharLoopModel",
    "CharLoopConcatModel",
    "CharRnn",
    "CharSeqRnn",
    "CharSeqStatefulRnn",
    "CharSeqStatefulRnn2",
    "CharSeqStatefulGRU",
    "CharSeqStatefulLSTM",
    "CharLM",
)
LAST_ONLY = ("Char3Model", "CharLoopModel", "CharLoopConcatModel", "CharRnn")
"""Models that predict only the next character."""


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
        """The lines to run it by hand, from the folder scripts/."""
        head = ["from drills.calling import *"]
        head += ['jax.config.update("jax_enable_x64", True)'] if self.x64 else []
        call = f"jax.jit(lambda: {self.expression})()" if self.jitted else self.expression
        last = ['with backend("compiled"):  # and "scan", "autodiff"', f"    print({call})"]
        return "\n".join([*head, *self.setup, *last])


@dataclass
class Draft:
    """A call in the making: the random numbers, and what has been said so far."""

    rng: random.Random
    x64: bool
    wrong: bool
    setup: list[str] = field(default_factory=list)
    what: list[str] = field(default_factory=list)
    expected: Expected = "result"
    weights: str = "float32"
    may_be_nan: bool = False

    def one(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def seed(self) -> int:
        return self.rng.randrange(1000)

    def say(self, name: str, expression: str) -> str:
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
        return self.array(shape, self.one(*FLOATS))

    def integers(self, low: int, high: int, shape: Shape, dtype: str | None = None) -> str:
        """Integers in [low, high) as an expression."""
        dtype = dtype or self.one("int32", "int32", "int64", "uint8", "int16")
        layout = self.one("jax", "numpy", "fortran", "strided", "read-only")
        return f"integers({low}, {high}, {shape}, {dtype!r}, {layout!r}, seed={self.seed()})"

    def other_shape(self, shape: Shape) -> Shape:
        """A shape that is not this one."""
        kinds = ["more axes", "fewer axes", "size", "size", "size", "swapped"]
        kind = self.one(*kinds)
        if kind == "more axes":
            return self.one((1, *shape), (*shape, 1))
        if kind == "fewer axes" and shape:
            return shape[1:]
        if kind == "swapped" and len(set(shape)) > 1:
            return tuple(reversed(shape)) if shape[0] != shape[-1] else (*shape[1:], shape[0])
        if not shape:
            return (1,)
        axis = self.rng.randrange(len(shape))
        sizes = [s for s in (0, 1, shape[axis] + 1, shape[axis] * 2, 64) if s != shape[axis]]
        return (*shape[:axis], self.one(*sizes), *shape[axis + 1 :])


def draw(seed: int, number: int, *, executed: bool) -> Call:
    """Call number `number` of a seed.

    Args:
        seed: of the drawing.
        number: which call.
        executed: whether the call is to be executed, and not only traced: then some functions are
            drawn that cannot be traced, and no huge arrays.
    """
    rng = random.Random(f"{seed}-{number}-{executed}")
    draft = Draft(rng, x64=rng.random() < 0.35, wrong=rng.random() < (0.4 if executed else 0.6))
    subjects = {**TRACED, **EXECUTED_ONLY} if executed else TRACED
    name = rng.choices(list(subjects), [weight for _, weight in subjects.values()])[0]
    function, _ = subjects[name]
    expression, options = function(draft)
    of_carry = [what for what in draft.what if "carry" in what]
    of_inputs = [what for what in draft.what if what.startswith(("xs", "x_gates", "tokens"))]
    if of_carry and of_inputs:  # two mistakes may fit each other
        draft.expected = "either"
    return Call(
        number,
        name,
        ", ".join(draft.what) or "right",
        draft.expected,
        draft.x64,
        tuple(draft.setup),
        expression,
        weights=draft.weights,
        may_be_nan=draft.may_be_nan,
        traced=name in TRACED,
        **options,
    )


# The carry, lengths, tokens and weights, right or wrong.


def _carry(
    d: Draft, cell: str, runs: int, batch_size: int, hidden_size: int, *, single: bool = False
) -> str:
    """A carry of `runs` recurrences, in whatever way carries go wrong.

    Of a `single` one only the first is used, so that their number does not matter.
    """
    kind = "HiddenAndCell" if cell == "LSTM" else "Hidden"
    fields = 2 if cell == "LSTM" else 1
    dtype = d.one(*FLOATS)

    def carries(count: int, kind: str, fields: int, shape: Shape, dtype: str) -> str:
        one = [
            f"{kind}({', '.join(d.array(shape, dtype, _no_list(d)) for _ in range(fields))})"
            for _ in range(count)
        ]
        return f"({', '.join(one)}{',' if one else ''})"

    right = carries(runs, kind, fields, (batch_size, hidden_size), dtype)
    if not (d.wrong and d.chance(0.5)):
        return f"list({right})" if d.chance(0.1) else right
    mistakes = ["shape", "shape", "batch", "kind", "plain", "None", "dict", "dtype", "text"]
    mistake = d.one(*mistakes, *([] if single else ["layers", "bare"]))
    if mistake == "shape":
        shape = d.other_shape((batch_size, hidden_size))
        d.mistake(f"carry of shape {shape}")
        return carries(runs, kind, fields, shape, dtype)
    if mistake == "batch":
        shape = d.one(
            (200_000, hidden_size),
            (batch_size, 4096),
            (batch_size + 1, hidden_size),
            (1, hidden_size),
            (0, hidden_size),
        )
        if shape == (batch_size, hidden_size):
            return right
        d.mistake("carry of another batch")
        return carries(runs, kind, fields, shape, dtype)
    if mistake == "layers":
        count = d.one(0, runs + 1, runs - 1, 2 * runs)
        d.mistake("carry of other layers")
        return carries(count, kind, fields, (batch_size, hidden_size), dtype)
    if mistake == "kind":
        other, count = d.one(("Hidden", 1), ("HiddenAndCell", 2))
        if other == kind:
            other, count = ("Hidden", 1) if kind == "HiddenAndCell" else ("HiddenAndCell", 2)
        d.mistake(f"carry of {other}")
        return carries(runs, other, count, (batch_size, hidden_size), dtype)
    if mistake == "dtype":
        dtype = d.one(*NO_FLOATS)
        d.mistake(f"carry of {dtype}")
        return carries(runs, kind, fields, (batch_size, hidden_size), dtype)
    if mistake == "plain":
        d.mistake("carry of plain tuples")
        return carries(runs, "plain", fields, (batch_size, hidden_size), dtype)
    d.mistake(f"carry is {mistake}")
    return {"None": "None", "dict": f'{{"h": {right}}}', "bare": f"{right}[0]", "text": "'text'"}[
        mistake
    ]


def _no_list(d: Draft) -> str:
    return d.one("jax", "jax", *[layout for layout in LAYOUTS if layout != "list"])


def _lengths(d: Draft, batch_size: int, steps: int) -> str:
    if not (d.wrong and d.chance(0.3)):
        if d.chance(0.5):
            return "None"
        if d.chance(0.2):  # on the device, values outside count as the nearest ones inside
            return f"integers(-3, {steps + 4}, ({batch_size},), 'int32', 'jax', seed={d.seed()})"
        return d.integers(0, steps + 1, (batch_size,))
    mistake = d.one("shape", "shape", "one row", "negative", "longer", "dtype", "text")
    if mistake == "shape":
        shape = d.other_shape((batch_size,))
        d.mistake(f"lengths of shape {shape}")
        return d.integers(0, steps + 1, shape)
    if mistake == "one row" and batch_size != 1:
        d.mistake("lengths of one row")
        return d.integers(0, steps + 1, (1,))
    if mistake in ("negative", "longer") and batch_size:
        d.mistake(f"lengths that are {mistake}")
        low, high = (-5, 0) if mistake == "negative" else (steps + 1, steps + 9)
        return f"integers({low}, {high}, ({batch_size},), 'int32', 'numpy', seed={d.seed()})"
    if mistake == "dtype":
        dtype = d.one("float32", "bool", "complex64")
        d.mistake(f"lengths of {dtype}")
        return d.array((batch_size,), dtype, d.one("jax", "numpy"))
    d.mistake("lengths are text")
    return "'text'"


def _rows_read(d: Draft, rows: int, shape: Shape) -> str:
    """Which rows of a table are read: some outside of it, which read the nearest one."""
    if d.chance(0.7):
        return d.integers(0, rows, shape)
    low, high, dtype = d.one((-9, rows + 9, "int32"), (-(2**40), 2**40, "int64"))
    return d.integers(low, high, shape, dtype)


def _tokens(
    d: Draft,
    steps: int,
    batch_size: int,
    vocab_size: int,
    *,
    name: str = "tokens",
    host: bool = False,
) -> str:
    """Tokens (T, B). On the host, values outside [0, V) must be refused where `host` says so."""
    if not (d.wrong and d.chance(0.4)):
        return d.integers(0, vocab_size, (steps, batch_size))
    mistake = d.one("dtype", "axes", "axes", "None", "text", "outside" if host else "dtype")
    if mistake == "dtype":
        dtype = d.one("float32", "bool", "complex64", "float64")
        d.mistake(f"{name} of {dtype}")
        return d.array((steps, batch_size), dtype, d.one("jax", "numpy"))
    if mistake == "axes":
        shape = d.one((steps,), (1, steps, batch_size), (steps, batch_size, 1), ())
        d.mistake(f"{name} of shape {shape}")
        return d.integers(0, vocab_size, shape)
    if mistake == "outside" and steps * batch_size:
        d.mistake(f"{name} outside the vocabulary")
        low, high = d.one((-4, 0), (vocab_size, vocab_size + 5))
        return (
            f"integers({low}, {high}, ({steps}, {batch_size}), 'int32', 'numpy', seed={d.seed()})"
        )
    d.mistake(f"{name} is {'None' if mistake == 'None' else 'text'}")
    return "None" if mistake == "None" else "'text'"


def _sizes(d: Draft) -> tuple[int, int, int, int]:
    """T, B, I and H."""
    steps = d.one(1, 2, 3, 5, 6, 0)
    batch_size = d.one(1, 2, 4, 6, 7, 0, 65)
    return steps, batch_size, d.one(1, 3, 5), d.one(1, 2, 4, 8, 9)


# What is called. Each function gives the call as an expression, and what is documented of it.


def _rnn(d: Draft, steps: int, batch_size: int, inputs: int, hidden_size: int) -> dict[str, Any]:
    """A stack, its weights, a carry, inputs and options, right or wrong: said as lines."""
    cell, num_layers = d.one(*CELLS), d.one(1, 1, 2, 3)
    both = d.chance(0.4)
    runs = num_layers * (2 if both else 1)
    settings = f"{cell}, {hidden_size}, {num_layers}, bidirectional={both}"
    d.say("rnn", f"RNN({settings}, dropout={d.one(0.0, 0.5) if num_layers > 1 else 0.0})")
    directions = 2 if both else 1
    d.weights = dtype = d.one(*FLOATS)
    d.say("carry", _carry(d, cell, runs, batch_size, hidden_size))
    xs_shape = (steps, batch_size, inputs)
    if d.wrong and d.chance(0.35):
        mistake = d.one("axes", "axes", "input size", "swapped", "dtype", "None", "text", "dict")
        if mistake == "axes":
            shape = d.one(xs_shape[1:], (1, *xs_shape), (*xs_shape, 1), (steps,), ())
            d.mistake(f"xs of shape {shape}")
            xs = d.floats(shape)
        elif mistake == "input size":
            d.mistake("xs of another input size")
            xs = d.floats((steps, batch_size, d.one(inputs + 1, 0, 2 * inputs)))
        elif mistake == "swapped" and steps != batch_size:
            d.mistake("xs with batch first")
            xs = d.floats((batch_size, steps, inputs))
        elif mistake == "dtype":
            kind = d.one(*NO_FLOATS)
            d.mistake(f"xs of {kind}")
            xs = d.array(xs_shape, kind, d.one("jax", "numpy", "strided"))
        else:
            d.mistake("xs is no array")
            xs = d.one("None", "'text'", "{'xs': 1}")
    elif d.chance(0.25):
        rows = d.one(1, 5, 9)
        if d.wrong and d.chance(0.3):
            d.mistake("a table without rows")
            table, tokens = d.floats((0, inputs)), d.integers(0, 1, (steps, batch_size))
        else:
            table = d.floats((rows, inputs))
            read = _tokens(d, steps, batch_size, rows)
            tokens = read if d.wrong else _rows_read(d, rows, (steps, batch_size))
        xs = f"EmbeddedTokens({table}, {tokens})"
    else:
        xs = d.floats(xs_shape)
    d.say("xs", xs)
    single = ""
    if d.wrong and d.chance(0.2):
        name = d.one("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        d.mistake(f"{name} of another shape")
        single = f", wrong_shape={f'{name}_l0'!r}"
    elif d.chance(0.25):
        name = d.one("weight_ih_l0", "bias_ih_l0", "bias_hh_l0", f"bias_hh_l{num_layers - 1}")
        single = f", other={name!r}, other_dtype={d.one(*FLOATS)!r}"
    d.say("variables", f"rnn_weights(rnn, {inputs}, {dtype!r}, seed={d.seed()}{single})")
    shape = (batch_size, hidden_size)
    carry_shapes = [shape] * (runs * (2 if cell == "LSTM" else 1))
    width = directions * hidden_size
    return {
        "carry": carry_shapes,
        "ys": (steps, batch_size, width),
        "dtype": dtype,
        "layers": num_layers,
        "width": width,
    }


def _rnn_options(d: Draft, made: dict[str, Any], steps: int, batch_size: int) -> str:
    options = ""
    lengths = _lengths(d, batch_size, steps)
    if lengths != "None":
        options += f", lengths={d.say('lengths', lengths)}"
    if made["layers"] > 1 and d.chance(0.5):
        if d.chance(0.5):
            options += f", rngs={{'dropout': key({d.seed()})}}"
        else:
            shape: Shape = (steps, batch_size, made["width"])
            count, kind = made["layers"] - 1, "bool"
            if d.wrong and d.chance(0.3):
                mistake = d.one("shape", "count", "dtype")
                d.mistake(f"dropout masks of another {mistake}")
                shape = d.other_shape(shape) if mistake == "shape" else shape
                count = d.one(0, count + 1, count - 1) if mistake == "count" else count
                kind = d.one("float32", "int32") if mistake == "dtype" else kind
            masks = ", ".join(d.array(shape, kind, d.one("jax", "numpy")) for _ in range(count))
            options += f", dropout_masks=[{masks}]"
    return options


def _rnn_apply(d: Draft) -> tuple[str, dict[str, Any]]:
    steps, batch_size, inputs, hidden_size = _sizes(d)
    made = _rnn(d, steps, batch_size, inputs, hidden_size)
    options = _rnn_options(d, made, steps, batch_size)
    call = f"rnn.apply(variables, carry, xs{options})"
    shapes = (*made["carry"], made["ys"])
    return call, {"jitted": d.chance(0.7), "shapes": shapes, "dtype": made["dtype"]}


def _rnn_gradient(d: Draft) -> tuple[str, dict[str, Any]]:
    steps, batch_size, inputs, hidden_size = _sizes(d)
    made = _rnn(d, steps, batch_size, inputs, hidden_size)
    options = _rnn_options(d, made, steps, batch_size)
    # JAX itself refuses the gradient of what has none.
    of_carry = d.chance(0.4) and not any("carry" in what for what in d.what)
    call = f"gradient(lambda variables, carry: rnn.apply(variables, carry, xs{options}), "
    call += f"variables, carry, of_carry={of_carry})"
    return call, {"jitted": d.chance(0.7)}


def _rnn_init(d: Draft) -> tuple[str, dict[str, Any]]:
    steps, batch_size, inputs, hidden_size = _sizes(d)
    if d.wrong and d.chance(0.4):
        setting = d.one(
            f"{d.one(0, -1)}", f"4, {d.one(0, -2)}", f"4, 2, dropout={d.one(1.0, -0.1, 2.0)}"
        )
        d.mistake(f"RNN({setting})")
        d.say("rnn", f"RNN(GRU, {setting})")
        d.say("carry", "(Hidden(array((2, 4), 'float32', 'jax', seed=0)),)")
        d.say("xs", "array((3, 2, 4), 'float32', 'jax', seed=0)")
        return d.one("rnn.init(key(0), carry, xs)", "rnn.initial_carry(3)"), {}
    made = _rnn(d, steps, batch_size, inputs, hidden_size)
    d.setup = [line for line in d.setup if not line.startswith("variables = ")]
    if any("of another shape" in w or "another input size" in w for w in d.what):
        d.expected = "either"  # the weights are made for whatever comes
    return f"rnn.init(key({d.seed()}), carry, xs)", {"jitted": made["layers"] > 0}


def _initial_carry(d: Draft) -> tuple[str, dict[str, Any]]:
    cell, batch_size, hidden_size, num_layers = (
        d.one(*CELLS),
        d.one(0, 1, 5),
        d.one(1, 4),
        d.one(1, 2),
    )
    dtype = d.one("float32", "float16", "bfloat16")
    if d.wrong:
        d.mistake("a negative batch")
        batch_size = -3
    call = f"RNN({cell}, {hidden_size}, {num_layers}).initial_carry({batch_size}, {dtype!r})"
    fields = 2 if cell == "LSTM" else 1
    return call, {"shapes": ((batch_size, hidden_size),) * (num_layers * fields), "dtype": dtype}


def _recurrence(d: Draft) -> tuple[str, dict[str, Any]]:
    steps, batch_size, _, hidden_size = _sizes(d)
    cell = d.one(*CELLS)
    width = GATES[cell] * hidden_size
    d.weights = dtype = d.one("float32", "float32", "float64", "bfloat16")
    shapes: dict[str, Shape] = {"weight_hh": (width, hidden_size), "bias_hh": (width,)}
    names = [*shapes, "x_gates", "mask"]
    wrong = d.one(*names) if d.wrong and d.chance(0.6) else None
    for name, shape in shapes.items():
        if name == wrong and d.chance(0.7):
            other = d.other_shape(shape)
            d.mistake(f"{name} of shape {other}")
            d.say(name, d.array(other, dtype))
        elif name == wrong:
            kind = d.one(*NO_FLOATS)
            d.mistake(f"{name} of {kind}")
            d.say(name, d.array(shape, kind, "jax"))
        else:
            d.say(name, d.array(shape, dtype if name == "weight_hh" else d.one(*FLOATS), "jax"))
    d.say("carry", f"bare({_carry(d, cell, 1, batch_size, hidden_size, single=True)})")
    gates = (steps, batch_size, width)
    if wrong == "x_gates":
        other = d.other_shape(gates)
        # Another number of steps is another call; of rows, only the carry can tell.
        if len(other) == 3 and other[1:] == gates[1:]:
            other = (*other, 1)
        d.mistake(f"x_gates of shape {other}")
        d.say("x_gates", d.floats(other))
    elif d.chance(0.3):
        tokens = _rows_read(d, 7, (steps, batch_size))
        d.say("x_gates", f"EmbeddedTokens({d.floats((7, width))}, {tokens})")
    else:
        d.say("x_gates", d.floats(gates))
    d.say("mask", "None")
    if wrong == "mask":
        other, kind = d.one(
            (d.other_shape((steps, batch_size)), "bool"),
            ((steps, batch_size), "float32"),
            ((), "bool"),
        )
        d.mistake(f"mask of shape {other}, {kind}")
        d.say("mask", d.array(other, kind, "jax"))
    elif d.chance(0.5):
        d.say("mask", d.array((steps, batch_size), "bool", d.one("jax", "numpy", "fortran")))
    call = f"recurrence({cell}, {d.chance(0.5)}, weight_hh, bias_hh, carry, x_gates, mask)"
    fields = 2 if cell == "LSTM" else 1
    results = (*[(batch_size, hidden_size)] * fields, (steps, batch_size, hidden_size))
    return call, {"jitted": d.chance(0.7), "shapes": results, "dtype": dtype}


def _model(d: Draft, batch_size: int) -> dict[str, Any]:
    """A model and its weights, said as lines."""
    name, hidden_size, vocab_size = (
        d.one(*MODELS, "CharLM", "CharLM"),
        d.one(1, 4, 8),
        d.one(2, 9, 30),
    )
    embedding_size, num_layers, cell = d.one(1, 5), 1, "TANH"
    options = ""
    if name == "CharLM":
        cell, num_layers = d.one("TANH", "RELU", "GRU", "LSTM", "OWN"), d.one(1, 2)
        tied = d.chance(0.2)
        embedding_size = hidden_size if tied else embedding_size
        options = f", cell={cell}, num_layers={num_layers}, tied={tied}"
    if name == "CharSeqStatefulGRU":
        cell = "GRU"
    if name == "CharSeqStatefulLSTM":
        cell, num_layers = "LSTM", d.one(1, 2)
        options = f", num_layers={num_layers}"
    d.weights = dtype = d.one("float32", "float32", "float64", "bfloat16", "float16")
    stateful = "Stateful" in name or name == "CharLM"
    d.say("model", f"{name}({vocab_size}, {embedding_size}, {hidden_size}{options})")
    d.say("params", f"model_weights(model, {dtype!r}, seed={d.seed()})")
    if stateful:
        d.say("carry", _carry(d, cell, num_layers, batch_size, hidden_size))
    elif d.wrong and d.chance(0.2):
        d.mistake("a carry for a model without one")
        d.say("carry", _carry(d, cell, 1, batch_size, hidden_size, single=True))
    else:
        d.say("carry", "()")
    steps = 3 if name == "Char3Model" else d.one(1, 2, 5, 8)
    fields = (2 if cell == "LSTM" else 1) * num_layers
    return {
        "name": name,
        "stateful": stateful,
        "steps": steps,
        "vocabulary": vocab_size,
        "dtype": dtype,
        "carry": [(batch_size, hidden_size)] * fields if stateful else [],
    }


def _apply_model(d: Draft) -> tuple[str, dict[str, Any]]:
    batch_size = d.one(1, 3, 6)
    made = _model(d, batch_size)
    steps, vocab_size = made["steps"], made["vocabulary"]
    d.say("tokens", _tokens(d, steps, batch_size, vocab_size))
    options = ""
    if made["stateful"] and d.chance(0.5):
        lengths = _lengths(d, batch_size, steps)
        options += f", lengths={lengths}"
    if d.chance(0.3):
        options += f", dropout_key=key({d.seed()})"
    outputs = (
        (batch_size, vocab_size) if made["name"] in LAST_ONLY else (steps, batch_size, vocab_size)
    )
    return f"apply_model(model, params, carry, tokens{options})", {
        "jitted": True,
        "shapes": (*made["carry"], outputs),
        "dtype": made["dtype"],
    }


def _batch(d: Draft, made: dict[str, Any], batch_size: int) -> None:
    steps, vocab_size = made["steps"], made["vocabulary"]
    inputs = _tokens(d, steps, batch_size, vocab_size, name="inputs", host=True)
    targets = _tokens(d, steps, batch_size, vocab_size, name="targets", host=True)
    if d.wrong and d.chance(0.2):
        shape = d.other_shape((steps, batch_size))
        d.mistake(f"targets of shape {shape}")
        targets = d.integers(0, vocab_size, shape)
    options = ""
    if made["stateful"] and d.chance(0.4):
        options += f", length=jnp.asarray({d.one(1, steps)})"
    if d.chance(0.3):
        options += f", rows=jnp.asarray({d.one(1, batch_size)})"
    d.say("batch", f"Batch({inputs}, {targets}{options})")
    # A carry of another batch size starts from zeros, as documented.
    if any("carry" in w for w in d.what) and d.expected == "error":
        others = [w for w in d.what if "carry" not in w]
        if not others:
            d.expected = "either"


def _train_step(d: Draft) -> tuple[str, dict[str, Any]]:
    batch_size = d.one(1, 3, 6)
    made = _model(d, batch_size)
    _batch(d, made, batch_size)
    d.say("optimizer", "make_optimizer('sgd')")
    d.say("state", "train_state(model, params, optimizer, carry)")
    options = ""
    if made["stateful"] and d.chance(0.3):
        remat_every = d.one(1, 2, 100)
        if d.wrong and d.chance(0.3):
            remat_every = d.one(0, -1)
            d.mistake("segment below 1")
        options = f", remat_every={remat_every}"
    return f"step_results(train_step(model, optimizer, state, batch, 0.1{options}))", {}


def _eval_step(d: Draft) -> tuple[str, dict[str, Any]]:
    batch_size = d.one(1, 3, 6)
    made = _model(d, batch_size)
    _batch(d, made, batch_size)
    shapes = (*made["carry"], ())
    return "eval_step(model, params, carry, batch)", {"shapes": shapes, "dtype": made["dtype"]}


def _generate(d: Draft) -> tuple[str, dict[str, Any]]:
    batch_size, length = d.one(1, 2, 4), d.one(1, 2, 5, 20)
    made = _model(d, batch_size)
    prompt = _tokens(d, made["steps"], batch_size, made["vocabulary"], name="prompt", host=True)
    d.say("prompt", prompt)
    options = ""
    if made["stateful"] and "carry is None" not in d.what and d.chance(0.6):
        options += ", carry=carry"
    else:  # zeros
        d.what = [what for what in d.what if "carry" not in what]
        d.expected = d.expected if d.what else "result"
    if d.wrong and d.chance(0.3):
        length = d.one(0, -5)
        d.mistake("length below 1")
    if d.chance(0.5):
        sampler = d.one("temperature=0.0", "top_k=2", "top_p=0.7", "temperature=0.5", "banned=(1,)")
        options += f", sampler=Sampler({sampler})"
    shapes = ((length, batch_size),) if d.expected == "result" else None
    call = f"generate(model, params, prompt, {length}, key({d.seed()}){options})[1]"
    return call, {"shapes": shapes}


def _get_next(d: Draft) -> tuple[str, dict[str, Any]]:
    batch_size = d.one(1, 2, 4)
    made = _model(d, batch_size)
    d.what = [what for what in d.what if "carry" not in what]
    d.expected = d.expected if d.what else "result"
    prompt = _tokens(d, made["steps"], batch_size, made["vocabulary"], name="prompt", host=True)
    d.say("prompt", prompt)
    return "get_next(model, params, prompt)", {"shapes": ((batch_size,),)}


def _sampler(d: Draft) -> tuple[str, dict[str, Any]]:
    batch_size, vocab_size = d.one(1, 3), d.one(2, 9, 30)
    sampler = d.one("", "temperature=0.0", "top_k=2", "top_p=0.5", "banned=(0,)", "temperature=1e9")
    shape: Shape = (batch_size, vocab_size)
    kind = d.one("float32", "float64", "float16", "bfloat16")
    if d.wrong:
        mistake = d.one("setting", "axes", "dtype", "banned")
        if mistake == "setting":
            sampler = d.one("temperature=-1.0", "top_k=0", "top_p=0.0", "top_p=1.5")
            d.mistake(f"Sampler({sampler})")
        elif mistake == "banned":
            sampler = d.one("banned=(99,)", "banned=(-1,)", f"banned=tuple(range({vocab_size}))")
            d.mistake(f"Sampler({sampler})")
        elif mistake == "axes":
            shape = d.one((vocab_size,), (1, *shape), ())
            d.mistake(f"log_probs of shape {shape}")
        else:
            kind = d.one(*NO_FLOATS)
            d.mistake(f"log_probs of {kind}")
    d.say("log_probs", d.array(shape, kind))
    call = f"Sampler({sampler})(key({d.seed()}), log_probs)"
    return call, {"shapes": ((batch_size,),), "jitted": d.chance(0.5)}


def _nll_loss(d: Draft) -> tuple[str, dict[str, Any]]:
    steps, batch_size, vocab_size = d.one(1, 4), d.one(1, 3), d.one(2, 9)
    lead = d.one((batch_size,), (steps, batch_size))
    kind = d.one("float32", "float32", "float64", "bfloat16", "float16")
    log_probs, targets, weights = (*lead, vocab_size), lead, lead
    target_dtype = None
    if d.wrong:
        mistake = d.one("targets", "weights", "targets' dtype", "log_probs' dtype")
        d.mistake(f"wrong {mistake}")
        if mistake == "targets":
            targets = d.other_shape(targets)
        elif mistake == "weights":
            weights = d.other_shape(weights)
        elif mistake == "targets' dtype":
            target_dtype = d.one("float32", "bool")
        else:
            kind = d.one(*NO_FLOATS)
        weighted = mistake == "weights"
    else:
        weighted = d.chance(0.5)
    d.say("log_probs", d.array(log_probs, kind))
    if target_dtype:
        d.say("targets", d.array(targets, target_dtype, "jax"))
    else:
        d.say("targets", d.integers(0, vocab_size, targets))
    extra = f", jnp.abs(jnp.asarray({d.floats(weights)})) + 1" if weighted else ""
    return f"nll_loss(log_probs, targets{extra})", {"shapes": ((),), "jitted": d.chance(0.5)}


def _nll_loss_seq(d: Draft) -> tuple[str, dict[str, Any]]:
    steps, batch_size, vocab_size = d.one(1, 4), d.one(1, 3), d.one(2, 9)
    d.say("log_probs", d.floats((steps, batch_size, vocab_size)))
    d.say("targets", _tokens(d, steps, batch_size, vocab_size, name="targets"))
    d.say("lengths", _lengths(d, batch_size, steps))
    d.may_be_nan = True  # where all lengths are 0, as documented
    return "nll_loss_seq(log_probs, targets, lengths)", {"shapes": ((),)}


def _make_state(d: Draft) -> tuple[str, dict[str, Any]]:
    name, optimizer = d.one(*MODELS), d.one("adam", "sgd")
    batch_size = d.one(1, 4)
    if d.wrong:
        batch_size = -1
        d.mistake("a negative batch")
    d.say("model", f"{name}(9, 5, 4)")
    return f"make_state(model, make_optimizer({optimizer!r}), {batch_size}, key(0)).params", {}


def _repackage(d: Draft) -> tuple[str, dict[str, Any]]:
    batch_size, hidden_size = d.one(1, 3), d.one(1, 4)
    d.wrong = False
    d.say("carry", _carry(d, d.one("GRU", "LSTM"), d.one(1, 2), batch_size, hidden_size))
    return "repackage(carry)", {}


def _source(d: Draft, made: dict[str, Any], batch_size: int) -> None:
    d.say("text", f"integers(0, {made['vocabulary']}, (80,), 'int32', 'numpy', seed={d.seed()})")
    if made["stateful"]:
        d.say("source", f"BpttStream(text, {batch_size}, {made['steps']})")
    else:
        starts = f"np.arange(0, 70, {d.one(3, 7)})"
        d.say("source", f"WindowSet(text, {starts}, {made['steps']}, {batch_size})")


def _evaluate(d: Draft) -> tuple[str, dict[str, Any]]:
    batch_size = d.one(1, 3)
    made = _model(d, batch_size)
    _source(d, made, batch_size)
    if any("carry" in w for w in d.what):
        d.expected = "either"
    return "evaluate(model, params, source, carry)", {}


def _fit(d: Draft) -> tuple[str, dict[str, Any]]:
    batch_size = d.one(1, 3)
    made = _model(d, batch_size)
    _source(d, made, batch_size)
    d.say("optimizer", "make_optimizer('sgd')")
    if any("carry" in w for w in d.what):
        d.expected = "either"
    state = "train_state(model, params, optimizer, carry)"  # it is used up
    call = f"fit(model, source, schedule='1 x 1e-2', optimizer=optimizer, state={state})"
    return f"fit_results({call})", {}


TRACED = {
    "RNN.apply": (_rnn_apply, 30),
    "gradient of RNN.apply": (_rnn_gradient, 15),
    "RNN.init": (_rnn_init, 8),
    "RNN.initial_carry": (_initial_carry, 2),
    "recurrence": (_recurrence, 12),
    "apply_model": (_apply_model, 12),
    "train_step": (_train_step, 8),
    "eval_step": (_eval_step, 8),
    "generate": (_generate, 6),
    "get_next": (_get_next, 2),
    "Sampler": (_sampler, 4),
    "nll_loss": (_nll_loss, 4),
    "nll_loss_seq": (_nll_loss_seq, 3),
    "make_state": (_make_state, 2),
    "repackage": (_repackage, 1),
}
"""What can be run on shapes alone, and how often it is drawn."""
EXECUTED_ONLY = {"evaluate": (_evaluate, 4), "fit": (_fit, 2)}
"""What looks at values, and can only be executed."""
