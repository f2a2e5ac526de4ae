"""The notebooks run from top to bottom in a kernel, and what is stored of them can be read."""

import ast
import base64
import io
import json
import re
from pathlib import Path

import nbformat
import notebooks
import numpy as np
import pytest
from nbclient.exceptions import CellExecutionError
from PIL import Image

import jaxrnn

SCRIPTS = Path(__file__).parents[2] / "scripts"
LESSON = SCRIPTS / "lesson" / "lesson.ipynb"
SESSION = SCRIPTS / "examples" / "first_session.ipynb"
PORT = SCRIPTS / "examples" / "verify_a_port.ipynb"
SHORT = {"CORPUS": "python-docs", "CHARACTERS": 30_000, "UPDATES": 3, "HIDDEN": 16}
LARGEST = 1_000_000
"""Bytes of a notebook with its outputs."""


def test_the_lesson_begins_in_a_kernel(tmp_path):
    """Its first cells, and its own assertion that the first model equals the library's."""
    then = "assert (corpus.name, len(text), HIDDEN) == ('python-docs', CHARACTERS, 16)"
    executed = notebooks.execute(
        LESSON, tmp_path, parameters=SHORT, until="three-same", then=then, timeout=100
    )
    assert "Char3Model and jaxrnn.Char3Model: equal to" in notebooks.text_of(executed)


@pytest.mark.slow
def test_the_lesson_runs_from_top_to_bottom(tmp_path):
    """Its own assertions compare each model with the library's."""
    then = """
    names = ["Char3Model", "CharLoopModel", "CharLoopConcatModel"]
    assert all(issubclass(globals()[name], jaxrnn.CharModel) for name in names)
    for state, history in ((rnn_state, rnn_history), (qrnn_state, qrnn_history)):
        assert int(state.step) == history[-1].step == UPDATES
        assert history[-1].validation < 5
    """
    executed = notebooks.execute(LESSON, tmp_path, parameters=SHORT, then=then, timeout=300)
    assert notebooks.text_of(executed).count("there is nothing to compare with") == 9
    assert set(notebooks.pictures_of(executed)) == {
        "identity-gradient", "streams-picture", "bptt-picture", "stateful-plot", "all",
    }  # fmt: skip


@pytest.mark.slow
def test_the_first_session_runs_from_top_to_bottom(tmp_path):
    parameters = {"UPDATES": 8, "HIDDEN": 16}
    then = """
    assert int(state.step) == int(run.state.step) + UPDATES
    assert len(comparison.records()) >= 2
    """
    executed = notebooks.execute(SESSION, tmp_path, parameters=parameters, then=then, timeout=300)
    assert {"plot", "measure", "compare-plot"} <= set(notebooks.pictures_of(executed))
    assert "gru" in notebooks.text_of(executed)


@pytest.mark.parametrize("path", [LESSON, SESSION], ids=lambda path: path.stem)
def test_every_cell_is_python_that_names_only_what_is_public(path):
    for code in notebooks.code_of(path).values():
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("jaxrnn")
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "jaxrnn" or node.attr in jaxrnn.__all__, node.attr


@pytest.mark.parametrize("path", [LESSON, SESSION], ids=lambda path: path.stem)
def test_every_file_that_is_linked_is_there(path):
    for cell in notebooks.read(path).cells:
        if cell.cell_type == "markdown":
            for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", cell.source):
                assert (path.parent / link).exists(), link


def test_the_lesson_names_what_the_course_calls_each_thing():
    words = LESSON.read_text(encoding="utf-8")
    for name in (
        "n_fac", "n_hidden", "set_lrs", "get_next", "get_next_n", "nll_loss_seq", "repackage_var",
        "Field", "LanguageModelData", *(model for model in jaxrnn.MODELS if model != "CharLM"),
    ):  # fmt: skip
        assert name in words


@pytest.mark.parametrize("path", [LESSON], ids=lambda path: path.stem)
def test_what_is_stored_is_a_whole_execution_and_small(path):
    stored = path.read_text(encoding="utf-8")
    assert len(stored) < LARGEST
    cells = [cell for cell in notebooks.read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert "there is nothing to compare with" not in notebooks.text_of(notebooks.read(path))
    printed = json.dumps([{k: v for k, v in o.items() if k != "data"} for o in outputs])
    assert not re.search(r"/(home|root|tmp|Users)/", printed)


def test_parameters_are_replaced_and_unknown_ones_refused():
    notebook = notebooks.read(LESSON)
    changed = notebooks.with_parameters(notebook, {"CHARACTERS": 7, "CORPUS": "human-numbers"})
    (cell,) = [cell for cell in changed.cells if cell.id == "parameters"]
    values: dict = {}
    exec(cell.source, values)
    assert (values["CHARACTERS"], values["CORPUS"]) == (7, "human-numbers")
    with pytest.raises(ValueError, match="no parameters EPOCHS"):
        notebooks.with_parameters(notebooks.read(LESSON), {"EPOCHS": 1})


@pytest.mark.slow
def test_a_cell_that_fails_is_an_error_with_its_message(tmp_path):
    path = tmp_path / "failing.ipynb"
    cells = [nbformat.v4.new_code_cell(code) for code in ("print('before')", "1 / 0")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    with pytest.raises(CellExecutionError, match="division by zero"):
        notebooks.execute(path, tmp_path)


def test_outputs_are_stored_without_what_only_an_execution_has():
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 4), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png")
    encoded = base64.b64encode(file.getvalue()).decode()
    new = nbformat.v4.new_output
    row = {"text/html": "<pre>    1   2.0\n</pre>", "text/plain": "    1   2.0\n"}
    cell = nbformat.v4.new_code_cell(
        "fit()",
        outputs=[
            new("stream", name="stdout", text="epoch\n"),
            new("display_data", row),
            new("display_data", {"image/png": encoded, "text/plain": "<Figure at 0x7f00>"}),
        ],
        metadata={"execution": {"iopub.status.busy": "2020-01-01"}, "tags": ["kept"]},
    )
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    cleaned = notebooks.cleaned(notebook)
    nbformat.validate(cleaned)
    assert set(cleaned.metadata) == {"kernelspec", "language_info"}
    assert cell.metadata == {"tags": ["kept"]}
    table, picture = cell.outputs
    assert table == new("stream", name="stdout", text="epoch\n    1   2.0\n")
    assert set(picture.data) == {"image/png"}
    stored = Image.open(io.BytesIO(base64.b64decode(picture.data["image/png"])))
    assert stored.size == (60, 40)
    assert len(stored.getcolors()) <= notebooks.COLORS
