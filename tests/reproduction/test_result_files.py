"""Files of results: what is no regular file, too large or no JSON is one line."""

import json
import os

import pytest
from made_up import published_and, write_finished, write_horizon
from reproduction.findings import Findings, gather, of_page
from reproduction.page import escaped, inline, page
from reproduction.results import ResultError, read_record, result_path
from reproduction.units import Unit

from jaxrnn.runs.resumable import Stopwatch

UNIT = Unit(recipe="loop")


@pytest.fixture
def results(tmp_path):
    """A folder with one finished unit and a horizon."""
    folder = tmp_path / "results"
    folder.mkdir()
    write_finished(folder, UNIT, published_and("loop", 0))
    write_horizon(folder, "float64", [1e-15] * 4, [1e-9] * 4)
    return folder


def spoil(path, how):
    path.unlink(missing_ok=True)
    if how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "deep":
        path.write_bytes(b"[" * 100_000)
    elif how == "huge":
        path.touch()
        os.truncate(path, 1 << 40)  # sparse


HOWS = ["pipe", "folder", "deep", "huge"]


@pytest.mark.parametrize("how", HOWS)
def test_a_file_of_results_that_is_none_is_one_line(results, how):
    readers = {
        result_path(results, UNIT): (lambda: read_record(results, UNIT), lambda: gather(results)),
        results / "results.json": (lambda: of_page(results / "results.json"),),
        next(results.glob("horizon-*.json")): (lambda: gather(results),),
        results / "seconds": (lambda: Stopwatch(results / "seconds"),),
    }
    for path, calls in readers.items():
        there = path.read_bytes() if path.exists() else b"0\n"
        spoil(path, how)
        for call in calls:
            with pytest.raises((ValueError, OSError)) as caught:
                call()
            assert path.name in str(caught.value)
            assert "\n" not in str(caught.value)
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(there)


def test_a_link_to_nothing_among_the_results_is_one_line(results):
    (results / "x_seed0.json").symlink_to(results / "nowhere")
    with pytest.raises(ResultError, match=r"Cannot read .*x_seed0.json: No such file"):
        gather(results)


@pytest.mark.parametrize("text", ["nan", "-1", "inf", "x", ""])
def test_seconds_that_make_no_sense(tmp_path, text):
    (tmp_path / "seconds").write_text(text)
    with pytest.raises(ValueError, match="is damaged"):
        Stopwatch(tmp_path / "seconds")


HOSTILE = '<script>alert(1)</script> **x** [a](https://b.c) `d`\n# e | f \x1b[2J <img src="x">'


def test_texts_of_the_results_are_no_markup_of_the_page(results):
    found = json.loads(gather(results).to_json())
    for place in found["environments"]:
        place["cpu"] = HOSTILE
        place["versions"] = {HOSTILE: HOSTILE}
    for unit in found["units"]:
        unit["corpus_sha256"] = HOSTILE
        unit["date"] = "<b>x</b>\n"
        unit["sample"] = f"```\n{HOSTILE}\n````\n</details>"
    text = page(Findings.of_json(found), "x")
    facts = [line for line in text.splitlines() if line.startswith("- ")]
    outside = [line for line in facts if not line.startswith("- Text")]
    for line in outside:
        assert "<" not in line
        assert "\\*\\*x\\*\\*" in line or "script" not in line
    assert "\x1b" not in "".join(facts)
    assert "&lt;script&gt;" in text
    assert sum("script" in line for line in facts) >= 3
    assert "`````text\n```\n" in text  # a fence longer than any in the text


def test_escaped_text_is_one_line_without_markup():
    assert escaped("Intel(R) Xeon(R) CPU @ 2.20GHz") == "Intel(R) Xeon(R) CPU @ 2.20GHz"
    assert escaped("a_b\n<i>&") == "a\\_b &lt;i&gt;&amp;"
    assert escaped("https://a") == "https:\\//a"
    assert inline("a`b") == "``a`b``"
    assert inline("`") == "`` ` ``"


WRONG = {
    "environments": [{"cpu": 1, "cores": 1, "versions": {}}, {"cpu": "", "cores": 1}],
    "units": [[], {}],
    "starts": [None, [1]],
    "horizons": [[{}]],
    "format": [None, "2", 10**400],
}


@pytest.mark.parametrize(("part", "values"), WRONG.items(), ids=WRONG)
def test_results_of_a_wrong_kind_are_one_line(results, tmp_path, part, values):
    whole = json.loads(gather(results).to_json())
    path = tmp_path / "results.json"
    for value in values:
        path.write_text(json.dumps(whole | {part: [value] if part == "environments" else value}))
        with pytest.raises(ResultError, match="is damaged"):
            of_page(path)
    for name, value in (("sample", 1), ("seconds", float("nan")), ("steps", "1"), ("flow", [1])):
        changed = json.loads(json.dumps(whole))
        changed["units"][0][name] = value
        path.write_text(json.dumps(changed))
        with pytest.raises(ResultError, match=f"{name} makes no sense|not iterable"):
            of_page(path)
