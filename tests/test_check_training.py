"""A user's own training: right steps pass, and of wrong ones step, place and cause are named."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen, nnx
from flax.training.train_state import TrainState
from torch.nn.utils import clip_grad_norm_

import parity
from parity import Absent, FoldBiases, Operation, Transpose, WeightMap, entry

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
MLP = (
    jax_mlp,
    MLP_PARAMS,
    TorchMLP,
    WeightMap.for_flax(["first/kernel", "first/bias", "last/kernel", "last/bias"]),
    mlp_batches,
)


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
    """The same, `shift` steps late; an array made out here would keep its precision."""
    first = [WARMUP[0] if start is None else start]
    table = [*first * shift, *WARMUP] if shift >= 0 else list(WARMUP[-shift:])
    return lambda count: rate * jnp.asarray(table)[jnp.minimum(count, len(table) - 1)]


def l2(decay, mask=None):
    return optax.add_decayed_weights(decay, mask)


def rms(rate, decay=0.99, eps=1e-8, in_sqrt=False, momentum=None):
    return optax.rmsprop(rate, decay, eps, eps_in_sqrt=in_sqrt, momentum=momentum)


def clipped(tx, norm=0.3, eps=1e-6):
    """Clipping as torch does it, with its epsilon."""

    def update(grads, state, params=None):
        scale = jnp.minimum(1.0, norm / (optax.tree.norm(grads) + eps))
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


def clip_each(norm):
    """Each parameter by its own norm."""

    def update(grads, state, params=None):
        def each(g):
            return g * jnp.minimum(1.0, norm / jnp.linalg.norm(g))

        return jax.tree.map(each, grads), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


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
    "an epsilon of one's own": (
        optax.adam(1e-2, eps=3.7e-6),
        adam_side(),
        1,
        "epsilon is 3.7e-06 instead of 1e-08",
    ),
    "a beta of one's own": (
        optax.adam(1e-2, b2=0.9876),
        adam_side(),
        1,
        "beta 2 is 0.9876 instead of 0.999",
    ),
    "a momentum of one's own": (
        optax.sgd(0.1, momentum=0.87),
        MOMENTUM_SIDE,
        2,
        "the momentum is 0.87 instead of 0.9",
    ),
    "an L2 of one's own": (
        optax.chain(l2(0.037), optax.adam(1e-2)),
        adam_side(weight_decay=0.1),
        1,
        "the weight decay is 0.037, where PyTorch's is 0.1",
    ),
    "entries clipped to a value of one's own": (
        optax.chain(optax.clip(0.023), optax.adam(1e-2)),
        adam_side(),
        1,
        "every entry is clipped by itself, to 0.023; PyTorch does not clip",
    ),
    "beta 2": (optax.adam(1e-2, b2=0.95), adam_side(), 1, "beta 2 is 0.95 instead of 0.999"),
    "beta 1": (optax.adam(1e-2, b1=0.8), adam_side(), 1, "beta 1 is 0.8 instead of 0.9"),
    "no bias correction": (uncorrected(1e-2), adam_side(), 1, "there is no bias correction"),
    "Nesterov's Adam": (optax.nadam(1e-2), adam_side(), 1, "the momentum is Nesterov's"),
    "squares that start from 1": (
        optax.rmsprop(1e-2, 0.99, 1e-8, initial_scale=1.0, eps_in_sqrt=False),
        torch_side(made(RMS, lr=1e-2)),
        1,
        "the squares start from 1, not from 0",
    ),
    "AMSGrad": (
        optax.amsgrad(1e-2),
        adam_side(amsgrad=True),
        2,
        "AMSGrad takes the largest squares after their bias correction",
    ),
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
        1,
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
        optax.chain(clip_each(0.3), optax.sgd(0.1)),
        CLIPPED,
        1,
        "every parameter's gradient is clipped by itself, to 0.3",
    ),
    "another norm": (
        clipped(optax.adam(1e-2), 0.2),
        ADAM_CLIPPED,
        1,
        "the gradients are clipped to a norm of 0.2",
    ),
    "a larger norm": (
        clipped(optax.adam(1e-2), 0.31),
        torch_side(made(ADAM, lr=1e-2), clip=0.07),
        1,
        "the gradients are clipped to a norm of 0.31; PyTorch clips otherwise",
    ),
    "clipped alone": (
        optax.chain(optax.clip_by_global_norm(0.25), optax.adam(1e-2)),
        adam_side(),
        1,
        "the gradients are clipped to a norm of 0.25; PyTorch does not clip",
    ),
    "rate": (optax.adam(3e-2), adam_side(), 1, "the learning rate is 3 times PyTorch's"),
    "rate of SGD": (optax.sgd(0.05), torch_side(made(SGD, lr=0.1)), 1, "1/2 times"),
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
    "no schedule": (
        optax.sgd(0.02, momentum=0.9),
        SCHEDULED,
        2,
        "the learning rate does not change",
    ),
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
    "momentum of RMSprop": (
        rms(1e-2, momentum=0.73),
        torch_side(made(RMS, lr=1e-2)),
        2,
        "the momentum is 0.73 instead of 0",
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
        optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2, use_grad_mean=False),
        torch_side(made(SGD, lr=0.1, momentum=0.9), every=2),
        2,
        "as if PyTorch averaged over the batches what JAX sums up",
    ),
    "accumulated by one": (
        optax.sgd(0.1, momentum=0.9),
        torch_side(made(SGD, lr=0.1, momentum=0.9), every=2),
        1,
        "PyTorch's optimizer does not step",
    ),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("rule", RIGHT)
def test_right_updates_pass(rule):
    report = run(MLP, *RIGHT[rule])
    assert report.passed, report.summary()
    kinds = {(finding.quantity, finding.dtype) for finding in report.findings}
    assert {("loss", "float64"), ("weights", "float64"), ("weights", "float32")} <= kinds
    assert any("PyTorch's own runs" in remark for remark in report.remarks)


@pytest.mark.sample(6)
@pytest.mark.parametrize("fault", WRONG)
def test_step_place_and_cause_of_a_wrong_update_are_named(fault):
    tx, in_torch, step, words = WRONG[fault]
    report = run(MLP, tx, in_torch, dtypes=("float64",))
    assert not report.passed
    assert f"Step {step}, " in report.summary()
    assert words in report.remarks[0]


def test_a_single_parameter_is_named():
    """The bias of the last layer moves twice as far."""
    twice = optax.masked(
        optax.scale(2.0),
        {"first": {"kernel": False, "bias": False}, "last": {"kernel": False, "bias": True}},
    )
    report = run(MLP, optax.chain(optax.adam(1e-2), twice), adam_side(), dtypes=("float64",))
    assert report.remarks[0].startswith(
        "Step 1, parameter last.bias: last.bias moves 2 times as far"
    )


def test_moments_are_compared():
    report = run(MLP, *RIGHT["Adam"], dtypes=("float64",))
    names = {f.array for f in report.findings if f.quantity == "moments"}
    keys = [key for key, _ in TorchMLP().named_parameters()]
    assert names == {f"{kind} of {key}" for kind in ("exp_avg", "exp_avg_sq") for key in keys}


LOSSES = {
    "a sum": (lambda y, t: ((y - t) ** 2).sum(), "18 times PyTorch's: JAX sums up over"),
    "half": (lambda y, t: 0.5 * ((y - t) ** 2).mean(), "there is a factor 1/2"),
    "a sum over outputs": (lambda y, t: ((y - t) ** 2).sum(-1).mean(), "it is 3 times PyTorch's"),
    "another": (lambda y, t: jnp.abs(y - t).mean(), "no number of terms of this batch"),
    "NaN": (lambda y, t: ((y - t) ** 2).mean() / 0 * 0, "it is the model or the loss function"),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", LOSSES)
def test_another_loss_is_told_from_another_update(name):
    function, words = LOSSES[name]
    tx, in_torch = RIGHT["SGD"]
    report = run(MLP, tx, in_torch, loss_function=function, dtypes=("float64",))
    assert not report.passed
    assert report.remarks[0].startswith("Step 1, the loss: ")
    assert words in report.remarks[0]


@pytest.mark.sample(1)
@pytest.mark.parametrize("given", ["by the step", "of a loss"])
def test_a_wrong_gradient_is_told_from_a_wrong_update(given):
    def stopped(params, x):
        first = jax.lax.stop_gradient(params["first"])
        return jax_mlp({"first": first, "last": params["last"]}, x)

    tx, in_torch = RIGHT["SGD"]
    model = (stopped, *MLP[1:])
    options = {"gradients": True}
    if given == "of a loss":
        options = {"jax_loss": lambda params, batch: mean_loss(stopped(params, batch[0]), batch[1])}
    report = run(model, tx, in_torch, dtypes=("float64",), **options)
    place = "Step 1, the gradient of first.weight, first.bias: the losses agree"
    assert report.remarks[0].startswith(place)


def test_gradients_are_compared_where_they_are_known():
    for gradients, expected in ((False, 0), (True, 4)):
        report = run(MLP, *RIGHT["SGD"], gradients=gradients, dtypes=("float64",))
        assert report.passed
        assert len([f for f in report.findings if f.quantity == "gradients"]) == expected


def still(module):
    return lambda batch: mean_loss(module(batch[0]), batch[1])


def nan_loss(y, t):
    return ((y - t) ** 2).mean() * float("nan")


def test_steps_that_move_nothing_do_not_pass():
    report = run(MLP, optax.sgd(0.0), still, dtypes=("float64",))
    assert report.outcome.value == "ABSTAIN"
    assert not report.passed
    assert "do not move any weight" in report.summary()


def test_a_loss_of_nan_in_both_does_not_pass():
    in_torch = torch_side(made(SGD, lr=0.1), loss_function=nan_loss)
    report = run(MLP, optax.sgd(0.1), in_torch, loss_function=nan_loss, dtypes=("float64",))
    assert not report.passed
    assert "NaN or infinite in every step" in report.summary()


def test_steps_that_ignore_the_batch_do_not_pass():
    x = mlp_batches(1)[0][0]

    def ignoring(params, _):
        return jax_mlp(params, jnp.asarray(x))

    def in_torch(module):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)

        def step(batch):
            optimizer.zero_grad()
            loss = module(batch[0].new_tensor(x)).square().mean()
            loss.backward()
            optimizer.step()
            return loss

        return step

    model = (ignoring, *MLP[1:])
    report = run(
        model,
        optax.sgd(0.1),
        in_torch,
        loss_function=lambda y, _: (y**2).mean(),
        dtypes=("float64",),
    )
    assert not report.passed
    assert "JAX's step does not depend on the batch" in report.summary()
    assert "PyTorch's step does not depend on the batch" in report.summary()


class Dropped(TorchMLP):
    def forward(self, x):
        return torch.nn.functional.dropout(super().forward(x))


def test_random_steps_are_noticed():
    report = run((*MLP[:2], Dropped, *MLP[3:]), *RIGHT["Adam"], dtypes=("float64",))
    assert report.outcome.value == "ABSTAIN"
    assert not report.passed
    assert "PyTorch's step samples random numbers" in report.summary()


def test_a_random_key_in_the_state_is_noticed():
    init, step = jax_side(jax_mlp, optax.sgd(0.1))

    def keyed_init(params):
        return {"params": params, "key": jax.random.key(0)}

    def keyed_step(state, batch):
        key, used = jax.random.split(state["key"])
        x = batch[0] + jax.random.normal(used, batch[0].shape)
        inner, loss = step(init(state["params"]), (x, batch[1]))
        return {"params": inner["params"], "key": key}, loss

    report = parity.check_training(
        keyed_init,
        keyed_step,
        MLP_PARAMS,
        RIGHT["SGD"][1],
        TorchMLP(),
        MLP[3],
        mlp_batches(),
        dtypes=("float64",),
    )
    assert not report.passed
    assert "JAX's step samples random numbers from a key in its state" in report.summary()


def test_a_parameter_that_never_moves_shows_nothing():
    def first_frozen(module):
        return torch.optim.SGD(module.last.parameters(), lr=0.1)

    tx = optax.chain(optax.sgd(0.1), only("first"))
    report = run(MLP, tx, torch_side(first_frozen), dtypes=("float64",))
    assert report.passed
    frozen = [f for f in report.findings if "does not move in either" in f.note]
    assert {f.array for f in frozen} == {"first.weight", "first.bias"}
    assert "first.weight, first.bias move in neither framework" in report.summary()


# Other kinds of networks, and of states.


class TorchConv(torch.nn.Module):
    """A convolution, a batch norm and a linear layer."""

    def __init__(self, norm=True):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(2, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.out = torch.nn.Linear(4, O)

    def forward(self, x):
        return self.out(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


class LinenConv(linen.Module):
    """The same; images have their channels last."""

    momentum: float = 0.9

    @linen.compact
    def __call__(self, x):
        x = linen.Conv(4, (3, 3), name="conv", param_dtype=x.dtype)(x)
        x = linen.BatchNorm(False, momentum=self.momentum, name="norm", param_dtype=x.dtype)(x)
        return linen.Dense(O, name="out", param_dtype=x.dtype)(linen.relu(x).mean((1, 2)))


class ConvKernel(Operation):
    """(out, in, height, width) in PyTorch, (height, width, in, out) in Linen."""

    def from_torch(self, arrays):
        return [array.transpose(2, 3, 1, 0) for array in arrays]

    def to_torch(self, arrays):
        return [array.transpose(3, 2, 0, 1) for array in arrays]


CONV_MAP = WeightMap(
    [
        entry("conv.weight", "params/conv/kernel", ConvKernel()),
        entry("conv.bias", "params/conv/bias"),
        entry("norm.weight", "params/norm/scale"),
        entry("norm.bias", "params/norm/bias"),
        entry("norm.running_mean", "batch_stats/norm/mean"),
        entry("norm.running_var", "batch_stats/norm/var"),
        entry("norm.num_batches_tracked", (), Absent(())),
        entry("out.weight", "params/out/kernel", Transpose()),
        entry("out.bias", "params/out/bias"),
    ]
)


class NormState(TrainState):
    batch_stats: dict


def conv_report(tx, in_torch, momentum=0.9, **options):
    """A Linen `TrainState` with running statistics."""
    model = LinenConv(momentum)
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(4, 2, 5, 6)), rng.normal(size=(4, O))) for _ in range(3)]
    variables = model.init(jax.random.key(0), jnp.zeros((4, 5, 6, 2)))

    def init(variables):
        return NormState.create(apply_fn=model.apply, tx=tx, **variables)

    @jax.jit
    def step(state, batch):
        def loss(params):
            outputs, changed = state.apply_fn(
                {"params": params, "batch_stats": state.batch_stats},
                batch[0].transpose(0, 2, 3, 1),
                mutable=["batch_stats"],
            )
            return mean_loss(outputs, batch[1]), changed["batch_stats"]

        (value, stats), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        state = state.apply_gradients(grads=gradients, batch_stats=stats)
        return state, {"loss": value, "grads": {"params": gradients}}

    return parity.check_training(
        init,
        step,
        variables,
        in_torch,
        TorchConv(),
        CONV_MAP,
        batches,
        params_of=lambda s: {"params": s.params, "batch_stats": s.batch_stats},
        **options,
    )


@pytest.mark.slow
def test_a_linen_state_with_batch_norm_differs_in_the_running_variance_alone():
    """Linen divides the variance by n, PyTorch the running one by n - 1."""
    in_torch = torch_side(made(ADAMW, lr=1e-2, weight_decay=1e-4))
    report = conv_report(optax.adamw(1e-2), in_torch, dtypes=("float64",))
    wrong = {finding.array for finding in report.findings if finding.outcome.value == "FAIL"}
    assert wrong == {"norm.running_var"}, report.summary()
    assert report.remarks[0].startswith(
        "Step 1, the buffer norm.running_var: the variance is divided by 120, PyTorch's by 119"
    )
    assert any(f.quantity == "moments" for f in report.findings)


@pytest.mark.slow
def test_another_momentum_of_a_batch_norm_is_named():
    report = conv_report(optax.sgd(0.1), torch_side(made(SGD, lr=0.1)), momentum=0.99)
    place, _, cause = report.remarks[0].partition(": ")
    assert place == "Step 1, the buffer norm.running_mean, norm.running_var"
    assert cause.startswith("the running mean moves 1/10 times as far: another momentum")


class TorchGRU(torch.nn.Module):
    """The last state of a GRU, then a linear layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.rnn = torch.nn.GRU(I, H)
        self.out = torch.nn.Linear(H, O)

    def forward(self, xs):
        return self.out(self.rnn(xs)[0][-1])


