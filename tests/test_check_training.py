"""A user's own training: right steps pass, and of wrong ones step, place and cause are named."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen
from flax.training.train_state import TrainState
from jax import lax
from torch.nn.utils import clip_grad_norm_

import parity
from parity import Chain, Operation, Transpose, WeightMap, entry

STEPS = 6
B, I, H, O = 6, 5, 7, 3


def mean_loss(outputs, targets):
    return ((outputs - targets) ** 2).mean()


def mlp_batches(steps=STEPS):
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(B, I)), rng.normal(size=(B, O))) for _ in range(steps)]


class TorchMLP(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(I, H)
        self.last = torch.nn.Linear(H, O)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


def jax_mlp(params, x):
    hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"])
    return hidden @ params["last"]["kernel"] + params["last"]["bias"]


MLP_PARAMS = {
    "first": {"kernel": jnp.zeros((I, H)), "bias": jnp.zeros(H)},
    "last": {"kernel": jnp.zeros((H, O)), "bias": jnp.zeros(O)},
}
MLP = (jax_mlp, MLP_PARAMS, TorchMLP, WeightMap.for_flax(
    ["first/kernel", "first/bias", "last/kernel", "last/bias"]), mlp_batches)


def jax_side(apply, tx, loss_function=mean_loss, gradients=False):
    def loss(params, batch):
        return loss_function(apply(params, batch[0]), batch[1])

    def init(params):
        return {"params": params, "opt_state": tx.init(params)}

    @jax.jit
    def step(state, batch):
        value, gradient = jax.value_and_grad(loss)(state["params"], batch)
        updates, opt_state = tx.update(gradient, state["opt_state"], state["params"])
        state = {"params": optax.apply_updates(state["params"], updates), "opt_state": opt_state}
        return state, ({"loss": value, "gradients": gradient} if gradients else value)

    return init, step


def torch_side(make, *, clip=None, schedule=None, every=1, loss_function=mean_loss):
    def init(module):
        optimizer = make(module)
        scheduler = schedule and torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        count = 0

        def step(batch):
            nonlocal count
            loss = loss_function(module(batch[0]), batch[1])
            (loss / every).backward()
            count += 1
            if count % every == 0:
                if clip:
                    clip_grad_norm_(module.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
                if scheduler:
                    scheduler.step()
            return loss

        return step

    return init


def run(model, tx, torch_init, **options):
    apply, params, module, weight_map, batches = model
    jax_options = {k: options.pop(k) for k in ("loss_function", "gradients") if k in options}
    init, step = jax_side(apply, tx, **jax_options)
    return parity.check_training(
        init, step, params, torch_init, module(), weight_map, batches(), **options
    )


def made(kind, **options):
    return lambda module: kind(module.parameters(), **options)


def decayed(module):
    """Groups as transformers have them: no decay on vectors."""
    parameters = list(module.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def grouped(kind, **options):
    return lambda module: kind(decayed(module), **options)


def matrices(params):
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


SGD, ADAM, ADAMW, RMS = (getattr(torch.optim, n) for n in ("SGD", "Adam", "AdamW", "RMSprop"))
WARMUP = (0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0)


def warmup(count):
    return WARMUP[min(count, len(WARMUP) - 1)]


def jax_warmup(rate, shift=0, start=None):
    table = [start] if start is not None else [WARMUP[0]]
    table = jnp.asarray([*table * shift, *WARMUP] if shift >= 0 else WARMUP[-shift:])
    return lambda count: rate * table[jnp.minimum(count, len(table) - 1)]


def l2(decay, mask=None):
    return optax.add_decayed_weights(decay, mask)


def rms(rate, decay=0.99, eps=1e-8, in_sqrt=False, momentum=None):
    return optax.rmsprop(rate, decay, eps, eps_in_sqrt=in_sqrt, momentum=momentum)


def clipped(tx, norm=0.3, eps=1e-6):
    """Clipping as torch does it, with its epsilon."""

    def update(grads, state, params=None):
        scale = jnp.minimum(1.0, norm / (optax.global_norm(grads) + eps))
        return jax.tree.map(lambda g: g * scale, grads), state

    return optax.chain(optax.GradientTransformation(lambda _: optax.EmptyState(), update), tx)


RIGHT = {
    "SGD": (optax.sgd(0.1), torch_side(made(SGD, lr=0.1))),
    "SGD, momentum and L2": (
        optax.chain(l2(0.01), optax.sgd(0.1, momentum=0.9)),
        torch_side(made(SGD, lr=0.1, momentum=0.9, weight_decay=0.01)),
    ),
    "SGD, Nesterov": (
        optax.sgd(0.1, momentum=0.9, nesterov=True),
        torch_side(made(SGD, lr=0.1, momentum=0.9, nesterov=True)),
    ),
    "Adam": (optax.adam(1e-2), torch_side(made(ADAM, lr=1e-2))),
    "AdamW, masked": (
        optax.adamw(1e-2, weight_decay=0.1, mask=matrices),
        torch_side(grouped(ADAMW, lr=1e-2, weight_decay=0.1)),
    ),
    "RMSprop": (rms(1e-2), torch_side(made(RMS, lr=1e-2))),
    "RMSprop, momentum": (
        rms(1e-2, momentum=0.9),
        torch_side(made(RMS, lr=1e-2, momentum=0.9)),
    ),
    "clipped, with a schedule": (
        clipped(optax.adam(jax_warmup(1e-2))),
        torch_side(made(ADAM, lr=1e-2), clip=0.3, schedule=warmup),
    ),
    "accumulated": (
        optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2),
        torch_side(made(SGD, lr=0.1, momentum=0.9), every=2),
    ),
}
"""optax's rules and the torch optimizers that they equal."""


