"""The package's face: its version, and the names that `help` lists."""

import pkgutil
import pydoc
import tomllib
from pathlib import Path

import pytest

import jaxrnn
from jaxrnn import cli

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def public_names(package):
    """What a package imports by name, without its modules."""
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    return {name for name in vars(package) if not name.startswith("_")} - modules


def sorted_by_kind(names):
    """Constants, then classes, then functions, each in the order of letters."""
    kind = lambda name: 0 if name.isupper() else 1 if name[0].isupper() else 2  # noqa: E731
    return sorted(names, key=lambda name: (kind(name), name))


def refuse_gaps(package):
    assert set(package.__all__) == public_names(package)
    assert list(package.__all__) == sorted_by_kind(package.__all__)
    helped = pydoc.plain(pydoc.render_doc(package))
    for name in package.__all__:
        assert name in helped


def test_all_has_every_public_name():
    refuse_gaps(jaxrnn)
    assert f"VERSION\n    {jaxrnn.__version__}" in pydoc.plain(pydoc.render_doc(jaxrnn))


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
