"""Somebody's function and module as a pair of the core, for what looks inside both."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from jaxrnn.exchange.operations import Absent
from jaxrnn.exchange.weights import WeightMap, entry
from parity.core.bridge import is_float, rebuilt
from parity.core.cases import Case
from parity.core.pairs import Pair, projection
from parity.modules.comparison import stored_case
from parity.modules.inputs import given_batch
from parity.modules.outputs import named_outputs
from parity.modules.weights import sampled_weights, state_of


def pair_of(
    name: str,
    jax_function: Callable[..., Any],
    params: Any,
    torch_module: nn.Module,
    weight_map: WeightMap,
    inputs: Sequence[Any],
) -> Pair:
    """A pair of the core; its outputs are called "output 0" and so on, in their order.

    Args:
        name: as a report shows it.
        jax_function: as `check` takes it.
        params: as `check` takes them.
        torch_module: as `check` takes it.
        weight_map: as `check` takes it; what it may leave out is added as absent.
        inputs: as `check` takes them.
    """
    batch = given_batch(inputs)
    state = state_of(torch_module, weight_map)
    aside = [*state.kept, *(key for key in state.aliases if key not in weight_map.keys)]
    absent = [entry(key, (), Absent(state.own[key].shape)) for key in aside]

    def jax_outputs(params: Any, given: Any) -> dict[str, Any]:
        return named_outputs(jax_function(params, *batch.arguments(given)), names=False)

    def torch_outputs(module: nn.Module, given: Any) -> dict[str, Any]:
        return named_outputs(module(*batch.arguments(given)), names=False)

    return Pair(
        name=name,
        module=lambda: copy.deepcopy(torch_module),
        weight_map=WeightMap([*weight_map.entries, *absent]),
        params=lambda weights: rebuilt(params, weights),
        sample_inputs=lambda rng: batch.arrays,
        jax_outputs=jax_outputs,
        jax_loss=lambda params, given: projection(jax_outputs(params, given)),
        torch_outputs=torch_outputs,
        torch_loss=lambda module, given: projection(torch_outputs(module, given)),
        differentiable=tuple(name for name, array in batch.arrays.items() if is_float(array)),
    )


def case_of(
    torch_module: nn.Module, weight_map: WeightMap, inputs: Sequence[Any], seed: int, dtype: str
) -> Case:
    """Inputs, and a whole state dict that is sampled as `check` does: masks stay, ties are ties.

    Args:
        torch_module: as `check` takes it.
        weight_map: as `check` takes it.
        inputs: as `check` takes them.
        seed: of the weights.
        dtype: the precision that holds them.
    """
    state = state_of(torch_module, weight_map)
    weights = sampled_weights(torch_module, state, np.random.default_rng(seed), dtype)
    return stored_case(Case(state.complete(weights), given_batch(inputs).arrays), dtype)
