"""Free cells of the literature: products behind a gate, norms over units, gates in rounds.

Shapes: B batch, I input size, H hidden size, G the number of gates of the cell.

Each step is written as its paper has it; none is an elementwise function of x @ weight_ih.T and
h @ weight_hh.T, so none can be a `Cell`. They run as a plain scan (`jaxrnn.recurrent.layer`).
Weights have torch's orientation, (rows of the result, rows of the input), and gates torch's order.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn.initializers import lecun_normal, normal, ones, orthogonal, zeros
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrnn.checks import check_at_least_0
from jaxrnn.recurrent.cells import (
    LSTM,
    FreeCell,
    Hidden,
    HiddenAndCell,
    Initializer,
    gates_of,
)
from jaxrnn.recurrent.layer import uniform

# Added to the variance in a layer norm, as the authors' code does.
EPSILON = 1e-5
# Number of Mogrifier LSTMs that are kept, so that the same numbers give the same cell.
CELLS_REMEMBERED = 64


def layer_norm(
    x: Float[Array, "B N"], gain: Float[Array, " N"], bias: Float[Array, " N"]
) -> Float[Array, "B N"]:
    """Each row with mean 0 and variance 1, times the gain, plus the bias. Ba et al. 2016."""
    mean = x.mean(axis=-1, keepdims=True)  # (B, 1)
    variance = x.var(axis=-1, keepdims=True)  # (B, 1)
    return (x - mean) * lax.rsqrt(variance + EPSILON) * gain + bias


def _sample(
    key: Array, parameters: Mapping[str, tuple[Initializer, tuple[int, ...]]]
) -> dict[str, Array]:
    """Parameters from their initializers and shapes, each with a key of its own."""
    keys = jax.random.split(key, len(parameters))
    return {
        name: init(one, shape)
        for one, (name, (init, shape)) in zip(keys, parameters.items(), strict=True)
    }


def _per_gate(init: Initializer, gates: int) -> Initializer:
    """An initializer of (G * H, I) that makes the (H, I) of each gate on its own."""

    def stacked(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
        rows = shape[0] // gates
        keys = jax.random.split(key, gates)
        return jnp.concatenate([init(one, (rows, shape[1]), dtype) for one in keys])

    return stacked


def _with_forget_bias(init: Initializer, bias: float) -> Initializer:
    """An initializer of (4 * H,), in the order i, f, g, o, with a number added to those of f."""

    def biases(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
        hidden_size = shape[0] // 4
        forget = slice(hidden_size, 2 * hidden_size)
        return init(key, shape, dtype).at[forget].add(bias)

    return biases


def _layer_norm_lstm_init(key: Array, input_size: int, hidden_size: int) -> dict[str, Array]:
    GH = 4 * hidden_size
    square = _per_gate(orthogonal(), 4)
    # The authors' code makes every square matrix orthogonal, those of the inputs too.
    inputs = square if input_size == hidden_size else uniform(0.1)
    return _sample(
        key,
        {
            "weight_ih": (inputs, (GH, input_size)),
            "weight_hh": (square, (GH, hidden_size)),
            "bias": (zeros, (GH,)),
            "gain_ih": (ones, (GH,)),
            "gain_hh": (ones, (GH,)),
            "gain_c": (ones, (hidden_size,)),
            "bias_ih": (zeros, (GH,)),
            "bias_hh": (zeros, (GH,)),
            "bias_c": (zeros, (hidden_size,)),
        },
    )


def _layer_norm_lstm_step(
    params: dict[str, Array], carry: HiddenAndCell, x: Array
) -> tuple[HiddenAndCell, Array]:
    x_gates = x @ params["weight_ih"].T  # (B, 4 * H)
    h_gates = carry.h @ params["weight_hh"].T  # (B, 4 * H)
    x_gates = layer_norm(x_gates, params["gain_ih"], params["bias_ih"])
    h_gates = layer_norm(h_gates, params["gain_hh"], params["bias_hh"])
    i, f, g, o = gates_of(x_gates + h_gates + params["bias"], 4)
    c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    # The memory itself is not normalized, only what is read of it.
    h = jax.nn.sigmoid(o) * jnp.tanh(layer_norm(c, params["gain_c"], params["bias_c"]))
    return HiddenAndCell(h, c), h


LAYER_NORM_LSTM = FreeCell(
    "layer-norm-lstm", _layer_norm_lstm_init, _layer_norm_lstm_step, HiddenAndCell
)
"""The LSTM with layer norms of both products and of the cell state that the output reads.

    i, f, g, o = LN(W_ih x; gain_ih, bias_ih) + LN(W_hh h; gain_hh, bias_hh) + bias
    c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h' = sigmoid(o) * tanh(LN(c'; gain_c, bias_c))

A norm goes over all 4 H gates of a product together, as in the supplement of Ba, Kiros and Hinton
2016, https://arxiv.org/abs/1607.06450. Other libraries normalize each gate, or the memory that is
carried on; those are other functions.

