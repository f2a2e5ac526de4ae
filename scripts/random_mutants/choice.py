"""Which tests and checks a mutant is tried on: those that run its lines, the nearest first.

A line that runs only at import, such as a constant, stands for the lines that name what it binds.
Lines of C++ stand for the calls into the library.
"""

import ast
import itertools
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from random_mutants.mutants import Mutant, source_files
from random_mutants.recorder import CHECK, FILE, IMPORTING, LIST, TEST, Recording

FARTHER = 4.0
"""A test of a file that does not speak of the module comes after one that does and takes four
times as long."""
OVERHEAD = 0.02
"""Seconds that a test costs, however short it is."""

CALLS = {
    "generation.h": ("jaxrnn_generate",),
    "backward.h": ("jaxrnn_backward",),
    "outer.h": ("jaxrnn_backward",),
    "table.h": ("jaxrnn_backward",),
    "forward.h": ("jaxrnn_forward",),
    "input_gates.h": ("jaxrnn_forward",),
}
"""By which of the library's functions a C++ source is run; by all where it is not here."""
EVERY_CALL = ("jaxrnn_forward", "jaxrnn_backward", "jaxrnn_generate")
CPP_TESTS = ("test_native", "test_generated", "test_layers", "test_cells", "test_writing")
"""Beginnings of the names of the test files that compare the library with something else."""
WRITING_TESTS = ("test_writing", "test_generation")
"""Those that compare what it generates."""

SLOW_SECONDS = 2.0
"""Seconds that a slow test is taken to last: they are not recorded."""


@dataclass(frozen=True)
class Chosen:
    """What a mutant is tried on.

    Attributes:
        tests: names of tests in pytest, in the order in which they run.
        checks: names of checks of the quick parity check.
        left_out: the tests that run the lines, too, but exceed the budget.
        by: how the tests were chosen: by "lines", by the "names" that they bind,
            by the "files" that speak of the module, or by "calls" of the library.
    """

    tests: tuple[str, ...]
    checks: tuple[str, ...]
    left_out: int
    by: str


