"""Write the page: README.md, the figures and results.json, all from the same findings."""

from pathlib import Path

from jaxrnn.files import read_regular, write_whole
from jaxrnn.output import check_output_folder
from jaxrnn.reproduction.page import (
    heading,
    losses,
    notes,
    pictures,
    questions,
    starts,
    texts,
)
from jaxrnn.reproduction.page.gathering import RESULTS, gather, joined, of_page
from jaxrnn.reproduction.page.records import Findings
from jaxrnn.reproduction.results import LARGEST_RESULT

PAGE = "README.md"
MARK = "<!-- Written by jaxrnn reproduce --page: changes by hand are lost. -->"
"""The first line of a page, by which one that may be replaced is known."""


def page(findings: Findings, folder: str) -> str:
    """The page as Markdown.

    Args:
        findings: what is on it.
        folder: of the page, as its commands name it.
    """
    parts = (losses, starts, questions, texts, notes)
    pieces = [MARK, heading.heading(findings, folder)]
    pieces += [part.section(findings) for part in parts]
    return "\n\n".join(piece for piece in pieces if piece) + "\n"


def check_place(folder: Path) -> None:
    """Make the folder of a page, and refuse one that holds somebody else's README.md.

    Raises:
        ValueError: if the page cannot be written there.
    """
    path = folder / PAGE
    check_output_folder(folder, (PAGE, RESULTS, "*.png"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        begins = read_regular(path, at_most=LARGEST_RESULT)[: len(MARK.encode())]
        other = begins != MARK.encode()
    except FileNotFoundError:
        other = False
    except OSError as error:
        raise ValueError(f"Cannot write a page to {folder}: {error.strerror}.") from error
    if other:
        raise ValueError(f"{path} is no page of results: name another folder.")


def write_page(results: Path, folder: Path) -> Path:
    """Write the page of all that is finished, and give its file.

    What a page in this folder has on it already, and the results have not, stays on it.

    Args:
        results: the folder of the results.
        folder: of the page; it is made if it is not there.

    Raises:
        ValueError: if nothing is finished, a result is damaged, or the page cannot be written.
    """
    check_place(folder)
    findings = gather(results)
    if (folder / RESULTS).exists():
        findings = joined(of_page(folder / RESULTS), findings)
    pictures.draw(findings, folder)
    write_whole(folder / RESULTS, findings.to_json().encode())
    write_whole(folder / PAGE, page(findings, folder.as_posix()).encode())
    return folder / PAGE
