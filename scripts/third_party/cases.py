"""What is checked: a module of another package beside its counterpart in PyTorch.

Shapes: T time steps, B batch, I input features, H hidden size. Other letters stand in the cases.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import nn

from parity import WeightMap

Sizes = Mapping[str, int]
"""The sizes of a case by their letters."""


class Port(NamedTuple):
    """The arguments of `parity.check`: a JAX function and the PyTorch module it should equal."""

    function: Callable[..., Any]
    params: Any
    module: nn.Module
    weight_map: WeightMap
    inputs: tuple[Any, ...]


MakePort = Callable[[Sizes], Port]
Kind = Literal["option", "weights", "equation"]


@dataclass(frozen=True)
class Variant:
    """A reference that the module may equal where it does not equal the counterpart.

    Attributes:
        kind: how it differs from the counterpart: by an "option" of PyTorch's own, by a rule for
            the "weights", or by its "equation".
        words: the option, the rule or the equation, for the table.
        port: the module beside this reference.
    """

    kind: Kind
    words: str
    port: MakePort


@dataclass(frozen=True)
class Promise:
    """An equation that a package itself promises for a module.

    Attributes:
        words: what breaks the promise, where the module does not equal its counterpart.
        holds: whether the package makes the promise.
    """

    words: str
    holds: Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A module and its counterpart.

    Attributes:
        module: the module's name, with its package and what else tells cases apart.
        counterpart: the name of what it is compared with.
        port: both, for given sizes.
        sizes: the sizes to check with, all different, so that a swapped axis cannot hide.
        variants: what the module may equal instead, the likeliest first.
        promise: what makes a difference a fault.
        note: what is done to compare the module, where that is not plain, for the table.
    """

    module: str
    counterpart: str
    port: MakePort
    sizes: Sizes
    variants: Sequence[Variant] = ()
    promise: Promise | None = None
    note: str = ""


RECURRENT_SIZES: Sizes = {"H": 6, "T": 5, "B": 3, "I": 4}
"""Sizes of a recurrent layer."""


def samples(*shape: int, seed: int = 0) -> np.ndarray:
    """Inputs: normal numbers."""
    return np.random.default_rng([seed, *shape]).normal(size=shape)
