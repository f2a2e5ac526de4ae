"""A new run that begins with the weights of another one: exact, extended, safe, and said."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from stress.kill import different_files
from stress.paths import python_path

import jaxrnn
from jaxrnn import cli, load_run
from jaxrnn.data.vocabulary import END, PAD, UNKNOWN, Vocabulary
from jaxrnn.runs.checkpointing import train_run
from jaxrnn.runs.config import Config
from jaxrnn.runs.experiment import prepare
from jaxrnn.runs.fine_tuning import _extended, fine_tuning
from jaxrnn.runs.judging import change_run
from jaxrnn.runs.run import Run, RunError, RunExistsError
from jaxrnn.training.schedules import parse_schedule
from jaxrnn.training.state import zero_carry

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 42
OTHER = "Größe, the quick brown fox! ça va?\n" * 30
SMALL = {
    "embedding_size": 4,
    "hidden_size": 8,
    "batch_size": 4,
    "bptt": 10,
    "random_bptt": False,
    "min_frequency": 1,
    "schedule": "1 x 1e-2",
}
NEW = ["G", "ö", "ß", ",", "!", "ç", "?"]
"""What OTHER has beyond the letters of TEXT."""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with two texts, and a cache that trusts no code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cli, "keep_compiled_programs", lambda: None)
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "other.txt").write_text(OTHER)
    np.save("integers.npy", np.arange(400) % 7)
    np.save("more.npy", np.arange(400) % 9)


def untrained(folder="runs/old", **options):
    """A run whose only checkpoint has the weights of its seed."""
    options = {"model": "CharSeqStatefulRnn", "corpus": "text.txt", "lowercase": False} | options
    experiment = prepare(Config(**SMALL | options))
    return Run.create(folder, experiment, prompt="the", state=experiment.fresh_state())


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """A run of one epoch, with momentum in its optimizer."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT)
    experiment = prepare(
        Config(**SMALL | {"model": "CharSeqStatefulRnn", "corpus": str(folder / "text.txt")})
    )
    run = Run.create(folder / "old", experiment, prompt="the")
    for _ in train_run(run, experiment):
        pass
    return run.folder


