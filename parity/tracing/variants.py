"""What a call of a torch function gives if it is made with a mistake.

The mistakes are found from the call itself and not from a list of known ones: every argument is
changed in every way that its type allows, the function is exchanged with those of its kind, left
out, or followed by another. Numbers that could be anything are fitted.
"""

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from parity.tracing.torch_trace import Call

Tensors = Mapping[int, torch.Tensor]


class Variant(NamedTuple):
    """A call with a mistake in it.

    Attributes:
        words: the mistake, such as "eps is 1e-06, PyTorch has 1e-05".
        run: gives the outputs.
    """

    words: str
    run: Callable[[], list[np.ndarray]]


class Family(NamedTuple):
    """Calls with the same mistake and a number in it that has to be found.

    Attributes:
        words: says the mistake for a number.
        run: gives the outputs for a number.
        start: the number without the mistake.
    """

    words: Callable[[float], str]
    run: Callable[[float], list[np.ndarray]]
    start: float


# Functions that are mistaken for each other, by kind: of one tensor alone...
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": functional.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "GELU": functional.gelu,
    "GELU by tanh": partial(functional.gelu, approximate="tanh"),
    "GELU by sigmoid": lambda x: x * torch.sigmoid(1.702 * x),
    "SiLU": functional.silu,
    "ELU": functional.elu,
    "SELU": functional.selu,
    "CELU": functional.celu,
    "leaky relu (0.01)": functional.leaky_relu,
    "leaky relu (0.2)": partial(functional.leaky_relu, negative_slope=0.2),
    "relu6": functional.relu6,
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "mish": functional.mish,
    "hard sigmoid": functional.hardsigmoid,
    "hard swish": functional.hardswish,
    "hard tanh": functional.hardtanh,
    "log sigmoid": functional.logsigmoid,
    "sin": torch.sin,
    "cos": torch.cos,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "erf": torch.erf,
    "square": torch.square,
    "absolute value": torch.abs,
    "negation": torch.neg,
    "reciprocal": torch.reciprocal,
    "square root": lambda x: x.clamp(min=0).sqrt(),
    "logarithm": lambda x: x.abs().log(),
    "softmax over the last axis": partial(torch.softmax, dim=-1),
    "log softmax over the last axis": partial(torch.log_softmax, dim=-1),
}
# ... of two...
BINARY: dict[str, Callable[[Any, Any], torch.Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": lambda x, y: torch.maximum(x, torch.as_tensor(y, dtype=x.dtype)),
    "minimum": lambda x, y: torch.minimum(x, torch.as_tensor(y, dtype=x.dtype)),
}
# ... and along axes.
REDUCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "amax": torch.amax,
    "amin": torch.amin,
    "variance": partial(torch.var, correction=0),
    "variance of a sample": torch.var,
    "standard deviation": partial(torch.std, correction=0),
    "standard deviation of a sample": torch.std,
    "logsumexp": torch.logsumexp,
}
# Functions of torch whose last name is another than those above.
SPELLINGS = {
    "__add__": "add",
    "__radd__": "add",
    "__iadd__": "add",
    "__sub__": "sub",
    "__isub__": "sub",
    "__mul__": "mul",
    "__rmul__": "mul",
    "__imul__": "mul",
    "__truediv__": "div",
    "add_": "add",
    "mul_": "mul",
    "true_divide": "div",
    "max": "amax",
    "min": "amin",
}
# Functions that pick a window of each channel.
POOLS = {"max_pool": "avg_pool", "avg_pool": "max_pool"}

# Arguments of functions that have no signature that Python can read.
SIGNATURES = {
    "linear": ("input", "weight", "bias"),
    "conv1d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "conv2d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "conv3d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "gelu": ("input", "approximate"),
    "softmax": ("input", "dim"),
    "log_softmax": ("input", "dim"),
    "mean": ("input", "dim"),
    "sum": ("input", "dim"),
    "clamp": ("input", "min", "max"),
    "scaled_dot_product_attention": ("query", "key", "value", "attn_mask", "dropout_p", "causal"),
    "addmm": ("bias", "input", "weight"),
    "add": ("first", "second"),
    "sub": ("first", "second"),
    "mul": ("first", "second"),
    "div": ("first", "second"),
    "matmul": ("first", "second"),
}
# Other values of options that are words.
WORDS = {"none": ("tanh",), "tanh": ("none",), "mean": ("sum", "none"), "sum": ("mean", "none")}

