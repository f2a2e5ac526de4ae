"""The command: check the packages, write the table."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from jaxrnn.checks import check_at_least_1
from jaxrnn.output import check_output
from jaxrnn.runs.environment import available_cores
from jaxrnn.terminal import FAILED, parse, run_command
from third_party.packages import BY_NAME, FOLDER, PACKAGES
from third_party.processes import check_packages
from third_party.table import markdown, write_table

OUTPUT = Path(__file__).parents[2] / "README.md"
"""Where the table stands."""


@dataclass(frozen=True, kw_only=True)
class ThirdParty:
    """Check which modules of other JAX packages equal PyTorch's, and write a table of verdicts.

    A package that is not installed has a row that says so.
    """

    packages: Positional[tuple[str, ...]] = ()
    """Which: equinox, flax-linen, flax-nnx, haiku, jax, keras, mingru-pytorch, recurrentgemma. All
    if none is named. The table has no others."""
    output: Path | None = None
    """The file that the table is written to: a new one, or one with the two marks of the table,
    between which it is replaced. The README, if all packages are in the table."""
    folder: Path = FOLDER
    """Where packages are installed whose needs do not fit this library's."""
    jobs: int | None = None
    """Processes at once; one for each core if None."""

    def __call__(self) -> int:
        """Returns the exit code."""
        jobs = len(available_cores()) if self.jobs is None else self.jobs
        check_at_least_1(jobs=jobs)
        unknown = [name for name in self.packages if name not in BY_NAME]
        if unknown:
            raise ValueError(
                f"packages must be some of {', '.join(BY_NAME)}; got {', '.join(unknown)}."
            )
        if self.packages and self.output is None:
            raise ValueError("output must be named where packages are: the README's table has all.")
        output = self.output or OUTPUT
        check_output(output, parents=True)
        chosen = [BY_NAME[name] for name in self.packages] or PACKAGES
        results = check_packages(chosen, folder=self.folder, jobs=jobs, log=_log)
        write_table(markdown(results), output)
        print(output)
        return 0 if any(result.verdicts for result in results) else FAILED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: parse(ThirdParty, given, program="third-party")())


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
