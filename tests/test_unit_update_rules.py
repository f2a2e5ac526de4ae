"""Numbers, flags and equations of an optimizer that part from PyTorch's are named."""

import pytest
import torch
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch_loops import (
    as_of_jax,
    by_hand,
    first_fit,
    first_that_differs,
    loop,
    made,
    parted,
    recorded,
    rmsprop_from_one,
    squares,
)

from parity.diagnosis.update_rules import (
    EPSILONS,
    FIRST_DECAYS,
    MOMENTA,
    SECOND_DECAYS,
    RuleCauses,
)


def causes(own, other):
    got = as_of_jax(recorded(other))
    return RuleCauses(first_that_differs(parted(own, got)))


def adam_inside(g, state, t, o):
    state["exp_avg"] = 0.9 * state.get("exp_avg", 0.0) + 0.1 * g
    state["exp_avg_sq"] = 0.999 * state.get("exp_avg_sq", 0.0) + 0.001 * g * g
    mean, square = state["exp_avg"] / (1 - 0.9**t), state["exp_avg_sq"] / (1 - 0.999**t)
    return mean / (square + o["eps"]).sqrt()


def moving_average(g, state, t, o):
    state["momentum_buffer"] = 0.9 * state.get("momentum_buffer", 0.0) + 0.1 * g
    return state["momentum_buffer"]


def rmsprop_inside(g, state, t, o):
    return g / (squares(g, state, o["alpha"]) + o["eps"]).sqrt()


def uncorrected(g, state, t, o):
    state["exp_avg"] = 0.9 * state.get("exp_avg", 0.0) + 0.1 * g
    state["exp_avg_sq"] = 0.999 * state.get("exp_avg_sq", 0.0) + 0.001 * g * g
    return state["exp_avg"] / (state["exp_avg_sq"].sqrt() + 1e-8)


ADAM = {"lr": 0.1}
RMS = {"lr": 0.1}
MOMENTUM = {"lr": 0.1, "momentum": 0.9}
INSIDE = "epsilon lies inside the root, and is 0.0123 instead of 1e-08"
ESTIMATED = {
    "beta 1": (
        Adam,
        ADAM,
        made(Adam, lr=0.1, betas=(0.83, 0.999)),
        "beta 1 is 0.83 instead of 0.9",
    ),
    "beta 2": (
        Adam,
        ADAM,
        made(Adam, lr=0.1, betas=(0.9, 0.987)),
        "beta 2 is 0.987 instead of 0.999",
    ),
    "alpha": (
        RMSprop,
        RMS,
        made(RMSprop, lr=0.1, alpha=0.77),
        "the decay of the squares is 0.77 instead of 0.99",
    ),
    "epsilon of Adam": (
        Adam,
        ADAM,
        made(Adam, lr=0.1, eps=0.0123),
        "epsilon is 0.0123 instead of 1e-08",
    ),
    "epsilon of RMSprop": (
        RMSprop,
        RMS,
        made(RMSprop, lr=0.1, eps=0.0123),
        "epsilon is 0.0123 instead of 1e-08",
    ),
    "epsilon inside of Adam": (Adam, ADAM, by_hand(adam_inside, lr=0.1, eps=0.0123), INSIDE),
    "epsilon inside of RMSprop": (
        RMSprop,
        RMS,
        by_hand(rmsprop_inside, lr=0.1, eps=0.0123, alpha=0.99),
        INSIDE,
    ),
    "momentum": (
        SGD,
        MOMENTUM,
        made(SGD, lr=0.1, momentum=0.73),
        "the momentum is 0.73 instead of 0.9",
    ),
    "momentum where there is none": (
        SGD,
        {"lr": 0.1},
        made(SGD, lr=0.1, momentum=0.73),
        "the momentum is 0.73 instead of 0",
    ),
    "momentum of RMSprop": (
        RMSprop,
        RMS,
        made(RMSprop, lr=0.1, momentum=0.73),
        "the momentum is 0.73 instead of 0",
    ),
    "momentum beside a decay": (
        SGD,
        {**MOMENTUM, "weight_decay": 0.3},
        made(SGD, lr=0.1, momentum=0.73, weight_decay=0.3),
        "the momentum is 0.73 instead of 0.9",
    ),
}


