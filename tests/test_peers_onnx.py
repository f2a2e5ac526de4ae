"""The recurrent cases of ONNX's own test suite of its operators, all of them, through ours.

`onnx.backend.test` makes inputs and outputs of RNN, GRU and LSTM nodes: both layouts, one
direction, the other one or both, lengths, biases, peepholes, a reset before the product.
"""

from importlib import import_module

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import GRU, GRU_RESET_BEFORE, LSTM, PEEPHOLE_LSTM, RNN, TANH, Cell
from jaxrnn.recurrent.recurrence import backend, why_not_compiled

onnx = pytest.importorskip("onnx")

CASES = (
    "simple_rnn_defaults",
    "simple_rnn_with_initial_bias",
    "simple_rnn_batchwise",
    "simple_rnn_reverse",
    "simple_rnn_bidirectional",
    "rnn_seq_length",
    "gru_defaults",
    "gru_with_initial_bias",
    "gru_seq_length",
    "gru_batchwise",
    "gru_reverse",
    "gru_bidirectional",
    "lstm_defaults",
    "lstm_with_initial_bias",
    "lstm_with_peepholes",
    "lstm_batchwise",
    "lstm_reverse",
    "lstm_bidirectional",
)
"""The cases that ONNX has: another version that has others is to be looked at."""
SAME_IN_EVERY_UNIT = [name for name in CASES if name.startswith("gru") and name != "gru_seq_length"]
"""The cases of GRUs in which all weights of a gate are one number."""
TOLERANCE = 5e-7
"""For float32, where outputs are near 1: four times its round-off."""

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
OUTPUTS = ("Y", "Y_h", "Y_c")
ONNX_GATES = {"RNN": "h", "GRU": "zrn", "LSTM": "iofg"}
"""The order of the rows in W, R and B, by our letters: ONNX calls n of a GRU h, g of an LSTM c."""
OUR_GATES = {"RNN": "h", "GRU": "rzn", "LSTM": "ifgo"}
NO_LIBRARY = why_not_compiled()
every_way = pytest.mark.parametrize(
    "way",
    [
        "scan",
        pytest.param(
            "compiled", marks=pytest.mark.skipif(NO_LIBRARY is not None, reason=str(NO_LIBRARY))
        ),
    ],
)


@pytest.fixture(scope="module")
def cases():
    """ONNX's cases of recurrent operators by their names, each as (node, inputs, outputs)."""
    found = {}
    for operator in ONNX_GATES:
        # A case is made, and put into the list of all of them, where its module is imported.
        import_module(f"onnx.backend.test.case.node.{operator.lower()}")
    for case in import_module("onnx.backend.test.case.node")._NodeTestCases:
        nodes = case.model.graph.node
        if any(node.op_type in ONNX_GATES for node in nodes):
            (node,) = nodes
            ((inputs, outputs),) = case.data_sets
            given = by_role(INPUTS, node.input, inputs)
            expected = by_role(OUTPUTS, node.output, outputs)
            found[case.name.removeprefix("test_")] = (node, given, expected)
    return found


def by_role(roles, names, arrays):
    """The arrays of a node by what they are: those whose name is empty are left out."""
    present = [role for role, name in zip(roles, names, strict=False) if name]
    return dict(zip(present, arrays, strict=True))


def settings_of(node):
    """The attributes of a node; one that this test does not know must not be passed over."""
    known = {"hidden_size": None, "direction": b"forward", "layout": 0, "linear_before_reset": 0}
    given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    assert set(given) <= set(known)
    return known | given


def cell_of(node, given):
    """Our cell for an operator."""
    if node.op_type == "RNN":
        return TANH
    if node.op_type == "LSTM":
        return PEEPHOLE_LSTM if "P" in given else LSTM
    return GRU if settings_of(node)["linear_before_reset"] else GRU_RESET_BEFORE


