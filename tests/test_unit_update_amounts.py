"""Rates, clipping, decay and factors of an update are read off two loops that part."""

import numpy as np
import pytest
import torch
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch_loops import (
    STEPS,
    as_of_jax,
    first_fit,
    first_that_differs,
    grouped,
    loop,
    made,
    parted,
    recorded,
)

from parity.diagnosis.update_amounts import NORMS, WEIGHT_DECAYS, AmountCauses


def causes(own, other, *, same_moments=True):
    """The causes at the first step at which two loops differ."""
    got = as_of_jax(recorded(other))
    if not same_moments:
        got = [type(step)(loss=step.loss, weights=step.weights) for step in got]
    return AmountCauses(first_that_differs(parted(own, got)))


def rated(factors, kind=SGD, **options):
    """A loop whose rate is 0.1 times a factor for each step; the last goes on."""
    options = {"lr": 0.1, **options}
    return loop(made(kind, **options), schedule=lambda t: factors[min(t, len(factors) - 1)])


FALLING = (1.0, 0.5, 0.25, 0.125, 0.0625)


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ((1, 1, 0.5, 0.25), "the learning rate is that of the step before"),
        ((0, 1, 0.5, 0.25), "the learning rate is that of the step before, 0 at first"),
        ((0.3, 1, 0.5, 0.25), "the learning rate is that of the step before, 0.03 at first"),
        ((0.3,), "the learning rate does not change, but is 0.03 in every step"),
        (FALLING[1:], "the learning rate is that of the step after"),
        ((1,), "the learning rate does not change"),
        ((1, 0.3, 0.2, 0.1), ""),
    ],
)
@pytest.mark.parametrize("kind", [SGD, Adam])
def test_a_schedule_that_is_a_step_off_is_named(factors, words, kind):
    assert first_fit(causes(rated(FALLING, kind), rated(factors, kind)), "rates") == words


def test_a_rate_that_does_not_change_is_not_a_step_off():
    assert list(causes(rated((1,)), rated((2,))).rates()) == []


def test_what_is_read_off_the_first_step_needs_it():
    found = causes(rated(FALLING), rated((1, 1, 0.5)))
    assert found.case.first == 1
    assert [words for words, _ in found.rates()] == [
        "the learning rate is that of the step before",
        "the learning rate is that of the step before, 0 at first",
        "the learning rate is that of the step after",
        "the learning rate does not change",
    ]


def clipping_by_hand(by, most):
    """Clips gradients before a step of the optimizer, without an epsilon."""

    def around(module, optimizer):
        gradients = [p.grad for p in module.parameters()]
        norm = torch.stack([g.norm() for g in gradients]).norm()
        for g in gradients:
            if by == "value":
                g.clamp_(-most, most)
            else:
                size = norm if by == "norm" else g.norm()
                g.mul_(min(1.0, most / float(size)))

    return around


MOST = 0.37
MAKERS = {
    "SGD": made(SGD, lr=0.1),
    "momentum": made(SGD, lr=0.1, momentum=0.9),
    "Adam": made(Adam, lr=0.1, eps=0.01),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(
    ("around", "words"),
    [
        (None, "the gradients are not clipped"),
        (("norm", MOST), "the norm is clipped without the 1e-6 that PyTorch adds to it"),
        (("leaf", MOST), f"every parameter's gradient is clipped by itself, to {MOST}"),
        (("value", MOST), f"every entry is clipped by itself, to {MOST}"),
        (("norm", 0.71), "the gradients are clipped to a norm of 0.71; PyTorch clips otherwise"),
        (("value", 0.23), "every entry is clipped by itself, to 0.23; PyTorch clips otherwise"),
    ],
)
def test_other_clipping_than_pytorchs_is_named(maker, around, words):
    make = MAKERS[maker]
    other = loop(make, around=around and clipping_by_hand(*around))
    assert first_fit(causes(loop(make, clip=MOST), other), "clipping") == words


@pytest.mark.sample(6)
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clip": 0.71}, "the gradients are clipped to a norm of 0.71"),
        ({"around": ("norm", 0.71)}, "the gradients are clipped to a norm of 0.71"),
        ({"around": ("value", 0.23)}, "every entry is clipped by itself, to 0.23"),
        ({"around": ("value", NORMS[0])}, "every entry is clipped by itself, to 0.1"),
    ],
)
def test_clipping_where_pytorch_does_not_clip_is_named(maker, options, words):
    options = dict(options)
    if "around" in options:
        options["around"] = clipping_by_hand(*options["around"])
    make = MAKERS[maker]
    found = causes(loop(make), loop(make, **options))
    assert first_fit(found, "clipping") == f"{words}; PyTorch does not clip"


def test_norms_that_users_set_are_tried_with_both_epsilons():
    """After the first step nothing is read off the numbers."""
    found = causes(rated(FALLING), rated((1, 0.1)))
    words = [words for words, _ in found.clipping()]
    norms = [f"the gradients are clipped to a norm of {norm:g}" for norm in NORMS for _ in range(2)]
    entries = [f"every entry is clipped by itself, to {norm:g}" for norm in NORMS]
    assert words == [f"{first}; PyTorch does not clip" for first in norms + entries]