@pytest.mark.parametrize("name", ESTIMATED)
def test_a_number_is_read_off_the_first_step_that_differs(name):
    kind, options, other, words = ESTIMATED[name]
    assert (
        first_fit(causes(loop(made(kind, **options)), loop(other)), "estimated_numbers", 1e-6)
        == words
    )


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("kind", [Adam, RMSprop])
def test_nothing_of_the_first_step_is_read_off_a_later_one(kind, first):
    found = causes(loop(made(kind, lr=0.1)), loop(made(kind, lr=0.2, eps=0.1)))
    found = RuleCauses(found.case._replace(first=first))
    assert not [w for w, _ in found.estimated_numbers() if "momentum" not in w]


def test_momentum_shows_in_the_second_step_alone():
    found = causes(loop(made(SGD, **MOMENTUM)), loop(made(SGD, lr=0.1, momentum=0.73)))
    assert found.case.first == 1
    for first in (0, 2):
        assert list(RuleCauses(found.case._replace(first=first)).estimated_numbers()) == []


def test_momentum_is_seen_in_the_moves_where_no_buffer_shows_it():
    """With a schedule: each direction is a move by its own rate."""
    schedule = [1.0, 0.5, 0.3, 0.2].__getitem__
    own = loop(made(SGD, **MOMENTUM), schedule=lambda t: schedule(min(t, 3)))
    other = loop(made(SGD, lr=0.1, momentum=0.73), schedule=lambda t: schedule(min(t, 3)))
    found = causes(own, other)
    for step in found.case.got:
        step.moments = {}
    assert first_fit(found, "estimated_numbers", 1e-6) == "the momentum is 0.73 instead of 0.9"
    bare = loop(made(SGD, lr=0.1), schedule=lambda t: schedule(min(t, 3)))
    found = causes(bare, other)
    assert first_fit(found, "estimated_numbers", 1e-6) == "the momentum is 0.73 instead of 0"


def options_of(found, deviations):
    """Words and the options that each sets."""
    return [(w, make().change({}, 0)) for w, make in getattr(found, deviations)()]


def test_every_number_that_users_set_is_tried_in_adam():
    found = causes(loop(made(Adam, lr=0.1, eps=1e-5)), loop(made(Adam, lr=0.2)))
    expected = [(f"beta 1 is {b} instead of 0.9", {"betas": (b, 0.999)}) for b in FIRST_DECAYS]
    expected += [(f"beta 2 is {b} instead of 0.999", {"betas": (0.9, b)}) for b in SECOND_DECAYS]
    for b1 in FIRST_DECAYS:
        for b2 in SECOND_DECAYS:
            words = f"the betas are {b1} and {b2} instead of 0.9 and 0.999"
            expected.append((words, {"betas": (b1, b2)}))
    others = [eps for eps in EPSILONS if eps != 1e-5]
    expected += [(f"epsilon is {eps:g} instead of 1e-05", {"eps": eps}) for eps in others]
    assert options_of(found, "numbers") == expected


def test_every_number_that_users_set_is_tried_in_rmsprop_and_sgd():
    found = causes(loop(made(RMSprop, lr=0.1, momentum=0.5)), loop(made(RMSprop, lr=0.2)))
    expected = [(f"epsilon is {eps:g} instead of 1e-08", {"eps": eps}) for eps in EPSILONS[1:]]
    decays = [decay for decay in SECOND_DECAYS if decay != 0.99]
    words = "the decay of the squares is {:g} instead of 0.99"
    expected += [(words.format(decay), {"alpha": decay}) for decay in decays]
    momenta = [
        (f"the momentum is {m:g} instead of 0.5", {"momentum": m}) for m in MOMENTA if m != 0.5
    ]
    assert options_of(found, "numbers") == expected + momenta
    found = causes(loop(made(SGD, lr=0.1, momentum=0.5)), loop(made(SGD, lr=0.2)))
    assert options_of(found, "numbers") == momenta


