"""Imports point downwards: no room imports one above it, and no two files import each other."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    "jaxrnn": (
        "cli",
        "inspection",
        "runs",
        "exchange",
        "training",
        "generation",
        "nn",
        "recurrent",
        "data",
        "",
    ),
    "parity": (
        "",
        "modules",
        "mutation",
        "suite",
        "report",
        "tracing",
        "diagnosis",
        "measures",
        "core",
    ),
}
"""The rooms of each package from the top floor down; "" are the files of the package itself: the
ground floor of the library, the public face of parity."""
DOORS = ("__init__", "__main__")
"""Files of a package itself that only gather what is public, and may import from every room."""


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path, modules):
    """The modules of our own that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in modules else node.module)
    return found & set(modules)


def graph(package):
    """Which modules each module of a package imports."""
    paths = sorted((ROOT / package).rglob("*.py"))
    modules = {module_of(path): path for path in paths}
    return {name: imported(path, modules) for name, path in modules.items()}


def room_of(module):
    parts = module.split(".")
    folder = ROOT.joinpath(*parts[:2])
    return parts[1] if len(parts) > 1 and folder.is_dir() else ""


def is_door(module):
    return module.count(".") == 0 or module.rpartition(".")[2] in DOORS


@pytest.mark.parametrize("package", FLOORS)
def test_every_room_has_its_floor(package):
    rooms = {room_of(module) for module in graph(package)}
    assert rooms <= set(FLOORS[package])


@pytest.mark.parametrize("package", FLOORS)
def test_no_import_goes_up(package):
    floors = FLOORS[package]
    upwards = []
    for module, others in graph(package).items():
        if is_door(module):
            continue
        for other in others:
            if other == package:
                continue  # the version
            if floors.index(room_of(other)) < floors.index(room_of(module)):
                upwards.append(f"{module} imports {other}")
    assert not upwards


@pytest.mark.parametrize("package", FLOORS)
def test_no_files_import_each_other(package):
    imports = graph(package)
    done, open_path, circles = set(), [], []

    def visit(module):
        if module in open_path:
            circles.append(" -> ".join([*open_path[open_path.index(module) :], module]))
            return
        if module in done:
            return
        open_path.append(module)
        for other in sorted(imports[module] - {package}):
            visit(other)
        open_path.pop()
        done.add(module)

    for module in imports:
        if not is_door(module):
            visit(module)
    assert not circles


def test_the_library_imports_neither_torch_nor_parity_at_its_top():
    """`exchange` imports torch where a file needs it; nothing imports parity."""
    for path in sorted((ROOT / "jaxrnn").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            roots = {name.split(".")[0] for name in names}
            assert "parity" not in roots, path
            if "torch" in roots:
                assert path.name == "torch_files.py"
                assert node.col_offset > 0, f"{path} imports torch whether or not it is needed"


def test_data_needs_no_jax():
    code = (
        "import sys\n"
        "import jaxrnn.data.corpora, jaxrnn.data.vocabulary, jaxrnn.data.windows\n"
        "sys.exit(' '.join({'jax', 'flax', 'torch'} & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
