"""Training as a PyTorch user writes it: the reference for updates, trajectories and recipes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from jaxrnn.training.optimizers import Optimizer, make_optimizer
from parity.core.bridge import numpy_arrays, numpy_of
from parity.core.pairs import reference_loss
from parity.core.references import Carry, CharReference

# What each moment is called in optax's states and in torch's.
MOMENTS = {
    "adam": {"mu": "exp_avg", "nu": "exp_avg_sq"},
    "adamw": {"mu": "exp_avg", "nu": "exp_avg_sq"},
    "sgd": {"trace": "momentum_buffer"},
    "rmsprop": {"nu": "square_avg", "trace": "momentum_buffer"},
}


class _Unshared(Optimizer):
    """An optimizer that equals only itself, so that a step is compiled anew for every check.

    A check may be made within a mutation, which a program compiled before would not have.
    """

    # By identity, although a dataclass compares by value.
    __eq__ = object.__eq__
    __hash__ = object.__hash__


@dataclass(frozen=True)
class Rule:
    """One way to update weights, in both frameworks.

    Attributes:
        name: as the report shows it.
        optimizer: the name that `make_optimizer` knows.
        options: of `make_optimizer`: weight_decay, momentum, clip.
    """

    name: str
    optimizer: Any
    options: tuple[tuple[str, float], ...] = ()

    @property
    def clip(self) -> float | None:
        """The largest norm of the gradient."""
        return dict(self.options).get("clip")

    @property
    def moments(self) -> dict[str, str]:
        """optax's names of the moments, and torch's."""
        return MOMENTS[self.optimizer]

    def in_jax(self) -> Optimizer:
        """Our optimizer, which shares no compiled program with another."""
        made = make_optimizer(self.optimizer, **dict(self.options))
        return _Unshared(made.direction, made.options, made.clip)

    def in_torch(self, parameters: Iterable[Tensor], rate: float) -> torch.optim.Optimizer:
        """torch's optimizer, with torch's defaults for what is not set."""
        options = dict(self.options)
        options.pop("clip", None)  # done by hand, in `ReferenceTraining`
        if self.optimizer == "adamw":
            options.setdefault("weight_decay", 0.0)  # torch's own default is 0.01
        return TORCH_OPTIMIZERS[self.optimizer](parameters, lr=rate, **options)


TORCH_OPTIMIZERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}

# The updates that are compared. A norm of 0.1 clips every gradient of the cases.
ADAM = Rule("Adam", "adam")
RULES = (
    ADAM,
    Rule("Adam, L2", "adam", (("weight_decay", 0.01),)),
    Rule("AdamW", "adamw", (("weight_decay", 0.01),)),
    Rule("SGD, momentum", "sgd", (("momentum", 0.9), ("weight_decay", 0.01))),
    Rule("RMSprop", "rmsprop", (("momentum", 0.9),)),
    Rule("SGD, clipped", "sgd", (("momentum", 0.9), ("clip", 0.1))),
    Rule("Adam, clipped", "adam", (("clip", 0.1),)),
)
RULES_BY_NAME = {rule.name: rule for rule in RULES}


class ReferenceTraining:
    """A reference, its optimizer and its carry.

    Args:
        reference: what to train, in the precision of its weights.
        rule: how to update it.
        carry: the carry to start from; zeros of the first window's batch size if None.
    """

    def __init__(self, reference: CharReference, rule: Rule, carry: Carry | None = None) -> None:
        self.reference = reference
        self.rule = rule
        self.carry = carry
        self.optimizer = rule.in_torch(reference.parameters(), 1.0)  # each update has its rate
        # Called in every step between the backward pass and the update.
        self.on_gradients: Callable[[], object] = lambda: None

    def step(self, tokens: Tensor, targets: Tensor, rate: float) -> tuple[np.ndarray, np.ndarray]:
        """One update; the loss and the norm of the gradient before clipping."""
        # Dropout acts in training only.
        self.reference.train()
        self.optimizer.zero_grad()
        loss = self._loss(tokens, targets)
        loss.backward()
        self.on_gradients()
        return numpy_of(loss), self._update(rate)

    def move(self, gradients: Mapping[str, np.ndarray], rate: float) -> np.ndarray:
        """One update by gradients from elsewhere; their norm before clipping."""
        for name, parameter in self.reference.named_parameters():
            # In the type and on the device of the parameter.
            parameter.grad = torch.tensor(gradients[name]).to(parameter)
        return self._update(rate)

    def _update(self, rate: float) -> np.ndarray:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Without clipping the norm is asked for all the same.
        clip = float("inf") if self.rule.clip is None else self.rule.clip
        norm = clip_grad_norm_(self.reference.parameters(), clip)
        self.optimizer.step()
        return numpy_of(norm)

    @torch.no_grad()
    def evaluate(self, tokens: Tensor, targets: Tensor) -> np.ndarray:
        """The loss on one window; the carry goes on."""
        self.reference.eval()
        return numpy_of(self._loss(tokens, targets))

    def _loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        batch_size = tokens.shape[1]
        # As `jaxrnn.train_step`: another batch size starts from zeros.
        if self.carry is None or _batch_of(self.carry) not in (None, batch_size):
            self.carry = self.reference.initial_carry(batch_size)
        inputs = {"tokens": tokens, "targets": targets}
        self.carry, loss = reference_loss(self.reference, self.carry, inputs)
        return loss

    def weights(self) -> dict[str, np.ndarray]:
        """Every weight, by torch's key."""
        return numpy_arrays(dict(self.reference.named_parameters()))

    def moments(self) -> dict[str, np.ndarray]:
        """Every moment of the optimizer, as "exp_avg of rnn.weight_hh_l0"."""
        found: dict[str, np.ndarray] = {}
        for key, parameter in self.reference.named_parameters():
            # Without momentum there is no buffer for it.
            state = self.optimizer.state[parameter]
            for name in self.rule.moments.values():
                if name in state:
                    found[f"{name} of {key}"] = numpy_of(state[name])
        return found


def _batch_of(carry: Carry) -> int | None:
    # The batch size of a carry; None of the empty one.
    states = (carry,) if isinstance(carry, Tensor) else carry
    return states[0].shape[1] if states else None


def sgdr_rates(rate: float, cycles: int, steps: int) -> list[float]:
    """The course's cosine restarts from torch's scheduler: cycles of 1, 2, 4, ... times `steps`.

    The first twentieth of the first cycle has a hundredth of the rate, as the course's library
    does it.
    """
    # A scheduler needs an optimizer, and that a parameter; the rates are all that is used.
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, steps, T_mult=2)
    rates: list[float] = []
    for _ in range((2**cycles - 1) * steps):
        rates.append(float(scheduler.get_last_lr()[0]))
        optimizer.step()
        scheduler.step()
    slow = -(-steps // 20)  # rounded up
    return [rate / 100] * slow + rates[slow:]


def windows_of(
    tokens: np.ndarray, batch_size: int, lengths: Iterable[int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """A text as torch users cut it: B parallel streams, then windows of these lengths, (T, B).

    The targets are the inputs one step later, and the last window has what is left.
    """
    rows = len(tokens) // batch_size
    # (batch * rows,) to (rows, batch): a column is a stream.
    data = np.asarray(tokens[: rows * batch_size], np.int64).reshape(batch_size, rows).T
    windows = []
    start = 0
    for length in lengths:
        stop = min(start + length, rows - 1)
        windows.append((data[start:stop], data[start + 1 : stop + 1]))
        start = stop
    return windows
