"""The training loop: learning, history, carry policies, stopping and going on."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import FLOAT32, relative

from jaxrnn import GRU, RELU, BpttStream, CharLM, evaluate, fit, make_optimizer, make_state
from jaxrnn.data import windows
from jaxrnn.training.diagnosis import NonFiniteLossError
from jaxrnn.training.history import Position
from jaxrnn.training.loop import training
from jaxrnn.training.schedules import parse_schedule

V, B = 5, 4
ADAM = make_optimizer("adam")
TOKENS = np.random.default_rng(0).integers(0, V, 600).astype(np.uint8)
CYCLE = np.resize(np.arange(V), 600).astype(np.uint8)


def model_of(**options):
    return CharLM(V, 3, 8, **options)


def test_a_text_that_repeats_is_learnt():
    source, validation = BpttStream(CYCLE, B, 8), BpttStream(CYCLE[:200], B, 8)
    state, history = fit(model_of(), source, validation, schedule="4 x 3e-2")
    first, *_, last = [row for row in history if row.validation is not None]
    assert first.validation < math.log(V)
    assert last.validation < 0.1
    assert last.step == int(state.step) == 4 * source.steps(0)
    assert last.bits_per_character == pytest.approx(last.validation / math.log(2))
    assert last.perplexity == pytest.approx(math.exp(last.validation))


def test_history_has_ten_rows_an_epoch_and_the_courses_average():
    source = BpttStream(TOKENS, B, 3)
    state = make_state(model_of(), ADAM, B, jax.random.key(0))
    progresses = training(
        model_of(), source, None, parse_schedule("1 x 1e-2, 1 x 0.0"), ADAM, state
    )
    rows = [p.row for p in progresses if p.row is not None]
    assert [r.epoch for r in rows] == pytest.approx(np.arange(1, 21) / 10, abs=1e-3)
    assert {r.rate for r in rows} == {1e-2, 0.0}
    # at rate 0 all is still: the average of the second phase starts anew and is a plain loss
    final, _ = fit(model_of(), source, schedule="1 x 1e-2")
    _, nats = evaluate(model_of(), final.params, source, final.carry)
    assert rows[-1].train == pytest.approx(nats, abs=0.03)


def after_one_epoch(policy):
    source, validation = BpttStream(TOKENS, B, 8), BpttStream(CYCLE, B, 8)
    state, _ = fit(model_of(), source, validation, schedule="1 x 1e-2", carry_policy=policy)
    alone, _ = fit(model_of(), source, schedule="1 x 1e-2", carry_policy=policy)
    assert relative(state.params, alone.params) == 0
    return state, alone, validation


@pytest.mark.parametrize("policy", ["never", "epoch", "evaluation"])
def test_the_carry_goes_through_the_validation_only_where_it_never_restarts(policy):
    state, alone, validation = after_one_epoch(policy)
    through, _ = evaluate(model_of(), state.params, validation, alone.carry)
    expected = through if policy == "never" else alone.carry
    assert relative(state.carry, expected) < FLOAT32
    assert relative(through, alone.carry) > 1e-2


@pytest.mark.parametrize("policy", ["never", "epoch", "evaluation"])
def test_the_carry_restarts_at_an_epoch_only_under_that_policy(policy):
    model, source = model_of(), BpttStream(TOKENS, 60, 3)  # 10 rows: the start is not forgotten
    two, _ = fit(model, source, schedule="2 x 0.0", carry_policy=policy)
    one, _ = fit(model, source, schedule="1 x 0.0", carry_policy=policy)
    same = relative(two.carry, one.carry) == 0  # nothing is learned at rate 0
    assert same == (policy == "epoch")


def test_training_in_pieces_equals_training_in_one(monkeypatch):
    monkeypatch.setattr(windows, "PADDED_SIZES", 2)  # fewer programs to compile
    model = model_of(num_layers=2, dropout=0.5)
    source = BpttStream(TOKENS, B, 9, random_bptt=True)
    validation = BpttStream(TOKENS[:100], B, 9, random_bptt=True)
    schedule = parse_schedule("1 x 1e-2, sgdr(1e-2, 2)")

    def run(state, position):
        return training(model, source, validation, schedule, ADAM, state, position)

    def fresh():
        return make_state(model, ADAM, B, jax.random.key(0))

    whole = list(run(fresh(), Position()))[-1]
    state, position, stops, last = fresh(), Position(), 0, None
    while position.epoch < schedule.epochs:
        pieces = run(state, position)
        for _ in range(3):
            last = next(pieces, None) or last
            state, position = last.state, last.position
        pieces.close()
        stops += 1
    assert stops > 5
    for ours, expected in zip(
        jax.tree.leaves(state._replace(key=0)),
        jax.tree.leaves(whole.state._replace(key=0)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, expected)
    assert last.row.validation == whole.row.validation
    assert last.row.train == whole.row.train


def test_a_loss_that_is_no_number_stops_with_step_and_rate():
    model, source = model_of(cell=RELU), BpttStream(TOKENS, B, 8)
    with pytest.raises(NonFiniteLossError, match=r"at step \d+ with learning rate 1e\+30"):
        fit(model, source, schedule="1 x 1e30", optimizer=make_optimizer("sgd"))


def test_evaluation_is_the_mean_weighted_by_length():
    model = model_of(cell=GRU)
    params = make_state(model, ADAM, B, jax.random.key(0)).params
    ragged, whole = BpttStream(TOKENS, B, 40), BpttStream(TOKENS, B, 149)
    assert len(ragged.sizes) == 2
    assert whole.steps(0) == 1
    carry, nats = evaluate(model, params, ragged)
    expected_carry, expected = evaluate(model, params, whole)
    assert nats == pytest.approx(expected, rel=1e-5)
    assert relative(carry, expected_carry) < FLOAT32
    warm, _ = evaluate(model, params, ragged, jax.tree.map(jnp.ones_like, carry))
    assert warm[0].h.shape == (B, 8)