@pytest.fixture
def old(trained_once, tmp_path):
    return Run(shutil.copytree(trained_once, tmp_path / "runs/old"))


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def error_of(capsys, *arguments):
    """The message of a command that is refused in one line."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", error), error
    return error


def test_it_equals_a_fit_from_the_same_state(old):
    run = load_run(old.folder, checkpoint="last")
    new = run.train(
        folder="runs/new", schedule="2 x 1e-3", clip=0.5, keep_optimizer=True, progress=False
    )
    experiment = new.experiment()
    fresh = experiment.fresh_state()
    # The weights and the moments of the run; a new run has a carry, a count and a key of its own.
    assert len(jax.tree.leaves(run.state.opt_state)) > 2
    opt_state = jax.tree.unflatten(
        jax.tree.structure(fresh.opt_state), jax.tree.leaves(run.state.opt_state)
    )
    start = fresh._replace(params=run.params, opt_state=opt_state)
    state, history = jaxrnn.fit(
        run.model,
        experiment.source,
        experiment.validation,
        schedule="2 x 1e-3",
        optimizer=jaxrnn.make_optimizer("adam", clip=0.5),
        state=start,
        progress=False,
    )
    last = load_run(new.run.folder, checkpoint="last").state
    assert_equal(last._replace(key=0), state._replace(key=0))
    assert [row.line for row in new.history] == [row.line for row in history]
    # The other run is as it was.
    assert different_files(old.folder, run.run.folder) == []


def test_a_fresh_optimizer_and_the_best_weights_are_what_it_begins_with(old):
    start = fine_tuning(old, {"schedule": "1 x 1e-4", "batch_size": 3})
    assert_equal(start.state.params, old.load_params("best"))
    assert_equal(start.state.opt_state, start.experiment.fresh_state().opt_state)
    assert_equal(start.state.carry, zero_carry(start.experiment.model, 3))
    assert int(start.state.step) == 0
    assert start.experiment.config == replace(old.config, schedule="1 x 1e-4", batch_size=3)
    assert start.experiment.vocabulary == old.vocabulary
    assert start.notes == ()


COURSE = [
    {
        "model": "CharLM",
        "tied": True,
        "embedding_size": 8,
        "tokenizer": "integers",
        "corpus": "integers.npy",
    },
    {"model": "Char3Model", "bptt": 3},
    {"model": "CharLoopModel"},
    {"model": "CharLoopConcatModel"},
    {"model": "CharRnn"},
    {"model": "CharSeqRnn"},
    {"model": "CharSeqStatefulRnn2"},
    {"model": "CharSeqStatefulGRU"},
    {"model": "CharSeqStatefulLSTM", "num_layers": 2},
    {"model": "CharLM", "cell": "lstm", "num_layers": 2},
    {"model": "CharLM", "cell": "qrnn", "tied": True, "embedding_size": 8},
    {"model": "CharRnn", "tokenizer": "integers", "corpus": "integers.npy"},
]


def assert_extended(run, start):
    """Among the old tokens the predictions stay, and new rows are those of a fresh model."""
    before = run.vocabulary.size
    model = run.config.make_model(before)
    grown = start.experiment.model
    assert start.origin.tokens_added == grown.vocab_size - before > 0
    tokens = jax.random.randint(jax.random.key(1), (3, 2), 0, before)  # of the old ones
    was = run.load_params()
    _, expected = jaxrnn.apply_model(model, was, model.initial_carry(2), tokens)
    got = start.state.params
    _, log_probs = jaxrnn.apply_model(grown, got, grown.initial_carry(2), tokens)
    assert log_probs.shape[-1] == grown.vocab_size  # (T, B, V) or (B, V)
    among = jax.nn.log_softmax(log_probs[..., :before])
    np.testing.assert_allclose(among, expected, atol=1e-5)  # round-off of a softmax in float32

    trees = (got, was, start.experiment.fresh_state().params)
    leaves = [[np.asarray(leaf) for leaf in jax.tree.leaves(tree)] for tree in trees]
    rows = np.arange(before, grown.vocab_size)
    grown_axes = 0
    for now, old, fresh in zip(*leaves, strict=True):
        np.testing.assert_array_equal(now[tuple(map(slice, old.shape))], old)
        for axis in range(now.ndim):
            if now.shape[axis] != old.shape[axis]:
                grown_axes += 1
                np.testing.assert_array_equal(now.take(rows, axis), fresh.take(rows, axis))
    assert grown_axes == (2 if run.config.tied else 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", COURSE, ids=lambda options: " ".join(map(str, options.values()))
)
def test_every_model_is_extended_with_every_tokenizer(options):
    run = untrained(**options)
    other = "more.npy" if options.get("tokenizer") == "integers" else "other.txt"
    # Another seed, whose fresh rows are not those that the run has.
    assert_extended(run, fine_tuning(run, {"seed": 5, "dropout": 0.0}, corpus=other))


def test_old_tokens_keep_their_rows_and_new_ones_have_no_moments(old):
    start = fine_tuning(old, {}, corpus="other.txt", keep_optimizer=True)
    assert_extended(old, start)
    before = old.load_state("best").opt_state
    size = old.vocabulary.size
    table = start.state.opt_state.mu["e"]["embedding"]
    np.testing.assert_array_equal(table[:size], before.mu["e"]["embedding"])
    assert not np.any(table[size:])
    assert int(start.state.opt_state.step) == int(before.step) > 0


def extended(text="other.txt", **options):
    """The tokens of text.txt, and those of another text behind them."""
    config = Config(**SMALL | {"lowercase": False, "corpus": "text.txt"} | options)
    before = prepare(config).vocabulary
    config = replace(config, corpus=text)
    return before, prepare(config, vocabulary=before, extend=True).vocabulary


def test_a_tokenizer_that_reads_every_text_stays():
    before, now = extended(tokenizer="bytes")
    assert now == before
    assert now.size == 256


def test_characters_are_added_behind_the_old_ones_as_a_new_vocabulary_orders_them():
    first = Vocabulary.from_frequency(["aabb"], min_frequency=2, lowercase=False)
    assert first.itos == (UNKNOWN, PAD, "a", "b")
    extended = first.extended(["bcd Edd ", "c"], min_frequency=2)
    assert extended.itos == (UNKNOWN, PAD, "a", "b", "d", " ", END, "c")
    assert extended.extended(["bcd Edd ", "c"], min_frequency=2) == extended
    lowered = Vocabulary.from_frequency(["aabb"], min_frequency=1, lowercase=True)
    assert lowered.extended(["AEE"], min_frequency=1).itos == (*lowered.itos, "e")
    course = Vocabulary.from_characters(["b"])
    assert course.extended(["zca"]).itos == ("\0", "b", "a", "c", "z")


def test_a_rare_character_is_unknown_or_refused():
    plain = Vocabulary(("a", "b"))
    assert plain.extended(["aabcc"], min_frequency=2).itos == ("a", "b", "c")
    with pytest.raises(ValueError, match=r"'d' \(U\+0064\) is not in the vocabulary \(and 1 more"):
        plain.extended(["aabccde"], min_frequency=2)
    known = Vocabulary((UNKNOWN, "a"))
    assert known.extended(["abbc"], min_frequency=2).itos == (UNKNOWN, "a", "b")


def test_windows_know_every_character_and_streams_the_frequent_ones():
    before, now = extended(model="CharSeqRnn")
    assert now.itos == (*before.itos, *sorted(NEW))
    before, now = extended()
    assert (now.itos[: before.size], sorted(now.itos[before.size :])) == (before.itos, sorted(NEW))
    Path("rare.txt").write_text("Z" + OTHER)
    before, now = extended("rare.txt", min_frequency=2)
    assert "Z" not in now.itos
    assert "ß" in now.itos


@pytest.mark.parametrize(
    ("options", "text", "message"),
    [
        ({}, "more.npy", "The model reads characters: name a text"),
        ({"tokenizer": "bytes"}, "more.npy", "The model reads bytes: name a text"),
        (
            {"tokenizer": "integers", "corpus": "integers.npy"},
            "text.txt",
            "The model reads integers: name a .npy file",
        ),
    ],
)
def test_a_text_of_another_kind_is_refused(options, text, message):
    with pytest.raises(ValueError, match=message):
        extended(text, **options)


def begun(old, options, **others):
    """The folder of a run that begins with the weights of another one, not trained yet."""
    start = fine_tuning(old, options, **others)
    run = Run.create(
        "runs/new", start.experiment, prompt="the", state=start.state, origin=start.origin
    )
    return start, run


def test_what_is_added_is_said_and_recorded(old):
    start, run = begun(old, {}, corpus="other.txt")
    # Lower-cased as the run's own text was: G is known.
    added = [token for token in NEW if token != "G"]
    assert sorted(run.vocabulary.itos[old.vocabulary.size :]) == sorted(added)
    assert run.vocabulary.itos[: old.vocabulary.size] == old.vocabulary.itos
    lacking, lowered = start.notes
    assert lacking.startswith(f"The vocabulary of {old.folder} lacks 6 characters (")
    assert "'ß'" in lacking
    assert lowered == f"The text is lower-cased, as that of {old.folder} was."
    origin = run.origin
    assert (origin.folder, origin.run) == (str(old.folder), old.identity)
    assert (origin.checkpoint, origin.step) == ("best", old.best()[0])
    assert (origin.tokens_added, origin.optimizer_kept) == (6, False)
    where = f"from {old.folder} at step {origin.step}"
    new = load_run(run.folder)
    assert repr(new).endswith(f", {where})")
    assert repr(new.history) == f"History({where}, no rows)"
    assert load_run(old.folder).history.origin is None


def test_a_folder_of_its_own_is_found_and_another_one_is_not_touched(old):
    run = load_run(old.folder)
    short = {"steps": 1, "progress": False}
    assert run.train(**short).run.folder == old.folder.with_name("old-2")
    assert run.train(**short).run.folder == old.folder.with_name("old-3")
    with pytest.raises(RunExistsError, match="old-2 exists"):
        run.train(folder=old.folder.with_name("old-2"), **short)


@pytest.mark.parametrize("corpus", [None, pytest.param("other.txt", marks=pytest.mark.slow)])
def test_killed_before_its_first_update_it_needs_nothing_of_the_other_run(old, tmp_path, corpus):
    start, stopped = begun(old, {"schedule": "2 x 1e-3"}, corpus=corpus)
    whole = Run(shutil.copytree(stopped.folder, tmp_path / "runs/whole"))
    for _ in train_run(whole, start.experiment, resume=True):
        pass
    shutil.rmtree(old.folder)
    for _ in train_run(stopped, stopped.experiment(), resume=True):
        pass
    assert different_files(stopped.folder, whole.folder) == []
    assert [row.epoch for row in stopped.history if row.validation] == [1, 2]


@pytest.mark.slow
def test_the_command_line_trains_it_and_a_finished_one_says_what_to_type(old, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["jaxrnn"])
    step = old.best()[0]
    assert cli.main(["train", "--from", "runs/old", "--steps", "2"]) == 0
    shown = capsys.readouterr().out
    assert f"Begun with the weights of runs/old, its best checkpoint at step {step}.\n" in shown
    run = Run("runs/old-2")
    assert run.config == replace(old.config, steps=2)
    assert (run.prompt, run.origin.tokens_added) == (old.prompt, 0)

    # The commands that a finished run shows train on, by updates and by epochs.
    def shown_by(folder):
        assert cli.main(["train", "--resume", folder]) == 0
        (line,) = [one for one in capsys.readouterr().err.splitlines() if "is finished" in one]
        found = re.findall(r"jaxrnn (train --(?:resume|from) [^;]+)", line)
        return [shlex.split(command) for command in found]

    further, again = shown_by("runs/old-2")
    assert further == ["train", "--resume", "runs/old-2", "--steps", "3"]
    assert cli.main(further) == 0
    assert int(run.load_state("last").step) == 3
    assert again[:3] == ["train", "--from", "runs/old-2"]
    assert cli.main([*again, "--steps", "1"]) == 0
    further, _ = shown_by("runs/old")
    assert further[:-1] == ["train", "--resume", "runs/old", "--schedule"]
    change_run(old, old.experiment(), {"schedule": further[-1]})
    assert parse_schedule(old.config.schedule).epochs == 2


def test_a_run_that_lost_its_first_weights_never_begins_with_others(old):
    _, run = begun(old, {})
    run.path("last").unlink()
    with pytest.raises(RunError, match=r"lost the weights .* those of .*old: begin again"):
        next(train_run(run, run.experiment(), resume=True))


def test_the_folder_appears_with_its_weights_or_not_at_all(old, monkeypatch):
    start = fine_tuning(old, {})

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            Run.create("runs/new", start.experiment, state=start.state, origin=start.origin)
    assert not any(path.name.endswith("new") for path in old.folder.parent.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("at", ["before", "after"])
def test_killed_before_or_after_its_folder_appears_it_ends_the_same_to_the_byte(old, tmp_path, at):
    flags = ["train", "--from", "runs/old", "--schedule", "2 x 1e-3", "--name"]
    assert cli.main([*flags, "whole"]) == 0
    program = (
        "import os, signal, sys\n"
        "from jaxrnn import cli\n"
        "from jaxrnn.runs import checksums\n"
        "rename = os.rename\n"
        "def killed(*paths):\n"
        f"    if {at == 'after'}: rename(*paths)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "checksums.os.rename = killed\n"
        "cli.main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", program, *flags, "killed"]
    ended = subprocess.run(command, env={"PYTHONPATH": python_path()}, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert (tmp_path / "runs/killed").exists() == (at == "after")
    again = ["train", "--resume", "runs/killed"] if at == "after" else [*flags, "killed"]
    assert cli.main(again) == 0
    assert different_files(tmp_path / "runs/killed", tmp_path / "runs/whole") == []


REFUSED = [
    (["--hidden", 12], "hidden_size of runs/old is 8, which its weights and tokens belong to"),
    (["--model", "CharLM"], "model of runs/old is 'CharSeqStatefulRnn'"),
    (["--tokenizer", "bytes"], "tokenizer of runs/old is 'characters'"),
    (["--no-lowercase"], "lowercase of runs/old is True"),
    (["--recipe", "loop"], "--from takes the values of its run, not of a recipe"),
    (["--resume", "runs/old"], "--resume goes on with a run, --from begins a new one"),
    (["--corpus", "more.npy"], "The model reads characters: name a text, not a .npy file"),
    (["--corpus", "gone.txt"], "gone.txt"),
    (["--keep-optimizer", "--optimizer", "sgd"], "is that of adam with momentum 0, and not of sgd"),
    (["--schedule", "2 x fast"], "learning rate must be a number"),
    (["--momentum", 0.5], "momentum is for sgd and rmsprop"),
    (["--name", "old"], "runs/old exists"),
    (["--checkpoint", "worst"], "worst"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_mistake_is_one_line(old, capsys, flags, message):
    assert message in error_of(capsys, "train", "--from", "runs/old", *flags)
    assert [path.name for path in old.folder.parent.iterdir()] == ["old"]


def test_mistakes_without_a_run_to_begin_with_are_one_line(capsys, tmp_path):
    assert "--from needs the folder" in error_of(capsys, "train", "--from")
    assert "is not a run" in error_of(capsys, "train", "--from", tmp_path)
    assert "are for --from RUN" in error_of(capsys, "train", "--keep-optimizer")


def test_a_text_that_has_changed_is_trained_on_where_it_is_named(old, capsys, tmp_path):
    path = Path(old.config.corpus)
    try:
        path.write_text(OTHER)
        error = error_of(capsys, "train", "--from", "runs/old")
        assert "has changed since the run began" in error
        assert fine_tuning(old, {}, corpus=str(path)).origin.tokens_added == 6
    finally:
        path.write_text(TEXT)


def test_a_wrong_option_in_python_is_said(old):
    run = load_run(old.folder)
    with pytest.raises(ValueError, match="There is no option rate: take model, embedding_size"):
        run.train(rate=1e-3)
    with pytest.raises(ValueError, match=r"cell of .* is 'gru', which"):
        run.train(cell="lstm")
    with pytest.raises(ValueError, match="keep_optimizer"):
        run.train(keep_optimizer="yes")
    with pytest.raises(ValueError, match=r"callbacks=\[function\]"):
        run.train(callbacks=print)


def test_a_callback_ends_it_and_what_is_trained_is_saved(old):
    seen = []

    def stop(progress):
        seen.append(int(progress.state.step))
        return True

    new = load_run(old.folder).train(schedule="9 x 1e-3", callbacks=[stop], progress=False)
    assert len(seen) == 1
    assert int(Run(new.run.folder).load_state("last").step) == seen[0] < 100


OWN = """
import flax.linen as nn
import jax.numpy as jnp
from jaxrnn import StatefulModel, TANH, RNN

