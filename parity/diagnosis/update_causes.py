"""Why does a user's training step in JAX move the weights elsewhere than PyTorch's?

PyTorch's own loop is run again with one deviation after the other. The one whose weights and
moments are JAX's, digit by digit, is the cause. Amounts, such as another rate or decay, are read
off the first step that differs, and then have to hold in all of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from parity.core.compare import Arrays
from parity.diagnosis.alterations import (
    RULES,
    CorrectedMaximum,
    Decay,
    Equation,
    Factors,
    Gradients,
    Options,
    RateInMomentum,
    Rates,
    clipped,
    option,
)
from parity.measures.envelopes import Center, matching_moments
from parity.measures.training_loops import Alteration, Step, TorchLoop

# What is tried for a number that a user sets: what libraries and papers have as their defaults.
EPSILONS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-10, 1e-12, 1e-15, 1e-16, 0.0)
FIRST_DECAYS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)
SECOND_DECAYS = (0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)
MOMENTA = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)
WEIGHT_DECAYS = (0.1, 0.05, 0.01, 5e-3, 1e-3, 5e-4, 1e-4, 1e-5, 1e-6)
NORMS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
# A deviation fits up to so many times the distance that passes: an amount that was read off the
# numbers has their round-off.
FITTING = 10.0
# Two amounts are the same up to here, and one is rounded to the digits that a user would write.
SAME = 1e-6
# A difference below this is no other formula, but float32 somewhere.
ROUNDED = 1e-6
# How parallel the moves are that differ by a factor only.
PARALLEL = 1e-6
# Steps in which a deviation has to fit, from the first that differs on.
FOLLOWED = 10

Candidate = tuple[str, Callable[[], Alteration]]


class Case(NamedTuple):
    """Two loops that part.

    Attributes:
        loop: PyTorch's.
        weights: the first, a state dict.
        batches: of all steps.
        center: PyTorch's run in float64.
        got: JAX's run in float64.
        first: the first step that differs, counted from 0.
        folded: PyTorch's weights as they would come back from JAX.
    """

    loop: TorchLoop
    weights: Arrays
    batches: Sequence[Any]
    center: Center
    got: Sequence[Step]
    first: int
    folded: Callable[[Arrays], dict[str, np.ndarray]]


def update_cause(case: Case) -> str:
    """The deviation that gives JAX's numbers; empty if none of those that are known does."""
    structure = _structural(case)
    if structure:
        return structure
    for words, alteration in _Catalog(case).candidates():
        if _fits(case, alteration()):
            return words
    return ""


def _structural(case: Case) -> str:
    """Causes that show without another run."""
    step = case.center.steps[case.first]
    before = case.center.start if case.first == 0 else case.got[case.first - 1].weights
    moved = any(not np.array_equal(a, before[k]) for k, a in case.got[case.first].weights.items())
    if step.updates == 0 and moved:
        return "JAX updates the weights with this batch, PyTorch's optimizer does not step"
    if step.updates > 0 and not moved:
        later = any(
            not np.array_equal(a, before[k])
            for got in case.got[case.first :]
            for k, a in got.weights.items()
        )
        if not later:
            return "JAX's step does not change the weights"
    return ""


def _fits(case: Case, alteration: Alteration) -> bool:
    """Whether PyTorch's loop with this deviation gives JAX's weights and moments."""
    last = min(len(case.got), case.first + FOLLOWED)
    own_moments = not isinstance(alteration, Equation)
    # A state that keeps float32 gives no more digits than that.
    rounded = ROUNDED if case.got[0].rounded else 0.0
    run = case.loop.steps(case.weights, case.batches[:last], "float64", alteration=alteration)
    for t, step in enumerate(run):
        step.weights = case.folded(step.weights)
        expected = case.center.quantities(step)
        got = case.center.quantities(case.got[t], step)
        for quantity in ("weights", *(["moments"] if own_moments else [])):
            for name, array in got[quantity].items():
                # A deviation may have moments that neither run has.
                if name not in expected[quantity] or (quantity, name) not in case.center.limits:
                    continue
                far = case.center.distance(quantity, name, t, array, expected[quantity][name])
                limit = FITTING * case.center.limits[quantity, name][t].limit
                if not far <= max(limit, rounded):
                    return False
    return True


