"""Known deviations around an optimizer: its rate, clipping and decay, and what it leaves out."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from parity.diagnosis.alterations import Decay, Factors, Gradients, Options, Rates, clipped
from parity.diagnosis.factors import SAME, common, factor_of, listed, norm_of, times, written
from parity.diagnosis.update_evidence import Candidate, Evidence
from parity.measures.envelopes import matching_moments

# What is tried for a number that a user sets: what libraries and papers have as their defaults.
WEIGHT_DECAYS = (0.1, 0.05, 0.01, 5e-3, 1e-3, 5e-4, 1e-4, 1e-5, 1e-6)
# A difference is nothing up to here, relative to what it is the difference of.
NOTHING = 1e-9
NORMS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)


class AmountCauses(Evidence):
    """Deviations in how far weights move, each with words and what does it in PyTorch."""

    def rates(self) -> Iterator[Candidate]:
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

    def clipping(self) -> Iterator[Candidate]:
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
        for norm in (*self._largest_entry(), *NORMS):
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
            raw = norm_of(step.gradients)
            applied = norm_of(step.applied)
            if step.applied.keys() == step.gradients.keys() and applied < raw * (1 - 1e-12):
                # torch multiplies by most / (norm + 1e-6).
                return written(applied * (raw + 1e-6) / raw)
        return None

    def _largest_entry(self) -> list[float]:
        """The value to which JAX may clip each entry: the largest of the first gradient."""
        if self.case.first > 0:
            return []
        step = self.case.center.steps[0]
        moments = matching_moments(self.case.got[0], step)
        largest = []
        for group in step.groups:
            share = 1 - float(group["betas"][0]) if "betas" in group else 1.0
            for key in group["keys"]:
                for kind in ("exp_avg", "momentum_buffer"):
                    if f"{kind} of {key}" in moments:
                        largest.append(np.abs(moments[f"{kind} of {key}"]).max() / share)
                if not moments and key in self.moves and group["lr"]:
                    largest.append(np.abs(self.moves[key][0]).max() / float(group["lr"]))
        return [written(float(max(largest)))] if largest else []

    def _norms_of_moments(self) -> list[float]:
        """The norms to which JAX may clip the first gradient, as its first moments show it."""
        t = self.case.first
        step = self.case.center.steps[t]
        ratio = common(self.moment_ratios() or self.factors.values())
        if t > 0 or ratio is None or not step.applied:
            return []
        # What PyTorch does not clip, JAX's clipping can only make smaller.
        if ratio <= 0 or (ratio >= 1 and not self._clips()):
            return []
        norm = ratio * norm_of(step.applied)
        raw = norm_of(step.gradients)
        # Without an epsilon, and with torch's.
        return [written(norm), written(norm * (raw + 1e-6) / raw)]

    def decays(self) -> Iterator[Candidate]:
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
        """Decays, key by key, that the first step shows."""
        if self.case.first > 0:
            return
        for decays in (self._decays_of_moves(), self._decays_of_moments()):
            values = set(decays.values()) - {0.0}
            if len(values) != 1:
                continue
            (decay,) = values
            without = [key for key, value in decays.items() if value == 0.0]
            words = f"the weight decay is {decay:.6g}, where PyTorch's is {most:.6g}"
            if abs(decay - most) <= SAME * most:
                words = "the weight decay is applied to other parameters"
            if without:
                words += f"; without it: {listed(without)}"
            for way in ("decoupled", "coupled"):
                yield words, partial(Decay, decays, way)

    def _decays_of_moves(self) -> dict[str, float]:
        """Decays beside the update: what JAX moves more than PyTorch without decay does."""
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
            share = _share(got - own, weights, own)
            if not rates.get(key) or np.isnan(share):
                return {}
            decays[key] = written(-share / rates[key])
        return decays

    def _decays_of_moments(self) -> dict[str, float]:
        """Decays in the gradient, as the first moments of Adam show them."""
        step = self.case.center.steps[0]
        moments = matching_moments(self.case.got[0], step)
        decays = {}
        for group in step.groups:
            for key in group["keys"]:
                name = f"exp_avg of {key}"
                if name not in moments or key not in step.applied:
                    continue
                weights = np.asarray(self.case.weights[key], float)
                gradient = np.asarray(step.applied[key], float)
                given = moments[name] / (1 - float(group["betas"][0]))
                share = _share(given - gradient, weights, gradient)
                if np.isnan(share):
                    return {}
                decays[key] = written(share)
        return decays

    def frozen(self) -> Iterator[Candidate]:
        still = [key for key, (got, there) in self.moves.items() if not got.any() and there.any()]
        if still:
            factors = dict.fromkeys(still, 0.0)
            yield f"JAX does not update {listed(still)}", lambda: Factors(factors)

    def factors_of_moves(self) -> Iterator[Candidate]:
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

    def gradient_scales(self) -> Iterator[Candidate]:
        ratio = common(self.moment_ratios() or self.factors.values())
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

    def several(self) -> Iterator[Candidate]:
        """Factors of the moves that are different for every parameter."""
        factors = self.factors
        if not any(np.isnan(f) for f in factors.values()):
            words = ", ".join(f"{key} {f:.6g}" for key, f in list(factors.items())[:6])
            yield f"each parameter has a rate of its own, times {words}", lambda: Factors(factors)


def _share(rest: np.ndarray, weights: np.ndarray, whole: np.ndarray) -> float:
    """How many times the weights `rest` is; 0 if it is round-off of `whole`."""
    if np.linalg.norm(rest) <= NOTHING * np.linalg.norm(whole):
        return 0.0
    return factor_of(rest, weights)


def _scaled(scale: float) -> Gradients:
    return Gradients(lambda given, raw: {key: scale * g for key, g in given.items()})
