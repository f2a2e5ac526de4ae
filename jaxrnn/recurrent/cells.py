"""Cells: what a recurrent network does in one time step, as one elementwise function.

Shapes: B batch, H hidden size, G the number of gates of the cell.

A cell never multiplies matrices. `jaxrnn.recurrent.recurrence` hands it the two halves of the
gates,

    x_gates = x @ weight_ih.T + bias_ih        (B, G * H)
    h_gates = h @ weight_hh.T + bias_hh        (B, G * H)

and the cell turns them, with the carry, into the next carry. A cell of your own is the same few
lines and gets everything that is built on cells: layers, directions, training, generation.

    def step(carry, x_gates, h_gates):
        forget, candidate = gates_of(x_gates + h_gates, 2)
        forget = jax.nn.sigmoid(forget)
        return Hidden(forget * carry.h + (1 - forget) * jnp.tanh(candidate))

    FORGETFUL = Cell("forgetful", gates=("f", "n"), step=step)

On a CPU it also runs at the speed of ours: the compiled recurrence is generated from the step.

A cell with `recurrent_gates=()` has no product with h: `h_gates` is then its bias alone, (G * H,)
for every row, and the layer has `weight_ih` and `bias_ih` only. If its next carry is linear in the
one before, it is better written as a `jaxrnn.recurrent.linear.LinearCell`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax.export import register_namedtuple_serialization
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrnn.array_checks import described
from jaxrnn.checks import check_at_least_1, shown
from jaxrnn.recurrent.dry_run import (
    check_call,
    check_carry_type,
    dry_run,
    dry_run_free,
    is_own,
    names_of,
)

_Carry = TypeVar("_Carry")
_EXPORTABLE: dict[type, str] = {}


def exportable(carry: type[_Carry]) -> type[_Carry]:
    """Name the class of a carry to `jax.export`, so that exported programs with it can be saved.

    A class that is defined again under the same name, as in a notebook, has a number after it.
    """
    if carry not in _EXPORTABLE:
        name = f"{carry.__module__}.{carry.__qualname__}"
        same = list(_EXPORTABLE.values()).count(name)
        _EXPORTABLE[carry] = name
        register_namedtuple_serialization(
            carry, serialized_name=f"{name}#{same + 1}" if same else name
        )
    return carry


@exportable
class Hidden(NamedTuple):
    """The carry of a cell whose whole memory is its output."""

    h: Float[Array, "B H"]


@exportable
class HiddenAndCell(NamedTuple):
    """The carry of an LSTM: the output `h` and the cell state `c`."""

    h: Float[Array, "B H"]
    c: Float[Array, "B H"]


@exportable
class SLSTMCarry(NamedTuple):
    """The carry of an sLSTM: output, cell state, normalizer and stabilizer."""

    h: Float[Array, "B H"]
    c: Float[Array, "B H"]
    n: Float[Array, "B H"]
    m: Float[Array, "B H"]


Carry = Any
"""A NamedTuple whose first field is `h`, the output; every field is (B, H)."""

Step = Callable[..., Any]
"""`step(carry, x_gates, h_gates, **params) -> carry`."""

Params = Mapping[str, Float[Array, " H"]]
"""The parameters per unit of a cell, by name."""

Initializer = Callable[..., Array]
"""`init(key, shape, dtype) -> array`, as in Flax."""


class Zoneout(NamedTuple):
    """What a cell with zoneout does while it trains; made by `jaxrnn.recurrent.zoneout`.

    Attributes:
        training: the cell with one gate more, that says which fields keep their value.
        rates: the probability of that for each field of the carry.
    """

    training: Any
    rates: tuple[float, ...]


@dataclass(frozen=True)
class Cell:
    """A recurrent cell: the shape of its carry and one elementwise step.

    Args:
        name: the name by which `CELLS` and a run's configuration know the cell.
        gates: one letter a gate, in the order of the rows of `weight_ih` and `weight_hh`.
        step: `step(carry, x_gates, h_gates, **params) -> carry`, elementwise, with gates of
            (B, G * H) and parameters of (H,).
        carry: the NamedTuple of the carry; `h` comes first.
        params: the names of the parameters per unit, vectors of (H,) that the step takes by name.
            A layer makes and trains them: `p_i` is `p_i_l0` in layer 0.
        param_init: how some of them start, by name; the others as the weights do, uniform in
            +-1 / sqrt(H).
        recurrent_gates: the gates that have a product with h: all of them (None), or none (()).
        zoneout: what is different in training, from `jaxrnn.zoneout`; None is nothing.

    Raises:
        ValueError: if `recurrent_gates` names only some of the gates, or the step, run on shapes
            alone, does not give the carry that it takes.
    """

    name: str
    gates: tuple[str, ...]
    step: Step
    carry: Any = Hidden
    params: tuple[str, ...] = ()
    param_init: Mapping[str, Initializer] = field(default_factory=dict, hash=False)
    recurrent_gates: tuple[str, ...] | None = None
    zoneout: Zoneout | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "gates", names_of("gates", self.gates, least=1))
        object.__setattr__(self, "params", names_of("params", self.params, least=0))
        if self.recurrent_gates is not None:
            recurrent = names_of("recurrent_gates", self.recurrent_gates, least=0)
            object.__setattr__(self, "recurrent_gates", recurrent)
        if self.recurrent_gates not in (None, (), self.gates):
            raise ValueError(
                f"recurrent_gates must be all gates, {self.gates}, or none, (); got "
                f"{self.recurrent_gates}."
            )
        check_carry_type(self.name, self.carry)
        self._check_param_init()
        self._check_step()
        exportable(self.carry)

    def _check_param_init(self) -> None:
        """Refuse what are no functions by the names of the parameters."""
        named = isinstance(self.param_init, Mapping) and set(self.param_init) <= set(self.params)
        if named and all(map(callable, self.param_init.values())):
            return
        raise ValueError(
            f"param_init of the cell {self.name!r} must be functions of (key, shape, dtype) by the "
            f"names of its params, {self.params}; got {shown(self.param_init)}."
        )

    def _check_step(self) -> None:
        """Refuse a step that does not give the carry that it takes."""
        if is_own(self.step):
            return
        params = dict.fromkeys(self.params)
        check_call(self.name, "step", self.step, "carry", "x_gates", "h_gates", **params)
        dry_run(self)

    @property
    def recurrent(self) -> bool:
        """Whether there is a product with h, and a `weight_hh`."""
        return self.recurrent_gates != ()

    def zeros(self, batch_size: int, hidden_size: int, dtype: DTypeLike = jnp.float32) -> Carry:
        """The carry from which a text starts: zeros, (B, H) a field."""
        return self.carry(
            *(jnp.zeros((batch_size, hidden_size), dtype) for _ in self.carry._fields)
        )


@dataclass(frozen=True)
class FreeCell:
    """A recurrent cell whose step is any function of parameters, carry and input.

    It runs as a plain `lax.scan` with JAX's own derivatives: slower than a `Cell`, which leaves
    both products to the layer, and free of every rule but these.

    Args:
        name: the name by which `CELLS` and a run's configuration know the cell.
        init: `init(key, input_size, hidden_size) -> params`, a dictionary of arrays by name.
        step: `step(params, carry, x) -> (carry, y)`, with x of (B, I) and y of (B, H).
        carry: the NamedTuple of the carry; `h`, (B, H), comes first.
        carry_init: `carry_init(batch_size, hidden_size, dtype) -> carry`, from which a text starts;
            zeros of (B, H) in every field if None.

    Raises:
        ValueError: if init or step, run on shapes alone, gives something else.
    """

    name: str
    init: Callable[[Array, int, int], dict[str, Array]]
    step: Callable[[dict[str, Array], Any, Array], tuple[Any, Array]]
    carry: Any = Hidden
    carry_init: Callable[[int, int, DTypeLike], Any] | None = None

    def __post_init__(self) -> None:
        check_carry_type(self.name, self.carry)
        if is_own(self.step):
            return
        check_call(self.name, "init", self.init, "key", "input_size", "hidden_size")
        check_call(self.name, "step", self.step, "params", "carry", "x")
        dry_run_free(self)

    def initial_carry(
        self, batch_size: int, hidden_size: int, dtype: DTypeLike = jnp.float32
    ) -> Carry:
        """The carry from which a text starts."""
        if self.carry_init is not None:
            return self.carry_init(batch_size, hidden_size, dtype)
        shape = (batch_size, hidden_size)
        return self.carry(*(jnp.zeros(shape, dtype) for _ in self.carry._fields))


AnyCell: TypeAlias = Any
"""A `Cell`, a `FreeCell`, or another kind that `jaxrnn.recurrent.layer.LAYERS` has a layer for."""


def gates_of(gates: Float[Array, "B GH"], count: int) -> list[Float[Array, "B H"]]:
    """Cut (B, G * H) into `count` gates of (B, H).

    Raises:
        ValueError: if they cannot be cut into so many of the same width.
    """
    check_at_least_1(count=count)
    shape = getattr(gates, "shape", ())
    if not shape or shape[-1] % count:
        raise ValueError(
            f"gates must be an array (B, G * H) that {count} gates of the same width make up, got "
            f"{described(gates)}."
        )
    return jnp.split(gates, count, axis=-1)


def _tanh_step(carry: Hidden, x_gates: Array, h_gates: Array) -> Hidden:
    return Hidden(jnp.tanh(x_gates + h_gates))


def _relu_step(carry: Hidden, x_gates: Array, h_gates: Array) -> Hidden:
    return Hidden(jax.nn.relu(x_gates + h_gates))


def _gru_step(carry: Hidden, x_gates: Array, h_gates: Array) -> Hidden:
    x_r, x_z, x_n = gates_of(x_gates, 3)  # (B, H) each
    h_r, h_z, h_n = gates_of(h_gates, 3)
    r = jax.nn.sigmoid(x_r + h_r)
    z = jax.nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + r * h_n)
    # One multiplication less than (1 - z) * n + z * h.
    return Hidden(n + z * (carry.h - n))


def _lstm_step(carry: HiddenAndCell, x_gates: Array, h_gates: Array) -> HiddenAndCell:
    i, f, g, o = gates_of(x_gates + h_gates, 4)  # (B, H) each
    c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return HiddenAndCell(jax.nn.sigmoid(o) * jnp.tanh(c), c)


def _peephole_lstm_step(
    carry: HiddenAndCell, x_gates: Array, h_gates: Array, *, p_i: Array, p_f: Array, p_o: Array
) -> HiddenAndCell:
    # (B, H) each; p_i, p_f and p_o have (H,).
    i, f, g, o = gates_of(x_gates + h_gates, 4)
    i = jax.nn.sigmoid(i + p_i * carry.c)
    f = jax.nn.sigmoid(f + p_f * carry.c)
    c = f * carry.c + i * jnp.tanh(g)
    o = jax.nn.sigmoid(o + p_o * c)  # of the new cell state, where i and f have seen the old one
    return HiddenAndCell(o * jnp.tanh(c), c)


def _coupled_lstm_step(carry: HiddenAndCell, x_gates: Array, h_gates: Array) -> HiddenAndCell:
    f, g, o = gates_of(x_gates + h_gates, 3)
    n = jnp.tanh(g)
    # f * c + (1 - f) * n: what is forgotten makes room for as much that is new.
    c = n + jax.nn.sigmoid(f) * (carry.c - n)
    return HiddenAndCell(jax.nn.sigmoid(o) * jnp.tanh(c), c)


def _mgu_step(carry: Hidden, x_gates: Array, h_gates: Array) -> Hidden:
    x_f, x_n = gates_of(x_gates, 2)
    h_f, h_n = gates_of(h_gates, 2)
    f = jax.nn.sigmoid(x_f + h_f)
    n = jnp.tanh(x_n + f * h_n)  # f is the GRU's reset gate and its update gate in one
    return Hidden(n + f * (carry.h - n))


def _slstm_step(carry: SLSTMCarry, x_gates: Array, h_gates: Array) -> SLSTMCarry:
    i, f, z, o = gates_of(x_gates + h_gates, 4)
    # Before the first step n is 0: there is no past, and what m is must not matter.
    past = jnp.where(carry.n == 0, i, jax.nn.log_sigmoid(f) + carry.m)
    m = jnp.maximum(past, i)
    i = jnp.exp(i - m)  # at most 1, as is f
    f = jnp.exp(past - m)
    c = f * carry.c + i * jnp.tanh(z)
    n = f * carry.n + i
    return SLSTMCarry(jax.nn.sigmoid(o) * c / n, c, n, m)


TANH = Cell("tanh", gates=("h",), step=_tanh_step)
"""h' = tanh(W_ih x + b_ih + W_hh h + b_hh), as `torch.nn.RNN`. Elman 1990."""