class _Catalog:
    """The deviations that are tried, the most telling first."""

    def __init__(self, case: Case) -> None:
        self.case = case
        steps = case.center.steps
        self.updates = [step for step in steps if step.groups]
        self.groups = self.updates[0].groups if self.updates else []
        self.kind = self.updates[0].kind if self.updates else ""
        self.keys = [key for group in self.groups for key in group["keys"]]

    def candidates(self) -> Iterator[Candidate]:
        """Words and what makes the alteration; nothing without a torch optimizer."""
        if not self.groups:
            return
        for deviations in (
            self._rates,
            self._clipping,
            self._decays,
            self._frozen,
            self._flags,
            self._factors,
            self._estimated_numbers,
            self._numbers,
            self._equations,
            self._gradient_scales,
            self._several,
        ):
            yield from deviations()

    # Moves at the first step that differs.

    def _move(self, steps: Sequence[Step]) -> dict[str, np.ndarray]:
        t = self.case.first
        before = self.case.center.start if t == 0 else steps[t - 1].weights
        return {k: np.asarray(a, float) - before[k] for k, a in steps[t].weights.items()}

    @cached_property
    def moves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """JAX's move and PyTorch's, of every parameter that an optimizer moves."""
        got = self._move(self.case.got)
        expected = self._move(self.case.center.steps)
        return {key: (got[key], expected[key]) for key in self.keys if key in got}

    @cached_property
    def factors(self) -> dict[str, float]:
        """How many times as far JAX moves each parameter; NaN where it is no factor."""
        return {key: factor_of(*moves) for key, moves in self.moves.items()}

    def _rates(self) -> Iterator[Candidate]:
        rates = self._all_rates()
        if len({tuple(row) for row in rates}) == 1:
            return
        late = [rates[0], *rates[:-1]]
        zero = [[0.0] * len(rates[0]), *rates[:-1]]
        yield "the learning rate is that of the step before", lambda: Rates(late)
        yield "the learning rate is that of the step before, 0 at first", lambda: Rates(zero)
        first = common(self.factors.values())
        if first is not None and self.case.first == 0:
            other = [[first * rate for rate in rates[0]], *rates[:-1]]
            words = "the learning rate is that of the step before"
            yield f"{words}, {other[0][0]:.6g} at first", lambda: Rates(other)
            yield (
                f"the learning rate does not change, but is {other[0][0]:.6g} in every step",
                lambda: Rates(other[:1]),
            )
        yield "the learning rate is that of the step after", lambda: Rates(rates[1:])
        yield "the learning rate does not change", lambda: Rates(rates[:1])

    def _all_rates(self) -> list[list[float]]:
        # One step more than was compared, for a schedule that is a step ahead.
        batches = [*self.case.batches, *self.case.batches[-1:]]
        steps = self.case.loop.steps(self.case.weights, batches, "float64")
        return [[float(g["lr"]) for g in step.groups] for step in steps if step.groups]

    def _clipping(self) -> Iterator[Candidate]:
        most = self._clip_norm()
        if most is not None:
            yield (
                "the gradients are not clipped",
                lambda: Gradients(lambda given, raw: raw),
            )
            yield (
                "the norm is clipped without the 1e-6 that PyTorch adds to it",
                lambda: clipped(most, by="norm"),
            )
            yield (
                f"every parameter's gradient is clipped by itself, to {most:.6g}",
                lambda: clipped(most, by="leaf"),
            )
            yield (
                f"every entry is clipped by itself, to {most:.6g}",
                lambda: clipped(most, by="value"),
            )
        known = [*self._norms_of_moments(), *NORMS]
        clips = "PyTorch clips otherwise" if self._clips() else "PyTorch does not clip"
        for norm in known:
            for epsilon in (0.0, 1e-6):
                yield (
                    f"the gradients are clipped to a norm of {norm:.6g}; {clips}",
                    partial(clipped, norm, by="norm", epsilon=epsilon),
                )
        for norm in NORMS:
            yield (
                f"every entry is clipped by itself, to {norm:.6g}; {clips}",
                partial(clipped, norm, by="value"),
            )

    def _clips(self) -> bool:
        return any(
            not np.array_equal(step.applied[key], step.gradients[key])
            for step in self.updates
            for key in step.applied
            if key in step.gradients
        )

    def _clip_norm(self) -> float | None:
        """The norm that PyTorch clips to; None if the gradients are as they came."""
        for step in self.updates:
            raw = _norm(step.gradients)
            applied = _norm(step.applied)
            if step.applied.keys() == step.gradients.keys() and applied < raw * (1 - 1e-12):
                # torch multiplies by most / (norm + 1e-6).
                return _written(applied * (raw + 1e-6) / raw)
        return None

    def _norms_of_moments(self) -> list[float]:
        """The norms to which JAX may clip the first gradient, as its first moments show it."""
        t = self.case.first
        step = self.case.center.steps[t]
        ratio = common(self._moment_ratios() or self.factors.values())
        if t > 0 or ratio is None or not 0 < ratio < 1 or not step.applied:
            return []
        norm = ratio * _norm(step.applied)
        raw = _norm(step.gradients)
        # Without an epsilon, and with torch's.
        return [_written(norm), _written(norm * (raw + 1e-6) / raw)]

    def _moment_ratios(
        self, names: tuple[str, ...] = ("exp_avg of", "momentum_buffer of")
    ) -> list[float]:
        """By how much JAX's moments are larger; the first ones are linear in the gradients."""
        t = self.case.first
        moments = matching_moments(self.case.got[t], self.case.center.steps[t])
        ratios = []
        for name, array in moments.items():
            if name.startswith(names):
                theirs = np.asarray(self.case.center.steps[t].moments[name], float)
                ratios.append(factor_of(array, theirs))
        return ratios

    def _decays(self) -> Iterator[Candidate]:
        own = {key: float(g.get("weight_decay", 0)) for g in self.groups for key in g["keys"]}
        most = max(own.values(), default=0.0)
        matrices = [key for key in self.keys if np.ndim(self.case.weights[key]) >= 2]
        decoupled = bool(self.groups[0].get("decoupled_weight_decay", self.kind == "AdamW"))
        here = "decoupled" if decoupled else "coupled"
        if most:
            everywhere = {key: most for key in self.keys}
            not_on_vectors = {key: own[key] for key in matrices}
            yield "there is no weight decay", lambda: Decay({}, here)
            other, words = ("coupled", "coupled, as L2") if decoupled else ("decoupled",) * 2
            yield f"the weight decay is {words}", lambda: Decay(own, other)
            for way in dict.fromkeys((here, "coupled", "decoupled")):
                also = "" if way == here else f", and it is {way}"
                yield (
                    f"biases and other vectors have no weight decay{also}",
                    partial(Decay, not_on_vectors, way),
                )
                yield (
                    f"every parameter has the weight decay of {most:.6g}, those too that PyTorch "
                    f"leaves out{also}",
                    partial(Decay, everywhere, way),
                )
            yield "the weight decay is not multiplied by the rate", lambda: Decay(own, "bare")
            yield (
                "the weights decay after the update, not before it",
                lambda: Decay(own, "behind"),
            )
        yield from self._estimated_decays(most)
        for decay in WEIGHT_DECAYS:
            for way in ("coupled", "decoupled"):
                for keys, where in ((self.keys, ""), (matrices, ", of matrices alone")):
                    yield (
                        f"the weight decay is {decay:g} instead of {most:g}, {way}{where}",
                        partial(Decay, dict.fromkeys(keys, decay), way),
                    )

    def _estimated_decays(self, most: float) -> Iterator[Candidate]:
        """Decays, key by key, that the first step shows beside that of PyTorch without any."""
        if self.case.first > 0:
            return
        run = self.case.loop.steps(
            self.case.weights, self.case.batches[:1], "float64", alteration=Decay({}, "coupled")
        )
        bare = next(run)
        rates = {key: float(g["lr"]) for g in bare.groups for key in g["keys"]}
        decays = {}
        for key, (got, _) in self.moves.items():
            weights = np.asarray(self.case.weights[key], float)
            own = np.asarray(bare.weights[key], float) - weights
            # The move beside the optimizer's own is -rate * decay * weights.
            share = factor_of(got - own, weights)
            if np.linalg.norm(got - own) <= 1e-9 * np.linalg.norm(own):
                share = 0.0
            if not rates.get(key) or np.isnan(share):
                return
            decays[key] = _written(-share / rates[key])
        values = set(decays.values()) - {0.0}
        if len(values) != 1:
            return
        (decay,) = values
        without = [key for key, value in decays.items() if value == 0.0]
        words = f"the weight decay is {decay:.6g}, where PyTorch's is {most:.6g}"
        if abs(decay - most) <= SAME * most:
            words = "the weight decay is applied to other parameters"
        if without:
            words += f"; without it: {listed(without)}"
        for way in ("decoupled", "coupled"):
            yield words, partial(Decay, decays, way)

    def _frozen(self) -> Iterator[Candidate]:
        still = [key for key, (got, there) in self.moves.items() if not got.any() and there.any()]
        if still:
            factors = dict.fromkeys(still, 0.0)
            yield f"JAX does not update {listed(still)}", lambda: Factors(factors)

    def _factors(self) -> Iterator[Candidate]:
        factors = {key: f for key, f in self.factors.items() if not np.isnan(f)}
        every = common(factors.values())
        if every is not None and abs(every - 1) > SAME:
            yield (
                f"the learning rate is {times(every)} PyTorch's",
                lambda: Options(lambda group, count: {"lr": every * group["lr"]}),
            )
        if len(factors) < len(self.moves):
            return
        others = {key: f for key, f in factors.items() if abs(f - 1) > SAME}
        several = common(others.values())
        if others and several is not None and len(others) < len(factors):
            yield (
                f"{listed(list(others))} moves {times(several)} as far, as with a learning rate "
                "of its own",
                lambda: Factors(others),
            )

    def _estimated_numbers(self) -> Iterator[Candidate]:
        """Numbers of the optimizer that the first step which differs shows."""
        group = self.groups[0]
        if self.case.first == 0 and "betas" in group:
            b1, b2 = map(float, group["betas"])
            for index, name in enumerate(("exp_avg of", "exp_avg_sq of")):
                ratio = common(self._moment_ratios((name,)))
                if ratio is not None and abs(ratio - 1) > SAME:
                    # The first moment of the first step is (1 - beta) times the gradient.
                    betas = [b1, b2]
                    betas[index] = _written(1 - ratio * (1 - betas[index]))
                    yield (
                        f"beta {index + 1} is {betas[index]:.6g} instead of {(b1, b2)[index]:g}",
                        partial(option, betas=tuple(betas)),
                    )
        if self.case.first == 0 and "alpha" in group:
            ratio = common(self._moment_ratios(("square_avg of",)))
            if ratio is not None and abs(ratio - 1) > SAME:
                alpha = _written(1 - ratio * (1 - float(group["alpha"])))
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
        epsilon = _middle(beside)
        if epsilon > 0:
            yield f"epsilon is {epsilon:.6g} instead of {own:g}", partial(option, eps=epsilon)
        epsilon = _middle(inside)
        rule = RULES.get(self.kind)
        if epsilon > 0 and rule is not None:
            yield (
                f"epsilon lies inside the root, and is {epsilon:.6g} instead of {own:g}",
                partial(Equation, rule, {"eps_at": "inside", "eps": epsilon}),
            )

    def _momentum(self) -> float | None:
        """The momentum of JAX's second step: its direction without the second gradient."""
        first, second = self.case.center.steps[:2]
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

    def _numbers(self) -> Iterator[Candidate]:
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

    def _flags(self) -> Iterator[Candidate]:
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

    def _equations(self) -> Iterator[Candidate]:
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

    def _gradient_scales(self) -> Iterator[Candidate]:
        ratio = common(self._moment_ratios() or self.factors.values())
        batches = len(self.case.batches) / max(len(self.updates), 1)
        for scale in dict.fromkeys([ratio, batches, 1 / batches]):
            if scale is None or abs(scale - 1) <= SAME:
                continue
            words = f"the gradients are {times(scale)} PyTorch's"
            if batches > 1:
                one, other = ("PyTorch", "JAX") if scale > 1 else ("JAX", "PyTorch")
                words += f", as if {one} averaged over the batches what {other} sums up"
            yield (
                words,
                partial(_scaled, scale),
            )

    def _several(self) -> Iterator[Candidate]:
        """Factors of the moves that are different for every parameter."""
        factors = self.factors
        if not any(np.isnan(f) for f in factors.values()):
            words = ", ".join(f"{key} {f:.6g}" for key, f in list(factors.items())[:6])
            yield f"each parameter has a rate of its own, times {words}", lambda: Factors(factors)


