"""Recurrent layers that torch has not, in plain PyTorch: a loop over the equation of one step.

Shapes: T time steps, B batch, I input size, H hidden size, G gates, L layers, D directions.

`REFERENCE_CELLS` has an entry for each cell: the parameters of a layer, the fields of its carry,
and the step as the paper writes it, which shares no line with the library's. A `ReferenceRNN` runs
it over time, one step after the other, with torch's own derivatives; it is called as
`torch.nn.LSTM`, packed sequences included.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

Params = Mapping[str, Tensor]
"""The parameters of one layer and direction, without its suffix."""

Fields = tuple[Tensor, ...]
"""The carry of one layer and direction, (B, H) each but for a previous input, (B, I)."""

Shapes = Callable[[int, int], dict[str, tuple[int, ...]]]
"""`shapes(input_size, hidden_size)`: the shape of every parameter of a layer."""


@dataclass(frozen=True)
class ReferenceCell:
    """One step of a recurrent layer.

    Attributes:
        step: `step(params, x, carry) -> carry`, with x (B, I); the first field is the output.
        shapes: the parameters of a layer, by the names that the library gives them.
        fields: the names of the carry's fields.
        inputs: the fields that have the width of the layer's input.
    """

    step: Callable[[Params, Tensor, Fields], Fields]
    shapes: Shapes
    fields: tuple[str, ...] = ("h",)
    inputs: tuple[str, ...] = ()


def gated(gates: int, *vectors: str) -> Shapes:
    """Two products and two biases, as torch's layers have them, and vectors of (H,)."""

    def shapes(input_size: int, hidden_size: int) -> dict[str, tuple[int, ...]]:
        rows = gates * hidden_size
        found: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, hidden_size),
            "bias_ih": (rows,),
            "bias_hh": (rows,),
        }
        return found | {name: (hidden_size,) for name in vectors}

    return shapes


def linear(gates: int, *vectors: str, window: int = 1) -> Shapes:
    """A product with the last `window` inputs alone, its bias, and vectors of (H,)."""

    def shapes(input_size: int, hidden_size: int) -> dict[str, tuple[int, ...]]:
        rows = gates * hidden_size
        found: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, window * input_size),
            "bias_ih": (rows,),
        }
        return found | {name: (hidden_size,) for name in vectors}

    return shapes


def _input_gates(p: Params, x: Tensor, count: int) -> tuple[Tensor, ...]:
    # W_ih x + b_ih, cut: (B, G * H) to G times (B, H).
    return functional.linear(x, p["weight_ih"], p["bias_ih"]).chunk(count, dim=1)


def _hidden_gates(p: Params, h: Tensor, count: int) -> tuple[Tensor, ...]:
    # W_hh h + b_hh, cut.
    return functional.linear(h, p["weight_hh"], p["bias_hh"]).chunk(count, dim=1)


def _gates(p: Params, x: Tensor, h: Tensor, count: int) -> list[Tensor]:
    # Their sums.
    halves = zip(_input_gates(p, x, count), _hidden_gates(p, h, count), strict=True)
    return [of_x + of_h for of_x, of_h in halves]


# Gated cells.


def _peephole_lstm(p: Params, x: Tensor, carry: Fields) -> Fields:
    # Gers, Schraudolph and Schmidhuber 2002, with the tanh of Graves 2013.
    h, c = carry
    i, f, g, o = _gates(p, x, h, 4)
    i = torch.sigmoid(i + p["p_i"] * c)
    f = torch.sigmoid(f + p["p_f"] * c)
    c = f * c + i * torch.tanh(g)
    o = torch.sigmoid(o + p["p_o"] * c)  # sees the new cell state
    return o * torch.tanh(c), c


def _coupled_lstm(p: Params, x: Tensor, carry: Fields) -> Fields:
    # "CIFG" of Greff et al. 2017: i = 1 - f.
    h, c = carry
    f, g, o = _gates(p, x, h, 3)
    f = torch.sigmoid(f)
    i = 1 - f
    c = f * c + i * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _mgu(p: Params, x: Tensor, carry: Fields) -> Fields:
    # `flax.linen.MGUCell`.
    (h,) = carry
    x_f, x_n = _input_gates(p, x, 2)
    h_f, h_n = _hidden_gates(p, h, 2)
    f = torch.sigmoid(x_f + h_f)
    n = torch.tanh(x_n + f * h_n)
    return ((1 - f) * n + f * h,)


