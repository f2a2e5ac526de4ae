"""A trained run in hand gives what the command line gives; `sample` needs no run."""

import json
import os
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxrnn
from jaxrnn import cli, load_run
from jaxrnn.generation.texts import generate_texts
from jaxrnn.runs.checkpointing import train_run
from jaxrnn.runs.checksums import RunError
from jaxrnn.runs.config import Config
from jaxrnn.runs.experiment import prepare
from jaxrnn.runs.run import Run

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 42
OTHER = "the lazy fox jumps over a brown dog. "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of two epochs, of updates of one text."""
    place = tmp_path_factory.mktemp("loaded")
    path = place / "text.txt"
    path.write_text(TEXT)
    # Whole windows alone: one size to compile.
    experiment = prepare(
        Config(
            model="CharSeqStatefulRnn", corpus=str(path), embedding_size=4, hidden_size=8,
            batch_size=4, bptt=10, random_bptt=False, schedule="2 x 3e-2", min_frequency=1,
        )
    )  # fmt: skip
    run = Run.create(place / "fox", experiment, prompt="the")
    for _ in train_run(run, experiment):
        pass
    return run.folder


@pytest.fixture
def run(folder):
    return load_run(folder)


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Calls the command line and returns what it prints."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cli, "keep_compiled_programs", lambda: None)

    def call(*arguments):
        capsys.readouterr()
        assert cli.main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    return call


def test_a_run_is_loaded_with_all_that_was_trained(run, folder):
    assert run.config == Run(folder).config
    assert run.vocabulary == Run(folder).vocabulary
    assert type(run.model).__name__ == run.config.model
    assert [row.line for row in run.history] == (
        (folder / "history.jsonl").read_text().splitlines(keepends=True)
    )
    best = min(row.validation for row in run.history if row.validation is not None)
    assert Run(folder).best() == (int(run.state.step), best)
    for got, saved in zip(
        jax.tree.leaves(run.params), jax.tree.leaves(Run(folder).load_params()), strict=True
    ):
        np.testing.assert_array_equal(got, saved)
    last = load_run(str(folder), checkpoint="last")
    assert int(last.state.step) == run.history[-1].step
    assert repr(last) == (
        f"LoadedRun({folder}: CharSeqStatefulRnn on {run.config.corpus}, last checkpoint at step "
        f"{run.history[-1].step:,})"
    )


def test_a_sample_is_that_of_the_command_line(run, folder, command):
    assert command("sample", folder, "--length", 20) == run.sample(length=20) + "\n"
    flags = ["--temperature", 0.5, "--top-k", 3, "--seed", 7]
    printed = command("sample", folder, "--prompt", "the fox ", "--length", 20, *flags)
    text = run.sample("the fox ", 20, temperature=0.5, top_k=3, seed=7)
    assert printed == text + "\n"
    assert text.startswith("the fox ")
    assert len(text) == len("the fox ") + 20
    assert text == jaxrnn.sample(
        run.model, run.params, run.vocabulary, "the fox ", 20, temperature=0.5, top_k=3, seed=7
    )


def test_a_text_is_measured_as_by_the_command_line(run, folder, command, tmp_path):
    path = tmp_path / "other.txt"
    path.write_text(OTHER)
    printed = json.loads(command("evaluate", folder, "--corpus", path, "--json", "--per-character"))
    scores = printed.pop("per_character")
    measured = run.evaluate(OTHER)
    assert measured.record() == printed
    assert run.evaluate(Path(path)) == measured
    assert [list(pair) for pair in run.score(OTHER)] == scores

    # The scores are of the text's characters, and their mean is the loss.
    assert "".join(character for character, _ in scores) == OTHER
    losses = [loss for _, loss in scores]
    assert losses[0] is None
    assert measured.nats == pytest.approx(np.mean(losses[1:]))
    assert (measured.predicted, measured.only_read) == (len(OTHER) - 1, 1)
    assert measured.bits == pytest.approx(measured.nats / np.log(2))


def test_its_own_text_is_measured_as_in_training(run, folder, command):
    best = min(row.validation for row in run.history if row.validation is not None)
    printed = json.loads(command("evaluate", folder, "--json"))
    measured = run.evaluate()
    assert measured.record() == printed["as_in_training"]
    assert measured.nats == pytest.approx(best, abs=0.1)  # in training, from a warm carry
    assert measured.way.startswith("as in training")


def test_several_texts_are_several_documents(run):
    two = run.evaluate([OTHER, TEXT[:90]])
    assert two.predicted == len(OTHER) + 90 - 2
    assert two.only_read == 2


def test_its_picture_has_its_name_and_losses(run, folder):
    (axes,) = run.plot().axes
    assert axes.get_title() == "fox"
    np.testing.assert_array_equal(
        axes.lines[0].get_ydata(), [row.train for row in Run(folder).history]
    )


def test_a_finished_run_is_trained_on(run):
    experiment = run.experiment()
    before = jax.tree.map(np.asarray, run.params)
    state, history = jaxrnn.fit(
        run.model,
        experiment.source,
        experiment.validation,
        schedule="2 x 1e-2",
        optimizer=experiment.optimizer,
        state=run.state,
        progress=False,
    )
    best = min(row.validation for row in run.history if row.validation is not None)
    assert history[-1].validation < best
    assert int(state.step) == int(run.state.step) + 2 * experiment.source.steps(0)
    jax.tree.map(np.testing.assert_array_equal, run.params, before)


@pytest.mark.slow
def test_a_sample_of_a_model_of_windows_reads_the_whole_prompt():
    vocabulary = jaxrnn.Vocabulary.from_frequency([TEXT], min_frequency=1)
    model = jaxrnn.CharSeqRnn(vocabulary.size, 4, 8)
    state = jaxrnn.make_state(model, jaxrnn.make_optimizer("adam"), 2, jax.random.key(0))
    text = jaxrnn.sample(model, state.params, vocabulary, "the quick", 5, temperature=0)
    (expected,) = generate_texts(
        model, state.params, vocabulary, "the quick", window=9, length=5, sampler=jaxrnn.GREEDY
    )
    (shorter,) = generate_texts(
        model, state.params, vocabulary, "the quick", window=2, length=5, sampler=jaxrnn.GREEDY
    )
    assert text == expected != shorter


def test_a_folder_that_is_no_run_is_said(tmp_path):
    with pytest.raises(RunError, match=r"is not a run: it has no config\.json"):
        load_run(tmp_path)
    with pytest.raises(ValueError, match='checkpoint must be "best" or "last", got 3'):
        load_run(tmp_path, checkpoint=3)


def test_mistakes_are_said_in_words(run):
    model, params, vocabulary = run.model, run.params, run.vocabulary
    for words, arguments in [
        ("vocabulary must be a tokenizer: it has no", (model, params, "abc", "the")),
        ("prompt must be a text, got a ndarray", (model, params, vocabulary, np.zeros(3, int))),
        (r"got a whole state: state\.params", (model, run.state, vocabulary, "the")),
        ("model must be a model and not its class", (type(model), params, vocabulary, "the")),
        ("length must be at least 1", (model, params, vocabulary, "the", 0)),
        ("The prompt has 0 known characters", (model, params, vocabulary, "")),
    ]:
        with pytest.raises(ValueError, match=words):
            jaxrnn.sample(*arguments)
    with pytest.raises(ValueError, match="text must be a text, a list of texts or the Path"):
        run.evaluate(b"bytes")
    with pytest.raises(ValueError, match="text must be a text"):
        run.score([])


def test_a_run_by_updates_is_resumed_to_the_same_bytes(folder, tmp_path, monkeypatch):
    """Its budgets are in the configuration, and in no other run's."""
    assert "steps" not in json.loads((folder / "config.json").read_text())["config"]
    monkeypatch.setattr("jaxrnn.training.loop.SECONDS_IN_ONE_PROGRAM", 0.0)
    monkeypatch.setattr("jaxrnn.runs.checkpointing.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr("jaxrnn.runs.checkpointing.LARGEST_SHARE", 1.0)
    config = replace(
        Run(folder).config,
        schedule="3 x 1e-2, 1 x 1e-3", steps=40, validate_every=9, validation_tokens=32,
    )  # fmt: skip
    experiment = prepare(config)
    whole = Run.create(tmp_path / "whole", experiment)
    for _ in train_run(whole, experiment):
        pass
    pieces = Run.create(tmp_path / "pieces", experiment)
    assert pieces.config == config
    saved = json.loads((pieces.folder / "config.json").read_text())["config"]
    assert (saved["steps"], saved["validate_every"], saved["validation_tokens"]) == (40, 9, 32)

    finished = False
    starts = 0
    while not finished:
        progresses = train_run(pieces, pieces.experiment(), resume=starts > 0)
        starts += 1
        finished = True
        for made, _ in enumerate(progresses):
            if made == 12:
                progresses.close()
                finished = False
                break
    assert starts > 3
    assert [row.line for row in pieces.history] == [row.line for row in whole.history]
    assert [row.step for row in whole.history if row.validation is not None] == [9, 18, 27, 36, 40]
    like = jax.eval_shape(experiment.fresh_state)
    for name in ("last", "best"):
        one, other = (run.load(name, like) for run in (whole, pieces))
        for ours, expected in zip(
            jax.tree.leaves(one.state._replace(key=0)),
            jax.tree.leaves(other.state._replace(key=0)),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, expected)
    assert os.listdir(pieces.folder)