class Pairs(StatefulModel):
    '''Has two entries for each token, side by side.'''
    def initial_carry(self, batch_size, dtype=jnp.float32):
        return ()
    @nn.compact
    def __call__(self, carry, tokens, *, lengths=None):
        table = self.param("table", nn.initializers.normal(), (2 * self.vocab_size, 4))
        xs = table[2 * tokens] + table[2 * tokens + 1]
        return carry, nn.log_softmax(nn.Dense(self.vocab_size)(xs))

class Bigrams(StatefulModel):
    '''A table of all pairs of tokens.'''
    def initial_carry(self, batch_size, dtype=jnp.float32):
        return ()
    @nn.compact
    def __call__(self, carry, tokens, *, lengths=None):
        table = self.param("table", nn.initializers.normal(), (self.vocab_size, self.vocab_size))
        return carry, nn.log_softmax(table[tokens])
"""


@pytest.mark.slow
def test_a_model_of_ones_own_is_extended_where_its_shapes_tell_how(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    run = untrained(model="mine.py:Bigrams")
    size = run.vocabulary.size
    start = fine_tuning(run, {}, corpus="other.txt")
    table = start.state.params["table"]
    assert table.shape == (size + 7, size + 7)
    np.testing.assert_array_equal(table[:size, :size], run.load_params()["table"])


def test_an_array_that_grows_otherwise_than_with_the_tokens_is_refused():
    before = {"a": np.ones((3, 2)), "b": np.ones((6, 3))}
    fresh = {"a": np.zeros((5, 2)), "b": np.zeros((10, 5))}
    with pytest.raises(
        ValueError, match=r"^X cannot take them: its b has shape \(6, 3\) for 3 tok"
    ):
        _extended(before, fresh, (3, 5), "X")
    both = _extended({"b": np.ones((3, 3))}, {"b": np.zeros((5, 5))}, (3, 5), "X")["b"]
    assert (int(both[:3, :3].sum()), int(both.sum())) == (9, 9)
    with pytest.raises(ValueError, match=r"its b has shape \(3,\)"):
        _extended({"b": np.ones(3)}, {"b": np.zeros((3, 5))}, (3, 5), "X")


@pytest.mark.slow
def test_a_model_of_ones_own_is_refused_more_tokens_where_they_do_not(
    tmp_path, capsys, monkeypatch
):
    (tmp_path / "mine.py").write_text(OWN)
    untrained("runs/pairs", model="mine.py:Pairs")
    error = error_of(capsys, "train", "--from", "runs/pairs", "--corpus", "other.txt")
    assert "mine.py:Pairs cannot take them: its table has shape" in error
    assert "which is not one entry a token" in error
    assert "'ß'" in error
    assert not (tmp_path / "runs/other").exists()
    # Without new tokens it works.
    assert fine_tuning(Run("runs/pairs"), {}).origin.tokens_added == 0

    # What was never run here is not run for --from either.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other-cache"))
    monkeypatch.setattr("jaxrnn.registry._modules", {})
    assert "type: jaxrnn trust" in error_of(capsys, "train", "--from", "runs/pairs")


def test_an_origin_that_makes_no_sense_is_damage(old):
    start = fine_tuning(old, {})
    with pytest.raises(ValueError, match="step of its origin makes no sense: True"):
        replace(start.origin, step=True)
    with pytest.raises(ValueError, match="folder of its origin makes no sense: 3"):
        replace(start.origin, folder=3)
    with pytest.raises(ValueError, match="tokens_added of its origin makes no sense: -1"):
        replace(start.origin, tokens_added=-1)


def test_the_folder_of_a_fit_says_how_it_is_read(old, tmp_path):
    run = load_run(old.folder)
    folder = tmp_path / "fitted"
    state, _ = jaxrnn.fit(
        run.model, run.experiment().source, schedule="1 x 1e-3", checkpoints=folder, progress=False
    )
    with pytest.raises(RunError, match=r"jaxrnn.load\('.*last.safetensors', like=state\)") as error:
        load_run(folder)
    assert "\n" not in str(error.value)
    (command,) = re.findall(r"jaxrnn\.load\(.*?\)", str(error.value))
    loaded, _ = eval(command, {"jaxrnn": jaxrnn, "state": state})
    assert_equal(loaded.params, state.params)
