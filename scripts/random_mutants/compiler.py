"""Whether a mutated C++ source compiles, and to another program than before."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = "jaxrnn/recurrent/csrc"
LIMIT = 120
"""Seconds after which the compiler is given up."""

# What the library compiles: its core, and a cell. Both are compiled with the library's own flags.
_SOURCES = """
import sys
import jax
from jaxrnn.recurrent.cells import LSTM
from jaxrnn.recurrent.compiled.library import FLAGS, _compiler
from jaxrnn.recurrent.compiled.source import write_source

flags = [flag for flag in FLAGS if flag not in ("-shared", "-O3")]
print("\\n".join([_compiler(), *flags, "-I", jax.ffi.include_dir()]))
open(sys.argv[1], "w").write(write_source(LSTM).text)
"""


class Compiler:
    """Compiles mutated sources in a scratch folder, without making anything of them.

    Args:
        root: the root of the unmutated sources.
        scratch: a folder for what is compiled.

    Raises:
        ValueError: if there is no compiler.
    """

    def __init__(self, root: Path, scratch: Path) -> None:
        self._root = root
        self._folder = scratch / "csrc"
        shutil.copytree(root / FOLDER, self._folder)
        self._cell = scratch / "cell.cc"
        environment = {**os.environ, "PYTHONPATH": str(root)}
        told = subprocess.run(
            [sys.executable, "-c", _SOURCES, str(self._cell)],
            env=environment,
            cwd=root,
            capture_output=True,
            text=True,
        )
        if told.returncode:
            raise ValueError(f"C++ sources need a compiler: {told.stderr.strip().splitlines()[-1]}")
        self._command = told.stdout.split("\n")[:-1]
        self._before = self._preprocessed()

    def __call__(self, path: str, contents: bytes) -> bool:
        """Whether the file with these contents compiles, to another program than before."""
        file = self._folder / Path(path).name
        file.write_bytes(contents)
        try:
            # What another compiler reads, or no cell uses, is as good as a comment.
            after = self._preprocessed()
            return None not in after and after != self._before and self._all_compile()
        finally:
            shutil.copyfile(self._root / path, file)

    def _preprocessed(self) -> list[str | None]:
        found: list[str | None] = []
        for source in self._sources():
            ran = self._run("-E", "-P", source)
            found.append(None if ran.returncode else ran.stdout)
        return found

    def _all_compile(self) -> bool:
        return all(self._run("-fsyntax-only", source).returncode == 0 for source in self._sources())

    def _sources(self) -> tuple[Path, Path]:
        return self._folder / "recurrence.cc", self._cell

    def _run(self, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        command = [*self._command, "-I", str(self._folder), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
