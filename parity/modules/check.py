"""Parity for modules of your own: any pure JAX function against any PyTorch module.

Flax Linen and NNX, Haiku, Equinox and plain JAX all fit: what is needed is a function
`jax_function(params, *inputs)`, its tree of parameters, and a `WeightMap` between the paths of
that tree and the keys of the PyTorch module.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ParamSpec

import jax
import numpy as np
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from jaxrnn.exchange.weights import WeightMap
from parity.core.bridge import check_dtypes, is_float
from parity.core.cases import Case
from parity.core.compare import Comparison, Finding, Outcome, failures
from parity.core.runners import precision
from parity.diagnosis.identify import identified
from parity.modules.comparison import Judge, Runners, Tried, compared
from parity.modules.inputs import (
    Batch,
    chosen_variants,
    given_batch,
    is_mask,
    padding_indices,
    ranges_in_words,
    variants_of,
)
from parity.modules.remarks import (
    lower_precision,
    modes_in_words,
    random_in_jax,
    random_in_torch,
    shown_nothing,
    unused_in_words,
    updated_buffers,
    warned,
)
from parity.modules.runners import ModulePair, output_names
from parity.modules.verdicts import chosen_limits
from parity.modules.weights import (
    check_fit,
    given_weights,
    sampled_weights,
    state_of,
    weight_findings,
)
from parity.report.report import Report

DTYPES = ("float64", "float32", "bfloat16")
WEIGHTS = ("sampled", "given", "both")


def check(
    jax_function: Callable[..., Any],
    params: Any,
    torch_module: nn.Module,
    weight_map: WeightMap,
    inputs: Sequence[Any],
    *,
    batches: Sequence[Sequence[Any]] = (),
    variants: bool | Iterable[str] = True,
    weights: str = "sampled",
    dtypes: Sequence[str] = ("float64", "float32"),
    limits: Mapping[str, float] | None = None,
    dropout_masks: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> Report:
    """Compare outputs and gradients of a JAX function and a PyTorch module.

    Both get the same weights and inputs: the user's own batches, in every precision that is asked
    for, and variants of them (zeros, large, small and negative numbers, ties, repeated tokens) in
    the most exact one. The gradients are those of a fixed weighted sum of the outputs.

    The criteria, of which the report has a finding for each array:

        C0  structure: the same names, shapes and kinds, NaN and infinity in the same places
        C1  meaning, in float64: they differ by round-off, as the module itself magnifies it.
            Integers and booleans are equal
        C2  numerics: JAX is no further from float64 than PyTorch, or than a rounding moves it,
            by a factor
        C3  a fixed tolerance for that distance

    A gradient at a point where none exists (a tie, a kink) may differ by rule: that warns. What
    shows nothing abstains, and does not pass: a constant, NaN everywhere, no gradient at all. Where
    a recurrent layer differs in float64, the report names the equation that it computes instead,
    if that is a known one.

    Args:
        jax_function: `jax_function(params, *inputs)` gives arrays in any container; it has to be
            pure.
        params: a tree of parameters as the function takes it. Only its structure and shapes count
            for `weights="sampled"`.
        torch_module: `torch_module(*inputs)` gives the same arrays, by the same names if there are
            any, else in the same order. It is run as it is given: what is in evaluation mode
            (`.eval()`), each part by itself, stays there.
        weight_map: the module's keys and the paths of `params`, such as "dense_h/kernel". Buffers
            that are not named, but for running statistics that count, stay as the module has them.
        inputs: one batch: arrays, or trees of arrays, as both take them. Integers stay integers.
        batches: more batches, each as `inputs`; their shapes may differ.
        variants: whether variants of the inputs are tried, or the names of those that are, out of
            `parity.modules.inputs.VARIANTS`. Integers stay in the range that the input shows.
        weights: "sampled" samples weights such that no bias is zero; "given" compares `params`, as
            they are, with the module's own weights, and then the functions with those; "both".
        dtypes: "float64", "float32", "bfloat16".
        limits: other limits, by criterion ("C1") or criterion and quantity ("C1 gradients",
            "C2 forward"). C1 and C3 limit a relative distance, C2 a factor.
        dropout_masks: for modules of dropout by name, a mask of what is kept, which replaces the
            random one in PyTorch. The JAX function has to use the same.
        name: as the report calls it; the module's class if None.

    Returns:
        The report: its `passed`, its `summary()`, and every number.

    Raises:
        WeightMapError: if the map, the module and the parameters do not fit; all is named.
        ValueError: if an option is unknown, or an input or weight no real number.
    """
    check_dtypes(dtypes, DTYPES)
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}; got {weights!r}.")
    chosen = chosen_variants(variants)
    allowed = chosen_limits(limits)
    masks = _dropout_masks(torch_module, dropout_masks or {})
    name = name or f"JAX against {type(torch_module).__name__}"
    own = _batches(inputs, batches)
    # A map that does not fit is the user's mistake, and no finding.
    state = state_of(torch_module, weight_map)
    check_fit(weight_map, state, params)
    padding = padding_indices(torch_module)
    varied = [v for batch in own[:1] for v in variants_of(batch, chosen, padding)]

    pair = ModulePair(
        jax_function, params, torch_module, weight_map, state, own[0].structure, masks=masks
    )
    findings: list[Finding] = []
    remarks: list[str] = []
    if weights != "sampled":
        own_weights = weight_findings(name, weight_map, state, params)
        findings += own_weights
        remarks += _weights_in_words(own_weights)
    for kind in ("sampled", "given"):
        if weights not in (kind, "both"):
            continue
        comparison = _Comparison(pair, name, kind)
        found = comparison.tried(own, varied, dtypes, allowed)
        findings += found.findings
        remarks += comparison.remarks(found, own[0])
        refused = found.refused
    if weights == "sampled":
        remarks.append(
            "The weights were sampled: whether the parameters that were given are those of the "
            'PyTorch module is shown by weights="given".'
        )
    tried = [batch for batch in (*own, *varied) if batch.label not in refused]
    remarks += [f"PyTorch refused {label}: {error}." for label, error in refused.items()]
    remarks += [*ranges_in_words(tried, padding), *modes_in_words(torch_module), *state.remarks]
    remarks += [f"{path}: {lost}." for path, lost in weight_map.inexact.items()]
    return Report(name, tuple(findings), tuple(dict.fromkeys(remarks)))  # each remark once


P = ParamSpec("P")


def _asserting(checker: Callable[P, Report]) -> Callable[P, None]:
    # The signature stays that of the function that makes the report.
    @functools.wraps(checker, assigned=("__module__", "__annotations__"))
    def assert_parity(*arguments: P.args, **options: P.kwargs) -> None:
        """`check`, for pytest: the same arguments, and nothing returned.

        Raises:
            AssertionError: with the whole summary, unless the report passes.
            WeightMapError: as `check`.
            ValueError: as `check`.
        """
        report = checker(*arguments, **options)
        if not report.passed:
            raise AssertionError(report.summary())

    return assert_parity


assert_parity = _asserting(check)


def _batches(inputs: Sequence[Any], batches: Sequence[Sequence[Any]]) -> list[Batch]:
    # The user's batches, all of one structure.
    own = [given_batch(inputs)]
    for number, more in enumerate(batches, start=2):
        batch = given_batch(more, f"inputs of batch {number}")
        if batch.structure != own[0].structure:
            raise ValueError(
                f"batches must have the structure of inputs, {own[0].structure}; got "
                f"{batch.structure} as batch {number}."
            )
        own.append(batch)
    return own


def _dropout_masks(module: nn.Module, masks: Mapping[str, Any]) -> dict[str, np.ndarray]:
    # Only modules of dropout have a mask that can be replaced.
    parts = {n: part for n, part in module.named_modules() if isinstance(part, _DropoutNd)}
    unknown = [mask for mask in masks if mask not in parts]
    if unknown:
        known = ", ".join(parts) or "no module"
        raise ValueError(
            f"dropout_masks must name modules of dropout ({known}), got {unknown[0]!r}."
        )
    return {mask: np.asarray(kept) for mask, kept in masks.items()}


def _weights_in_words(findings: Sequence[Finding]) -> list[str]:
    bad = [finding.array for finding in failures(findings)]
    if not bad:
        return ["The parameters are the weights of the PyTorch module."]
    return [
        f"{len(bad)} of {len(findings)} parameters are not PyTorch's weights: {', '.join(bad)}. "
        "The functions were compared with PyTorch's."
    ]


class _Comparison:
    """One comparison with weights of one kind, "sampled" or "given"."""

    def __init__(self, pair: ModulePair, name: str, kind: str) -> None:
        self.pair = pair
        self.name = name
        self.kind = kind
        self.runners = Runners(pair)
        self.sentences: list[str] = []

    def tried(
        self, own: Sequence[Batch], variants: Sequence[Batch], dtypes: Sequence[str], limits: Any
    ) -> Tried:
        """What was found; whatever a broken function raises is a finding as well."""
        try:
            case = self.cases(own[0], 1, "float64")[0]
            random = random_in_torch(self.pair, self.runners("torch", "float64"), case)
            if random:
                return self._failed(random)
            # The most exact precision that is asked for: the function may run in no other.
            dtype = min(dtypes, key=DTYPES.index)
            self.pair = replace(self.pair, names=output_names(self.pair, case, dtype))
            self.runners = Runners(self.pair)
            judge = Judge(self.runners, self.cases, self.name, limits)
            return compared(judge, own, variants, dtypes)
        except Exception as error:
            return self._failed(" ".join(f"{type(error).__name__}: {error}".split()))

    def _failed(self, note: str) -> Tried:
        what = Comparison(self.name, "values", "")
        return Tried([what.finding("C0", "", Outcome.ERROR, note=note)], {}, {})

    def cases(self, batch: Batch, count: int, dtype: str) -> list[Case]:
        """Weights and inputs for a number of cases."""
        if self.kind == "given":
            # The weights are one set: there are more cases only of more inputs.
            weights = given_weights(self.pair.state, dtype)
            others = [_drawn_anew(batch, seed) for seed in range(1, count)]
            return [Case(weights, inputs) for inputs in [batch.arrays, *others]]
        cases = []
        for seed in range(count):
            rng = np.random.default_rng(seed)
            weights = sampled_weights(self.pair.module, self.pair.state, rng, dtype)
            cases.append(Case(weights, batch.arrays))
        return cases

    def remarks(self, found: Tried, batch: Batch) -> list[str]:
        """What explains the findings."""
        if any(finding.outcome is Outcome.ERROR for finding in found.findings):
            return []
        case = self.cases(batch, 1, "float64")[0]
        run = self.runners("torch", "float64")
        sentences = []
        failed = failures(found.findings)
        if failed:
            sentences += random_in_jax(self.pair, case)
        if any(_may_be_a_cast(finding) for finding in failed):
            sentences += lower_precision(self.pair, case)
        if any(f.criterion == "C1" for f in failed):
            sentences += self._equation(batch)
        sentences += shown_nothing(found.findings)
        sentences += warned(found.findings)
        sentences += unused_in_words(self.pair, run, batch, case, found.findings)
        sentences += updated_buffers(self.pair, case)
        return sentences

    def _equation(self, batch: Batch) -> list[str]:
        # A remark on what a recurrent layer computes instead, if that is known. The search needs
        # JAX's numbers in float64.
        case = self.cases(batch, 1, "float64")[0]
        with precision("float64"):
            outputs = self.runners("jax", "float64")(case)["forward"]
        given = jax.tree.unflatten(batch.structure, list(case.inputs.values()))
        module = self.pair.module
        # The first output is taken for the hidden states.
        first = next(iter(outputs.values()))
        weights = self.pair.state.complete(case.weights)
        words = identified(module, weights, given, first)
        if words is None:
            return []
        layer = type(module).__name__
        if not words:
            return [f"The outputs are those of {layer}; the difference lies elsewhere."]
        return [f"A different equation than {layer}, not round-off: {words}."]


# What a lower precision inside moves by at most: some roundings of bfloat16.
CAST = 0.1


def _may_be_a_cast(finding: Finding) -> bool:
    # A precision of the result, or numbers that differ by no more than roundings.
    if finding.criterion == "C0":
        return "expected float64" in finding.note
    return finding.criterion == "C1" and finding.value < CAST


def _drawn_anew(batch: Batch, seed: int) -> dict[str, np.ndarray]:
    # Inputs of the same kind: floats of the same mean and deviation, integers in another order.
    rng = np.random.default_rng(seed)
    arrays = {}
    for key, array in batch.arrays.items():
        arrays[key] = array
        if is_mask(array):
            continue
        if is_float(array):
            wide = np.asarray(array, np.float64)
            arrays[key] = rng.normal(wide.mean(), wide.std() or 1.0, wide.shape)
        else:
            arrays[key] = rng.permuted(array)
    return arrays
