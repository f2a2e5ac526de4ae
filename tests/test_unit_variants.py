"""The mistakes that are tried in a call: which there are, their words, and their numbers."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch_calls import call, tensor

from parity.tracing.variants import (
    ACTIVATIONS,
    BINARY,
    LIKELY,
    REDUCTIONS,
    argument_names,
    behind,
    changed,
    families,
    families_behind,
    fitted,
    tried,
    variants,
)

X, W, B = tensor(3, 4), tensor(4, 4), tensor(4)
GIVEN = {0: X}


def by_words(made, given=GIVEN):
    found = {}
    for variant in variants(made, given):
        found.setdefault(variant.words, variant.run)
    return found


def same(run, expected):
    np.testing.assert_allclose(run()[0], np.asarray(expected), rtol=1e-12, atol=1e-13)


def test_arguments_have_the_names_of_their_function():
    assert argument_names(call(functional.linear, X, W, B)) == ["input", "weight", "bias"]
    assert argument_names(call(functional.linear, X, W)) == ["input", "weight"]
    assert argument_names(call(torch.Tensor.__add__, X, B)) == ["first", "second"]
    norm = call(functional.layer_norm, X, (4,), B)
    assert argument_names(norm) == ["input", "normalized_shape", "weight"]
    assert argument_names(call(torch.tanh, X)) == ["argument 0"]


def test_every_setting_is_another():
    made = call(functional.layer_norm, X, (4,), eps=1e-5)
    found = by_words(made)
    same(found["eps is 1e-06, PyTorch has 1e-05"], functional.layer_norm(X, (4,), eps=1e-6))
    settings = [words for words in found if words.startswith("eps is ")]
    assert len(settings) == len(LIKELY) - 1
    made = call(torch.sum, X, 1, keepdim=False)
    found = by_words(made)
    same(found["dim is 0, PyTorch has 1"], X.sum(0))
    same(found["keepdim is True, PyTorch has False"], X.sum(1, keepdim=True))
    assert {w for w in found if w.startswith("dim is")} == {
        f"dim is {k}, PyTorch has 1" for k in (-1, 0, 2, 3)
    }
    same(
        by_words(call(functional.gelu, X, approximate="none"))[
            "approximate is tanh, PyTorch has none"
        ],
        functional.gelu(X, approximate="tanh"),
    )
    found = by_words(call(torch.sum, tensor(2, 3, 4), (0, 1)), {})
    assert "dim is (-1, 0), PyTorch has (0, 1)" in found
    assert "dim is (1, 2), PyTorch has (0, 1)" in found


@pytest.mark.parametrize("usual", [1e-3, 1e-5, 1e-6, 1e-8, 1e-12, 0.01, 0.2, 0.9, 0.99])
def test_usual_values_of_eps_slopes_and_momenta_are_tried(usual):
    made = call(functional.layer_norm, X, (4,), eps=0.3)
    same(
        by_words(made)[f"eps is {usual}, PyTorch has 0.3"],
        functional.layer_norm(X, (4,), eps=usual),
    )


def test_a_function_of_one_tensor_is_each_of_the_others():
    found = by_words(call(torch.tanh, X))
    for name, function in ACTIVATIONS.items():
        same(found[f"{name} stands for tanh"], function(X))
    same(found["tanh is missing"], X)
    same(found["tanh is applied twice"], torch.tanh(torch.tanh(X)))
    # Nothing of the same shape stands for a sum.
    found = by_words(call(torch.sum, X, 1))
    assert not any(words.startswith("relu stands") for words in found)
    assert "sum is missing" not in found


def test_arithmetic_is_another_or_exchanged():
    for function, plain in ((torch.sub, "sub"), (torch.Tensor.__truediv__, "div")):
        found = by_words(call(function, X, B), {0: X})
        for name, other in BINARY.items():
            if name != plain:
                same(found[f"{name} stands for {plain}"], other(X, B))
        same(found["its operands are exchanged"], BINARY[plain](B, X))
        assert f"{plain} stands for {plain}" not in found
    found = by_words(call(torch.add, X, 2.0), {0: X})
    same(found["mul stands for add"], 2 * X)
    same(found["maximum stands for add"], X.clamp(min=2))
    same(found["minimum stands for add"], X.clamp(max=2))
    assert "its operands are exchanged" not in found
    # With numbers alone one is no tensor of its own.
    found = by_words(call(torch.mul, B, X), {1: 3 * X})
    same(found["add stands for mul"], B + 3 * X)


def test_reductions_are_others():
    found = by_words(call(torch.mean, X, 1))
    for name, function in REDUCTIONS.items():
        same(found[f"{name} stands for mean"], function(X, 1))
    assert "mean stands for std" in by_words(call(torch.std, X, 1))
    assert "mean stands for amax" in by_words(call(torch.amax, X, 1))
    same(found["variance stands for mean"], X.numpy().var(1))
    same(found["standard deviation of a sample stands for mean"], X.numpy().std(1, ddof=1))


def test_pools_stand_for_each_other():
    x = tensor(1, 2, 6)
    found = by_words(call(functional.avg_pool1d, x, 2), {0: x})
    same(found["max_pool1d stands for avg_pool1d"], functional.max_pool1d(x, 2))
    found = by_words(call(functional.max_pool1d, x, 2), {0: x})
    same(found["avg_pool1d stands for max_pool1d"], functional.avg_pool1d(x, 2))


GAIN, SHIFT, EPS = tensor(4), tensor(4), 0.3
N = X.numpy()
CENTERED = N - N.mean(1, keepdims=True)
VAR, SAMPLE = N.var(1, keepdims=True), N.var(1, ddof=1, keepdims=True)
SQUARE = (N**2).mean(1, keepdims=True)
NORMS = {
    "the mean is not taken away": N / np.sqrt(SQUARE + EPS),
    "the mean is taken away": CENTERED / np.sqrt(VAR + EPS),
    "the variance is that of a sample": CENTERED / np.sqrt(SAMPLE + EPS),
    "epsilon is added to the standard deviation": CENTERED / (np.sqrt(VAR) + EPS),
    "the standard deviation is that of a sample, and epsilon is added to it": CENTERED
    / (np.sqrt(SAMPLE) + EPS),
    "it is not divided by the standard deviation": CENTERED,
}


@pytest.mark.parametrize("words", NORMS)
def test_norms_by_another_statistic(words):
    layer = by_words(call(functional.layer_norm, X, (4,), GAIN, SHIFT, EPS))
    same(layer[words], NORMS[words] * GAIN.numpy() + SHIFT.numpy())
    rms = by_words(call(functional.rms_norm, X, (4,), eps=EPS))
    same(rms[words], NORMS[words])
    assert words not in by_words(call(functional.normalize, X))


def test_an_argument_may_be_missing():
    made = call(functional.linear, X, W, B)
    found = by_words(made)
    same(found["bias is missing"], X @ W.T)
    assert "input is missing" not in found
    # Where other arguments come from calls, the numbers of the tensors behind would be wrong.
    assert "bias is missing" not in by_words(made, {0: X, 1: W})
    same(found["linear is missing: only argument 0 is there"], X)
    assert "linear is missing: only argument 2 is there" not in found


def test_weights_are_mistaken_and_exchanged():
    made = call(functional.linear, X, W, B)
    found = by_words(made)
    same(found["weight is transposed"], X @ W + B)
    same(found["bias is zero"], X @ W.T)
    assert not any(words.startswith("input is zero") for words in found)
    assert "weight and bias are exchanged" not in found
    y = tensor(3, 4)
    found = by_words(call(torch.sub, X, y), {})
    same(found["first and second are exchanged"], y - X)
    same(found["second has the other sign"], X + y)
    found = by_words(call(torch.stack, [X, y], 0), {})
    same(found["argument 0[0] is zero"], torch.stack([0 * X, y]))
    same(found["argument 0[1] is zero"], torch.stack([X, 0 * y]))
    assert sum("exchanged" in words for words in by_words(call(torch.stack, [X] * 7, 0), {})) > 10
    assert not any(
        " are exchanged" in words for words in by_words(call(torch.stack, [X] * 8, 0), {})
    )


SQUARE_TENSOR = tensor(4, 4)
S = SQUARE_TENSOR.numpy()
FORMS = {
    "is zero": np.zeros((4, 4)),
    "is one everywhere": np.ones((4, 4)),
    "has the other sign": -S,
    "is doubled": 2 * S,
    "is rounded to float32": S.astype(np.float32).astype(float),
    "is transposed": S.T,
    "is masked: later steps are not seen": np.where(np.triu(np.ones((4, 4)), 1), -np.inf, S),
    "is zero above the diagonal": np.tril(S),
    "is flipped along axis 0": S[::-1],
    "is flipped along axis 1": S[:, ::-1],
    "is shifted by one along axis 1": np.roll(S, 1, 1),
    "is shifted by minus one along axis 0": np.roll(S, -1, 0),
    "is read with axes 0 and 1 exchanged": S.T,
    "has its 2 blocks in the order (1, 0)": np.roll(S, 2, 0),
}


@pytest.mark.parametrize("words", FORMS)
def test_the_forms_in_which_a_tensor_is_mistaken(words):
    found = dict(changed(SQUARE_TENSOR))
    np.testing.assert_array_equal(found[words].numpy(), FORMS[words])


def test_forms_need_their_shape():
    words = [form for form, _ in changed(tensor(1, 6, 4))]
    assert not any("diagonal" in form or "transposed" in form for form in words)
    assert not any("axis 0" in form or "axes 0" in form for form in words)
    assert "is read with axes 1 and 2 exchanged" in words
    assert not any("blocks" in form for form in words)
    blocks = {w: t for w, t in changed(torch.arange(12.0)) if "blocks" in w}
    assert len(blocks) == 1 + 5 + 23
    moved = blocks["has its 3 blocks in the order (2, 0, 1)"]
    assert moved.tolist() == [8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7]
    assert not any("2 blocks" in w for w, _ in changed(torch.arange(2.0)))
    assert not any("blocks" in w for w, _ in changed(torch.arange(7.0)))
    rounded = dict(changed(X))["is rounded to bfloat16"]
    assert torch.equal(rounded, X.bfloat16().double())


def test_integers_and_masks_have_forms_of_their_own():
    forms = dict(changed(torch.tensor([0, 3])))
    assert forms["is one too low"].tolist() == [0, 2]
    assert forms["is one too high"].tolist() == [1, 4]
    assert len(forms) == 2
    mask = torch.ones(3, 3).triu(1).bool()
    forms = list(changed(mask))
    assert [words for words, _ in forms] == [
        "is inverted",
        "is moved along the diagonal",
        "is moved along the diagonal",
        "is transposed",
    ]
    expected = [~mask, torch.ones(3, 3).triu(0).bool(), torch.ones(3, 3).triu(2).bool(), mask.T]
    for (_, got), right in zip(forms, expected, strict=True):
        assert torch.equal(got, right)
    assert len(list(changed(mask[:2]))) == 1
    assert len(list(changed(mask[0]))) == 1


def test_what_is_done_behind_a_call():
    made = call(torch.tanh, X)
    found = {variant.words: variant.run for variant in behind(made, N)}
    same(found["relu is applied to the output of tanh"], np.maximum(N, 0))
    same(found["the output of tanh is doubled"], 2 * N)
    times, plus = families_behind(made, N)
    assert times.words(2.5) == "the output of tanh is multiplied by 2.5"
    assert plus.words(0.1234567) == "0.123457 is added to the output of tanh"
    same(lambda: times.run(3.0), 3 * N)
    same(lambda: plus.run(3.0), 3 + N)
    assert (times.start, plus.start) == (1.0, 0.0)


def test_numbers_that_are_fitted():
    made = call(functional.linear, X, W, tensor(12)[:4])
    found = list(families(made, GIVEN))
    words = [family.words(0.5) for family in found]
    assert words == [
        "weight is multiplied by 0.5",
        "0.5 is added to weight",
        "bias is multiplied by 0.5",
        "0.5 is added to bias",
    ]
    same(lambda: found[1].run(0.5), X @ (W + 0.5).T + made.arguments[2])
    same(lambda: found[2].run(0.5), X @ W.T + 0.5 * made.arguments[2])
    assert [family.start for family in found] == [1.0, 0.0, 1.0, 0.0]
    bias = tensor(12)
    made = call(functional.linear, X, tensor(12, 4), bias)
    parts = {family.words(1.0): family for family in families(made, GIVEN)}
    assert sum("part" in words for words in parts) == 7
    family = parts["1 is added to part 1 of 3 in bias"]
    moved = np.repeat([0, 1, 0], 4)
    same(lambda: family.run(2.0), made.outputs[0] + 2 * moved)
    assert family.start == 0.0
    setting = next(iter(families(call(functional.elu, X, 0.7), GIVEN)))
    assert setting.words(0.25) == "alpha is 0.25, PyTorch has 0.7"
    assert setting.start == 0.7
    same(lambda: setting.run(0.25), functional.elu(X, 0.25))


@pytest.mark.parametrize(
    ("measure", "start", "wanted", "x"),
    [
        (lambda x: 3 * x, 1.0, 6.0, 2.0),
        (lambda x: x**3, 1.0, 8.0, 2.0),
        (lambda x: 5 * x + 1, 0.0, 2.0, 0.2),
    ],
)
def test_a_number_is_fitted(measure, start, wanted, x):
    assert fitted(measure, start, wanted) == pytest.approx(x, rel=1e-14)


def test_no_number_is_fitted_where_there_is_none():
    assert fitted(lambda x: 1.0, 1.0, 2.0) is None
    assert fitted(lambda x: float("nan"), 1.0, 2.0) is None
    # From 0 on the search starts with a step of 0.1, else with a tenth.
    seen = []
    fitted(lambda x: seen.append(x) or x, 0.0, 1.0)
    assert seen[:2] == [0.0, 0.1]
    seen.clear()
    fitted(lambda x: seen.append(x) or x, 2.0, 1.0)
    assert seen[:2] == pytest.approx([2.0, 2.2])

    def refuses(x):
        raise ValueError

    assert fitted(refuses, 1.0, 2.0) is None
    assert tried(lambda: refuses(1)) is None
    assert tried(lambda: (1, 2)) == [1, 2]