# Values that porters confuse, tried before a number is fitted.
LIKELY = (0.0, 1e-3, 1e-5, 1e-6, 1e-7, 1e-8, 1e-12, 0.01, 0.1, 0.2, 0.9, 0.99, 1.0, 2.0)


def argument_names(call: Call) -> list[str]:
    """The names of the positional arguments of a call."""
    names: list[str] = []
    plain = SPELLINGS.get(call.name, call.name)
    if plain in SIGNATURES:
        names = list(SIGNATURES[plain])
    else:
        with_signature = False
        try:
            names = list(inspect.signature(call.function).parameters)
            with_signature = "args" not in names and "self" not in names
        except (TypeError, ValueError):
            pass
        if not with_signature:
            names = []
    missing = range(len(names), len(call.arguments))
    return names[: len(call.arguments)] + [f"argument {k}" for k in missing]


def variants(call: Call, given: Tensors) -> Iterator[Variant]:
    """The calls with one mistake.

    Args:
        call: the call.
        given: the tensors that it reads from other calls, by number.
    """
    yield from _other_settings(call, given)
    yield from _other_functions(call, given)
    yield from _left_out(call, given)
    yield from _without(call, given)
    yield from _other_tensors(call, given)


# Settings: numbers, switches and words among the arguments.


def _settings(call: Call) -> Iterator[tuple[str, Any, Callable[[Any], tuple[Any, Any]]]]:
    """Name, value and exchange of every argument that is no tensor."""
    for k, (name, value) in enumerate(zip(argument_names(call), call.arguments, strict=True)):

        def positional(new: Any, k: int = k) -> tuple[Any, Any]:
            return (*call.arguments[:k], new, *call.arguments[k + 1 :]), call.options

        yield name, value, positional
    for name, value in call.options.items():

        def keyword(new: Any, name: str = name) -> tuple[Any, Any]:
            return call.arguments, {**call.options, name: new}

        yield name, value, keyword


def _other_settings(call: Call, given: Tensors) -> Iterator[Variant]:
    for name, value, exchanged in _settings(call):
        for new in _other_values(value):

            def run(new: Any = new, exchanged: Any = exchanged) -> list[np.ndarray]:
                arguments, options = exchanged(new)
                return call.again(given, arguments=arguments, options=options)

            yield Variant(f"{name} is {new}, PyTorch has {value}", run)


def _other_values(value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, str):
        yield from WORDS.get(value, ())
    elif isinstance(value, int):
        yield from (new for new in range(value - 2, value + 3) if new != value)
    elif isinstance(value, float):
        yield from (new for new in LIKELY if new != value)
    elif isinstance(value, tuple | list) and value and all(isinstance(v, int) for v in value):
        for step in (-1, 1):
            yield type(value)(v + step for v in value)


# Functions.


def _other_functions(call: Call, given: Tensors) -> Iterator[Variant]:
    tensors = {**dict(enumerate(call.tensors)), **given}
    if not tensors:
        return
    first = tensors[0]
    plain = SPELLINGS.get(call.name, call.name)

    def of(function: Callable[..., torch.Tensor], *arguments: Any) -> list[np.ndarray]:
        with torch.no_grad():
            return [function(*arguments).numpy()]

    if len(tensors) == 1 and first.shape == call.outputs[0].shape:
        for name, function in ACTIVATIONS.items():
            yield Variant(f"{name} stands for {call.name}", partial(of, function, first))
    if plain in BINARY:
        operands = _operands(call, tensors)
        for name, binary in BINARY.items():
            if name != plain and len(operands) == 2:
                words = f"{name} stands for {plain}"
                yield Variant(words, partial(of, binary, *operands))
        if len(operands) == 2 and plain in ("sub", "div"):
            yield Variant("its operands are exchanged", partial(of, BINARY[plain], *operands[::-1]))
    if plain in REDUCTIONS or plain in ("var", "std"):
        for name, function in REDUCTIONS.items():

            def run(function: Any = function) -> list[np.ndarray]:
                return call.again(given, function=function)

            yield Variant(f"{name} stands for {call.name}", run)
    for pool, other in POOLS.items():
        if pool in call.name:
            dimension = call.name[-2:]

            def pooled(other: str = f"{other}{dimension}") -> list[np.ndarray]:
                return of(getattr(functional, other), *call.arguments[:4])

            yield Variant(f"{other}{dimension} stands for {call.name}", pooled)
    yield from _other_norms(call, tensors)


