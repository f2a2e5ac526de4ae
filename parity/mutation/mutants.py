"""Does the suite notice? Mutations, one at a time, and the criterion that catches each.

A check that cannot fail is a defect, so every check of the suite is tried here on the mutations
that it is meant to notice. The unmutated code has to pass the same checks: a suite that fails
everything catches everything.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from jaxrnn.recurrent.cells import (
    COUPLED_LSTM,
    GRU,
    LSTM,
    MGU,
    PEEPHOLE_LSTM,
    RELU,
    SLSTM,
    TANH,
    AnyCell,
)
from jaxrnn.recurrent.free_cells import FREE_CELLS
from jaxrnn.recurrent.linear_cells import LINEAR_CELLS, MIN_GRU
from jaxrnn.recurrent.zoneout import ZONEOUT_CELLS
from parity.core.compare import Finding, Outcome
from parity.core.layer_pairs import LAYER_DROPOUT, layer_pair
from parity.core.pairs import FEW, F, H, T, V, model_pair
from parity.diagnosis.causes import Diagnosis
from parity.measures.runs import overlapping, streams
from parity.measures.training import RULES, Rule
from parity.measures.trajectories import Text, trained_pair
from parity.mutation.tools import Mutation
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

# Updates of the trajectories of mutants.
STEPS = 25

# Names of checks that many mutants are tried on.
RNN_MODEL = "values of CharSeqStatefulRnn"
GRU_MODEL = "values of CharSeqStatefulGRU"
LSTM_MODEL = "values of CharLM, lstm"
TANH_STACK = "values of a tanh stack"
GRU_STACK = "values of a gru stack"
ROUNDED_STACK = "values of a gru layer, float32 too"
LSTM_STACK = "values of an lstm stack"
PEEPHOLE_STACK = "values of a peephole-lstm stack"
COUPLED_STACK = "values of a coupled-lstm stack"
MGU_STACK = "values of an mgu stack"
SLSTM_STACK = "values of an slstm stack"
FREE_STACKS = {cell.name: f"values of {cell.name}" for cell in FREE_CELLS}
PARALLEL = "values of mingru, parallel"
LINEAR_STACKS = {cell.name: f"values of {cell.name}" for cell in LINEAR_CELLS}
ZONEOUT_STACKS = {cell.name: f"values of {cell.name}" for cell in ZONEOUT_CELLS}

MakeCheck = Callable[[Text], Check]


@dataclass(frozen=True)
class Mutant:
    """One deliberate mistake.

    Attributes:
        name: what is wrong, in words.
        mutation: makes the context manager within which it is.
        check: the name of the check that has to notice.
        place: where localization should find it, in words that its answer has to contain.
        cause: what it should name as the cause, likewise.
        cannot: why it cannot be put into the code here; None if it can.
    """

    name: str
    mutation: Callable[[], Mutation]
    check: str
    place: str = ""
    cause: str = ""
    cannot: Callable[[], str | None] = lambda: None

    def fits(self, named: Diagnosis) -> bool:
        """Whether place and cause are those of this mutation."""
        if named.cause.endswith("while looking for it"):  # the search itself failed
            return False
        return self.place in named.place and self.cause in named.cause

    def misfit(self, reason: str) -> ValueError:
        """The error of a mutant that changes nothing, or into something that does not run."""
        return ValueError(f"The mutant {self.name!r} does not fit the code it changes: {reason}.")

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the code is mutated.

        Raises:
            ValueError: if there is nothing in the code that the mutation could change.
        """
        # On a stack of its own, so that errors from within the context are not taken for a misfit.
        with contextlib.ExitStack() as entered:
            try:
                entered.enter_context(self.mutation())
            except Exception as error:
                raise self.misfit(f"{type(error).__name__}: {error}") from error
            yield


class Verdict(NamedTuple):
    """What became of a mutant.

    Attributes:
        mutant: the mutant.
        criteria: those that failed, in order; empty if it survived.
        margin: the largest value / limit among the failures.
        where: the array in which it was largest.
        named: place and cause as localization finds them; None if it found nothing.
        right: whether they are those of the mutation.
        lines: Python that shows it in the smallest case; empty if it was not asked for.
    """

    mutant: Mutant
    criteria: tuple[str, ...]
    margin: float
    where: str
    named: Diagnosis | None = None
    right: bool = False
    lines: str = ""

    @property
    def killed(self) -> bool:
        """Whether any criterion failed."""
        return bool(self.criteria)


def _values(make: Callable[[], CharModel], *, length: int | None = None) -> MakeCheck:
    return lambda text: values_check(model_pair("model", make(), length=length))


def _stack(make: Callable[[], RNN], *, lengths: bool = False) -> MakeCheck:
    return lambda text: values_check(layer_pair(make(), lengths=lengths))


def _of_cell(cell: AnyCell) -> MakeCheck:
    return _stack(lambda: RNN(cell, H, 2))


def _update(rule: Rule) -> MakeCheck:
    return lambda text: update_check(model_pair("model", CharSeqStatefulRnn(V, F, H)), rule)


def _initialization(make: Callable[[], CharModel]) -> MakeCheck:
    return lambda text: initialization_check(model_pair("model", make()))


def _trajectory(text: Text) -> Check:
    pair = trained_pair(CharSeqStatefulLSTM, text, dropout=0.0)
    return trajectory_check(pair, text, STEPS)


