"""PyTorch's layers taken apart give the numbers of the one call, or leave it as it is."""

import pytest
import torch
from torch.nn import functional

from parity.tracing.torch_equations import EQUATIONS
from parity.tracing.torch_layers import LAYERED
from parity.tracing.torch_trace import Recorder

GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


X = normal(3, 4, 6)
FAR = torch.tensor([-800.0, -30.0, -3.5, -1.0, -1e-3, 0.0, 0.5, 2.5, 3.5, 19.0, 25.0]).double()
GAIN, SHIFT = normal(6), normal(6)
CHANNELS, MOVES = normal(4), normal(4)
MEAN, VARIANCE = normal(4), normal(4) ** 2 + 0.1

# Function, arguments and options.
CALLS = {
    "linear": (functional.linear, (X, normal(5, 6), normal(5)), {}),
    "conv1d": (functional.conv1d, (X, normal(5, 4, 3), normal(5), 2, 1), {}),
    "conv1d, options": (
        functional.conv1d,
        (X, normal(8, 2, 2)),
        {"bias": normal(8), "dilation": 2, "groups": 2},
    ),
    "conv2d": (functional.conv2d, (normal(2, 3, 5, 6), normal(4, 3, 2, 2), normal(4)), {}),
    "conv2d, no batch": (functional.conv2d, (normal(3, 5, 6), normal(4, 3, 2, 2), normal(4)), {}),
    "conv3d": (functional.conv3d, (normal(2, 3, 4, 4, 4), normal(4, 3, 2, 2, 2), normal(4)), {}),
    "layer norm": (functional.layer_norm, (X, (6,), GAIN, SHIFT, 0.1), {}),
    "layer norm, two axes": (functional.layer_norm, (X, (4, 6)), {}),
    "layer norm, no shift": (functional.layer_norm, (1e-3 * X, (6,), GAIN), {}),
    "rms norm": (functional.rms_norm, (1e-7 * X, (6,), GAIN), {}),
    "rms norm, eps": (functional.rms_norm, (X, (4, 6)), {"eps": 0.1}),
    "group norm": (functional.group_norm, (X, 2, CHANNELS, MOVES, 0.1), {}),
    "group norm, 4 axes": (functional.group_norm, (1e-3 * normal(2, 4, 3, 2), 2, CHANNELS), {}),
    "batch norm": (
        functional.batch_norm,
        (X, MEAN, VARIANCE, CHANNELS, MOVES),
        {"training": False, "eps": 0.1},
    ),
    "batch norm, eps": (functional.batch_norm, (X[..., 0], MEAN, 1e-4 * VARIANCE), {}),
    "mean": (torch.mean, (X, 1), {}),
    "mean, kept": (torch.mean, (X, (0, 2), True), {}),
    "gelu": (functional.gelu, (X,), {}),
    "gelu, tanh": (functional.gelu, (X,), {"approximate": "tanh"}),
    "silu": (functional.silu, (X,), {}),
    "elu": (functional.elu, (X,), {}),
    "elu, 0.7": (functional.elu, (X, 0.7), {}),
    "celu": (functional.celu, (X, 0.7), {}),
    "celu, 1": (functional.celu, (X,), {}),
    "selu": (functional.selu, (X,), {}),
    "softplus": (functional.softplus, (FAR,), {}),
    "softplus, threshold": (functional.softplus, (FAR,), {"threshold": 3}),
    "mish": (functional.mish, (FAR,), {}),
    "log sigmoid": (functional.logsigmoid, (FAR,), {}),
    "softsign": (functional.softsign, (FAR,), {}),
    "hard swish": (functional.hardswish, (FAR,), {}),
    "softmax": (functional.softmax, (900 * X, 1), {}),
    "log softmax": (functional.log_softmax, (900 * X,), {"dim": -1}),
    "attention": (
        functional.scaled_dot_product_attention,
        (X, normal(3, 5, 6), normal(3, 5, 2)),
        {},
    ),
    "attention, scale": (functional.scaled_dot_product_attention, (X, X, X), {"scale": 0.3}),
    "attention, booleans": (
        functional.scaled_dot_product_attention,
        (X, X, X, torch.ones(4, 4).tril().bool()),
        {},
    ),
    "attention, floats": (functional.scaled_dot_product_attention, (X, X, X, normal(4, 4)), {}),
}
NAMES = {"logsigmoid": "log_sigmoid", "log_sigmoid": "log_sigmoid"}


