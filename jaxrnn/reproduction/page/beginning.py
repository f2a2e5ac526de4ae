"""The study of the LSTM's first epochs: one setting changed at a time, and the published losses."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxrnn.reproduction.page.markdown import loss, table
from jaxrnn.reproduction.page.records import Findings, Record
from jaxrnn.reproduction.page.statistics import spread, training, validation
from jaxrnn.reproduction.studies import STUDIES
from jaxrnn.runs.recipes import RECIPES, Recipe

STUDY = "beginning"
AS_IT_IS = "nothing"
"""What is changed in the recipe itself."""
ABOUT = """What comes of two epochs at a constant 1e-2 depends on every setting. Here one at a time
is changed, to see whether the course's run may have had another one than its notebook shows.
`from published` is the mean distance of the losses of a row from the published ones, without
sign."""


def answer(findings: Findings) -> list[str]:
    """What stands under the question."""
    found, recipe = _variants(findings), _recipe()
    epochs = sorted(recipe.validation)
    rows = [_row(changed, records, epochs) for changed, records in found.items()]
    published = [f"{losses[e]:.3f}" for e in epochs for losses in (recipe.train, recipe.validation)]
    heads = ["changed", *(f"{name} after epoch {e}" for e in epochs for name in ("train", "val"))]
    shown = table([*heads, "from published"], [["published", *published, ""], *rows])
    return [ABOUT, shown, _nearest(found)]


def distance(records: Sequence[Record]) -> float:
    """The mean over seeds, epochs, training and validation of |loss - published|."""
    recipe = _recipe()
    return spread(
        abs(ours[epoch] - published[epoch])
        for record in records
        for ours, published in (
            (record.train, recipe.train),
            (record.validation, recipe.validation),
        )
        for epoch in published
    ).mean


def _recipe() -> Recipe:
    (name,) = STUDIES[STUDY].recipes
    return RECIPES[name]


def _variants(findings: Findings) -> dict[str, list[Record]]:
    """The records of what has been run, by what is changed; the recipe itself first."""
    (recipe,) = STUDIES[STUDY].recipes
    found = {AS_IT_IS: findings.of(recipe)}
    for changes in STUDIES[STUDY].changes:
        found[_named(changes)] = findings.of_study(STUDY, recipe, changes)
    return {changed: records for changed, records in found.items() if records}


def _named(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in changes.items())


def _row(changed: str, records: Sequence[Record], epochs: Sequence[int]) -> list[str]:
    losses = [loss(of(records, epoch)) for epoch in epochs for of in (training, validation)]
    return [changed, *losses, f"{distance(records):.3f}"]


def _nearest(found: Mapping[str, Sequence[Record]]) -> str:
    """Which setting comes nearest to the published losses."""
    far = {changed: distance(records) for changed, records in found.items()}
    nearest = min(far, key=far.__getitem__)
    if nearest == AS_IT_IS:
        return f"None comes nearer than the recipe as it is ({far[nearest]:.3f} nats)."
    recipe = f"; the recipe as it is, {far[AS_IT_IS]:.3f}" if AS_IT_IS in far else ""
    return f"Nearest comes `{nearest}`, {far[nearest]:.3f} nats in the mean{recipe}."