# The checks of the suite that mutations are tried on. Each is made within the mutation, so that no
# program of its own was compiled before.
CHECKS: dict[str, MakeCheck] = {
    "values of Char3Model": _values(lambda: Char3Model(V, F, H)),
    "values of CharLoopModel": _values(lambda: CharLoopModel(V, F, H)),
    "values of CharLoopConcatModel": _values(lambda: CharLoopConcatModel(V, F, H)),
    RNN_MODEL: _values(lambda: CharSeqStatefulRnn(V, F, H)),
    GRU_MODEL: _values(lambda: CharSeqStatefulGRU(V, F, H)),
    "values of CharLM, relu": _values(lambda: CharLM(V, F, H, cell=RELU)),
    LSTM_MODEL: _values(lambda: CharLM(V, F, H, cell=LSTM, num_layers=2), length=T - 1),
    "values of CharLM, tied": _values(lambda: CharLM(V, H, H, tied=True)),
    "values of CharLM, square tied": _values(lambda: CharLM(FEW, FEW, FEW, tied=True)),
    "values of CharLM, few tokens": _values(lambda: CharLM(FEW, F, H)),
    TANH_STACK: _stack(lambda: RNN(TANH, H, 2)),
    GRU_STACK: _stack(lambda: RNN(GRU, H, 2)),
    ROUNDED_STACK: lambda text: values_check(layer_pair(RNN(GRU, H)), ("float64", "float32")),
    LSTM_STACK: _stack(lambda: RNN(LSTM, H, 2, bidirectional=True), lengths=True),
    PEEPHOLE_STACK: _stack(lambda: RNN(PEEPHOLE_LSTM, H, 2)),
    COUPLED_STACK: _stack(lambda: RNN(COUPLED_LSTM, H, 2)),
    MGU_STACK: _stack(lambda: RNN(MGU, H, 2)),
    SLSTM_STACK: _stack(lambda: RNN(SLSTM, H, 2, bidirectional=True), lengths=True),
    PARALLEL: lambda text: replace(_of_cell(MIN_GRU)(text), path="parallel"),
    **{LINEAR_STACKS[cell.name]: _of_cell(cell) for cell in LINEAR_CELLS},
    **{ZONEOUT_STACKS[cell.name]: _of_cell(cell) for cell in ZONEOUT_CELLS},
    **{FREE_STACKS[cell.name]: _of_cell(cell) for cell in FREE_CELLS},
    "dropout": _stack(lambda: RNN(LSTM, H, 3, dropout=LAYER_DROPOUT)),
    **{f"update, {rule.name}": _update(rule) for rule in RULES},
    "initialization of CharSeqRnn": _initialization(lambda: CharSeqRnn(V, F, H, identity=True)),
    "initialization of CharLM, tied": _initialization(lambda: CharLM(V, H, H, tied=True)),
    "initialization of CharSeqStatefulLSTM": _initialization(lambda: CharSeqStatefulLSTM(V, F, H)),
    "generation": lambda text: generation_check(model_pair("model", CharSeqStatefulGRU(V, F, H))),
    "trajectory": _trajectory,
    "fit, stream": lambda text: fit_check(CharSeqStatefulGRU, streams(text)),
    "fit, windows": lambda text: fit_check(CharLoopModel, overlapping(text)),
}


def check_named(name: str, text: Text) -> Check:
    """One of `CHECKS`, under its name there."""
    return replace(CHECKS[name](text), pair=name)


def unmutated_findings(mutants: Iterable[Mutant], text: Text) -> list[Finding]:
    """What the checks of these mutants find in the code as it is."""
    findings: list[Finding] = []
    for name in dict.fromkeys(mutant.check for mutant in mutants):  # each once
        findings += check_named(name, text).findings()
    return findings


def tried(mutants: Iterable[Mutant], text: Text, reproduced: bool = False) -> Iterator[Verdict]:
    """Each mutant, the criteria that caught it, and the place and cause that were named.

    What is expected of a mutant is only read afterwards, to judge by. If `reproduced`, the
    smallest case that shows it is looked for, too.
    """
    for mutant in mutants:
        named = None
        lines = ""
        # The check is made, run and explained within the mutation.
        with mutant.applied():
            try:
                check = check_named(mutant.check, text)
            except Exception as error:
                raise mutant.misfit(f"{type(error).__name__}: {error}") from error
            result = verdict(mutant, check.findings())
            if result.killed:
                named = check.diagnosis()
                if reproduced:
                    lines = reproduction(check)
        # Judged outside the mutation.
        right = named is not None and mutant.fits(named)
        yield result._replace(named=named, right=right, lines=lines)


def verdict(mutant: Mutant, findings: Sequence[Finding]) -> Verdict:
    """Which criteria failed, and by how much.

    Raises:
        ValueError: if nothing was measured but an error: the mutant changes the code into
            something that does not run, which any test would notice, and no number has shown it.
    """
    bad = [finding for finding in findings if finding.outcome is Outcome.FAIL]
    errors = [finding for finding in findings if finding.outcome is Outcome.ERROR]
    if errors and not bad:
        raise mutant.misfit(errors[0].note)
    if not bad:
        return Verdict(mutant, (), 0.0, "")
    criteria = tuple(sorted({finding.criterion for finding in bad}))
    # NaN compares as nothing: it is no margin at all.
    clearest = max(bad, key=lambda f: 0.0 if math.isnan(f.margin) else f.margin)
    return Verdict(mutant, criteria, clearest.margin, f"{clearest.quantity}: {clearest.array}")