def equation(function):
    return EQUATIONS[NAMES.get(function.__name__, function.__name__)]


@pytest.mark.parametrize("name", CALLS)
def test_an_equation_gives_the_numbers_of_the_call(name):
    function, args, options = CALLS[name]
    got = equation(function)(None, function, args, options)
    torch.testing.assert_close(got, function(*args, **options), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("function", "args", "options"),
    [
        (functional.linear, (X, normal(5, 6)), {}),
        (functional.linear, (X, normal(5, 6), None), {}),
        (functional.conv1d, (X, normal(5, 4, 3)), {}),
        (functional.batch_norm, (X, MEAN, VARIANCE), {"training": True}),
        (functional.batch_norm, (X, None, None), {}),
        (torch.mean, (X,), {}),
        (torch.mean, (torch.zeros(0, 3), 1), {}),
        (functional.softplus, (X, 2.0), {}),
        (functional.softmax, (X,), {}),
        (functional.softmax, (X, 1), {"dtype": torch.float32}),
        (functional.scaled_dot_product_attention, (X, X, X), {"dropout_p": 0.1}),
        (functional.scaled_dot_product_attention, (X, X, X), {"is_causal": True}),
        (functional.scaled_dot_product_attention, (X, X, X), {"enable_gqa": True}),
    ],
)
def test_what_has_no_equation_stays_as_it_is(function, args, options):
    assert equation(function)(None, function, args, options) is None


T, B, I, H = 5, 2, 3, 4
KINDS = {"rnn_tanh": (torch.nn.RNN, {}), "rnn_relu": (torch.nn.RNN, {"nonlinearity": "relu"})}
KINDS |= {"gru": (torch.nn.GRU, {}), "lstm": (torch.nn.LSTM, {})}


def recurrent_call(name, layers, both, batch_first, biases, projection=0):
    """The arguments of `torch.lstm` and its like, with every weight and carry random."""
    make, options = KINDS[name]
    if projection:
        options = {**options, "proj_size": projection}
    torch.manual_seed(0)
    layer = make(
        I, H, layers, bias=biases, batch_first=batch_first, bidirectional=both, **options
    ).double()
    parts = layers * (2 if both else 1)
    xs = normal(B, T, I) if batch_first else normal(T, B, I)
    carry = normal(parts, B, projection or H)
    if name == "lstm":
        carry = [carry, normal(parts, B, H)]
    weights = [w.detach() for w in layer._flat_weights]
    return getattr(torch, name), (
        (xs, carry, weights, biases, layers, 0.0, False, both, batch_first)
    )