def _slstm(p: Params, x: Tensor, carry: Fields) -> Fields:
    # Beck et al. 2024, with a sigmoid as the forget gate and with the stabilizer.
    h, c, n, m = carry
    i, f, z, o = _gates(p, x, h, 4)
    # log(f exp(m)); without a past, where n is 0, the stabilizer is that of the input alone.
    past = torch.where(n == 0, i, functional.logsigmoid(f) + m)
    m = torch.maximum(past, i)
    i = torch.exp(i - m)
    f = torch.exp(past - m)
    c = f * c + i * torch.tanh(z)
    n = f * n + i
    return torch.sigmoid(o) * (c / n), c, n, m


def _zoneout_lstm(p: Params, x: Tensor, carry: Fields) -> Fields:
    # Krueger et al. 2017 outside of training: the expectation, at the rates 0.05 of h and 0.5 of c.
    h, c = carry
    c_after, o = _lstm(torch.cat(_gates(p, x, h, 4), dim=1), c)
    h_after = o * torch.tanh(c_after)
    return 0.05 * h + 0.95 * h_after, 0.5 * c + 0.5 * c_after


# Cells without a recurrent product.


def _pooled(f: Tensor, z: Tensor, c: Tensor) -> Tensor:
    # The pooling of a QRNN: Bradbury et al. 2017.
    f = torch.sigmoid(f)
    return f * c + (1 - f) * torch.tanh(z)


def _qrnn(p: Params, x: Tensor, carry: Fields) -> Fields:
    # fo-pooling, convolution of width 2.
    _, c, x_before = carry
    z, f, o = _input_gates(p, torch.cat((x, x_before), dim=1), 3)  # (B, 2 * I)
    c = _pooled(f, z, c)
    return torch.sigmoid(o) * c, c, x


def _zoneout_qrnn(p: Params, x: Tensor, carry: Fields) -> Fields:
    # The same with the expectation of zoneout at the rate 0.1.
    _, c, x_before = carry
    z, f, o = _input_gates(p, torch.cat((x, x_before), dim=1), 3)  # (B, 2 * I)
    c = 0.1 * c + 0.9 * _pooled(f, z, c)
    return torch.sigmoid(o) * c, c, x


def _qrnn_1(p: Params, x: Tensor, carry: Fields) -> Fields:
    # fo-pooling, width 1.
    z, f, o = _input_gates(p, x, 3)
    c = _pooled(f, z, carry[1])
    return torch.sigmoid(o) * c, c


def _qrnn_f(p: Params, x: Tensor, carry: Fields) -> Fields:
    # f-pooling, convolution of width 2: the cell state is the output.
    _, c, x_before = carry
    z, f = _input_gates(p, torch.cat((x, x_before), dim=1), 2)  # (B, 2 * I)
    c = _pooled(f, z, c)
    return c, c, x


def _positive(x: Tensor) -> Tensor:
    # g of Feng et al. 2024, which makes a candidate positive: their code takes its logarithm.
    return torch.where(x >= 0, x + 0.5, torch.sigmoid(x))


def _mingru(p: Params, x: Tensor, carry: Fields) -> Fields:
    # Feng et al. 2024.
    (h,) = carry
    z, n = _input_gates(p, x, 2)
    z = torch.sigmoid(z)
    return ((1 - z) * h + z * _positive(n),)


def _minlstm(p: Params, x: Tensor, carry: Fields) -> Fields:
    # Feng et al. 2024; the two gates are normalized, so that they add up to 1.
    (h,) = carry
    f, i, n = _input_gates(p, x, 3)
    f = torch.sigmoid(f)
    i = torch.sigmoid(i)
    return (f / (f + i) * h + i / (f + i) * _positive(n),)


def _rg_lru(p: Params, x: Tensor, carry: Fields) -> Fields:
    # De et al. 2024 (Griffin), with c = 8.
    (h,) = carry
    r, i, x_gate = _input_gates(p, x, 3)
    a = torch.exp(-8 * functional.softplus(p["lam"]) * torch.sigmoid(r))
    return (a * h + torch.sqrt(1 - a**2) * torch.sigmoid(i) * x_gate,)


