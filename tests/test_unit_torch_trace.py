"""What is recorded of a PyTorch module, and what its calls give when they are made again."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch_calls import call, tensor

from parity.tracing.torch_trace import Source, floating, readers, recorded, tensors_in

X, W, B = tensor(3, 4), tensor(4, 4), tensor(4)


def same(run, expected):
    np.testing.assert_allclose(run()[0], np.asarray(expected), rtol=1e-12, atol=1e-13)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double()

    def forward(self, x):
        y = self.inner(x)
        z = y * 2
        z[0] = 0.0
        return (z + y).sum()


def test_calls_know_their_module_sources_leaves_and_gradients():
    net = Net()
    x = X.clone().requires_grad_()
    with recorded(net, {"x": x}) as recorder:
        out = net(x)
    out.backward()
    recorder.add_gradients()
    calls = recorder.calls
    assert [(c.module, c.kind, c.name) for c in calls] == [
        ("inner.0", "Linear", "linear"),
        ("inner.1", "Tanh", "tanh"),
        ("", "Net", "mul"),
        ("", "Net", "__setitem__"),
        ("", "Net", "add"),
        ("", "Net", "sum"),
    ]
    linear, tanh, _, put, add, _ = calls
    assert linear.leaves == ("input x", "inner.0.weight", "inner.0.bias")
    assert linear.sources == (None, None, None)
    assert tanh.sources == (Source(0, 0),)
    assert add.sources == (Source(3, 0), Source(1, 0))
    assert linear.place == "inner.0 (Linear)"
    assert add.place == "the outermost Net"
    np.testing.assert_array_equal(put.outputs[0][0], 0)
    np.testing.assert_array_equal(put.again()[0], put.outputs[0])
    assert not np.array_equal(put.arguments[0][0], put.outputs[0][0])
    assert readers(calls)[Source(1, 0)] == {2, 4}
    upstream = tanh.gradients[0]
    np.testing.assert_allclose(
        tanh.pulled_back(0), upstream * (1 - tanh.outputs[0] ** 2), rtol=1e-12
    )
    np.testing.assert_allclose(linear.pulled_back(1), net.inner[0].weight.grad, rtol=1e-12)
    assert net._forward_hooks == {}
    assert all(not m._forward_pre_hooks for m in net.modules())
    # Behind it nothing is recorded.
    net(x)
    assert len(calls) == 6


def test_a_call_is_made_again_with_something_else():
    made = call(functional.linear, X, W, bias=B)
    same(lambda: made.again({2: 0 * B}), X @ W.T)
    same(lambda: made.again(arguments=[2 * X, W]), 2 * X @ W.T + B)
    same(lambda: made.again(options={}), X @ W.T)
    same(lambda: made.again(function=lambda x, w, bias: x + bias), X + B)
    assert [t.shape for t in made.tensors] == [X.shape, W.shape, B.shape]
    nest = {"a": [X, (torch.ones(1).long(), 3)], "b": B}
    assert len(tensors_in(nest)) == 3
    assert len(floating(nest)) == 2
