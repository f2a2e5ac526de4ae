"""The report: how many mutants were caught, by which part, and which survive."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from random_mutants.results import OUTCOMES, Result

NOTES = Path(__file__).parent / "survivors.md"
"""What is known of survivors: each is a heading, the mutant's diff and why it changes nothing."""
TESTS_SHOWN = 5
"""Number of tests that are named for a survivor."""


def report(results: Sequence[Result], reasons: Mapping[str, str]) -> str:
    """The report as Markdown.

    Args:
        results: of the mutants.
        reasons: of survivors, by their file and diff, why they change nothing; see `read_reasons`.
    """
    survivors = [result for result in results if result.outcome == "neither"]
    caught = len(results) - len(survivors)
    lines = [
        f"{caught} of {len(results)} mutants are caught ({_percent(caught, len(results))}).",
        "",
    ]
    lines += _table("of all", results, lambda result: "all")
    lines += ["", *_table("area", results, lambda result: result.area)]
    lines += ["", *_table("room", results, lambda result: result.room)]
    lines += ["", *_table("kind", results, lambda result: result.kind)]
    if survivors:
        lines += ["", f"## {len(survivors)} survivors"]
    for result in survivors:
        lines += ["", *_survivor(result, reasons)]
    return "\n".join(lines)


def _table(title: str, results: Sequence[Result], group: Callable[[Result], str]) -> list[str]:
    lines = [
        f"| {title} | mutants | caught | {' | '.join(OUTCOMES)} |",
        "|---|" + "--:|" * (2 + len(OUTCOMES)),
    ]
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(group(result), []).append(result)
    for name, members in sorted(groups.items()):
        counts = [sum(member.outcome == outcome for member in members) for outcome in OUTCOMES]
        caught = len(members) - counts[-1]
        cells = [name, str(len(members)), _percent(caught, len(members)), *map(str, counts)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _survivor(result: Result, reasons: Mapping[str, str]) -> list[str]:
    tests = result.tests
    if tests.chosen:
        names = ", ".join(tests.tried[:TESTS_SHOWN])
        more = f" and {tests.ran - TESTS_SHOWN} more" if tests.ran > TESTS_SHOWN else ""
        tried = (
            f"{tests.ran} of {tests.chosen} tests ran, chosen by {result.chosen_by}: {names}{more}"
        )
        if result.left_out:
            tried += f"; {result.left_out} more run the line"
    else:
        tried = "no test runs it"
    checks = f"{result.checks.ran} of {result.checks.chosen} checks of parity ran"
    if tests.unfinished or result.checks.unfinished:
        checks += ", and the time was over"
    if result.slow.chosen:
        checks += f"; {result.slow.ran} of {result.slow.chosen} slow tests"
    reason = reasons.get(key_of(result.path, result.diff), "not looked at yet")
    return [
        f"### {result.name}: {result.kind} in {result.path}, line {result.line}",
        "",
        "```diff",
        result.diff,
        "```",
        "",
        f"{tried}; {checks}.",
        "",
        f"Reason: {reason}",
    ]


def key_of(path: str, diff: str) -> str:
    """What a survivor is known by: its file and changed lines, wherever they stand."""
    changed = [line for line in diff.splitlines() if not line.startswith("@@")]
    return "\n".join([path, *changed])


def read_reasons(text: str) -> dict[str, str]:
    """The reasons in a file like `NOTES`, by `key_of`.

    Each part begins with a heading that ends in the file's path, has the diff in a block of its
    own, and then the reason.
    """
    reasons = {}
    for part in text.split("\n## ")[1:]:
        head, _, rest = part.partition("\n")
        diff, _, reason = rest.partition("```diff\n")[2].partition("\n```")
        path = head.split()[-1]
        reasons[key_of(path, diff)] = " ".join(reason.split())
    return reasons


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "none"
