"""What moves the numbers, in sentences computed from the results."""

from collections.abc import Iterator

from jaxrnn.reproduction.page.markdown import listed, signed
from jaxrnn.reproduction.page.questions import (
    bptt_variants,
    carry_variants,
    identity_variants,
    initialization,
    split_differences,
)
from jaxrnn.reproduction.page.records import Findings, Record
from jaxrnn.reproduction.page.statistics import (
    BAND,
    Outcome,
    apart,
    outcomes,
    seconds,
    validation,
)
from jaxrnn.reproduction.units import Unit
from jaxrnn.runs.recipes import RECIPES


def section(findings: Findings) -> str:
    """The notes as a list; empty where there is nothing to say yet."""
    parts = (_published, _seeds, _chaos, _split, _carry, _bptt, _identity, _time)
    lines = [f"- {sentence}" for part in parts for sentence in part(findings)]
    return "\n\n".join(["## What moves the numbers", "\n".join(lines)]) if lines else ""


def _published(findings: Findings) -> Iterator[str]:
    """Recipes that end outside the band, and where the course's one run lies among our seeds."""
    for outcome in outcomes(findings):
        if not outcome.ours or abs(by := outcome.difference()) <= BAND:
            continue
        last = [record.last for record in outcome.ours]
        above = sum(loss > outcome.published[outcome.epochs] for loss in last)
        way = "worse" if by > 0 else "better"
        yield (
            f"{outcome.recipe} ends {abs(by):.3f} nats {way} than published: its seeds lie between "
            f"{min(last):.4f} and {max(last):.4f}, {above} of {len(last)} above the published "
            f"{outcome.published[outcome.epochs]:.3f}. {_after_epochs(outcome)}"
        )


def _after_epochs(outcome: Outcome) -> str:
    """How the difference came about, epoch by epoch."""
    differences = [signed(outcome.difference(epoch), 3) for epoch in outcome.published]
    return f"From published, epoch by epoch: {', '.join(differences)}."


def _seeds(findings: Findings) -> Iterator[str]:
    """Between which recipes' seeds there is most and least."""
    found = {o.recipe: validation(o.ours).deviation for o in outcomes(findings) if o.ours}
    known = {recipe: value for recipe, value in found.items() if value is not None}
    if len(known) > 1:
        most, least = max(known, key=known.__getitem__), min(known, key=known.__getitem__)
        yield (
            f"The standard deviation between the seeds of a recipe lies between {known[least]:.4f} "
            f"({least}) and {known[most]:.4f} ({most}) nats at the end."
        )
    for outcome in outcomes(findings):
        if known.get(outcome.recipe, 0) > BAND:
            last = [f"{record.last:.3f}" for record in outcome.ours]
            yield f"{outcome.recipe} depends on the seed: its seeds end at {listed(last)}."


def _chaos(findings: Findings) -> Iterator[str]:
    """Where JAX and PyTorch part most, and where least."""
    found: dict[str, float] = {}
    for start in findings.starts:
        judged = RECIPES[start.recipe].validation and not Unit(recipe=start.recipe).config.dropout
        if start.dtype == "float32" and judged:
            found[start.recipe] = max(found.get(start.recipe, 0), start.pair.farthest)
    if len(found) > 1:
        most, least = max(found, key=found.__getitem__), min(found, key=found.__getitem__)
        yield (
            "Round-off alone, from the same weights and windows in float32, moves a validation "
            f"loss by up to {found[least]:.1e} ({least}) to {found[most]:.1e} ({most}) nats."
        )


def _split(findings: Findings) -> Iterator[str]:
    """What the random split hides."""
    differences = split_differences(findings)
    words = [f"{recipe} {signed(by.difference, 3)}" for recipe, (_, by) in differences.items()]
    if words:
        yield (
            "Not to have read the text around the windows that are judged moves their loss by: "
            f"{listed(words)}."
        )


def _carry(findings: Findings) -> Iterator[str]:
    """What other policies cost."""
    found = carry_variants(findings)
    usual = found.pop("never", [])
    moves = {policy: apart(records, usual) for policy, records in found.items()}
    words = [f"{policy} {signed(by.difference)}" for policy, by in moves.items() if by]
    if words:
        yield f"A carry that starts from zeros moves val by: {listed(words)}."


def _bptt(findings: Findings) -> Iterator[str]:
    """Which length is best."""
    last = {bptt: validation(records).mean for bptt, records in bptt_variants(findings).items()}
    if len(last) > 1:
        best, worst = min(last, key=last.__getitem__), max(last, key=last.__getitem__)
        yield (
            f"For the same characters read, windows of {best} end best ({last[best]:.4f}) and of "
            f"{worst} worst ({last[worst]:.4f})."
        )


def _identity(findings: Findings) -> Iterator[str]:
    """What identity initialisation gives at each rate, in loss and in gradient norm."""
    by_schedule: dict[str, dict[str, list[Record]]] = {}
    for changes, records in identity_variants(findings):
        by_schedule.setdefault(changes["schedule"], {})[initialization(changes)] = records
    for schedule, found in by_schedule.items():
        if len(found) < 2:
            continue
        by = apart(found["identity"], found["default"])
        largest = {k: max(n for r in records for _, n in r.norms) for k, records in found.items()}
        if by is not None:
            yield (
                f"Identity initialisation, {schedule}: val {signed(by.difference, 3)} from the "
                f"default's; the largest gradient norm is {largest['identity']:.2g}, the "
                f"default's {largest['default']:.2g}."
            )


def _time(findings: Findings) -> Iterator[str]:
    """How long ours and PyTorch take."""
    words = []
    for outcome in outcomes(findings):
        if outcome.ours and outcome.theirs:
            ours, theirs = (seconds(records).mean for records in (outcome.ours, outcome.theirs))
            words.append(f"{outcome.recipe} {theirs / ours:.2f}")
    if words:
        yield (
            f"PyTorch's time as a multiple of ours: {listed(words)}. Several runs shared the "
            "machine, so this is no benchmark."
        )
