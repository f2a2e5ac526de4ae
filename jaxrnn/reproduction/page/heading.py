"""The head of the page: what it is, and what, where and when it was made with."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from jaxrnn.reproduction.page.commands import training_commands
from jaxrnn.reproduction.page.markdown import COMMAND, duration, escaped, inline, listed
from jaxrnn.reproduction.page.records import Environment, Findings, Record

TITLE = "# The course's losses, reproduced"
ABOUT = """The recipes of fast.ai's lessons 6 and 7 ("Deep Learning 2, part 1", character models on
Nietzsche), trained again with jaxrnn from several seeds; beside them the losses that the course
printed, and the same models in PyTorch from the same initial weights, windows and learning rates.
Losses are nats per character. `train` is an exponential average over steps, as fastai shows it;
`val` is the mean over the validation text. "±" is the standard deviation between seeds (of a
sample), with the number of seeds behind it in parentheses. The course ran each recipe once."""


def heading(findings: Findings, folder: str) -> str:
    """The head.

    Args:
        findings: what is on the page.
        folder: of the page, as the commands name it.
    """
    facts = "\n".join(f"- {fact}" for fact in _facts(findings))
    commands = [*training_commands(findings), f"{COMMAND} --no-train --page {folder}"]
    again = "\n".join(commands)
    return (
        f"{TITLE}\n\n{ABOUT}\n\n{facts}\n\n"
        "Made by these commands; what is finished is not trained again, so they can be stopped and "
        f"repeated. The last one writes this page:\n\n```console\n{again}\n```"
    )


def _facts(findings: Findings) -> list[str]:
    records = findings.records
    places = [r.environment for r in records] + [h.environment for h in findings.horizons]
    days = sorted({escaped(record.date[:10]) for record in records})
    return [
        f"Trained {' to '.join(dict.fromkeys((days[0], days[-1])))}.",
        f"{len(records)} runs, {duration(sum(r.seconds for r in records))} of training and "
        f"validation in all, compilation left out{_by_framework(records)}.",
        f"Machine: {listed(_distinct(places, _machine))}.",
        f"Versions: {'; and '.join(_distinct(places, _versions))}.",
        f"Text, sha256: {listed(_distinct(records, _sha256))}.",
        "Every measured number of this page is computed from [results.json](results.json).",
    ]


def _by_framework(records: Sequence[Record]) -> str:
    ours = sum(r.seconds for r in records if r.unit.framework == "jax")
    theirs = sum(r.seconds for r in records if r.unit.framework == "torch")
    return f" (jaxrnn {duration(ours)}, PyTorch {duration(theirs)})" if theirs else ""


def _machine(place: Environment) -> str:
    return f"{escaped(place.cpu)}, {place.cores} cores"


def _versions(place: Environment) -> str:
    found = place.versions.items()
    return ", ".join(f"{escaped(name)} {escaped(number)}" for name, number in found)


def _sha256(record: Record) -> str:
    return inline(record.corpus_sha256)


def _distinct(values: Sequence[Any], key: Callable[[Any], Hashable]) -> list[Any]:
    return list(dict.fromkeys(map(key, values)))
