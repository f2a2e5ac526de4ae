"""Random mutants in a short form: ./scripts/random-mutants is the long one."""

import itertools
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from coverage import CoverageData
from random_mutants import recorder
from random_mutants.__main__ import is_wanted
from random_mutants.choice import Chooser, spread
from random_mutants.compiler import Compiler
from random_mutants.cpp_places import cpp_places
from random_mutants.mutants import NUMERICS, SHARES, Mutant, all_places, draw
from random_mutants.places import KINDS, Edit, edited
from random_mutants.python_places import python_places
from random_mutants.recorder import CHECK, FILE, IMPORTING, TEST, Recording
from random_mutants.report import read_reasons, report
from random_mutants.results import Attempt, Result, Results
from random_mutants.trial import Folders, Trials, judged, scratch_copy
from random_mutants.worker import Progress

ROOT = Path(__file__).parents[2]

# Per kind a source, and everything that it becomes.
PYTHON = {
    "operator": [
        ("y = a + b", ["y = a - b"]),
        ("y = a * b ** c", ["y = (a + b ** c)", "y = a * (b * c)"]),
        ("y = (a) // (b)", ["y = (a) % (b)"]),
        ("y = f(-a)", ["y = f(a)"]),
        ("y = 'a' + b", []),
    ],
    "comparison": [
        ("y = a < b <= c", ["y = a <= b <= c", "y = a < b < c"]),
        ("y = a is not b", ["y = a is b"]),
        ("y = a == b", ["y = a != b"]),
    ],
    "boolean": [
        ("y = a and b and c", ["y = a or b or c"]),
        ("y = not a", ["y = bool(a)"]),
    ],
    "constant": [
        ("y = 3", ["y = 4", "y = 2"]),
        ("y = 0.5", ["y = 0.75"]),
        ("y = 0.0", ["y = 1.0"]),
        ("y = 1e-05", ["y = 0.01", "y = 1e-08"]),
        ("y = True", ["y = False"]),
        ("y: Literal[3] = a", []),
        ("def f(a: Literal[3] = 5): pass", ["def f(a: Literal[3] = 6): pass"]),
    ],
    "index": [
        ("y = a[i]", ["y = a[i + 1]", "y = a[i - 1]"]),
        ("y = a[b : c + d]", ["y = a[b + 1 : c + d]", "y = a[b : c + d - 1]"]),
        ("y = Sequence[Step]", []),
    ],
    "exchange": [
        ("y = f(a, b, c)", ["y = f(b, a, c)", "y = f(a, c, b)"]),
        ("y = f(a, a)", []),
        ("y = f(*a, b)", []),
    ],
    "keyword": [
        ("y = f(a, b=1, c=d)", ["y = f(a, c=d)", "y = f(a, b=1)"]),
        ("y = zip(a, b, strict=True)", []),
        ("y = a.get(mode='fill', repr=b)", ["y = a.get(repr=b)"]),
        ('y = a.get(mode="promise_in_bounds")', []),
    ],
    "branch": [
        ("y = a if b else c", ["y = a if not (b) else c"]),
        ("y = [a for a in b if c]", ["y = [a for a in b if not (c)]"]),
        ("if a:\n    pass", ["if not (a):\n    pass"]),
    ],
    "deletion": [
        ("f(a)", ["pass"]),
        ("a += b", ["pass"]),
        ("_log.warning(a)", []),
    ],
    "extreme": [
        ("y = max(a, b)", ["y = min(a, b)"]),
        ("y = np.argmin(a)", ["y = np.argmax(a)"]),
    ],
    "result": [
        ("def f():\n    return a, b", ["def f():\n    return b, a"]),
    ],
}
CASES = [(kind, *case) for kind, cases in PYTHON.items() for case in cases]

CPP = [
    ("operator", "x = a * b;", "x = a + b;"),
    ("comparison", "for (; i < n; ++i) {}", "for (; i <= n; ++i) {}"),
    ("boolean", "return a && b;", "return a || b;"),
    ("constant", "float x = 0.5f;", "float x = 0.75f;"),
    ("index", "x = a[i];", "x = a[i + 1];"),
    ("exchange", "x = f(a, b);", "x = f(b, a);"),
    ("branch", "if (a(b)) return;", "if (!(a(b))) return;"),
    ("deletion", "{ f(a); }", "{ ; }"),
    ("extreme", "x = std::max<long>(a, 1);", "x = std::min<long>(a, 1);"),
]