RELU = Cell("relu", gates=("h",), step=_relu_step)
"""h' = relu(W_ih x + b_ih + W_hh h + b_hh), as `torch.nn.RNN(nonlinearity="relu")`."""

GRU = Cell("gru", gates=("r", "z", "n"), step=_gru_step)
"""The gated recurrent unit as `torch.nn.GRU` computes it.

    r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
    z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n  = tanh(W_in x + b_in + r * (W_hn h + b_hn))
    h' = n + z * (h - n)

The reset gate multiplies the finished product, `b_hn` included. The paper multiplies `h` before
the product (Cho et al. 2014, https://arxiv.org/abs/1406.1078); the two are different functions.
"""

LSTM = Cell("lstm", gates=("i", "f", "g", "o"), step=_lstm_step, carry=HiddenAndCell)
"""Long short-term memory with a forget gate, as `torch.nn.LSTM`.

    c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h' = sigmoid(o) * tanh(c')

with i, f, g, o the quarters of W_ih x + b_ih + W_hh h + b_hh. Hochreiter and Schmidhuber 1997;
the forget gate is from Gers et al. 2000.
"""

PEEPHOLE_LSTM = Cell(
    "peephole-lstm",
    gates=("i", "f", "g", "o"),
    step=_peephole_lstm_step,
    carry=HiddenAndCell,
    params=("p_i", "p_f", "p_o"),
)
"""The LSTM whose gates see the cell state through a weight a unit, p_i, p_f and p_o.

    c' = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g)
    h' = sigmoid(o + p_o * c') * tanh(c')

with i, f, g, o as in `LSTM`. Gers, Schraudolph and Schmidhuber 2002,
https://www.jmlr.org/papers/v3/gers02a.html, with the tanh of Graves 2013,
https://arxiv.org/abs/1308.0850.
"""