def test_what_moves_further_was_not_clipped():
    """Only where PyTorch clips may JAX clip less."""
    own, other = loop(made(SGD, lr=0.1)), loop(made(SGD, lr=0.2))
    assert len(list(causes(own, other).clipping())) == 3 * len(NORMS) + 1
    clipped = loop(made(SGD, lr=0.1), clip=MOST)
    words = [words for words, _ in causes(clipped, loop(made(SGD, lr=0.2), clip=MOST)).clipping()]
    assert f"the gradients are clipped to a norm of {2 * MOST:g}; PyTorch clips otherwise" in words


def behind(rate, decay, *, rated_decay=True, before=False):
    """Decays all weights beside the update."""

    def around(module, optimizer):
        old = [p.detach().clone() for p in module.parameters()]

        def after():
            with torch.no_grad():
                for p, w in zip(module.parameters(), old, strict=True):
                    p.sub_((rate if rated_decay else 1.0) * decay * (w if before else p))

        return after

    return around


D = 0.3
ADAMW = made(AdamW, lr=0.1, weight_decay=D)
ADAM_L2 = made(Adam, lr=0.1, weight_decay=D, eps=0.01)
SGD_L2 = made(SGD, lr=0.1, weight_decay=D)
EVERY = f"every parameter has the weight decay of {D}, those too that PyTorch leaves out"
DECAYS = {
    "none in AdamW": (ADAMW, loop(made(Adam, lr=0.1)), "there is no weight decay"),
    "none in Adam": (
        ADAM_L2,
        loop(made(Adam, lr=0.1, eps=0.01)),
        "there is no weight decay",
    ),
    "none in SGD": (SGD_L2, loop(made(SGD, lr=0.1)), "there is no weight decay"),
    "decoupled": (
        ADAM_L2,
        loop(made(AdamW, lr=0.1, weight_decay=D, eps=0.01)),
        "the weight decay is decoupled",
    ),
    "coupled": (
        ADAMW,
        loop(made(Adam, lr=0.1, weight_decay=D)),
        "the weight decay is coupled, as L2",
    ),
    "of matrices": (
        ADAMW,
        loop(grouped(AdamW, lr=0.1, weight_decay=D)),
        "biases and other vectors have no weight decay",
    ),
    "of matrices, coupled": (
        ADAMW,
        loop(grouped(Adam, lr=0.1, weight_decay=D)),
        "biases and other vectors have no weight decay, and it is coupled",
    ),
    "of matrices, decoupled": (
        ADAM_L2,
        loop(grouped(AdamW, lr=0.1, weight_decay=D, eps=0.01)),
        "biases and other vectors have no weight decay, and it is decoupled",
    ),
    "of every parameter": (
        grouped(AdamW, lr=0.1, weight_decay=D),
        loop(ADAMW),
        EVERY,
    ),
    "of every parameter, coupled": (
        grouped(AdamW, lr=0.1, weight_decay=D),
        loop(made(Adam, lr=0.1, weight_decay=D)),
        f"{EVERY}, and it is coupled",
    ),
    "of every parameter, decoupled": (
        grouped(Adam, lr=0.1, weight_decay=D),
        loop(ADAMW),
        f"{EVERY}, and it is decoupled",
    ),
    "without the rate": (
        ADAMW,
        loop(made(Adam, lr=0.1), around=behind(0.1, D, rated_decay=False, before=True)),
        "the weight decay is not multiplied by the rate",
    ),
    "after the update": (
        ADAMW,
        loop(made(Adam, lr=0.1), around=behind(0.1, D)),
        "the weights decay after the update, not before it",
    ),
    "another, decoupled": (
        ADAMW,
        loop(made(AdamW, lr=0.1, weight_decay=0.0373)),
        f"the weight decay is 0.0373, where PyTorch's is {D}",
    ),
    "another, coupled": (
        ADAM_L2,
        loop(made(Adam, lr=0.1, weight_decay=0.0373, eps=0.01)),
        f"the weight decay is 0.0373, where PyTorch's is {D}",
    ),
    "one where PyTorch has none": (
        made(Adam, lr=0.1),
        loop(made(Adam, lr=0.1, weight_decay=0.0373)),
        "the weight decay is 0.0373, where PyTorch's is 0",
    ),
    "another of matrices": (
        ADAMW,
        loop(grouped(AdamW, lr=0.1, weight_decay=0.0373)),
        f"the weight decay is 0.0373, where PyTorch's is {D}; without it: bias",
    ),
    "another of matrices, coupled": (
        made(Adam, lr=0.1),
        loop(grouped(Adam, lr=0.1, weight_decay=0.0373)),
        "the weight decay is 0.0373, where PyTorch's is 0; without it: bias",
    ),
    "no decay": (ADAMW, loop(made(AdamW, lr=0.2, weight_decay=D)), ""),
}


def only_bias(module):
    groups = [{"params": [module.weight], "weight_decay": 0.0}, {"params": [module.bias]}]
    return AdamW(groups, lr=0.1, weight_decay=D)


