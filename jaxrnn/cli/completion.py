"""The completion script of a shell, for all commands and their options."""

import contextlib
import importlib
import io
from collections.abc import Mapping
from typing import Any

FLAG = "--print-completion"
SHELLS = ("bash", "zsh", "fish")
BY_FUNCTION = "complete -F "
"""Beginning of the command by which bash's script registers its function."""


def completion_script(shell: str, modules: Mapping[str, str]) -> str:
    """The script that a shell reads to complete commands and options.

    Args:
        shell: one of `SHELLS`.
        modules: the module of each command in this room, by the command's name.

    Raises:
        ValueError: if it is none, or tyro has no script for it.
    """
    if shell not in SHELLS:
        raise ValueError(f"{FLAG} takes one of {', '.join(SHELLS)}; got {shell!r:.40}.")
    from tyro.extras import subcommand_cli_from_dict

    kinds = {name: options_of(name, module) for name, module in modules.items()}
    script = io.StringIO()
    problem = io.StringIO()
    with contextlib.redirect_stdout(script), contextlib.redirect_stderr(problem):
        try:
            subcommand_cli_from_dict(
                kinds, prog="jaxrnn", args=["--tyro-print-completion", shell], config=()
            )
        # It ends the process, even where all is well.
        except SystemExit as stop:
            if stop.code not in (0, None):
                raise ValueError(
                    f"No completion for {shell}: {problem.getvalue()!s:.200}"
                ) from None
    # Where the function knows nothing, as for a run's folder, bash completes names of files.
    return script.getvalue().replace(BY_FUNCTION, "complete -o bashdefault -o default -F ")


def options_of(name: str, module: str) -> Any:
    """The dataclass of a command's options: `FindRate` for "find-rate", in the command's module."""
    class_name = "".join(part.title() for part in name.split("-"))
    return getattr(importlib.import_module(f"jaxrnn.cli.{module}"), class_name)
