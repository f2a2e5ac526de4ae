"""What the course does not say: the studies, each a question with a table for its answer."""

from collections.abc import Callable, Mapping, Sequence
from statistics import geometric_mean
from typing import Any

from jaxrnn.reproduction.page import beginning
from jaxrnn.reproduction.page.commands import studies_command
from jaxrnn.reproduction.page.markdown import (
    difference,
    duration,
    image,
    loss,
    not_run,
    power,
    signed,
    table,
)
from jaxrnn.reproduction.page.records import Findings, Record
from jaxrnn.reproduction.page.statistics import (
    Apart,
    apart,
    seconds,
    shared,
    shared_apart,
    spread,
    validation,
)
from jaxrnn.reproduction.probes import ROWS, STEPS_BACK
from jaxrnn.reproduction.studies import STUDIES
from jaxrnn.reproduction.units import Unit

BPTT_PICTURE = "bptt.png"
NORMS_PICTURE = "gradient-norms.png"
FLOW_PICTURE = "gradient-flow.png"
BACK = (8, 32, 100)
"""Steps back that the table of the flowing gradient shows."""
SPLIT = """A window that starts at every character shares all but one of its {bptt} characters with
the next one. Split at random, a validation window therefore has neighbours in training that hold
the same characters, the one to be predicted among them: the model is judged on text it has read.
The contiguous split validates on the last fifth of the text, of which training reads nothing. That
fifth is easier or harder than the whole, so the two validation losses cannot be compared; here both
models are judged on the same windows, those that both splits hold out. The difference
is what it is worth to have read the text around them. Where windows do not overlap, that is its
names and subjects; where they do, the very characters as well."""
CARRY = """The carry flows from window to window. The course never sets it back to zeros
(`never`); `epoch` does so at the beginning of each epoch and before each validation, `evaluation`
before each validation alone, and then goes on with the carry of training."""
BPTT = """Windows of a fixed length; the carry flows on between them, and gradients flow back to
the beginning of the window. An epoch reads the same {millions:.3f} million characters whatever
the length, so shorter windows make more updates of fewer characters each."""
IDENTITY = """The recurrent weight as the identity, or as PyTorch draws it, at the course's two
learning rates. The norm is that of the whole gradient, before any clipping (there is none), as the
mean of a tenth of an epoch; in the figure, thin lines are seeds, the thick ones their geometric
mean."""
FLOW = """What lies behind it: the gradient of one character's loss with respect to the hidden
state of each step before the last, |d loss / d h|, mean over {rows} places in the text, up to
{back} steps back. Every step multiplies it by the recurrent weight and by the slope of the tanh.
Where they shrink it, a loss teaches nothing about characters long past; where they let it grow
with every step, it explodes. Training itself cuts it off after {bptt} characters."""


def section(findings: Findings) -> str:
    """All studies."""
    parts = {
        "split": ("The leak of overlapping windows", _split),
        "carry": ("When the carry starts from zeros", _carry),
        "bptt": ("How far back gradients flow", _bptt),
        "identity": ("Identity initialisation", _identity),
        "beginning": ("The LSTM's first two epochs", beginning.answer),
    }
    pieces = ["## What the course does not say"]
    for name, (title, body) in parts.items():
        pieces += [f"### {title}", f"{STUDIES[name].question}", *_answer(findings, name, body)]
    return "\n\n".join(pieces)


def _answer(findings: Findings, name: str, body: Callable[[Findings], list[str]]) -> list[str]:
    study = STUDIES[name]
    wanted = [(recipe, changes) for recipe in study.recipes for changes in study.changes]
    found = [bool(findings.of_study(name, *which)) for which in wanted]
    pieces = body(findings) if any(found) else []
    return pieces if all(found) else [*pieces, not_run(studies_command(name))]


