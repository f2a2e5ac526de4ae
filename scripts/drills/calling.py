"""A process that makes drawn calls on every backend, and what the lines of such calls are made of.

    python -m drills.calling SEED FIRST COUNT shapes|executed

It prints a line of JSON before each call, and one after it with what was wrong.
"""

import json
import re
import sys
import traceback
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn
from drills.drawing import Call, draw
from jaxrnn import *  # noqa: F403  what the lines of a call name
from jaxrnn import Cell, Hidden, TrainState, gates_of
from jaxrnn.nn.model import apply_model as apply_model
from jaxrnn.recurrent.embedded import EmbeddedTokens as EmbeddedTokens
from jaxrnn.recurrent.recurrence import backend, why_not_compiled
from jaxrnn.recurrent.recurrence import recurrence as recurrence

PACKAGE = str(Path(jaxrnn.__file__).parent)
WAYS = ("scan", "compiled")
EVERY = 4
"""JAX's own derivatives are tried for one call in so many, and only traced."""
TOLERANCE = {"float64": 1e-10, "float32": 2e-4, "float16": 3e-2, "bfloat16": 1e-1}
"""How far two ways may be apart with weights in a precision, as a share."""
LONGEST_MESSAGE = 1000
"""Characters of a message that is still taken for one line of text."""


# What the lines of a call name.


def array(shape: tuple[int, ...], dtype: str, layout: str = "jax", *, seed: int = 0) -> Any:
    """Random numbers, in memory as `layout` says; truth values and integers are drawn too."""
    rng = np.random.default_rng(seed)
    numbers: np.ndarray = rng.normal(size=shape) * 0.5
    if dtype == "bool":
        numbers = numbers > 0
    elif not dtype.startswith(("float", "bfloat", "complex")):
        numbers = np.abs(numbers * 4)
    return _laid_out(np.asarray(numbers).astype(jnp.dtype(dtype)), layout)


def integers(
    low: int,
    high: int,
    shape: tuple[int, ...],
    dtype: str = "int32",
    layout: str = "jax",
    *,
    seed: int = 0,
) -> Any:
    """Random integers in [low, high), in memory as `layout` says."""
    drawn = np.random.default_rng(seed).integers(low, high, shape)
    return _laid_out(np.asarray(drawn).astype(dtype), layout)


def _laid_out(dense: np.ndarray, layout: str) -> Any:
    if layout == "jax":
        return jnp.asarray(dense)
    if layout == "list":
        return dense.tolist()
    if layout == "fortran":
        return np.asfortranarray(dense)
    if layout == "read-only":
        dense.flags.writeable = False
        return dense
    if layout == "unaligned":
        memory = bytearray(dense.nbytes + 1)
        moved = np.frombuffer(memory, dense.dtype, dense.size, offset=1).reshape(dense.shape)
        moved[...] = dense
        return moved
    if layout in ("strided", "reversed") and dense.ndim:
        if layout == "reversed":
            return np.ascontiguousarray(dense[::-1])[::-1]
        return np.repeat(dense, 2, axis=-1)[..., ::2]
    return dense


def key(seed: int) -> jax.Array:
    """A random key."""
    return jax.random.key(seed)


def plain(*fields: Any) -> tuple[Any, ...]:
    """A carry that is no NamedTuple."""
    return fields


def bare(carry: Any) -> Any:
    """The first carry of a stack, or what stands in its place."""
    return carry[0] if isinstance(carry, (tuple, list)) and carry else carry


def _own_step(carry: Any, x_gates: jax.Array, h_gates: jax.Array) -> Any:
    forget, candidate = gates_of(x_gates + h_gates, 2)
    forget = jax.nn.sigmoid(forget)
    return Hidden(forget * carry.h + (1 - forget) * jnp.tanh(candidate))


OWN = Cell("own", gates=("f", "n"), step=_own_step)


