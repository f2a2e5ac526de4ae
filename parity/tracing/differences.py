"""A place where two programs are not the same function."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """A place where the two programs are not the same function.

    Attributes:
        direction: "forward" or "backward".
        module: the dotted name of PyTorch's module in which it is; empty for the outermost.
        kind: the class of that module.
        function: the torch function that differs.
        cause: the mistake that gives JAX's numbers; empty if none was found.
        jax: where it is in the JAX function, as far as that is known.
        error: the relative 2-norm of the difference, of the sorted values.
        is_vague: whether the cause says no more than that something is another.
    """

    direction: str
    module: str
    kind: str
    function: str
    cause: str
    jax: str
    error: float
    is_vague: bool = False

    @property
    def place(self) -> str:
        """Module, class and function in words."""
        module = f"{self.module} ({self.kind})" if self.module else f"the outermost {self.kind}"
        return f"{module}, {self.function}"

    @property
    def is_explained(self) -> bool:
        """Whether a cause was found that leaves no question."""
        return bool(self.cause) and not self.is_vague

    def __str__(self) -> str:
        """One line for a report."""
        cause = self.cause or "no known mistake gives JAX's numbers"
        where = f"; in JAX: {self.jax}" if self.jax else ""
        return f"{self.direction}: {self.place}: {cause} (relative error {self.error:.1e}{where})"


def in_words(differences: Sequence[Difference]) -> list[str]:
    """A line for each difference; those with the same cause in modules of a kind share one."""
    groups: dict[tuple[str, ...], list[Difference]] = {}
    for found in differences:
        key = (found.direction, found.kind, found.function, found.cause)
        groups.setdefault(key, []).append(found)
    lines = []
    for group in groups.values():
        line = str(group[0])
        if len(group) > 1:
            others = ", ".join(found.module for found in group[1:])
            line += f"; the same in {others}"
        lines.append(line)
    return lines