def split_differences(findings: Findings) -> dict[str, tuple[str, Apart]]:
    """What each model reads, and its loss on the shared windows: contiguous minus random split."""
    found = {}
    for recipe in STUDIES["split"].recipes:
        moved, usual = _of_splits(findings, recipe)
        by = shared_apart(moved, usual)
        if by is not None:
            found[recipe] = (_reads(moved[0]), by)
    return found


def _of_splits(findings: Findings, recipe: str) -> tuple[list[Record], list[Record]]:
    """The records of the contiguous and of the random split that can be compared."""
    (changes,) = STUDIES["split"].changes
    moved, usual = findings.of_study("split", recipe, changes), findings.of(recipe)
    seeds = {record.unit.seed for record in moved}
    return moved, [r for r in usual if r.unit.seed in seeds and r.shared is not None]


def _reads(record: Record) -> str:
    return record.unit.config.make_model(1).reads


def _split(findings: Findings) -> list[str]:
    rows, bptts = [], set[str]()
    for recipe in STUDIES["split"].recipes:
        moved, usual = _of_splits(findings, recipe)
        if moved and usual:
            bptts.add(str(moved[0].unit.config.bptt))
            own = [loss(validation(records)) for records in (usual, moved)]
            both = [loss(shared(records)) for records in (usual, moved)]
            cells = [recipe, _reads(moved[0]), *own, *both]
            rows.append([*cells, difference(shared_apart(moved, usual))])
    heads = ["recipe", "windows", "random split, val", "contiguous split, val"]
    heads += ("random, shared windows", "contiguous, shared windows", "difference")
    about = SPLIT.format(bptt=" or ".join(sorted(bptts)))
    return [about, table(heads, rows, words=2), _leak(findings)] if rows else []


def _leak(findings: Findings) -> str:
    """What is left of the difference when that of the subjects is taken away."""
    found = split_differences(findings).values()
    overlapping = [by.difference for reads, by in found if reads == "overlapping"]
    apart_from = [by.difference for reads, by in found if reads == "non-overlapping"]
    if not overlapping or not apart_from:
        return ""
    leak, text = spread(overlapping).mean, spread(apart_from).mean
    return (
        f"In the mean over the recipes, the model of the contiguous split is {signed(leak, 3)} "
        f"nats from that of the random one where windows overlap, and {signed(text, 3)} where "
        f"they do not: the overlap itself makes {signed(leak - text, 3)} nats."
    )


def carry_variants(findings: Findings) -> dict[str, list[Record]]:
    """The records of each policy that has been run, the course's first."""
    (recipe,) = STUDIES["carry"].recipes
    found = {"never": findings.of(recipe)}
    for changes in STUDIES["carry"].changes:
        found[changes["carry"]] = findings.of_study("carry", recipe, changes)
    return {policy: records for policy, records in found.items() if records}


def _carry(findings: Findings) -> list[str]:
    found = carry_variants(findings)
    rows = []
    for policy, records in found.items():
        first, last = validation(records, 1), validation(records)
        by = apart(records, found["never"]) if "never" in found and policy != "never" else None
        rows.append([policy, loss(first), loss(last), difference(by)])
    epochs = next(iter(found.values()))[0].unit.epochs
    heads = ("carry", "val after epoch 1", f"val after epoch {epochs}", "difference to never")
    return [CARRY, table(heads, rows)]


def bptt_variants(findings: Findings) -> dict[int, list[Record]]:
    """The records of each length that has been run."""
    (recipe,) = STUDIES["bptt"].recipes
    found = {c["bptt"]: findings.of_study("bptt", recipe, c) for c in STUDIES["bptt"].changes}
    return {bptt: records for bptt, records in found.items() if records}


def characters_per_epoch(found: Mapping[int, Sequence[Record]]) -> float:
    """The characters that an epoch of any length trains on.

    All windows have the same length but the last, which has what is left: the smallest of
    windows times length is nearest to it, and less than one short window above it.
    """
    ones = [records[0] for records in found.values()]
    each = (one.steps / one.unit.epochs * one.unit.config.bptt for one in ones)
    return min(each) * ones[0].unit.config.batch