def rnn_weights(
    rnn: Any,
    inputs: int,
    dtype: str,
    *,
    seed: int = 0,
    wrong_shape: str | None = None,
    other: str | None = None,
    other_dtype: str = "float32",
) -> Any:
    """The variables of a stack: one of another shape, or of another precision, if named."""
    width, directions = len(rnn.cell.gates) * rnn.hidden_size, 2 if rnn.bidirectional else 1
    params: dict[str, Any] = {}
    for layer in range(rnn.num_layers):
        size = inputs if layer == 0 else directions * rnn.hidden_size
        for suffix in ("", "_reverse")[:directions]:
            shapes = {
                "weight_ih": (width, size),
                "weight_hh": (width, rnn.hidden_size),
                "bias_ih": (width,),
                "bias_hh": (width,),
            }
            for name, shape in shapes.items():
                name = f"{name}_l{layer}{suffix}"
                shape = (shape[0] + 1, *shape[1:]) if name == wrong_shape else shape
                kind = other_dtype if name == other else dtype
                params[name] = array(shape, kind, seed=seed + len(params))
    return {"params": params}


def model_weights(model: Any, dtype: str, *, seed: int = 0) -> Any:
    """The parameters of a model."""
    leaves, tree = jax.tree.flatten(_shapes(model))
    drawn = [array(leaf.shape, dtype, seed=seed + n) for n, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, drawn)


@lru_cache(maxsize=64)
def _shapes(model: Any) -> Any:
    tokens = np.zeros((3, 2), np.int32)
    init = lambda: model.init(key(0), model.initial_carry(2), tokens)["params"]  # noqa: E731
    return jax.eval_shape(init)


def train_state(model: Any, params: Any, optimizer: Any, carry: Any) -> TrainState:
    """A state with a copy of these parameters and of this carry."""
    params, carry = jax.tree.map(lambda x: x.copy() if hasattr(x, "copy") else x, (params, carry))
    return TrainState(params, optimizer.init(params), carry, jnp.zeros((), jnp.int32), key(0))


def step_results(results: Any) -> Any:
    """What is compared of a training step."""
    state, metrics = results
    return state.params, state.carry, state.step, metrics


def fit_results(results: Any) -> Any:
    """What is compared of a training."""
    state, rows = results
    return state.params, state.carry, [row.train for row in rows]


def gradient(run: Any, variables: Any, carry: Any, *, of_carry: bool) -> Any:
    """The gradient of a sum of functions of all outputs."""

    def loss(variables: Any, carry: Any) -> jax.Array:
        leaves = jax.tree.leaves(run(variables, carry))
        return sum(
            (jnp.sin(leaf.astype(jnp.result_type(float))).sum() for leaf in leaves), jnp.zeros(())
        )

    return jax.grad(loss, (0, 1) if of_carry else 0)(variables, carry)


# What a call did, and what is wrong with that.


class Did(NamedTuple):
    """What a call did on one backend: an error, or the leaves of its result."""

    error: Exception | None = None
    leaves: tuple[Any, ...] = ()

    def described(self) -> str:
        """The error, or the shapes and dtypes."""
        if self.error is not None:
            return f"{type(self.error).__name__}: {self.error}"
        return str([(np.shape(leaf), str(_dtype(leaf))) for leaf in self.leaves])


def made(call: Call, *, executed: bool) -> list[str]:
    """Make a call on every backend; what was wrong, each thing in a line."""
    ways = [way for way in WAYS if way == "scan" or not why_not_compiled()]
    if not executed and call.number % EVERY == 0:
        ways.append("autodiff")
    names = dict(globals())
    with jax.enable_x64(call.x64), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of 64-bit types that are asked for and are off
        exec("\n".join(call.setup), names)
        did = {way: _did(call, way, names, executed) for way in ways}
        faults = [f"{fault} ({way})" for way in ways for fault in _faults(call, did[way])]
        faults += _differences(did, TOLERANCE[_known(call.weights)])
    return list(dict.fromkeys(faults))