def jax_gru(params, xs):
    p = params["rnn"]

    def step(h, x):
        r_x, z_x, n_x = jnp.split(x @ p["w_ih"].T + p["b_ih"], 3, axis=-1)
        r_h, z_h, n_h = jnp.split(h @ p["w_hh"].T + p.get("b_hh", 0.0), 3, axis=-1)
        z = jax.nn.sigmoid(z_x + z_h)
        n = jnp.tanh(n_x + jax.nn.sigmoid(r_x + r_h) * n_h)
        return (1 - z) * n + z * h, None

    h, _ = jax.lax.scan(step, jnp.zeros((xs.shape[1], H), xs.dtype), xs)
    return h @ params["out"]["kernel"] + params["out"]["bias"]


GRU_PARAMS = {
    "rnn": {
        "w_ih": jnp.zeros((3 * H, I)),
        "w_hh": jnp.zeros((3 * H, H)),
        "b_ih": jnp.zeros(3 * H),
        "b_hh": jnp.zeros(3 * H),
    },
    "out": {"kernel": jnp.zeros((H, O)), "bias": jnp.zeros(O)},
}
GRU_MAP = WeightMap(
    [
        entry("rnn.weight_ih_l0", "rnn/w_ih"),
        entry("rnn.weight_hh_l0", "rnn/w_hh"),
        entry("rnn.bias_ih_l0", "rnn/b_ih"),
        entry("rnn.bias_hh_l0", "rnn/b_hh"),
        entry("out.weight", "out/kernel", Transpose()),
        entry("out.bias", "out/bias"),
    ]
)


