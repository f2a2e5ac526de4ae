"""The smallest case that still differs, and a few lines of Python that show it.

Shapes: T time steps, B batch, V vocabulary, F embedding size, H hidden size.
"""

import dataclasses
from typing import Any

import flax.linen as nn

from jaxrnn.recurrent.cells import Cell, FreeCell
from parity.core.compare import Outcome, worst_outcome
from parity.core.layer_pairs import layer_pair
from parity.core.pairs import SIZES, Pair, Sizes, model_pair
from parity.suite.checks import Check, update_check, values_check

# Below this nothing is left to compare.
SMALLEST = Sizes(T=1, B=1, V=2, F=1, H=1)


@dataclasses.dataclass(frozen=True)
class SmallCase:
    """A check of values or updates, and the sizes of its case.

    Attributes:
        check: the check that failed.
        target: its pair.
        sizes: the sizes.
        layers: how many recurrent layers, where there are any.
    """

    check: Check
    target: Pair
    sizes: Sizes
    num_layers: int

    @property
    def module(self) -> nn.Module:
        """The model or the stack in these sizes."""
        options: dict[str, Any] = {"hidden_size": self.sizes.H}
        if self.target.model is None:
            assert self.target.stack is not None
            options["num_layers"] = self.num_layers
            if self.num_layers == 1:
                options["dropout"] = 0.0  # there is none after the last layer
            return self.target.stack.clone(**options, parent=None)
        model = self.target.model
        tied = getattr(model, "tied", False)  # one table, so one size
        options["vocab_size"] = self.sizes.V
        options["embedding_size"] = self.sizes.H if tied else self.sizes.F
        if hasattr(model, "num_layers"):
            options["num_layers"] = self.num_layers
        return model.clone(**options, parent=None)

    @property
    def pair(self) -> Pair:
        """What is compared."""
        module: Any = self.module
        if self.target.model is None:
            return layer_pair(module, lengths=self.target.lengths, sizes=self.sizes)
        return model_pair(self.target.name, module, length=self.length, sizes=self.sizes)

    @property
    def length(self) -> int | None:
        """How many steps of a model's window count."""
        return max(1, self.sizes.T - 1) if self.target.lengths else None

    def differs(self) -> bool:
        """Whether the case shows a difference, and not just that it cannot be run."""
        if self.check.rule is None:
            check = values_check(self.pair)
        else:
            check = update_check(self.pair, self.check.rule)
        check = dataclasses.replace(check, path=self.check.path)
        return worst_outcome(check.findings()) is Outcome.FAIL

    def lines(self) -> str:
        """Python that runs it and prints the worst finding."""
        module = _source(self.module)
        sizes = f"sizes=Sizes{tuple(self.sizes)}"
        if self.target.model is None:
            pair = f"layer_pair({module}, lengths={self.target.lengths}, {sizes})"
        else:
            pair = f"model_pair('small', {module}, length={self.length}, {sizes})"
        if self.check.rule is None:
            check = "values_check(pair)"
        else:
            check = f"update_check(pair, RULES_BY_NAME[{self.check.rule.name!r}])"
        return f"""from jaxrnn.recurrent.catalog import CELLS
from jaxrnn.nn.layers import RNN
from jaxrnn.nn.models import *
from parity.suite.checks import on_path, update_check, values_check
from parity.core.compare import worst
from parity.core.layer_pairs import layer_pair
from parity.core.pairs import Sizes, model_pair
from parity.measures.training import RULES_BY_NAME
pair = {pair}
with on_path({self.check.path!r}):
    print(worst({check}.findings()))"""


def shrunken(check: Check) -> SmallCase | None:
    """The smallest case of a check in float64 that fails, or None if not even its own does.

    One size after the other is made as small as it can be, the layers first.
    """
    target = check.target
    if target is None:
        return None
    # Most mutations of the code show in the smallest case at once.
    least = SmallCase(check, target, SMALLEST, 1)
    if least.differs():
        return least
    num_layers = target.stack.num_layers if target.stack else 1
    small = SmallCase(check, target, SIZES, num_layers)
    if not small.differs():
        return None
    # Layers first, then one size after the other.
    for count in (1, 2):
        if count < small.num_layers:
            small = _if_it_differs(dataclasses.replace(small, num_layers=count), small)
    for name, least_size in SMALLEST._asdict().items():
        for size in (least_size, least_size + 1):
            if size < getattr(small.sizes, name):
                sizes = small.sizes._replace(**{name: size})
                small = _if_it_differs(dataclasses.replace(small, sizes=sizes), small)
    return small


def _if_it_differs(candidate: SmallCase, otherwise: SmallCase) -> SmallCase:
    return candidate if candidate.differs() else otherwise


def reproduction(check: Check) -> str:
    """Lines of Python that show the difference of a failed check, in the smallest case there is."""
    # Trajectories and texts have no sizes to shrink: the check itself is run again.
    small = shrunken(check)
    if small is not None:
        return small.lines()
    name = (check.pair, check.kind, check.path)
    return f"""from parity.core.compare import worst
from parity.suite.catalog import suite
from parity.measures.trajectories import load_text
for check in suite(quick=False, text=load_text()):
    if (check.pair, check.kind, check.path) == {name!r}:
        print(worst(check.findings()))"""


def _source(module: nn.Module) -> str:
    # Python that makes a module again.
    options = []
    for field in dataclasses.fields(module):
        # What has its default value need not be written.
        value = getattr(module, field.name)
        if field.name in ("parent", "name") or value == field.default:
            continue
        shown = f"CELLS[{value.name!r}]" if isinstance(value, Cell | FreeCell) else repr(value)
        options.append(f"{field.name}={shown}")
    return f"{type(module).__name__}({', '.join(options)})"
