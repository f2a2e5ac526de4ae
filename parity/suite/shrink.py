"""The smallest case that still differs, and a few lines of Python that show it.

Shapes: T time steps, B batch, V vocabulary, F embedding size, H hidden size.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import flax.linen as nn

from jaxrnn.recurrent.cells import Cell
from parity.core.compare import Finding, Outcome, worst_outcome
from parity.core.layer_pairs import layer_pair
from parity.core.pairs import SIZES, Pair, Sizes, model_pair
from parity.suite.checks import Check, update_check, values_check

SMALLEST = Sizes(T=1, B=1, V=2, F=1, H=1)
"""Below this nothing is left to compare."""
BAD = (Outcome.FAIL, Outcome.ERROR)


@dataclasses.dataclass(frozen=True)
class Small:
    """A check of values or updates, and the sizes of its case.

    Attributes:
        check: the check that failed.
        sizes: the sizes.
        layers: how many recurrent layers, where there are any.
    """

    check: Check
    sizes: Sizes
    num_layers: int

    @property
    def module(self) -> nn.Module:
        """The model or the stack in these sizes."""
        pair = self.check.target
        assert pair is not None
        if pair.model is None:
            assert pair.stack is not None
            options: dict[str, Any] = {"hidden_size": self.sizes.H, "num_layers": self.num_layers}
            options |= (
                {"dropout": 0.0} if self.num_layers == 1 else {}
            )  # there is none after the last
            return pair.stack.clone(**options, parent=None)
        sizes: dict[str, Any] = {
            "vocab_size": self.sizes.V,
            "embedding_size": self.sizes.F,
            "hidden_size": self.sizes.H,
        }
        sizes |= {"embedding_size": self.sizes.H} if getattr(pair.model, "tied", False) else {}
        sizes |= {"num_layers": self.num_layers} if hasattr(pair.model, "num_layers") else {}
        return pair.model.clone(**sizes, parent=None)

    @property
    def pair(self) -> Pair:
        """What is compared."""
        target = self.check.target
        assert target is not None
        module: Any = self.module
        if target.model is None:
            return layer_pair(module, lengths=target.lengths, sizes=self.sizes)
        return model_pair(target.name, module, length=self.length, sizes=self.sizes)

    @property
    def length(self) -> int | None:
        """How many steps of a model's window count."""
        assert self.check.target is not None
        return max(1, self.sizes.T - 1) if self.check.target.lengths else None

    def smaller(self) -> Check:
        """The same check of the smaller case."""
        if self.check.rule is None:
            made = values_check(self.pair)
        else:
            made = update_check(self.pair, self.check.rule)
        return dataclasses.replace(made, path=self.check.path)

    def lines(self) -> str:
        """Python that runs it and prints the worst finding."""
        target, rule = self.check.target, self.check.rule
        assert target is not None
        shown = f"sizes=Sizes{tuple(self.sizes)}"
        if target.model is None:
            made = f"layer_pair({_source(self.module)}, lengths={target.lengths}, {shown})"
        else:
            made = f"model_pair('small', {_source(self.module)}, length={self.length}, {shown})"
        call = "values_check(s)" if rule is None else f"update_check(s, RULES[{rule.name!r}])"
        return (
            "from jaxrnn.recurrent.cells import CELLS\nfrom jaxrnn.nn.layers import RNN\n"
            "from jaxrnn.nn.models import *\n"
            "from parity.suite.checks import on_path, update_check, values_check\n"
            "from parity.core.compare import worst\n"
            "from parity.core.layer_pairs import layer_pair\n"
            "from parity.core.pairs import Sizes, model_pair\n"
            "from parity.measures.training import RULES_BY_NAME as RULES\n"
            f"s = {made}\nwith on_path({self.check.path!r}):\n    print(worst({call}.findings()))"
        )


def shrunken(check: Check) -> Small | None:
    """The smallest case of a check in float64 that fails, or None if not even its own does.

    One size after the other is made as small as it can be, the layers first.
    """
    if check.target is None:
        return None
    stack = check.target.stack
    now = Small(check, SIZES, stack.num_layers if stack else 1)
    if _differs(least := Small(check, SMALLEST, 1)):
        return least
    if not _differs(now):
        return None
    for smaller in _steps(now):
        candidate = smaller(now)
        now = candidate if _differs(candidate) else now
    return now


def _steps(start: Small) -> Iterator[Any]:
    """Ways to make a case smaller, to be tried one after the other."""
    if start.num_layers > 1:
        yield lambda small: dataclasses.replace(small, num_layers=1)
        yield lambda small: dataclasses.replace(small, num_layers=min(2, small.num_layers))
    for name in Sizes._fields:
        for size in (getattr(SMALLEST, name), getattr(SMALLEST, name) + 1):
            yield lambda small, name=name, size=size: dataclasses.replace(
                small, sizes=small.sizes._replace(**{name: min(size, getattr(small.sizes, name))})
            )


def _differs(small: Small) -> bool:
    """Whether the case shows a difference, and not just that it cannot be run."""
    findings = small.smaller().findings()
    return worst_outcome(findings) is Outcome.FAIL


def reproduction(check: Check) -> str:
    """Lines of Python that show the difference of a failed check, in the smallest case there is."""
    small = shrunken(check)
    if small is not None:
        return small.lines()
    return (
        "from parity.core.compare import worst\nfrom parity.suite.catalog import suite\n"
        "from parity.measures.trajectories import load_text\n"
        "checks = suite(quick=False, text=load_text())\n"
        f"name = {(check.pair, check.kind, check.path)!r}\n"
        "print(*(worst(c.findings()) for c in checks if (c.subject, c.kind, c.path) == name))"
    )


def failed(findings: list[Finding]) -> bool:
    """Whether any finding is a failure."""
    return any(finding.outcome in BAD for finding in findings)


def _source(module: nn.Module) -> str:
    """Python that makes a module again."""
    options = []
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        if field.name in ("parent", "name") or value == field.default:
            continue
        shown = f"CELLS[{value.name!r}]" if isinstance(value, Cell) else repr(value)
        options.append(f"{field.name}={shown}")
    return f"{type(module).__name__}({', '.join(options)})"