def gru_batches(steps=4):
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(4, B, I)), rng.normal(size=(B, O))) for _ in range(steps)]


@pytest.mark.slow
def test_a_gru_passes():
    model = (jax_gru, GRU_PARAMS, TorchGRU, GRU_MAP, gru_batches)
    report = run(model, *RIGHT["clipped, with a schedule"], gradients=True)
    assert report.passed, report.summary()


class TorchRNN(torch.nn.Module):
    """The last state of a simple recurrence, which has two biases."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.rnn = torch.nn.RNN(I, O)

    def forward(self, xs):
        return self.rnn(xs)[0][-1]


def test_folded_biases_are_named():
    """With the gradient of either of two, one bias moves half as far as their sum."""

    def one_bias(params, xs):
        def step(h, x):
            h = jnp.tanh(x @ params["w_ih"].T + h @ params["w_hh"].T + params["bias"])
            return h, None

        return jax.lax.scan(step, jnp.zeros((xs.shape[1], O), xs.dtype), xs)[0]

    params = {"w_ih": jnp.zeros((O, I)), "w_hh": jnp.zeros((O, O)), "bias": jnp.zeros(O)}
    weight_map = WeightMap(
        [
            entry("rnn.weight_ih_l0", "w_ih"),
            entry("rnn.weight_hh_l0", "w_hh"),
            entry(("rnn.bias_ih_l0", "rnn.bias_hh_l0"), "bias", FoldBiases()),
        ]
    )
    model = (one_bias, params, TorchRNN, weight_map, gru_batches)
    report = run(model, *RIGHT["SGD"], dtypes=("float64",))
    assert not report.passed
    place = "Step 1, parameter rnn.bias_ih_l0: PyTorch updates two biases"
    assert report.remarks[0].startswith(place)


@pytest.mark.slow
def test_a_training_is_followed_up_to_its_horizon():
    """At a rate at which round-off grows, and at one at which the numbers do."""
    for rate, words in ((1.0, "apart after 60 steps"), (3.0, "the training diverges")):
        tx = optax.sgd(rate, momentum=0.9)
        in_torch = torch_side(made(SGD, lr=rate, momentum=0.9))
        report = run((*MLP[:4], lambda: mlp_batches(60)), tx, in_torch)
        assert report.passed, report.summary()
        assert words in report.summary()
        # Nor does chaos hide another rate.
        other = optax.sgd(rate * 1.001, momentum=0.9)
        report = run((*MLP[:4], lambda: mlp_batches(60)), other, in_torch, dtypes=("float64",))
        assert "the learning rate is 1.001 times PyTorch's" in report.remarks[0]


class NNXMLP(nnx.Module):
    def __init__(self):
        self.first = nnx.Linear(I, H, rngs=nnx.Rngs(0))
        self.last = nnx.Linear(H, O, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))


@pytest.mark.sample(1)
@pytest.mark.parametrize(("eps", "words"), [(1e-8, ""), (1e-7, "epsilon is 1e-07")])
def test_an_nnx_optimizer_changes_its_state_in_place(eps, words):
    def init(params):
        model = NNXMLP()
        state = nnx.state(model, nnx.Param)
        nnx.replace_by_pure_dict(state, params)
        nnx.update(model, state)
        return model, nnx.Optimizer(model, optax.adam(1e-2, eps=eps), wrt=nnx.Param)

    @nnx.jit
    def step(state, batch):
        model, optimizer = state
        loss, gradients = nnx.value_and_grad(lambda m: mean_loss(m(batch[0]), batch[1]))(model)
        optimizer.update(model, gradients)
        return loss

    def params_of(state):
        return nnx.to_pure_dict(nnx.state(state[0], nnx.Param))

    report = parity.check_training(
        init,
        step,
        params_of((NNXMLP(),)),
        adam_side(),
        TorchMLP(),
        MLP[3],
        mlp_batches(),
        params_of=params_of,
        dtypes=("float64",),
    )
    assert report.passed is not bool(words)
    assert words in report.summary()
    assert {f.quantity for f in report.findings} == {"loss", "moments", "weights"}


def averaged(decay):
    """Adam, and a moving average as `AveragedModel` makes it."""

    def init(module):
        step = adam_side()(module)

        def average(mean, weights, count):
            return decay * mean + (1 - decay) * weights

        mean = torch.optim.swa_utils.AveragedModel(module, avg_fn=average)
        mean.n_averaged += 1  # the first step averages, too

        def averaging(batch):
            loss = step(batch)
            mean.update_parameters(module)
            return loss

        return averaging, mean

    return init


def average_after(decay):
    return lambda mean, before, after, count: decay * mean + (1 - decay) * after


AVERAGES = {
    "the same": (average_after(0.9), ""),
    "another decay": (average_after(0.95), "the decay is 0.95, PyTorch's is 0.9"),
    "before the step": (
        lambda mean, before, after, count: 0.9 * mean + 0.1 * before,
        "it takes the weights before the step",
    ),
    "growing": (
        lambda mean, before, after, count: (
            mean + (after - mean) * (1 - jnp.minimum(0.9, (1 + count) / (10 + count)))
        ),
        "the decay grows as (1 + t) / (10 + t) from t = 0 on",
    ),
    "none": (lambda mean, before, after, count: after, "but the weights themselves"),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", AVERAGES)
def test_moving_averages_are_compared(name):
    function, words = AVERAGES[name]
    init, step = jax_side(jax_mlp, optax.adam(1e-2))

    def averaging(state, batch):
        inner, loss = step(state["inner"], batch)
        before = state["inner"]["params"]
        mean = jax.tree.map(
            lambda *leaves: function(*leaves, state["count"]),
            state["mean"],
            before,
            inner["params"],
        )
        return {"inner": inner, "mean": mean, "count": state["count"] + 1}, loss

    report = parity.check_training(
        lambda params: {"inner": init(params), "mean": params, "count": jnp.asarray(0)},
        averaging,
        MLP_PARAMS,
        averaged(0.9),
        TorchMLP(),
        MLP[3],
        mlp_batches(),
        params_of=lambda state: state["inner"]["params"],
        average_of=lambda state: state["mean"],
        dtypes=("float64",),
    )
    assert report.passed is not bool(words)
    assert len([f for f in report.findings if f.quantity == "averages"]) == 4
    if words:
        assert report.remarks[0].startswith("Step 1, the average of every parameter: ")
        assert words in report.remarks[0]


def test_a_state_that_keeps_float32_is_named():
    tx = optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2)
    in_torch = torch_side(made(SGD, lr=0.1, momentum=0.9), every=2)
    report = run(MLP, tx, in_torch)
    assert report.outcome.value == "WARN"
    assert "float32 in a float64 run, which rounds: opt_state/acc_grads" in report.summary()


def test_what_is_wrong_with_the_arguments_is_said():
    init, step = jax_side(jax_mlp, optax.sgd(0.1))
    rest = (MLP_PARAMS, RIGHT["SGD"][1], TorchMLP(), MLP[3])
    batches = mlp_batches(1)
    with pytest.raises(ValueError, match="at least 1 batch, got none"):
        parity.check_training(init, step, *rest, [])
    with pytest.raises(ValueError, match="dtypes must be a list of some of float64, float32"):
        parity.check_training(init, step, *rest, batches, dtypes=("bfloat16",))
    with pytest.raises(ValueError, match="must return the state first"):
        parity.check_training(init, lambda *a: step(*a)[::-1], *rest, batches)
    with pytest.raises(ValueError, match="must return the new state"):
        parity.check_training(init, lambda *a: step(*a)[1], *rest, batches)
    with pytest.raises(ValueError, match="params_of must be given"):
        parity.check_training(lambda p: {"p": p}, lambda s, b: s, *rest, batches)
    with pytest.raises(ValueError, match="one without first/bias, first/kernel"):
        parity.check_training(init, step, *rest, batches, params_of=lambda s: s["params"]["last"])
    with pytest.raises(parity.WeightMapError, match="is unknown"):
        parity.check_training(init, step, MLP_PARAMS, rest[1], TorchGRU(), MLP[3], batches)