def adam_side(**options):
    return torch_side(made(ADAM, **{"lr": 1e-2, **options}))


ADAMW_SIDE = torch_side(made(ADAMW, lr=1e-2, weight_decay=0.1))
MASKED_SIDE = torch_side(grouped(ADAMW, lr=1e-2, weight_decay=0.1))
MOMENTUM_SIDE = torch_side(made(SGD, lr=0.1, momentum=0.9))
L2_SIDE = torch_side(made(SGD, lr=0.1, momentum=0.9, weight_decay=0.01))
SCHEDULED = torch_side(made(SGD, lr=0.1, momentum=0.9), schedule=warmup)
ADAM_SCHEDULED = torch_side(made(ADAM, lr=1e-2), schedule=warmup)
CLIPPED = torch_side(made(SGD, lr=0.1), clip=0.3)
ADAM_CLIPPED = torch_side(made(ADAM, lr=1e-2), clip=0.3)


def uncorrected(rate):
    """Adam without its bias correction."""

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return {"mu": zeros, "nu": zeros}

    def update(grads, state, params=None):
        mu = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state["mu"], grads)
        nu = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state["nu"], grads)
        moves = jax.tree.map(lambda m, v: -rate * m / (jnp.sqrt(v) + 1e-8), mu, nu)
        return moves, {"mu": mu, "nu": nu}

    return optax.GradientTransformation(init, update)


def momentum_of_moves(schedule):
    """The rate within the momentum."""
    return optax.chain(optax.scale_by_learning_rate(schedule), optax.trace(0.9))


def only(keep):
    def mask(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: keep not in jax.tree_util.keystr(path), params
        )

    return optax.masked(optax.set_to_zero(), lambda p: jax.tree.map(lambda m: not m, mask(p)))