CASES = [
    (1, False, False, True),
    (1, False, True, False),
    (1, True, False, True),
    (2, False, True, True),
    (2, False, False, False),
    (2, True, True, True),
    (3, True, False, False),
]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_recurrent_layers_are_their_steps_and_their_parts(name, case):
    function, args = recurrent_call(name, *case)
    recorder = Recorder(torch.nn.Identity(), {})
    expected = function(*args)
    got = EQUATIONS[name](recorder, function, args, {})
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    layers, both, *_ = case
    parts = LAYERED[name](recorder, function, args, {})
    if layers * (2 if both else 1) == 1:
        assert parts is None  # one layer is its own part
        return
    for one, other in zip(parts, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_layers_and_directions_are_parts_with_names():
    function, args = recurrent_call("gru", 2, True, False, True)
    recorder = Recorder(torch.nn.Identity(), {})
    with recorder:
        LAYERED["gru"](recorder, function, args, {})
    made = [call.module for call in recorder.calls if call.name == "gru"]
    assert made == ["layer 0", "layer 0, backwards", "layer 1", "layer 1, backwards"]


@pytest.mark.parametrize("table", [EQUATIONS, LAYERED], ids=["equations", "layers"])
def test_other_signatures_and_random_dropout_stay_as_they_are(table):
    recorder = Recorder(torch.nn.Identity(), {})
    function, args = recurrent_call("lstm", 2, False, False, True)
    apart = table["lstm"]
    assert apart(recorder, function, args, {}) is not None
    assert apart(recorder, function, args, {"batch_first": True}) is None
    assert apart(recorder, function, args[:-1], {}) is None
    packed = (*args[:3], torch.ones(1), *args[4:])
    assert apart(recorder, function, packed, {}) is None
    dropping = (*args[:5], 0.5, True, *args[7:])
    assert apart(recorder, function, dropping, {}) is None
    still = (*args[:5], 0.5, False, *args[7:])
    assert apart(recorder, function, still, {}) is not None
    training = (*args[:5], 0.0, True, *args[7:])
    assert apart(recorder, function, training, {}) is not None


def test_a_projection_of_the_hidden_state_has_no_equation_but_parts():
    recorder = Recorder(torch.nn.Identity(), {})
    function, args = recurrent_call("lstm", 1, False, False, True, projection=2)
    assert EQUATIONS["lstm"](recorder, function, args, {}) is None
    function, args = recurrent_call("lstm", 2, False, False, True, projection=2)
    got = LAYERED["lstm"](recorder, function, args, {})
    for one, other in zip(got, function(*args), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


N, E, S = 2, 6, 5
QUERY, KEY = normal(4, 3, E), normal(S, 3, E)
PADDING = torch.zeros(3, S, dtype=torch.bool)
PADDING[1, 2:] = True
MASKS = {
    "none": {},
    "causal": {"attn_mask": torch.ones(4, S).triu(1).bool()},
    "floats of each head": {"attn_mask": normal(3 * N, 4, S)},
    "padding": {"key_padding_mask": PADDING},
    "no weights": {"need_weights": False},
    "weights of each head": {"average_attn_weights": False},
    "not in training": {"dropout_p": 0.5, "training": False},
    "no bias": {"in_proj_bias": None},
}
ATTENTION = functional.multi_head_attention_forward
GIVEN = {
    "query": QUERY,
    "key": KEY,
    "value": 2 * KEY,
    "embed_dim_to_check": E,
    "num_heads": N,
    "in_proj_weight": normal(3 * E, E),
    "in_proj_bias": normal(3 * E),
    "bias_k": None,
    "bias_v": None,
    "add_zero_attn": False,
    "dropout_p": 0.0,
    "out_proj_weight": normal(E, E),
    "out_proj_bias": normal(E),
}


@pytest.mark.parametrize("name", MASKS)
def test_attention_is_its_equation(name):
    given = GIVEN | MASKS[name]
    positional = tuple(given.pop(key) for key in GIVEN)
    got = LAYERED["multi_head_attention_forward"](None, ATTENTION, positional, given)
    expected = ATTENTION(*positional, **given)
    torch.testing.assert_close(got[0], expected[0], rtol=1e-12, atol=1e-14)
    if expected[1] is None:
        assert got[1] is None
    else:
        torch.testing.assert_close(got[1], expected[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "change",
    [
        {"bias_k": normal(1, 1, E)},
        {"bias_v": normal(1, 1, E)},
        {"static_k": normal(6, S, 3)},
        {"static_v": normal(6, S, 3)},
        {"q_proj_weight": normal(E, E)},
        {"add_zero_attn": True},
        {"dropout_p": 0.5},
        {"query": QUERY[:, 0]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_unusual_attention_stays_as_it_is(change):
    given = GIVEN | change
    positional = tuple(given.pop(key) for key in GIVEN)
    assert LAYERED["multi_head_attention_forward"](None, ATTENTION, positional, given) is None
