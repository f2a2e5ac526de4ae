"""Measure training, the forward pass, generation and whole jobs beside other libraries.

    python scripts/benchmark.py --quick                      about two minutes
    python scripts/benchmark.py --json results.json --markdown results.md
    python scripts/benchmark.py --parts training forward generation layer inference scaling job
    python scripts/benchmark.py --read results.json --markdown results.md

Libraries that are not installed are left out and named: pip install "jaxrnn[parity,bench]".
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import pictures, results
from benchmarks.jobs import measure_job
from benchmarks.markdown import report
from benchmarks.options import Options
from benchmarks.protocol import Record, measure

from jaxrnn.output import check_output, check_output_folder, write_output
from jaxrnn.terminal import FAILED, parse, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: _run(given))


def _run(given: list[str]) -> int:
    description = (__doc__ or "").strip()
    options = parse(Options, given, program="benchmark.py", description=description)
    options.check()
    for path in (options.json, options.markdown):
        if path is not None:
            check_output(path, parents=True)
    if options.pictures is not None:
        check_output_folder(options.pictures, ("*.png",))
    found = results.read(options.read) if options.read else _measured(options, given)
    text = report(found)
    if options.markdown:
        write_output(options.markdown, text, parents=True)
    print(text)
    if options.pictures:
        for path in pictures.draw(found, options.pictures):
            print(path)
    return FAILED if _disagreeing(found) else 0


def _measured(options: Options, given: list[str]) -> dict[str, Any]:
    """Measure part by part; the file is written after every case."""
    found = results.heading(options.settings(options.parts[0]), given)
    for part in options.parts:
        found[part] = []
        for record in _records(part, options):
            found[part].append(record)
            _keep(found, options)
    return found


def _records(part: str, options: Options) -> Iterator[Record]:
    """The record of each case of a part, as soon as it is measured."""
    settings = options.settings(part)
    if part == "job":
        for recipe in options.recipes:
            yield measure_job(recipe, options.schedule, settings, _log)
    else:
        for case in options.cases(part):
            yield measure(case, options.names(part), settings, _log)


def _keep(found: dict[str, Any], options: Options) -> None:
    if options.json:
        results.write(found, options.json)


def _disagreeing(found: dict[str, Any]) -> bool:
    """Whether an implementation computed another loss, though its equation is the same."""
    records = [record for part in results.PARTS for record in found.get(part, [])]
    entries = (entry for record in records for entry in record["implementations"].values())
    return any(entry["status"] == "disagrees" for entry in entries)


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