It starts as the authors' code (https://github.com/ryankiros/layer-norm): gains 1, biases 0, the
recurrent weight of each gate orthogonal, those of the inputs uniform in +-0.1, or orthogonal too
where they are square.
"""


def _gru_reset_before_init(key: Array, input_size: int, hidden_size: int) -> dict[str, Array]:
    GH = 3 * hidden_size
    return _sample(
        key,
        {
            "weight_ih": (normal(0.01), (GH, input_size)),
            "weight_hh": (_per_gate(orthogonal(), 3), (GH, hidden_size)),
            "bias_ih": (zeros, (GH,)),
            "bias_hh": (zeros, (GH,)),
        },
    )


def _gru_reset_before_step(
    params: dict[str, Array], carry: Hidden, x: Array
) -> tuple[Hidden, Array]:
    h = carry.h
    gates = 2 * h.shape[-1]  # rows of r and z; those of n come behind
    x_r, x_z, x_n = gates_of(x @ params["weight_ih"].T + params["bias_ih"], 3)
    h_r, h_z = gates_of(h @ params["weight_hh"][:gates].T + params["bias_hh"][:gates], 2)
    r = jax.nn.sigmoid(x_r + h_r)
    z = jax.nn.sigmoid(x_z + h_z)
    h_n = (r * h) @ params["weight_hh"][gates:].T + params["bias_hh"][gates:]
    n = jnp.tanh(x_n + h_n)
    h = n + z * (h - n)
    return Hidden(h), h


GRU_RESET_BEFORE = FreeCell("gru-reset-before", _gru_reset_before_init, _gru_reset_before_step)
"""The gated recurrent unit that resets `h` before the product, as the paper has it.

    r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
    z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n  = tanh(W_in x + b_in + W_hn (r * h) + b_hn)
    h' = n + z * (h - n)

with the parameters of `torch.nn.GRU`, which itself resets behind the product, as `GRU` does. Cho et
al. 2014, version 3, https://arxiv.org/abs/1406.1078; also the GRU of char-rnn, of Haiku (whose z is
1 - z here), of Keras with `reset_after=False` and of ONNX with `linear_before_reset=0`.

It starts as the paper says: input weights normal with standard deviation 0.01, the recurrent weight
of each gate orthogonal; biases, which the paper leaves out, are 0.
"""


def _multiplicative_lstm_init(key: Array, input_size: int, hidden_size: int) -> dict[str, Array]:
    GH = 4 * hidden_size
    return _sample(
        key,
        {
            "weight_ih": (orthogonal(), (GH, input_size)),
            "weight_mx": (orthogonal(), (hidden_size, input_size)),
            "weight_mh": (orthogonal(), (hidden_size, hidden_size)),
            "weight_hm": (orthogonal(), (GH, hidden_size)),
            "bias": (_with_forget_bias(zeros, 3.0), (GH,)),
        },
    )


def _multiplicative_lstm_step(
    params: dict[str, Array], carry: HiddenAndCell, x: Array
) -> tuple[HiddenAndCell, Array]:
    m = (x @ params["weight_mx"].T) * (carry.h @ params["weight_mh"].T)  # (B, H)
    x_gates = x @ params["weight_ih"].T + params["bias"]  # (B, 4 * H)
    m_gates = m @ params["weight_hm"].T  # (B, 4 * H)
    after = LSTM.step(carry, x_gates, m_gates)
    return after, after.h


MULTIPLICATIVE_LSTM = FreeCell(
    "multiplicative-lstm", _multiplicative_lstm_init, _multiplicative_lstm_step, HiddenAndCell
)
"""The LSTM whose gates read, instead of `h`, its product with the input: a transition per input.

    m  = (W_mx x) * (W_mh h)
    i, f, g, o = W_ih x + W_hm m + bias
    c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h' = sigmoid(o) * tanh(c')

