"""Place and cause in updates, runs and texts, where JAX's results are PyTorch's with a mistake."""

from itertools import pairwise

import numpy as np
import pytest

from jaxrnn.nn.models import CharSeqStatefulRnn
from jaxrnn.training.optimizers import CLIP_EPSILON
from parity.core.cases import sample_case
from parity.core.pairs import model_pair
from parity.diagnosis import training
from parity.diagnosis.causes import Diagnosis
from parity.diagnosis.optimizers import variants
from parity.measures.generation import CHARACTERS, PROMPT, torch_generated
from parity.measures.plans import TrainingPlan
from parity.measures.runs import VALIDATION
from parity.measures.training import ADAM, RULES_BY_NAME
from parity.measures.updates import NORMS, RATE, STEPS, torch_updates

PAIR = model_pair("model", CharSeqStatefulRnn(9, 4, 5))
CLIPPED = RULES_BY_NAME["SGD, clipped"]
CASE = sample_case(PAIR, 0, "float64")


@pytest.fixture
def right(monkeypatch):
    """JAX's part is PyTorch's; what a test patches after this is the mistake."""

    def updates(pair, rule, rows, dtype):
        assert (tuple(rows), dtype) == ((3,) * STEPS, "float64")
        return torch_updates(pair, rule, rows, dtype)

    def after(pair, rule, *others):
        return training.torch_gradients(pair, rule, CASE)[1]

    monkeypatch.setattr(training, "jax_replayed", after)
    monkeypatch.setattr(training, "torch_replayed", after)
    monkeypatch.setattr(training, "jax_updates", updates)
    monkeypatch.setattr(training, "diagnose_values", lambda pair: None)
    return monkeypatch


@pytest.mark.parametrize("rule", [ADAM, CLIPPED], ids=lambda rule: rule.name)
def test_gradients_are_those_of_every_update_unclipped(rule):
    """Replayed in NumPy they end at the same weights."""
    gradients, after = training.torch_gradients(PAIR, rule, CASE)
    assert len(gradients) == STEPS
    assert all(g.keys() == CASE.weights.keys() for g in gradients)
    _, replayed = next(variants(rule, CASE.weights, gradients, RATE))
    for key, array in after.items():
        np.testing.assert_allclose(replayed[key], array, rtol=1e-10)


@pytest.mark.parametrize("rule", [ADAM, CLIPPED], ids=lambda rule: rule.name)
def test_nothing_is_found_in_the_same_updates(rule, right):
    assert training.diagnose_update(PAIR, rule) is None


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (ADAM, "eps is added before the bias correction"),
        (CLIPPED, "every parameter is clipped by itself"),
        (CLIPPED, "there is no momentum"),
    ],
)
def test_an_optimizer_that_moves_otherwise_is_the_place(rule, words, right):
    gradients, _ = training.torch_gradients(PAIR, rule, CASE)
    (other,) = [w for name, w in variants(rule, CASE.weights, gradients, RATE) if name == words]
    right.setattr(training, "jax_replayed", lambda *arguments: other)
    found = training.diagnose_update(PAIR, rule)
    assert found == ("the optimizer, given PyTorch's gradients", words)
    twice = {key: 3 * array for key, array in other.items()}
    right.setattr(training, "jax_replayed", lambda *arguments: twice)
    assert training.diagnose_update(PAIR, rule).cause == ""


def test_the_first_gradient_is_looked_at_on_the_whole_window(right):
    seen = []

    def found(pair):
        seen.append(pair)
        return Diagnosis("a gradient")

    right.setattr(training, "diagnose_values", found)
    short = model_pair("short", PAIR.model, length=3)
    for pair in (PAIR, short):
        assert training.diagnose_update(pair, ADAM) == ("a gradient", "")
    assert seen[0] is PAIR
    assert not seen[1].lengths
    assert (seen[1].name, seen[1].model) == ("short", PAIR.model)


def moved(arrays):
    return {key: array + 0.1 for key, array in arrays.items()}


def test_a_later_gradient_or_the_step_itself_is_to_blame(right):
    after = training.torch_gradients(PAIR, ADAM, CASE)[1]
    right.setattr(training, "torch_replayed", lambda *arguments: moved(after))
    place = "a gradient after the first update, through torch's optimizer"
    assert training.diagnose_update(PAIR, ADAM) == (place, "")


def changed_updates(right, change):
    """JAX's updates are PyTorch's with some results changed."""

    def updates(pair, rule, rows, dtype):
        run = torch_updates(pair, rule, rows, dtype)

        def changed(*case):
            found = run(*case)["update"]
            return {"update": {**found, **change(found)}}

        return changed

    right.setattr(training, "jax_updates", updates)


def test_the_step_around_gradient_and_optimizer_is_left(right):
    key = "weights of rnn.weight_hh_l0"
    changed_updates(right, lambda found: {key: found[key] + 0.1})
    place = "the training step around gradient and optimizer"
    assert training.diagnose_update(PAIR, ADAM) == (place, "")


def test_what_a_step_reports_beside_the_weights_is_named(right):
    key = "exp_avg of rnn.weight_hh_l0"
    changed_updates(right, lambda found: {key: 2 * found[key], "carry.h": 0 * found["carry.h"]})
    place = f"beside the weights: {key}, carry.h"
    assert training.diagnose_update(PAIR, ADAM) == (place, "")


def norm(arrays):
    return np.sqrt(sum(np.sum(array**2) for array in arrays.values()))


