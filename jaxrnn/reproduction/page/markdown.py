"""Pieces of Markdown, and how numbers are written."""

import html
import json
import re
from collections.abc import Iterable, Sequence

from jaxrnn.reproduction.page.statistics import Apart, Spread
from jaxrnn.terminal import printable

COMMAND = "./scripts/jaxrnn reproduce"
SMALL = 1e-4
"""Nats: differences below it are shown as powers of ten."""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """A table; the first `words` columns to the left, the others to the right."""
    lines = [heads, ["---"] * words + ["---:"] * (len(heads) - words), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def details(summary: str, body: str) -> str:
    """Something that is shown when it is asked for."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>"


def code(text: str) -> str:
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


def not_run(command: str) -> str:
    """The line that stands where results are missing."""
    return f"not run yet: `{command}`"


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


def power(number: float) -> str:
    """A small number as 1.2e-13; 0 where there is none at all."""
    return f"{number:.1e}" if number else "0"


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


def image(name: str, title: str) -> str:
    """A picture."""
    return f"![{title}]({name})"
