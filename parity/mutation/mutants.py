"""Does the suite notice? Deliberate faults, one at a time, and the gate that catches each.

A check that cannot fail is a defect, so every check of the suite stands here against the faults
that it is meant to notice. The code without a fault has to pass the same checks: a suite that
fails everything catches everything.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from jaxrnn.nn.layers import RNN
from jaxrnn.nn.models import (
    Char3Model,
    CharLM,
    CharLoopConcatModel,
    CharLoopModel,
    CharModel,
    CharSeqRnn,
    CharSeqStatefulGRU,
    CharSeqStatefulLSTM,
    CharSeqStatefulRnn,
)
from jaxrnn.recurrent.cells import GRU, LSTM, RELU, TANH
from parity.core.compare import Diagnosis, Finding, Outcome
from parity.core.layer_pairs import LAYER_DROPOUT, layer_pair
from parity.core.pairs import FEW, F, H, T, V, model_pair
from parity.measures.runs import overlapping, streams
from parity.measures.training import RULES, Rule
from parity.measures.trajectories import Text, trained_pair
from parity.mutation.cell_patches import Fault
from parity.suite.checks import (
    Check,
    fit_check,
    generation_check,
    initialization_check,
    trajectory_check,
    update_check,
    values_check,
)
from parity.suite.shrink import reproduction

STEPS = 25
"""Updates of the trajectories of mutants."""

Probe = Callable[[Text], Check]


@dataclass(frozen=True)
class Mutant:
    """One deliberate fault.

    Attributes:
        name: what is wrong, in words.
        fault: makes the context manager within which it is.
        probe: the name of the check that has to notice.
        place: where localisation should find it, in words that its answer has to contain.
        cause: what it should say of it, likewise.
        cannot: why it cannot be put into the code here; None if it can.
    """

    name: str
    fault: Callable[[], Fault]
    probe: str
    place: str = ""
    cause: str = ""
    cannot: Callable[[], str | None] = lambda: None

    def fits(self, named: Diagnosis) -> bool:
        """Whether place and cause are those of this fault."""
        if named.cause.endswith("while looking for it"):  # the search itself failed
            return False
        return self.place in named.place and self.cause in named.cause

    def misfit(self, reason: str) -> ValueError:
        """The error of a mutant that changes nothing, or into something that does not run."""
        return ValueError(f"The mutant {self.name!r} does not fit the code it changes: {reason}.")

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the code has the fault.

        Raises:
            ValueError: if there is nothing in the code that the fault could be put into.
        """
        with contextlib.ExitStack() as entered:
            try:
                entered.enter_context(self.fault())
            except Exception as error:
                raise self.misfit(f"{type(error).__name__}: {error}") from error
            yield


class Verdict(NamedTuple):
    """What became of a mutant.

    Attributes:
        mutant: the mutant.
        gates: those that failed, in order; empty if it survived.
        margin: the largest value / limit among the failures.
        where: the array in which it was largest.
        named: place and cause as localisation tells them; None if nothing was found.
        right: whether they are those of the fault.
        lines: Python that shows it in the smallest case; empty if it was not asked for.
    """

    mutant: Mutant
    gates: tuple[str, ...]
    margin: float
    where: str
    named: Diagnosis | None = None
    right: bool = False
    lines: str = ""

    @property
    def killed(self) -> bool:
        """Whether any gate failed."""
        return bool(self.gates)


def _values(model: Callable[[], CharModel], *, length: int | None = None) -> Probe:
    return lambda text: values_check(model_pair("model", model(), length=length))


def _stack(stack: Callable[[], RNN], *, lengths: bool = False) -> Probe:
    return lambda text: values_check(layer_pair(stack(), lengths=lengths))


def _update(rule: Rule) -> Probe:
    return lambda text: update_check(model_pair("model", CharSeqStatefulRnn(V, F, H)), rule)


def _initialization(model: Callable[[], CharModel]) -> Probe:
    return lambda text: initialization_check(model_pair("model", model()))


def _trajectory(text: Text) -> Check:
    pair = trained_pair(CharSeqStatefulLSTM, text, dropout=0.0)
    return trajectory_check(pair, text, STEPS)