ADAM_MOMENTS = {"lr": 0.1, "betas": (0.5, 0.6)}
FLAGS = {
    "Nesterov": (SGD, MOMENTUM, made(SGD, nesterov=True, **MOMENTUM), "the momentum is Nesterov's"),
    "no Nesterov": (
        SGD,
        {**MOMENTUM, "nesterov": True},
        made(SGD, **MOMENTUM),
        "the momentum is not Nesterov's",
    ),
    "dampened": (
        SGD,
        MOMENTUM,
        made(SGD, lr=0.1, momentum=0.9, dampening=0.9),
        "the momentum is dampened, by 1 - momentum",
    ),
    "not dampened": (
        SGD,
        {**MOMENTUM, "dampening": 0.3},
        made(SGD, **MOMENTUM),
        "the momentum is not dampened",
    ),
    "a moving average": (
        SGD,
        MOMENTUM,
        by_hand(moving_average, lr=0.1),
        "the momentum is dampened from the first step on, as a moving average is",
    ),
    "AMSGrad": (Adam, ADAM_MOMENTS, made(Adam, amsgrad=True, **ADAM_MOMENTS), "it is AMSGrad"),
    "no AMSGrad": (
        Adam,
        {**ADAM_MOMENTS, "amsgrad": True},
        made(Adam, **ADAM_MOMENTS),
        "there is no AMSGrad",
    ),
    "centered": (RMSprop, RMS, made(RMSprop, centered=True, **RMS), "they are centered"),
    "not centered": (
        RMSprop,
        {**RMS, "centered": True},
        made(RMSprop, **RMS),
        "the squares are not centered",
    ),
}


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_is_named_either_way(name):
    kind, options, other, words = FLAGS[name]
    assert first_fit(causes(loop(made(kind, **options)), loop(other)), "flags", 1e-6) == words


def test_flags_are_those_of_the_optimizer_in_order():
    corrected = "AMSGrad takes the largest squares after their bias correction, PyTorch before it"
    expected = {
        (SGD, 0.0): [],
        (SGD, 0.9): [
            "the momentum is Nesterov's",
            "the momentum is dampened, by 1 - momentum",
            "the momentum is dampened from the first step on, as a moving average is",
            "the momentum sums up moves, with the rate in them",
        ],
        (RMSprop, 0.9): ["the momentum sums up moves, with the rate in them", "they are centered"],
        (Adam, 0.0): ["it is AMSGrad", corrected],
    }
    for (kind, momentum), words in expected.items():
        options = {"momentum": momentum} if momentum else {}
        found = causes(loop(made(kind, lr=0.1, **options)), loop(made(kind, lr=0.2, **options)))
        assert [w for w, _ in found.flags()] == words


def test_equations_are_tried_with_every_epsilon():
    places = {"lies inside the root": "inside", "is added before the bias correction": "before"}
    with_epsilons = []
    for eps in (0.25, *EPSILONS):
        value = "" if eps == 0.25 else f", and is {eps:g} instead of 0.25"
        for words, place in places.items():
            with_epsilons.append((f"epsilon {words}{value}", {"eps_at": place, "eps": eps}))
    of_adam = [
        ("there is no bias correction", {"corrected": False}),
        ("the bias correction is computed in float32", {"corrected_in": "float32"}),
        ("the momentum is Nesterov's", {"nesterov": True}),
    ]
    of_rmsprop = [("the squares start from 1, not from 0", {"start": 1.0})]
    for alpha in SECOND_DECAYS:
        for place in ("inside", "outside"):
            words = f"the decay of the squares is {alpha}, and epsilon lies {place} the root"
            of_rmsprop.append((words, {"alpha": alpha, "eps_at": place}))
    expected = {
        Adam: of_adam + with_epsilons,
        AdamW: of_adam + with_epsilons,
        RMSprop: with_epsilons + of_rmsprop,
    }
    for kind, deviations in expected.items():
        found = causes(loop(made(kind, lr=0.1, eps=0.25)), loop(made(kind, lr=0.2, eps=0.25)))
        assert [(w, make().changes) for w, make in found.equations()] == deviations
    for kind in (SGD, torch.optim.Adagrad):
        found = causes(loop(made(kind, lr=0.1)), loop(made(kind, lr=0.2)))
        assert list(found.equations()) == []


@pytest.mark.parametrize(
    ("kind", "other", "words"),
    [
        (Adam, by_hand(uncorrected, lr=0.1), "there is no bias correction"),
        (Adam, made(torch.optim.NAdam, lr=0.1, momentum_decay=0.0), ""),
        (RMSprop, by_hand(rmsprop_from_one, lr=0.1), "the squares start from 1, not from 0"),
        (
            RMSprop,
            by_hand(rmsprop_inside, lr=0.1, alpha=0.9, eps=1e-8),
            "the decay of the squares is 0.9, and epsilon lies inside the root",
        ),
    ],
)
def test_another_equation_is_named(kind, other, words):
    assert first_fit(causes(loop(made(kind, lr=0.1)), loop(other)), "equations", 1e-6) == words
