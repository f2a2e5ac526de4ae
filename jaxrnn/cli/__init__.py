"""The command line: flags to calls, results to the screen."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated

from tyro.conf import subcommand

from jaxrnn import __version__
from jaxrnn.cli.evaluate import Evaluate
from jaxrnn.cli.exchange import Export, Import, import_with_defaults
from jaxrnn.cli.find_rate import FindRate
from jaxrnn.cli.recipes import Recipes
from jaxrnn.cli.sample import Sample
from jaxrnn.cli.train import TAKEN, Train
from jaxrnn.data.corpora import CORPORA
from jaxrnn.reproduction.commands import Reproduce
from jaxrnn.runs.changes import CHANGEABLE
from jaxrnn.runs.recipes import RECIPES
from jaxrnn.terminal import (
    command_name,
    keep_compiled_programs,
    parse,
    printable,
    run_command,
)

DESCRIPTION = """Recurrent character models in JAX: train them on text, let them write.

Start with `train`; it needs no download. `--version` prints the version."""


Command = Train | Sample | Evaluate | FindRate | Recipes | Reproduce | Export | Import


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        print(f"jaxrnn {__version__}")
        return 0
    with _shown_notes():
        return run_command(lambda: _command(given)())


@contextlib.contextmanager
def _shown_notes() -> Iterator[None]:
    """Within it, each warning of the library is a line on standard error."""
    library = logging.getLogger("jaxrnn")
    handler = _Notes(logging.WARNING)
    library.addHandler(handler)
    try:
        yield
    finally:
        library.removeHandler(handler)


class _Notes(logging.Handler):
    """Prints warnings as notes, control characters escaped: names of files may hold some."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # a screen that is lost ends nothing
            print(f"note: {printable(record.getMessage())}", file=sys.stderr)


def _command(given: list[str]) -> Command:
    name = _value_of("--recipe", given) or "python-docs"
    if name not in RECIPES:
        raise ValueError(f"There is no recipe {name!r}: take one of {', '.join(RECIPES)}.")
    flags = {a.split("=")[0] for a in given if a.startswith("--")}
    resuming = given[:1] == ["train"] and "--resume" in flags
    changeable = {f"--{option}" for option in CHANGEABLE}
    if resuming and flags - {"--resume", "--corpus", "--debug-nans", *changeable}:
        raise ValueError(
            "--resume goes on with a run as it was begun and takes no other flag but --debug-nans, "
            "--corpus where the same text lies elsewhere now, and --schedule and --clip, which "
            "are changed from there on."
        )
    changed = tuple(option for option in CHANGEABLE if resuming and f"--{option}" in flags)
    config = RECIPES[name].config
    if resuming:
        config = replace(config, corpus=TAKEN)
    if flags.isdisjoint({"--recipe", "--lowercase", "--no-lowercase"}) and _own_text(given):
        config = replace(config, lowercase=False)  # a user's text keeps its case
    importing = import_with_defaults(given, name, config)
    kinds = (
        Annotated[
            Train, subcommand("train", default=Train(recipe=name, config=config, changed=changed))
        ]
        | Annotated[Sample, subcommand("sample")]
        | Annotated[Evaluate, subcommand("evaluate")]
        | Annotated[FindRate, subcommand("find-rate", default=FindRate(recipe=name, config=config))]
        | Annotated[Recipes, subcommand("recipes")]
        | Annotated[Reproduce, subcommand("reproduce")]
        | Annotated[Export, subcommand("export")]
        | Annotated[Import, subcommand("import", default=importing)]
    )
    command: Command = parse(kinds, given, program=command_name(), description=DESCRIPTION)
    keep_compiled_programs()
    return command


def _own_text(given: Sequence[str]) -> bool:
    """Whether a command line trains on a text that is the user's, not one of ours."""
    corpus = _value_of("--corpus", given)
    return given[:1] != ["import"] and corpus is not None and corpus not in CORPORA


def _value_of(flag: str, given: Sequence[str]) -> str | None:
    for index, argument in enumerate(given):
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}=")
        if argument == flag and index + 1 < len(given):
            return given[index + 1]
    return None
