"""The inputs of a comparison: the user's batches, and variants of them at other scales and edges.

A variant changes the floats of a batch, or its integers, and leaves the rest as it is. Integers
stay in the range that the user's own array shows; what looks like a mask is left alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from torch import nn

from parity.core.bridge import is_float, numpy_of

# As the report calls the inputs that nothing was done to.
AS_GIVEN = "inputs as given"
# Floats that are rounded to so many values of a standard deviation have ties among them.
LEVELS = 2
# Magnitudes of the spread, in standard deviations: from 1e-3 to 1e4.
SPREAD = (-3.0, 4.0)


@dataclass(frozen=True)
class Batch:
    """Inputs of one call.

    Attributes:
        label: which inputs these are, in words.
        arrays: the leaves of the inputs, "0", "1", and so on.
        structure: how the leaves make the arguments.
        given: whether the user gave them, rather than a variant being made of them.
    """

    label: str
    arrays: dict[str, np.ndarray]
    structure: Any
    given: bool = True

    def arguments(self, leaves: Mapping[str, Any]) -> Any:
        """The arguments of the call, from leaves of either framework."""
        return arguments(self.structure, leaves)


def arguments(structure: Any, leaves: Mapping[str, Any]) -> Any:
    """The arguments of a call, from the leaves "0", "1", and so on."""
    return jax.tree.unflatten(structure, [leaves[str(k)] for k in range(structure.num_leaves)])


def given_batch(inputs: Sequence[Any], label: str = AS_GIVEN) -> Batch:
    """The user's inputs of one call.

    Args:
        inputs: arrays of any framework, or trees of arrays.
        label: as the report calls them.

    Raises:
        ValueError: if an input holds complex numbers, or none at all.
    """
    leaves, structure = jax.tree.flatten(tuple(inputs))
    arrays = {str(k): numpy_of(leaf) for k, leaf in enumerate(leaves)}
    for name, array in arrays.items():
        kind = array.dtype.kind
        if not is_float(array) and kind not in "iub":
            raise ValueError(
                f"inputs must be floats, integers or booleans, got {array.dtype} as input {name}; "
                "give a complex input as its real and imaginary part."
            )
        if array.size == 0:
            raise ValueError(f"input {name} must not be empty, got shape {array.shape}.")
    return Batch(label, arrays, structure)


Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _centered(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # Numbers that vary: those given, or normal ones in place of a constant, as zeros of a state.
    array = np.asarray(array, np.float64)
    if array.std() > 0:
        return array
    return array + rng.normal(size=array.shape) * max(1.0, float(np.abs(array).max()))


def _anew(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    varied = _centered(array, rng)
    return rng.normal(varied.mean(), varied.std(), array.shape)


def _negative(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return -np.abs(_centered(array, rng))


def _ties(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    varied = _centered(array, rng)
    step = float(varied.std()) or 1.0
    # A power of two, so that the few values are exact in every precision.
    step = 2.0 ** round(float(np.log2(step))) / LEVELS
    tied = np.round(varied / step) * step
    if tied.ndim and len(tied) > 2:
        tied[1] = tied[0]  # a row that occurs twice
    return tied


def _spread(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    deviation = float(_centered(array, rng).std()) or 1.0
    signs = rng.choice([-1.0, 1.0], array.shape)
    return signs * deviation * 10 ** rng.uniform(*SPREAD, array.shape)


def _middle(array: np.ndarray) -> int:
    # A number that occurs, in the middle of all.
    return int(np.sort(array, axis=None)[array.size // 2])


FLOATS: dict[str, Change] = {
    "floats drawn anew": _anew,
    "floats zero": lambda array, rng: np.zeros(array.shape),
    "floats times 10": lambda array, rng: 10 * _centered(array, rng),
    "floats times 1,000": lambda array, rng: 1000 * _centered(array, rng),
    "floats times 0.001": lambda array, rng: 1e-3 * _centered(array, rng),
    "floats all negative": _negative,
    "floats with ties": _ties,
    "floats spread from 1e-3 to 1e4": _spread,
}
INTEGERS: dict[str, Change] = {
    "integers drawn anew": lambda array, rng: rng.integers(
        array.min(), array.max(), array.shape, endpoint=True
    ),
    "integers all the smallest": lambda array, rng: np.full(array.shape, array.min()),
    "integers all the largest": lambda array, rng: np.full(array.shape, array.max()),
    "integers all the same": lambda array, rng: np.full(array.shape, _middle(array)),
}
PADDED = "integers padded"
VARIANTS = (*FLOATS, *INTEGERS, PADDED)
"""The names of all variants."""


def chosen_variants(variants: bool | Iterable[str]) -> tuple[str, ...]:
    """The variants that an option asks for.

    Args:
        variants: all of them, none, or names out of `VARIANTS`.

    Raises:
        ValueError: if a name is unknown.
    """
    if isinstance(variants, bool):
        return VARIANTS if variants else ()
    names = (variants,) if isinstance(variants, str) else tuple(variants)
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise ValueError(
            f"variants must be True, False or some of {', '.join(VARIANTS)}; got {unknown[0]!r}."
        )
    return names


def is_mask(array: np.ndarray) -> bool:
    """Whether an array looks like a mask: booleans, ones and zeros, or with infinite numbers."""
    if array.dtype == bool:
        return True
    if not is_float(array):
        return False
    wide = np.asarray(array, np.float64)
    if not np.isfinite(wide).all():
        return True
    # Zeros alone are rather a state; ones alone may well be a mask.
    return bool(np.isin(wide, (0.0, 1.0)).all() and wide.any())


def padding_indices(module: nn.Module) -> tuple[int, ...]:
    """The padding indices of a module's embeddings."""
    found = []
    for part in module.modules():
        index = getattr(part, "padding_idx", None)
        if isinstance(part, nn.Embedding | nn.EmbeddingBag) and index is not None:
            found.append(index)
    return tuple(dict.fromkeys(found))


