"""Parity of training: a user's own update in JAX against a user's own loop in PyTorch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from torch import nn

from jaxrnn.exchange.weights import WeightMap
from parity.core.bridge import check_dtypes, is_float, named_leaves, numpy_arrays, rounded
from parity.core.compare import Arrays, Comparison, Finding, Outcome, failures, structure
from parity.core.runners import precision
from parity.diagnosis.causes import Diagnosis
from parity.diagnosis.factors import listed
from parity.diagnosis.training_steps import diagnose_training
from parity.diagnosis.update_causes import ROUNDED
from parity.diagnosis.update_evidence import Case
from parity.measures.envelopes import STILL, Center, float_arrays, trajectory_findings
from parity.measures.jax_loops import JaxLoop
from parity.measures.training_loops import RoundedCorrection, Step, TorchLoop
from parity.measures.trajectories import DIVERGED, ENVELOPE_RUNS, perturbed
from parity.report.report import Report

DTYPES = ("float64", "float32")
# Runs of PyTorch that make the envelope. The limits of float64 have a wider factor.
RUNS = {"float64": 4, "float32": ENVELOPE_RUNS}


def check_training(
    jax_init: Callable[[Any], Any],
    jax_step: Callable[[Any, Any], Any],
    params: Any,
    torch_init: Callable[[nn.Module], Any],
    torch_module: nn.Module,
    weight_map: WeightMap,
    batches: Sequence[Any],
    *,
    params_of: Callable[[Any], Any] | None = None,
    average_of: Callable[[Any], Any] | None = None,
    jax_loss: Callable[[Any, Any], Any] | None = None,
    dtypes: Sequence[str] = DTYPES,
    name: str | None = None,
) -> Report:
    """Compare the training steps of two programs, one for each batch, from the same weights.

    Both start from the weights that `torch_module` has. After every step the loss, the gradients
    where JAX's are known, the optimizer's moments and the weights are compared: in float64 they
    may differ by round-off only, in float32 by as much as PyTorch's own runs do that round
    otherwise in the last place. Of a difference the report names the first step, the
    parameter and, if it is a known one, the cause.

        def jax_init(params):
            return TrainState.create(apply_fn=model.apply, params=params, tx=optax.adam(1e-3))

        def torch_init(module):
            optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)

            def step(batch):
                optimizer.zero_grad()
                loss = loss_function(module(batch["x"]), batch["y"])
                loss.backward()
                optimizer.step()
                return loss

            return step

    Args:
        jax_init: `jax_init(params)` makes the state before the first step.
        jax_step: `jax_step(state, batch)` returns `(state, loss)`, where loss may be metrics with
            an entry "loss" and one "gradients", or the state alone; jitted or not. An NNX step,
            which changes its state in place, returns the loss alone.
        params: a tree of parameters; only its structure and shapes count.
        torch_init: `torch_init(module)` makes the optimizer, the scheduler and what else there is,
            and returns `step(batch)`: the body of the loop, which returns the loss. It may return
            a moving average of the weights beside it, `(step, average)`: a module such as
            `AveragedModel`, or tensors by key.
        torch_module: a copy of it is trained. What the loop does not put in another mode stays in
            its own.
        weight_map: the module's keys and the paths of `params`.
        batches: a tree of arrays for each step, as both steps take it. Integers stay integers.
        params_of: the parameters in a state, of the structure of `params`; None for
            `state.params`, `state["params"]` or `state[0]`.
        average_of: the moving average of the parameters in a state, to be compared with that of
            `torch_init`.
        jax_loss: `jax_loss(params, batch)`, whose gradients are compared where the step returns
            none.
        dtypes: "float64", "float32".
        name: as the report calls it; the module's class if None.

    Returns:
        The report: its `passed`, its `summary()`, and every number.

    Raises:
        WeightMapError: if the map, the module and the parameters do not fit; all is named.
        ValueError: if a precision is unknown, there is no batch, or a step returns something else.
    """
    check_dtypes(dtypes, DTYPES)
    batches = [jax.tree.map(np.asarray, batch) for batch in batches]
    if not batches:
        raise ValueError("batches must have at least 1 batch, got none.")
    name = name or f"JAX against {type(torch_module).__name__}"
    shapes = {path: tuple(np.shape(leaf)) for path, leaf in named_leaves(params).items()}
    weights = _rounded_arrays(numpy_arrays(torch_module.state_dict()))
    # A map that does not fit is the user's mistake, and no finding.
    weight_map.from_torch(weights, like=shapes)

    rounded_batches = [jax.tree.map(_rounded_array, batch) for batch in batches]
    in_jax = JaxLoop(
        jax_init, jax_step, params, params_of or default_params, jax_loss, weight_map, average_of
    )
    both = _Training(name, in_jax, TorchLoop(torch_init, torch_module), weights, rounded_batches)
    findings, remarks = both.compared(dtypes)
    remarks += [f"{path}: {lost}." for path, lost in weight_map.inexact.items()]
    return Report(name, tuple(findings), tuple(dict.fromkeys(remarks)))


def default_params(state: Any) -> Any:
    """The parameters in a state that has them as `.params`, as an entry "params", or first.

    Raises:
        ValueError: if it has them nowhere.
    """
    if hasattr(state, "params"):
        return state.params
    if isinstance(state, dict) and "params" in state:
        return state["params"]
    if isinstance(state, tuple | list) and state:
        return state[0]
    raise ValueError(
        f"params_of must be given for a state of type {type(state).__name__}: it has no .params, "
        'no entry "params", and is no tuple.'
    )


def _rounded_array(array: np.ndarray) -> np.ndarray:
    # What float32 can hold is exact in float64, too.
    return rounded(array, "float32") if is_float(array) else array


def _rounded_arrays(arrays: Arrays) -> dict[str, np.ndarray]:
    return {name: _rounded_array(array) for name, array in arrays.items()}


class _Training:
    """Two loops from the same weights, and what is found about them."""

    def __init__(
        self,
        name: str,
        in_jax: JaxLoop,
        in_torch: TorchLoop,
        weights: dict[str, np.ndarray],
        batches: list[Any],
    ) -> None:
        self.name = name
        self.in_jax = in_jax
        self.in_torch = in_torch
        self.weights = weights
        self.batches = batches

    def compared(self, dtypes: Sequence[str]) -> tuple[list[Finding], list[str]]:
        """Findings and remarks."""
        if self._torch_is_random():
            words = (
                "PyTorch's step samples random numbers, as dropout does: run twice from the same "
                "state it gives different results, and no step of JAX's can equal both"
            )
            what = Comparison(self.name, "weights", dtypes[0])
            return [what.finding("C0", "", Outcome.ABSTAIN, note=words)], [f"{words}."]
        exact = self._torch("float64")
        findings: list[Finding] = []
        remarks: list[str] = []
        for dtype in dtypes:
            found, said = self._in(dtype, exact)
            findings += found
            remarks += said
        nothing = self._shows_nothing(exact, dtypes[0])
        if nothing:
            findings = [_abstaining(finding, nothing[0]) for finding in findings]
        return findings, [f"{words}." for words in nothing] + remarks

    def _torch(self, dtype: str, weights: Arrays | None = None, **options: Any) -> list[Step]:
        # Only what JAX has as well, and folded biases as JAX has them.
        start = self.weights if weights is None else weights
        steps = list(self.in_torch.steps(start, self.batches, dtype, **options))
        for step in steps:
            step.weights = self.in_jax.folded(step.weights)
            if step.averages:
                step.averages = self.in_jax.folded(step.averages)
        return steps

    def _in(self, dtype: str, exact: Sequence[Step]) -> tuple[list[Finding], list[str]]:
        """Findings and remarks in one precision."""
        what = Comparison(self.name, "weights", dtype)
        got = list(self.in_jax.steps(self.weights, self.batches, dtype))
        center = self._center(dtype, exact)
        # Of the first step: later ones may diverge, to NaN and infinity in other places.
        problems = structure(
            what, float_arrays(got[0].weights), float_arrays(center.steps[0].weights)
        )
        # What is NaN in one framework alone is found again, with its cause.
        if any("NaN" not in problem.note for problem in failures(problems)):
            return problems, []
        if got[0].averages and not center.steps[0].averages:
            raise ValueError("torch_init must return (step, average) where average_of is given.")
        findings = problems + trajectory_findings(self.name, center, got)
        # Of two biases that are folded into one the second is always zero.
        folded = [
            key for key, a in center.start.items() if not np.array_equal(a, self.weights[key])
        ]
        still = [f.array for f in findings if f.note == STILL and f.array not in folded]
        remarks = [*_still_words(still, len(center.start)), _envelope_words(center)]
        if got[-1].rounded:
            paths = listed(got[-1].rounded)
            remarks.append(f"JAX's state has float32 in a float64 run, which rounds: {paths}.")
            findings = [_only_rounded(finding) for finding in findings]
        if dtype == "float64" and failures(findings):
            remarks = [*self._causes(center, got), *remarks]
        return findings, remarks

    def _center(self, dtype: str, exact: Sequence[Step]) -> Center:
        steps = exact if dtype == "float64" else self._torch(dtype)
        floats = float_arrays(self.weights)
        others = []
        for seed in range(RUNS[dtype]):
            start = self.weights | perturbed(floats, seed, dtype)
            # In float32 JAX's optimizers round where PyTorch's do not.
            longer = None if dtype == "float64" else RoundedCorrection(1 - 2 * (seed % 2))
            others.append(self._torch(dtype, start, alteration=longer, roundings=seed))
        truth = None if dtype == "float64" else exact
        return Center(self.in_jax.folded(self.weights), steps, others, dtype, truth)

    def _causes(self, center: Center, got: Sequence[Step]) -> list[str]:
        case = Case(self.in_torch, self.weights, self.batches, center, got, 0, self.in_jax.folded)
        found: Diagnosis | None
        try:
            found = diagnose_training(case, exact_gradients=self.in_jax.loss is not None)
        except Exception as error:  # a broken step may break the search as well
            found = Diagnosis("unknown", f"{type(error).__name__} while looking for it: {error}")
        remarks = [] if found is None else [f"{str(found)[0].upper()}{str(found)[1:]}."]
        if self._jax_is_random():
            remarks.append("JAX's step samples random numbers from a key in its state.")
        return remarks

    def _torch_is_random(self) -> bool:
        first = self.batches[:1]
        runs = [
            next(self.in_torch.steps(self.weights, first, "float64", seed=seed)) for seed in (0, 1)
        ]
        return not _same_step(*runs)

    def _jax_is_random(self) -> bool:
        """Whether another key in the state changes the first step."""
        with precision("float64"):
            state = self.in_jax.state(self.weights, "float64")
            if not any(map(_is_key, jax.tree.leaves(state))):
                return False
            steps = []
            for other in (False, True):
                state = self.in_jax.state(self.weights, "float64")
                if other:
                    state = jax.tree.map(_other_key, state)
                steps.append(self.in_jax.advance(state, self.batches[0], "float64")[1])
        return not _same_step(*steps)

    def _shows_nothing(self, steps: Sequence[Step], dtype: str) -> list[str]:
        """Why equal numbers would say nothing about the two steps; empty if they do."""
        start = self.in_jax.folded(self.weights)
        words = []
        if all(np.array_equal(a, start[k]) for s in steps for k, a in s.weights.items()):
            words.append("PyTorch's steps do not move any weight")
        losses = np.array([step.loss for step in steps if step.loss is not None])
        if len(losses) and not np.isfinite(losses).any():
            words.append("PyTorch's loss is NaN or infinite in every step")
        other = [jax.tree.map(_other_numbers, self.batches[0])]
        if any(np.size(leaf) for leaf in jax.tree.leaves(other)):
            in_jax = self._both_steps(self.in_jax, other, dtype)
            in_torch = self._both_steps(self.in_torch, other, dtype)
            for framework, pair in (("JAX", in_jax), ("PyTorch", in_torch)):
                numbers = pair[0].loss is None or np.isfinite(pair[0].loss)
                if numbers and _same_step(*pair):
                    words.append(f"{framework}'s step does not depend on the batch")
        return words

    def _both_steps(
        self, loop: JaxLoop | TorchLoop, other: Sequence[Any], dtype: str
    ) -> tuple[Step, Step]:
        first = self.batches[:1]
        return tuple(next(iter(loop.steps(self.weights, b, dtype))) for b in (first, other))  # type: ignore[return-value]


def _same_step(one: Step, other: Step) -> bool:
    """Whether two steps gave the same loss and weights; NaN is the same as NaN."""
    losses = np.array([one.loss, other.loss], float)
    if not np.array_equal(losses[:1], losses[1:], equal_nan=True):
        return False
    return all(
        np.array_equal(array, other.weights[key], equal_nan=is_float(array))
        for key, array in one.weights.items()
    )


def _other_numbers(array: np.ndarray) -> np.ndarray:
    # Other numbers of about the same size; whole ones between the same bounds.
    if is_float(array):
        return 1.5 * array + 0.25
    if array.dtype == bool or not array.size:
        return array
    return array.min() + array.max() - array


def _is_key(leaf: Any) -> bool:
    # A random key of either kind.
    if not isinstance(leaf, jax.Array):
        return False
    typed = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return bool(typed or (leaf.dtype == np.uint32 and leaf.shape[-1:] == (2,)))


def _other_key(leaf: Any) -> Any:
    # A random key becomes another; other leaves stay.
    if not _is_key(leaf):
        return leaf
    if leaf.dtype == np.uint32:
        return leaf + np.uint32(1)
    data = jax.random.key_data(leaf) + np.uint32(1)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))


def _abstaining(finding: Finding, words: str) -> Finding:
    if finding.outcome in (Outcome.PASS, Outcome.WARN) and finding.criterion != "C0":
        return replace(finding, outcome=Outcome.ABSTAIN, note=words)
    return finding


def _only_rounded(finding: Finding) -> Finding:
    # A state that keeps float32 can be compared no further than that.
    if finding.outcome is Outcome.FAIL and finding.value <= ROUNDED:
        return replace(finding, outcome=Outcome.WARN, note=f"{finding.note}; float32 in the state")
    return finding


def _still_words(still: Sequence[str], count: int) -> list[str]:
    # What is frozen shows nothing, and may be meant to be; of all `count` it is said elsewhere.
    if not still or len(still) == count:
        return []
    verb = "moves" if len(still) == 1 else "move"
    return [f"{listed(still)} {verb} in neither framework."]


def _envelope_words(center: Center) -> str:
    """How far PyTorch's own runs are apart, and up to which step they can be followed."""
    followed = center.diverged
    words = (
        f"{center.dtype}: PyTorch's own runs, with other roundings in the last place, are "
        f"{center.spread(followed - 1):.1g} apart after {followed} steps"
    )
    horizon = center.horizon
    if followed < len(center.steps):
        words += f"; at step {followed + 1} the training diverges"
    elif horizon:
        words += f"; they are more than {DIVERGED:g} apart from step {horizon} on"
    return f"{words}."
