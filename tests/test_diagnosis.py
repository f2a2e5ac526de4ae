"""What the diagnosis names, from numbers that are made by hand."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from jaxrnn.exchange.weights import WeightMap
from jaxrnn.nn.models import CharSeqStatefulRnn
from parity.core.pairs import model_pair
from parity.diagnosis.average_causes import average_cause
from parity.diagnosis.training import diagnose_run
from parity.measures.envelopes import Center
from parity.measures.plans import TrainingPlan, deviating_plans
from parity.measures.training_loops import Step
from parity.modules.mapping.recurrent import Layer, layer_layouts

RNG = np.random.default_rng(0)
STEPS = 6
DECAY = 0.9


def weighted(decays, start, weights):
    """A moving average with a decay for each step, written out as one sum."""
    terms = [np.prod(decays) * start]
    for t, array in enumerate(weights):
        terms.append((1 - decays[t]) * np.prod(decays[t + 1 :]) * array)
    return sum(terms)


def growing(first):
    return lambda w, t: weighted(
        [min(DECAY, (1 + k) / (10 + k)) for k in range(first, first + t)], w[0], w[1 : t + 1]
    )


# The average after step t, counted from 1, of weights of which w[0] are the first.
AVERAGES = {
    "": lambda w, t: np.sin(w[t]),
    "it is not updated": lambda w, t: w[0],
    "it is no average, but the weights themselves": lambda w, t: w[t],
    "it is the mean of all steps": lambda w, t: sum(w[1 : t + 1]) / t,
    "it is the mean of all steps and the start": lambda w, t: sum(w[: t + 1]) / (t + 1),
    "the decay is 0.95, PyTorch's is 0.9": lambda w, t: weighted([0.95] * t, w[0], w[1 : t + 1]),
    "it takes the weights before the step": lambda w, t: weighted([DECAY] * t, w[0], w[:t]),
    "it starts from zeros": lambda w, t: weighted([DECAY] * t, 0 * w[0], w[1 : t + 1]),
    "it starts from zeros, with a bias correction": lambda w, t: (
        weighted([DECAY] * t, 0 * w[0], w[1 : t + 1]) / (1 - DECAY**t)
    ),
    "the decay grows as (1 + t) / (10 + t) from t = 0 on": growing(0),
    "the decay grows as (1 + t) / (10 + t) from t = 1 on": growing(1),
}


@pytest.mark.parametrize("words", AVERAGES)
def test_an_average_is_named_by_what_it_is_made_of(words):
    w = list(np.cumsum(RNG.normal(size=(STEPS + 1, 3, 2)), axis=0))
    steps = range(1, STEPS + 1)
    right = [weighted([DECAY] * t, w[0], w[1 : t + 1]) for t in steps]
    expected = [Step(weights={"w": w[t]}, averages={"w": right[t - 1]}) for t in steps]
    got = [Step(weights={"w": w[t]}, averages={"w": AVERAGES[words](w, t)}) for t in steps]
    center = Center({"w": w[0]}, expected, [], "float64")
    case = SimpleNamespace(center=center, got=got)
    assert average_cause(case, ["w"]) == words


TOKENS = RNG.integers(20, size=200)
PAIR = model_pair("model", CharSeqStatefulRnn(20, 4, 5))
STARTS = [np.array([3, 60]) + 5 * k for k in range(3)]


def windows_at(starts):
    cut = [np.stack([TOKENS[s : s + 6] for s in streams], 1) for streams in starts]
    return [(window[:-1], window[1:]) for window in cut]


PLAN = TrainingPlan(
    windows=windows_at(STARTS),
    starts=STARTS,
    rates=[0.1, 0.2, 0.3, 0.1, 0.2, 0.3],
    epochs=2,
    validation=windows_at(STARTS),
    sizes=(4, 8),
    batch_size=3,
)


def plain_run(plan):
    """Numbers that everything in a plan moves: a weight, the losses, and what is carried."""
    weight = 1.0
    carry = 0.0
    losses = []
    rates = iter(plan.rates)
    for _ in range(plan.epochs):
        for inputs, targets in plan.windows:
            if not plan.carried:
                carry = 0.0
            carry = np.tanh(carry + weight * np.mean(inputs))
            losses.append(carry * np.sum(targets) + weight)
            weight -= next(rates) * np.mean(np.cos(targets)) * (1 + carry)
        after = carry if plan.validation_carried else 0.0
        for inputs, targets in plan.validation:
            losses.append(np.sum(np.sin(inputs + after)) * np.mean(targets) * weight)
    return {"losses": np.array(losses), "weight": np.array(weight), "carry.h": np.array(carry)}


DEVIATIONS = list(deviating_plans(PLAN, TOKENS))


@pytest.mark.parametrize("deviation", DEVIATIONS, ids=lambda deviation: deviation[1])
def test_a_run_of_another_plan_is_named_and_the_right_one_is_not(deviation):
    place, words, other = deviation
    assert diagnose_run(PAIR, PLAN, TOKENS, plain_run(PLAN), plain_run) is None
    named = diagnose_run(PAIR, PLAN, TOKENS, plain_run(other), plain_run)
    assert (named.place, named.cause) == (place, words)


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("every window starts from zeros", {"carried": False}),
        ("validation starts from zeros", {"validation_carried": False}),
        ("the rate is that of the step before", {"rates": [0.1, 0.1, 0.2, 0.3, 0.1, 0.2]}),
        ("the targets are the inputs", {"windows": [(x, x) for x, _ in PLAN.windows]}),
        (
            "they start one character late",
            {
                "windows": windows_at([starts + 1 for starts in STARTS]),
                "validation": windows_at([starts + 1 for starts in STARTS]),
            },
        ),
    ],
)
def test_deviations_are_what_their_words_say(words, change):
    got = plain_run(replace(PLAN, **change))
    assert words in diagnose_run(PAIR, PLAN, TOKENS, got, plain_run).cause


@pytest.mark.slow
def test_what_no_plan_gives_is_placed_in_the_run():
    got = plain_run(PLAN) | {"weight": np.array(7.0)}
    assert diagnose_run(PAIR, PLAN, TOKENS, got, plain_run).place == "the run: weight"


H, I, G = 2, 3, 4


def test_one_matrix_of_a_recurrent_layer_may_have_its_gates_in_any_order():
    """Of each order there is a map, and PyTorch's own is the likeliest."""
    layer = Layer(("weight_ih", "weight_hh"), (), G, H, I)
    arrays = {
        "weight_ih": RNG.normal(size=(G * H, I)),
        "weight_hh": RNG.normal(size=(G * H, H)),
    }
    layouts = layer_layouts(layer, {"matrix": (I + H, G * H)})
    found = []
    for layout in layouts:
        (array,) = WeightMap(layout.entries).from_torch(arrays).values()
        found.append(array)
    expected = {}
    for order in itertools.permutations(range(G)):
        parts = []
        for weight in arrays.values():
            gates = weight.reshape(G, H, -1)
            parts.append(gates[list(order)].reshape(G * H, -1))
        expected[order] = np.concatenate(parts, axis=1).T
    np.testing.assert_array_equal(found[0], expected[tuple(range(G))])
    orders = set()
    for array in found:
        (order,) = [order for order in expected if np.array_equal(expected[order], array)]
        orders.add(order)
    assert orders == expected.keys()