PROBES: dict[str, Probe] = {
    "values of Char3Model": _values(lambda: Char3Model(V, F, H)),
    "values of CharLoopModel": _values(lambda: CharLoopModel(V, F, H)),
    "values of CharLoopConcatModel": _values(lambda: CharLoopConcatModel(V, F, H)),
    "values of CharSeqStatefulRnn": _values(lambda: CharSeqStatefulRnn(V, F, H)),
    "values of CharSeqStatefulGRU": _values(lambda: CharSeqStatefulGRU(V, F, H)),
    "values of CharLM, relu": _values(lambda: CharLM(V, F, H, cell=RELU)),
    "values of CharLM, lstm": _values(
        lambda: CharLM(V, F, H, cell=LSTM, num_layers=2), length=T - 1
    ),
    "values of CharLM, tied": _values(lambda: CharLM(V, H, H, tied=True)),
    "values of CharLM, few tokens": _values(lambda: CharLM(FEW, F, H)),
    "values of a tanh stack": _stack(lambda: RNN(TANH, H, 2)),
    "values of a gru stack": _stack(lambda: RNN(GRU, H, 2)),
    "values of an lstm stack": _stack(lambda: RNN(LSTM, H, 2, bidirectional=True), lengths=True),
    "dropout": _stack(lambda: RNN(LSTM, H, 3, dropout=LAYER_DROPOUT)),
    **{f"update, {rule.name}": _update(rule) for rule in RULES},
    "initialization of CharSeqRnn": _initialization(lambda: CharSeqRnn(V, F, H, identity=True)),
    "initialization of CharSeqStatefulLSTM": _initialization(lambda: CharSeqStatefulLSTM(V, F, H)),
    "generation": lambda text: generation_check(model_pair("model", CharSeqStatefulGRU(V, F, H))),
    "trajectory": _trajectory,
    "fit, stream": lambda text: fit_check(CharSeqStatefulGRU, streams(text)),
    "fit, windows": lambda text: fit_check(CharLoopModel, overlapping(text)),
}
"""The checks of the suite that faults are tried on."""


def unharmed(mutants: Iterable[Mutant], text: Text) -> list[Finding]:
    """What the probes of these mutants find in the code as it is."""
    names = dict.fromkeys(mutant.probe for mutant in mutants)
    return [finding for name in names for finding in probe_check(name, text).findings()]


def probe_check(name: str, text: Text) -> Check:
    """The check of a probe, under the probe's name."""
    return replace(PROBES[name](text), pair=name)


def tried(mutants: Iterable[Mutant], text: Text, reproduced: bool = False) -> Iterator[Verdict]:
    """Each mutant, the gates that caught it, and the place and cause that were named.

    What is expected of a mutant is only read afterwards, to judge by. If `reproduced`, the
    smallest case that shows it is looked for, too.
    """
    for mutant in mutants:
        with mutant.applied():
            try:
                check = probe_check(mutant.probe, text)
            except Exception as error:
                raise mutant.misfit(f"{type(error).__name__}: {error}") from error
            result = verdict(mutant, check.findings())
            named = check.diagnosis() if result.killed else None
            lines = reproduction(check) if reproduced and result.killed else ""
        right = named is not None and mutant.fits(named)
        yield result._replace(named=named, right=right, lines=lines)


def verdict(mutant: Mutant, findings: Iterable[Finding]) -> Verdict:
    """Which gates failed, and by how much.

    Raises:
        ValueError: if nothing was measured but an error: the mutant changes the code into
            something that does not run, which any test would notice, and no number has shown it.
    """
    findings = list(findings)
    bad = [f for f in findings if f.outcome is Outcome.FAIL]
    errors = [f for f in findings if f.outcome is Outcome.ERROR]
    if errors and not bad:
        raise mutant.misfit(errors[0].note)
    gates = tuple(sorted({f.gate for f in bad}))
    clearest = max(bad, key=lambda f: f.margin if f.margin == f.margin else 0.0, default=None)
    where = "" if clearest is None else f"{clearest.check}: {clearest.array}"
    return Verdict(mutant, gates, clearest.margin if clearest else 0.0, where)