def weights_on_the_way(rule):
    gradients, _ = training.torch_gradients(PAIR, rule, CASE)
    ways = [next(variants(rule, CASE.weights, gradients[:k], RATE))[1] for k in range(STEPS + 1)]
    moves = []
    for before, after in pairwise(ways):
        moves.append(norm({key: after[key] - before[key] for key in before}))
    return gradients, ways, np.array(moves)


GRADIENTS, WAYS, MOVES = weights_on_the_way(CLIPPED)
EACH = [[np.linalg.norm(array) for array in g.values()] for g in GRADIENTS]
OWN = np.array([norm(g) for g in GRADIENTS])
METRICS = {
    "it is that of the update": MOVES,
    "it is that of the direction, before the learning rate": MOVES / RATE,
    "it is that of the clipped gradient": np.minimum(OWN, CLIPPED.clip),
    "it is squared": OWN**2,
    "it is that of the weights": np.array([norm(w) for w in WAYS[:STEPS]]),
    "it is the largest of one parameter": np.max(EACH, axis=1),
    "it is the sum of those of the parameters": np.sum(EACH, axis=1),
    "": 1.1 * OWN,
}


@pytest.mark.parametrize("words", METRICS)
def test_another_norm_than_the_gradients_is_named(words, right):
    changed_updates(right, lambda found: {NORMS: METRICS[words]})
    found = training.diagnose_update(PAIR, CLIPPED)
    assert found == ("the metric of the gradient's norm", words)


def test_a_norm_after_clipping_may_have_the_epsilon_in_it(right):
    scale = np.minimum(1, CLIPPED.clip / (OWN + CLIP_EPSILON))
    changed_updates(right, lambda found: {NORMS: OWN * scale})
    assert training.diagnose_update(PAIR, CLIPPED).cause == "it is that of the clipped gradient"


# Runs.


def run(plan):
    return {VALIDATION: np.array([1.0, 2.0]), "w": np.ones(3), "carry.h": np.ones(2)}


WINDOW = (np.zeros((6, 4), int), np.zeros((6, 4), int))
PLAN = TrainingPlan([WINDOW], [np.arange(4)], [0.1])


def diagnosed(**changes):
    return training.diagnose_run(PAIR, PLAN, np.arange(50), run(PLAN) | changes, run)


def test_a_run_whose_validation_alone_differs_is_wrong_there():
    place = "the validation, after an equal training"
    assert diagnosed(**{VALIDATION: np.array([1.0, 2.5])}) == (place, "")
    assert diagnosed() is None


def test_a_step_of_a_run_is_looked_at_in_its_sizes(monkeypatch):
    seen = []

    def found(pair, rule):
        seen.append((pair.sample_inputs(np.random.default_rng(0))["tokens"].shape, rule))
        return None

    monkeypatch.setattr(training, "diagnose_update", found)
    assert diagnosed(w=np.zeros(3)) == ("the run: w", "")
    assert seen == [((6, 4), ADAM)]
    monkeypatch.setattr(training, "diagnose_update", lambda *a: Diagnosis("a step"))
    assert diagnosed(w=np.zeros(3)) == ("a step", "")


def test_a_plan_fits_up_to_round_off_and_whatever_the_carry_is(monkeypatch):
    """Every deviation of the plan has the same numbers here, of which the first is named."""
    monkeypatch.setattr(training, "diagnose_update", lambda *arguments: None)
    limit = training.FOLLOWED * np.linalg.norm(np.ones(3))
    for share, place in ((0.9, "the carry between windows"), (1.1, "the run: w, carry.h")):
        got = {"w": np.array([1.0, 1.0, 1.0 + share * limit]), "carry.h": np.zeros(2)}
        assert diagnosed(**got).place == place


# Texts.


def test_the_character_that_is_chosen_has_a_rank(monkeypatch):
    weights = sample_case(PAIR, 0, "float32").weights
    prompt = np.arange(PROMPT) % PAIR.model.vocab_size
    right = torch_generated(PAIR, weights, prompt, "float64")
    own = right.tokens[PROMPT:]
    monkeypatch.setattr(training, "jax_log_probs", lambda *arguments: right.log_probs)
    monkeypatch.setattr(training, "jax_generated", lambda *arguments: own)
    assert training.diagnose_generation(PAIR) is None
    assert len(own) == CHARACTERS
    for rank in (2, 3, 9):
        other = own.copy()
        other[0] = np.argsort(right.log_probs[0])[-rank]
        monkeypatch.setattr(training, "jax_generated", lambda *a, other=other: other)
        found = training.diagnose_generation(PAIR)
        place = "the choice of the character, from equal log probabilities"
        assert found == (place, f"number {rank} in the order of likelihood is taken")
    other = own.copy()
    other[[1, 3]] += 1
    monkeypatch.setattr(training, "jax_generated", lambda *arguments: other)
    cause = "what it hands on from character to character differs"
    assert training.diagnose_generation(PAIR) == (
        "the loop over characters, from number 1 on",
        cause,
    )
    # Other log probabilities: the model is looked at.
    monkeypatch.setattr(training, "jax_log_probs", lambda *arguments: 2 * right.log_probs)
    monkeypatch.setattr(training, "diagnose_values", lambda pair: None)
    assert training.diagnose_generation(PAIR) == ("the model, one character at a time", "")
    monkeypatch.setattr(training, "diagnose_values", lambda pair: Diagnosis("a layer"))
    assert training.diagnose_generation(PAIR) == ("a layer", "")
