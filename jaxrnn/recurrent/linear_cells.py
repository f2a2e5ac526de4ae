"""Linear cells of the literature: QRNN, minGRU, minLSTM, RG-LRU, a real diagonal LRU; and SRU.

Each beside its equation and paper. All of them run on three backends: compiled, as a scan, and,
but for SRU, in parallel over time (`jaxrnn.recurrent.linear`). W, b are `weight_ih` and `bias_ih`;
none of them has a `weight_hh`.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxrnn.recurrent.cells import Cell, HiddenAndCell, gates_of
from jaxrnn.recurrent.linear import LinearCell

RG_LRU_POWER = 8.0
"""c of RG-LRU: a = sigmoid(lambda)^(c * r); the value of the paper."""


def _qrnn_coefficients(gates: Array) -> tuple[Array, Array]:
    z, f, *_ = jnp.split(gates, 3, axis=-1)
    f = jax.nn.sigmoid(f)
    return f, (1 - f) * jnp.tanh(z)


def _qrnn_output(c: Array, gates: Array) -> Array:
    *_, o = gates_of(gates, 3)
    return jax.nn.sigmoid(o) * c


def _f_pooling(gates: Array) -> tuple[Array, Array]:
    z, f = gates_of(gates, 2)
    f = jax.nn.sigmoid(f)
    return f, (1 - f) * jnp.tanh(z)


def _positive(x: Array) -> Array:
    """g of minGRU and minLSTM: x + 1/2 from 0 on, sigmoid(x) below; positive everywhere."""
    return jnp.where(x >= 0, x + 0.5, jax.nn.sigmoid(x))


def _min_gru_coefficients(gates: Array) -> tuple[Array, Array]:
    z, n = gates_of(gates, 2)
    return jax.nn.sigmoid(-z), jax.nn.sigmoid(z) * _positive(n)


def _min_lstm_coefficients(gates: Array) -> tuple[Array, Array]:
    f, i, n = gates_of(gates, 3)
    # sigmoid(f) / (sigmoid(f) + sigmoid(i)) in a form that has no 0 / 0 where both are small.
    share = jax.nn.sigmoid(jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i))
    return share, (1 - share) * _positive(n)


def _positive_decay(decay: Array) -> Array:
    # Where -log a rounds to 0, the slope of `_norm_scale` is infinite, and infinity x 0 is NaN. One
    # step of the format further the gradient is right: it goes to 0 with a square root.
    return jnp.maximum(decay, jnp.finfo(decay.dtype).tiny)


def _norm_scale(decay: Array) -> Array:
    """sqrt(1 - a^2) from -log a: 1 - a^2 itself cancels where a is near 1."""
    return jnp.sqrt(-jnp.expm1(-2 * decay))


def _rg_lru_coefficients(gates: Array, *, lam: Array) -> tuple[Array, Array]:
    r, i, x = gates_of(gates, 3)
    decay = _positive_decay(RG_LRU_POWER * jax.nn.sigmoid(r) * jax.nn.softplus(lam))
    return jnp.exp(-decay), _norm_scale(decay) * jax.nn.sigmoid(i) * x


def _rg_lru_init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """a^c = sigmoid(-lam)^c uniform in [0.9, 0.999]: the paper's, section 2.4."""
    ring = jax.random.uniform(key, shape, dtype, 0.9, 0.999)
    root = ring ** (1 / RG_LRU_POWER)  # sigmoid(-lam)
    return jnp.log1p(-root) - jnp.log(root)


def _lru_coefficients(gates: Array, *, nu: Array) -> tuple[Array, Array]:
    decay = _positive_decay(jnp.exp(nu))
    return jnp.broadcast_to(jnp.exp(-decay), gates.shape), _norm_scale(decay) * gates


def _lru_init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """a uniform on the ring between 0.9 and 0.999, by area: the paper's, section 3.3."""
    low, high = 0.9, 0.999
    square = jax.random.uniform(key, shape, dtype) * (high**2 - low**2) + low**2
    return jnp.log(-0.5 * jnp.log(square))


def _sru_step(
    carry: HiddenAndCell, x_gates: Array, h_gates: Array, *, v_f: Array, v_r: Array
) -> HiddenAndCell:
    z, f, r, x = gates_of(x_gates + h_gates, 4)
    f = jax.nn.sigmoid(f + v_f * carry.c)
    r = jax.nn.sigmoid(r + v_r * carry.c)
    c = f * carry.c + (1 - f) * z
    return HiddenAndCell(r * c + (1 - r) * x, c)


