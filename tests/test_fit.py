"""`fit` in a program or a notebook: what it shows, what it keeps, how it is stopped."""

import io
import json
import signal
import sys
import threading
import types
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import relative
from rich.live import _RefreshThread

import jaxrnn
from jaxrnn import (
    RNN,
    TANH,
    BpttStream,
    CharLM,
    StatefulModel,
    fit,
    generate,
    make_optimizer,
    make_state,
    train_step,
)
from jaxrnn.runs.checksums import RunError
from jaxrnn.training.diagnostics import saturated_share
from jaxrnn.training.evaluation import evaluation
from jaxrnn.training.history import Position, Row
from jaxrnn.training.loop import training
from jaxrnn.training.records import History
from jaxrnn.training.schedules import parse_schedule
from jaxrnn.training.timetable import Budget, Timetable

V, B = 5, 4
MODEL = CharLM(V, 3, 8, cell=TANH)
ADAM = make_optimizer("adam")
TOKENS = np.random.default_rng(0).integers(0, V, 484).astype(np.uint8)
SOURCE = BpttStream(TOKENS, B, 8)  # 15 windows an epoch
VALIDATION = BpttStream(TOKENS[:200], B, 8)
TWO = "2 x 1e-2"


@pytest.fixture
def step_by_step(monkeypatch):
    """One step in each program, so that there is a progress after each."""
    monkeypatch.setattr("jaxrnn.training.loop.SECONDS_IN_ONE_PROGRAM", 0.0)


def leaves(state):
    """The arrays of a state, without its key."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state._replace(key=0))]


def assert_equal_states(one, other):
    for ours, expected in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(ours, expected)


# What is shown.


def test_each_epoch_is_a_line_and_nothing_else_where_no_terminal_is(capsys):
    _, history = fit(MODEL, SOURCE, VALIDATION, schedule=TWO)
    captured = capsys.readouterr()
    head, *lines = captured.out.splitlines()
    assert head.split() == ["epoch", "train", "validation", "bits/tok", "perplexity", "toks/s"]
    ends = [row for row in history if row.validation is not None]
    assert [line.split()[:3] for line in lines] == [
        [f"{row.epoch:g}", f"{row.train:.3f}", f"{row.validation:.4f}"] for row in ends
    ]
    assert captured.err == ""


def test_without_validation_each_epoch_is_still_a_line(capsys):
    fit(MODEL, SOURCE, schedule=TWO)
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2"]
    assert {line.split()[2] for line in lines} == {"-"}


def test_without_progress_nothing_is_shown(capsys):
    fit(MODEL, SOURCE, VALIDATION, schedule=TWO, progress=False)
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    """A terminal that keeps what it is sent."""

    def isatty(self):
        return True


def test_a_terminal_has_a_bar_that_is_gone_at_the_end(monkeypatch, step_by_step):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Terminal())
    shown = sys.stdout
    fit(MODEL, SOURCE, VALIDATION, schedule=TWO)
    text = shown.getvalue()
    assert "━" in text
    assert "bits/tok" in text
    assert "\x1b[?25h" in text  # the cursor is back


class Notebook:
    """Stands for IPython and ipywidgets, whose displays rich uses."""

    def __init__(self, monkeypatch, *, widgets=True):
        self.displayed = []  # outputs of the cell, in their order
        self.widget_texts = []  # what the widget showed
        self.closed = 0
        inside = []
        notebook = self

        def display(shown, **options):
            text = getattr(shown, "text", None)
            if inside and text is not None:
                notebook.widget_texts.append(text)
            else:
                notebook.displayed.append(shown)

        class Output:
            def __enter__(self):
                inside.append(self)

            def __exit__(self, *details):
                inside.pop()

            def clear_output(self, wait=False):
                pass

            def close(self):
                notebook.closed += 1

        modules = {
            "IPython": types.ModuleType("IPython"),
            "IPython.display": types.ModuleType("IPython.display"),
        }
        modules["IPython.display"].display = display
        if widgets:
            modules["ipywidgets"] = types.ModuleType("ipywidgets")
            modules["ipywidgets"].Output = Output
            modules["ipywidgets"].__spec__ = types.SimpleNamespace(name="ipywidgets")
        else:
            monkeypatch.setitem(sys.modules, "ipywidgets", None)
            monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr("rich.console._is_jupyter", lambda: True)

    @property
    def lines(self):
        texts = [shown.text for shown in self.displayed if hasattr(shown, "text")]
        return [text for text in texts if text.strip()]  # rich displays "" at the end of a bar


def test_a_notebook_has_a_bar_in_a_widget_and_the_lines_as_output(monkeypatch, step_by_step):
    notebook = Notebook(monkeypatch)
    refreshing = []
    _, history = fit(
        MODEL,
        SOURCE,
        VALIDATION,
        schedule=TWO,
        callbacks=[lambda progress: refreshing.extend(refreshing_threads())],
    )
    assert [line.split()[0] for line in notebook.lines] == ["epoch", "1", "2"]
    assert any("epoch 2/2" in text for text in notebook.widget_texts)
    assert any("validating" in text for text in notebook.widget_texts)
    assert notebook.closed == 1
    assert len(history) > 2
    # A widget takes what any thread prints while it is refreshed.
    assert refreshing == []


def refreshing_threads():
    """The threads of rich's that refresh a bar and were not stopped."""
    return [
        t for t in threading.enumerate() if isinstance(t, _RefreshThread) and not t.done.is_set()
    ]


