"""Ways in which an optimizer's update is known to deviate, done to the steps of a torch optimizer.

A user's own loop is run once more, and around each step of its optimizer something is done
differently: the options, the gradient, the decay, the rate, or the equation. Schedulers, clipping
and accumulation stay the user's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity.core.bridge import numpy_of
from parity.diagnosis.optimizers import DIRECTIONS, TORCH
from parity.measures.training_loops import Alteration, OptimizerCall

Group = dict[str, Any]

# The rule in `diagnosis.optimizers` of each class of torch's.
RULES = {"Adam": "adam", "AdamW": "adamw", "SGD": "sgd", "RMSprop": "rmsprop"}


class Options(Alteration):
    """Other options of every group of parameters, for the length of the step.

    Args:
        change: what becomes of a group's options: a function of the group and of the number of
            steps before.
    """

    def __init__(self, change: Callable[[Group, int], Group]) -> None:
        self.change = change
        self.saved: list[Group] = []

    def before(self, call: OptimizerCall) -> None:
        """Set them."""
        self.saved = []
        for group in call.optimizer.param_groups:
            self.saved.append({name: value for name, value in group.items() if name != "params"})
            group.update(self.change(group, call.count))

    def after(self, call: OptimizerCall) -> None:
        """Set them back: a scheduler may go on from them."""
        for group, saved in zip(call.optimizer.param_groups, self.saved, strict=True):
            group.update(saved)


def option(**options: Any) -> Options:
    """Options that have these values in every step."""
    return Options(lambda group, count: options)


class Rates(Options):
    """The learning rate of every group from a table.

    Args:
        rates: for each step of the optimizer, the rate of each group.
    """

    def __init__(self, rates: Sequence[Sequence[float]]) -> None:
        self.rates = rates
        super().__init__(lambda group, count: {})

    def before(self, call: OptimizerCall) -> None:
        """Set them; beyond the table the last goes on."""
        super().before(call)
        row = self.rates[min(call.count, len(self.rates) - 1)]
        for group, rate in zip(call.optimizer.param_groups, row, strict=True):
            group["lr"] = rate


class Gradients(Alteration):
    """Other gradients.

    Args:
        change: a function of the gradients that the optimizer was given and of those that came
            out of the backward pass, unclipped, by key.
    """

    def __init__(
        self, change: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Mapping[str, Tensor]]
    ) -> None:
        self.change = change

    def before(self, call: OptimizerCall) -> None:
        """Give them to the optimizer."""
        given = {key: p.grad.clone() for key, p, _ in call.parameters() if p.grad is not None}
        raw = {key: call.gradients.get(key, gradient) for key, gradient in given.items()}
        changed = self.change(given, raw)
        for key, parameter, _ in call.parameters():
            parameter.grad = changed[key].clone()


def clipped(most: float, *, by: str, epsilon: float = 0.0) -> Gradients:
    """Unclipped gradients, clipped in this way.

    Args:
        most: the largest norm, or value.
        by: "norm" of all together, "leaf" for the norm of each, "value" for each entry.
        epsilon: what the norm is increased by before it divides.
    """

    def change(given: Mapping[str, Tensor], raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if by == "value":
            return {key: g.clamp(-most, most) for key, g in raw.items()}
        norms = {key: float(g.norm()) for key, g in raw.items()}
        if by == "norm":
            norms = dict.fromkeys(norms, float(np.linalg.norm(list(norms.values()))))
        return {key: g * min(1.0, most / (norms[key] + epsilon)) for key, g in raw.items()}

    return Gradients(change)


class Decay(Options):
    """Another weight decay, done by hand.

    Args:
        decays: of each parameter, by key.
        way: "coupled" as a part of the gradient, "decoupled" times the rate beside the update,
            "bare" beside the update without the rate, "behind" times the rate, of the weights
            after the update.
    """

    def __init__(self, decays: Mapping[str, float], way: str) -> None:
        self.decays = decays
        self.way = way
        super().__init__(lambda group, count: {"weight_decay": 0.0})

    @torch.no_grad()
    def before(self, call: OptimizerCall) -> None:
        """Decay before the update, and keep the optimizer from it."""
        super().before(call)
        for key, parameter, group in call.parameters():
            decay = self.decays.get(key, 0.0)
            if not decay:
                continue
            if self.way == "coupled":
                assert parameter.grad is not None
                parameter.grad = parameter.grad + decay * parameter
            elif self.way == "decoupled":
                parameter.mul_(1 - float(group["lr"]) * decay)
            elif self.way == "bare":
                parameter.mul_(1 - decay)

    @torch.no_grad()
    def after(self, call: OptimizerCall) -> None:
        """Decay after the update."""
        if self.way == "behind":
            for key, parameter, group in call.parameters():
                parameter.mul_(1 - float(group["lr"]) * self.decays.get(key, 0.0))
        super().after(call)


class Before(Alteration):
    """Remembers the weights before the step."""

    def before(self, call: OptimizerCall) -> None:
        """Copy them."""
        self.weights = {key: p.detach().clone() for key, p, _ in call.parameters()}


class Factors(Before):
    """Moves that are so many times as far.

    Args:
        factors: by key; 1 for those that are not named.
    """

    def __init__(self, factors: Mapping[str, float]) -> None:
        self.factors = factors

    @torch.no_grad()
    def after(self, call: OptimizerCall) -> None:
        """Move them."""
        for key, parameter, _ in call.parameters():
            if key in self.factors:
                before = self.weights[key]
                parameter.copy_(before + self.factors[key] * (parameter - before))


class RateInMomentum(Options):
    """Momentum that sums up moves, the learning rate in them, in the place of directions."""

    def __init__(self) -> None:
        super().__init__(lambda group, count: {"lr": 1.0, "weight_decay": 0.0})

    @torch.no_grad()
    def before(self, call: OptimizerCall) -> None:
        """Multiply the gradient, its decay in it, by the rate."""
        for _, parameter, group in call.parameters():
            assert parameter.grad is not None
            decayed = parameter.grad + group["weight_decay"] * parameter
            parameter.grad = float(group["lr"]) * decayed
        super().before(call)


class Equation(Before):
    """Another equation than torch's, as `diagnosis.optimizers` has it.

    Args:
        rule: its name there.
        changes: of the options that torch's own equation has.
    """

    def __init__(self, rule: str, changes: Mapping[str, Any]) -> None:
        self.direction_of = DIRECTIONS[rule]
        self.changes = changes
        self.first: dict[str, Any] = {}
        self.second: dict[str, Any] = {}

    def direction(
        self, key: str, options: Mapping[str, Any], gradient: np.ndarray, count: int
    ) -> np.ndarray:
        """The direction of a step, of which the moments are kept."""
        found, self.first[key], self.second[key] = self.direction_of(
            options,
            gradient,
            self.first.get(key, 0.0),
            self.second.get(key, options.get("start", 0.0)),
            count,
        )
        return np.asarray(found)

    @torch.no_grad()
    def after(self, call: OptimizerCall) -> None:
        """Replace what torch's equation has made of the weights."""
        for key, parameter, group in call.parameters():
            options = {**equation_options(group), **self.changes}
            before = numpy_of(self.weights[key])
            gradient = numpy_of(parameter.grad)
            decay = options["weight_decay"] * before
            if not options["decoupled"]:
                gradient = gradient + decay
            direction = self.direction(key, options, gradient, call.count + 1)
            if options["decoupled"]:
                direction = direction + decay
            moved = before - float(group["lr"]) * direction
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(moved)))


