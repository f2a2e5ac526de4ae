"""The table of the losses: published, ours, PyTorch's; at the end, and epoch by epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from jaxrnn.reproduction.page.commands import recipe_command
from jaxrnn.reproduction.page.markdown import (
    details,
    difference,
    duration,
    image,
    listed,
    loss,
    not_run,
    signed,
    table,
)
from jaxrnn.reproduction.page.records import Findings
from jaxrnn.reproduction.page.statistics import (
    BAND,
    Outcome,
    apart,
    outcomes,
    seconds,
    training,
    validation,
    verdict,
)
from jaxrnn.reproduction.units import Unit
from jaxrnn.runs.recipes import RECIPES

PICTURE = "losses.png"
MOST_EPOCHS = 20
"""That are shown of a recipe; of a longer one those that the course published, and the last."""
LONG = 15
"""Epochs from which on a recipe takes hours."""
HEADS = (
    "recipe",
    "epochs",
    "published train, val",
    "ours, train",
    "ours, val",
    "ours - published",
    "verdict",
    "PyTorch, val",
    "ours - PyTorch",
    "a run takes: ours, PyTorch",
)
EPOCH_HEADS = (
    "epoch",
    "published train",
    "ours, train",
    "published val",
    "ours, val",
    "ours - published",
    "PyTorch, val",
    "ours - PyTorch",
)


def section(findings: Findings) -> str:
    """The tables, with the picture of the curves between them."""
    found = outcomes(findings)
    run = [outcome for outcome in found if outcome.ours]
    pieces = ["## Losses", table(HEADS, map(_row, found)), _summary(run)]
    pieces += [_unvalidated(findings), _projections(found)]
    if run:
        pieces += [image(PICTURE, "validation losses by epoch"), "### Epoch by epoch"]
        pieces += [details(_judgement(outcome), _epochs(outcome)) for outcome in run]
    pieces += _missing([outcome for outcome in found if not outcome.ours])
    return "\n\n".join(piece for piece in pieces if piece)


def _unvalidated(findings: Findings) -> str:
    """Recipes of which the course published the training loss alone."""
    lines = []
    for name, recipe in RECIPES.items():
        records = findings.of(name)
        if recipe.train and not recipe.validation and records:
            last = max(recipe.train)
            lines.append(
                f"- {name}, which the course validated on a single example: training loss "
                f"{loss(training(records))}, published {recipe.train[last]:.3f}."
            )
    return "\n".join(lines)


def _missing(found: Sequence[Outcome]) -> list[str]:
    """What runs the rest: the short recipes together, each long one alone."""
    short = [outcome.recipe for outcome in found if outcome.epochs < LONG]
    long = [outcome.recipe for outcome in found if outcome.epochs >= LONG]
    recipes = [" ".join(short), *long] if short else long
    return [not_run(recipe_command(each)) for each in recipes]


def _row(outcome: Outcome) -> list[str]:
    last = outcome.epochs
    published = f"{_published(outcome.published_train, last)}, {outcome.published[last]:.3f}"
    row = [outcome.recipe, str(last), published]
    if not outcome.ours:
        theirs = loss(validation(outcome.theirs)) if outcome.theirs else ""
        return [*row, "", "not run", "", "", theirs, "", ""]
    ours, apart_by = outcome.difference(), apart(outcome.ours, outcome.theirs)
    row += [f"{training(outcome.ours).mean:.4f}", loss(validation(outcome.ours))]
    row += [signed(ours), verdict(ours)]
    row += [loss(validation(outcome.theirs)) if outcome.theirs else "not run"]
    return [*row, difference(apart_by), _times(outcome)]


def _published(losses: Mapping[int, float], epoch: int) -> str:
    return f"{losses[epoch]:.3f}" if epoch in losses else "-"


def _times(outcome: Outcome) -> str:
    groups = (outcome.ours, outcome.theirs)
    return ", ".join(duration(seconds(records).mean) for records in groups if records)


def _summary(run: Sequence[Outcome]) -> str:
    """How many recipes reach what was promised, and which do not."""
    if not run:
        return ""
    missed = [outcome for outcome in run if outcome.difference() > BAND]
    text = (
        f"At the end, {len(run) - len(missed)} of the {len(run)} recipes that were run are within "
        f"{BAND:g} nats of the published loss or better, in the mean over the seeds."
    )
    if missed:
        words = [f"{o.recipe} by {o.difference():.3f}" for o in missed]
        text += f" Missed: {listed(words)}."
    return f"{text} {_twins(run)}".strip()


def _twins(run: Sequence[Outcome]) -> str:
    """How many recipes differ from PyTorch by less than seeds do."""
    pairs = [(outcome.recipe, apart(outcome.ours, outcome.theirs)) for outcome in run]
    judged = [(name, p) for name, p in pairs if p is not None and p.deviation is not None]
    if not judged:
        return ""
    beyond = [(name, p) for name, p in judged if abs(p.difference) >= (p.deviation or 0)]
    text = (
        f"`ours - PyTorch` is over the seeds that both have, and `sd` the standard deviation "
        f"between seeds, pooled: on {len(judged) - len(beyond)} of {len(judged)} recipes the means "
        "differ by less than that."
    )
    if beyond:
        words = [f"{name} by {abs(p.difference):.4f} (sd {p.deviation:.4f})" for name, p in beyond]
        text += f" By more: {listed(words)}."
    return text


def _projections(found: Sequence[Outcome]) -> str:
    """How long the recipes would take that were not run, where a shorter one like it was."""
    lines = []
    for outcome in found:
        like = [other for other in found if _is_beginning(other, outcome)]
        if like and not outcome.ours:
            longest = max(like, key=lambda other: other.epochs)
            taken = seconds(longest.ours).mean
            each, rest = taken / longest.epochs, outcome.epochs - longest.epochs
            lines.append(
                f"- {outcome.recipe}, not run, would take about {duration(each * outcome.epochs)} "
                f"for its {outcome.epochs} epochs: {longest.recipe} takes {duration(taken)} for "
                f"{longest.epochs}, and {rest} more would be {duration(each * rest)}."
            )
    return "\n".join(lines)


def _is_beginning(other: Outcome, outcome: Outcome) -> bool:
    """Whether a recipe was run that is another one with a shorter schedule."""
    ones, others = (Unit(recipe=each.recipe).config for each in (outcome, other))
    same = replace(ones, schedule=others.schedule) == others
    return bool(other.ours) and same and other.epochs < outcome.epochs


def _judgement(outcome: Outcome) -> str:
    """A recipe in a line: how many of its epochs are as published."""
    differences = {epoch: outcome.difference(epoch) for epoch in outcome.published}
    good = sum(d <= BAND for d in differences.values())
    worst = max(differences, key=lambda epoch: differences[epoch])
    most = f", farthest above it after epoch {worst}: {signed(differences[worst], 3)}"
    return (
        f"{outcome.recipe}: {good} of {len(differences)} published epochs within {BAND:g} or better"
        f"{most if differences[worst] > 0 else ''}"
    )


def _epochs(outcome: Outcome) -> str:
    epochs = range(1, outcome.epochs + 1)
    shown = epochs if len(epochs) <= MOST_EPOCHS else sorted({*outcome.published, epochs[-1]})
    return table(EPOCH_HEADS, (_epoch(outcome, epoch) for epoch in shown))


def _epoch(outcome: Outcome, epoch: int) -> list[str]:
    known = epoch in outcome.published
    return [
        str(epoch),
        _published(outcome.published_train, epoch),
        f"{training(outcome.ours, epoch).mean:.4f}",
        _published(outcome.published, epoch),
        loss(validation(outcome.ours, epoch)),
        signed(outcome.difference(epoch)) if known else "",
        loss(validation(outcome.theirs, epoch)) if outcome.theirs else "",
        difference(apart(outcome.ours, outcome.theirs, epoch)),
    ]