def weights_of(node, given, *, bias):
    """Our parameters of a node's W, R, B and P, whose first axis is the direction."""
    our_rows = [ONNX_GATES[node.op_type].index(gate) for gate in OUR_GATES[node.op_type]]

    def reordered(rows):
        blocks = np.split(rows, len(our_rows))  # (G * H, ...) -> G of (H, ...)
        return jnp.concatenate([blocks[row] for row in our_rows])

    params = {}
    for direction, suffix in enumerate(("l0", "l0_reverse")[: len(given["W"])]):
        params[f"weight_ih_{suffix}"] = reordered(given["W"][direction])
        params[f"weight_hh_{suffix}"] = reordered(given["R"][direction])
        if bias:
            zeros = np.zeros(2 * given["W"].shape[1], np.float32)
            both = given["B"][direction] if "B" in given else zeros  # (2 * G * H,)
            bias_ih, bias_hh = np.split(both, 2)
            params[f"bias_ih_{suffix}"] = reordered(bias_ih)
            params[f"bias_hh_{suffix}"] = reordered(bias_hh)
        if "P" in given:
            peepholes = np.split(given["P"][direction], 3)
            for name, peephole in zip(("p_i", "p_o", "p_f"), peepholes, strict=True):
                params[f"{name}_{suffix}"] = jnp.asarray(peephole)
    return params


def run(node, given, cell):
    """The outputs Y, Y_h and Y_c of a node, by our stack."""
    settings = settings_of(node)
    batch_first = settings["layout"] == 1
    reverse = settings["direction"] == b"reverse"
    # A free cell has the biases that it has.
    bias = "B" in given or not isinstance(cell, Cell)
    stack = RNN(
        cell,
        settings["hidden_size"],
        bidirectional=settings["direction"] == b"bidirectional",
        bias=bias,
        batch_first=batch_first,
    )
    params = weights_of(node, given, bias=bias)
    xs = jnp.asarray(given["X"])  # (T, B, I), or (B, T, I)
    lengths = given.get("sequence_lens")
    if reverse:  # our second direction alone
        assert lengths is None
        xs = jnp.flip(xs, axis=1 if batch_first else 0)

    carry = None
    if "initial_h" in given:
        fields = [given["initial_h"], given.get("initial_c")]  # (D, B, H), or (B, D, H)
        fields = [jnp.asarray(field) for field in fields if field is not None]
        if batch_first:
            fields = [field.swapaxes(0, 1) for field in fields]
        carry = tuple(cell.carry(*states) for states in zip(*fields, strict=True))

    after, ys = stack.apply({"params": params}, carry, xs, lengths=lengths)
    if reverse:
        ys = jnp.flip(ys, axis=1 if batch_first else 0)
    ys = ys.reshape(*ys.shape[:2], len(after), -1)  # (T, B, D, H), or (B, T, D, H)
    fields = [jnp.stack(field) for field in zip(*after, strict=True)]  # (D, B, H) each
    if batch_first:
        fields = [field.swapaxes(0, 1) for field in fields]
    else:
        ys = ys.swapaxes(1, 2)  # (T, D, B, H)
    return dict(zip(OUTPUTS, [ys, *fields], strict=False))


def check(case, cell):
    node, given, expected = case
    got = run(node, given, cell)
    assert expected
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=TOLERANCE, atol=TOLERANCE, strict=True)


def test_there_are_18_cases(cases):
    assert sorted(cases) == sorted(CASES)
    assert len(CASES) == 18


@every_way
@pytest.mark.parametrize("name", CASES)
def test_every_case_equals_onnx(cases, name, way):
    node, given, _ = cases[name]
    with backend(way):
        check(cases[name], cell_of(node, given))


@every_way
@pytest.mark.parametrize("name", SAME_IN_EVERY_UNIT)
def test_our_gru_equals_onnx_where_the_place_of_the_reset_changes_nothing(cases, name, way):
    """r is the same in every unit, and goes through the product as a factor."""
    _, given, _ = cases[name]
    assert all(
        (weight == weight[0, 0]).all() for rows in given["R"] for weight in np.split(rows, 3)
    )
    with backend(way):
        check(cases[name], GRU)
