"""Where two models differ: the first module forward, the first backward, and the cause."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from jaxrnn.exchange.weights import WeightMap
from parity.core.bridge import jax_arrays, numpy_arrays, tensors
from parity.core.cases import Case
from parity.core.compare import Finding, Outcome
from parity.core.pairs import Pair, projection
from parity.core.runners import jax_params, precision, run_jax, run_torch, torch_module
from parity.modules.check import check
from parity.modules.inputs import chosen_variants, given_batch, padding_indices, variants_of
from parity.modules.pairs import case_of, pair_of
from parity.report.report import Report
from parity.tracing.backward import BackwardSearch, gradients_of
from parity.tracing.differences import Difference, in_words
from parity.tracing.jax_trace import Program, Value
from parity.tracing.replay import Graph
from parity.tracing.search import ForwardSearch, RunJax
from parity.tracing.torch_trace import recorded
from parity.tracing.variants import ORDER_WORDS

NOWHERE = (
    "The place was not found: with sampled weights, every call of PyTorch's has its numbers and "
    "its gradients in JAX."
)
Grid = dict[str, dict[str, float]]


@dataclass(frozen=True)
class ModelReport(Report):
    """A report that says where the two models differ.

    Attributes:
        differences: the places, in the order of execution; empty if the models are equal.
    """

    differences: tuple[Difference, ...] = ()

    def content(self) -> dict[str, Any]:
        """What the JSON holds, the differences among it."""
        return {**super().content(), "differences": list(map(asdict, self.differences))}


def compare_models(
    jax_function: Callable[..., Any],
    params: Any,
    torch_module: nn.Module,
    weight_map: WeightMap,
    inputs: Sequence[Any],
    *,
    variants: bool | Iterable[str] = True,
    weights: str = "sampled",
    dtypes: Sequence[str] = ("float64", "float32"),
    limits: Mapping[str, float] | None = None,
    name: str | None = None,
) -> ModelReport:
    """Compare two models as `check` does, and where they differ, find the module and the cause.

    Every call of a torch function is recorded, and its output is looked for among all results of
    the JAX function, whatever the framework and the layout. The first call whose output is nowhere,
    while its inputs are, is the place. There every argument is changed in every way that its type
    allows, functions are exchanged with others of their kind or left out, and numbers are fitted,
    until the result is one of JAX's: the cause. The search goes on behind it as if PyTorch made
    the same mistake, so that spread is no difference. Where all values are the same, it goes on
    with the gradients, from the outputs to the inputs.

    Names of places in JAX are those of `jax.named_scope`, which Flax sets by itself, and lines of
    code outside of libraries.

    Args:
        jax_function: as `check` takes it; these and the following, too.
        params: a tree of parameters.
        torch_module: the PyTorch module.
        weight_map: the module's keys and the paths of `params`.
        inputs: one batch.
        variants: see `check`. The search runs with a variant if `inputs` show no difference.
        weights: see `check`. The search runs with sampled weights.
        dtypes: see `check`. The search runs if "float64" is among them.
        limits: see `check`.
        name: as the report calls it; the module's class if None.

    Returns:
        The report of `check`, with the places in its `differences` and its remarks, and with heat
        maps of the modules: running freely, behind the causes that were found, and backwards.

    Raises:
        WeightMapError: as `check`.
        ValueError: as `check`.
    """
    report = check(
        jax_function,
        params,
        torch_module,
        weight_map,
        inputs,
        variants=variants,
        weights=weights,
        dtypes=dtypes,
        limits=limits,
        name=name,
    )
    found = Located((), {})
    words = []
    for tried in _inputs_to_try(report.findings, torch_module, inputs, variants):
        pair = pair_of(report.title, jax_function, params, torch_module, weight_map, tried)
        case = case_of(torch_module, weight_map, tried, 0, "float64")
        try:
            found = localized(pair, case)
        except Exception as error:  # a broken model may break the search as well
            words = [f"The place was not found: {type(error).__name__} in the search: {error}."]
            break
        words = in_words(found.differences) or [NOWHERE]
        if found.differences:
            break
    remarks = (*words, *report.remarks)
    grids = {**report.grids, **found.grids}
    return ModelReport(report.title, report.findings, remarks, grids, differences=found.differences)


def _inputs_to_try(
    findings: Sequence[Finding],
    module: nn.Module,
    inputs: Sequence[Any],
    variants: bool | Iterable[str],
) -> Iterator[Sequence[Any]]:
    """The user's own inputs, then the variants for which results differ most in float64.

    None if nothing differs there.
    """
    labels = [
        finding.inputs
        for finding in findings
        if finding.outcome is Outcome.FAIL and finding.dtype == "float64"
    ]
    if not labels:
        return
    # Where several differ, a finding has the inputs with the largest error, which need not be
    # those that show the place best.
    yield inputs
    own = given_batch(inputs)
    for batch in variants_of(own, chosen_variants(variants), padding_indices(module)):
        if batch.label in labels:
            yield tuple(batch.arguments(batch.arrays))


@dataclass(frozen=True)
class Located:
    """What a search found.

    Attributes:
        differences: the places.
        grids: errors by module.
    """

    differences: tuple[Difference, ...]
    grids: dict[str, Grid]


def localized(pair: Pair, case: Case) -> Located:
    """Where the two sides of a pair differ in float64: forward or, where nothing does, backward.

    Args:
        pair: a JAX function and a PyTorch module.
        case: weights and inputs.
    """
    # Some of the mistakes that are tried overflow.
    with precision("float64"), one_thread(), np.errstate(all="ignore"):
        graph = _torch_graph(pair, case)
        params = jax_params(pair, case.weights, "float64")
        inputs = jax_arrays(case.inputs, "float64")
        program = Program(pair.jax_outputs, params, inputs)

        def run(replaced: Mapping[int, np.ndarray]) -> tuple[dict[str, np.ndarray], list[Value]]:
            outputs, values = program.values(params, inputs, replaced=replaced)
            return numpy_arrays(outputs), values

        search = ForwardSearch(graph, run)
        freely = search.errors()
        differences = tuple(search.differences())
        if differences:
            differences = _closer(pair, case, run, differences)
        if not differences:
            differences = tuple(_backward(pair, case, graph, program))
        grid: Grid = {}
        for module, error in search.errors().items():
            row = {"running freely": freely.get(module, np.nan), "behind the causes": error}
            grid[module] = row
        return Located(differences, {"module: forward": grid})


def _closer(
    pair: Pair, case: Case, run: RunJax, differences: tuple[Difference, ...]
) -> tuple[Difference, ...]:
    """The first difference with its cause, if a closer look finds one.

    It may lie inside of a norm, an activation or a recurrent layer, or change no more than the
    order of some numbers.
    """
    first = differences[0]
    is_order = any(words in first.cause for words in ORDER_WORDS)
    if first.is_explained and not is_order:
        return differences
    if not first.is_explained:
        search = ForwardSearch(_torch_graph(pair, case, fine=True), run)
        fine = tuple(search.differences())
        if fine and fine[0].is_explained and _is_within(fine[0].module, first.module):
            return fine if first.is_vague else (fine[0], *differences[1:])
    # A row that is out of order may show at a later call, where something else explains it.
    for closely in (False, True):
        search = ForwardSearch(_torch_graph(pair, case, fine=closely), run, ordered=True)
        ordered = tuple(search.differences())
        if ordered and ordered[0].is_explained:
            return ordered
    return differences


def _is_within(module: str, other: str) -> bool:
    """Whether a module is another or a part of it."""
    return not other or module == other or module.startswith(f"{other}.")


def _backward(pair: Pair, case: Case, graph: Graph, program: Program) -> Iterator[Difference]:
    params = jax_params(pair, case.weights, "float64")
    inputs = jax_arrays(case.inputs, "float64")

    def perturbed(indices: Sequence[int]) -> Callable[..., Any]:
        outputs = program.perturbed(indices)
        return lambda zeros: projection(outputs(zeros, params, inputs))

    values = program.outer_values(params, inputs)
    search = BackwardSearch(
        graph,
        values,
        gradients_of(perturbed, values),
        run_jax(pair, "float64")(*case)["gradients"],
        run_torch(pair, "float64")(*case)["gradients"],
    )
    found = search.difference()
    if found is not None:
        yield found


def _torch_graph(pair: Pair, case: Case, *, fine: bool = False) -> Graph:
    """The calls of the PyTorch module, with the gradients of what they give."""
    module = torch_module(pair, case.weights, "float64")
    inputs = tensors(case.inputs, "float64")
    for name in pair.differentiable:
        inputs[name].requires_grad_()
    with recorded(module, inputs, fine=fine) as recorder:
        outputs = pair.torch_outputs(module, inputs)
    projection(outputs).backward()
    recorder.add_gradients()
    finals = {}
    for name, tensor in outputs.items():
        if id(tensor) in recorder.made_by:
            finals[name] = recorder.made_by[id(tensor)]
    kinds = {name: type(part).__name__ for name, part in module.named_modules()}
    return Graph(recorder.calls, finals, kinds)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within it PyTorch computes in one thread: the search makes many small calls."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