def _bptt(findings: Findings) -> list[str]:
    found = bptt_variants(findings)
    rows = []
    for bptt, records in found.items():
        one = records[0]
        updates = f"{one.steps / one.unit.epochs:.0f}"
        losses = [loss(validation(records, epoch)) for epoch in one.validation]
        rows.append([str(bptt), updates, *losses, duration(seconds(records).mean)])
    epochs = max(records[0].unit.epochs for records in found.values())
    heads = ["bptt", "updates an epoch"]
    heads += [f"val after epoch {epoch}" for epoch in range(1, epochs + 1)]
    picture = image(BPTT_PICTURE, "validation loss against characters read, by bptt")
    about = BPTT.format(millions=characters_per_epoch(found) / 1e6)
    return [about, table([*heads, "a run takes"], rows), picture]


def identity_variants(findings: Findings) -> list[tuple[Mapping[str, Any], list[Record]]]:
    """The changes of the study that have been run, and their records."""
    (recipe,) = STUDIES["identity"].recipes
    changes = STUDIES["identity"].changes
    found = [(each, findings.of_study("identity", recipe, each)) for each in changes]
    return [(each, records) for each, records in found if records]


def initialization(changes: Mapping[str, Any]) -> str:
    """What a variant starts from, in a word."""
    return "identity" if changes["identity"] else "default"


def _identity(findings: Findings) -> list[str]:
    rows = []
    for changes, records in identity_variants(findings):
        norms = [norm for record in records for _, norm in record.norms]
        losses = [loss(validation(records, epoch)) for epoch in records[0].validation]
        median = sorted(norms)[len(norms) // 2]
        cells = [initialization(changes), changes["schedule"], *losses]
        rows.append([*cells, f"{median:.2g}", f"{max(norms):.2g}"])
    epochs = identity_variants(findings)[0][1][0].unit.epochs
    heads = ["initialisation", "schedule", *(f"val after epoch {e}" for e in range(1, epochs + 1))]
    heads += ["gradient norm, median", "largest"]
    return [
        IDENTITY,
        table(heads, rows, words=2),
        image(NORMS_PICTURE, "gradient norm against training steps"),
        *_flow(findings),
    ]


def _flow(findings: Findings) -> list[str]:
    """How the gradient fares on its way back through time."""
    rows = []
    for changes, records in identity_variants(findings):
        for place, when in enumerate(("start", "end")):
            flows = [record.flow[place] for record in records if record.flow]
            if flows:
                shares = [
                    geometric_mean(flow[back - 1] / flow[0] for flow in flows) for back in BACK
                ]
                cells = [when, initialization(changes), changes["schedule"]]
                rows.append([*cells, *map(power, shares)])
    if not rows:
        return []
    (recipe,) = STUDIES["identity"].recipes
    about = FLOW.format(rows=ROWS, back=STEPS_BACK, bptt=Unit(recipe=recipe).config.bptt)
    heads = ["training's", "initialisation", "schedule"]
    heads += [f"{back} steps back" for back in BACK]
    picture = image(FLOW_PICTURE, "norm of the gradient against steps back")
    relative = "Relative to the norm one step back, geometric mean of the seeds:"
    return [about, relative, table(heads, rows, words=3), _growth(findings), picture]


def _growth(findings: Findings) -> str:
    """Whether the gradient grows on its way back, anywhere."""
    growth = {
        f"{initialization(changes)}, {changes['schedule']}": max(norms) / norms[0]
        for changes, records in identity_variants(findings)
        for record in records
        for norms in record.flow
    }
    most = max(growth, key=growth.__getitem__)
    if growth[most] <= 1:
        return (
            "In none of these networks is it ever larger than one step back: here gradients "
            "vanish, they do not explode."
        )
    return f"Farthest it grows in {most}: to {growth[most]:.2g} times what it is one step back."
