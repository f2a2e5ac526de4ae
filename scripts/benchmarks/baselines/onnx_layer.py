"""ONNX Runtime's own recurrent operators, from a graph of one node a layer.

Shapes: T time steps, B batch, H hidden size, G gates.
"""

import os
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.arithmetic import norm
from benchmarks.cases import Case
from benchmarks.data import BIASES, GATES, Weights

OPERATOR = {"tanh": "RNN", "gru": "GRU", "lstm": "LSTM"}
ORDER = {"tanh": (0,), "gru": (1, 0, 2), "lstm": (0, 3, 1, 2)}
"""ONNX's order of the gates: its k-th is torch's gate `ORDER[cell][k]`."""
OPSET = 14


class OnnxLayer:
    """The forward pass of a stack whose inputs are numbers."""

    def __init__(self, case: Case, weights: Weights, inputs: np.ndarray) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
        self._session = onnxruntime.InferenceSession(
            _graph(case, weights).SerializeToString(), options, ["CPUExecutionProvider"]
        )
        self._inputs = {"xs": inputs}

    def check(self) -> list[float]:
        """The norm of the outputs."""
        return [norm(self._call())]

    def run(self, count: int) -> None:
        """Make `count` forward passes."""
        for _ in range(count):
            self._call()

    def _call(self) -> Any:
        return self._session.run(None, self._inputs)[0]


def _graph(case: Case, weights: Weights) -> Any:
    """A model from xs (T, B, H) to ys (T, B, H)."""
    shape = [case.steps, case.batch_size, case.hidden_size]
    constants, nodes, below = {"directions": np.array([1])}, [], "xs"
    # Equation of torch's GRU: the reset gate comes after the product.
    after: dict[str, Any] = {"linear_before_reset": 1} if case.cell == "gru" else {}
    for k in range(case.num_layers):
        own = {name: _reordered(case, weights[f"rnn.{name}_l{k}"]) for name in _NAMES}
        constants[f"W{k}"] = own["weight_ih"][None]
        constants[f"R{k}"] = own["weight_hh"][None]
        constants[f"B{k}"] = np.concatenate([own[bias] for bias in BIASES])[None]
        nodes += [
            helper.make_node(
                OPERATOR[case.cell],
                [below, f"W{k}", f"R{k}", f"B{k}"],
                [f"with directions {k}"],
                hidden_size=case.hidden_size,
                **after,
            ),
            helper.make_node("Squeeze", [f"with directions {k}", "directions"], [f"ys{k}"]),
        ]
        below = f"ys{k}"
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("xs", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(below, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 8  # of the time of that opset: every runtime since reads it
    onnx.checker.check_model(model)
    return model


_NAMES = ("weight_ih", "weight_hh", *BIASES)


def _reordered(case: Case, array: np.ndarray) -> np.ndarray:
    """(G H, ...) with the gates in ONNX's order."""
    gates = np.split(array, GATES[case.cell])
    return np.concatenate([gates[k] for k in ORDER[case.cell]])
