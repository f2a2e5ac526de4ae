"""A run that diverged goes on with a smaller rate or clip; what was changed is kept and honored."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stress.kill import COMPARED
from test_faults import flip

from jaxrnn import cli, files
from jaxrnn.cli import watch
from jaxrnn.runs import checkpointing, judging
from jaxrnn.runs.changes import (
    CHANGES,
    Change,
    configs_of,
    moved,
    pack_changes,
    unpack_changes,
    with_changes_checksum,
)
from jaxrnn.runs.checkpointing import train_run
from jaxrnn.runs.checkpoints import load, pack, read
from jaxrnn.runs.config import Config
from jaxrnn.runs.experiment import prepare
from jaxrnn.runs.history import RowLog
from jaxrnn.runs.judging import change_run, is_sensible, last_sensible
from jaxrnn.runs.run import Run, RunError
from jaxrnn.runs.sampling import sample_run
from jaxrnn.runs.saved import RunCheckpoints, Saved
from jaxrnn.training.diagnosis import NonFiniteLossError
from jaxrnn.training.history import Position
from jaxrnn.training.schedules import parse_schedule
from jaxrnn.training.timetable import Budget, Timetable

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 30
TOO_FAST, SLOW = "1 x 1e-2, 2 x 1e30", "1 x 1e-2, sgdr(5e-2, 2)"


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """One for all tests, so that it is compiled once."""
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text(TEXT)
    return prepare(
        Config(
            model="CharLM", cell="relu", optimizer="sgd", corpus=str(path), embedding_size=4,
            hidden_size=8,
            batch_size=4, random_bptt=False, schedule=TOO_FAST, min_frequency=1,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def diverged_once(experiment, tmp_path_factory):
    run = Run.create(tmp_path_factory.mktemp("runs") / "wild", experiment, prompt="the")
    with pytest.raises(NonFiniteLossError):
        train(run, experiment)
    return run.folder


@pytest.fixture
def run(diverged_once, tmp_path):
    """A run that diverged at the beginning of its second epoch."""
    return Run(shutil.copytree(diverged_once, tmp_path / "wild"))


@pytest.fixture
def often(monkeypatch):
    """Checkpoints as often as can be."""
    monkeypatch.setattr(checkpointing, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(checkpointing, "LARGEST_SHARE", 1.0)


def train(run, experiment, **options):
    for _ in train_run(run, experiment, **options):
        pass


def files_of(run):
    return {name: (run.folder / name).read_bytes() for name in (*COMPARED, CHANGES)}


def spoil(run, name="last", scale=1e30):
    """Make the weights of a checkpoint huge: they are finite, and their loss is not."""
    experiment = run.experiment()
    state, metadata = load(run.path(name), jax.eval_shape(experiment.fresh_state))
    huge = jax.tree.map(lambda leaf: jnp.full_like(leaf, scale), state.params)
    state = state._replace(params=huge, step=state.step + 1)
    run.path(name).write_bytes(pack(state, metadata))


@pytest.mark.slow
def test_a_diverged_run_goes_on_with_a_smaller_rate_and_ends_finite(run, experiment):
    changed = change_run(run, experiment, {"schedule": SLOW, "clip": 1.0})
    train(run, changed, resume=True)
    saved = run.load("last", jax.eval_shape(changed.fresh_state))
    assert saved.position.epoch == 4
    assert judging.all_finite(saved.state)
    assert np.isfinite([row.train for row in run.history]).all()
    assert [row.epoch for row in run.history if row.validation] == [1, 2, 3, 4]
    step = run.changes[0].step
    assert run.changes == (
        Change(step=step, option="schedule", old=TOO_FAST, new=SLOW),
        Change(step=step, option="clip", old=None, new=1.0),
    )
    assert (run.config.schedule, run.config.clip) == (SLOW, 1.0)
    assert run.configs[0] == experiment.config
    assert run.load_params("best")
    assert sample_run(run, None, length=3)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("stops", "options"), [(1, {"schedule": SLOW}), (2, {"schedule": SLOW, "clip": 0.5})]
)
def test_resumed_again_after_a_change_the_bytes_are_the_same(
    run, experiment, tmp_path, often, stops, options
):
    other = Run(shutil.copytree(run.folder, tmp_path / "other"))
    changed = change_run(run, experiment, options)
    train(run, changed, resume=True)
    changed = change_run(other, experiment, options)
    for _ in range(stops):
        progresses = train_run(other, other.experiment(), resume=True)
        for number, progress in enumerate(progresses):
            if number >= 2 and progress.position.window:
                break
        progresses.close()
    train(other, other.experiment(), resume=True)  # as a plain --resume does
    assert files_of(run) == files_of(other)


def test_a_crash_between_record_and_checkpoint_changes_nothing(
    run, experiment, tmp_path, monkeypatch
):
    other = Run(shutil.copytree(run.folder, tmp_path / "other"))
    train(run, change_run(run, experiment, {"clip": 2.0, "schedule": SLOW}), resume=True)
    changed = change_run(other, experiment, {"clip": 2.0, "schedule": SLOW})
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(other, changed, resume=True)
    train(other, other.experiment(), resume=True)
    assert files_of(run) == files_of(other)


def test_the_last_good_checkpoint_is_judged_by_its_loss(run, experiment, capsys):
    run.path("last-1").write_bytes(run.path("last").read_bytes())
    spoil(run)
    state, _ = load(run.path("last"), jax.eval_shape(experiment.fresh_state))
    assert judging.all_finite(state)
    assert not np.isfinite(judging.measured_loss(experiment, state))
    good = last_sensible(run, experiment)
    assert good.name == "last-1"
    said = watch.what_is_left(run, experiment)
    assert f"{run.path('last-1')}: {good.nats:.4f} nats at step {good.step}." in said
    step, nats = run.best()
    assert f"{run.path('best')}: validation loss {nats:.4f} at step {step}." in said
    changed = change_run(run, experiment, {"schedule": SLOW})
    train(run, changed, resume=True)
    assert len(run.history) == len({row.step for row in run.history})
    assert np.isfinite([row.train for row in run.history]).all()


def test_the_best_checkpoint_is_gone_on_from_where_no_other_is_good(run, experiment, tmp_path):
    other = Run(shutil.copytree(run.folder, tmp_path / "other"))
    train(run, change_run(run, experiment, {"schedule": SLOW}), resume=True)
    for name in ("last", "last-1", "last-2"):
        other.path(name).write_bytes(other.path("last").read_bytes())
        spoil(other, name)
    assert last_sensible(other, experiment).name == "best"
    train(other, change_run(other, experiment, {"schedule": SLOW}), resume=True)
    assert files_of(run) == files_of(other)  # what was in `best` was the whole state


def test_where_all_losses_are_bad_it_is_said(run, experiment):
    for name in ("last", "last-1", "last-2", "best"):
        run.path(name).write_bytes(run.path("last").read_bytes())
        spoil(run, name)
    assert "No checkpoint is left whose loss is finite" in watch.what_is_left(run, experiment)
    with pytest.raises(RunError, match="no checkpoint whose loss is finite"):
        change_run(run, experiment, {"clip": 1.0})
    assert not (run.folder / CHANGES).exists()


def test_a_checkpoint_from_before_the_change_is_not_gone_on_from(run, experiment):
    run.path("last-1").write_bytes(run.path("last").read_bytes())
    spoil(run)  # it has more updates than the change
    change_run(run, experiment, {"schedule": SLOW})
    like = jax.eval_shape(experiment.fresh_state)
    assert run.latest(like, lambda text: None).state.step == run.changes[0].step
    run.path("last-1").unlink()
    assert int(run.latest(like, lambda text: None).state.step) == run.changes[0].step  # best
    run.path("best").unlink()
    (run.path("last-2")).unlink(missing_ok=True)
    with pytest.raises(RunError, match="no whole checkpoint"):
        run.latest(like, lambda text: None)


@pytest.mark.parametrize("nats", [float("nan"), float("inf"), 1e6, 9.0])
def test_losses_that_make_no_sense(nats):
    assert not is_sensible(nats, 30)
    assert is_sensible(3.4, 30)
    assert is_sensible(0.0, 1)


def test_every_bit_of_the_changes_counts(run, experiment):
    change_run(run, experiment, {"schedule": SLOW, "clip": 1.0})
    path = run.folder / CHANGES
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        flip(path, at)
        with pytest.raises(RunError, match=r"changes.json is damaged") as caught:
            _ = run.config
        assert "\n" not in str(caught.value)
        path.write_bytes(whole)
    for size in range(0, len(whole), 40):
        path.write_bytes(whole[:size])
        with pytest.raises(RunError, match=r"changes.json is damaged"):
            _ = run.config


WRONG = [
    [{"step": 15, "option": "schedule", "old": "1 x 1", "new": SLOW}],
    [{"step": 15, "option": "seed", "old": 0, "new": 1}],
    [{"step": "15", "option": "clip", "old": None, "new": 1.0}],
    [{"step": True, "option": "clip", "old": None, "new": 1.0}],
    [{"step": -1, "option": "clip", "old": None, "new": 1.0}],
    [{"step": 10**400, "option": "clip", "old": None, "new": 1.0}],
    [{"step": 15, "option": "clip", "old": None, "new": "1"}],
    [{"step": 15, "option": "clip", "old": None, "new": -1.0}],
    [{"step": 15, "option": "schedule", "old": TOO_FAST, "new": ["x"]}],
    [{"step": 15, "option": ["clip"], "old": None, "new": 1.0}],
    [{"step": 15}],
    ["clip"],
    {"step": 15},
    None,
    [
        {"step": 15, "option": "clip", "old": None, "new": 1.0},
        {"step": 14, "option": "clip", "old": 1.0, "new": 2.0},
    ],
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_changes_of_a_wrong_kind_with_a_right_checksum_are_one_line(run, wrong):
    data = pack_changes((), run.identity).replace(b'"changes": []', b'"changes": NEW')
    data = with_changes_checksum(data.replace(b"NEW", json.dumps(wrong).encode()))
    (run.folder / CHANGES).write_bytes(data)
    with pytest.raises(RunError, match=r"changes.json is damaged") as caught:
        _ = run.config
    assert "\n" not in str(caught.value)


def test_the_changes_of_another_run_are_refused(run, experiment):
    (run.folder / CHANGES).write_bytes(pack_changes((), "another"))
    with pytest.raises(RunError, match="'another', this is"):
        _ = run.config


def test_checkpoints_made_with_changes_need_their_file(run, experiment):
    changed = change_run(run, experiment, {"clip": 1.0, "schedule": SLOW})
    train(run, changed, resume=True)
    _, metadata = read(run.path("last"))
    assert [change["option"] for change in metadata["changes"]] == ["clip", "schedule"]
    (run.folder / CHANGES).unlink()
    with pytest.raises(RunError, match="put back that file"):
        run.latest(jax.eval_shape(experiment.fresh_state), lambda text: None)
    with pytest.raises(RunError, match="put back that file"):
        run.load_params()


def test_changes_are_a_chain(experiment):
    changes = (
        Change(step=3, option="clip", old=None, new=1.0),
        Change(step=3, option="clip", old=1.0, new=None),
    )
    assert unpack_changes(pack_changes(changes, "a"), "a") == changes
    configs = configs_of(experiment.config, changes)
    assert [config.clip for config in configs] == [None, 1.0, None]
    with pytest.raises(ValueError, match=r"clip was None before update 3, and not 1.0"):
        configs_of(experiment.config, changes[1:])


def test_the_place_in_a_new_phase_is_that_of_a_run_that_had_it_from_the_beginning(experiment):
    old, new = parse_schedule("1 x 1, 4 x 2"), parse_schedule("2 x 1, one-cycle(3, 1)")
    steps = experiment.source.steps(0)
    position = Position(epoch=3, window=2, average=0.7, averaged=2 * steps + 2)
    before, after = (Timetable(one, experiment.source) for one in (old, new))
    at = moved(position, before, after)
    assert at.averaged == steps + 2
    assert at.train == pytest.approx(position.train, rel=1e-12)
    assert moved(position, before, before) is position
    begun = moved(Position(), before, after)
    assert (begun.averaged, begun.average) == (0, 0.0)


def test_the_place_in_a_new_phase_is_counted_in_updates_where_the_run_is(experiment):
    old, new = parse_schedule("1 x 1"), parse_schedule("1 x 1, 1 x 2")
    epoch, window = divmod(60, experiment.source.steps(0))
    position = Position(epoch=epoch, window=window, average=0.7, averaged=60)
    # Of 100 updates, the new second phase has the last 50.
    before = Timetable(old, experiment.source, Budget(steps=100))
    at = moved(position, before, Timetable(new, experiment.source, Budget(steps=100)))
    assert at.averaged == 10
    assert at.train == pytest.approx(position.train, rel=1e-12)
    # All updates are made: there is nothing to move.
    over = Timetable(new, experiment.source, Budget(steps=60))
    assert moved(position, before, over) is position


def test_the_command_line_changes_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "keep_compiled_programs", lambda: None)
    (tmp_path / "text.txt").write_text(TEXT)
    flags = ["--embedding", "4", "--hidden", "8", "--batch", "4", "--no-random-bptt"]
    flags += ["--model", "CharLM", "--cell", "relu", "--optimizer", "sgd", "--min-frequency", "1"]
    begin = ["train", "--corpus", "text.txt", "--name", "wild", *flags]
    resume = ["train", "--resume", "runs/wild"]

    def call(*arguments):
        code = cli.main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    code, _, said = call(*begin, "--schedule", "2 x 1e30")
    assert code == 1
    assert "The last checkpoint with a good loss is runs/wild/last.safetensors" in said
    assert "at step 0" in said
    assert "There is no best one yet" in said
    for wrong, message in (
        (["--seed", "2"], "takes no other flag"),
        (["--schedule", "2 x fast"], "Cannot read|must be a number"),
        (["--clip", "-1"], "clip must be above 0"),
    ):
        code, _, said = call(*resume, *wrong)
        assert code == 2
        assert said.count("\n") == 1
        assert any(part in said for part in message.split("|"))
    assert not (tmp_path / "runs/wild/changes.json").exists()
    code, shown, _ = call(*resume, "--schedule", "2 x 1e-2", "--clip=1")
    assert code == 0
    assert "schedule changed after update 0: '2 x 1e30' -> '2 x 1e-2'" in shown
    assert "clip changed after update 0: None -> 1.0" in shown
    code, shown, said = call(*resume)
    assert code == 0
    assert "is finished" in said
    assert "schedule changed after update 0" in shown
    code, _, said = call(*resume, "--schedule", "2 x 1e-3")
    assert code == 2
    assert "nothing is left to train" in said
    code, _, said = call(*resume, "--schedule", "2 x 1e-2")
    assert code == 0
    assert "nothing is changed" in said
    code, shown, _ = call(*resume, "--schedule", "3 x 1e-3")  # one epoch more
    assert code == 0
    run = Run("runs/wild")
    assert [row.epoch for row in run.history if row.validation] == [1, 2, 3]
    assert [row.rate for row in run.history][-1] == 1e-3
    flip(tmp_path / "runs/wild/changes.json")
    for arguments in (resume, ["evaluate", "runs/wild"]):
        code, _, said = call(*arguments)
        assert code == 2
        assert said.startswith("error: runs/wild/changes.json is damaged")
        assert said.count("\n") == 1


def test_an_experiment_with_other_options_is_that_of_the_configuration(experiment):
    changed = judging.with_options(experiment, {"clip": 0.5, "schedule": SLOW})
    assert changed.config == replace(experiment.config, clip=0.5, schedule=SLOW)
    assert changed.optimizer == changed.config.make_optimizer()
    assert changed.schedule == parse_schedule(SLOW)


@pytest.mark.parametrize(
    ("name", "step", "rows", "changed_at", "leads"),
    [
        ("last", 5, 3, None, True),
        ("best", 5, 3, None, True),
        # Earlier versions kept no history in the best checkpoint.
        ("best", 5, 0, None, False),
        ("last", 5, 0, None, True),
        ("best", 0, 0, None, True),
        # A change that the checkpoint does not know of.
        ("last", 5, 3, 5, True),
        ("best", 5, 3, 5, True),
        ("last", 5, 3, 6, False),
    ],
)
def test_training_goes_on_from_checkpoints_since_the_last_change(
    name, step, rows, changed_at, leads
):
    changes = (
        () if changed_at is None else (Change(step=changed_at, option="clip", old=None, new=1.0),)
    )
    run = SimpleNamespace(changes=changes)
    saved = Saved(SimpleNamespace(step=step), Position(), 1.0, RowLog(rows=rows))
    assert RunCheckpoints.leads_on(run, name, saved) == leads


def rates_of(run):
    """The learning rates of the history, by update."""
    return {row.step: row.rate for row in run.history}


LONGER = [
    # schedule, updates at first, updates made, updates from there on
    ("1 x 1e-2", 40, 40, 70),
    ("3 x 1e-2, 1 x 1e-3", 40, 40, 90),
    ("3 x 1e-2, 1 x 1e-3", 90, 52, 60),
    ("1 x 1e-2, one-cycle(2, 1e-2)", 60, 34, 100),
    ("1 x 1e-2, sgdr(1e-2, 2)", None, 50, 160),  # begun by epochs, of which it would have four
]


@pytest.fixture
def stopped(monkeypatch):
    """Function that trains a run to an update and stops it there."""

    def stop(run, experiment, step, **options):
        with monkeypatch.context() as patch:
            patch.setattr("jaxrnn.training.loop.SECONDS_IN_ONE_PROGRAM", 0.0)  # one update each
            progresses = train_run(run, experiment, **options)
            for progress in progresses:
                if int(progress.state.step) == step and progress.validating is None:
                    progresses.close()

    return stop


@pytest.mark.sample(2)
@pytest.mark.parametrize(("schedule", "first", "made", "then"), LONGER)
def test_a_run_with_other_steps_goes_on_as_one_that_had_them_from_its_beginning(
    experiment, tmp_path, stopped, schedule, first, made, then
):
    """In its rates, and to the byte whether it is stopped afterwards or not."""
    begun = judging.with_options(experiment, {"schedule": schedule, "steps": first})
    run = Run.create(tmp_path / "run", begun, prompt="the")
    stopped(run, begun, made)
    other = Run(shutil.copytree(run.folder, tmp_path / "other"))

    emitted = []
    train(run, change_run(run, run.experiment(), {"steps": then}, emitted.append), resume=True)
    assert [(c.step, c.option, c.old, c.new) for c in run.changes] == [(made, "steps", first, then)]
    assert int(run.load_state("last").step) == then
    parts = [text for text in emitted if "parts of the schedule" in text]
    assert len(parts) == (schedule != "1 x 1e-2")
    whole = Run.create(tmp_path / "whole", with_steps(begun, then), prompt="the")
    train(whole, with_steps(begun, then))
    expected = rates_of(whole)
    common = [step for step in rates_of(run) if step > made and step in expected]
    assert len(common) >= 3
    assert [rates_of(run)[step] for step in common] == [expected[step] for step in common]

    change_run(other, other.experiment(), {"steps": then})
    stopped(other, other.experiment(), made + 3, resume=True)
    stopped(other, other.experiment(), then - 1, resume=True)
    train(other, other.experiment(), resume=True)
    assert files_of(run) == files_of(other)


def with_steps(experiment, steps):
    return judging.with_options(experiment, {"steps": steps})


def test_updates_that_are_made_are_not_taken_back(experiment, tmp_path, stopped):
    begun = judging.with_options(experiment, {"schedule": "1 x 1e-2", "steps": 10})
    run = Run.create(tmp_path / "run", begun)
    train(run, begun)
    for wrong in (9, 1):
        with pytest.raises(RunError, match=f"has made 10 updates, and would make {wrong}: nothing"):
            change_run(run, begun, {"steps": wrong})
    with pytest.raises(RunError, match="is trained by updates, and not by epochs"):
        change_run(run, begun, {"steps": None})
    assert not (run.folder / CHANGES).exists()
    assert change_run(run, begun, {"steps": 10}) is begun

    # Between two rows of history, too.
    longer = with_steps(begun, 90)
    run = Run.create(tmp_path / "longer", longer)
    stopped(run, longer, 13)
    assert run.load("last", jax.eval_shape(longer.fresh_state)).position.steps == 1
    with pytest.raises(RunError, match="has made 13 updates, and would make 12: nothing"):
        change_run(run, longer, {"steps": 12})


def test_a_schedule_and_steps_that_change_together_keep_the_average_of_the_loss(
    experiment, tmp_path, stopped
):
    begun = judging.with_options(experiment, {"schedule": "1 x 1e-2", "steps": 20})
    run = Run.create(tmp_path / "run", begun)
    stopped(run, begun, 10)
    like = jax.eval_shape(begun.fresh_state)
    before = run.load("last", like).position
    # With the schedule alone, the run would stand at the very beginning of a phase.
    changed = change_run(run, begun, {"schedule": "1 x 1e-2, 1 x 1e-3", "steps": 80})
    progress, _ = checkpointing._start(run, changed, True, print, lambda: None)
    assert progress.position.averaged == 10
    assert progress.position.train == pytest.approx(before.train, rel=1e-12)
