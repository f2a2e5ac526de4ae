"""A run is told by its identity, not by its path; its history may grow without bound."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from test_faults import TEXT, experiment, finish, run, whole  # noqa: F401  (fixtures)

from jaxrnn import RECIPES, files
from jaxrnn.cli import main
from jaxrnn.cli.train import MOST_THREADS, Train
from jaxrnn.files import (
    LockedError,
    UnreadableError,
    locked,
    parse_json,
    read_regular,
    remove_partial,
    remove_partial_folders,
    write_whole,
)
from jaxrnn.runs import checkpointing, checksums
from jaxrnn.runs.checkpointing import PICTURE, train_run
from jaxrnn.runs.checkpoints import READABLE, load, pack, read
from jaxrnn.runs.environment import POOL, differences
from jaxrnn.runs.history import TAIL, RowLog, RowWriter
from jaxrnn.runs.run import Run, RunError, RunExistsError
from jaxrnn.training.history import Row


def test_a_folder_that_is_replaced_meanwhile_is_left_alone(run, experiment, whole):  # noqa: F811
    """The old process writes nothing more, and the new run stays what it was."""
    progresses = train_run(run, experiment, resume=True)
    next(progresses)
    folder = run.folder
    shutil.rmtree(folder)
    Run.create(folder, experiment, prompt="new")
    for _ in train_run(Run(folder), experiment):
        break
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != files.LOCK}
    with pytest.raises(LockedError, match="was removed or replaced"):
        for _ in progresses:
            pass
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != files.LOCK} == before


def test_no_picture_is_drawn_into_another_runs_folder(run, experiment, whole):  # noqa: F811
    """All is trained and written before the folder is replaced; only the picture is left."""
    progresses = train_run(run, experiment, resume=True, picture=True)
    for progress in progresses:
        if progress.position.epoch == 3:
            break
    folder = run.folder
    shutil.rmtree(folder)
    shutil.copytree(whole, folder)
    with pytest.raises(LockedError, match="was removed or replaced"):
        progresses.close()
    assert not (folder / PICTURE).exists()


def test_the_picture_is_drawn_while_the_folder_is_locked(run, experiment, monkeypatch):  # noqa: F811
    locked_then = []

    def draw(rows, *, title):
        with pytest.raises(LockedError), locked(run.folder):
            pass
        locked_then.append(title)
        return b"picture"

    monkeypatch.setattr(checkpointing, "losses_picture", draw)
    for _ in train_run(run, experiment, resume=True, picture=True):
        pass
    assert locked_then == [run.folder.name]
    assert (run.folder / PICTURE).read_bytes() == b"picture"


def test_a_removed_folder_stops_the_run_in_one_line(run, experiment):  # noqa: F811
    progresses = train_run(run, experiment, resume=True)
    next(progresses)
    shutil.rmtree(run.folder)
    with pytest.raises(LockedError, match="nothing more is written there"):
        for _ in progresses:
            pass
    assert not run.folder.exists()


@pytest.mark.parametrize("named", [True, False], ids=["named", "without a name"])
@pytest.mark.parametrize("name", ["last", "best"])
def test_the_checkpoint_of_another_run_is_refused(run, experiment, whole, name, named):  # noqa: F811
    shutil.copy(Run(whole).path(name), run.path(name))
    if not named:
        state, metadata = load(run.path(name), jax.eval_shape(experiment.fresh_state))
        run.path(name).write_bytes(pack(state, metadata | {"run": None}))
    with pytest.raises(RunError, match="is the checkpoint of another run"):
        run.load_params(name)
    if name == "last":
        with pytest.raises(RunError, match="another run"):
            finish(run, experiment)
    else:
        (said,) = finish(run, experiment)
        assert "another run" in said
        assert "The next validation writes a new one" in said


def test_a_run_without_an_identity_goes_on(run, experiment, whole, monkeypatch):  # noqa: F811
    """As earlier versions made them: no identity, all rows in the checkpoint."""
    monkeypatch.setattr(Run, "identity", None)
    lines = (run.folder / "history.jsonl").read_text().splitlines()
    state, metadata = load(run.path("last"), jax.eval_shape(experiment.fresh_state))
    assert RowLog.from_json(metadata["history"]).rows == len(lines)
    del metadata["run"]
    metadata["history"] = [json.loads(line) for line in lines]
    run.path("last").write_bytes(pack(state, metadata))
    (run.folder / "history.jsonl").unlink()
    assert finish(run, experiment) == []
    rows = (run.folder / "history.jsonl").read_text()
    assert rows == (whole / "history.jsonl").read_text()
    assert 2 in READABLE


def test_a_history_that_cannot_be_read_is_left_as_it_is(run, experiment):  # noqa: F811
    (run.folder / "history.jsonl").unlink()
    os.mkfifo(run.folder / "history.jsonl")
    with pytest.raises(RunError, match=r"Cannot read .*history.jsonl"):
        finish(run, experiment)
    assert (run.folder / "history.jsonl").is_fifo()


def rows_of(count):
    row = Row(epoch=0.1, step=1, train=2.0, gradient_norm=1.0, rate=1e-3, update_ratio=1e-3)
    return [replace(row, step=step) for step in range(count)]


@pytest.mark.slow
def test_a_history_of_30_000_rows_takes_no_more_room_in_a_checkpoint(run, experiment):  # noqa: F811
    writer = RowWriter()
    for row in rows_of(30_000):
        writer.add(row)
    saved = run.load("last", jax.eval_shape(experiment.fresh_state))
    progress = next(iter(train_run(run, experiment, resume=True)))
    before = run.path("last").stat().st_size
    run.save("last", progress, saved.best, writer.log)
    assert run.path("last").stat().st_size < before + 600 * TAIL
    assert run.load("last", jax.eval_shape(experiment.fresh_state)).log.rows == 30_000


def test_a_long_history_that_is_damaged_is_said_and_training_goes_on(run):  # noqa: F811
    lines = [row.line for row in rows_of(TAIL + 500)]
    log = RowLog.of(lines)
    path, said = run.folder / "history.jsonl", []
    path.write_text("".join(lines) + lines[0][:10])
    assert run.restore_history(log, said.append) == lines  # the cut-off line goes
    assert path.read_text() == "".join(lines)
    damaged = lines.copy()
    damaged[-3] = "{}\n"
    path.write_text("".join(damaged))
    assert run.restore_history(log, said.append) == lines  # from the checkpoint
    assert said == []
    damaged[100] = "nonsense\n"
    path.write_text("".join(damaged))
    left = run.restore_history(log, said.append)
    assert len(left) == len(lines) - 1
    assert "of the 1,500 rows before the checkpoint, 1,499 are left" in said[0]


def test_metadata_too_large_for_a_reader_is_never_written(run):  # noqa: F811
    with pytest.raises(ValueError, match="too many to be read"):
        pack({}, {"rows": "x" * (1 << 25)})


WRONG_METADATA = [
    {"position": []},
    {"position": {"epoch": "1"}},
    {"position": {"epoch": -1}},
    {"position": {"epoch": 10**400}},
    {"position": {"average": float("nan")}},
    {"position": {"window": 1.5}},
    {"position": {"window": True}},
    {"position": {"unknown": 1}},
    {"best": "low"},
    {"best": None},
    {"history": None},
    {"history": "all"},
    {"history": {"rows": -1, "sha256": "", "tail": []}},
    {"history": {"rows": "3", "sha256": "", "tail": []}},
    {"history": {"rows": 1, "sha256": "", "tail": ["nonsense"]}},
    {"history": [[1, 2]]},
    {"history": [{"epoch": 1}]},
]


@pytest.mark.parametrize("wrong", WRONG_METADATA, ids=str)
def test_metadata_of_a_wrong_type_is_one_line(run, experiment, wrong):  # noqa: F811
    """A checkpoint with a right checksum, as somebody could make it."""
    like = jax.eval_shape(experiment.fresh_state)
    state, metadata = load(run.path("last"), like)
    for name, value in wrong.items():
        deeper = isinstance(value, dict) and name == "position"
        metadata[name] = metadata[name] | value if deeper else value
    run.path("last").write_bytes(pack(state, metadata))
    with pytest.raises(RunError, match="is damaged") as caught:
        run.load("last", like)
    assert "\n" not in str(caught.value)


def test_there_is_a_last_checkpoint_at_every_instant(tmp_path, monkeypatch):
    path, older = tmp_path / "last", [tmp_path / "last-1", tmp_path / "last-2"]
    moves = []
    original = os.replace

    def watched(source, target):
        original(source, target)
        moves.append(path.exists())

    for number in range(4):
        write_whole(path, bytes([number]), older=older)
        monkeypatch.setattr(files.os, "replace", watched)
    assert moves
    assert all(moves)
    assert [p.read_bytes()[0] for p in (path, *older)] == [3, 2, 1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last", "last-1", "last-2"]


def test_without_links_the_rotation_is_the_same(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(files.os, "link", refuse)
    path, older = tmp_path / "last", [tmp_path / "last-1", tmp_path / "last-2"]
    for number in range(4):
        write_whole(path, bytes([number]), older=older)
    assert [p.read_bytes()[0] for p in (path, *older)] == [3, 2, 1]


def test_of_processes_at_once_each_makes_folders_of_its_own(tmp_path):
    """Each takes the first name that is free, as a training without a name does, 25 times."""
    code = (
        "import itertools, sys\n"
        "from pathlib import Path\n"
        "from jaxrnn.runs.checksums import RunExistsError, make_run_folder\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "for _ in range(25):\n"
        "    for number in itertools.count():\n"
        "        try:\n"
        "            make_run_folder(Path(f'runs/text-{number}'), {'config.json': sys.argv[1]})\n"
        "            break\n"
        "        except RunExistsError:\n"
        "            pass\n"
    )
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(number)], cwd=tmp_path, env=environment, **pipes
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    folders = list((tmp_path / "runs").iterdir())
    assert {folder.name for folder in folders} == {f"text-{number}" for number in range(100)}
    makers = Counter((folder / "config.json").read_text() for folder in folders)
    assert makers == {"0": 25, "1": 25, "2": 25, "3": 25}


def test_a_name_that_is_taken_meanwhile_is_another_runs(tmp_path, monkeypatch, experiment):  # noqa: F811
    """Taken after it was found to be free: the training takes the next one."""
    monkeypatch.chdir(tmp_path)
    rename = os.rename

    def rename_late(source, target):
        monkeypatch.setattr(checksums.os, "rename", rename)
        Run.create(target, experiment)
        rename(source, target)

    monkeypatch.setattr(checksums.os, "rename", rename_late)
    train = Train(config=replace(experiment.config, corpus="text.txt"))
    assert train._created("text", experiment, prompt="the").folder.name == "text-2"
    assert {path.name for path in Path("runs").iterdir()} == {"text", "text-2"}


def test_an_automatic_name_is_no_other_recipes(tmp_path, monkeypatch, experiment):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/stateful-rnn").mkdir(parents=True)
    (tmp_path / "runs/stateful-rnn/config.json").write_text("{}")
    train = Train(recipe="stateful-rnn", config=RECIPES["stateful-rnn"].config)
    created = train._created("stateful-rnn", experiment, prompt="the")
    assert created.folder.name == "stateful-rnn-3"
    with pytest.raises(RunExistsError, match="exists"):
        replace(train, name="stateful-rnn")._created("stateful-rnn", experiment, prompt="the")


def test_the_same_text_may_lie_elsewhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    flags = ["--hidden", "4", "--embedding", "4", "--batch", "4", "--schedule", "1 x 1e-3"]
    flags += ["--min-frequency", "1", "--no-random-bptt"]
    assert main(["train", "--corpus", "text.txt", *flags]) == 0
    (tmp_path / "text.txt").rename(tmp_path / "moved.txt")
    assert main(["train", "--resume", "runs/text"]) == 2
    assert "is not there any more. If it lies elsewhere now, name it with --corpus" in (
        capsys.readouterr().err
    )
    assert main(["train", "--resume", "runs/text", "--corpus", "moved.txt"]) == 0
    assert "is finished" in capsys.readouterr().err
    (tmp_path / "moved.txt").write_text(TEXT + "more")
    assert main(["train", "--resume", "runs/text", "--corpus", "moved.txt"]) == 2
    assert "has changed since the run began" in capsys.readouterr().err


def test_what_a_dead_process_left_is_removed(tmp_path):
    """In a locked folder its files, beside a new run its folders: nobody else's files."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    for name in (f".k.{dead.pid}.partial", f".k.{os.getpid()}.partial", ".k.partial"):
        (tmp_path / name).mkdir()
    (tmp_path / ".picture.png.partial").write_text("a neighbor's")
    remove_partial_folders(tmp_path)
    left = [f".k.{os.getpid()}.partial", ".k.partial", ".picture.png.partial"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(left)
    remove_partial(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(left[:2])


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"x" * 100)
    for path, message in (
        (tmp_path / "pipe", "no regular file"),
        (tmp_path, "no regular file|directory"),
        (tmp_path / "large", "100 bytes, more than the 99"),
    ):
        with pytest.raises((UnreadableError, IsADirectoryError), match=message):
            read_regular(path, at_most=99)
    assert read_regular(tmp_path / "large", at_most=100) == b"x" * 100
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "nothing")