class CorrectedMaximum(Equation):
    """AMSGrad as optax has it: the largest of the squares after their bias correction."""

    def __init__(self) -> None:
        super().__init__("adam", {})
        self.largest: dict[str, Any] = {}

    def direction(
        self, key: str, options: Mapping[str, Any], gradient: np.ndarray, count: int
    ) -> np.ndarray:
        """With the largest squares so far in the root."""
        super().direction(key, options, gradient, count)
        corrected = self.second[key] / (1 - options["b2"] ** count)
        self.largest[key] = np.maximum(self.largest.get(key, 0.0), corrected)
        mean = self.first[key] / (1 - options["b1"] ** count)
        return np.asarray(mean / (np.sqrt(self.largest[key]) + options["eps"]))


def equation_options(group: Group) -> dict[str, Any]:
    """The options of `diagnosis.optimizers` that are those of a group of a torch optimizer."""
    options: dict[str, Any] = dict(TORCH)
    betas = group.get("betas", (0.9, 0.999))
    options |= {"b1": float(betas[0]), "b2": float(betas[1])}
    for name in ("eps", "alpha", "momentum", "nesterov", "weight_decay"):
        if name in group:
            options[name] = group[name]
    options["decoupled"] = bool(group.get("decoupled_weight_decay", False))
    return options
