"""Where two models differ: the first module forward, the first backward, and the cause."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from jaxrnn.exchange.weights import WeightMap
from parity.core.bridge import jax_arrays, numpy_arrays, tensors
from parity.core.cases import Case, sample_case
from parity.core.compare import Outcome
from parity.core.pairs import Pair, projection
from parity.core.runners import jax_params, precision, run_jax, run_torch, torch_module
from parity.modules.check import _pair, check
from parity.report.report import Report
from parity.tracing.backward import BackwardSearch, gradients_of
from parity.tracing.differences import Difference
from parity.tracing.jax_trace import Program, Value
from parity.tracing.replay import Graph
from parity.tracing.search import ForwardSearch
from parity.tracing.torch_trace import recorded


@dataclass(frozen=True)
class ModelReport(Report):
    """A report that says where the two models differ.

    Attributes:
        differences: the places, in the order of execution; none if the models are equal.
    """

    differences: tuple[Difference, ...] = ()


def compare_models(
    jax_function: Callable[..., Any],
    params: Any,
    torch_module: nn.Module,
    weight_map: WeightMap,
    inputs: Sequence[Any],
    *,
    dtypes: Sequence[str] = ("float64", "float32"),
    name: str | None = None,
) -> ModelReport:
    report = check(jax_function, params, torch_module, weight_map, inputs, dtypes=dtypes, name=name)
    differences: tuple[Difference, ...] = ()
    remarks = report.remarks
    if any(f.criterion in ("C0", "C1") and f.outcome is Outcome.FAIL for f in report.findings):
        pair = _pair(report.title, jax_function, params, torch_module, weight_map, inputs)
        differences = localized(pair)
        remarks += tuple(map(str, differences))
    return ModelReport(report.title, report.findings, remarks, differences=differences)


def localized(pair: Pair) -> tuple[Difference, ...]:
    """Where the two sides of a pair differ in float64: forward or, where nothing does, backward."""
    case = sample_case(pair, 0, "float64")
    expected = run_torch(pair, "float64")(*case)["gradients"]
    got = run_jax(pair, "float64")(*case)["gradients"]
    with precision("float64"), one_thread():
        graph = _torch_graph(pair, case)
        params = jax_params(pair, case.weights, "float64")
        inputs = jax_arrays(case.inputs, "float64")
        program = Program(pair.jax_outputs, params, inputs)

        def run(replaced: Mapping[int, np.ndarray]) -> tuple[dict[str, np.ndarray], list[Value]]:
            outputs, values = program.values(params, inputs, replaced=replaced)
            return numpy_arrays(outputs), values

        differences = tuple(ForwardSearch(graph, run).differences())
        if differences:
            return differences

        def perturbed(indices: Sequence[int]) -> Callable[..., Any]:
            outputs = program.perturbed(indices)
            return lambda zeros: projection(outputs(zeros, params, inputs))

        values = program.outer_values(params, inputs)
        gradients = gradients_of(perturbed, values)
        found = BackwardSearch(graph, values, gradients, got, expected).difference()
        return () if found is None else (found,)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within it PyTorch computes in one thread: the search makes many small calls."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _torch_graph(pair: Pair, case: Case) -> Graph:
    module = torch_module(pair, case.weights, "float64")
    inputs = tensors(case.inputs, "float64")
    for name in pair.differentiable:
        inputs[name].requires_grad_()
    with recorded(module, inputs) as recorder:
        outputs = pair.torch_outputs(module, inputs)
    projection(outputs).backward()
    recorder.add_gradients()
    finals = {}
    for name, tensor in outputs.items():
        if id(tensor) in recorder.made_by:
            finals[name] = recorder.made_by[id(tensor)]
    kinds = {name: type(part).__name__ for name, part in module.named_modules()}
    return Graph(recorder.calls, finals, kinds)