def mutated(find, kind, source):
    """Every mutant of a kind of a source."""
    source = source.encode()
    places = [place for place in find(source) if place.kind == kind]
    return [edited(source, way).decode() for place in places for way in place.ways]


@pytest.mark.parametrize(("kind", "source", "expected"), CASES)
def test_a_kind_of_mutation_changes_python_in_every_way_that_it_can(kind, source, expected):
    found = mutated(python_places, kind, source)
    assert set(expected) <= set(found) if expected else not found


@pytest.mark.parametrize(("kind", "source", "expected"), CPP)
def test_a_kind_of_mutation_changes_cpp(kind, source, expected):
    assert expected in mutated(cpp_places, kind, source)


@pytest.mark.parametrize(
    "source",
    [
        '"""Of 3 + 4."""',
        "raise ValueError(a + 3)",
        "y = f'{a + 3:.2f}'",
        "__all__ = [a + 3]",
        "if TYPE_CHECKING:\n    y = a + 3",
        "if __name__ == '__main__':\n    y = a + 3",
        "@overload\ndef f(a=3): pass",
        "@dataclass(frozen=True)\nclass A:\n    pass",
        "def f(a: A[3]) -> B[3]: pass",
        "import a",
    ],
)
def test_what_does_not_run_is_not_mutated_in_python(source):
    assert python_places(source.encode()) == []


@pytest.mark.parametrize("source", ["// a + 3", "#if A < 3", 'f("a + 3");', "Vec<T> a;", "T* a;"])
def test_what_does_not_run_is_not_mutated_in_cpp(source):
    kinds = {place.kind for place in cpp_places(source.encode())}
    assert kinds <= {"deletion"}


def test_every_kind_of_mutation_is_tested():
    assert set(PYTHON) == set(KINDS)


@pytest.fixture(scope="module")
def drawn():
    """The first mutants of a seed."""
    places = all_places(ROOT)

    def first(seed, count):
        # C++ is taken as it comes: to compile it takes seconds.
        mutants = draw(ROOT, places, seed=seed, compiles=lambda path, contents: True)
        return list(itertools.islice(mutants, count))

    return first


def test_a_seed_gives_the_same_mutants_and_a_longer_draw_begins_with_them(drawn):
    few = drawn(5, 20)
    assert few == drawn(5, 30)[:20]
    assert few != drawn(6, 20)
    assert len({(mutant.path, mutant.edits) for mutant in few}) == 20


@pytest.mark.slow
def test_areas_are_drawn_by_their_shares(drawn):
    mutants = drawn(0, 200)
    for area, share in SHARES.items():
        count = sum(mutant.area == area for mutant in mutants)
        assert abs(count / 200 - share) < 4 * (share * (1 - share) / 200) ** 0.5
    rooms = {m.room.partition("/")[2] for m in mutants if m.area == "numerics"}
    assert rooms == set(NUMERICS)


def test_a_mutant_is_another_program(drawn):
    for mutant in drawn(0, 40):
        assert mutant.source(ROOT) != (ROOT / mutant.path).read_bytes()
        assert mutant.diff(ROOT).startswith("@@")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.slow
def test_cpp_that_does_not_compile_or_is_the_same_is_not_drawn(tmp_path):
    compiles = Compiler(ROOT, tmp_path)
    path = "jaxrnn/recurrent/csrc/sizes.h"
    source = (ROOT / path).read_bytes()
    assert not compiles(path, source + b"// a comment\n")
    assert not compiles(path, source.replace(b"struct Block", b"struct", 1))
    assert compiles(path, source + b"inline int nothing_calls_it() { return 1; }\n")


# A program of one module, tested by two files.
MODULE = """\
LIMIT = 3


def within(value, least=0):
    return least <= value < LIMIT


def unused(value):
    return value + 1
"""
LINES = {5: ("tests/test_module.py::test_limit", "tests/test_other.py::test_short")}
DURATIONS = {
    "tests/test_module.py::test_limit": 0.2,
    "tests/test_module.py::test_sibling": 0.1,
    "tests/test_other.py::test_short": 0.1,
    "tests/test_other.py::test_nothing": 0.1,
}


