"""The wheel has what the packages read, and runs by itself; the sdist has what its tests need."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = ("tests", "scripts", "jaxrnn", "parity", ".ci")
"""Folders whose files are read, imported or run by the tests."""
FILES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff")
FILES += ("CONTRIBUTING.md", "constraints.txt", "constraints-newest.txt")
MADE = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TEXT = "the quick brown fox jumps over the lazy dog.\n" * 40
TRAIN = ("train", "--corpus", "text.txt", "--name", "fox", "--hidden", "8", "--batch", "8")
TRAIN += ("--schedule", "1 x 1e-2", "--no-random-bptt")


def test_every_file_beside_the_code_goes_into_the_wheel():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    for package in ("jaxrnn", "parity"):
        files = [path for path in (ROOT / package).rglob("*") if path.is_file()]
        data = [str(path.relative_to(ROOT / package)) for path in files if path.suffix != ".py"]
        data = [name for name in data if "__pycache__" not in name]
        assert "py.typed" in data
        missing = [
            name
            for name in data
            if not any(fnmatchcase(name, pattern) for pattern in patterns[package])
        ]
        assert missing == []
    # A folder of code without an __init__.py would be left out.
    for path in (*ROOT.glob("jaxrnn/**/*.py"), *ROOT.glob("parity/**/*.py")):
        assert (path.parent / "__init__.py").is_file(), path


def copy_of_the_project(folder):
    """The files that the distributions are made of, without what was built here before."""
    folder.mkdir()
    for name in NEEDED:
        shutil.copytree(ROOT / name, folder / name, ignore=MADE)
    for file in FILES:
        shutil.copy(ROOT / file, folder / file)
    return folder


def built(kind, project, folder):
    """The archive that the build backend makes: "sdist" or "wheel"."""
    pytest.importorskip("setuptools")
    folder.mkdir(exist_ok=True)
    before = set(folder.iterdir())
    program = f"import setuptools.build_meta as backend; backend.build_{kind}({str(folder)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=project, capture_output=True, check=True)
    (archive,) = set(folder.iterdir()) - before
    return archive


def test_the_sdist_has_every_file_of_the_project(tmp_path):
    project = copy_of_the_project(tmp_path / "project")
    archive = built("sdist", project, tmp_path / "dist")
    with tarfile.open(archive) as opened:
        members = [Path(*Path(name).parts[1:]) for name in opened.getnames()]
    expected = {p.relative_to(project) for p in project.rglob("*") if p.is_file()}
    expected = {path for path in expected if not str(path).startswith("jaxrnn.egg-info")}
    assert {Path("scripts/_environment"), Path("tests/helpers.py")} <= expected
    assert sorted(expected - set(members)) == []


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The Python of a fresh environment with nothing in it but the wheel and its packages."""
    place = tmp_path_factory.mktemp("wheel")
    wheel = built("wheel", copy_of_the_project(place / "project"), place / "dist")
    expected = {
        str(path.relative_to(ROOT))
        for package in ("jaxrnn", "parity")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as opened:
        members = {name for name in opened.namelist() if ".dist-info/" not in name}
    assert members == expected

    subprocess.run([sys.executable, "-m", "venv", place / "env"], check=True)
    python = place / "env" / "bin" / "python"
    newer = sys.version_info >= (3, 12)
    pins = ROOT / ("constraints-newest.txt" if newer else "constraints.txt")
    installed = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--constraint", pins, wheel],
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode:
        pytest.skip(f"packages cannot be installed here: {installed.stderr[-200:]}")
    return python


@pytest.mark.slow
def test_the_wheel_alone_trains_and_samples_in_an_empty_folder(environment, tmp_path):
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    usual |= {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    (tmp_path / "text.txt").write_text(TEXT)

    def output(*command):
        """What a command prints; nothing is left to say on standard error."""
        ran = subprocess.run(
            command, cwd=tmp_path, env=usual, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    program = environment.with_name("jaxrnn")
    where = output(environment, "-c", "import jaxrnn; print(jaxrnn.__file__)")
    assert Path(where.strip()).is_relative_to(environment.parents[1])
    assert output(program, "--version") == f"jaxrnn {PROJECT['project']['version']}\n"
    assert "stateful-gru" in json.loads(output(program, "recipes", "--json"))
    assert "What to type next" in output(program, *TRAIN)
    sampled = ["sample", "runs/fox", "--length", "20"]
    text = output(program, *sampled)
    assert output(environment, "-m", "jaxrnn", *sampled) == text
    output(program, "export", "runs/fox", "model.safetensors")
    assert output(program, "sample", "model.safetensors", "--length", "20") == text
    # The C++ is in the wheel, and is compiled at first use where there is a compiler.
    reason = output(
        environment,
        "-c",
        "from jaxrnn.recurrent.compiled.library import why_unavailable; print(why_unavailable())",
    ).strip()
    has_compiler = any(map(shutil.which, ("g++", "clang++", "c++")))
    assert (reason == "None") == (has_compiler and usual.get("JAXRNN_NATIVE") != "0")


@pytest.mark.slow
def test_the_tests_of_the_sdist_pass_beside_the_wheel(environment, tmp_path):
    """Without PyTorch: files that need it are skipped, and say so."""
    archive = built("sdist", copy_of_the_project(tmp_path / "project"), tmp_path / "dist")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("jaxrnn-*")
    packages = ["pytest", "hypothesis", "beartype"]
    pins = unpacked / (
        "constraints-newest.txt" if sys.version_info >= (3, 12) else "constraints.txt"
    )
    installed = subprocess.run(
        [environment, "-m", "pip", "install", "--quiet", "--constraint", pins, *packages],
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode:
        pytest.skip(f"packages cannot be installed here: {installed.stderr[-200:]}")
    files = ["test_package", "test_vocabulary", "test_schedules", "test_json_output", "test_export"]
    paths = [f"tests/{name}.py" for name in files]
    ran = subprocess.run(
        [environment, "-m", "pytest", "-q", "-rs", *paths],
        cwd=unpacked,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-2000:]
    assert "torch" in ran.stdout
    assert "skipped" in ran.stdout
