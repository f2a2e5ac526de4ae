"""Faults: killed, full, read-only, locked, damaged. Nothing is lost but time, and it is said."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from stress.kill import (
    COMPARED,
    KillTestError,
    available_processors,
    choose_processors,
    different_files,
    kill_repeatedly,
)
from stress.mutate import mutate_files
from stress.paths import python_path

from jaxrnn import files
from jaxrnn.runs import checkpointing
from jaxrnn.runs.checkpointing import train_run
from jaxrnn.runs.config import Config
from jaxrnn.runs.experiment import prepare
from jaxrnn.runs.run import Run, RunError
from jaxrnn.runs.sampling import sample_run

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 30


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """One for all tests, so that it is compiled once."""
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text(TEXT)
    return prepare(
        Config(
            model="CharSeqStatefulRnn", corpus=str(path), embedding_size=4,
            hidden_size=8,
            batch_size=4,
            random_bptt=False, schedule="3 x 1e-2", min_frequency=1,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(experiment, tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    run = Run.create(tmp_path_factory.mktemp("runs") / "whole", experiment, prompt="the")
    for _ in train_run(run, experiment):
        pass
    return run.folder


@pytest.fixture
def run(experiment, tmp_path, monkeypatch):
    """A run whose checkpoints are written as often as can be, stopped in its third epoch."""
    monkeypatch.setattr(checkpointing, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(checkpointing, "LARGEST_SHARE", 1.0)
    run = Run.create(tmp_path / "runs/fox", experiment, prompt="the")
    progresses = train_run(run, experiment)
    for progress in progresses:
        if progress.position.epoch == 2 and progress.position.window:
            progresses.close()
    return run


def finish(run, experiment):
    """Go on to the end; what was said aloud."""
    said = []
    for _ in train_run(run, experiment, resume=True, emit=said.append):
        pass
    return said


def flip(path, at=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 4
    path.write_bytes(data)


def test_a_run_that_is_killed_twice_ends_the_same_to_the_byte(tmp_path):
    outcome = kill_repeatedly(tmp_path, kills=2, seed=1)
    assert outcome.kills.total() == 2
    assert outcome.different == []


def test_mutated_files_of_a_run_are_read_or_refused_in_one_line(tmp_path):
    mutated = mutate_files(tmp_path, mutations=120, seed=3)
    assert mutated.faults == []
    assert 30 < mutated.refused < 120
    assert set(mutated.kinds) == {"bits", "bytes", "other file", "no file", "meaning", "tensors"}


@pytest.mark.slow
def test_ten_thousand_mutations_are_read_or_refused_in_one_line(tmp_path):
    assert mutate_files(tmp_path, mutations=10_000, seed=4).faults == []


def test_the_command_runs_a_stress_test():
    """The smallest one, as ./scripts/stress starts it once its environment is there."""
    command = [sys.executable, "-m", "stress", "damage", "--flips", "10"]
    environment = {**os.environ, "PYTHONPATH": python_path()}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "10 of 10 flipped bits were noticed." in ran.stdout
    assert "0 mutations of a run's files" in ran.stdout


def test_processors_are_chosen_for_resumed_processes_alone(monkeypatch):
    """The test itself is `./scripts/stress kill --threads`; here, its choices."""
    rng = random.Random(0)
    chosen = [choose_processors([2, 5, 7], ["train", "--resume", "x"], rng) for _ in range(60)]
    assert {len(c) for c in chosen} == {1, 2, 3}
    assert all(set(c) <= {2, 5, 7} for c in chosen)
    assert choose_processors([2, 5, 7], ["train"], rng) == []
    assert choose_processors([], ["train", "--resume", "x"], rng) == []
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pytest.raises(KillTestError, match="does not let a process choose"):
        available_processors()


@pytest.mark.slow
def test_killed_and_resumed_on_other_processors_a_run_ends_the_same_to_the_byte(tmp_path):
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two processors to choose from")
    outcome = kill_repeatedly(tmp_path, kills=20, threads=True)
    assert outcome.kills.total() == 20
    assert outcome.different == []


def test_nothing_is_written_through_a_link_or_into_a_pipe(run, experiment, tmp_path):
    """What somebody put in the place of a file of a run is left alone, in one line."""
    outside = tmp_path / "outside"
    for name in (".lock", "timing.jsonl"):
        path = run.folder / name
        there = path.read_bytes()
        path.unlink()
        path.symlink_to(outside)
        with pytest.raises(RunError, match=f"Cannot write to .*{name} is a link"):
            finish(run, experiment)
        assert not outside.exists()
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(RunError, match="Cannot write to"):
            finish(run, experiment)
        path.unlink()
        path.write_bytes(there)
    (run.folder / ".last.safetensors.partial").symlink_to(outside)
    finish(run, experiment)
    assert not outside.exists()


def test_a_run_that_is_stopped_ends_the_same_to_the_byte(run, experiment, whole):
    assert different_files(run.folder, whole) == list(COMPARED)
    assert finish(run, experiment) == []
    assert different_files(run.folder, whole) == []


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "empty"])
@pytest.mark.parametrize("count", [1, 2])
def test_damaged_checkpoints_are_passed_over_and_it_is_said(run, experiment, whole, damage, count):
    for name in ("last", "last-1")[:count]:
        path = run.path(name)
        if damage == "flip":
            flip(path)
        elif damage == "truncate":
            path.write_bytes(path.read_bytes()[:-1])
        elif damage == "empty":
            path.write_bytes(b"")
        else:
            path.unlink()
    (said,) = finish(run, experiment)
    cause = "There is no checkpoint" if damage == "remove" else "is damaged"
    assert said.count(cause) == count
    assert f"Going on from {run.path(('last-1', 'last-2')[count - 1])}, at step" in said
    assert different_files(run.folder, whole) == []


def test_without_any_whole_checkpoint_the_run_is_refused_in_one_line(run, experiment):
    for name in ("last", "last-1", "last-2"):
        flip(run.path(name))
    with pytest.raises(RunError, match="has no whole checkpoint to go on from") as caught:
        finish(run, experiment)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [flip, os.unlink, lambda path: os.truncate(path, 10)])
def test_a_damaged_history_is_put_back(run, experiment, whole, damage):
    damage(run.folder / "history.jsonl")
    finish(run, experiment)
    assert different_files(run.folder, whole) == []


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", [flip, os.unlink, lambda path: os.truncate(path, 10)])
def test_damaged_settings_are_refused(run, name, damage):
    before = run.path("last").read_bytes()
    damage(run.folder / name)
    with pytest.raises(RunError, match=r"damaged or was changed|Cannot read|is not a run"):
        run.experiment()
    with pytest.raises(RunError):
        run.load_params()
    assert run.path("last").read_bytes() == before


def test_every_bit_of_the_settings_counts(run):
    for name in ("config.json", "SHA256SUMS"):
        path = run.folder / name
        data = path.read_bytes()
        for at in range(0, len(data), 7):
            flip(path, at)
            with pytest.raises(RunError):
                _ = (run.config, run.vocabulary)
            path.write_bytes(data)
    assert run.config.hidden_size == 8


def test_a_damaged_best_checkpoint_is_refused_or_written_anew(run, experiment):
    flip(run.path("best"))
    with pytest.raises(RunError, match=r"best.safetensors is damaged: .* --checkpoint last"):
        run.load_params()
    assert run.load_params("last")
    (said,) = finish(run, experiment)
    assert "The next validation writes a new one" in said
    assert run.load_params()


def test_a_run_without_any_checkpoint_yet_starts_from_the_beginning(experiment, whole, tmp_path):
    run = Run.create(tmp_path / "fresh", experiment, prompt="the")
    assert finish(run, experiment) == []
    assert different_files(run.folder, whole) == []


def test_a_changed_corpus_is_refused_with_both_checksums(run, experiment, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(TEXT + "More.\n")
    config = json.loads((run.folder / "config.json").read_text())["config"]
    (tmp_path / "copy.txt").write_text(TEXT)
    changed = prepare(Config(**config | {"corpus": str(tmp_path / "copy.txt")}))
    again = Run.create(tmp_path / "runs/again", changed)
    (tmp_path / "copy.txt").write_text(TEXT + "More.\n")
    with pytest.raises(RunError, match="has changed since the run began") as caught:
        again.experiment()
    assert changed.corpus_sha256 in str(caught.value)
    assert prepare(Config(**config | {"corpus": str(other)})).corpus_sha256 in str(caught.value)


def test_the_second_process_on_a_folder_is_refused_until_the_first_dies(run, experiment):
    program = (
        "import sys, time; from pathlib import Path; from jaxrnn.files import locked\n"
        f"with locked(Path({str(run.folder)!r})): print('in', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "in\n"
    with pytest.raises(ValueError, match=rf"Process {other.pid} is writing to .*Wait for it"):
        finish(run, experiment)
    other.kill()
    other.communicate()
    assert finish(run, experiment) == []


def refuse(number, *arguments, **options):
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("owner", ["fsync", "replace"])
def test_a_folder_that_cannot_be_written_stops_the_run_and_loses_nothing(
    run, experiment, whole, monkeypatch, number, owner
):
    before = run.path("last").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(files.os, owner, lambda *a: refuse(number))
        with pytest.raises(RunError) as caught:
            finish(run, experiment)
    assert f"Cannot write to {run.folder}: {os.strerror(number)}." in str(caught.value)
    assert "--resume" in str(caught.value)
    assert run.path("last").read_bytes() == before
    assert not list(run.folder.glob(".*.partial"))
    finish(run, experiment)
    assert different_files(run.folder, whole) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 kB of its own, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full_stops_the_run_and_loses_nothing(
    run, experiment, whole, small_disk
):
    folder = small_disk / "fox"
    shutil.copytree(run.folder, folder)
    left = shutil.disk_usage(small_disk).free
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * left)
    with pytest.raises(RunError, match="No space left on device"):
        finish(Run(folder), experiment)
    filler.unlink()
    finish(Run(folder), experiment)
    assert different_files(folder, whole) == []


def test_a_read_only_folder_can_be_read_but_not_trained_in(run, experiment, small_disk):
    folder = small_disk / "fox"
    shutil.copytree(run.folder, folder)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(RunError, match="Read-only file system"):
        finish(Run(folder), experiment)
    with pytest.raises(RunError, match=r"Cannot make .*new: Read-only file system"):
        Run.create(small_disk / "new", experiment)
    assert len(sample_run(Run(folder), None, length=5)[0]) == len("the") + 5


def test_a_clock_that_is_set_back_changes_nothing(experiment, whole, tmp_path, monkeypatch):
    hours = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: next(hours))
    monkeypatch.setattr(time, "perf_counter", lambda: 1.0)  # one that stands still
    run = Run.create(tmp_path / "back", experiment, prompt="the")
    for _ in train_run(run, experiment):
        pass
    assert different_files(run.folder, whole) == []


def test_a_run_appears_whole_or_not_at_all(experiment, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", lambda *a: refuse(errno.ENOSPC))
        with pytest.raises(RunError, match=r"Cannot make .*fox: No space left on device"):
            Run.create(tmp_path / "runs/fox", experiment)
    assert list((tmp_path / "runs").iterdir()) == []
    Run.create(tmp_path / "runs/fox", experiment)
    with pytest.raises(RunError, match="exists"):
        Run.create(tmp_path / "runs/fox", experiment)


def test_an_interrupt_in_the_middle_of_a_write_loses_nothing(run, experiment, whole, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            finish(run, experiment)
    finish(run, experiment)
    assert different_files(run.folder, whole) == []


def test_the_history_says_how_healthy_training_is(whole, experiment):
    rows = Run(whole).history
    assert [row.epoch for row in rows if row.validation] == [1, 2, 3]
    assert len(rows) == 27  # 34 steps an epoch, a row after every fourth
    assert all(0 < row.update_ratio < 1 for row in rows)
    assert all(0 <= row.saturated <= 1 for row in rows)
    assert np.isfinite([row.gradient_norm for row in rows]).all()
    assert jax.tree.all(
        jax.tree.map(lambda a: bool(np.isfinite(a).all()), Run(whole).load_params())
    )
