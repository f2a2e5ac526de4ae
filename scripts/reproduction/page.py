"""Write the page: README.md from `page.md.jinja`, the figures and results.json, from one source."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from jaxrnn.files import read_regular, write_whole
from jaxrnn.output import check_output_folder
from jaxrnn.runs.recipes import RECIPES
from jaxrnn.runs.statistics import Spread, spread
from jaxrnn.terminal import printable
from reproduction import pictures, studies
from reproduction.findings import RESULTS, Findings, Horizon, arranged, gather, of_page
from reproduction.measures import COURSE_ANSWERS, PLACES, STEPS_BACK
from reproduction.results import LARGEST_FILE, Pair, Record
from reproduction.statistics import (
    Apart,
    Outcome,
    apart,
    outcomes,
    shared,
    training,
    validation,
)
from reproduction.units import STUDIES, Unit

PAGE = "README.md"
COMMAND = "./scripts/reproduce"
MARK = f"<!-- Written by {COMMAND} --page: changes by hand are lost. -->"
"""The first line of a page, by which one that may be replaced is known."""
OLD_MARK = "<!-- Written by jaxrnn reproduce --page: changes by hand are lost. -->"
BAND = 0.02
"""Nats: what the project promises of the mean over the seeds."""
SMALL = 1e-4
"""Nats: differences below it are shown as powers of ten."""
LONG = 15
"""Epochs from which on a recipe takes hours."""
COURSE_SAMPLE = ("rnn", "for those the same the same the same ...")
"""The recipe of which the course printed a text, and what it begins with."""


def check_place(folder: Path) -> None:
    """Make the folder of a page, and refuse one that holds somebody else's README.md.

    Raises:
        ValueError: if the page cannot be written there.
    """
    path = folder / PAGE
    check_output_folder(folder, (PAGE, RESULTS, "*.png"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = read_regular(path, at_most=LARGEST_FILE).decode(errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise ValueError(f"Cannot write a page to {folder}: {error.strerror}.") from error
    if not text.startswith((MARK, OLD_MARK)):
        raise ValueError(f"{path} is no page of results: name another folder.")


def write_page(results: Path, folder: Path) -> Path:
    """Write the page of all that is finished, and give its file.

    What a page in this folder has on it already, and the results have not, stays on it: so a page
    can grow on several machines.

    Args:
        results: the folder of the results.
        folder: of the page; it is made if it is not there.

    Raises:
        ValueError: if nothing is finished, a result is damaged, or the page cannot be written.
    """
    check_place(folder)
    found = gather(results)
    if (folder / RESULTS).exists():
        old = of_page(folder / RESULTS)
        found = arranged(
            [*old.records, *found.records],
            [*old.pairs, *found.pairs],
            [*old.horizons, *found.horizons],
        )
    pictures.draw(found, folder)
    write_whole(folder / RESULTS, found.to_json().encode())
    write_whole(folder / PAGE, page(found, folder.as_posix()).encode())
    return folder / PAGE


def page(findings: Findings, folder: str) -> str:
    """The page as Markdown.

    Args:
        findings: what is on it.
        folder: of the page, as its commands name it.
    """
    views = (_losses, _starts, _studies, _texts, _notes)
    values = _heading(findings, folder)
    for view in views:
        values |= view(findings)
    return _template("page.md.jinja").render(f=findings, recipes=RECIPES, **values).rstrip() + "\n"


def outcome_text(outcome: Outcome, pairs: Sequence[Pair]) -> str:
    """Results beside the published losses, epoch by epoch, as Markdown for a terminal."""
    values = {"off": outcome.differences if outcome.ours else {}, "pairs": pairs}
    return _template("outcome.md.jinja").render(o=outcome, **values)


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown: texts go through `escaped`, `inline`, `fenced`, `quoted`
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    environment.globals |= {"val": validation, "train": training, "shared": shared}
    environment.globals |= {"spread": spread, "apart": _apart, "together": _together}
    return environment.get_template(name)


def _apart(ones: Sequence[Record], others: Sequence[Record], epoch: int | None = None) -> Any:
    return apart(ones, others, lambda records: validation(records, epoch))


def _together(horizon: Horizon, distances: Sequence[float]) -> str:
    """For how many steps two runs are together."""
    place = horizon.first_apart(distances)
    if place == 0:
        return f"less than {horizon.steps[0]} step"
    steps = horizon.steps[-1] if place is None else horizon.steps[place - 1]
    return f"{'all ' if place is None else ''}{steps} {'step' if steps == 1 else 'steps'}"


def _heading(findings: Findings, folder: str) -> dict[str, Any]:
    records = findings.records
    days = sorted(escaped(record.date[:10]) for record in records)
    places = findings.environments
    versions = [
        ", ".join(f"{escaped(name)} {escaped(v)}" for name, v in place["versions"].items())
        for place in places
    ]
    machines = [f"{escaped(place['cpu'])}, {place['cores']} cores" for place in places]
    return {
        "mark": MARK,
        "days": _distinct([days[0], days[-1]]),
        "ours": [record for record in records if record.unit.framework == "jax"],
        "theirs": [record for record in records if record.unit.framework == "torch"],
        "machines": _distinct(machines),
        "versions": _distinct(versions),
        "texts": _distinct([inline(record.corpus_sha256) for record in records]),
        "commands": [*training_commands(findings), f"{COMMAND} --no-train --page {folder}"],
        "missing": missing_commands(findings),
    }


def _distinct(values: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _losses(findings: Findings) -> dict[str, Any]:
    found = outcomes(findings)
    run = [outcome for outcome in found if outcome.ours]
    pairs = [(o, o.apart) for o in run if o.theirs]
    judged = [(o, by, by.deviation) for o, by in pairs if by and by.deviation is not None]
    unvalidated = [
        name for name, recipe in RECIPES.items() if recipe.train and not recipe.validation
    ]
    return {
        "band": BAND,
        "outcomes": found,
        "run": run,
        "missed": [outcome for outcome in run if outcome.difference > BAND],
        "judged": judged,
        "beyond": [o for o, by, deviation in judged if abs(by.difference) >= deviation],
        "unvalidated": [name for name in unvalidated if findings.of(name)],
    }


def _starts(findings: Findings) -> dict[str, Any]:
    found = studies.starts(findings)
    return {
        "starts": found,
        "promised": [start for start in found if start["promised"]],
        "promises": len(studies.PROMISED) * len(studies.LIMITS),
    }


def _studies(findings: Findings) -> dict[str, Any]:
    bptt = studies.variants(findings, "bptt")
    identity = studies.initializations(findings)
    beginning = studies.variants(findings, "beginning", "nothing")
    units = {name: Unit(recipe=study.recipes[0]) for name, study in STUDIES.items()}
    return {
        "split": studies.splits(findings),
        "carry": studies.variants(findings, "carry", "never"),
        "bptt": bptt,
        "characters": studies.characters_per_epoch(bptt) if bptt else 0.0,
        "identity": identity,
        "flow": studies.flow_shares(identity),
        "flow_places": PLACES,
        "flow_length": STEPS_BACK,
        "flow_bptt": units["identity"].config.bptt,
        "steps_back": studies.STEPS_BACK,
        "growth": studies.growth(identity),
        "beginning": beginning,
        "cells": studies.cells(findings),
        "lstm": RECIPES[units["beginning"].recipe],
        "distances": studies.distances(beginning),
    }


def _texts(findings: Findings) -> dict[str, Any]:
    samples = {}
    answers = []
    for name in RECIPES:
        records = findings.of(name)
        prompts = COURSE_ANSWERS[Unit(recipe=name).config.make_model(1).reads]
        if records and records[0].sample:
            samples[name] = records[0]
        for prompt, course in prompts.items():
            given = [record.answers[prompt] for record in records if prompt in record.answers]
            answer = {"recipe": name, "prompt": prompt, "course": course, "given": given}
            if given:
                answers.append(answer | {"same": given.count(course)})
    return {
        "samples": samples,
        "course_sample": COURSE_SAMPLE,
        "answers": answers,
    }


def _notes(findings: Findings) -> dict[str, Any]:
    run = [outcome for outcome in outcomes(findings) if outcome.ours]
    deviations = {outcome.recipe: validation(outcome.ours).deviation for outcome in run}
    starts = [s for s in studies.starts(findings) if s["dtype"] == "float32" and not s["drops"]]
    carry = studies.variants(findings, "carry", "never")
    moves = {policy: apart(records, carry.get("never", [])) for policy, records in carry.items()}
    bptt = studies.variants(findings, "bptt")
    ones = {(one.schedule, one.start): one for one in studies.initializations(findings)}
    both = [(one, ones.get((one.schedule, "default"))) for one in ones.values()]
    compared = [(one, other, apart(one.records, other.records)) for one, other in both if other]
    return {
        "deviations": {name: d for name, d in deviations.items() if d is not None},
        "round_off": {start["recipe"]: start["validation"] for start in starts},
        "moves": {policy: by for policy, by in moves.items() if by and policy != "never"},
        "bptt_ends": {length: validation(records).mean for length, records in bptt.items()},
        "compared": [(one, other, by) for one, other, by in compared if by and one is not other],
    }


def training_commands(findings: Findings) -> list[str]:
    """What trains the units on the page; those that are done are not trained again."""
    units = [record.unit for record in findings.records]
    groups: dict[str, list[str]] = {}
    for recipe, dtype in dict.fromkeys((u.recipe, u.dtype) for u in units if not u.study):
        same = [u for u in units if (u.recipe, u.dtype, u.study) == (recipe, dtype, "")]
        frameworks = sorted({unit.framework for unit in same})
        framework = "both" if len(frameworks) > 1 else frameworks[0]
        flags = f"--seeds {1 + max(unit.seed for unit in same)}"
        flags += f" --framework {framework}" if framework != "jax" else ""
        flags += f" --dtype {dtype}" if dtype != "float32" else ""
        groups.setdefault(flags, []).append(recipe)
    commands = [f"{COMMAND} {' '.join(recipes)} {flags}" for flags, recipes in groups.items()]
    names = dict.fromkeys(unit.study for unit in units if unit.study)
    recipes = dict.fromkeys(recipe for name in names for recipe in STUDIES[name].recipes)
    commands += [f"{COMMAND} {' '.join(recipes)} --studies"] if recipes else []
    return commands + [
        f"{COMMAND} horizon --recipe {horizon.recipe} --dtype {horizon.dtype} "
        f"--steps {horizon.steps[-1]} --seed {horizon.seed}"
        for horizon in findings.horizons
    ]


def missing_commands(findings: Findings) -> list[str]:
    """What trains what could be on the page and is not: recipes that take hours each alone."""
    missing = [outcome.unit for outcome in outcomes(findings) if not outcome.ours]
    short = " ".join(unit.recipe for unit in missing if unit.epochs < LONG)
    long = [unit.recipe for unit in missing if unit.epochs >= LONG]
    commands = [f"{recipes} --framework both" for recipes in (short, *long) if recipes]
    have = {(pair.recipe, pair.dtype) for pair in findings.pairs}
    double = " ".join(recipe for recipe in studies.PROMISED if (recipe, "float64") not in have)
    commands += [f"{double} --seeds 1 --framework both --dtype float64"] if double else []
    for name, study in STUDIES.items():
        wanted = [(recipe, changes) for recipe in study.recipes for changes in study.changes]
        if not all(findings.of_study(name, *which) for which in wanted):
            commands.append(f"{' '.join(study.recipes)} --studies")
    followed = {horizon.dtype for horizon in findings.horizons}
    commands += [f"horizon --dtype {dtype}" for dtype in studies.LIMITS if dtype not in followed]
    return [f"{COMMAND} {command}" for command in dict.fromkeys(commands)]


def fenced(text: str) -> str:
    """A text of several lines as it is."""
    fence = "`" * (1 + max(2, _longest_run(text)))
    return f"{fence}text\n{text.rstrip()}\n{fence}"


def quoted(text: str) -> str:
    """A short text in quotes, as code, also in a table."""
    shown = json.dumps(text, ensure_ascii=False).replace("|", "\\|")
    fence = "`" * (1 + _longest_run(shown))
    return f"{fence}{shown}{fence}"


def escaped(text: str) -> str:
    """A text from a file as words of a paragraph: it is no Markdown and no HTML, and one line."""
    shown = printable(" ".join(text.split()))
    # After a backslash, Markdown takes any punctuation as it is; "<" and "&" begin HTML elsewhere.
    shown = re.sub(r"([\\`*_{}\[\]|~$])", r"\\\1", shown)
    # So that nothing becomes a link by itself.
    shown = shown.replace("://", ":\\//")
    return html.escape(shown, quote=False)


def inline(text: str) -> str:
    """A text from a file as code within a paragraph."""
    shown = printable(" ".join(text.split())) or " "
    fence = "`" * (1 + _longest_run(shown))
    blank = " " if "`" in (shown[0], shown[-1]) else ""
    return f"{fence}{blank}{shown}{blank}{fence}"


def _longest_run(text: str) -> int:
    """How many backticks follow each other in a text at most."""
    longest = 0
    while "`" * (longest + 1) in text:
        longest += 1
    return longest


def loss(found: Spread) -> str:
    """A loss as 1.4868 ± 0.0041 (3), with the number of seeds."""
    deviation = "" if found.deviation is None else f" ± {found.deviation:.4f}"
    return f"{found.mean:.4f}{deviation} ({found.seeds})"


def signed(number: float, digits: int = 4) -> str:
    """A number with its sign."""
    return f"{number:+.{digits}f}"


def difference(found: Apart | None) -> str:
    """A difference, and the deviation between seeds that it is to be compared with."""
    if found is None:
        return ""
    by = found.difference
    number = f"{by:+.0e}" if 0 < abs(by) < SMALL else signed(by)
    return number + ("" if found.deviation is None else f" (sd {found.deviation:.4f})")


def verdict(difference: float) -> str:
    """What a difference to the published loss means."""
    if abs(difference) <= BAND:
        return f"within {BAND:g}"
    return f"{'**misses** by' if difference > 0 else 'better by'} {abs(difference):.3f}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.{0 if seconds > 1200 else 1}f} min"
    return f"{seconds / 3600:.1f} h"


def listed(words: Sequence[str]) -> str:
    """Words with commas, and `and` before the last."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _mean_apart(splits: Sequence[Mapping[str, Any]]) -> float:
    """The mean difference of recipes on the two splits."""
    return spread(split["apart"].difference for split in splits).mean


def _comma(loop: Any) -> str:
    """What stands before an element of a list in a loop."""
    return "" if loop.first else " and" if loop.last else ","


def _extremes(values: Mapping[Any, float]) -> tuple[Any, Any]:
    """The keys of the smallest and of the largest value."""
    return min(values, key=lambda key: values[key]), max(values, key=lambda key: values[key])


FILTERS: dict[str, Any] = {
    "comma": _comma,
    "difference": difference,
    "duration": duration,
    "escaped": escaped,
    "extremes": _extremes,
    "fenced": fenced,
    "fixed": "{:.4f}".format,
    "general": "{:g}".format,
    "limit": lambda limit: "-" if limit == float("inf") else f"{limit:.0e}",
    "listed": listed,
    "loss": loss,
    "mean_apart": _mean_apart,
    "power": lambda number: f"{number:.1e}" if number else "0",
    "published": lambda loss: "-" if loss is None else f"{loss:.3f}",
    "quoted": quoted,
    "short": "{:.2g}".format,
    "signed": signed,
    "verdict": verdict,
}