def variants_of(batch: Batch, names: Sequence[str], padding: Sequence[int]) -> list[Batch]:
    """Variants of a batch, without those that change nothing.

    Args:
        batch: the user's inputs.
        names: out of `VARIANTS`.
        padding: indices that stand for padding.
    """
    found: list[Batch] = []
    for number, name in enumerate(VARIANTS):
        if name not in names:
            continue
        rng = np.random.default_rng(number)
        arrays = {key: _varied(name, array, rng, padding) for key, array in batch.arrays.items()}
        known = [batch.arrays, *(other.arrays for other in found)]
        if not any(_same(arrays, others) for others in known):
            found.append(Batch(name, arrays, batch.structure, given=False))
    return found


def _varied(
    name: str, array: np.ndarray, rng: np.random.Generator, padding: Sequence[int]
) -> np.ndarray:
    # The array as a variant has it; the array itself if the variant is of another kind.
    if is_mask(array):
        return array
    if is_float(array):
        return _with_sign(array, FLOATS[name](array, rng)) if name in FLOATS else array
    if name in INTEGERS:
        return INTEGERS[name](array, rng).astype(array.dtype)
    if name == PADDED:
        inside = [index for index in padding if array.min() <= index <= array.max()]
        if inside:
            return np.where(rng.random(array.shape) < 0.5, inside[0], array).astype(array.dtype)
    return array


def one_sign(array: np.ndarray) -> int:
    """1 or -1 if all of several numbers are positive or negative, which may be the domain of the
    function, as for a variance or a probability; else 0."""
    wide = np.asarray(array, np.float64)
    if wide.size < 2:
        return 0
    return int((wide > 0).all()) - int((wide < 0).all())


def _with_sign(array: np.ndarray, varied: np.ndarray) -> np.ndarray:
    # The variant on the side of zero on which the user's numbers are; they stay where it is zero.
    sign = one_sign(array)
    if not sign:
        return varied
    return np.where(varied == 0, array, sign * np.abs(varied))


def _same(arrays: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> bool:
    return all(
        np.array_equal(array, others[name], equal_nan=is_float(array))
        for name, array in arrays.items()
    )


def beside(batch: Batch, rng: np.random.Generator) -> Batch:
    """The inputs with every float moved a little, by a thousandth of their size.

    Zeros and ties are none any more; what is not finite and integers stay as they are.
    """
    arrays = {}
    for name, array in batch.arrays.items():
        arrays[name] = array
        if is_float(array):
            wide = np.asarray(array, np.float64)
            finite = wide[np.isfinite(wide)]
            size = float(np.sqrt((finite**2).mean())) if finite.size else 0.0
            arrays[name] = wide + 1e-3 * (size or 1.0) * rng.normal(size=wide.shape)
    return Batch(f"beside the {batch.label}", arrays, batch.structure, given=False)


def ranges_in_words(batches: Sequence[Batch], padding: Sequence[int]) -> list[str]:
    """Sentences on the ranges in which the inputs were tried."""
    sentences = []
    labels = [batch.label for batch in batches if not batch.given]
    given = sum(batch.given for batch in batches)
    what = "as given" if given == 1 else f"in {given} batches as given"
    sentence = ", ".join([f"The inputs were tried {what}", *labels])
    sentences.append(sentence + ("." if labels else " only."))
    ranges = []
    for name, first in batches[0].arrays.items():
        own = _range([batch.arrays[name] for batch in batches if batch.given])
        tried = _range([batch.arrays[name] for batch in batches])
        if is_mask(first):
            ranges.append(f"input {name} as given only, as a mask")
        elif one_sign(first):
            side = "positive" if one_sign(first) > 0 else "negative"
            ranges.append(f"input {name} from {tried} (given: {own}, and kept {side})")
        elif own == tried:
            ranges.append(f"input {name} from {tried}")
        else:
            ranges.append(f"input {name} from {tried} (given: {own})")
        outside = [index for index in padding if not first.min() <= index <= first.max()]
        if outside and first.dtype.kind in "iu":
            sentences.append(
                f"The padding index {outside[0]} lies outside the range of input {name}, and was "
                "not tried."
            )
    sentences.insert(1, f"Their ranges: {'; '.join(ranges)}.")
    return sentences


def _range(arrays: Sequence[np.ndarray]) -> str:
    # The smallest and largest number, in words.
    values = np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays])
    return f"{values.min():.3g} to {values.max():.3g}"
