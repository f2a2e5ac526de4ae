"""Why is the gradient of an embedding's table another one? Known deviations of what adds it up.

Shapes: T time steps, B batch, V vocabulary, F embedding size, H hidden size, G gates of the cell.

The gates of the first layer are read from one table, `e.weight W_ih^T + b_ih`, where that is less
work. Its gradient is a sum over all places that read a row; what it misses, the gradients of all
three arrays miss. A tied table has two parts, of the embedding and of the output layer.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from parity.core.bridge import numpy_of, tensor_of, tensors, torch_device
from parity.core.cases import Case
from parity.core.compare import MEANING_LIMIT, Arrays, relative_l2
from parity.core.pairs import Pair
from parity.core.references import (
    LAYERS,
    TORCH_LAYERS,
    CharReference,
    LoopReference,
    StatefulReference,
    TiedReference,
)
from parity.core.runners import precision, torch_module

TABLE = "e.weight"
WEIGHT_IH = "rnn.weight_ih_l0"
BIAS_IH = "rnn.bias_ih_l0"


def table_cause(pair: Pair, case: Case, got: Arrays, right: Arrays) -> str:
    """What the gradient of the embedding's table misses; empty if nothing known gives `got`.

    Args:
        pair: a model.
        case: the weights and inputs of both gradients.
        got: JAX's gradients, by torch's names.
        right: PyTorch's.
    """
    for words, arrays in _candidates(pair, case, right):
        if all(_same(got[name], array) for name, array in arrays.items()):
            return words
    return ""


def _same(got: np.ndarray, array: np.ndarray) -> bool:
    return relative_l2(got, array) <= MEANING_LIMIT["gradients"]


def _candidates(
    pair: Pair, case: Case, right: Arrays
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    with precision("float64"):
        reference = torch_module(pair, case.weights, "float64")
    if isinstance(reference, TiedReference):
        output = _output_part(pair, case)
        embedding = right[TABLE] - output
        yield "the output layer has no part in it", {TABLE: embedding}
        yield "the embedding has no part in it", {TABLE: output}
    if _reads_gates(reference):
        yield from _lookups(pair, case, right)


def _output_part(pair: Pair, case: Case) -> np.ndarray:
    # The gradient of a tied table as an output layer: the embedded tokens are cut off from it.
    with precision("float64"):
        reference = torch_module(pair, case.weights, "float64")
        assert isinstance(reference, CharReference)
        reference.e.register_forward_hook(lambda module, inputs, output: output.detach())
        pair.torch_loss(reference, tensors(case.inputs, "float64")).backward()
        return numpy_of(reference.e.weight.grad)


def _reads_gates(reference: nn.Module) -> bool:
    # Whether the first layer is one of torch's, called on the whole window.
    if not isinstance(reference, StatefulReference) or isinstance(reference, LoopReference):
        return False
    return reference.cell in TORCH_LAYERS


def _lookups(pair: Pair, case: Case, right: Arrays) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    # The gradients of the three arrays where the reads of rows are counted in other ways.
    d_gates = _gate_gradients(pair, case)  # (T, B, G * H)
    steps = len(d_gates)
    table = case.weights[TABLE]  # (V, F)
    weight_ih = case.weights[WEIGHT_IH]  # (G * H, F)
    tokens = np.asarray(case.inputs["tokens"][:steps], int)
    reads = np.arange(len(table))[:, None, None] == tokens  # (V, T, B)

    def gradients(counted: np.ndarray) -> dict[str, np.ndarray]:
        # Of table, weight and bias, where these reads count.
        d_rows = np.einsum("vtb,tbg->vg", counted, d_gates)  # (V, G * H)
        return {TABLE: d_rows @ weight_ih, WEIGHT_IH: d_rows.T @ table, BIAS_IH: d_rows.sum(0)}

    # A tied table has a part of the output layer, too, which the reads have no part in.
    rest = right[TABLE] - gradients(reads)[TABLE]
    for words, counted in _countings(reads):
        changed = gradients(counted)
        yield words, {**changed, TABLE: rest + changed[TABLE]}


def _gate_gradients(pair: Pair, case: Case) -> np.ndarray:
    # The gradients of the first layer's gates at every step, (T, B, G * H).
    #
    # The layer gets so many more inputs, all zero, each of which is added to one of the gates.
    with precision("float64"):
        reference = torch_module(pair, case.weights, "float64")
        assert isinstance(reference, StatefulReference)
        weights = dict(reference.rnn.state_dict())
        gates = len(weights["weight_ih_l0"])
        identity = torch.eye(gates, dtype=torch.float64, device=torch_device())
        weights["weight_ih_l0"] = torch.cat([weights["weight_ih_l0"], identity], dim=1)
        inputs = reference.e.weight.shape[1] + gates
        wide = LAYERS[reference.cell](inputs, reference.hidden_size, reference.num_layers)
        wide = wide.double().to(torch_device())
        wide.load_state_dict(weights)
        reference.rnn = wide

        added: list[torch.Tensor] = []

        def with_zeros(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
            zeros = np.zeros((*output.shape[:-1], gates))
            added.append(tensor_of(zeros, "float64").requires_grad_())
            return torch.cat([output, added[-1]], dim=-1)

        reference.e.register_forward_hook(with_zeros)
        pair.torch_loss(reference, tensors(case.inputs, "float64")).backward()
        return numpy_of(added[-1].grad)


def _countings(reads: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    # Which reads of the table's rows count, (V, T, B), where a sum over them has a known mistake.
    _, steps, batch_size = reads.shape
    names = {0: "the first step", steps - 1: "the last step"}
    for t in range(steps):
        without = reads.copy()
        without[:, t] = False
        yield f"{names.get(t, f'step {t}')} of the window has no part in it", without
    for b in range(batch_size):
        without = reads.copy()
        without[:, :, b] = False
        yield f"row {b} of the batch has no part in it", without

    flat = reads.reshape(len(reads), -1)  # (V, T * B)
    last = np.zeros_like(flat)
    for row, places in enumerate(flat):
        last[row, np.flatnonzero(places)[-1:]] = True
    yield "a row that is read several times counts once", last.reshape(reads.shape)
    yield "its rows are shifted by one", np.roll(reads, 1, axis=0)
    yield "its rows are shifted by minus one", np.roll(reads, -1, axis=0)
