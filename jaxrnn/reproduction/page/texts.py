"""What the trained models write, beside what the course's did."""

from collections.abc import Iterator

from jaxrnn.reproduction.page.commands import recipe_command
from jaxrnn.reproduction.page.markdown import COMMAND, code, details, not_run, quoted, table
from jaxrnn.reproduction.page.records import Findings
from jaxrnn.reproduction.units import Unit
from jaxrnn.reproduction.writing import COURSE_ANSWERS
from jaxrnn.runs.recipes import RECIPES

COURSE_SAMPLE = ("rnn", "for those the same the same the same ...")
"""The recipe of which the course printed a text, and what it begins with."""
ABOUT = """Seed {seed} of each recipe, at the end of training. Windowed models write the most
likely character each time, stateful ones draw from the distribution."""


def section(findings: Findings) -> str:
    """A sample of each recipe, and the answers to the course's prompts."""
    return "\n\n".join([*_samples(findings), *_answers(findings)])


def _samples(findings: Findings) -> Iterator[str]:
    yield "## Samples"
    written = {name: records[0] for name in RECIPES if (records := findings.of(name))}
    written = {name: record for name, record in written.items() if record.sample}
    if written:
        yield ABOUT.format(seed=" or ".join(sorted({str(r.unit.seed) for r in written.values()})))
    course, beginning = COURSE_SAMPLE
    for name, record in written.items():
        title = f"{name}, {record.unit.config.model}, validation loss {record.last:.4f}"
        if name == course:
            yield f"**{title}.** The course's wrote {quoted(beginning)}"
            yield code(record.sample)
        else:
            yield details(title, code(record.sample))
    if course not in written:
        yield f"{course}, of which the course printed {quoted(beginning)}: " + not_run(
            recipe_command(course)
        )


def _answers(findings: Findings) -> Iterator[str]:
    yield "### The most likely next character"
    yield (
        "The course asked each kind of model about some prompts, and printed these answers; ours "
        "by seed, and how many are the course's."
    )
    rows, missing, right, asked = [], [], 0, 0
    for name in RECIPES:
        prompts = COURSE_ANSWERS[Unit(recipe=name).config.make_model(1).reads]
        records = findings.of(name)
        if prompts and not records:
            missing.append(name)
        for prompt, answer in prompts.items():
            given = [r.answers[prompt] for r in records if prompt in r.answers]
            same = given.count(answer)
            right, asked = right + same, asked + len(given)
            if given:
                ours = " ".join(map(quoted, given))
                rows.append([name, quoted(prompt), quoted(answer), ours, f"{same} of {len(given)}"])
    if rows:
        heads = ("recipe", "prompt", "the course's", "ours, by seed", "the same")
        yield table(heads, rows, words=4)
        yield f"{right} of {asked} answers are the course's."
    if missing:
        yield not_run(f"{COMMAND} {' '.join(missing)}")
