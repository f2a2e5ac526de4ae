"""The generated tasks against brute-force oracles, and training on them."""

import math
from collections import Counter
from dataclasses import replace
from itertools import product

import jax
import numpy as np
import pytest

from jaxrnn.data.tasks import COPIED, KINDS, SYMBOLS, TASKS, make_task
from jaxrnn.data.windows import BpttStream
from jaxrnn.runs import task_training
from jaxrnn.runs.comparison_plan import TASK_CONFIG
from jaxrnn.runs.jobs import Stopped
from jaxrnn.runs.task_training import TaskRow, learner_of, train_task
from jaxrnn.training.diagnosis import NonFiniteLossError
from jaxrnn.training.history import Position
from jaxrnn.training.schedules import parse_schedule
from jaxrnn.training.timetable import Budget, Timetable, rates_of

TINY = replace(TASK_CONFIG, cell="tanh", hidden_size=4, embedding_size=4, batch_size=3, steps=7)
MANY = 4000
"""Number of sequences over which frequencies are counted."""


def many(name, length=None):
    return make_task(name, length).training(seed=1, step=0, batch_size=MANY)


@pytest.mark.parametrize("length", [2, 7, 100])
def test_adding_sums_the_two_numbers_that_are_marked(length):
    batch = many("adding", length)
    assert batch.inputs.shape == (MANY, length, 2)
    assert batch.targets.shape == (MANY, 1)
    first, second = Counter(), Counter()
    for numbers, target in zip(batch.inputs, batch.targets, strict=True):
        places = [t for t in range(length) if numbers[t, 1] == 1]
        assert [mark for mark in numbers[:, 1] if mark != 0] == [1, 1]
        one, two = places
        first[one] += 1
        second[two] += 1
        assert target == pytest.approx(float(numbers[one, 0]) + float(numbers[two, 0]), rel=1e-6)
    # A mark in each half, at every place of it.
    assert set(first) == set(range(length // 2))
    assert set(second) == set(range(length // 2, length))
    assert 0 <= batch.inputs[:, :, 0].min() < 0.02
    assert 0.98 < batch.inputs[:, :, 0].max() < 1


@pytest.mark.parametrize("length", [1, 2, 30])
def test_copying_asks_for_the_first_symbols_at_the_end(length):
    batch = many("copying", length)
    blank, mark = SYMBOLS, SYMBOLS + 1
    for inputs, targets in zip(batch.inputs.T, batch.targets.T, strict=True):
        symbols = list(inputs[:COPIED])
        assert set(symbols) <= set(range(SYMBOLS))
        blanks = [blank] * (length - 1)
        assert list(inputs) == [*symbols, *blanks, mark, *[blank] * COPIED]
        assert list(targets) == [*[blank] * (length + COPIED), *symbols]
    counts = np.bincount(batch.inputs[:COPIED].ravel(), minlength=SYMBOLS)
    assert np.all(abs(counts / counts.mean() - 1) < 0.1)


def closed(inputs, mark):
    """The kinds that the marks close, by a stack."""
    stack, found = [], []
    for token in inputs:
        if token == mark:
            found.append(stack.pop())
        else:
            stack.append(token)
    assert not stack
    return found


@pytest.mark.parametrize("length", [2, 6, 40])
def test_brackets_are_balanced_and_each_mark_closes_the_right_kind(length):
    task = make_task("brackets", length)
    batch = many("brackets", length)
    for inputs, targets in zip(batch.inputs.T, batch.targets.T, strict=True):
        expected = closed(inputs.tolist(), KINDS)
        assert [kind for kind in targets if kind != task.ignored] == expected
        assert [t for t in range(length) if inputs[t] == KINDS] == [
            t for t in range(length) if targets[t] != task.ignored
        ]


def test_every_word_of_brackets_is_as_likely_and_so_is_every_kind():
    batch = many("brackets", 6)
    shapes = Counter(tuple(column) for column in (batch.inputs.T == KINDS).tolist())
    # All words of six brackets, by brute force.
    words = []
    for word in product([False, True], repeat=6):
        heights = np.cumsum([-1 if closes else 1 for closes in word])
        if heights.min() >= 0 and heights[-1] == 0:
            words.append(word)
    assert set(shapes) == set(words)
    assert len(words) == 5
    # Four standard deviations of a count of probability 1/5.
    limit = 4 * math.sqrt(MANY * 0.2 * 0.8)
    assert all(abs(count - MANY / 5) < limit for count in shapes.values())
    kinds = np.bincount(batch.inputs[batch.inputs < KINDS], minlength=KINDS)
    assert np.all(abs(kinds / kinds.mean() - 1) < 0.1)


def test_the_baselines_are_the_losses_of_the_best_guess():
    targets = many("adding", 10).targets
    assert make_task("adding").baseline == pytest.approx(1 / 6)
    assert np.mean((targets - 1) ** 2) == pytest.approx(1 / 6, rel=0.1)
    task = make_task("copying", 30)
    batch = many("copying", 30)
    # Certain of each blank, and one of eight where symbols are.
    guessed = np.where(batch.targets == SYMBOLS, 0.0, math.log(SYMBOLS))
    assert guessed.mean() == pytest.approx(task.baseline)
    assert make_task("brackets", 8).baseline == pytest.approx(math.log(4))


@pytest.mark.parametrize("name", TASKS)
def test_equal_seeds_give_equal_data_and_others_do_not(name):
    task = make_task(name, 10)
    one = task.training(3, 5, 4)
    again = task.training(3, 5, 4)
    assert np.array_equal(one.inputs, again.inputs)
    assert np.array_equal(one.targets, again.targets)
    for other in (task.training(4, 5, 4), task.training(3, 6, 4)):
        assert not np.array_equal(one.inputs, other.inputs)
    # Nothing is validated on that is trained on: not the first batch, whose number is 0, either.
    held_out = task.validation(3, 4)
    for step in range(3):
        assert not np.array_equal(task.training(3, step, 4).inputs, held_out.inputs)


def test_the_rates_of_updates_are_those_of_a_training_by_updates():
    assert rates_of(parse_schedule("3 x 1e-3, 1 x 1e-4"), 8).tolist() == [1e-3] * 6 + [1e-4] * 2
    schedule = parse_schedule("1 x 1e-2, sgdr(1e-2, 2), one-cycle(2, 1e-3)")
    stream = BpttStream(np.zeros(100, np.int32), 1, 3, False)
    timetable = Timetable(schedule, stream, Budget(steps=25))
    expected = []
    for step in range(25):
        place = timetable.place(Position(window=step))
        rate = place.phase.rates(np.array([place.done]), place.steps_per_epoch)
        expected.append(rate.item())
    assert rates_of(schedule, 25).tolist() == expected


@pytest.mark.parametrize(
    ("name", "length", "message"),
    [
        ("adding", 1, "length of adding must be a whole number of at least 2, got 1"),
        ("copying", 0, "at least 1, got 0"),
        ("brackets", 7, "must be even, got 7; take 8"),
        ("brackets", True, "whole number"),
        ("brackets", 4.0, "whole number"),
        ("sorting", None, "task must be one of adding, copying, brackets, got 'sorting'"),
    ],
)
def test_a_length_that_does_not_fit_is_refused(name, length, message):
    with pytest.raises(ValueError, match=message):
        make_task(name, length)


def quiet(share, note):
    pass


class Interruption:
    """Stops a training at one of its updates."""

    def __init__(self, at):
        self.left = at

    def __call__(self, share, note):
        assert 0 < share <= 1
        assert note.startswith("loss ")
        self.left -= 1
        if self.left == 0:
            raise Stopped


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", TASKS)
def test_a_training_that_is_stopped_ends_as_one_that_is_not(tmp_path, monkeypatch, name):
    monkeypatch.setattr(task_training, "VALIDATED", 5)
    task = make_task(name, 4)
    whole, _ = train_task(TINY, task, tmp_path / "whole", quiet)
    with pytest.raises(Stopped):
        train_task(TINY, task, tmp_path / "pieces", Interruption(3))
    pieces, _ = train_task(TINY, task, tmp_path / "pieces", quiet)
    assert pieces == whole
    assert [row.step for row in whole] == list(range(1, 8))
    assert all(isinstance(row, TaskRow) and math.isfinite(row.validation) for row in whole)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", TASKS)
def test_the_loss_is_that_of_an_oracle(name):
    """The validation of fresh weights, target by target, in NumPy."""
    task = make_task(name, 4)
    learner = learner_of(TINY, task)
    state = learner.init(jax.random.key(0))
    batch = task.validation(0, 5)  # in batches of 3 and 2
    apply = jax.jit(learner.model.apply)
    if name == "adding":
        outputs = apply({"params": state.params}, batch.inputs.swapaxes(0, 1))
        losses = [float((outputs[i, 0] - batch.targets[i, 0]) ** 2) for i in range(5)]
    else:
        carry = learner.model.initial_carry(5)
        _, log_probs = apply({"params": state.params}, carry, batch.inputs)
        log_probs = np.asarray(log_probs)
        losses = []
        for (t, i), target in np.ndenumerate(batch.targets):
            if target != task.ignored:
                losses.append(-log_probs[t, i, target])
    assert learner.evaluate(state.params, batch) == pytest.approx(np.mean(losses), rel=1e-5)
    # An update sees the same loss, before it; at rate 0 again, as each batch starts from zeros.
    three = task.validation(1, 3)
    for _ in range(2):
        state, loss = learner.update(state, three, 0.0)
        assert float(loss) == pytest.approx(learner.evaluate(state.params, three), rel=1e-5)


def test_a_training_that_diverges_says_where(tmp_path):
    config = replace(TINY, schedule="1 x 1e38", optimizer="sgd", clip=None)
    with pytest.raises(NonFiniteLossError, match=r"at step \d+ with learning rate 1e\+38"):
        train_task(config, make_task("adding", 4), tmp_path / "run", quiet)


@pytest.mark.slow
def test_an_lstm_learns_the_adding_problem(tmp_path, monkeypatch):
    """Far below the baseline, which a network without memory does not get under."""
    config = replace(TASK_CONFIG, cell="lstm", hidden_size=32, schedule="1 x 1e-2", steps=600)
    rows, _ = train_task(config, make_task("adding", 10), tmp_path / "run", quiet)
    assert rows[-1].validation < 0.02


def test_what_a_task_does_not_take_is_refused():
    adding = make_task("adding")
    with pytest.raises(ValueError, match=r"CharSeqStatefulGRU tokens: name a cell"):
        learner_of(replace(TINY, model="CharSeqStatefulGRU", cell="gru"), adding)
    with pytest.raises(ValueError, match=r"CharRnn has no carry"):
        learner_of(replace(TINY, model="CharRnn", cell="gru"), make_task("copying"))
