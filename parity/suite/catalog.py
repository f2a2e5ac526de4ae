"""Which checks there are."""

from collections.abc import Iterator
from dataclasses import replace

from jaxrnn.nn.models import (
    COURSE_MODELS,
    CharLM,
    CharLoopModel,
    CharSeqStatefulGRU,
    CharSeqStatefulLSTM,
    CharSeqStatefulRnn,
    CharSeqStatefulRnn2,
)
from jaxrnn.recurrent.cells import LSTM
from jaxrnn.recurrent.recurrence import Backend, why_not_compiled
from parity.core.layer_pairs import layer_pairs
from parity.core.pairs import Pair, course_pairs
from parity.measures.runs import overlapping, streams
from parity.measures.training import ADAM, RULES
from parity.measures.trajectories import COURSE, SMALL, Text, longest, trained_pair
from parity.measures.updates import CHANGING
from parity.suite.checks import (
    Check,
    fit_check,
    generation_check,
    initialization_check,
    trajectory_check,
    update_check,
    values_check,
)

QUICK = ("CharLoopConcatModel", "CharSeqStatefulGRU")
"""What the quick form does in full; of the others it looks at the values in float64."""
INITIALIZED = (
    "CharSeqRnn, identity",
    "CharLoopConcatModel",
    "CharLM, gru, tied",
    "CharLM, gru, 2 layers",
    "CharSeqStatefulRnn2",
    "CharSeqStatefulLSTM",
)
"""Between them they have every initializer; the first is the quick form's."""
EVERY_RULE = ("CharSeqStatefulRnn", "CharSeqStatefulLSTM", "CharLM, gru, tied")
"""The models that are updated by every rule; the first is the quick form's."""
PADDED = (CharSeqStatefulGRU, CharSeqStatefulLSTM, CharSeqStatefulRnn2)
"""The models that are trained on windows of random lengths; the first is the quick form's."""
LONG, SHORT, WIDENED = 1000, 100, 50
"""Updates of the trajectories: at the course's size, at a small one, and of each of the runs that
the envelope is made of."""


def suite(*, quick: bool, text: Text, tf32: bool = False) -> Iterator[Check]:
    """Every check, the longest first; of what has a recurrence one for each way to run it.

    Where a recurrence can run compiled, each of its checks is made twice, compiled and in the scan,
    except in bfloat16, which never runs compiled.

    Args:
        quick: every model and cell, but fewer sizes, precisions and steps.
        text: what the trajectories train on.
        tf32: whether to compare with products rounded to TF32, too; needs a GPU.
    """
    if why_not_compiled():
        yield from _checks(quick=quick, text=text, tf32=tf32, path=None)
        return
    on_scan = [c for c in _checks(quick=quick, text=text, tf32=tf32, path="scan") if c.cell]
    compiled = _checks(quick=quick, text=text, tf32=tf32, path="compiled")
    once = [replace(check, path=None) if check.cell is None else check for check in compiled]
    yield from sorted([*once, *on_scan], key=lambda check: check.kind != "trajectory")


def _checks(*, quick: bool, text: Text, tf32: bool, path: Backend | None) -> Iterator[Check]:
    """Every check, on one path."""
    for check in _pathless(quick=quick, text=text, tf32=tf32, low_too=path != "scan"):
        yield replace(check, path=path)


def _pathless(*, quick: bool, text: Text, tf32: bool, low_too: bool) -> Iterator[Check]:
    """Every check, wherever it runs; without bfloat16 if not `low_too`."""
    low = (
        ("float32",)
        if quick or not low_too
        else ("float32", "bfloat16", "tf32")[: 3 if tf32 else 2]
    )
    models, layers = course_pairs(), layer_pairs(quick=quick)
    yield from _trajectory_checks(text, quick=quick)
    for pair in [*models, *layers]:
        yield values_check(pair, ("float64", *_low(pair, low, quick=quick)))
    yield from _update_checks(models, quick=quick)
    for pair in models:
        if pair.name in INITIALIZED[: 1 if quick else None]:
            yield initialization_check(pair)
    for pair in models[: len(COURSE_MODELS)]:
        if not quick or pair.name in QUICK:
            yield generation_check(pair)


def _low(pair: Pair, low: tuple[str, ...], *, quick: bool) -> tuple[str, ...]:
    """The precisions below float64 for a pair: all for a model; for a stack if it is the
    plainest of its cell, or has everything."""
    if pair.model is not None:
        return low if not quick or pair.name in QUICK else ()
    both = "lengths" in pair.name or "dropout" in pair.name
    plain = pair.name.endswith("1 layer")
    return low if (both or plain) and not quick else ()


def _update_checks(models: list[Pair], *, quick: bool) -> Iterator[Check]:
    by_name = {pair.name: pair for pair in models}
    first, *others = (by_name[name] for name in EVERY_RULE)
    for rule in RULES:
        yield update_check(first, rule, ("float64",) if quick else ("float64", "float32"))
    yield update_check(first, ADAM, rows=CHANGING)
    if quick:
        return
    for pair in models:
        if pair is not first:
            low = ("float32",) if "CharLM" in pair.name else ()
            yield update_check(pair, ADAM, ("float64", *low))
    for pair in others:
        for rule in RULES[1:]:
            yield update_check(pair, rule, ("float64",))
        yield update_check(pair, ADAM, ("float64",), rows=CHANGING)


def _trajectory_checks(text: Text, *, quick: bool) -> Iterator[Check]:
    if not quick:
        yield from _long_trajectories(text)
        yield fit_check(CharLoopModel, overlapping(text))
    yield fit_check(CharSeqStatefulGRU, streams(text))
    for kind in PADDED[: 1 if quick else None]:
        options = {"dropout": 0.0} if kind is CharSeqStatefulLSTM else {}
        yield trajectory_check(trained_pair(kind, text, SMALL, **options), text, SHORT)


def _long_trajectories(text: Text) -> Iterator[Check]:
    """The course's size: one layer of each cell."""
    for kind in (CharLM, CharSeqStatefulGRU, CharSeqStatefulRnn):
        options = {"cell": LSTM} if kind is CharLM else {}
        pair = trained_pair(kind, text, COURSE, **options)
        yield trajectory_check(pair, text, longest(text, LONG, COURSE), COURSE)
        yield trajectory_check(pair, text, WIDENED, COURSE, envelope=True)