def _did(call: Call, way: Any, names: dict[str, Any], executed: bool) -> Did:
    try:
        with backend(way):
            run = lambda: eval(call.expression, names)  # noqa: E731
            if not executed:
                result = jax.eval_shape(run)
            else:
                result = jax.block_until_ready(jax.jit(run)() if call.jitted else run())
    except Exception as error:
        return Did(error)
    return Did(leaves=tuple(jax.tree.leaves(result)))


def _faults(call: Call, did: Did) -> list[str]:
    """What is wrong with what a call did on one backend."""
    if did.error is not None:
        return _faults_of_error(call, did.error)
    if call.expected == "error":
        return [f"accepted: {did.described()[:300]}"]
    faults = []
    shapes = tuple(np.shape(leaf) for leaf in did.leaves)
    if call.expected == "result" and call.shapes is not None and shapes != call.shapes:
        faults.append(f"shapes {shapes}, documented {call.shapes}")
    floats = [leaf for leaf in did.leaves if _is_floating(leaf)]
    dtypes = {str(_dtype(leaf)) for leaf in floats}
    if call.expected == "result" and call.dtype is not None:
        wanted = _known(call.dtype)
        if dtypes - {wanted}:
            faults.append(f"precision {dtypes}, documented {wanted}")
    values = [leaf for leaf in floats if not isinstance(leaf, jax.ShapeDtypeStruct)]
    if not call.may_be_nan and not all(
        np.isfinite(np.asarray(v).astype(np.float64)).all() for v in values
    ):
        faults.append("not finite")
    return faults


def _faults_of_error(call: Call, error: Exception) -> list[str]:
    described = f"{type(error).__name__}: {str(error)[:300]}"
    if not isinstance(error, (ValueError, TypeError)):
        return [f"raised {described}"]
    faults = []
    if call.expected == "result":
        faults.append(f"refused: {described}")
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not frames[-1].filename.startswith(PACKAGE):
        faults.append(f"not a message of jaxrnn's: {described}")
    else:
        message = str(error)
        says_both = re.search(r"\bgot\b|\bgives\b|\bdoes not\b|leave at least", message)
        if "\n" in message or len(message) > LONGEST_MESSAGE or not says_both:
            faults.append(f"no message with expected and got: {described}")
    return faults


def _differences(did: dict[Any, Did], tolerance: float) -> list[str]:
    """In what the backends differ from the first one."""
    first_way, *others = did
    first, faults = did[first_way], []
    for way in others:
        other = did[way]
        if first.described() != other.described():
            one, two = first.described()[:200], other.described()[:200]
            faults.append(f"{first_way} and {way} differ: {one} | {two}")
        elif first.error is None:
            faults += [
                f"{first_way} and {way} are {far:.1e} apart"
                for x, y in zip(first.leaves, other.leaves, strict=True)
                if (far := _apart(x, y)) > (tolerance if _is_floating(x) else 0)
            ]
    return faults


def _apart(x: Any, y: Any) -> float:
    if isinstance(x, jax.ShapeDtypeStruct) or jnp.issubdtype(_dtype(x), jax.dtypes.prng_key):
        return 0.0
    a, b = np.asarray(x).astype(np.float64), np.asarray(y).astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    with np.errstate(invalid="ignore"):
        scale = max(1.0, float(np.abs(b[np.isfinite(b)]).max(initial=0.0)))
        far = float(np.abs(np.where(same, 0.0, a - b)).max())
    return far / scale if np.isfinite(far) else float("inf")


def _known(dtype: str) -> str:
    """The dtype that JAX takes for one: without its 64-bit types, float32 for float64."""
    return str(jnp.asarray(np.zeros(0, jnp.dtype(dtype))).dtype)


def _is_floating(leaf: Any) -> bool:
    return bool(jnp.issubdtype(_dtype(leaf), jnp.floating))


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


def main() -> int:
    """Make calls FIRST to FIRST + COUNT - 1."""
    seed, first, count = map(int, sys.argv[1:4])
    executed = sys.argv[4] == "executed"
    for number in range(first, first + count):
        call = draw(seed, number, executed=executed)
        print(json.dumps([number, None]), flush=True)
        faults = made(call, executed=executed)
        print(json.dumps([number, faults]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