def test_deep_json_is_one_line():
    with pytest.raises(UnreadableError, match=r"nested too deeply|is no JSON"):
        parse_json("[" * 100_000, "the file")
    with pytest.raises(UnreadableError, match=r"the file is no JSON: Expecting value"):
        parse_json("", "the file")


@pytest.mark.parametrize("name", ["config.json", "SHA256SUMS", "vocabulary.json"])
def test_a_pipe_among_the_settings_is_one_line(run, name):  # noqa: F811
    (run.folder / name).unlink()
    os.mkfifo(run.folder / name)
    with pytest.raises(RunError, match=r"no regular file|is not a run"):
        _ = (run.config, run.vocabulary)


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    import errno

    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    said = []
    with locked(tmp_path, said.append):
        pass
    assert len(said) == 1
    assert "has no locks" in said[0]


def test_what_bytes_depend_on_is_recorded_and_compared(run):  # noqa: F811
    recorded = run.computation
    assert {"The version of jax", "threads", "compiled recurrence", "x64", "processor"} <= set(
        recorded
    )
    now = recorded | {"threads": recorded["threads"] + 1, "x64": not recorded["x64"]}
    sentences = differences(recorded, now)
    assert len(sentences) == 2
    assert sentences[0].startswith("threads was ")
    other = recorded | {"The version of numpy": "9.9"}
    (sentence,) = differences(recorded, other)
    assert "The version of numpy was" in sentence
    assert "9.9" in sentence
    assert differences(recorded, recorded) == []


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs processor affinity")
def test_a_run_is_resumed_with_the_threads_that_it_had(tmp_path):
    """Begun with two threads, gone on with on one core: the same bytes as one that was not."""
    (tmp_path / "text.txt").write_text(TEXT * 4)
    flags = ["--corpus", "text.txt", "--hidden", "96", "--batch", "32", "--min-frequency", "1"]
    flags += ["--schedule", "2 x 1e-2", "--prompt", "the", "--no-random-bptt"]
    own = {"PYTHONPATH": os.getcwd(), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    code = (
        "import os, sys\n"
        "if sys.argv[1] == 'one': os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from jaxrnn import cli\n"
        "from jaxrnn.cli import watch\n"
        "original = watch.stop_requests\n"
        "if sys.argv[1] == 'stop':\n"
        "    import contextlib\n"
        "    @contextlib.contextmanager\n"
        "    def at_once():\n"
        "        yield lambda: 15\n"
        "    watch.stop_requests = at_once\n"
        "sys.exit(cli.main(sys.argv[2:]))\n"
    )

    def call(how, *arguments, **variables):
        command = [sys.executable, "-c", code, how, "train", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=os.environ | own | variables, capture_output=True, text=True
        )

    two = {POOL: "2"}
    assert call("all", "--name", "whole", *flags, **two).returncode == 0
    assert call("stop", "--name", "parts", *flags, **two).returncode == 128 + 15
    resumed = call("one", "--resume", "runs/parts")
    assert resumed.returncode == 0, resumed.stderr
    expected, _ = read(tmp_path / "runs/whole/last.safetensors")
    got, _ = read(tmp_path / "runs/parts/last.safetensors")
    assert expected.keys() == got.keys()
    assert all(expected[name].tobytes() == got[name].tobytes() for name in expected)


@pytest.mark.parametrize(
    ("recorded", "chosen", "used"),
    [
        (3, None, "3"),
        (3, "2", "2"),
        (1, None, "1"),
        (MOST_THREADS, None, str(MOST_THREADS)),
        (MOST_THREADS + 1, None, None),
        (0, None, None),
        ("3", None, None),
        (None, None, None),
    ],
)
def test_a_resumed_run_has_as_many_threads_as_it_had(monkeypatch, recorded, chosen, used):
    """Unless the environment says how many."""
    monkeypatch.setenv(POOL, chosen or "to be restored")
    if chosen is None:
        monkeypatch.delenv(POOL)
    seen = []

    def look(**options):
        seen.append(os.environ.get(POOL))
        raise RunError("seen")

    run = SimpleNamespace(computation={"threads": recorded}, experiment=look)  # noqa: F811
    with pytest.raises(RunError, match="seen"):
        Train()._resumed(run)
    assert seen == [used]
