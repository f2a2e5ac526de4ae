"""Parity for modules of your own: any pure JAX function against any PyTorch module.

Flax Linen and NNX, Haiku, Equinox and plain JAX all fit: what is needed is a function
`jax_function(params, *inputs)`, its tree of parameters, and a `WeightMap` between the paths of
that tree and the keys of the PyTorch module.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from torch import nn

from jaxrnn.exchange.weights import WeightMap
from parity.core.bridge import is_float, named_leaves, numpy_arrays, rebuilt
from parity.core.cases import sample_case
from parity.core.compare import Finding, Outcome
from parity.core.pairs import Pair, projection
from parity.core.runners import run_jax
from parity.diagnosis.identify import identified
from parity.report.report import Report
from parity.suite.checks import Check
from parity.suite.findings import value_findings


def check(
    jax_function: Callable[..., Any],
    params: Any,
    torch_module: nn.Module,
    weight_map: WeightMap,
    inputs: Sequence[Any],
    *,
    dtypes: Sequence[str] = ("float64", "float32"),
    name: str | None = None,
) -> Report:
    """Compare outputs and gradients of a JAX function and a PyTorch module.

    Both get the same weights, sampled so that no bias is zero, in every precision that is asked
    for. Where a recurrent layer differs in float64, the report names the equation that it computes
    instead, if that is a known one.

    Args:
        jax_function: `jax_function(params, *inputs)` gives a tree of arrays; it has to be pure.
        params: a tree of parameters as the function takes it; only its structure and shapes count.
        torch_module: `torch_module(*inputs)` gives the same arrays in the same order. It is run as
            it is given: what is in evaluation mode (`.eval()`), each part by itself, stays there.
        weight_map: the module's keys and the paths of `params`, such as "dense_h/kernel".
        inputs: arrays, or tuples of arrays, as both take them. Integers stay integers.
        dtypes: "float64", "float32", "bfloat16".
        name: as the report calls it; the module's class if None.

    Returns:
        The report: its `passed`, its `summary()`, and every number.

    Raises:
        WeightMapError: if the map, the module and the parameters do not fit; all is named.
        ValueError: if a precision is unknown, or none is asked for.
    """
    known = ("float64", "float32", "bfloat16")
    if isinstance(dtypes, str) or not dtypes or not set(dtypes) <= set(known):
        raise ValueError(f"dtypes must be a list of some of {', '.join(known)}; got {dtypes!r}.")
    name = name or f"JAX against {type(torch_module).__name__}"
    # A map that does not fit is the user's mistake, and no finding.
    shapes = {path: tuple(np.shape(leaf)) for path, leaf in named_leaves(params).items()}
    weight_map.from_torch(numpy_arrays(torch_module.state_dict()), like=shapes)

    pair = _pair(name, jax_function, params, torch_module, weight_map, inputs)
    run = partial(value_findings, pair, dtypes, calibrated=True)
    # The scalar whose gradients are compared is made here, and no result of the user's.
    findings = [f for f in Check(name, "values", run).findings() if f.quantity != "loss"]
    remarks = _shown_nothing(findings)
    remarks += [f"{path}: {lost}." for path, lost in weight_map.inexact.items()]
    if any(f.criterion == "C1" and f.outcome is Outcome.FAIL for f in findings):
        remarks += _causes(pair, torch_module, inputs)
    return Report(name, tuple(findings), tuple(dict.fromkeys(remarks)))  # each remark once


def _shown_nothing(findings: Sequence[Finding]) -> list[str]:
    """A sentence for each output that says nothing about the two functions."""
    remarks = []
    for finding in findings:
        if finding.quantity == "forward" and finding.outcome is Outcome.ABSTAIN:
            remarks.append(f"{finding.array} shows nothing: {finding.note}.")
    return remarks


def assert_parity(*arguments: Any, **options: Any) -> None:
    """`check`, for pytest.

    Args:
        arguments: of `check`.
        options: of `check`.

    Raises:
        AssertionError: with the whole summary, unless it passes.
        WeightMapError: as `check`.
    """
    report = check(*arguments, **options)
    if not report.passed:
        raise AssertionError(report.summary())


def _pair(
    name: str,
    jax_function: Callable[..., Any],
    params: Any,
    torch_module: nn.Module,
    weight_map: WeightMap,
    inputs: Sequence[Any],
) -> Pair:
    # Inputs may be nested, and a pair's are named arrays: "0", "1", ...
    arrays, structure = jax.tree.flatten(tuple(inputs))
    named = {str(k): np.asarray(array) for k, array in enumerate(arrays)}

    def arguments(given: Any) -> Any:
        return jax.tree.unflatten(structure, [given[name] for name in named])

    def jax_outputs(params: Any, given: Any) -> dict[str, Any]:
        return _numbered(jax_function(params, *arguments(given)))

    def torch_outputs(module: nn.Module, given: Any) -> dict[str, Any]:
        return _numbered(module(*arguments(given)))

    return Pair(
        name=name,
        module=lambda: copy.deepcopy(torch_module),
        weight_map=weight_map,
        params=lambda weights: rebuilt(params, weights),
        sample_inputs=lambda rng: named,
        jax_outputs=jax_outputs,
        jax_loss=lambda params, given: projection(jax_outputs(params, given)),
        torch_outputs=torch_outputs,
        torch_loss=lambda module, given: projection(torch_outputs(module, given)),
        differentiable=tuple(name for name, array in named.items() if is_float(array)),
    )


def _numbered(outputs: Any) -> dict[str, Any]:
    return {f"output {k}": leaf for k, leaf in enumerate(jax.tree.leaves(outputs))}


def _causes(pair: Pair, module: nn.Module, inputs: Sequence[Any]) -> list[str]:
    # A remark on what a recurrent layer computes instead, if that is known.
    case = sample_case(pair, 0, "float64")
    # The search needs JAX's numbers in float64, from inputs that float32 can hold.
    outputs = run_jax(pair, "float64")(*case)["forward"]
    structure = jax.tree.structure(tuple(inputs))
    rounded_inputs = jax.tree.unflatten(structure, list(case.inputs.values()))
    # The first output is taken for the hidden states.
    words = identified(module, case.weights, rounded_inputs, outputs["output 0"])
    if words is None:
        return []
    layer = type(module).__name__
    if not words:
        return [f"The outputs are those of {layer}; the difference lies elsewhere."]
    return [f"A different equation than {layer}, not round-off: {words}."]
