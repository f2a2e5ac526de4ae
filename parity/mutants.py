"""Does the suite notice? Deliberate faults, one at a time, and the gate that catches each.

A check that cannot fail is a defect, so every check of the suite stands here against the faults
that it is meant to notice. The code without a fault has to pass the same checks: a suite that
fails everything catches everything.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from jaxrnn.nn.cells import GRU, LSTM, RELU, TANH, Cell
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
from parity.cases import draw_case
from parity.checks import Check, update_findings, value_findings
from parity.compare import Finding, Outcome
from parity.faults import Fault
from parity.generation import greedy_findings
from parity.initialisation import initialisation_findings
from parity.localise import localise
from parity.stacks import draw
from parity.runs import overlapping, run_findings, streams
from parity.stack_subjects import LAYER_DROPOUT, layer_subject
from parity.subjects import F, H, T, V, model_subject
from parity.training import RULES
from parity.trajectories import Text, followed, trained_subject

STEPS = 25
"""Updates of the trajectories of mutants."""

Probe = Callable[[Text], list[Finding]]


@dataclass(frozen=True)
class Mutant:
    """One deliberate fault.

    Attributes:
        name: what is wrong, in words.
        fault: makes the context manager within which it is.
        probe: the name of the check that has to notice.
        cause: what localisation should say, where a layer computes another equation.
    """

    name: str
    fault: Callable[[], Fault]
    probe: str
    cause: str = ""

    @property
    def cell(self) -> Cell:
        """The cell in which the fault is looked for."""
        return next((c for c in (LSTM, GRU, RELU) if c.name in self.probe.lower()), TANH)


class Verdict(NamedTuple):
    """What became of a mutant.

    Attributes:
        mutant: its name.
        probe: the check that was run.
        gates: those that failed, in order; empty if it survived.
        margin: the largest value / limit among the failures.
        where: the array in which it was largest.
        located: origin and cause as localisation tells them; empty if it was not asked.
        right: whether it named layer and cause.
    """

    mutant: str
    probe: str
    gates: tuple[str, ...]
    margin: float
    where: str
    located: str = ""
    right: bool = False

    @property
    def killed(self) -> bool:
        """Whether any gate failed."""
        return bool(self.gates)


def _values(model: Callable[[], CharModel], *, length: int | None = None) -> Probe:
    def probe(text: Text) -> list[Finding]:
        return value_findings(model_subject("model", model(), length=length), ("float64",))

    return probe


def _stack(stack: Callable[[], RNN], *, lengths: bool = False) -> Probe:
    return lambda text: value_findings(layer_subject(stack(), lengths=lengths), ("float64",))


def _update(rule_name: str) -> Probe:
    rule = next(rule for rule in RULES if rule.name == rule_name)

    def probe(text: Text) -> list[Finding]:
        subject = model_subject("model", CharSeqStatefulRnn(V, F, H))
        return update_findings("model", subject, rule, ("float64",))

    return probe


def _initialisation(model: Callable[[], CharModel]) -> Probe:
    return lambda text: initialisation_findings(model_subject("model", model()))


def _generation(text: Text) -> list[Finding]:
    subject = model_subject("model", CharSeqStatefulGRU(V, F, H))
    return greedy_findings(subject, draw_case(subject, 0, "float32")[0], "float32")


def _trajectory(text: Text) -> list[Finding]:
    return followed(trained_subject(CharSeqStatefulLSTM, text, dropout=0.0), text, STEPS)


PROBES: dict[str, Probe] = {
    "values of Char3Model": _values(lambda: Char3Model(V, F, H)),
    "values of CharLoopModel": _values(lambda: CharLoopModel(V, F, H)),
    "values of CharLoopConcatModel": _values(lambda: CharLoopConcatModel(V, F, H)),
    "values of CharSeqStatefulRnn": _values(lambda: CharSeqStatefulRnn(V, F, H)),
    "values of CharSeqStatefulGRU": _values(lambda: CharSeqStatefulGRU(V, F, H)),
    "values of CharLM, relu": _values(lambda: CharLM(V, F, H, cell=RELU)),
    "values of CharLM, lstm": _values(lambda: CharLM(V, F, H, cell=LSTM, layers=2), length=T - 1),
    "values of CharLM, tied": _values(lambda: CharLM(V, H, H, tied=True)),
    "values of a tanh stack": _stack(lambda: RNN(TANH, H, 2)),
    "values of a gru stack": _stack(lambda: RNN(GRU, H, 2)),
    "values of an lstm stack": _stack(lambda: RNN(LSTM, H, 2, bidirectional=True), lengths=True),
    "dropout": _stack(lambda: RNN(LSTM, H, 3, dropout=LAYER_DROPOUT)),
    **{f"update, {rule.name}": _update(rule.name) for rule in RULES},
    "initialisation of CharSeqRnn": _initialisation(lambda: CharSeqRnn(V, F, H, identity=True)),
    "initialisation of CharSeqStatefulLSTM": _initialisation(lambda: CharSeqStatefulLSTM(V, F, H)),
    "generation": _generation,
    "trajectory": _trajectory,
    "fit, stream": lambda text: run_findings(CharSeqStatefulGRU, streams(text)),
    "fit, windows": lambda text: run_findings(CharLoopModel, overlapping(text)),
}
"""The checks of the suite that faults are tried on."""


def unharmed(mutants: Iterable[Mutant], text: Text) -> list[Finding]:
    """What the probes of these mutants find in the code as it is."""
    names = dict.fromkeys(mutant.probe for mutant in mutants)
    return [finding for name in names for finding in _found(name, text)]


def tried(mutants: Iterable[Mutant], text: Text) -> Iterator[Verdict]:
    """Each mutant, and the gates that caught it."""
    for mutant in mutants:
        with mutant.fault():
            result = verdict(mutant, _found(mutant.probe, text))
            if mutant.cause:
                found = localise(draw(mutant.cell))
                right = "layer 0" in found.origin and mutant.cause in found.cause
                result = result._replace(located=found.summary(), right=right)
        yield result


def verdict(mutant: Mutant, findings: Iterable[Finding]) -> Verdict:
    """Which gates failed, and by how much."""
    bad = [f for f in findings if f.outcome in (Outcome.FAIL, Outcome.ERROR)]
    gates = tuple(sorted({f.gate for f in bad}))
    clearest = max(bad, key=lambda f: f.margin if f.margin == f.margin else 0.0, default=None)
    where = "" if clearest is None else f"{clearest.check}: {clearest.array}"
    return Verdict(mutant.name, mutant.probe, gates, clearest.margin if clearest else 0.0, where)


def _found(probe: str, text: Text) -> list[Finding]:
    return Check(probe, "mutant", lambda: PROBES[probe](text)).findings()
