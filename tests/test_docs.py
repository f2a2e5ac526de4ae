"""The reference pages: every public name is on one, links lead somewhere, and the Python runs."""

import ast
import re
from pathlib import Path

import pytest

import jaxrnn

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "scripts" / "docs" / "pages"
TEXTS = {str(path.relative_to(PAGES)): path.read_text() for path in sorted(PAGES.rglob("*.md"))}
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAMS = {name: "".join(BLOCK.findall(text)) for name, text in TEXTS.items()}
NEEDS = {"port-a-model.md": "torch", "tokenizers.md": "tokenizers"}
"""Packages that the Python of a page needs, of extras."""
QUICK = ("scale.md",)


def public_names():
    """The names of both packages; PyTorch, which `import parity` needs, is not."""
    names = [f"jaxrnn.{name}" for name in jaxrnn.__all__]
    for node in ast.parse((ROOT / "parity" / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            names += [f"parity.{name}" for name in ast.literal_eval(node.value)]
    return names


def test_every_public_name_is_on_one_page():
    described = re.findall(r"^::: ((?:jaxrnn|parity)\.\w+)$", "\n".join(TEXTS.values()), re.M)
    assert len(described) > 100
    assert sorted(described) == sorted(public_names())


def anchors(text):
    """The names by which the headings of a page can be linked."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS)
def test_every_link_leads_to_a_page(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", TEXTS[page]):
        path, _, anchor = target.partition("#")
        linked = (PAGES / page).parent.joinpath(path).resolve() if path else PAGES / page
        assert linked.is_file(), target
        assert not anchor or anchor in anchors(linked.read_text()), target


def test_every_page_is_in_the_menu():
    menu = (PAGES.parent / "mkdocs.yml").read_text().partition("nav:")[2]
    assert sorted(re.findall(r"[\w/-]+\.md", menu)) == sorted(TEXTS)


@pytest.mark.parametrize("page", [page for page, program in PROGRAMS.items() if program])
def test_the_python_compiles(page):
    compile(PROGRAMS[page], page, "exec")


@pytest.mark.parametrize(
    "page",
    [
        page if page in QUICK else pytest.param(page, marks=pytest.mark.slow)
        for page, program in PROGRAMS.items()
        if program
    ],
)
def test_the_python_runs(page, tmp_path, monkeypatch):
    if page in NEEDS:
        pytest.importorskip(NEEDS[page])
    monkeypatch.chdir(tmp_path)
    exec(compile(PROGRAMS[page], page, "exec"), {})