class _DampenedAverage(Gradients):
    """Momentum as a moving average: (1 - momentum) times every gradient, the first one too."""

    def __init__(self, momentum: float) -> None:
        def change(
            given: Mapping[str, Tensor], raw: Mapping[str, Tensor]
        ) -> dict[str, torch.Tensor]:
            return {key: (1 - momentum) * gradient for key, gradient in given.items()}

        super().__init__(change)


def _middle(values: Sequence[np.ndarray]) -> float:
    """The median, as a user would write it; of many numbers, each with much round-off."""
    numbers = np.concatenate([array.ravel() for array in values])
    return _written(float(np.median(numbers)), 1e-4) if numbers.size else 0.0


def _scaled(scale: float) -> Gradients:
    return Gradients(lambda given, raw: {key: scale * g for key, g in given.items()})


def factor_of(got: np.ndarray, expected: np.ndarray) -> float:
    """The number by which `expected` becomes `got`; NaN if they are not parallel."""
    size = float(np.sum(expected * expected))
    if size == 0:
        return 1.0 if not np.any(got) else np.nan
    factor = float(np.sum(got * expected)) / size
    apart = np.linalg.norm(got - factor * expected)
    if not apart <= PARALLEL * max(np.linalg.norm(got), abs(factor) * np.sqrt(size)):
        return np.nan
    return _written(factor)