def _lru(p: Params, x: Tensor, carry: Fields) -> Fields:
    # Orvieto et al. 2023, with real eigenvalues.
    (h,) = carry
    (x_gate,) = _input_gates(p, x, 1)
    a = torch.exp(-torch.exp(p["nu"]))
    return (a * h + torch.sqrt(1 - a**2) * x_gate,)


def _sru(p: Params, x: Tensor, carry: Fields) -> Fields:
    # Lei et al. 2018; both gates see the old cell state.
    _, c = carry
    z, f, r, x_gate = _input_gates(p, x, 4)
    f = torch.sigmoid(f + p["v_f"] * c)
    r = torch.sigmoid(r + p["v_r"] * c)
    c = f * c + (1 - f) * z
    return r * c + (1 - r) * x_gate, c


# Cells that multiply matrices in ways of their own.


def _layer_norm(x: Tensor, p: Params, what: str) -> Tensor:
    # Ba, Kiros and Hinton 2016, over all units together.
    return functional.layer_norm(x, x.shape[-1:], p[f"gain_{what}"], p[f"bias_{what}"])


def _lstm(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    # The cell state after a step of an LSTM, and its output gate, from its gates (B, 4 * H).
    i, f, g, o = gates.chunk(4, dim=1)
    return torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g), torch.sigmoid(o)


def _layer_norm_lstm(p: Params, x: Tensor, carry: Fields) -> Fields:
    # Ba, Kiros and Hinton 2016, equations 20 to 22.
    h, c = carry
    of_x = _layer_norm(x @ p["weight_ih"].T, p, "ih")  # (B, 4 * H)
    of_h = _layer_norm(h @ p["weight_hh"].T, p, "hh")
    c, o = _lstm(of_x + of_h + p["bias"], c)
    return o * torch.tanh(_layer_norm(c, p, "c")), c


def _gru_reset_before(p: Params, x: Tensor, carry: Fields) -> Fields:
    # Cho et al. 2014; z weighs the old state.
    (h,) = carry
    x_r, x_z, x_n = _input_gates(p, x, 3)
    h_r, h_z, _ = _hidden_gates(p, h, 3)
    r = torch.sigmoid(x_r + h_r)
    z = torch.sigmoid(x_z + h_z)
    _, _, h_n = _hidden_gates(p, r * h, 3)
    return ((1 - z) * torch.tanh(x_n + h_n) + z * h,)


def _multiplicative_lstm(p: Params, x: Tensor, carry: Fields) -> Fields:
    # Krause, Lu, Murray and Renals 2016.
    h, c = carry
    m = (x @ p["weight_mx"].T) * (h @ p["weight_mh"].T)  # (B, H)
    c, o = _lstm(x @ p["weight_ih"].T + m @ p["weight_hm"].T + p["bias"], c)
    return o * torch.tanh(c), c


def _mogrifier_lstm(p: Params, x: Tensor, carry: Fields) -> Fields:
    # Melis, Kocisky and Blunsom 2020, with five rounds.
    h, c = carry
    for q, r in (("weight_q1", "weight_r2"), ("weight_q3", "weight_r4"), ("weight_q5", None)):
        x = 2 * torch.sigmoid(h @ p[q].T) * x  # (B, I)
        if r is not None:
            h = 2 * torch.sigmoid(x @ p[r].T) * h  # (B, H)
    c, o = _lstm(torch.cat(_gates(p, x, h, 4), dim=1), c)
    return o * torch.tanh(c), c


def _paper_mgu(p: Params, x: Tensor, carry: Fields) -> Fields:
    # Zhou et al. 2016.
    (h,) = carry
    x_f, x_n = _input_gates(p, x, 2)
    f = torch.sigmoid(x_f + _hidden_gates(p, h, 2)[0])
    n = torch.tanh(x_n + _hidden_gates(p, f * h, 2)[1])
    return ((1 - f) * h + f * n,)


