"""The optimizers' equations in NumPy are torch's, and deviate as their words say."""

import numpy as np
import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from parity.diagnosis.optimizers import DEVIATIONS, DIRECTIONS, TORCH, replayed, variants
from parity.measures.training import RULES, TORCH_OPTIMIZERS, Rule

RNG = np.random.default_rng(7)
WEIGHTS = {"w": RNG.normal(size=(2, 3)), "b": RNG.normal(size=3)}
GRADIENTS = [{key: RNG.normal(size=a.shape) for key, a in WEIGHTS.items()} for _ in range(4)]
RATE = 0.05
NAMES = ("adam", "adamw", "sgd", "rmsprop")


def in_torch(name, *, clip=None, by="norm", **options):
    """The weights after torch's optimizer has had the gradients."""
    after = {key: torch.tensor(array, requires_grad=True) for key, array in WEIGHTS.items()}
    optimizer = TORCH_OPTIMIZERS[name](list(after.values()), lr=RATE, **options)
    for gradient in GRADIENTS:
        for key, array in gradient.items():
            after[key].grad = torch.tensor(array)
        if clip and by == "norm":
            clip_grad_norm_(list(after.values()), clip)
        elif clip and by == "leaf":
            for parameter in after.values():
                clip_grad_norm_([parameter], clip)
        elif clip:
            torch.nn.utils.clip_grad_value_(list(after.values()), clip)
        optimizer.step()
    return {key: tensor.detach().numpy() for key, tensor in after.items()}


def assert_same(got, expected, rtol=1e-12):
    assert got.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_allclose(got[key], array, rtol=rtol)


def found(rule, words):
    (weights,) = [
        after for name, after in variants(rule, WEIGHTS, GRADIENTS, RATE) if name == words
    ]
    return weights


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_first_variant_is_torchs_own_rule(rule):
    options = dict(rule.options)
    if rule.optimizer == "adamw":
        options.setdefault("weight_decay", 0.0)
    words, after = next(variants(rule, WEIGHTS, GRADIENTS, RATE))
    assert words == ""
    assert_same(after, in_torch(rule.optimizer, **options))


@pytest.mark.parametrize("name", NAMES)
def test_every_deviation_has_a_variant_after_it_in_order(name):
    rule = Rule("rule", name)
    words = [words for words, _ in variants(rule, WEIGHTS, GRADIENTS, RATE)]
    assert words == ["", *(words for words, _ in DEVIATIONS[name])]
    assert len(set(words)) == len(words)
    # What torch leaves to the user is neither on nor off before.
    assert not {"momentum", "weight_decay", "clip"} & TORCH.keys()


DECAY = (("weight_decay", 0.3),)
CLIP = (("clip", 0.5),)
MOMENTUM = (("momentum", 0.8),)
# Rule, words, and the torch optimizer that does it.
TORCH_DOES = [
    (Rule("", "adam"), "b2 is 0.99", ("adam", {"betas": (0.9, 0.99)})),
    (Rule("", "adam"), "b1 is 0.99", ("adam", {"betas": (0.99, 0.999)})),
    (Rule("", "adam", DECAY), "the weight decay is decoupled", ("adamw", {"weight_decay": 0.3})),
    (
        Rule("", "adamw", DECAY),
        "the weight decay is coupled, as L2",
        ("adam", {"weight_decay": 0.3}),
    ),
    (Rule("", "adam", DECAY), "there is no weight decay", ("adam", {})),
    (
        Rule("", "sgd", MOMENTUM),
        "the momentum is Nesterov's",
        ("sgd", {"momentum": 0.8, "nesterov": True}),
    ),
    (Rule("", "sgd", MOMENTUM), "there is no momentum", ("sgd", {})),
    (Rule("", "rmsprop", MOMENTUM), "there is no momentum", ("rmsprop", {})),
    (
        Rule("", "rmsprop", MOMENTUM),
        "the decay of the squares is 0.9",
        ("rmsprop", {"alpha": 0.9, "momentum": 0.8}),
    ),
    (Rule("", "sgd", (*MOMENTUM, *CLIP)), "nothing is clipped", ("sgd", {"momentum": 0.8})),
    (
        Rule("", "sgd", CLIP),
        "every entry is clipped by itself",
        ("sgd", {"clip": 0.5, "by": "value"}),
    ),
    (
        Rule("", "sgd", CLIP),
        "every parameter is clipped by itself",
        ("sgd", {"clip": 0.5, "by": "leaf"}),
    ),
]


@pytest.mark.parametrize(("rule", "words", "other"), TORCH_DOES, ids=str)
def test_a_deviation_that_torch_can_do_is_torchs(rule, words, other):
    name, options = other
    after = found(rule, words)
    assert_same(after, in_torch(name, **options))
    assert any(not np.allclose(array, found(rule, "")[key]) for key, array in after.items())


def written_out(rule, step):
    """The weights after updates of each parameter by itself.

    Args:
        rule: the rule.
        step: `step(g, state, t)` gives the direction, from the gradient with its coupled decay.
    """
    decay = dict(rule.options).get("weight_decay", 0.0)
    after = {}
    for key, w in WEIGHTS.items():
        state = {"m": 0.0, "v": 0.0}
        for t, gradient in enumerate(GRADIENTS, 1):
            w = w - RATE * step(gradient[key] + decay * w, state, t)
        after[key] = w
    return after


def moments(g, state, b1=0.9, b2=0.999):
    state["m"] = b1 * state["m"] + (1 - b1) * g
    state["v"] = b2 * state["v"] + (1 - b2) * g**2
    return state["m"], state["v"]