def qrnn(*, pooling: str = "fo", window: int = 2, name: str | None = None) -> LinearCell:
    """A quasi-recurrent network: convolutions over time, and pooling without a product.

        z = tanh(W_z x + b_z);  f = sigmoid(W_f x + b_f);  o = sigmoid(W_o x + b_o)
        c' = f * c + (1 - f) * z
        h' = o * c'      ("fo"),   or   h' = c'   ("f", which has no o)

    with x the input of the step and, in a window of 2, the one before it. Bradbury et al. 2017,
    https://arxiv.org/abs/1611.01576.

    Args:
        pooling: "fo" or "f".
        window: 1 or 2, how many inputs each step sees.
        name: the cell's name; made of pooling and window if None.

    Raises:
        ValueError: if there is no such pooling or window.
    """
    if pooling not in ("fo", "f"):
        raise ValueError(f"pooling must be 'fo' or 'f', got {pooling!r}.")
    name = name or f"qrnn-{pooling}-{window}"
    if pooling == "f":
        return LinearCell(name, ("z", "f"), coefficients=_f_pooling, window=window)
    return LinearCell(
        name,
        ("z", "f", "o"),
        carry=HiddenAndCell,
        coefficients=_qrnn_coefficients,
        output=_qrnn_output,
        window=window,
    )


QRNN = qrnn(name="qrnn")
"""`qrnn` with fo-pooling and a window of 2, as the paper's language model."""

QRNN_1 = qrnn(window=1, name="qrnn-1")
"""`qrnn` with fo-pooling and a window of 1."""

QRNN_F = qrnn(pooling="f", name="qrnn-f")
"""`qrnn` with f-pooling and a window of 2."""

MIN_GRU = LinearCell("mingru", ("z", "n"), coefficients=_min_gru_coefficients)
"""The minimal GRU, in the form that is positive.

    z  = sigmoid(W_z x + b_z)
    h' = (1 - z) * h + z * g(W_n x + b_n)

with g(x) = x + 1/2 for x >= 0, else sigmoid(x). Feng et al. 2024,
https://arxiv.org/abs/2410.01201, whose own code works with logarithms of the same numbers.
"""

MIN_LSTM = LinearCell("minlstm", ("f", "i", "n"), coefficients=_min_lstm_coefficients)
"""The minimal LSTM, with gates that add up to 1.

    f  = sigmoid(W_f x + b_f);  i = sigmoid(W_i x + b_i)
    h' = f / (f + i) * h + i / (f + i) * g(W_n x + b_n)

with g as in `MIN_GRU`. Feng et al. 2024, https://arxiv.org/abs/2410.01201.
"""

RG_LRU = LinearCell(
    "rg-lru",
    ("r", "i", "x"),
    params=("lam",),
    param_init={"lam": _rg_lru_init},
    coefficients=_rg_lru_coefficients,
)
"""The real-gated linear recurrent unit.

    r  = sigmoid(W_r x + b_r);  i = sigmoid(W_i x + b_i)
    a  = exp(-8 * softplus(lam) * r)
    h' = a * h + sqrt(1 - a^2) * (i * (W_x x + b_x))

De et al. 2024 (Griffin), https://arxiv.org/abs/2402.19427. The paper's unit takes x as it is, after
a projection outside; with W_x = 1 and b_x = 0 this is the same function. Its code does not scale
the input by sqrt(1 - a^2) at the first step of a text; this one does.
"""

LRU = LinearCell(
    "lru",
    ("x",),
    params=("nu",),
    param_init={"nu": _lru_init},
    coefficients=_lru_coefficients,
)
"""A linear recurrent unit with a real diagonal.

    h' = a * h + sqrt(1 - a^2) * (W x + b),   a = exp(-exp(nu))

Orvieto et al. 2023, https://arxiv.org/abs/2303.06349, with real eigenvalues instead of complex
ones.
"""

SRU = Cell(
    "sru",
    gates=("z", "f", "r", "x"),
    step=_sru_step,
    carry=HiddenAndCell,
    params=("v_f", "v_r"),
    recurrent_gates=(),
)
"""The simple recurrent unit, whose gates see the state through a weight a unit.

    f  = sigmoid(W_f x + b_f + v_f * c);  r = sigmoid(W_r x + b_r + v_r * c)
    c' = f * c + (1 - f) * (W_z x + b_z)
    h' = r * c' + (1 - r) * (W_x x + b_x)

Lei et al. 2018, https://arxiv.org/abs/1709.02755; the highway connection has a projection, as where
the paper's input and state differ in size. Its gates depend on c, so it is not linear in it, and
does not run in parallel over time.
"""

LINEAR_CELLS: tuple[Cell, ...] = (QRNN, QRNN_1, QRNN_F, MIN_GRU, MIN_LSTM, RG_LRU, LRU, SRU)
"""The cells of this file."""
