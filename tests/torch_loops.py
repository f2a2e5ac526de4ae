"""Small training loops in PyTorch, and pairs of them that part: no program is compiled for them."""

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

from parity.diagnosis.update_evidence import Case
from parity.measures.envelopes import Center, matching_moments
from parity.measures.training_loops import OptimizerCall, TorchLoop

STEPS = 4
INPUTS, OUTPUTS = 3, 2
RNG = np.random.default_rng(3)
WEIGHTS = {"weight": RNG.normal(size=(OUTPUTS, INPUTS)), "bias": RNG.normal(size=OUTPUTS)}
BATCHES = [(RNG.normal(size=(5, INPUTS)), 2 * RNG.normal(size=(5, OUTPUTS))) for _ in range(STEPS)]
# The names that optax has for torch's moments.
IN_OPTAX = {
    "exp_avg": "mu",
    "exp_avg_sq": "nu",
    "square_avg": "nu",
    "momentum_buffer": "trace",
    "sum": "sum_of_squares",
}


def loop(make, *, clip=None, schedule=None, every=1, around=None, last=None):
    """A loop over batches with an optimizer.

    Args:
        make: makes the optimizer of a module.
        clip: the largest norm of the gradient.
        schedule: the learning rate's factor in each step.
        every: in how many batches a step of the optimizer is made.
        around: called with the module before each step; what it returns is called behind it.
        last: gets the loss of a batch and gives that whose gradient is taken.
    """

    def init(module):
        optimizer = make(module)
        scheduler = schedule and torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        count = 0

        def step(batch):
            nonlocal count
            loss = ((module(batch[0]) - batch[1]) ** 2).mean()
            (last(loss) if last else loss).backward()
            count += 1
            if count % every == 0:
                if clip:
                    clip_grad_norm_(module.parameters(), clip)
                behind = around(module, optimizer) if around else None
                optimizer.step()
                if behind:
                    behind()
                optimizer.zero_grad()
                if scheduler:
                    scheduler.step()
            return loss

        return step

    return TorchLoop(init, torch.nn.Linear(INPUTS, OUTPUTS))


def made(kind, **options):
    """Makes an optimizer of all parameters."""
    return lambda module: kind(module.parameters(), **options)


def grouped(kind, **options):
    """One group of parameters for matrices and one, without decay, for vectors."""

    def make(module):
        groups = [{"params": [module.weight]}, {"params": [module.bias], "weight_decay": 0.0}]
        return kind(groups, **options)

    return make


def recorded(a_loop, batches=BATCHES, weights=WEIGHTS, **options):
    """The steps of a loop in float64."""
    return list(a_loop.steps(weights, batches, "float64", **options))


def as_of_jax(steps):
    """The same steps as those of a JAX loop, with optax's names and without torch's groups."""
    found = []
    for step in steps:
        moments = {}
        for name, array in step.moments.items():
            kind, _, key = name.partition(" of ")
            if kind in IN_OPTAX:
                moments[f"{IN_OPTAX[kind]} of {key}"] = array
        given = dict(step.gradients)
        changed = type(step)(loss=step.loss, weights=step.weights, gradients=given, moments=moments)
        found.append(changed)
    return found


def parted(a_loop, got, *, first=0, batches=BATCHES, weights=WEIGHTS):
    """The case of a loop of PyTorch's and of steps that stand for JAX's."""
    center = Center(weights, recorded(a_loop, batches, weights), [], "float64")
    return Case(a_loop, weights, batches, center, got, first, dict)


def first_that_differs(case):
    """The case with the first step whose weights or moments are not the same."""
    for t, step in enumerate(case.got):
        theirs = case.center.steps[t]
        arrays = [(array, theirs.weights[key]) for key, array in step.weights.items()]
        moments = matching_moments(step, theirs)
        arrays += [(array, theirs.moments[name]) for name, array in moments.items()]
        if any(not np.allclose(one, other, 1e-12, 0) for one, other in arrays):
            return case._replace(first=t)
    raise AssertionError("nothing differs")


def fits(case, alteration, rtol=1e-8):
    """Whether PyTorch's loop with an alteration has the weights of the other."""
    steps = recorded(case.loop, alteration=alteration)
    return all(
        np.allclose(array, got.weights[key], rtol=rtol, atol=1e-3 * rtol)
        for step, got in zip(steps, case.got, strict=True)
        for key, array in step.weights.items()
    )


def first_fit(found, deviations, rtol=1e-8):
    """The words of the first of some deviations that gives the numbers; empty if none does."""
    for words, alteration in getattr(found, deviations)():
        if fits(found.case, alteration(), rtol):
            return words
    return ""


class ByHand(torch.optim.Optimizer):
    """An equation of one's own: the rate times `direction(g, state, t, options)`."""

    def __init__(self, parameters, direction, **options):
        super().__init__(parameters, options)
        self.direction = direction

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["t"] = state.get("t", 0) + 1
                p.sub_(group["lr"] * self.direction(p.grad, state, state["t"], group))


def by_hand(direction, **options):
    """Makes an optimizer of an equation of one's own."""
    return lambda module: ByHand(module.parameters(), direction, **options)


def squares(g, state, decay, start=0.0):
    """The moving average of the squares."""
    state["square_avg"] = decay * state.get("square_avg", start) + (1 - decay) * g * g
    return state["square_avg"]


def rmsprop_from_one(g, state, t, o):
    """RMSprop whose squares start from 1."""
    return g / (squares(g, state, 0.99, start=1.0).sqrt() + 1e-8)


def call_of(make, *, count=0, gradients=None, given=None):
    """A call of an optimizer's step, as alterations get it, and the module.

    Args:
        make: makes the optimizer.
        count: how many steps there were before.
        gradients: out of the backward pass, by key.
        given: those that the optimizer is given; the same if None.
    """
    module = torch.nn.Linear(INPUTS, OUTPUTS).double()
    module.load_state_dict({key: torch.tensor(array) for key, array in WEIGHTS.items()})
    optimizer = make(module)
    raw = {key: torch.tensor(array) for key, array in (gradients or {}).items()}
    for key, parameter in module.named_parameters():
        source = raw if given is None else {k: torch.tensor(a) for k, a in given.items()}
        if key in source:
            parameter.grad = source[key].clone()
    keys = {parameter: key for key, parameter in module.named_parameters()}
    return OptimizerCall(optimizer, keys, count, raw), module


def weights_of(module):
    """The weights of a module by key."""
    return {key: p.detach().numpy().copy() for key, p in module.named_parameters()}


def gradients_of(module):
    """The gradients of a module by key."""
    return {key: p.grad.numpy().copy() for key, p in module.named_parameters()}