def add_lines(data, path, lines_by_context):
    for context, lines in lines_by_context.items():
        data.set_context(context)
        data.add_lines({path: lines})


@pytest.fixture
def chooser(tmp_path):
    (tmp_path / "jaxrnn").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "jaxrnn/module.py").write_text(MODULE)
    (tmp_path / "tests/test_module.py").write_text("from jaxrnn.module import within\n")
    (tmp_path / "tests/test_other.py").write_text("import jaxrnn\n")
    tests = CoverageData(str(tmp_path / "tests.db"))
    by_context = {IMPORTING: [1, 4, 8], FILE + "tests/test_other.py": [9]}
    for line, names in LINES.items():
        by_context |= {TEST + name: [line] for name in names}
    add_lines(tests, "jaxrnn/module.py", by_context)
    tests.write()
    checks = CoverageData(str(tmp_path / "checks.db"))
    add_lines(checks, "jaxrnn/module.py", {CHECK + "values: a": [5]})
    checks.write()
    recorded = {
        "tests": {TEST + name: seconds for name, seconds in DURATIONS.items()},
        "checks": {CHECK + "values: a": 1.0},
    }
    files = {name.partition("::")[0] for name in DURATIONS}
    for part, durations in recorded.items():
        fields = {"files": sorted(files), "durations": durations}
        (tmp_path / f"{part}.json").write_text(json.dumps(fields))
    (tmp_path / "commit").write_text("a1b2")
    return Chooser(tmp_path, Recording.read(tmp_path), budget=10.0)


def mutant_at(line, path="jaxrnn/module.py"):
    return Mutant(0, path, "constant", line, line, (Edit(0, 1, "M"),))


def test_the_tests_that_run_a_line_are_chosen_the_nearest_first_and_then_their_siblings(chooser):
    chosen = chooser.choose(mutant_at(5))
    assert chosen.by == "lines"
    assert chosen.tests == (
        "tests/test_module.py::test_limit",
        "tests/test_other.py::test_short",
        "tests/test_module.py::test_sibling",
    )
    assert chosen.checks == ("values: a",)


@pytest.mark.parametrize("line", [1, 4])
def test_a_line_that_runs_at_import_stands_for_those_that_use_it(chooser, line):
    chosen = chooser.choose(mutant_at(line))
    assert chosen.by == "names"
    assert "tests/test_module.py::test_limit" in chosen.tests
    assert chosen.checks == ("values: a",)


def test_a_line_that_makes_the_cases_of_a_file_stands_for_its_tests(chooser):
    chosen = chooser.choose(mutant_at(9))
    assert chosen.by == "lines"
    assert {test.partition("::")[0] for test in chosen.tests} == {"tests/test_other.py"}


def test_of_a_line_that_nothing_was_seen_to_run_the_files_that_speak_of_it_are_chosen(chooser):
    chosen = chooser.choose(mutant_at(10))
    assert chosen.by == "files"
    assert {test.partition("::")[0] for test in chosen.tests} == {"tests/test_module.py"}
    assert chosen.checks == ()


def test_no_more_tests_are_chosen_than_there_is_time_for(chooser):
    chooser.budget = 0.3
    chosen = chooser.choose(mutant_at(5))
    assert chosen.tests == ("tests/test_module.py::test_limit",)
    assert chosen.left_out == 1


def test_what_was_tried_before_is_not_chosen_again(chooser):
    before = [TEST + "tests/test_module.py::test_limit", CHECK + "values: a"]
    chosen = chooser.choose(mutant_at(5), before)
    assert chosen.tests == ("tests/test_other.py::test_short", "tests/test_module.py::test_sibling")
    assert chosen.checks == ()


def test_other_cases_of_the_tests_that_run_a_line_are_the_slow_ones(chooser):
    slow = (
        "tests/test_module.py::test_far",
        "tests/test_other.py::test_short[a]",
        "tests/test_other.py::test_short[b]",
        "tests/test_else.py::test_nothing",
    )
    chooser.recording = replace(chooser.recording, slow=slow)
    assert chooser.choose_slow(mutant_at(5)) == (slow[1], slow[2], slow[0])
    assert chooser.choose_slow(mutant_at(5), [TEST + slow[1]]) == (slow[2], slow[0])
    chooser.budget = 2.0
    assert len(chooser.choose_slow(mutant_at(5))) == 1


