"""The search through gradients: which call has another derivative, and by what, without JAX.

JAX's results are PyTorch's own numbers, of which some gradients are changed by hand.
"""

import numpy as np
import pytest
import torch
from torch import nn

from parity.tracing.backward import BackwardSearch
from parity.tracing.jax_trace import Value
from parity.tracing.replay import Graph
from parity.tracing.torch_trace import recorded

RNG = np.random.default_rng(0)
CALLS = ("first", "tanh", "second", "sigmoid")  # of the net, in their order


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4).double()
        self.second = nn.Linear(4, 2).double()

    def forward(self, x):
        return torch.sigmoid(self.second(torch.tanh(self.first(x))))


def traced():
    torch.manual_seed(0)
    net = Net()
    x = torch.tensor(RNG.normal(size=(5, 3)), requires_grad=True)
    with recorded(net, {"x": x}) as recorder:
        outputs = net(x)
    (outputs * torch.tensor(RNG.normal(size=outputs.shape))).sum().backward()
    recorder.add_gradients()
    graph = Graph(recorder.calls, {}, {"": "Net"})
    leaves = {name: p.grad.numpy() for name, p in net.named_parameters()}
    return graph, {**leaves, "input x": x.grad.numpy()}


def searched(wrong_calls=(), wrong_leaves=(), change=lambda g: 2 * g):
    """The difference where JAX has other gradients of some calls and leaves."""
    graph, expected = traced()
    values = []
    gradients = {}
    for number, call in enumerate(graph.calls):
        # The other framework has time or channels first.
        place = CALLS[number]
        values.append(Value(number, call.outputs[0].T, "op", place, "", ()))
        right = call.gradients[0]
        if right is not None:
            gradients[number] = (change(right) if place in wrong_calls else right).T
    got = {name: change(g) if name in wrong_leaves else g for name, g in expected.items()}
    search = BackwardSearch(
        graph, values, lambda numbers: [gradients[n] for n in numbers], got, expected
    )
    return search.difference()


FIRST = ("first.weight", "first.bias", "input x")


def test_equal_gradients_have_no_difference():
    assert searched() is None
    # Another gradient on the way, of which no weight's follows, is none.
    assert searched(("tanh",)) is None


def test_the_call_behind_the_first_wrong_gradient_has_another_derivative():
    # The gradient of tanh's output is right, that of its input is not: tanh's rule is another.
    found = searched(("first",), FIRST)
    assert (found.direction, found.function, found.module) == ("backward", "tanh", "")
    assert found.cause == "the gradient is multiplied by 2"
    assert found.jax == "first"
    assert found.error == pytest.approx(1.0)
    # One call later: the layer behind tanh.
    found = searched(("first", "tanh"), FIRST)
    assert (found.function, found.module, found.kind) == ("linear", "second", "Linear")
    assert found.jax == "tanh"


def test_the_words_of_another_derivative():
    lost = searched(("first",), FIRST, lambda g: 0 * g)
    assert lost.cause == "no gradient flows back (as behind stop_gradient)"
    unknown = searched(("first",), FIRST, lambda g: g + 0.1 * g**2)
    assert unknown.cause == ""
    assert unknown.jax == "first"
    assert np.isnan(unknown.error)


@pytest.mark.parametrize("leaf", ["second.bias", "first.weight", "input x"])
def test_the_gradient_of_a_leaf_alone(leaf):
    found = searched((), (leaf,))
    call = "second" if leaf.startswith("second") else "first"
    assert (found.module, found.function, found.kind) == (call, "linear", "Linear")
    assert found.cause == f"gradient of {leaf}: the gradient is multiplied by 2"
    assert found.error == pytest.approx(1.0)
    unknown = searched((), (leaf,), lambda g: g + 0.1 * g**2)
    assert unknown.cause == f"the gradient of {leaf} is another"


def one_row(value):
    def change(g):
        changed = g.copy()
        changed[1] = value * changed[1] ** 2
        return changed

    return change


def test_the_rows_of_a_gradient_that_differ():
    (leaf,) = leaves = ("first.weight",)
    found = searched((), leaves, one_row(0))
    assert found.cause == f"gradient of {leaf}: JAX gives row 1 none, as for a padding index; " + (
        "PyTorch does"
    )
    found = searched((), leaves, one_row(1))
    assert found.cause == f"gradient of {leaf}: only row 1 differs"


def test_of_several_differences_the_last_in_the_program_is_first():
    found = searched((), ("second.weight", "first.bias"))
    assert found.cause.startswith("gradient of second.weight")
