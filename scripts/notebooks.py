"""Executes notebooks from top to bottom in a kernel, and stores their outputs.

    ./scripts/notebooks scripts/lesson/lesson.ipynb

Stored outputs hold what a reader wants to see: text, and small pictures. Times of execution and
the settings of the machine's Python are left out. The tests execute the notebooks in
shortened forms, by other values of the cell that is tagged "parameters".
"""

import ast
import base64
import io
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

PARAMETERS = "parameters"
"""Tag of the cell whose values may be replaced."""
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
# Run as the kernel starts. Without ipywidgets a training shows its table and no bar. With them
# nbclient 0.11 misses the kernel's reply to one cell in twenty that has such a bar, and waits for
# ever: it sends the widget's messages in between on the socket that it waits on.
# (tqdm, which a package of JAX's imports, would warn that they are missing.)
WITHOUT_WIDGETS = """
import sys, warnings
sys.modules["ipywidgets"] = None
warnings.filterwarnings("ignore", message="IProgress not found")
"""
COLORS = 64
"""Number of colors of a stored picture: enough for curves and letters."""


def read(path: Path) -> Any:
    """The notebook in a file."""
    return nbformat.read(path, as_version=4)


def code_of(path: Path) -> dict[str, str]:
    """The code of each cell by the cell's id."""
    return {cell.id: cell.source for cell in read(path).cells if cell.cell_type == "code"}


def with_parameters(notebook: Any, parameters: Mapping[str, Any]) -> Any:
    """The same notebook with other values in the cell that is tagged "parameters".

    Args:
        notebook: the notebook.
        parameters: the values by name; the others stay as they are.

    Raises:
        ValueError: if the notebook does not have such a cell, or it does not set a name.
    """
    tagged = [cell for cell in notebook.cells if PARAMETERS in cell.metadata.get("tags", ())]
    if len(tagged) != 1:
        raise ValueError(f'One cell must have the tag "{PARAMETERS}", got {len(tagged)}.')
    (cell,) = tagged
    known = set()
    for statement in ast.parse(cell.source).body:
        if isinstance(statement, ast.Assign):
            known |= {target.id for target in statement.targets if isinstance(target, ast.Name)}
    unknown = sorted(set(parameters) - known)
    if unknown:
        raise ValueError(f"The notebook has no parameters {', '.join(unknown)}.")
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
    return notebook


def execute(
    path: Path,
    folder: Path,
    *,
    parameters: Mapping[str, Any] | None = None,
    until: str | None = None,
    then: str = "",
    on_cell: Callable[[str, str], Any] | None = None,
    timeout: int | None = None,
) -> Any:
    """Execute a notebook in a kernel of this Python.

    Args:
        path: the notebook's file.
        folder: the kernel's working directory.
        parameters: see `with_parameters`.
        until: id of the last cell to execute; the notebook's last if None.
        then: code of a cell that is executed behind the others.
        on_cell: called with each cell's id and code before it is executed.
        timeout: number of seconds for each cell; without a limit if None.

    Returns:
        The notebook with its outputs.

    Raises:
        CellExecutionError: if a cell fails, with its traceback.
    """
    notebook = read(path)
    if parameters:
        notebook = with_parameters(notebook, parameters)
    if until is not None:
        ids = [cell.id for cell in notebook.cells]
        del notebook.cells[ids.index(until) + 1 :]
    if then:
        notebook.cells.append(nbformat.v4.new_code_cell(textwrap.dedent(then)))
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name=KERNEL["name"],
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        extra_arguments=[f"--IPKernelApp.exec_lines={WITHOUT_WIDGETS}"],
    )
    if on_cell is not None:
        client.on_cell_execute = lambda cell, cell_index: on_cell(cell.id, cell.source)
    client.execute()
    return notebook


def text_of(notebook: Any) -> str:
    """All text that the cells have printed."""
    printed = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            printed.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
    return "".join(printed)


def pictures_of(notebook: Any) -> dict[str, bytes]:
    """The pictures by their cell's id, as PNG."""
    pictures = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            encoded = output.get("data", {}).get("image/png")
            if encoded:
                pictures[cell.id] = base64.b64decode(encoded)
    return pictures


def cleaned(notebook: Any) -> Any:
    """The same notebook, whose outputs are small and without what only this execution had."""
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        outputs: list[Any] = []
        for output in cell.outputs:
            kept = _cleaned_output(output)
            same = outputs and kept.output_type == outputs[-1].output_type == "stream"
            if same and kept.name == outputs[-1].name:
                outputs[-1].text += kept.text
            else:
                outputs.append(kept)
        cell.outputs = outputs
    return notebook


def _cleaned_output(output: Any) -> Any:
    """An output as it is stored."""
    data = output.get("data")
    if data is None:
        return output
    # A line of rich's, such as a row of the table of epochs.
    if "text/html" in data and output.output_type == "display_data":
        return nbformat.v4.new_output("stream", name="stdout", text=data["text/plain"])
    if "image/png" in data:
        data["image/png"] = _small(data["image/png"])
        data.pop("text/plain", None)  # the figure's address, or its size in inches
        output.metadata = {}
    return output


def _small(encoded: str) -> str:
    """A PNG with few colors, without the name of the program that made it; both in base64."""
    picture = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    file = io.BytesIO()
    picture.quantize(COLORS).save(file, format="png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main(arguments: Sequence[str]) -> int:
    """Execute the notebooks that are named, each in its folder, and store their outputs."""
    if not arguments or any(not name.endswith(".ipynb") for name in arguments):
        print("usage: ./scripts/notebooks NOTEBOOK.ipynb ...", file=sys.stderr)
        return 2
    for name in arguments:
        path = Path(name)
        print(path, file=sys.stderr)
        notebook = execute(
            path, path.parent, on_cell=lambda ident, code: print(" ", ident, file=sys.stderr)
        )
        nbformat.write(cleaned(notebook), path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
