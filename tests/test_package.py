"""The package's face: its version, and the names that `help` lists."""

import pydoc
import tomllib
from pathlib import Path

import pytest

import jaxrnn
from jaxrnn import cli

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def refuse_gaps(package):
    """Whatever is public is there, has a description, and is what `help` lists."""
    names = list(package.__all__)
    assert names == sorted(set(names))
    helped = pydoc.plain(pydoc.render_doc(package))
    for name in names:
        assert getattr(package, name) is not None
        assert name in helped
        assert name in dir(package)


def test_all_has_every_public_name():
    refuse_gaps(jaxrnn)
    assert f"VERSION\n    {jaxrnn.__version__}" in pydoc.plain(pydoc.render_doc(jaxrnn))


def test_a_name_that_is_not_public_is_said():
    with pytest.raises(AttributeError, match=r"No jaxrnn attribute nothing"):
        jaxrnn.nothing  # noqa: B018


def test_the_version_is_that_of_the_project(capsys):
    assert jaxrnn.__version__ == PROJECT["version"]
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"jaxrnn {PROJECT['version']}\n"


def test_parity_has_both_too(capsys):
    pytest.importorskip("torch")
    import parity
    from parity import cli as parity_cli

    refuse_gaps(parity)
    with pytest.raises(SystemExit) as stopped:
        parity_cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"parity {PROJECT['version']}\n"