def test_a_notebook_without_widgets_has_the_lines_and_no_warning(monkeypatch):
    notebook = Notebook(monkeypatch, widgets=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(MODEL, SOURCE, VALIDATION, schedule=TWO)
    assert [line.split()[0] for line in notebook.lines] == ["epoch", "1", "2"]
    assert notebook.widget_texts == []


# What is kept.


def test_the_state_that_is_given_stays_as_it_is():
    start = make_state(MODEL, ADAM, B, jax.random.key(3))
    before = leaves(start)
    first, _ = fit(MODEL, SOURCE, schedule=TWO, state=start, progress=False)
    again, _ = fit(MODEL, SOURCE, schedule=TWO, state=start, progress=False)
    assert_equal_states(first, again)
    for leaf, expected in zip(leaves(start), before, strict=True):
        np.testing.assert_array_equal(leaf, expected)
    assert int(first.step) == 30


def test_a_callback_may_keep_the_states(step_by_step):
    states = []
    final, _ = fit(
        MODEL,
        SOURCE,
        schedule="1 x 1e-2",
        progress=False,
        callbacks=[lambda progress: states.append(progress.state)],
    )
    assert [int(state.step) for state in states] == list(range(1, 16))
    assert_equal_states(states[-1], final)
    assert relative(states[0].params, final.params) > 1e-3


# How it is stopped.


@pytest.mark.parametrize("progress", [True, False])
def test_ctrl_c_returns_what_is_trained_so_far(progress, step_by_step, capsys, caplog):
    def interrupt(now):
        if now.position.window == 4:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    state, history = fit(
        MODEL, SOURCE, VALIDATION, schedule=TWO, progress=progress, callbacks=[interrupt]
    )
    assert int(state.step) == 4
    assert [row.step for row in history] == [2, 4]
    notes = capsys.readouterr().err + caplog.text
    assert "Stopped by Ctrl-C at step 4: what is trained so far is returned." in notes
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    # The state goes on.
    more, _ = fit(MODEL, SOURCE, schedule="1 x 1e-2", state=state, progress=False)
    assert int(more.step) == 19


def test_a_second_ctrl_c_interrupts_at_once(step_by_step):
    def interrupt(now):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(MODEL, SOURCE, schedule=TWO, progress=False, callbacks=[interrupt])
    assert signal.getsignal(signal.SIGINT) is before


def test_it_trains_in_a_thread():
    results = []
    thread = threading.Thread(
        target=lambda: results.append(fit(MODEL, SOURCE, schedule=TWO, progress=False))
    )
    thread.start()
    thread.join()
    ((state, _),) = results
    assert int(state.step) == 30


def test_a_callback_stops_and_the_others_are_called_too(step_by_step, capsys):
    seen = []

    def stop(now):
        return now.row is not None and now.row.step >= 6

    state, _ = fit(MODEL, SOURCE, schedule=TWO, callbacks=[stop, seen.append])
    assert int(state.step) == 6
    assert len(seen) == 6
    assert "Stopped by a callback at step 6" in capsys.readouterr().err


# Budgets in updates.


def test_steps_are_made_and_the_schedule_is_spread_over_them():
    _, history = fit(
        MODEL, SOURCE, VALIDATION, schedule="3 x 1e-2, 1 x 1e-3", steps=40, progress=False
    )
    assert history[-1].step == 40
    for row in history:
        # The row has the rate of its last step; 30 of the 40 have the first rate.
        assert row.rate == (1e-2 if row.step <= 30 else 1e-3)
    # 15 windows an epoch: a validation at the end of each, and at the end.
    assert [row.step for row in history if row.validation is not None] == [15, 30, 40]


def test_a_cycle_of_rates_lasts_as_long_as_the_steps():
    schedule = parse_schedule("one-cycle(7, 1e-2)")
    rates = []
    timetable = Timetable(schedule, SOURCE, Budget(steps=50))
    for step in range(50):
        place = timetable.place(Position(epoch=step // 15, window=step % 15))
        rates += place.phase.rates(np.array([step]), place.steps_per_epoch).tolist()
    expected = schedule.phases[0].rates(np.arange(50), 50 / 7)
    np.testing.assert_allclose(rates, expected)
    assert np.argmax(rates) == 15  # 30 % of 50


def test_phases_share_the_steps_as_they_would_the_epochs():
    """Each begins anew: its own updates are counted, and its own rates are spread over them."""
    schedule = parse_schedule("3 x 1e-2, one-cycle(1, 1e-2), 2 x 1e-3")
    timetable = Timetable(schedule, SOURCE, Budget(steps=40))
    places = [timetable.place(Position(epoch=n // 15, window=n % 15)) for n in range(40)]
    ends = {0: (0, 20), 1: (20, 26), 2: (26, 40)}
    for number, (first, end) in ends.items():
        for n in range(first, end):
            place = places[n]
            assert place.phase == schedule.phases[number]
            assert (place.done, place.left) == (n - first, end - n)
            assert place.begins == (n == first)
            assert place.steps_per_epoch == (end - first) / place.phase.epochs


def test_validations_by_updates_change_no_weight():
    usual, _ = fit(MODEL, SOURCE, VALIDATION, schedule=TWO, carry_policy="evaluation")
    state, history = fit(
        MODEL, SOURCE, VALIDATION, schedule=TWO, carry_policy="evaluation", validate_every=7
    )
    assert_equal_states(state, usual)
    assert [row.step for row in history if row.validation is not None] == [7, 14, 21, 28, 30]
    assert [row.step for row in history] == list(range(1, 31))


def test_a_validation_within_an_epoch_leaves_the_carry_alone():
    """Where carries flow on, those of the validation go into training at the end of an epoch."""
    usual, _ = fit(MODEL, SOURCE, VALIDATION, schedule=TWO, progress=False)
    alone, _ = fit(MODEL, SOURCE, schedule=TWO, progress=False)
    every_epoch, _ = fit(MODEL, SOURCE, VALIDATION, schedule=TWO, progress=False, validate_every=15)
    within, _ = fit(MODEL, SOURCE, VALIDATION, schedule=TWO, progress=False, validate_every=29)
    assert_equal_states(every_epoch, usual)
    assert relative(within.params, alone.params) == 0
    assert relative(usual.params, alone.params) > 0


def test_training_by_updates_in_pieces_equals_training_in_one(step_by_step):
    schedule = parse_schedule("1 x 1e-2, 1 x 1e-3, 1 x 1e-2")
    budget = Budget(steps=38, validate_every=8, validation_tokens=64)

    def run(state, position):
        return training(
            MODEL, SOURCE, VALIDATION, schedule, ADAM, state, position,
            carry_policy="epoch", budget=budget,
        )  # fmt: skip

    def fresh():
        return make_state(MODEL, ADAM, B, jax.random.key(0))

    whole = [now for now in run(fresh(), Position()) if now.row is not None]
    state, position, rows = fresh(), Position(), {}
    timetable = Timetable(schedule, SOURCE, budget)
    while not timetable.is_over(position):
        pieces = run(state, position)
        for _ in range(2):
            now = next(pieces, None)
            if now is not None:
                state, position = now.state, now.position
                if now.row is not None:
                    rows[now.row.step] = now.row
        pieces.close()
    assert_equal_states(state, whole[-1].state)
    assert [row.line for row in rows.values()] == [now.row.line for now in whole]
    ends = [row.step for row in rows.values() if row.validation is not None]
    assert ends == [8, 16, 24, 32, 38]


def test_a_validation_ends_after_so_many_tokens():
    params = make_state(MODEL, ADAM, B, jax.random.key(0)).params
    whole = [float(found.nats) for found in evaluation(MODEL, params, VALIDATION)]
    (half,) = evaluation(MODEL, params, VALIDATION, at_most=3 * 8 * B - 1)
    first = BpttStream(VALIDATION.matrix[: 3 * 8 + 1].T.ravel(), B, 8)
    (expected,) = evaluation(MODEL, params, first)
    assert half.predicted == 3 * 8 * B
    assert half.share == 1
    assert half.nats == pytest.approx(expected.nats, rel=1e-6)
    assert half.nats != whole[-1]
    (more,) = evaluation(MODEL, params, VALIDATION, at_most=10**9)
    assert more.nats == whole[-1]


def test_an_optimizer_of_optax_takes_steps():
    # 20 updates with the schedule's own rates, more than an epoch.
    optimizer = optax.adam(optax.linear_schedule(1e-2, 0.0, 20))
    state, history = fit(MODEL, SOURCE, optimizer=optimizer, steps=20, progress=False)
    assert int(state.step) == history[-1].step == 20


def test_by_updates_the_table_says_the_update(capsys):
    fit(MODEL, SOURCE, VALIDATION, schedule="1 x 1e-2", steps=12, validate_every=5)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "update"
    assert [line.split()[0] for line in lines] == ["5", "10", "12"]


# Checkpoints in a folder.


def with_checkpoints(folder, stop_at=None, **options):
    """A training that a callback stops after some updates."""
    made = []

    def stop(now):
        made.append(now)
        return len(made) == stop_at

    usual = {"schedule": TWO, "validate_every": 7, "progress": False, "callbacks": [stop]}
    return fit(MODEL, SOURCE, VALIDATION, checkpoints=folder, **(usual | options))


def test_a_training_that_is_stopped_again_and_again_goes_on_to_the_same_end(
    tmp_path, step_by_step, caplog
):
    whole, history = with_checkpoints(tmp_path / "whole")
    ends = []
    for _ in range(5):
        state, rows = with_checkpoints(tmp_path / "pieces", stop_at=8)
        ends.append(int(state.step))
    assert ends == [8, 16, 24, 30, 30]
    assert "Going on from" in caplog.text
    assert_equal_states(state, whole)
    assert [row.line for row in rows] == [row.line for row in history]
    usual, _ = fit(MODEL, SOURCE, VALIDATION, schedule=TWO, validate_every=7, progress=False)
    assert_equal_states(whole, usual)

    # The best state is there, too.
    best = min((row for row in rows if row.validation is not None), key=lambda row: row.validation)
    found, metadata = jaxrnn.load(tmp_path / "pieces/best.safetensors", state)
    assert int(found.step) == best.step
    assert metadata["best"] == best.validation


def test_a_training_that_dies_goes_on_from_its_last_validation(tmp_path, monkeypatch, step_by_step):
    monkeypatch.setattr("jaxrnn.runs.checkpointing.LARGEST_SHARE", 1.0)
    whole, _ = with_checkpoints(tmp_path / "whole")

    def die(now):
        if now.state.step == 12:
            raise RuntimeError("the power is gone")

    with pytest.raises(RuntimeError, match="the power is gone"):
        with_checkpoints(tmp_path / "dies", callbacks=[die])
    steps = []
    state, _ = with_checkpoints(
        tmp_path / "dies", callbacks=[lambda now: steps.append(int(now.state.step))]
    )
    assert steps[0] == 8
    assert_equal_states(state, whole)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": "3 x 1e-2"}, "with other schedule"),
        ({"validate_every": 5}, r"other validate_every \(validate_every was 7, is 5\)"),
        ({"optimizer": "sgd"}, "with other optimizer"),
        (
            {"loss": lambda outputs, targets, model: -outputs.mean()},
            r"with other loss \(loss was No",
        ),
    ],
)
def test_the_folder_of_another_training_is_refused(tmp_path, options, words):
    with_checkpoints(tmp_path / "folder")
    before = {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()}
    with pytest.raises(RunError, match=words):
        with_checkpoints(tmp_path / "folder", **options)
    assert {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()} == before


def test_the_checkpoints_of_another_text_are_refused(tmp_path):
    folder = tmp_path / "folder"
    with_checkpoints(folder)
    another = BpttStream(TOKENS[::-1], B, 8)
    with pytest.raises(RunError, match="with other text"):
        fit(MODEL, another, VALIDATION, schedule=TWO, validate_every=7, checkpoints=folder)


def test_the_folder_of_a_run_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError, match="is a run of the command line's"):
        with_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


# Models of one's own.


class Own(StatefulModel):
    """A model whose layers read something else than an embedding named e."""

    @property
    def stack(self):
        return RNN(TANH, self.hidden_size, parent=None)

    @nn.compact
    def __call__(self, carry, tokens, *, lengths=None):
        xs = nn.Embed(self.vocab_size, self.embedding_size)(tokens)
        carry, ys = RNN(TANH, self.hidden_size, name="rnn")(carry, xs, lengths=lengths)
        return carry, nn.log_softmax(nn.Dense(self.vocab_size)(ys))


class Wider(Own):
    """A model whose layers read more than the embedding."""

    @nn.compact
    def __call__(self, carry, tokens, *, lengths=None):
        xs = nn.Embed(self.vocab_size, self.embedding_size, name="e")(tokens)
        xs = jnp.concatenate([xs, xs], axis=-1)
        carry, ys = RNN(TANH, self.hidden_size, name="rnn")(carry, xs, lengths=lengths)
        return carry, nn.log_softmax(nn.Dense(self.vocab_size)(ys))


@pytest.mark.parametrize("kind", [Own, Wider])
def test_a_model_of_ones_own_whose_gates_are_not_known_is_trained_without_that_number(kind):
    model = kind(V, 3, 8)
    state = make_state(model, ADAM, B, jax.random.key(0))
    starts = np.zeros(B, int)
    assert saturated_share(model, state.params, state.carry, TOKENS, starts) is None
    usual = make_state(MODEL, ADAM, B, jax.random.key(0))
    share = saturated_share(MODEL, usual.params, usual.carry, jnp.asarray(TOKENS), starts)
    assert 0 <= share <= 1


# Mistakes.


def wrong(words, *arguments, **options):
    return pytest.param(words, arguments, options, id=words[:30])


@pytest.mark.parametrize(
    ("words", "arguments", "options"),
    [
        wrong(r"take jaxrnn.BpttStream\(tokens, batch_size=64, bptt=16\)", MODEL, TOKENS),
        wrong(r"BpttStream\(vocabulary.encode\(text\), batch_size=64", MODEL, "a text"),
        wrong("validation must be windows of tokens, got an array", MODEL, SOURCE, TOKENS),
        wrong(r"call it, CharLM\(vocab_size", CharLM, SOURCE),
        wrong("must be a model such as CharLM", "CharLM", SOURCE),
        wrong("state must be a TrainState, got a dict", MODEL, SOURCE, state={}),
        wrong("schedule must be written as EPOCHS x RATE", MODEL, SOURCE, schedule=1e-3),
        wrong(
            "goes into its optimizer", MODEL, SOURCE, schedule=optax.constant_schedule(1e-3)
        ),
        wrong(r"write callbacks=\[function\]", MODEL, SOURCE, callbacks=print),
        wrong("callbacks must be functions", MODEL, SOURCE, callbacks=[3]),
        wrong("progress must be True or False", MODEL, SOURCE, progress="yes"),
        wrong("steps must be at least 1", MODEL, SOURCE, steps=0),
        wrong("validate_every must be an integer", MODEL, SOURCE, validate_every=0.5),
        wrong("with epochs or with steps, not with both", MODEL, SOURCE, steps=3, epochs=1),
        wrong(r"seed must lie in", MODEL, SOURCE, seed=-1),
        wrong("carry_policy must be one of never", MODEL, SOURCE, carry_policy="sometimes"),
        wrong(r"Call it first, as in optax.adam", MODEL, SOURCE, optimizer=optax.adam, epochs=1),
        wrong(r"tokens must be in \[0, 3\)", CharLM(3), SOURCE),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_before_anything_runs(words, arguments, options, capsys):
    usual = {} if "epochs" in options else {"schedule": TWO}
    with pytest.raises(ValueError, match=words) as caught:
        fit(*arguments, **(usual | options))
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_the_state_of_another_optimizer_is_refused_in_words():
    state = make_state(MODEL, make_optimizer("sgd"), B, jax.random.key(0))
    with pytest.raises(ValueError, match="The state is that of another optimizer"):
        fit(MODEL, SOURCE, schedule=TWO, state=state)


def test_a_whole_state_where_parameters_belong_is_said():
    state = make_state(MODEL, ADAM, B, jax.random.key(0))
    with pytest.raises(ValueError, match=r"got a whole state: state\.params"):
        jaxrnn.evaluate(MODEL, state, SOURCE)


def test_steps_and_loops_of_ones_own_say_what_they_take():
    state = make_state(MODEL, ADAM, B, jax.random.key(0))
    window = SOURCE.window(0, 0)
    for words, call in [
        (r"jaxrnn\.Batch\(inputs, targets\)", lambda: train_step(MODEL, ADAM, state, window, 0.1)),
        (r"take make_optimizer\('adam'\)", lambda: make_state(MODEL, "adam", B, None)),
        ("got a text: take jaxrnn.sample", lambda: generate(MODEL, state.params, "the", 3, None)),
        ("path must be the path", lambda: jaxrnn.load_run(3)),
        ("source must be windows", lambda: jaxrnn.evaluate(MODEL, state.params, TOKENS)),
    ]:
        with pytest.raises(ValueError, match=words):
            call()


# The history.


def test_records_are_the_rows_and_the_picture_has_their_losses():
    _, history = fit(MODEL, SOURCE, VALIDATION, schedule=TWO, progress=False)
    assert isinstance(history, History)
    records = history.records()
    assert json.loads(json.dumps(records)) == records
    assert [Row(**record) for record in records] == history
    figure = history.plot(title="a run")
    (axes,) = figure.axes
    average, validation = axes.lines
    np.testing.assert_array_equal(average.get_ydata(), [row.train for row in history])
    ends = [row for row in history if row.validation is not None]
    np.testing.assert_array_equal(validation.get_xdata(), [row.epoch for row in ends])
    np.testing.assert_array_equal(validation.get_ydata(), [row.validation for row in ends])
    assert axes.get_title() == "a run"
    assert axes.get_xlabel() == "epochs"
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert "matplotlib.pyplot" not in sys.modules or figure.number is None


def test_less_than_an_epoch_is_drawn_by_updates():
    _, history = fit(MODEL, SOURCE, schedule="1 x 1e-2", steps=10, progress=False)
    (axes,) = history.plot().axes
    assert axes.get_xlabel() == "updates"
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), range(1, 11))


def test_histories_and_states_are_printed_in_a_line():
    state, history = fit(MODEL, SOURCE, VALIDATION, schedule=TWO, progress=False)
    last = history[-1]
    assert repr(history).startswith(f"History({len(history)} rows, 2 epochs, 30 updates, ")
    assert f"validation loss {last.validation:.4f}" in repr(history)
    assert repr(History()) == "History(no rows)"
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert repr(state) == (
        f"TrainState({count:,} parameters in float32, a carry of 4 streams, step 30)"
    )
    shapes = []
    jax.jit(lambda state: shapes.append(repr(state)))(state)
    assert "step" not in shapes[0]
