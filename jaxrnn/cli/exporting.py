"""The command that exports a run's weights for PyTorch."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from jaxrnn.cli import parse_command
from jaxrnn.exchange.files import check_suffix
from jaxrnn.output import check_output
from jaxrnn.runs.run import Run
from jaxrnn.runs.transfer import export_run
from jaxrnn.terminal import printable


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a trained model's weights for PyTorch, by its own names and shapes."""

    run: Positional[Path]
    """The run's folder."""
    file: Positional[Path]
    """The safetensors file to write; `load_state_dict(load_file(FILE), strict=True)` takes it."""
    checkpoint: Literal["best", "last"] = "best"
    """Which checkpoint to use; the last one where there is no best one."""

    def __call__(self) -> int:
        # Before the run is read: a wrong name is what the user can put right first.
        check_suffix(self.file)
        check_output(self.file)
        tensors = export_run(Run(self.run), self.file, checkpoint=self.checkpoint)
        for name, tensor in tensors.items():
            print(f"{printable(name):24} {tensor.dtype}{list(tensor.shape)}")
        return 0


command = partial(parse_command, Export, "export")