def common(values: Iterable[float]) -> float | None:
    """The one value of all; None if they differ, or there is none."""
    numbers = list(values)
    if not numbers or any(np.isnan(numbers)) or np.ptp(numbers) > SAME * abs(numbers[0]):
        return None
    return float(numbers[0])


def _written(number: float, tolerance: float = 0.1 * SAME) -> float:
    """A number as a user would write it, if it is that but for round-off."""
    for digits in (1, 2, 3, 4, 5, 6):
        rounded = float(f"{number:.{digits}g}")
        if abs(rounded - number) <= tolerance * abs(number):
            return rounded
    return number


def _norm(arrays: Arrays) -> float:
    return float(np.sqrt(sum(float(np.sum(np.square(a, dtype=float))) for a in arrays.values())))


def times(factor: float) -> str:
    """A factor in words, such as "1/4 times"."""
    inverse = 1 / factor if factor else np.inf
    if 0 < abs(factor) < 1 and abs(inverse - round(inverse)) < SAME * abs(inverse):
        return f"1/{round(inverse)} times"
    return f"{factor:.6g} times"


def listed(keys: Sequence[str]) -> str:
    """Names in words, the first four of many."""
    shown = ", ".join(keys[:4])
    return shown if len(keys) <= 4 else f"{shown} and {len(keys) - 4} more"