def _layer_norm_shapes(input_size: int, hidden_size: int) -> dict[str, tuple[int, ...]]:
    rows = 4 * hidden_size
    found: dict[str, tuple[int, ...]] = {
        "weight_ih": (rows, input_size),
        "weight_hh": (rows, hidden_size),
        "bias": (rows,),
    }
    for kind in ("gain", "bias"):
        found |= {f"{kind}_ih": (rows,), f"{kind}_hh": (rows,), f"{kind}_c": (hidden_size,)}
    return found


def _multiplicative_shapes(input_size: int, hidden_size: int) -> dict[str, tuple[int, ...]]:
    return {
        "weight_ih": (4 * hidden_size, input_size),
        "weight_mx": (hidden_size, input_size),
        "weight_mh": (hidden_size, hidden_size),
        "weight_hm": (4 * hidden_size, hidden_size),
        "bias": (4 * hidden_size,),
    }


def _mogrifier_shapes(input_size: int, hidden_size: int) -> dict[str, tuple[int, ...]]:
    found = gated(4)(input_size, hidden_size)
    found |= {f"weight_q{i}": (input_size, hidden_size) for i in (1, 3, 5)}
    return found | {f"weight_r{i}": (hidden_size, input_size) for i in (2, 4)}


REFERENCE_CELLS: dict[str, ReferenceCell] = {
    "peephole-lstm": ReferenceCell(_peephole_lstm, gated(4, "p_i", "p_f", "p_o"), ("h", "c")),
    "coupled-lstm": ReferenceCell(_coupled_lstm, gated(3), ("h", "c")),
    "mgu": ReferenceCell(_mgu, gated(2)),
    "slstm": ReferenceCell(_slstm, gated(4), ("h", "c", "n", "m")),
    "zoneout-lstm": ReferenceCell(_zoneout_lstm, gated(4), ("h", "c")),
    "qrnn": ReferenceCell(_qrnn, linear(3, window=2), ("h", "c", "x"), inputs=("x",)),
    "zoneout-qrnn": ReferenceCell(
        _zoneout_qrnn, linear(3, window=2), ("h", "c", "x"), inputs=("x",)
    ),
    "qrnn-1": ReferenceCell(_qrnn_1, linear(3), ("h", "c")),
    "qrnn-f": ReferenceCell(_qrnn_f, linear(2, window=2), ("h", "c", "x"), inputs=("x",)),
    "mingru": ReferenceCell(_mingru, linear(2)),
    "minlstm": ReferenceCell(_minlstm, linear(3)),
    "rg-lru": ReferenceCell(_rg_lru, linear(3, "lam")),
    "lru": ReferenceCell(_lru, linear(1, "nu")),
    "sru": ReferenceCell(_sru, linear(4, "v_f", "v_r"), ("h", "c")),
    "layer-norm-lstm": ReferenceCell(_layer_norm_lstm, _layer_norm_shapes, ("h", "c")),
    "gru-reset-before": ReferenceCell(_gru_reset_before, gated(3)),
    "multiplicative-lstm": ReferenceCell(_multiplicative_lstm, _multiplicative_shapes, ("h", "c")),
    "mogrifier-lstm": ReferenceCell(_mogrifier_lstm, _mogrifier_shapes, ("h", "c")),
    "paper-mgu": ReferenceCell(_paper_mgu, gated(2)),
}
"""The step of each cell by the name that the library knows the cell by."""


def part_names(num_layers: int, directions: int) -> list[str]:
    """torch's suffixes of the weights: "l0", "l0_reverse", "l1", ..."""
    ends = ("", "_reverse")[:directions]
    return [f"l{layer}{end}" for layer in range(num_layers) for end in ends]