def test_cases_are_spread_over_test_functions():
    assert spread(["f[a]", "f[b]", "g[a]"]) == ["f[a]", "g[a]", "f[b]"]


def test_a_second_attempt_goes_on_from_the_first():
    both = replace(CAUGHT, tried=("test_c",)).after(RAN)
    assert (both.chosen, both.ran, both.tried) == (4, 3, ("test_a", "test_b", "test_c"))
    assert both.failed == CAUGHT.failed


def test_what_fails_without_a_mutant_is_not_chosen(chooser):
    chooser.unsound |= {TEST + "tests/test_module.py::test_limit", CHECK + "values: a"}
    chosen = chooser.choose(mutant_at(5))
    assert chosen.tests == ("tests/test_other.py::test_short", "tests/test_module.py::test_sibling")
    assert chosen.checks == ()


@pytest.fixture
def repository(tmp_path):
    root = tmp_path / "root"
    (root / "tests").mkdir(parents=True)
    (root / "jaxrnn").mkdir()
    names = ("tests/test_a.py", "tests/test_b.py", "jaxrnn/c.py")
    for name in names:
        (root / name).write_text("old")
    git(root, "init", "-q")
    return root


def git(root, *arguments):
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", "-C", str(root), *author, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit_all(root):
    git(root, "add", ".")
    git(root, "commit", "-qm", "A")
    return git(root, "rev-parse", "HEAD")


def test_only_changed_tests_are_recorded_again(repository, tmp_path):
    old = commit_all(repository)
    (repository / "tests/test_b.py").write_text("new")
    new = commit_all(repository)
    durations = {TEST + "tests/test_a.py::one": 1.0, TEST + "tests/test_b.py::two": 2.0}
    files = ["tests/test_a.py", "tests/test_b.py"]
    part = tmp_path / "tests-0.json"
    part.write_text(json.dumps({"files": files, "durations": durations}))
    recorder._forget_changed(repository, tmp_path, old, new)
    assert json.loads(part.read_text()) == {
        "files": ["tests/test_a.py"],
        "durations": {TEST + "tests/test_a.py::one": 1.0},
    }


def test_lines_of_other_sources_are_refused(repository, tmp_path):
    old = commit_all(repository)
    (repository / "jaxrnn/c.py").write_text("new")
    new = commit_all(repository)
    with pytest.raises(ValueError, match=r"jaxrnn/c\.py changed since: remove it"):
        recorder._forget_changed(repository, tmp_path, old, new)
    with pytest.raises(ValueError, match="is not there any more"):
        recorder._forget_changed(repository, tmp_path, "0" * 40, new)


def test_lines_recorded_only_in_part_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has no recorded lines; record them with --record"):
        Recording.read(tmp_path)


@pytest.mark.parametrize(
    ("progress", "seconds", "expected"),
    [
        (Progress(running="a"), 30.0, ""),
        (Progress(running="a"), 100.0, "time: no end after 100 s, usually 2.0 s"),
        (Progress(running="a", failed="a"), 100.0, ""),
        (Progress(), 100.0, ""),
    ],
)
def test_a_test_that_takes_far_longer_than_without_a_mutant_has_failed(progress, seconds, expected):
    assert judged(progress, now=seconds, usual=2.0) == expected


CAUGHT = Attempt(chosen=2, ran=1, failed="test_a", message="1 != 2", tried=("test_a",))
RAN = Attempt(chosen=2, ran=2, tried=("test_a", "test_b"))


def result(number=0, tests=RAN, checks=RAN):
    return Result(
        seed=3,
        number=number,
        commit="a1b2",
        path="jaxrnn/module.py",
        area="rest of jaxrnn",
        room="jaxrnn",
        kind="constant",
        line=1,
        diff=f"@@ -1 +1 @@\n-LIMIT = 3\n+LIMIT = {4 + number}",
        chosen_by="lines",
        left_out=0,
        recorded_seconds=0.3,
        tests=tests,
        checks=checks,
    )