COUPLED_LSTM = Cell(
    "coupled-lstm", gates=("f", "g", "o"), step=_coupled_lstm_step, carry=HiddenAndCell
)
"""The LSTM that writes as much as it forgets: its input gate is 1 - sigmoid(f).

    c' = sigmoid(f) * c + (1 - sigmoid(f)) * tanh(g)
    h' = sigmoid(o) * tanh(c')

with f, g, o the thirds of W_ih x + b_ih + W_hh h + b_hh. "CIFG" in Greff et al. 2017,
https://arxiv.org/abs/1503.04069.
"""

MGU = Cell("mgu", gates=("f", "n"), step=_mgu_step)
"""The minimal gated unit in the form of `flax.linen.MGUCell`.

    f  = sigmoid(W_if x + b_if + W_hf h + b_hf)
    n  = tanh(W_in x + b_in + f * (W_hn h + b_hn))
    h' = (1 - f) * n + f * h

The paper multiplies `h` by f before the product, and exchanges f and 1 - f in the last line
(Zhou et al. 2016, https://arxiv.org/abs/1603.09420).
"""

SLSTM = Cell("slstm", gates=("i", "f", "z", "o"), step=_slstm_step, carry=SLSTMCarry)
"""The scalar LSTM of xLSTM, with an exponential input gate and a forget gate that is a sigmoid.

    m' = max(log sigmoid(f) + m, i)
    c' = exp(log sigmoid(f) + m - m') * c + exp(i - m') * tanh(z)
    n' = exp(log sigmoid(f) + m - m') * n + exp(i - m')
    h' = sigmoid(o) * c' / n'

with i, f, z, o the quarters of W_ih x + b_ih + W_hh h + b_hh. The stabilizer m keeps the
exponentials in range and changes no output; where n is 0, before the first step, m' = i. Beck et
al. 2024, https://arxiv.org/abs/2405.04517; the paper's heads, blocks on the diagonal of the
recurrent weight, are one full weight here.
"""


GATED_CELLS = (TANH, RELU, GRU, LSTM, PEEPHOLE_LSTM, COUPLED_LSTM, MGU, SLSTM)
"""The cells of this file."""