def _operands(call: Call, tensors: Tensors) -> list[Any]:
    """The two operands of an arithmetic function; numbers stay numbers."""
    numbers = itertools.count()
    operands = []
    for value in call.arguments[:2]:
        operands.append(tensors[next(numbers)] if isinstance(value, torch.Tensor) else value)
    return operands


def _other_norms(call: Call, tensors: Tensors) -> Iterator[Variant]:
    """Normalizations by another statistic."""
    if call.name not in ("layer_norm", "rms_norm"):
        return
    x = tensors[0]
    shape = call.arguments[1]
    names = argument_names(call)
    settings = dict(zip(names, call.arguments, strict=True)) | call.options
    epsilon = settings.get("eps") or torch.finfo(x.dtype).eps
    axes = tuple(range(-len(shape), 0))
    scale = settings.get("weight")
    shift = settings.get("bias")

    def finished(y: torch.Tensor) -> list[np.ndarray]:
        if scale is not None:
            y = y * scale
        if shift is not None:
            y = y + shift
        return [y.detach().numpy()]

    mean = x.mean(axes, keepdim=True)
    variance = x.var(axes, keepdim=True, correction=0)
    sample = x.var(axes, keepdim=True)
    square = x.square().mean(axes, keepdim=True)
    forms = {
        "the mean is not taken away": x * torch.rsqrt(square + epsilon),
        "the mean is taken away": (x - mean) * torch.rsqrt(variance + epsilon),
        "the variance is that of a sample": (x - mean) * torch.rsqrt(sample + epsilon),
        "epsilon is added to the standard deviation": (x - mean) / (variance.sqrt() + epsilon),
        "the standard deviation is that of a sample, and epsilon is added to it": (x - mean)
        / (sample.sqrt() + epsilon),
        "it is not divided by the standard deviation": x - mean,
    }
    for words, y in forms.items():
        yield Variant(words, partial(finished, y))


def _left_out(call: Call, given: Tensors) -> Iterator[Variant]:
    """The function is missing: an input takes the place of its output; or it runs twice."""
    tensors = {**dict(enumerate(call.tensors)), **given}
    for number, tensor in tensors.items():
        same = tensor.shape == call.outputs[0].shape and tensor.is_floating_point()
        if same and len(call.outputs) == 1:
            which = "" if len(tensors) == 1 else f": only argument {number} is there"
            value = tensor.detach().numpy().copy()
            yield Variant(f"{call.name} is missing{which}", partial(list, [value]))
    if tensors and len(call.outputs) == 1 and tensors[0].shape == call.outputs[0].shape:

        def twice() -> list[np.ndarray]:
            once = torch.from_numpy(call.again(given)[0])
            return call.again({**given, 0: once})

        yield Variant(f"{call.name} is applied twice", twice)


# Tensors.


def _other_tensors(call: Call, given: Tensors) -> Iterator[Variant]:
    names = _tensor_names(call)
    # What is done to the output of another call is a mistake behind that call.
    for number, tensor in enumerate(call.tensors):
        if number in given:
            continue
        name = names[number]
        for words, new in changed(tensor):
            exchanged = {**given, number: new}
            yield Variant(f"{name} {words}", partial(call.again, exchanged))
    tensors = {**dict(enumerate(call.tensors)), **given}
    for one, other in itertools.combinations(tensors, 2):
        if tensors[one].shape == tensors[other].shape and len(tensors) < 8:
            exchanged = {**given, one: tensors[other], other: tensors[one]}
            words = f"{names[one]} and {names[other]} are exchanged"
            yield Variant(words, partial(call.again, exchanged))


