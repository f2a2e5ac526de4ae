"""The command that exports a run's weights for PyTorch."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from jaxrnn.cli import parse_command
from jaxrnn.exchange.files import check_suffix
from jaxrnn.output import check_output
from jaxrnn.runs.exported import export_run, open_run
from jaxrnn.terminal import printable


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a trained model to one file: for PyTorch, by its own names and shapes, and to hand on.

    The file has the vocabulary, the configuration and the prompt, too: `sample`, `evaluate`,
    `import` and `jaxrnn.load_run` take it in place of the run's folder.
    """

    run: Positional[Path]
    """The run's folder, or a file that `export` wrote."""
    file: Positional[Path]
    """The safetensors file to write; `load_state_dict(load_file(FILE), strict=True)` takes it."""
    checkpoint: Literal["best", "last"] = "best"
    """Which checkpoint to use; the last one where there is no best one."""

    def __call__(self) -> int:
        # Before the run is read: a wrong name is what the user can put right first.
        check_suffix(self.file)
        check_output(self.file)
        tensors = export_run(open_run(self.run), self.file, checkpoint=self.checkpoint)
        for name, tensor in tensors.items():
            print(f"{printable(name):24} {tensor.dtype}{list(tensor.shape)}")
        return 0


command = partial(parse_command, Export, "export")