class ReferenceRNN(nn.Module):
    """A stack of layers, with the arguments, the call and the names of `torch.nn.LSTM`.

    Args:
        cell: what one step does.
        input_size: I.
        hidden_size: H.
        num_layers: L.
        bidirectional: whether a second loop runs from the last step to the first.
        dropout: the share of the outputs of every layer but the last that is dropped.
    """

    def __init__(
        self,
        cell: ReferenceCell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.cell = cell
        self.hidden_size = hidden_size
        self.dropout = dropout
        self.directions = 2 if bidirectional else 1
        self.names = tuple(cell.shapes(input_size, hidden_size))
        # The parts are the layers and directions, in torch's order.
        self.parts = part_names(num_layers, self.directions)
        self.widths: list[int] = []  # of the input of each part
        bound = hidden_size**-0.5  # as torch's layers start
        for part in self.parts:
            first = part.startswith("l0")
            self.widths.append(input_size if first else self.directions * hidden_size)
            for name, shape in cell.shapes(self.widths[-1], hidden_size).items():
                parameter = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
                self.register_parameter(f"{name}_{part}", parameter)

    def initial_carry(self, batch_size: int) -> Any:
        """Zeros: one field, or a tuple of them."""
        like = next(self.parameters())
        parts = []
        for input_size in self.widths:
            fields = []
            for name in self.cell.fields:
                width = input_size if name in self.cell.inputs else self.hidden_size
                fields.append(like.new_zeros(batch_size, width))
            parts.append(tuple(fields))
        return torch_carry(by_field(parts, torch.stack))

    def forward(self, xs: Any, carry: Any = None) -> tuple[Any, Any]:
        """Outputs (T, B, D * H) and the carry, from inputs (T, B, I), packed or not.

        A field of the carry is (L * D, B, H); one whose width differs from layer to layer is a
        tuple of (B, I) instead.
        """
        if not isinstance(xs, PackedSequence):
            return self._stack(xs, carry, None)
        padded, lengths = pad_packed_sequence(xs)
        counted = torch.arange(len(padded))[:, None] < lengths  # (T, B)
        ys, carry = self._stack(padded, carry, counted.to(padded.device))
        return pack_padded_sequence(ys, lengths, enforce_sorted=False), carry

    def _stack(self, xs: Tensor, carry: Any, counted: Tensor | None) -> tuple[Tensor, Any]:
        fields = self.initial_carry(xs.shape[1]) if carry is None else carry
        if isinstance(fields, Tensor):
            fields = (fields,)
        after = []
        outputs: list[Tensor] = []
        for k, part in enumerate(self.parts):
            if k and k % self.directions == 0:
                # The next layer reads the outputs of all directions below it.
                xs = torch.cat(outputs, dim=-1)  # (T, B, D * H)
                xs = functional.dropout(xs, self.dropout, self.training)
                outputs = []
            before = tuple(field[k] for field in fields)
            last, ys = self._over_time(part, xs, before, counted)
            after.append(last)
            outputs.append(ys)
        return torch.cat(outputs, dim=-1), torch_carry(by_field(after, torch.stack))

    def _over_time(
        self, part: str, xs: Tensor, carry: Fields, counted: Tensor | None
    ) -> tuple[Fields, Tensor]:
        # The carry after the last step and the outputs, (T, B, H).
        params = {name: self.get_parameter(f"{name}_{part}") for name in self.names}
        times = range(len(xs))
        if part.endswith("_reverse"):
            times = times[::-1]
        ys = [xs] * len(xs)
        for t in times:
            after = self.cell.step(params, xs[t], carry)
            ys[t] = after[0]
            if counted is not None:
                # As in a packed sequence: a step that does not count leaves the carry.
                rows = counted[t][:, None]  # (B,) to (B, 1)
                fields = zip(after, carry, strict=True)
                after = tuple(torch.where(rows, new, old) for new, old in fields)
                ys[t] = torch.where(rows, ys[t], 0)
            carry = after
        return carry, torch.stack(ys)


def by_field(parts: Sequence[Sequence[Any]], stack: Callable[[Any], Any]) -> list[Any]:
    """The carries of all layers and directions, field by field.

    Args:
        parts: for each layer and direction the fields.
        stack: makes one array, (L * D, B, H), of those that have the same shape.

    Returns:
        For each field an array, or a tuple of arrays whose shapes differ.
    """
    fields = []
    for states in zip(*parts, strict=True):
        same = len({tuple(state.shape) for state in states}) == 1
        fields.append(stack(states) if same else states)
    return fields


def torch_carry(fields: Sequence[Any]) -> Any:
    """A carry's fields as torch's layers take and give them: h, or (h, c)."""
    return fields[0] if len(fields) == 1 else tuple(fields)