def _tensor_names(call: Call) -> list[str]:
    """A name for each tensor among the arguments."""
    names: list[str] = []
    for name, value, _ in _settings(call):
        if isinstance(value, torch.Tensor):
            names.append(name)
        elif isinstance(value, list | tuple):
            count = sum(isinstance(inner, torch.Tensor) for inner in value)
            names += [f"{name}[{k}]" for k in range(count)]
    missing = range(len(names), len(call.tensors))
    return names + [f"tensor {k}" for k in missing]


def _without(call: Call, given: Tensors) -> Iterator[Variant]:
    """Without an argument that may be missing, such as a bias."""
    for name, value, exchanged in _settings(call):
        if not isinstance(value, torch.Tensor):
            continue

        def run(exchanged: Any = exchanged) -> list[np.ndarray]:
            arguments, options = exchanged(None)
            return call.again(given, arguments=arguments, options=options)

        # The tensors behind the one that is gone have other numbers.
        if not given.keys() - {0} and value is not call.arguments[0]:
            yield Variant(f"{name} is missing", run)


def changed(tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The forms in which a tensor is mistaken, each with words for it."""
    if tensor.dtype == torch.bool:
        yield "is inverted", ~tensor
        if tensor.ndim >= 2 and tensor.shape[-1] == tensor.shape[-2]:
            yield "is moved along the diagonal", torch.triu(torch.ones_like(tensor), 0)
            yield "is moved along the diagonal", torch.triu(torch.ones_like(tensor), 2)
            yield "is transposed", tensor.mT.contiguous()
        return
    if not tensor.is_floating_point():
        yield "is one too low", (tensor - 1).clamp(min=0)
        yield "is one too high", tensor + 1
        return
    yield "is zero", torch.zeros_like(tensor)
    yield "is one everywhere", torch.ones_like(tensor)
    yield "has the other sign", -tensor
    yield "is doubled", 2 * tensor
    yield "is rounded to float32", tensor.float().double()
    yield "is rounded to bfloat16", tensor.bfloat16().double()
    if tensor.ndim >= 2 and tensor.shape[-1] == tensor.shape[-2]:
        yield "is transposed", tensor.mT.contiguous()
        later = torch.ones_like(tensor, dtype=torch.bool).triu(1)
        yield "is masked: later steps are not seen", tensor.masked_fill(later, -torch.inf)
        yield "is zero above the diagonal", tensor.tril()
    for axis in range(tensor.ndim):
        if tensor.shape[axis] == 1:
            continue
        yield f"is flipped along axis {axis}", tensor.flip(axis)
        yield f"is shifted by one along axis {axis}", tensor.roll(1, axis)
        yield f"is shifted by minus one along axis {axis}", tensor.roll(-1, axis)
    yield from _reordered(tensor)


# What those that change nothing but the order of numbers have in their words.
ORDER_WORDS = ("is flipped along", "is shifted by", "blocks in the order")


def _reordered(tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    # Read in another order of the axes, as if the memory were laid out otherwise.
    for one, other in itertools.combinations(range(tensor.ndim), 2):
        if tensor.shape[one] > 1 and tensor.shape[other] > 1:
            swapped = tensor.transpose(one, other)
            words = f"is read with axes {one} and {other} exchanged"
            yield words, swapped.reshape(tensor.shape)
    if 1 <= tensor.ndim <= 2:
        for count in (2, 3, 4):
            if tensor.shape[0] % count == 0 and tensor.shape[0] > count:
                blocks = tensor.chunk(count)
                for order in itertools.permutations(range(count)):
                    if list(order) != sorted(order):
                        words = f"has its {count} blocks in the order {order}"
                        yield words, torch.cat([blocks[k] for k in order])


def behind(call: Call, output: np.ndarray) -> Iterator[Variant]:
    """A function that is too many, on the only output of a call."""
    tensor = torch.from_numpy(output)
    for words, new in changed(tensor):
        yield Variant(f"the output of {call.name} {words}", partial(list, [new.numpy()]))
    for name, function in ACTIVATIONS.items():

        def run(function: Any = function) -> list[np.ndarray]:
            return [function(tensor).numpy()]

        yield Variant(f"{name} is applied to the output of {call.name}", run)


# Numbers that have to be found.


def families(call: Call, given: Tensors) -> Iterator[Family]:
    """The mistakes with a number that could be anything."""
    for name, value, exchanged in _settings(call):
        if isinstance(value, float):

            def with_setting(x: float, exchanged: Any = exchanged) -> list[np.ndarray]:
                arguments, options = exchanged(x)
                return call.again(given, arguments=arguments, options=options)

            yield Family(partial(_setting_words, name, value), with_setting, value)
    tensors = {**dict(enumerate(call.tensors)), **given}
    for number, name in enumerate(_tensor_names(call)):
        tensor = tensors[number]
        if tensor.is_floating_point() and number not in given:
            yield from _scaled(call, given, number, name, tensor)


def families_behind(call: Call, output: np.ndarray) -> Iterator[Family]:
    """The only output of a call is scaled or shifted."""

    def times(x: float) -> list[np.ndarray]:
        return [x * output]

    def plus(x: float) -> list[np.ndarray]:
        return [x + output]

    yield Family(lambda x: f"the output of {call.name} is multiplied by {x:.6g}", times, 1.0)
    yield Family(lambda x: f"{x:.6g} is added to the output of {call.name}", plus, 0.0)


def _setting_words(name: str, value: float, x: float) -> str:
    return f"{name} is {x:.6g}, PyTorch has {value:.6g}"


def _scaled(
    call: Call, given: Tensors, number: int, name: str, tensor: torch.Tensor
) -> Iterator[Family]:
    def times(x: float) -> list[np.ndarray]:
        return call.again({**given, number: x * tensor})

    def plus(x: float) -> list[np.ndarray]:
        return call.again({**given, number: x + tensor})

    yield Family(lambda x: f"{name} is multiplied by {x:.6g}", times, 1.0)
    yield Family(lambda x: f"{x:.6g} is added to {name}", plus, 0.0)
    # A part of a vector: the bias of a gate, or of three projections in one.
    recurrent = any(kind in call.function.__name__ for kind in ("lstm", "gru"))
    part = "gate" if recurrent else "part"
    for count in (3, 4):
        if tensor.ndim != 1 or len(tensor) % count or len(tensor) == count:
            continue
        for k in range(count):
            block = torch.zeros(count, dtype=tensor.dtype)
            block[k] = 1
            ones = block.repeat_interleave(len(tensor) // count)

            def shifted(x: float, ones: torch.Tensor = ones) -> list[np.ndarray]:
                return call.again({**given, number: tensor + x * ones})

            words = partial(_block_words, name, f"{part} {k} of {count}")
            yield Family(words, shifted, 0.0)


def _block_words(name: str, part: str, x: float) -> str:
    return f"{x:.6g} is added to {part} in {name}"


def fitted(
    measure: Callable[[float], float], start: float, wanted: float, *, steps: int = 24
) -> float | None:
    """The number at which a measure has the value `wanted`, by the secant method; None if it is
    not found.

    Args:
        measure: a smooth function.
        start: near where to look.
        wanted: the value.
        steps: the most evaluations.
    """
    x0, x1 = start, start * 1.1 if start else 0.1
    try:
        f0, f1 = measure(x0) - wanted, measure(x1) - wanted
        for _ in range(steps):
            if f1 == f0 or not np.isfinite(f1):
                return None
            x0, x1, f0 = x1, x1 - f1 * (x1 - x0) / (f1 - f0), f1
            if abs(x1 - x0) <= 1e-15 * abs(x1):
                break
            f1 = measure(x1) - wanted
    except (RuntimeError, ValueError, TypeError, OverflowError):
        return None  # a value that the function does not take
    return x1


def tried(run: Callable[[], Sequence[np.ndarray]]) -> list[np.ndarray] | None:
    """The outputs of a variant; None where the function refuses it."""
    try:
        return list(run())
    except Exception:  # torch's functions refuse in many ways
        return None
