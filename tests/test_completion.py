"""The completion script of a shell has all commands, and bash completes by it."""

import shutil
import subprocess

import pytest

from jaxrnn import cli
from jaxrnn.cli import completion

COMPLETED = """
source "$1"
shift
for line in "$@"; do
  read -ra COMP_WORDS <<< "$line"
  COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
  COMP_LINE=$line COMP_POINT=${#line} COMPREPLY=()
  _tyro_jaxrnn
  echo "${COMPREPLY[*]}"
done
complete -p jaxrnn
"""
"""What bash makes of some beginnings of lines, and by what it completes the command."""
MODULES = {name: module for name, (module, _) in cli.COMMANDS.items()}


def test_every_command_has_options_to_complete():
    for name, module in MODULES.items():
        assert callable(completion.options_of(name, module)), name


def test_bash_completes_commands_options_and_choices(tmp_path, capsys):
    if not shutil.which("bash") or not shutil.which("python3"):
        pytest.skip("needs bash and python3")
    assert cli.main(["--print-completion", "bash"]) == 0
    script = tmp_path / "jaxrnn"
    script.write_text(capsys.readouterr().out)
    lines = ["jaxrnn sa", "jaxrnn sample --temp", "jaxrnn train --opt", "jaxrnn train --split c"]
    ran = subprocess.run(
        ["bash", "-c", COMPLETED, "bash", str(script), *lines],
        capture_output=True,
        text=True,
        check=True,
    )
    *completed, registered = ran.stdout.splitlines()
    assert completed == ["sample", "--temperature", "--optimizer", "contiguous"]
    # Elsewhere, as for a run's folder, names of files.
    assert registered == "complete -o bashdefault -o default -F _tyro_jaxrnn jaxrnn"
    assert ran.stderr == ""


def test_another_shell_is_said(capsys):
    for given in (["tcsh"], [], ["bash", "zsh"]):
        assert cli.main(["--print-completion", *given]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err == (
            f"error: --print-completion takes one of bash, zsh, fish; got {' '.join(given)!r}.\n"
        )


@pytest.mark.slow
@pytest.mark.parametrize("shell", completion.SHELLS)
def test_every_script_names_every_command(shell):
    script = completion.completion_script(shell, MODULES)
    assert [name for name in cli.COMMANDS if name not in script] == []
