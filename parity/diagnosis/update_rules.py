"""Known deviations within an optimizer: its numbers, its flags and its equation."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from parity.diagnosis.alterations import (
    RULES,
    CorrectedMaximum,
    Equation,
    Gradients,
    RateInMomentum,
    option,
)
from parity.diagnosis.factors import SAME, common, factor_of, middle, written
from parity.diagnosis.update_evidence import Candidate, Evidence
from parity.measures.envelopes import matching_moments

# What is tried for a number that a user sets: what libraries and papers have as their defaults.
EPSILONS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-10, 1e-12, 1e-15, 1e-16, 0.0)
FIRST_DECAYS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)
SECOND_DECAYS = (0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)
MOMENTA = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)


class RuleCauses(Evidence):
    """Deviations in what an optimizer computes, each with words and what does it in PyTorch."""

    def estimated_numbers(self) -> Iterator[Candidate]:
        """Numbers of the optimizer that the first step which differs shows."""
        group = self.groups[0]
        if self.case.first == 0 and "betas" in group:
            b1, b2 = map(float, group["betas"])
            for index, name in enumerate(("exp_avg of", "exp_avg_sq of")):
                ratio = common(self.moment_ratios((name,)))
                if ratio is not None and abs(ratio - 1) > SAME:
                    # The first moment of the first step is (1 - beta) times the gradient.
                    betas = [b1, b2]
                    betas[index] = written(1 - ratio * (1 - betas[index]))
                    yield (
                        f"beta {index + 1} is {betas[index]:.6g} instead of {(b1, b2)[index]:g}",
                        partial(option, betas=tuple(betas)),
                    )
        if self.case.first == 0 and "alpha" in group:
            ratio = common(self.moment_ratios(("square_avg of",)))
            if ratio is not None and abs(ratio - 1) > SAME:
                alpha = written(1 - ratio * (1 - float(group["alpha"])))
                yield (
                    f"the decay of the squares is {alpha:.6g} instead of {group['alpha']:g}",
                    partial(option, alpha=alpha),
                )
        if self.case.first == 0 and "eps" in group:
            yield from self._epsilons(float(group["eps"]))
        if self.case.first == 1 and "momentum" in group:
            momentum = self._momentum()
            if momentum is not None:
                yield (
                    f"the momentum is {momentum:.6g} instead of {float(group['momentum']):g}",
                    partial(option, momentum=momentum),
                )

    def _epsilons(self, own: float) -> Iterator[Candidate]:
        """The epsilon that the first move shows, beside the root or in it.

        The move is rate * |g| / (root + epsilon). The root is |g| in Adam, whose bias is
        corrected, and |g| * sqrt(1 - alpha) in RMSprop.
        """
        step = self.updates[0]
        beside = []
        inside = []
        for group in step.groups:
            for key in group["keys"]:
                if key not in self.moves or key not in step.applied or group["weight_decay"]:
                    continue
                size = np.abs(np.asarray(step.applied[key], float))
                move = np.abs(self.moves[key][0])
                share = 1 - float(group["alpha"]) if "alpha" in group else 1.0
                known = (move > 0) & (size > 0)
                root = float(group["lr"]) * size[known] / move[known]
                beside.append(root - np.sqrt(share) * size[known])
                inside.append(root**2 - share * size[known] ** 2)
        if not beside:
            return
        epsilon = middle(beside)
        if epsilon > 0:
            yield f"epsilon is {epsilon:.6g} instead of {own:g}", partial(option, eps=epsilon)
        epsilon = middle(inside)
        rule = RULES.get(self.kind)
        if epsilon > 0 and rule is not None:
            yield (
                f"epsilon lies inside the root, and is {epsilon:.6g} instead of {own:g}",
                partial(Equation, rule, {"eps_at": "inside", "eps": epsilon}),
            )

    def _momentum(self) -> float | None:
        """The momentum of JAX's second step: its direction without the second gradient."""
        first, second = self.case.center.steps[:2]
        if not second.groups or not first.groups:
            return None
        if not any(group["momentum"] for group in second.groups):
            return self._added_momentum()
        sums = matching_moments(self.case.got[1], second)
        ratios = []
        for group in second.groups:
            for key in group["keys"]:
                if key not in second.applied or key not in self.moves or not group["lr"]:
                    continue
                name = f"momentum_buffer of {key}"
                direction = sums.get(name, -self.moves[key][0] / float(group["lr"]))
                before = first.moments.get(name, first.applied.get(key))
                if before is None:
                    continue
                weights = np.asarray(self.case.got[0].weights[key], float)
                gradient = second.applied[key] + float(group["weight_decay"]) * weights
                ratios.append(factor_of(direction - gradient, np.asarray(before, float)))
        return common(ratios)

    def _added_momentum(self) -> float | None:
        """The momentum that PyTorch has not: by it JAX's second move goes on with the first."""
        first, second = self.case.center.steps[:2]
        ratios = []
        for before, after in zip(first.groups, second.groups, strict=True):
            for key in after["keys"]:
                if key not in self.moves or not before["lr"] or not after["lr"]:
                    continue
                got, expected = self.moves[key]
                went = np.asarray(first.weights[key], float) - self.case.center.start[key]
                ratios.append(
                    factor_of((got - expected) / float(after["lr"]), went / float(before["lr"]))
                )
        return common(ratios)

    def numbers(self) -> Iterator[Candidate]:
        group = self.groups[0]
        if "betas" in group:
            b1, b2 = map(float, group["betas"])
            for other in FIRST_DECAYS:
                yield (
                    f"beta 1 is {other} instead of {b1}",
                    partial(option, betas=(other, b2)),
                )
            for other in SECOND_DECAYS:
                yield (
                    f"beta 2 is {other} instead of {b2}",
                    partial(option, betas=(b1, other)),
                )
            for first in FIRST_DECAYS:
                for second in SECOND_DECAYS:
                    yield (
                        f"the betas are {first} and {second} instead of {b1} and {b2}",
                        partial(option, betas=(first, second)),
                    )
        for name, words, values in (
            ("eps", "epsilon", EPSILONS),
            ("alpha", "the decay of the squares", SECOND_DECAYS),
            ("momentum", "the momentum", MOMENTA),
        ):
            for value in values:
                if name in group and value != group[name]:
                    yield (
                        f"{words} is {value:g} instead of {float(group[name]):g}",
                        partial(option, **{name: value}),
                    )

    def flags(self) -> Iterator[Candidate]:
        group = self.groups[0]
        momentum = float(group.get("momentum", 0.0))
        if momentum:
            if "nesterov" in group:
                now = bool(group["nesterov"])
                words = "not Nesterov's" if now else "Nesterov's"
                yield (
                    f"the momentum is {words}",
                    lambda: option(nesterov=not now, dampening=0.0),
                )
            if "dampening" in group:
                damped = 0.0 if group["dampening"] else momentum
                words = "not dampened" if group["dampening"] else "dampened, by 1 - momentum"
                yield f"the momentum is {words}", lambda: option(dampening=damped)
                yield (
                    "the momentum is dampened from the first step on, as a moving average is",
                    lambda: _DampenedAverage(momentum),
                )
            yield "the momentum sums up moves, with the rate in them", RateInMomentum
        if "amsgrad" in group:
            words = "there is no AMSGrad" if group["amsgrad"] else "it is AMSGrad"
            yield words, lambda: option(amsgrad=not group["amsgrad"])
            yield (
                "AMSGrad takes the largest squares after their bias correction, PyTorch before it",
                CorrectedMaximum,
            )
        if "centered" in group:
            words = "the squares are not centered" if group["centered"] else "they are centered"
            yield words, lambda: option(centered=not group["centered"])

    def equations(self) -> Iterator[Candidate]:
        rule = RULES.get(self.kind)
        if rule is None:
            return
        deviations: list[tuple[str, dict[str, Any]]] = []
        if rule in ("adam", "adamw"):
            deviations = [
                ("there is no bias correction", {"corrected": False}),
                ("the bias correction is computed in float32", {"corrected_in": "float32"}),
                ("the momentum is Nesterov's", {"nesterov": True}),
            ]
        own = float(self.groups[0].get("eps", 0.0))
        for epsilon in dict.fromkeys((own, *EPSILONS)):
            value = "" if epsilon == own else f", and is {epsilon:g} instead of {own:g}"
            for words, place in (
                ("epsilon lies inside the root", "inside"),
                ("epsilon is added before the bias correction", "before"),
            ):
                deviations.append((words + value, {"eps_at": place, "eps": epsilon}))
        if rule == "rmsprop":
            deviations.append(("the squares start from 1, not from 0", {"start": 1.0}))
            for alpha in SECOND_DECAYS:
                for place in ("inside", "outside"):
                    changes = {"alpha": alpha, "eps_at": place}
                    words = f"the decay of the squares is {alpha}, and epsilon lies {place}"
                    deviations.append((f"{words} the root", changes))
        if rule == "sgd":
            return
        for words, changes in deviations:
            yield words, partial(Equation, rule, changes)


class _DampenedAverage(Gradients):
    """Momentum as a moving average: (1 - momentum) times every gradient, the first one too."""

    def __init__(self, momentum: float) -> None:
        def change(given: Mapping[str, Tensor], raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {key: (1 - momentum) * gradient for key, gradient in given.items()}

        super().__init__(change)
