"""PyTorch with other roundings: what round-off becomes in a program, whatever it computes.

Every result of every operation, forward and backward, is moved by one unit in the last place up or
down at random (Parker, Monte Carlo Arithmetic, 1997). Weights that are moved once do not show all
of it: where a tanh is saturated, they leave its output as it is, but another tanh rounds otherwise,
and its derivative is the difference of two numbers near 1.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from parity.core.bridge import TORCH_DTYPES
from parity.core.compare import UNIT_ROUNDOFF

# Operations that compute nothing, and return what they are given.
EXACT = ("clone", "copy", "detach", "alias", "_to_copy", "lift_fresh", "fill", "zero", "set")


class RandomRoundings(TorchDispatchMode):
    """Within it each result of a precision is one unit in the last place higher or lower.

    Args:
        dtype: the precision; results of another, such as a counter, are left alone.
        seed: of the directions.
    """

    def __init__(self, dtype: str, seed: int) -> None:
        super().__init__()
        self.dtype = TORCH_DTYPES[dtype]
        # One unit in the last place is twice the unit round-off.
        self.unit = 2 * UNIT_ROUNDOFF[dtype]
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Compute, and move what came out."""
        results = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.rstrip("_")
        if func.is_view or name in EXACT:
            return results
        for result in results if isinstance(results, tuple | list) else (results,):
            if isinstance(result, Tensor) and result.dtype == self.dtype:
                self._move(result)
        return results

    def _move(self, result: Tensor) -> None:
        # By a factor, so that a zero stays a zero.
        signs = torch.randint(0, 2, result.shape, generator=self.generator)
        factors = 1 + self.unit * (2 * signs - 1).to(torch.float64)
        result.mul_(factors.to(result))