def test_results_are_read_as_they_were_written_and_of_two_the_last(tmp_path):
    results = Results(tmp_path / "made" / "results.jsonl")
    assert results.read() == []
    for found in (result(1), result(0), result(1, CAUGHT)):
        results.append(found)
    assert results.read() == [result(0), result(1, CAUGHT)]


def test_a_line_cut_short_is_tried_again(tmp_path):
    path = tmp_path / "results.jsonl"
    results = Results(path)
    results.append(result(0))
    results.append(result(1))
    path.write_text(path.read_text()[:-9])
    assert results.read() == [result(0)]


def test_what_was_tried_is_not_tried_again_but_for_survivors_when_asked_for():
    assert is_wanted(None, again=False)
    assert not is_wanted(result(0), again=False)
    assert is_wanted(result(0), again=True)
    assert not is_wanted(result(0, CAUGHT), again=True)


def test_the_report_counts_by_part_and_shows_each_survivor_with_its_reason():
    survivor = result(0)
    caught = [result(1, CAUGHT, CAUGHT), result(2, CAUGHT, RAN), result(3, RAN, CAUGHT)]
    notes = f"# S\n\n## 3-0, in jaxrnn/module.py\n\n```diff\n{survivor.diff}\n```\n\nIt\nis so.\n"
    text = report([survivor, *caught], read_reasons(notes))
    assert "3 of 4 mutants are caught (75%)." in text
    assert "| all | 4 | 75% | 1 | 1 | 1 | 0 | 1 |" in text
    assert survivor.diff in text
    assert "2 of 2 tests ran, chosen by lines: test_a, test_b" in text
    assert "Reason: It is so." in text
    moved = replace(survivor, diff=survivor.diff.replace("-1 +1", "-7 +7"))
    assert "Reason: It is so." in report([moved], read_reasons(notes))
    assert "Reason: not looked at yet" in report([survivor], {})
    assert "no test runs it" in report([result(0, Attempt())], {})


VOCABULARY = "jaxrnn/data/vocabulary.py"
TESTS = "tests/test_vocabulary.py::test_characters_are_sorted_behind_the_padding"


@pytest.mark.slow
def test_a_mutant_is_caught_by_the_test_that_runs_its_line_and_leaves_nothing_behind(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git repository")
    source = (ROOT / VOCABULARY).read_text()
    line = next(i for i, text in enumerate(source.splitlines(), 1) if "sorted(" in text)
    at = source.index("sorted(")
    mutant = Mutant(0, VOCABULARY, "exchange", line, line, (Edit(at, at + 7, "reversed("),))
    recording = Recording(tmp_path, "a1b2", {TEST + TESTS: 1.0}, ("tests/test_vocabulary.py",))
    (tmp_path / "native").mkdir()
    with scratch_copy(ROOT) as scratch:
        folders = Folders(scratch, tmp_path / "native", tmp_path / "programs")
        trials = Trials(folders, Chooser(folders.copy, recording, 10.0), None)
        object.__setattr__(recording, "_data", [])
        found = trials.try_one(mutant, 0)
        assert (folders.copy / VOCABULARY).read_text() == source
    assert found.outcome == "unit tests"
    assert found.tests.failed == TESTS


@pytest.mark.slow
def test_a_test_that_fails_without_a_mutant_is_found_out(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git repository")
    sound = result(0, replace(CAUGHT, failed=TESTS))
    unsound = result(1, replace(CAUGHT, failed=f"{TESTS}_in_vain"))
    names = {TEST + found.tests.failed: 1.0 for found in (sound, unsound)}
    recording = Recording(tmp_path, "a1b2", names, ("tests/test_vocabulary.py",))
    (tmp_path / "native").mkdir()
    with scratch_copy(ROOT) as scratch:
        folders = Folders(scratch, tmp_path / "native", tmp_path / "programs")
        file = folders.copy / "tests/test_vocabulary.py"
        in_vain = "\n\ndef test_characters_are_sorted_behind_the_padding_in_vain():\n    assert 0\n"
        file.write_text(file.read_text() + in_vain)
        trials = Trials(folders, Chooser(folders.copy, recording, 10.0), None)
        assert trials.find_unsound([sound, unsound]) == {TEST + unsound.tests.failed}
