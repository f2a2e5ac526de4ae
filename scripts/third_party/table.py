"""The table in Markdown, between two marks in a file."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from jaxrnn.output import write_output
from jaxrnn.runs.environment import versions
from third_party.processes import Results
from third_party.verdicts import Verdict

BEGIN = "<!-- begin: table of ./scripts/third-party -->"
END = "<!-- end: table of ./scripts/third-party -->"
"""The marks; what stands between them is replaced."""
HEADER = ("Package", "Module", "PyTorch", "Verdict", "Details", "Difference")
EXPLANATION = (
    "Each module runs beside its counterpart from the same weights, none of them zero: outputs and "
    "all gradients, in float64 and float32. *Difference* is the largest distance of an output from "
    "PyTorch's, relative to its size, before anything is done about it, in float64 unless float32 "
    "is named. *Equal with* an option means: PyTorch's module needs that option to compute what "
    "this one does by default. *Equal after folding*: there is one bias for PyTorch's two, so that "
    "outputs and gradients agree, but training does not."
)
BASE = ("jaxrnn", "torch", "jax", "numpy")
"""Packages whose versions stand above the table."""


def markdown(results: Sequence[Results]) -> str:
    """The table, with what is needed to read it.

    Args:
        results: of the packages.
    """
    found = versions(BASE)
    shown = ", ".join(f"{name} {number}" for name, number in found.items())
    lines = [f"Made by `./scripts/third-party` with {shown}.", "", EXPLANATION, ""]
    lines += [_summary(results), "", _line(HEADER), _line(["---"] * len(HEADER))]
    for result in sorted(results, key=_order):
        title = f"{result.package.distribution} {result.version}".strip()
        for verdict in result.verdicts:
            lines.append(_line(_row(title, verdict)))
        if result.missing:
            lines.append(_line([title, "", "", result.missing, "", ""]))
    return "\n".join(lines) + "\n"


def rows(text: str) -> list[list[str]]:
    """The cells of each row of a table that `markdown` made."""
    found = []
    for line in text.splitlines():
        if line.startswith("| "):
            inner = line.removeprefix("| ").removesuffix(" |")
            cells = inner.replace("\\|", "\0").split(" | ")
            found.append([cell.strip().replace("\0", "|") for cell in cells])
    return found[2:]  # without the header and its rule


def write_table(text: str, path: Path) -> None:
    """Put the table between the marks of a file, or into a new one.

    Raises:
        ValueError: if the file exists and has no marks.
    """
    before, after = f"{BEGIN}\n", f"{END}\n"
    if path.exists():
        content = path.read_text()
        if content.count(BEGIN) != 1 or content.count(END) != 1:
            raise ValueError(
                f"{path} must have one line {BEGIN!r} and one {END!r}, between which the table "
                "stands; got none, or several."
            )
        head, _, rest = content.partition(BEGIN)
        tail = rest.partition(END)[2]
        before = f"{head}{BEGIN}\n"
        after = f"{END}{tail}"
    write_output(path, f"{before}\n{text}\n{after}", parents=True)


def _order(result: Results) -> tuple[str, str]:
    return result.package.distribution.lower(), result.package.name


def _summary(results: Sequence[Results]) -> str:
    """How many modules have each verdict."""
    counts: Counter[str] = Counter()
    for result in results:
        for verdict in result.verdicts:
            # "equal with `eps=1e-6`" counts as "equal with an option".
            kind, option, _ = verdict.verdict.partition(" with ")
            counts[f"{kind} with an option" if option else kind] += 1
    total = sum(counts.values())
    each = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    return f"{total} modules: {each}."


def _row(package: str, verdict: Verdict) -> list[str]:
    difference = ""
    if verdict.difference is not None:
        difference = f"{verdict.difference:.1e}" if verdict.difference else "0"
        if verdict.dtype != "float64":
            difference += f" ({verdict.dtype})"
    return [
        package,
        f"`{verdict.module}`",
        f"`{verdict.counterpart}`",
        f"**{verdict.verdict}**" if verdict.verdict == "faulty" else verdict.verdict,
        verdict.detail,
        difference,
    ]


def _line(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"