def eps_inside(g, state, t):
    m, v = moments(g, state)
    return m / (1 - 0.9**t) / np.sqrt(v / (1 - 0.999**t) + 1e-8)


def eps_before(g, state, t):
    m, v = moments(g, state)
    return m / (1 - 0.9**t) / ((np.sqrt(v) + 1e-8) / np.sqrt(1 - 0.999**t))


def uncorrected(g, state, t):
    m, v = moments(g, state)
    return m / (np.sqrt(v) + 1e-8)


def in_float32(g, state, t):
    m, v = moments(g, state)
    c1, c2 = (float(np.float32(1) - np.float32(b) ** np.float32(t)) for b in (0.9, 0.999))
    return m / c1 / (np.sqrt(v / c2) + 1e-8)


def squares_inside(g, state, t):
    state["v"] = 0.99 * state["v"] + 0.01 * g**2
    return g / np.sqrt(state["v"] + 1e-8)


@pytest.mark.parametrize(
    ("rule", "words", "step"),
    [
        (Rule("", "adam", DECAY), "eps lies inside the root", eps_inside),
        (Rule("", "adam"), "eps is added before the bias correction", eps_before),
        (Rule("", "adam", DECAY), "there is no bias correction", uncorrected),
        (Rule("", "adam"), "the bias correction is computed in float32", in_float32),
        (Rule("", "rmsprop"), "eps lies inside the root", squares_inside),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_deviation_of_an_equation_is_what_its_words_say(rule, words, step):
    after = found(rule, words)
    assert_same(after, written_out(rule, step))
    # Not torch's, though an epsilon of 1e-8 shows in the last digits only.
    own = found(rule, "")
    assert any(np.abs(array - own[key]).max() > 1e-13 for key, array in after.items())


def test_decay_behind_the_momentum_is_no_part_of_it():
    after = found(
        Rule("", "sgd", (*MOMENTUM, *DECAY)), "the weight decay is added behind the momentum"
    )
    for key, w in WEIGHTS.items():
        m = 0.0
        for gradient in GRADIENTS:
            m = 0.8 * m + gradient[key]
            w = w - RATE * (m + 0.3 * w)
        np.testing.assert_allclose(after[key], w, rtol=1e-12)


@pytest.mark.parametrize(
    ("words", "rated"),
    [
        ("the direction is clipped in place of the gradient", 1.0),
        ("the update is clipped in place of the gradient", RATE),
    ],
)
def test_what_comes_behind_the_gradient_may_be_clipped(words, rated):
    """The norm of all directions together, with the momentum in them, times the rate or not."""
    most = 2.0 if rated == 1.0 else 0.1
    after = found(Rule("", "sgd", (*MOMENTUM, ("clip", most))), words)
    w, m = dict(WEIGHTS), {key: 0.0 for key in WEIGHTS}
    for gradient in GRADIENTS:
        m = {key: 0.8 * m[key] + g for key, g in gradient.items()}
        norm = rated * np.sqrt(sum(np.sum(array**2) for array in m.values()))
        factor = min(1.0, most / (norm + 1e-6))
        w = {key: array - RATE * factor * m[key] for key, array in w.items()}
    assert_same(after, w)


@pytest.mark.parametrize("epsilon", [1e-6, 0.0])
def test_clipping_has_an_epsilon_that_may_be_missing(epsilon):
    words = "" if epsilon else "the epsilon of clipping is missing"
    after = found(Rule("", "sgd", CLIP), words)
    for key, w in WEIGHTS.items():
        for gradient in GRADIENTS:
            norm = np.sqrt(sum(np.sum(array**2) for array in gradient.values()))
            w = w - RATE * 0.5 / (norm + epsilon) * gradient[key]
        np.testing.assert_allclose(after[key], w, rtol=1e-12)


def test_what_is_smaller_than_the_largest_norm_is_not_clipped():
    assert_same(found(Rule("", "sgd", (("clip", 1e3),)), ""), in_torch("sgd"))


def test_nesterov_looks_a_step_ahead_in_adam():
    """As optax's `nadam`: the corrected mean of the next step, if its gradient were this one."""
    options = {**TORCH, "decoupled": False, "nesterov": True}
    after = replayed("adam", options, WEIGHTS, GRADIENTS, RATE)

    def step(g, state, t):
        m, v = moments(g, state)
        ahead = 0.9 * m / (1 - 0.9 ** (t + 1)) + 0.1 * g / (1 - 0.9**t)
        return ahead / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)

    assert_same(after, written_out(Rule("", "adam"), step))


def test_directions_give_both_moments_back():
    options = {**TORCH, "momentum": 0.5}
    g, m, v = np.array([2.0]), np.array([3.0]), np.array([5.0])
    expected = {
        "adam": (0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2),
        "adamw": (0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2),
        "sgd": (0.5 * m + g, v),
        "rmsprop": (0.5 * m + g / (np.sqrt(0.99 * v + 0.01 * g**2) + 1e-8), 0.99 * v + 0.01 * g**2),
    }
    assert DIRECTIONS.keys() == expected.keys()
    for name, (first, second) in expected.items():
        _, m_after, v_after = DIRECTIONS[name](options, g, m, v, 3)
        np.testing.assert_allclose(m_after, first)
        np.testing.assert_allclose(v_after, second)


def test_the_weights_that_are_given_are_left_alone():
    before = {key: array.copy() for key, array in WEIGHTS.items()}
    found(Rule("", "sgd"), "")
    for key, array in before.items():
        np.testing.assert_array_equal(WEIGHTS[key], array)
