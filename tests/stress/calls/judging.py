"""Make a call on every backend, and say what is wrong with what it did."""

import re
import traceback
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn
from jaxrnn.recurrent.recurrence import backend, why_not_compiled
from stress.calls import namespace
from stress.calls.call import Call

PACKAGE = str(Path(jaxrnn.__file__).parent)
WAYS = ("scan", "compiled")
EVERY = 4
"""JAX's own derivatives are tried for one call in this many, and only traced."""
TOLERANCE = {"float64": 1e-10, "float32": 2e-4, "float16": 3e-2, "bfloat16": 1e-1}
"""Largest difference of two backends, as a share, by the precision of the weights."""
LONGEST_MESSAGE = 1000
"""Maximum number of characters of an error's message."""


class Did(NamedTuple):
    """The outcome of a call on one backend: an error, or the leaves of its result."""

    error: Exception | None = None
    leaves: tuple[Any, ...] = ()

    def described(self) -> str:
        """The error, or the shapes and dtypes."""
        if self.error is not None:
            return f"{type(self.error).__name__}: {self.error}"
        return str([(np.shape(leaf), str(_dtype(leaf))) for leaf in self.leaves])


def faults_of(call: Call, *, executed: bool) -> list[str]:
    """Make a call on every backend; what was wrong, each thing in a line."""
    ways = [way for way in WAYS if way == "scan" or not why_not_compiled()]
    if not executed and call.number % EVERY == 0:
        ways.append("autodiff")
    names = dict(vars(namespace))
    faults = []
    with jax.enable_x64(call.x64), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of 64-bit types that are asked for and are off
        exec("\n".join(call.setup), names)
        did = {way: _did(call, way, names, executed) for way in ways}
        for way in ways:
            faults += [f"{fault} ({way})" for fault in _faults(call, did[way])]
        faults += _differences(did, TOLERANCE[_known(call.weights)])
    return list(dict.fromkeys(faults))


def _did(call: Call, way: Any, names: dict[str, Any], executed: bool) -> Did:
    def run() -> Any:
        return eval(call.expression, names)

    try:
        with backend(way):
            if not executed:
                result = jax.eval_shape(run)
            elif call.jitted:
                result = jax.block_until_ready(jax.jit(run)())
            else:
                result = jax.block_until_ready(run())
    except Exception as error:
        return Did(error)
    return Did(leaves=tuple(jax.tree.leaves(result)))


def _faults(call: Call, did: Did) -> list[str]:
    """Faults of a call on one backend."""
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
    if not call.may_be_nan and not all(_is_finite(leaf) for leaf in floats):
        faults.append("not finite")
    return faults


def _is_finite(leaf: Any) -> bool:
    """Whether all numbers of an array are; a shape alone has none."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return True
    return bool(np.isfinite(np.asarray(leaf).astype(np.float64)).all())


def _faults_of_error(call: Call, error: Exception) -> list[str]:
    """Faults of an error: a mistake is refused in one line of ours, and nothing else is."""
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
    """How the backends differ from the first one."""
    first_way, *others = did
    first = did[first_way]
    faults = []
    for way in others:
        other = did[way]
        if first.described() != other.described():
            both = f"{first.described()[:200]} | {other.described()[:200]}"
            faults.append(f"{first_way} and {way} differ: {both}")
        elif first.error is None:
            for x, y in zip(first.leaves, other.leaves, strict=True):
                difference = _difference(x, y)
                if difference > (tolerance if _is_floating(x) else 0):
                    faults.append(f"{first_way} and {way} are {difference:.1e} apart")
    return faults


def _difference(x: Any, y: Any) -> float:
    """The largest |x - y|, as a share of the largest |y| where that is above 1."""
    if isinstance(x, jax.ShapeDtypeStruct) or jnp.issubdtype(_dtype(x), jax.dtypes.prng_key):
        return 0.0
    a = np.asarray(x).astype(np.float64)
    b = np.asarray(y).astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    with np.errstate(invalid="ignore"):
        scale = max(1.0, float(np.abs(b[np.isfinite(b)]).max(initial=0.0)))
        largest = float(np.abs(np.where(same, 0.0, a - b)).max())
    return largest / scale if np.isfinite(largest) else float("inf")


def _known(dtype: str) -> str:
    """The dtype that JAX takes for one: without its 64-bit types, float32 for float64."""
    return str(jnp.asarray(np.zeros(0, jnp.dtype(dtype))).dtype)


def _is_floating(leaf: Any) -> bool:
    return bool(jnp.issubdtype(_dtype(leaf), jnp.floating))


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