WRONG = {
    "epsilon": (optax.adam(1e-2, eps=1e-6), adam_side(), 1, "epsilon is 1e-06 instead of 1e-08"),
    "epsilon in the root": (
        optax.adam(1e-2, eps=0, eps_root=1e-8),
        adam_side(),
        1,
        "epsilon lies inside the root",
    ),
    "beta 2": (optax.adam(1e-2, b2=0.95), adam_side(), 1, "beta 2 is 0.95 instead of 0.999"),
    "beta 1": (optax.adam(1e-2, b1=0.8), adam_side(), 1, "beta 1 is 0.8 instead of 0.9"),
    "no bias correction": (uncorrected(1e-2), adam_side(), 1, "there is no bias correction"),
    "Nesterov's Adam": (optax.amsgrad(1e-2), adam_side(amsgrad=True), 0, ""),
    "no decay": (optax.adam(1e-2), ADAMW_SIDE, 1, "there is no weight decay"),
    "L2 for decoupled": (
        optax.chain(l2(0.1), optax.adam(1e-2)),
        ADAMW_SIDE,
        1,
        "the weight decay is coupled, as L2",
    ),
    "decoupled for L2": (
        optax.adamw(1e-2, weight_decay=0.1),
        adam_side(weight_decay=0.1),
        1,
        "the weight decay is decoupled",
    ),
    "optax's own decay": (
        optax.adamw(1e-2),
        ADAMW_SIDE,
        1,
        "the weight decay is 0.0001, where PyTorch's is 0.1",
    ),
    "decay on biases": (
        optax.adamw(1e-2, weight_decay=0.1),
        MASKED_SIDE,
        1,
        "every parameter has the weight decay of 0.1",
    ),
    "no decay on biases": (
        optax.adamw(1e-2, weight_decay=0.1, mask=matrices),
        ADAMW_SIDE,
        1,
        "biases and other vectors have no weight decay",
    ),
    "decay without the rate": (
        optax.chain(optax.adam(1e-2), l2(-0.1)),
        ADAMW_SIDE,
        1,
        "the weight decay is not multiplied by the rate",
    ),
    "decay behind the momentum": (
        optax.chain(optax.trace(0.9), l2(0.01), optax.scale(-0.1)),
        L2_SIDE,
        2,
        "the weight decay is decoupled",
    ),
    "not clipped": (optax.sgd(0.1), CLIPPED, 1, "the gradients are not clipped"),
    "clipped without the epsilon": (
        optax.chain(optax.clip_by_global_norm(0.3), optax.sgd(0.1)),
        CLIPPED,
        1,
        "the norm is clipped without the 1e-6",
    ),
    "Adam, clipped without the epsilon": (
        optax.chain(optax.clip_by_global_norm(0.3), optax.adam(1e-2)),
        ADAM_CLIPPED,
        1,
        "the norm is clipped without the 1e-6",
    ),
    "clipped by value": (
        optax.chain(optax.clip(0.3), optax.sgd(0.1)),
        torch_side(made(SGD, lr=0.1), clip=0.3),
        1,
        "every entry is clipped by itself, to 0.3",
    ),
    "clipped by parameter": (
        optax.chain(optax.clip_by_block_rms(1e9), optax.adaptive_grad_clip(1e9), optax.sgd(0.1)),
        CLIPPED,
        1,
        "the gradients are not clipped",
    ),
    "another norm": (
        clipped(optax.adam(1e-2), 0.2),
        ADAM_CLIPPED,
        1,
        "the gradients are clipped to a norm of 0.2",
    ),
    "clipped alone": (
        optax.chain(optax.clip_by_global_norm(0.25), optax.adam(1e-2)),
        adam_side(),
        1,
        "the gradients are clipped to a norm of 0.25; PyTorch does not clip",
    ),
    "rate": (optax.adam(3e-2), adam_side(), 1, "the learning rate is 3 times PyTorch's"),
    "rate of SGD": (optax.sgd(0.05), MOMENTUM_SIDE, 1, "1/2 times"),
    "schedule late": (
        optax.sgd(jax_warmup(0.1, 1), momentum=0.9),
        SCHEDULED,
        2,
        "the learning rate is that of the step before",
    ),
    "schedule late, 0 at first": (
        optax.sgd(jax_warmup(0.1, 1, 0.0), momentum=0.9),
        SCHEDULED,
        1,
        "the learning rate is that of the step before, 0 at first",
    ),
    "schedule early": (
        optax.adam(jax_warmup(1e-2, -1)),
        ADAM_SCHEDULED,
        1,
        "the learning rate is that of the step after",
    ),
    "no schedule": (optax.sgd(0.02, momentum=0.9), SCHEDULED, 2, "the learning rate does not change"),
    "Nesterov": (
        optax.sgd(0.1, momentum=0.9, nesterov=True),
        MOMENTUM_SIDE,
        1,
        "the momentum is Nesterov's",
    ),
    "no momentum": (optax.sgd(0.1), MOMENTUM_SIDE, 2, "the momentum is 0 instead of 0.9"),
    "another momentum": (
        optax.sgd(0.1, momentum=0.95),
        MOMENTUM_SIDE,
        2,
        "the momentum is 0.95 instead of 0.9",
    ),
    "a moving average": (
        optax.chain(optax.ema(0.9, debias=False), optax.scale(-0.1)),
        MOMENTUM_SIDE,
        1,
        "dampened from the first step on",
    ),
    "the rate in the momentum": (
        momentum_of_moves(jax_warmup(0.1)),
        SCHEDULED,
        2,
        "the momentum sums up moves",
    ),
    "optax's own RMSprop": (
        optax.rmsprop(1e-2),
        torch_side(made(RMS, lr=1e-2)),
        1,
        "the decay of the squares is 0.9, and epsilon lies inside the root",
    ),
    "a frozen bias": (
        optax.chain(optax.adam(1e-2), only("bias")),
        adam_side(),
        1,
        "JAX does not update first.bias, last.bias",
    ),
    "accumulated sums": (
        optax.MultiSteps(optax.sgd(0.2, momentum=0.9), 2),
        torch_side(made(SGD, lr=0.1, momentum=0.9), every=2),
        2,
        "2 times",
    ),
    "accumulated by one": (
        optax.sgd(0.1, momentum=0.9),
        torch_side(made(SGD, lr=0.1, momentum=0.9), every=2),
        1,
        "PyTorch's optimizer does not step",
    ),
}

if __name__ == "__main__":
    import time, sys
    for name, (tx, t) in RIGHT.items():
        s=time.time()
        r=run(MLP,tx,t)
        print(f"{name:30} {time.time()-s:.1f} {r.outcome.value}")
        if not r.passed: print(r.summary())
    for name, (tx, t, step, words) in WRONG.items():
        s=time.time()
        r=run(MLP,tx,t, dtypes=("float64",))
        said = r.remarks[0]
        ok = f"Step {step}," in said and words in said
        print(f"{name:30} {time.time()-s:.1f} {r.outcome.value} {ok} {said}")
