"""Where two programs part: values in any layout, causes of gradients, and words for both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from parity.tracing.backward import WRONG, gradient_cause
from parity.tracing.differences import Difference, in_words
from parity.tracing.jax_trace import LONGEST_SCAN, Program
from parity.tracing.layouts import (
    MOST_AXES,
    SAME,
    Lookup,
    aligned,
    is_trivial,
    laid_out,
    may_be_laid_out,
    orders,
    same_values,
    sorted_values,
)
from parity.tracing.recurrent_causes import recurrent_causes
from parity.tracing.replay import Graph
from parity.tracing.search import _common, _differs, _is_near
from parity.tracing.torch_trace import Source, recorded

RNG = np.random.default_rng(0)
A = RNG.normal(size=(2, 3, 4))
ABOVE, BELOW = 1.01, 0.99


def test_the_values_of_an_array_in_order():
    found = sorted_values(np.array([[3.0, np.nan], [-4.0, np.inf]]))
    assert found.values.tolist() == [-4.0, 3.0]
    assert (found.norm, found.odd) == (5.0, 2)


@pytest.mark.parametrize(
    ("array", "trivial"),
    [
        (np.zeros(0), True),
        (np.ones((2, 2)), True),
        (np.array([1.0, 2.0]), False),
        (np.array([np.nan, np.inf]), True),
        (np.array([np.nan, 1.0]), False),
    ],
)
def test_one_number_everywhere_says_nothing(array, trivial):
    assert is_trivial(array) == trivial


def test_values_are_the_same_up_to_the_tolerance():
    one = sorted_values(np.array([3.0, 4.0]))

    def off(by):
        return sorted_values(np.array([3.0, 4.0 + by]))

    assert same_values(one, off(5 * SAME * BELOW))
    assert not same_values(one, off(5 * SAME * ABOVE))
    assert same_values(one, off(0.5), 0.11)
    assert not same_values(one, sorted_values(np.array([3.0, 4.0, np.nan])))
    assert not same_values(one, sorted_values(np.array([3.0])))
    assert same_values(sorted_values(np.zeros(2)), sorted_values(np.zeros(2)))


def test_arrays_are_found_by_their_values():
    shuffled = A.transpose(2, 0, 1)
    lookup = Lookup([np.ones(24), 2 * A, shuffled, A + 1e-3, A.ravel(), A[0]])
    assert lookup.find(A) == [2, 4]
    assert lookup.find(A, 0.1) == [2, 3, 4]
    assert lookup.find(np.ones(24)) == []
    assert lookup.sorted[0] is None
    assert lookup.alike(A) == [2, 4, 3, 1]
    assert lookup.find(A[0, :2]) == []
    flipped = A[:, ::-1]
    assert Lookup([flipped, shuffled], ordered=True).find(A) == [1]
    assert Lookup([flipped, shuffled]).find(A) == [0, 1]


@pytest.mark.parametrize(
    ("like", "may"),
    [
        (A, True),
        (A.transpose(1, 2, 0), True),
        (A.reshape(6, 4), True),
        (A.transpose(1, 0, 2).reshape(3, 8), True),
        (A.reshape(2, 3, 2, 2), True),
        (A[::-1], False),
        (A[:, ::-1], False),
        (A[..., ::-1], False),
        (np.roll(A, 1, 2), False),
        (np.roll(A, 1, 1), False),
        (A.ravel()[np.r_[12:24, 0:12]], False),
    ],
    ids=str,
)
def test_an_array_may_be_another_with_its_axes_moved(like, may):
    assert may_be_laid_out(A, like) == may


def test_where_values_repeat_their_places_are_unknown():
    twice = np.array([1.0, 2.0, 2.0, 5.0])
    assert may_be_laid_out(twice, twice[::-1])
    assert may_be_laid_out(np.array([1.0, np.nan]), np.array([np.nan, 1.0]))
    near = np.array([1.0, 2.0, 2.0 + 2 * SAME * 5 * BELOW, 5.0])
    assert may_be_laid_out(near, near[::-1])
    far = np.array([1.0, 2.0, 2.0 + 2 * SAME * 5 * 1.1, 5.0])
    assert not may_be_laid_out(far, far[::-1])


def test_the_orders_of_the_axes():
    found = list(orders(A))
    assert len(found) == 6
    assert found[0] is not None
    np.testing.assert_array_equal(found[0], A)
    np.testing.assert_array_equal(found[-1], A.T)
    assert len(list(orders(np.zeros((2,) * (MOST_AXES + 1))))) == 1
    assert len(list(orders(np.zeros((2,) * MOST_AXES)))) == 120


def test_an_array_is_laid_out_as_another():
    merged = A.transpose(1, 0, 2).reshape(3, 8)
    np.testing.assert_array_equal(aligned(A, merged), merged)
    np.testing.assert_array_equal(aligned(merged.T, merged), merged)
    assert aligned(A, 2 * merged) is None
    assert aligned(A, merged * (1 + 1e-3)) is None
    assert aligned(A, merged * (1 + 1e-3), 0.01) is not None
    split = aligned(A.reshape(6, 4), A)
    np.testing.assert_array_equal(split, A)
    turned = A.transpose(1, 0, 2)
    np.testing.assert_array_equal(aligned(A.reshape(6, 4), turned), turned)
    assert all(candidate.shape == (3, 8) for candidate in laid_out(A, merged))
    masked = np.array([[-np.inf, 1.0], [2.0, 3.0]])
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(aligned(masked.T, masked), masked)


# Gradients.

E = RNG.normal(size=(6, 4))
CAUSES = {
    "no gradient flows back (as behind stop_gradient)": 0 * E,
    "the gradient is multiplied by 2.5": 2.5 * E,
    "the gradient is multiplied by -1": -E,
    "the gradient is clipped to 0.5": np.clip(E, -0.5, 0.5),
    "the gradient has the right numbers in another order": E[::-1],
    "": E + 0.1 * E**2,
}


@pytest.mark.parametrize("words", CAUSES)
def test_what_a_wrong_gradient_is(words):
    got = CAUSES[words]
    assert gradient_cause(got, E, None) == words
    nearly = got * (1 + WRONG * 1e-2)
    if words:
        assert gradient_cause(nearly, E, None) == words
    upstream = RNG.normal(size=E.shape)
    through = "the gradient goes through unchanged (a straight-through estimator)"
    assert gradient_cause(upstream, E, upstream) == through
    assert gradient_cause(-upstream, E, upstream) == (
        "the gradient goes through with the other sign"
    )
    assert gradient_cause(upstream, E, upstream[:3]) == ""
    assert "stop_gradient" in gradient_cause(0 * E, 0 * E, None)


def difference(**changes):
    usual = {"direction": "forward", "module": "a.b", "kind": "Norm", "function": "norm"}
    usual |= {"cause": "eps", "jax": "net.py:3", "error": 0.125}
    return Difference(**{**usual, **changes})


def test_differences_in_words():
    one = difference()
    assert str(one) == ("forward: a.b (Norm), norm: eps (relative error 1.2e-01; in JAX: net.py:3)")
    assert one.is_explained
    assert not difference(cause="").is_explained
    assert not difference(is_vague=True).is_explained
    bare = difference(module="", cause="", jax="")
    assert str(bare) == (
        "forward: the outermost Norm, norm: no known mistake gives JAX's numbers "
        "(relative error 1.2e-01)"
    )
    others = [difference(module="c"), difference(module="d"), difference(cause="other")]
    first, second = in_words([one, *others])
    assert first == f"{one}; the same in c, d"
    assert second == str(others[-1])
    assert len(in_words([one, difference(kind="X"), difference(direction="backward")])) == 3
    assert len(in_words([one, difference(function="X")])) == 2


def test_modules_that_hold_two():
    assert _common("a.b.c", "a.b.d") == "a.b"
    assert _common("a.b", "a.b") == "a.b"
    assert _common("a.x.c", "b.x.c") == ""


def test_near_and_other_values():
    assert _is_near(A, A * (1 + 0.99e-11))
    assert not _is_near(A * (1 + 1.1e-11), A)
    assert not _is_near(A, A[0])
    assert _differs(A * (1 + 2e-12), A)
    assert not _differs(A * (1 + 0.5e-12), A)
    odd = A.copy()
    odd[0, 0, 0] = np.nan
    assert _differs(odd, A)
    assert not _differs(odd, odd)


# PyTorch's calls, made again.


def graph():
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2), nn.Sigmoid()).double()
    x = torch.tensor(RNG.normal(size=(5, 3)), requires_grad=True)
    with recorded(module, {"x": x}) as recorder:
        module(x)
    kinds = {name: type(part).__name__ for name, part in module.named_modules()}
    return module, Graph(recorder.calls, {"output 0": Source(3, 0)}, kinds)


def test_all_that_depends_on_a_changed_output_changes():
    module, made = graph()
    before = made.values.copy()
    other = RNG.normal(size=(5, 3))
    after = list(made.after({Source(1, 0): other}))
    assert [call.index for call, _ in after] == [2, 3]
    with torch.no_grad():
        expected = module[3](module[2](torch.tensor(other)))
    np.testing.assert_allclose(after[-1][1][0], expected)
    assert made.values.keys() == before.keys()
    np.testing.assert_array_equal(made.values[Source(3, 0)], before[Source(3, 0)])
    assert made.inputs(made.calls[2])[0] is made.tensor(Source(1, 0))
    made.adopt({Source(1, 0): other})
    np.testing.assert_allclose(made.values[Source(3, 0)], expected)
    np.testing.assert_array_equal(made.values[Source(0, 0)], before[Source(0, 0)])
    np.testing.assert_array_equal(made.tensor(Source(1, 0)), other)
    made.restore(before)
    np.testing.assert_array_equal(made.tensor(Source(1, 0)), before[Source(1, 0)])
    assert made.readers == {Source(k, 0): {k + 1} for k in range(3)}
    assert made.outputs(made.calls[2]) == [Source(2, 0)]
    assert 0 not in made.inputs(made.calls[0])


T, B, I, H = 4, 3, 2, 5


@pytest.mark.parametrize(("batch_first", "turned"), [(False, True), (True, False)])
def test_the_equation_of_a_recurrent_layer_is_named(batch_first, turned):
    torch.manual_seed(0)
    layer = nn.GRU(I, H, batch_first=batch_first).double()
    xs = torch.tensor(RNG.normal(size=(B, T, I) if batch_first else (T, B, I)))
    with recorded(layer, {"x": xs}) as recorder:
        layer(xs)
    call = next(call for call in recorder.calls if call.name == "gru")
    # The update gate weighs the new, as many papers have it.
    w_ih, w_hh, b_ih, b_hh = (w.detach().numpy() for w in layer._flat_weights)
    steps = xs.numpy().swapaxes(0, 1) if batch_first else xs.numpy()
    h = np.zeros((B, H))
    ys = []
    for x in steps:
        xr, xz, xn = np.split(x @ w_ih.T + b_ih, 3, axis=-1)
        hr, hz, hn = np.split(h @ w_hh.T + b_hh, 3, axis=-1)
        z = 1 / (1 + np.exp(-xz - hz))
        n = np.tanh(xn + hn / (1 + np.exp(-xr - hr)))
        h = z * n + (1 - z) * h
        ys.append(h)
    target = np.stack(ys)
    given = target.swapaxes(0, 1) if turned else target
    (variant,) = recurrent_causes(call, {}, [np.zeros(3), given])
    assert "z weighs the new" in variant.words
    outputs, last = variant.run()
    np.testing.assert_array_equal(outputs, target.swapaxes(0, 1) if batch_first else target)
    np.testing.assert_array_equal(last, call.outputs[1])
    assert list(recurrent_causes(call, {}, [RNG.normal(size=target.shape)])) == []
    call.function = torch.tanh
    assert list(recurrent_causes(call, {}, [given])) == []


# JAX's results.


@pytest.fixture(scope="module")
def traced():
    def function(x, w):
        with jax.named_scope("inner"):
            y = jnp.tanh(x @ w)

        def body(carry, row):
            carry = carry + row
            return carry, 2.0 * carry

        last, rows = jax.lax.scan(body, jnp.zeros(2), y, reverse=True)
        return {"last": last, "rows": rows}

    with jax.enable_x64(True):
        x, w = RNG.normal(size=(3, 4)), RNG.normal(size=(4, 2))
        program = Program(function, x, w)
        return program, (x, w), program.values(x, w)


def test_every_operation_is_shown_and_a_scan_unrolled(traced):
    _, (x, w), (outputs, values) = traced
    y = np.tanh(x @ w)
    sums = np.cumsum(y[::-1], axis=0)[::-1]
    np.testing.assert_allclose(outputs["rows"], 2 * sums, rtol=1e-12)
    np.testing.assert_allclose(outputs["last"], sums[0], rtol=1e-12)
    tanh = next(v for v in values if v.operation == "tanh")
    dot = next(v for v in values if v.operation == "dot_general")
    assert tanh.made_from == (dot.number,)
    assert dot.made_from == ()
    assert tanh.scope == "inner"
    assert tanh.place.startswith("inner, test_unit_tracing.py:")
    assert [v.number for v in values] == sorted({v.number for v in values})
    added = [v.array for v in values if v.operation == "add"]
    np.testing.assert_allclose(np.stack(added), sums[::-1], rtol=1e-12)
    stack = next(v for v in values if v.operation == "scan")
    np.testing.assert_allclose(stack.array, 2 * sums, rtol=1e-12)
    assert stack.line.startswith("test_unit_tracing.py:")
    assert "body" not in stack.line
    doubled = [v.number for v in values if v.operation == "mul"]
    assert stack.made_from == (max(doubled),)


def test_a_result_is_replaced_and_what_follows_with_it(traced):
    program, (x, w), (_, values) = traced
    tanh = next(v for v in values if v.operation == "tanh")
    with jax.enable_x64(True):
        outputs, again = program.values(x, w, replaced={tanh.number: np.ones((3, 2))})
        plain = program.outer_values(x, w)
    np.testing.assert_allclose(outputs["last"], [3.0, 3.0])
    assert [v.number for v in again] == [v.number for v in values]
    assert [v.number for v in plain] == [v.number for v in values]


def test_zeros_that_are_added_have_the_gradients_of_the_results(traced):
    program, (x, w), (_, values) = traced
    tanh = next(v for v in values if v.operation == "tanh")
    with jax.enable_x64(True):
        run = program.perturbed([tanh.number])
        once = run([np.ones((3, 2))], x, w)["last"]
        np.testing.assert_allclose(once, np.tanh(x @ w).sum(0) + 3, rtol=1e-12)


def test_a_longer_scan_is_one_operation():
    def function(x):
        return jax.lax.scan(lambda carry, row: (carry + row, carry), jnp.zeros(()), x)[1]

    counts = []
    for length in (LONGEST_SCAN, LONGEST_SCAN + 1):
        x = np.ones(length, np.float32)
        _, values = Program(function, x).values(x)
        counts.append(sum(v.operation == "add" for v in values))
    assert counts == [LONGEST_SCAN, 0]