Krause, Lu, Murray and Renals 2016, https://arxiv.org/abs/1609.07959, "mLSTM" there (not the matrix
LSTM of xLSTM). The authors' first programs squash behind the output gate, as in
tanh(sigmoid(o) * c' + b), and g not at all; this is the form of their later one.

It starts as that later program (https://github.com/benkrause/mLSTM, `chainer`): orthogonal weights,
forget bias 3, other biases 0. Its weight normalization is no part of the cell.
"""


@lru_cache(maxsize=CELLS_REMEMBERED)
def mogrifier_lstm(rounds: int = 5, name: str = "mogrifier-lstm") -> FreeCell:
    """The LSTM whose input and `h` gate each other, in turns, before it reads them.

        x = 2 sigmoid(Q_i h) * x    in the rounds i = 1, 3, 5, ...
        h = 2 sigmoid(R_i x) * h    in the rounds i = 2, 4, ...
        h', c' = LSTM(x, (h, c))

    Melis, Kocisky and Blunsom 2020, https://arxiv.org/abs/1909.01792. Q_i, (I, H), is the parameter
    `weight_q1`, and so on, R_i, (H, I), is `weight_r2`; the others are those of `torch.nn.LSTM`,
    which it is without rounds. Its authors' experiments also cap the input gate at 1 - f, factor
    Q_i and R_i, and add biases to them, none of which is in these equations.

    It starts as the authors' program (https://github.com/google-deepmind/lamb): every weight
    truncated normal with variance 1 / fan-in, biases with 1 / H, and 1 added to that of f. All of
    it is in `bias_ih`; `bias_hh` is 0.

    Args:
        rounds: number of rounds, at least 0.
        name: the name of the cell.

    Raises:
        ValueError: if there are less than 0 rounds.
    """
    check_at_least_0(rounds=rounds)

    def init(key: Array, input_size: int, hidden_size: int) -> dict[str, Array]:
        GH = 4 * hidden_size
        # fan-in is the last axis, in torch's orientation.
        weights = lecun_normal(in_axis=-1, out_axis=-2)
        parameters: dict[str, tuple[Initializer, tuple[int, ...]]] = {
            "weight_ih": (weights, (GH, input_size)),
            "weight_hh": (weights, (GH, hidden_size)),
            "bias_ih": (_with_forget_bias(_lecun_biases, 1.0), (GH,)),
            "bias_hh": (zeros, (GH,)),
        }
        for i in range(1, rounds + 1):
            if i % 2:
                parameters[f"weight_q{i}"] = (weights, (input_size, hidden_size))
            else:
                parameters[f"weight_r{i}"] = (weights, (hidden_size, input_size))
        return _sample(key, parameters)

    def step(
        params: dict[str, Array], carry: HiddenAndCell, x: Array
    ) -> tuple[HiddenAndCell, Array]:
        h = carry.h
        for i in range(1, rounds + 1):
            if i % 2:
                x = 2 * jax.nn.sigmoid(h @ params[f"weight_q{i}"].T) * x  # (B, I)
            else:
                h = 2 * jax.nn.sigmoid(x @ params[f"weight_r{i}"].T) * h  # (B, H)
        x_gates = x @ params["weight_ih"].T + params["bias_ih"]  # (B, 4 * H)
        h_gates = h @ params["weight_hh"].T + params["bias_hh"]  # (B, 4 * H)
        after = LSTM.step(HiddenAndCell(h, carry.c), x_gates, h_gates)
        return after, after.h

    return FreeCell(name, init, step, HiddenAndCell)


def _lecun_biases(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """Biases of (4 * H,), truncated normal with variance 1 / H."""
    by_gate = lecun_normal(in_axis=-1, out_axis=-2)(key, (4, shape[0] // 4), dtype)  # (4, H)
    return by_gate.reshape(shape)


MOGRIFIER_LSTM = mogrifier_lstm()
"""The Mogrifier LSTM with five rounds; see `mogrifier_lstm`."""


def _paper_mgu_init(key: Array, input_size: int, hidden_size: int) -> dict[str, Array]:
    GH = 2 * hidden_size
    init = uniform(1 / math.sqrt(hidden_size))
    return _sample(
        key,
        {
            "weight_ih": (init, (GH, input_size)),
            "weight_hh": (init, (GH, hidden_size)),
            "bias_ih": (init, (GH,)),
            "bias_hh": (init, (GH,)),
        },
    )


def _paper_mgu_step(params: dict[str, Array], carry: Hidden, x: Array) -> tuple[Hidden, Array]:
    h = carry.h
    H = h.shape[-1]  # rows of f; those of n come behind
    x_f, x_n = gates_of(x @ params["weight_ih"].T + params["bias_ih"], 2)
    f = jax.nn.sigmoid(x_f + h @ params["weight_hh"][:H].T + params["bias_hh"][:H])
    n = jnp.tanh(x_n + (f * h) @ params["weight_hh"][H:].T + params["bias_hh"][H:])
    h = h + f * (n - h)
    return Hidden(h), h


PAPER_MGU = FreeCell("paper-mgu", _paper_mgu_init, _paper_mgu_step)
"""The minimal gated unit as its paper has it; `MGU` is Flax's form.

    f  = sigmoid(W_if x + b_if + W_hf h + b_hf)
    n  = tanh(W_in x + b_in + W_hn (f * h) + b_hn)
    h' = (1 - f) * h + f * n

Zhou, Wu, Zhang and Zhou 2016, https://arxiv.org/abs/1603.09420. It starts as torch's cells do,
uniform in +-1 / sqrt(H).
"""

FREE_CELLS = (
    LAYER_NORM_LSTM,
    GRU_RESET_BEFORE,
    MULTIPLICATIVE_LSTM,
    MOGRIFIER_LSTM,
    PAPER_MGU,
)
"""The cells of this file."""