DECAYS["of other parameters"] = (
    grouped(AdamW, lr=0.1, weight_decay=D),
    loop(only_bias),
    "the weight decay is applied to other parameters; without it: weight",
)


@pytest.mark.parametrize("name", DECAYS)
def test_another_weight_decay_is_named(name):
    make, other, words = DECAYS[name]
    assert first_fit(causes(loop(make), other), "decays") == words


def test_decays_that_users_set_are_tried_in_every_way():
    found = causes(rated(FALLING), rated((1, 0.1)))
    words = [words for words, _ in found.decays()]
    assert words == [
        f"the weight decay is {decay:g} instead of 0, {way}{where}"
        for decay in WEIGHT_DECAYS
        for way in ("coupled", "decoupled")
        for where in ("", ", of matrices alone")
    ]
    # Without decay nothing could be left out.
    assert found.case.first == 1


@pytest.mark.sample(2)
@pytest.mark.parametrize("matrices", [True, False])
@pytest.mark.parametrize("way", ["coupled", "decoupled"])
def test_a_common_decay_is_found_after_the_first_step_too(way, matrices):
    decay = WEIGHT_DECAYS[-2]
    kind = Adam if way == "coupled" else AdamW
    make = (grouped if matrices else made)(kind, lr=0.1, weight_decay=decay)
    found = causes(loop(made(Adam, lr=0.1)), loop(make))
    found = AmountCauses(found.case._replace(first=1))
    where = ", of matrices alone" if matrices else ""
    assert first_fit(found, "decays") == f"the weight decay is {decay:g} instead of 0, {way}{where}"


OF_ITS_OWN = "as far, as with a learning rate of its own"


def rates_of(weight, bias, kind=SGD, **options):
    def make(module):
        groups = [{"params": [module.weight], "lr": weight}, {"params": [module.bias], "lr": bias}]
        return kind(groups, **options)

    return make


def test_parameters_that_do_not_move_are_named():
    found = causes(loop(made(SGD, lr=0.1)), loop(rates_of(0.1, 0.0)))
    assert first_fit(found, "frozen") == "JAX does not update bias"
    # What stays in both is right.
    found = causes(loop(rates_of(0.1, 0.0)), loop(rates_of(0.2, 0.0)))
    assert list(found.frozen()) == []


@pytest.mark.parametrize(
    ("own", "other", "words"),
    [
        ((0.1, 0.1), (0.2, 0.2), "the learning rate is 2 times PyTorch's"),
        ((0.1, 0.1), (0.025, 0.025), "the learning rate is 1/4 times PyTorch's"),
        ((0.1, 0.1), (0.1, 0.3), f"bias moves 3 times {OF_ITS_OWN}"),
        ((0.1, 0.1), (0.05, 0.1), f"weight moves 1/2 times {OF_ITS_OWN}"),
        ((0.1, 0.1), (0.05, 0.2), ""),
    ],
)
def test_moves_that_go_so_many_times_as_far_are_named(own, other, words):
    found = causes(loop(rates_of(*own)), loop(rates_of(*other)))
    assert first_fit(found, "factors_of_moves") == words
    every = f"each parameter has a rate of its own, times weight {other[0] / own[0]:g}"
    assert first_fit(found, "several") == f"{every}, bias {other[1] / own[1]:g}"


def test_moves_that_are_not_parallel_have_no_factor():
    make = made(Adam, lr=0.1)
    found = causes(loop(make), loop(made(Adam, lr=0.1, weight_decay=0.5)))
    assert list(found.factors_of_moves()) == []
    assert list(found.several()) == []


@pytest.mark.sample(6)
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("scale", [2.0, 0.5, 3.0])
@pytest.mark.parametrize("maker", ["SGD", "Adam"])
def test_gradients_that_are_summed_up_or_averaged_are_named(maker, scale, every):
    options = {"every": every}
    own = loop(MAKERS[maker], **options)
    other = loop(MAKERS[maker], last=lambda loss: scale * loss, **options)
    shown = {2.0: "2", 0.5: "1/2", 3.0: "3"}[scale]
    words = f"the gradients are {shown} times PyTorch's"
    if every == 2:
        one, two = ("PyTorch", "JAX") if scale > 1 else ("JAX", "PyTorch")
        words += f", as if {one} averaged over the batches what {two} sums up"
    assert first_fit(causes(own, other), "gradient_scales") == words


def test_the_number_of_batches_in_a_step_is_tried_without_a_moment_that_shows_it():
    """Squares are not linear in the gradients, and an update of Adam's hardly knows its scale."""
    own, other = (loop(made(RMSprop, lr=0.1), every=2, last=f) for f in (None, lambda x: 2 * x))
    found = causes(own, other, same_moments=False)
    found.__dict__["factors"] = {"weight": np.nan}
    words = [words for words, _ in found.gradient_scales()]
    assert [w.partition(",")[0] for w in words] == [
        "the gradients are 2 times PyTorch's",
        "the gradients are 1/2 times PyTorch's",
    ]
    assert len(recorded(own)) == STEPS == 2 * len(found.updates)
