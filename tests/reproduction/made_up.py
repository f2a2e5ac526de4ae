"""Made-up results, and looking things up on their page."""

import json
import re

import numpy as np
from reproduction.findings import gather
from reproduction.page import page
from reproduction.results import FORMAT, result_path, weights_path, write_json
from reproduction.units import Unit, study_units

from jaxrnn import RECIPES
from jaxrnn.exchange.files import write_tensors

ROWS_PER_EPOCH = 10


def write_finished(
    folder, unit, validation, *, weights=0.0, norm=1.0, sample="for thos e", **found
):
    """A unit as if it had been trained.

    Args:
        folder: of the results.
        unit: what was trained.
        validation: the loss of each epoch; the training loss is 0.1 less.
        weights: what is added to the second of two tensors of ones.
        norm: of every gradient.
        sample: what the model writes.
        found: other fields of the results.
    """
    epochs = range(1, unit.epochs + 1)
    assert len(validation) == unit.epochs
    steps = [10 * row for row in range(1, ROWS_PER_EPOCH * unit.epochs + 1)]
    tensors = {"a": np.ones(4), "b": np.ones(9) + np.array([weights, *[0.0] * 8])}
    write_tensors(weights_path(folder, unit), tensors, {})
    standard = {
        "config": unit.config.to_dict(),
        "rows": [{"step": step, "gradient_norm": norm} for step in steps],
        "train": {str(e): loss - 0.1 for e, loss in zip(epochs, validation, strict=True)},
        "validation": {str(e): loss for e, loss in zip(epochs, validation, strict=True)},
        "seconds": 60.0 + unit.seed,
        "total_seconds": 70.0,
        "samples": [{"prompt": "for thos", "greedy": sample, "sampled": None}],
        "next": [{"prompt": "for thos", "next": "e"}, {"prompt": "part of ", "next": "h"}],
        "shared": None,
        "flow": [],
        "corpus_sha256": "ab" * 32,
    }
    described = {"format": FORMAT, "unit": unit.to_dict()}
    write_json(result_path(folder, unit), described | standard | found)


def published_and(recipe, add):
    """A loss for each epoch: as published, where it is, and `add` nats more."""
    losses, last = [], 2.0
    for epoch in range(1, Unit(recipe=recipe).epochs + 1):
        last = RECIPES[recipe].validation.get(epoch, last)
        losses.append(last + add)
    return losses


def write_both(folder, recipe, adds, *, torch=1e-6, dtype="float32"):
    """A recipe as published but for `adds`, one for each seed; PyTorch's are `torch` higher."""
    for seed, add in enumerate(adds):
        unit = Unit(recipe=recipe, seed=seed, dtype=dtype)
        write_finished(folder, unit, published_and(recipe, add), weights=torch)
        twin = Unit(recipe=recipe, seed=seed, dtype=dtype, framework="torch")
        none = {"samples": [], "next": []}
        write_finished(folder, twin, published_and(recipe, add + torch), **none)


def write_studies(folder):
    """Every unit of every study; the later ones are worse, and each seed by 0.01."""
    flow = [[0.9**k for k in range(100)], [1.1**k for k in range(100)]]
    for place, unit in enumerate(study_units()):
        loss = 2.0 + 0.05 * (place % 7) + 0.01 * unit.seed
        losses = [loss - 0.1 * epoch for epoch in range(unit.epochs)]
        none = {"samples": [], "next": []}
        probes = {"shared": loss, "flow": flow if unit.study == "identity" else []}
        write_finished(folder, unit, losses, norm=0.5 + place, **none, **probes)


def write_horizon(folder, dtype, jax_torch, torch_ulp):
    """What `horizon` writes."""
    steps = [1, 2, 5, *range(10, 10 * (len(jax_torch) - 2), 10)]
    found = {
        "format": 1,
        "recipe": "stateful-lstm",
        "dtype": dtype,
        "seed": 0,
        "config": {},
        "limit": 1e-6,
        "steps": steps,
        "jax_torch": jax_torch,
        "torch_ulp": torch_ulp,
        "horizon": {},
        "versions": {"python": "3.11"},
        "machine": {"cpu": "a CPU", "cores": 2},
        "date": "2026-01-01T00:00:00+00:00",
    }
    assert len(steps) == len(jax_torch) == len(torch_ulp)
    (folder / f"horizon-{dtype}.json").write_text(json.dumps(found))


def write_everything(folder):
    """Something for every part of the page."""
    for place, (name, recipe) in enumerate(RECIPES.items()):
        if recipe.validation and name != "stateful-lstm-63":
            write_both(folder, name, [0.01 * place - 0.05 + 0.004 * seed for seed in range(3)])
    for recipe in ("stateful-rnn", "stateful-gru"):
        write_both(folder, recipe, [0.0], torch=1e-13, dtype="float64")
    write_studies(folder)
    grown = [1e-15 * 2.2**k for k in range(40)]
    write_horizon(folder, "float64", grown, [3 * distance for distance in grown])
    write_horizon(folder, "float32", [1e8 * d for d in grown[:20]], [4e8 * d for d in grown[:20]])


def text_of(results):
    """The page of a folder of results."""
    return page(gather(results), "page")


def row(text, *begin):
    """The cells of the one row of a table that begins with these cells."""
    rows = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("|")]
    (found,) = [cells for cells in rows if tuple(cells[: len(begin)]) == begin]
    return found


def section(text, title):
    """What stands under a heading, up to the next one."""
    (found,) = re.findall(rf"^#+ {title}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    return found
