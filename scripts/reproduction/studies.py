"""The pairs and the studies, arranged as the page and the figures show them."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import geometric_mean
from typing import Any, NamedTuple

from jaxrnn.runs.recipes import RECIPES
from jaxrnn.runs.statistics import spread
from reproduction.findings import Findings
from reproduction.results import Record
from reproduction.statistics import apart, shared
from reproduction.units import STUDIES, Unit

LIMITS: dict[str, tuple[float, float]] = {
    "float64": (1e-10, 1e-12),
    "float32": (float("inf"), 1e-4),
}
"""Of the weights (relL2) and of every validation loss (nats), by precision."""
PROMISED = ("stateful-rnn", "stateful-gru")
"""Recipes of which the project promises that the limits hold."""
CHARACTERS = 85
"""Different characters of the course's text, with one for padding."""
STEPS_BACK = (8, 32, 100)
"""Steps back that the table of the flowing gradient shows."""


def starts(findings: Findings) -> list[dict[str, Any]]:
    """The pairs of each recipe and precision: float64 first, recipes in the course's order."""
    judged = [pair for pair in findings.pairs if RECIPES[pair.recipe].validation]
    found = []
    for (recipe, dtype), group in groupby(judged, key=lambda pair: (pair.recipe, pair.dtype)):
        pairs = list(group)
        losses = [pair.validation for pair in pairs]
        worst = (max(pair.weights for pair in pairs), max(pair.farthest for pair in pairs))
        start = {
            "recipe": recipe,
            "dtype": dtype,
            "seeds": len(pairs),
            "steps": findings.of(recipe, dtype=dtype)[-1].steps,
            "weights": worst[0],
            "validation": worst[1],
            "by_epoch": [max(abs(each[epoch]) for each in losses) for epoch in losses[0]],
            "limits": LIMITS[dtype],
            "holds": all(far <= limit for far, limit in zip(worst, LIMITS[dtype], strict=True)),
            "promised": recipe in PROMISED,
            "drops": Unit(recipe=recipe).config.dropout > 0,
        }
        found.append(start)
    return sorted(found, key=lambda start: start["dtype"], reverse=True)


def splits(findings: Findings) -> list[dict[str, Any]]:
    """The windowed recipes on both splits that can be compared, seed by seed."""
    (changes,) = STUDIES["split"].changes
    found = []
    for recipe in STUDIES["split"].recipes:
        moved = findings.of_study("split", recipe, changes)
        seeds = {record.unit.seed for record in moved}
        of_seeds = [r for r in findings.of(recipe) if r.unit.seed in seeds]
        usual = [record for record in of_seeds if record.shared is not None]
        config = Unit(recipe=recipe).config
        split = {"recipe": recipe, "moved": moved, "usual": usual, "bptt": config.bptt}
        split |= {"reads": config.make_model(1).reads, "apart": apart(moved, usual, shared)}
        if split["apart"]:
            found.append(split)
    return found


def variants(findings: Findings, study: str, usual: str = "") -> dict[str, list[Record]]:
    """The records of each change of a study that has been run; of a study of one recipe.

    Args:
        findings: all there are.
        study: its name.
        usual: what the recipe as it is is called; it comes first. Left out if empty.
    """
    (recipe,) = STUDIES[study].recipes
    found = {usual: findings.of(recipe)} if usual else {}
    for changes in STUDIES[study].changes:
        words = [f"{name.replace('_', ' ')} {value}" for name, value in changes.items()]
        name = str(changes[study]) if study in changes else ", ".join(words)
        found[name] = findings.of_study(study, recipe, changes)
    return {name: records for name, records in found.items() if records}


def characters_per_epoch(bptt: Mapping[str, Sequence[Record]]) -> float:
    """The characters that an epoch of windows of any length trains on.

    All windows have the same length but the last, which has what is left: the smallest of
    windows times length is nearest to it, and less than one short window above it.
    """
    ones = [records[0] for records in bptt.values()]
    each = (one.steps / one.unit.epochs * one.unit.config.bptt for one in ones)
    return min(each) * ones[0].unit.config.batch_size


class Initialization(NamedTuple):
    """A recurrent weight's initialization at one schedule of the learning rate."""

    start: str  # "identity" or "default"
    schedule: str  # the schedule
    records: Sequence[Record]  # by seed
    norms: Sequence[float]  # all norms of the gradient, sorted

    def flows(self, place: int) -> list[Sequence[float]]:
        """The flowing gradients of the seeds, at the start (0) or at the end (1) of training."""
        return [record.flow[place] for record in self.records if record.flow]


def initializations(findings: Findings) -> list[Initialization]:
    """Those that have been run."""
    (recipe,) = STUDIES["identity"].recipes
    found = []
    for changes in STUDIES["identity"].changes:
        records = findings.of_study("identity", recipe, changes)
        norms = sorted(norm for record in records for _, norm in record.norms)
        start = "identity" if changes["identity"] else "default"
        if records:
            found.append(Initialization(start, changes["schedule"], records, norms))
    return found


def flow_shares(found: Sequence[Initialization]) -> list[dict[str, Any]]:
    """What of the gradient is left `STEPS_BACK`, relative to one step back: mean of the seeds."""
    rows = []
    for one in found:
        for place, when in enumerate(("start", "end")):
            flows = one.flows(place)
            if flows:
                shares = [geometric_mean(f[back - 1] / f[0] for f in flows) for back in STEPS_BACK]
                rows.append({"when": when, "variant": one, "shares": shares})
    return rows


def growth(found: Sequence[Initialization]) -> dict[str, float]:
    """How many times its norm one step back a gradient has at most, by the initialization."""
    return {
        f"{one.start}, {one.schedule}": max(max(norms) / norms[0] for norms in flows)
        for one in found
        if (flows := one.flows(0) + one.flows(1))
    }


class OfCell(NamedTuple):
    """A cell in the recipe of another one."""

    name: str  # the cell
    parameters: int  # of the model
    records: Sequence[Record]  # by seed
    seconds: float  # the mean of a run
    epoch: int  # that had ended when the fastest cell had run to its end; 0 if none


def cells(findings: Findings) -> list[OfCell]:
    """Those that have been run, beside the cell of the recipe; none if that is the only one."""
    (recipe,) = STUDIES["cell"].recipes
    found = variants(findings, "cell", Unit(recipe=recipe).config.cell)
    if len(found) < 2:
        return []
    times = {n: spread(r.seconds for r in records).mean for n, records in found.items()}
    shares = {name: min(times.values()) / seconds for name, seconds in times.items()}
    rows = []
    for name, records in found.items():
        unit = records[0].unit
        epoch = int(shares[name] * unit.epochs)
        rows.append(OfCell(name, parameters(unit), records, times[name], epoch))
    return rows


def parameters(unit: Unit) -> int:
    """The number of a model's parameters, for the course's text."""
    import jax
    import jax.numpy as jnp

    model = unit.config.make_model(CHARACTERS)
    arguments = (jax.random.key(0), model.initial_carry(1), jnp.zeros((1, 1), jnp.int32))
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, *arguments)))


def distances(beginning: Mapping[str, Sequence[Record]]) -> dict[str, float]:
    """The mean over seeds, epochs, training and validation of |loss - published|."""
    (recipe,) = (RECIPES[name] for name in STUDIES["beginning"].recipes)
    found = {}
    for changed, records in beginning.items():
        pairs = [(record.train, recipe.train) for record in records]
        pairs += [(record.validation, recipe.validation) for record in records]
        found[changed] = spread(abs(o[e] - p[e]) for o, p in pairs for e in p).mean
    return found
