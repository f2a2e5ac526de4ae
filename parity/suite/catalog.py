"""Which checks there are."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from jaxrnn.nn.layers import RNN
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
from jaxrnn.recurrent.recurrence import why_not_compiled
from parity.core.layer_pairs import EVERY_WAY, layer_pair, layer_pairs, loop_pairs
from parity.core.pairs import FEW, F, H, Pair, course_pairs, model_pair
from parity.core.references import LOOP_CELLS
from parity.measures.runs import overlapping, streams
from parity.measures.training import ADAM, RULES
from parity.measures.trajectories import COURSE_SCALE, SMALL, Text, longest, trained_pair
from parity.measures.updates import CHANGING
from parity.suite.checks import (
    Check,
    fit_check,
    generation_check,
    initialization_check,
    paths_of,
    trajectory_check,
    update_check,
    values_check,
)

# The models of which the quick form checks everything; of the others, the values in float64.
QUICK = ("CharLoopConcatModel", "CharSeqStatefulGRU")
# Of each of these the quick form checks the first.
# Between them these models have every initializer.
INITIALIZED = (
    "CharSeqRnn, identity",
    "CharLoopConcatModel",
    "CharLM, gru, tied",
    "CharLM, gru, 2 layers",
    "CharSeqStatefulRnn2",
    "CharSeqStatefulLSTM",
)
# These are updated by every rule.
EVERY_RULE = ("CharSeqStatefulRnn", "CharSeqStatefulLSTM", "CharLM, gru, tied")
# These are trained on windows of random lengths.
PADDED = (CharSeqStatefulGRU, CharSeqStatefulLSTM, CharSeqStatefulRnn2)
# Updates of the trajectories: at the course's size, at a small one, and of each of the runs that
# the envelope is made of.
LONG = 1000
SHORT = 100
WIDENED = 50


def suite(*, quick: bool, text: Text, tf32: bool = False) -> Iterator[Check]:
    """Every check, the longest first; of what has a recurrence one for each way to run it.

    Where a recurrence can run compiled, each of its checks is made twice, compiled and in the scan,
    except in bfloat16, which never runs compiled. Of the cells that torch has not, only the values
    are checked in every way.

    Args:
        quick: every model and cell, but fewer sizes, precisions and steps.
        text: what the trajectories train on.
        tf32: whether to compare with matmuls rounded to TF32, too; needs a GPU.
    """
    low = ["float32"]
    if not quick:
        low.append("bfloat16")
        if tf32:
            low.append("tf32")
    if why_not_compiled():
        yield from _checks(text, low, quick=quick)
        yield from _loop_checks(low, quick=quick)
        return
    checks = []
    for check in _checks(text, low, quick=quick):
        # What has no recurrence takes no path, and is checked once.
        checks.append(replace(check, path="compiled") if check.cell else check)
    for check in _checks(text, low[:1], quick=quick):
        # What a rule makes of gradients is the same on every path.
        left_out = quick and check.kind == "update" and check.rule != ADAM
        if check.cell and not left_out:
            checks.append(replace(check, path="scan"))
    checks += _loop_checks(low, quick=quick)
    # The longest first, so that no process waits for it at the end.
    yield from sorted(checks, key=lambda check: check.kind != "trajectory")


def _checks(text: Text, low: Sequence[str], *, quick: bool) -> Iterator[Check]:
    # Every check, in float64 and in the precisions `low` below it.
    models = course_pairs()
    yield from _trajectory_checks(text, quick=quick)
    for pair in [*models, *layer_pairs(quick=quick)]:
        dtypes = ("float64", *low) if _is_checked_in_low(pair, quick=quick) else ("float64",)
        yield values_check(pair, dtypes)
    yield from _update_checks(models, quick=quick)
    initialized = INITIALIZED[:1] if quick else INITIALIZED
    for pair in models:
        if pair.name in initialized:
            yield initialization_check(pair)
    for pair in models[: len(COURSE_MODELS)]:
        if not quick or pair.name in QUICK:
            yield generation_check(pair)


def _loop_checks(low: Sequence[str], *, quick: bool) -> Iterator[Check]:
    # The cells whose layer in PyTorch is a loop: values in float64, in every way to run them. In
    # the full form also in the precisions `low`, updates, for which the carry goes on from window
    # to window, and generation, as they run by themselves.
    for pair in loop_pairs():
        check = values_check(pair)
        ways = paths_of(check.cell)
        if quick and check.cell and check.cell.name not in EVERY_WAY:
            ways = ways[:1]
        for path in ways:
            yield replace(check, path=path)
    if quick:
        return
    for cell in LOOP_CELLS.values():
        yield values_check(layer_pair(RNN(cell, H)), low)
        pair = model_pair(f"CharLM, {cell.name}", CharLM(FEW, F, H, cell=cell))
        # Each framework samples the masks of zoneout by itself: tests compare its training.
        if getattr(cell, "zoneout", None) is None:
            yield update_check(pair, ADAM)
        yield generation_check(pair)


def _is_checked_in_low(pair: Pair, *, quick: bool) -> bool:
    # Whether a pair is checked below float64, too.
    #
    # A model is; a stack if it is the plainest of its cell, or has everything.
    if quick:
        return pair.name in QUICK
    if pair.model is not None:
        return True
    return "lengths" in pair.name or "dropout" in pair.name or pair.name.endswith("1 layer")


def _update_checks(models: list[Pair], *, quick: bool) -> Iterator[Check]:
    by_name = {pair.name: pair for pair in models}
    first = by_name[EVERY_RULE[0]]
    for rule in RULES:
        yield update_check(first, rule, ("float64",) if quick else ("float64", "float32"))
    yield update_check(first, ADAM, rows=CHANGING)
    if quick:
        return
    for pair in models:
        if pair is not first:
            dtypes = ("float64", "float32") if "CharLM" in pair.name else ("float64",)
            yield update_check(pair, ADAM, dtypes)
    for name in EVERY_RULE[1:]:
        for rule in RULES[1:]:
            yield update_check(by_name[name], rule)
        yield update_check(by_name[name], ADAM, rows=CHANGING)


def _trajectory_checks(text: Text, *, quick: bool) -> Iterator[Check]:
    if not quick:
        # The course's size: one layer of each cell.
        steps = longest(text, LONG, COURSE_SCALE)
        for pair in (
            trained_pair(CharLM, text, COURSE_SCALE, cell=LSTM),
            trained_pair(CharSeqStatefulGRU, text, COURSE_SCALE),
            trained_pair(CharSeqStatefulRnn, text, COURSE_SCALE),
        ):
            yield trajectory_check(pair, text, steps, COURSE_SCALE)
            yield trajectory_check(pair, text, WIDENED, COURSE_SCALE, envelope=True)
        yield fit_check(CharLoopModel, overlapping(text))
    yield fit_check(CharSeqStatefulGRU, streams(text))
    for kind in PADDED[:1] if quick else PADDED:
        # torch samples dropout masks of its own, so here there is no dropout.
        options = {"dropout": 0.0} if kind is CharSeqStatefulLSTM else {}
        yield trajectory_check(trained_pair(kind, text, SMALL, **options), text, SHORT)