@dataclass
class Chooser:
    """Chooses by what was recorded.

    Attributes:
        root: the root of the unmutated sources.
        recording: which test and check runs which lines, and how long each takes.
        budget: seconds for the tests of a mutant, by what each took when it was recorded, and as
            many for the checks.
        unsound: the tests and checks, by context, that fail without a mutant when they run alone.
    """

    root: Path
    recording: Recording
    budget: float
    unsound: set[str] = field(default_factory=set)
    _texts: dict[str, str] = field(default_factory=dict)

    def choose(self, mutant: Mutant, tried: Collection[str] = ()) -> Chosen:
        """The tests and checks for a mutant, without those that were tried before.

        Args:
            mutant: the mutant.
            tried: contexts of tests and checks.
        """
        if not mutant.path.endswith(".py"):
            by = "calls"
            found = self._that_call(CALLS.get(Path(mutant.path).name, EVERY_CALL))
        else:
            by = "lines"
            lines = range(mutant.first_line, mutant.last_line + 1)
            found = self._that_run(mutant.path, lines)
            if not found or self._runs_at_import(mutant.path, lines):
                by = "lines" if found else "names"
                found = found | self._that_name(mutant)
            if not found:
                # It may run in a process that a test starts.
                by = "files"
                found = {TEST + test for test in self._of_files(self._files_that_use(mutant.path))}
        # JAX remembers what was traced: other tests of a file run the line when they run alone.
        near = self._near_files(mutant.path)
        running = {n.removeprefix(TEST).partition("::")[0] for n in found if n.startswith(TEST)}
        siblings = self._of_files(running & near)
        found -= self.unsound.union(tried)
        tests = [name.removeprefix(TEST) for name in found if name.startswith(TEST)]
        checks = [name.removeprefix(CHECK) for name in found if name.startswith(CHECK)]
        siblings -= {name.removeprefix(TEST) for name in tried}.union(tests)
        ordered = [*self._nearest(tests, near), *self._nearest(siblings, near)]
        within = self._within_budget(ordered, TEST)
        return Chosen(
            tests=tuple(within),
            checks=tuple(self._within_budget(sorted(checks, key=self._check_seconds), CHECK)),
            left_out=len(set(tests) - set(within)),
            by=by,
        )

    def choose_slow(self, mutant: Mutant, tried: Collection[str] = ()) -> tuple[str, ...]:
        """The slow tests for a mutant: other cases of the tests that run its lines come first.

        Args:
            mutant: the mutant.
            tried: contexts of tests that were tried before.
        """
        chosen = self.choose(mutant, ())
        functions = {test.partition("[")[0] for test in chosen.tests}
        files = self._files_that_use(mutant.path)
        same = [test for test in self.recording.slow if test.partition("[")[0] in functions]
        near = [test for test in self.recording.slow if test.partition("::")[0] in files]
        names = [n for n in dict.fromkeys(spread(same) + spread(near)) if TEST + n not in tried]
        return tuple(names[: max(1, int(self.budget / SLOW_SECONDS))])

    def seconds(self, chosen: Chosen) -> float:
        """How long its tests took when they were recorded."""
        return sum(self.recording.durations[TEST + test] for test in chosen.tests)

    def _that_run(self, path: str, lines: Iterable[int]) -> set[str]:
        by_line = self.recording.contexts(path)
        found: set[str] = set()
        for line in lines:
            found.update(by_line.get(line, ()))
        files = {name.removeprefix(FILE) for name in found if name.startswith(FILE)}
        whole = {TEST + test for test in self._of_files(files)}
        if LIST in found:
            whole |= {name for name in self.recording.durations if name.startswith(CHECK)}
        return whole | {name for name in found if name in self.recording.durations}

    def _runs_at_import(self, path: str, lines: Iterable[int]) -> bool:
        by_line = self.recording.contexts(path)
        return any(IMPORTING in by_line.get(line, ()) for line in lines)

    def _that_name(self, mutant: Mutant) -> set[str]:
        # What runs the lines that name what a statement binds, in its own file and in those that
        # import it, and the test files that name it; of a function's head, what runs its body.
        tree = ast.parse(self._text(mutant.path))
        statement = _statement_at(tree, mutant.first_line)
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = statement.body[0].lineno
            found = self._that_run(mutant.path, range(first, (statement.end_lineno or first) + 1))
            if found:
                return found
        names = _bound_by(statement)
        if not names:
            return set()
        pattern = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
        found = set()
        for path in [mutant.path, *self._importers(mutant.path)]:
            lines = self._text(path).splitlines()
            naming = [i for i, line in enumerate(lines, 1) if pattern.search(line)]
            found |= self._that_run(path, naming)
        files = {file for file in self.recording.files if pattern.search(self._text(file))}
        near = self._files_that_use(mutant.path)
        return found | {TEST + test for test in self._of_files(files & near)}

    def _that_call(self, functions: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for path in self._python_files:
            lines = self._text(path).splitlines()
            naming = [
                i for i, line in enumerate(lines, 1) if any(f'"{f}"' in line for f in functions)
            ]
            if naming:
                found |= self._that_run(path, naming)
        return found

    @cached_property
    def _python_files(self) -> list[str]:
        return [path for path in source_files(self.root) if path.endswith(".py")]

    def _importers(self, path: str) -> list[str]:
        module = _module_of(path)
        return [p for p in self._python_files if p != path and _speaks_of(self._text(p), module)]

    def _near_files(self, path: str) -> set[str]:
        # The test files that speak of the module, or have its name.
        stem = Path(path).stem
        module = _module_of(path)
        near = set()
        for file in self.recording.files:
            name = Path(file).stem
            if path.endswith(".py"):
                speaks = _speaks_of(self._text(file), module)
                is_near = speaks or name.removeprefix("test_") in (stem, stem + "s")
            else:
                generates = Path(path).name == "generation.h"
                is_near = name.startswith(WRITING_TESTS if generates else CPP_TESTS)
            if is_near:
                near.add(file)
        return near

    def _files_that_use(self, path: str) -> set[str]:
        # The test files that speak of a module or, if none does, of those that import it.
        paths = {path}
        while paths:
            files = set[str]().union(*(self._near_files(path) for path in paths))
            wider = paths.union(*(self._importers(path) for path in paths))
            if files or wider == paths:
                return files
            paths = wider
        return set()

    def _of_files(self, files: set[str]) -> set[str]:
        sound = set(self.recording.durations) - self.unsound
        names = [name for name in sound if name.startswith(TEST)]
        tests = [name.removeprefix(TEST) for name in names]
        return {test for test in tests if test.partition("::")[0] in files}

    def _nearest(self, tests: Iterable[str], near: set[str]) -> list[str]:
        def key(test: str) -> tuple[float, str]:
            seconds = self.recording.durations[TEST + test] + OVERHEAD
            return seconds * (1.0 if test.partition("::")[0] in near else FARTHER), test

        return sorted(tests, key=key)

    def _check_seconds(self, check: str) -> float:
        return self.recording.durations[CHECK + check]

    def _within_budget(self, names: Sequence[str], prefix: str) -> list[str]:
        # One at least, however long it takes.
        within: list[str] = []
        total = 0.0
        for name in names:
            total += self.recording.durations[prefix + name] + OVERHEAD
            if within and total > self.budget:
                break
            within.append(name)
        return within

    def _text(self, path: str) -> str:
        if path not in self._texts:
            self._texts[path] = (self.root / path).read_text()
        return self._texts[path]


def spread(tests: Sequence[str]) -> list[str]:
    """The first case of each test function, then the second of each, and so on."""
    by_function: dict[str, list[str]] = {}
    for test in tests:
        by_function.setdefault(test.partition("[")[0], []).append(test)
    rounds = itertools.zip_longest(*by_function.values())
    return [test for cases in rounds for test in cases if test is not None]


def _module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _speaks_of(text: str, module: str) -> bool:
    # "from jaxrnn.nn import layers" or "jaxrnn.nn.layers".
    package, _, name = module.rpartition(".")
    imported = rf"from {re.escape(package)} import [^\n]*\b{re.escape(name)}\b"
    return bool(re.search(rf"\b{re.escape(module)}\b|{imported}", text))


def _statement_at(tree: ast.AST, line: int) -> ast.stmt | None:
    # The innermost statement that has a line.
    found = None
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            if first <= line <= (node.end_lineno or node.lineno):
                found = node  # walked from the outside in
    return found


def _bound_by(statement: ast.stmt | None) -> list[str]:
    # The names that a statement binds, or changes.
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
        targets = [statement.target]
    elif isinstance(statement, ast.Expr):
        targets = [statement.value]
    names = []
    for target in targets:
        for node in ast.walk(target):
            if isinstance(node, ast.Name):
                names.append(node.id)
    return names
