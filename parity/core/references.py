"""The course's models in PyTorch, of torch's own modules: the reference that JAX must equal.

Shapes: T time steps, B batch, V vocabulary, F embedding size, H hidden size, L layers.

Every reference is called as the model of the same name, `reference(carry, tokens)`, which gives the
carry and log probabilities, and has the same attributes. A carry is torch's own: () without memory,
h (L, B, H), or a tuple of fields such as (h, c). Recurrent layers that torch has not are loops of
`reference_layers`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from jaxrnn.nn import models
from jaxrnn.recurrent.catalog import CELLS
from parity.core.reference_layers import REFERENCE_CELLS, ReferenceRNN

# torch's carry: (), h, or a tuple of fields.
Carry = Any

# torch's recurrent layers by the name of our cell.
TORCH_LAYERS: dict[str, Callable[..., nn.Module]] = {
    "tanh": nn.RNN,
    "relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}

LAYERS = TORCH_LAYERS | {
    name: partial(ReferenceRNN, cell) for name, cell in REFERENCE_CELLS.items()
}
"""Recurrent layers in PyTorch by the name of our cell, all called as `torch.nn.LSTM`."""

TORCH_CELLS = {name: cell for name, cell in CELLS.items() if name in TORCH_LAYERS}
"""Our cells that torch has a layer for."""

LOOP_CELLS = {name: cell for name, cell in CELLS.items() if name in REFERENCE_CELLS}
"""Our other cells, whose layer in PyTorch is a loop over the equation of one step."""


def repackage(carry: Carry) -> Carry:
    """The same carry without its history."""
    if isinstance(carry, Tensor):
        return carry.detach()
    return tuple(repackage(part) for part in carry)


class CharReference(nn.Module):
    """What all the references share: the embedding `e` and the output layer `l_out`."""

    def __init__(self, vocab_size: int, embedding_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.e = nn.Embedding(vocab_size, embedding_size)
        self.l_out = nn.Linear(hidden_size, vocab_size)

    def logits(self, outputs: Tensor) -> Tensor:
        """(..., H) to (..., V)."""
        return self.l_out(outputs)

    def log_probs(self, outputs: Tensor) -> Tensor:
        """(..., H) to the log probabilities (..., V)."""
        return functional.log_softmax(self.logits(outputs), dim=-1)

    def initial_carry(self, batch_size: int) -> Carry:
        """The carry from which a text starts."""
        return ()


class CharLoopReference(CharReference):
    """`CharLoopModel`, and on three characters `Char3Model`."""

    def __init__(self, vocab_size: int, embedding_size: int, hidden_size: int) -> None:
        super().__init__(vocab_size, embedding_size, hidden_size)
        self.l_in = nn.Linear(embedding_size, hidden_size)
        self.l_hidden = nn.Linear(hidden_size, hidden_size)

    def forward(self, carry: Carry, tokens: Tensor) -> tuple[Carry, Tensor]:
        """Any number of characters (T, B) to (B, V)."""
        h = self.e.weight.new_zeros(tokens.shape[1], self.hidden_size)  # (B, H)
        for c in tokens:
            h = torch.tanh(self.l_hidden(h + functional.relu(self.l_in(self.e(c)))))
        return carry, self.log_probs(h)


class CharLoopConcatReference(CharReference):
    """`CharLoopConcatModel`."""

    def __init__(self, vocab_size: int, embedding_size: int, hidden_size: int) -> None:
        super().__init__(vocab_size, embedding_size, hidden_size)
        self.l_in = nn.Linear(hidden_size + embedding_size, hidden_size)
        self.l_hidden = nn.Linear(hidden_size, hidden_size)

    def forward(self, carry: Carry, tokens: Tensor) -> tuple[Carry, Tensor]:
        """Any number of characters (T, B) to (B, V)."""
        h = self.e.weight.new_zeros(tokens.shape[1], self.hidden_size)  # (B, H)
        for c in tokens:
            z = functional.relu(self.l_in(torch.cat((h, self.e(c)), dim=1)))  # (B, H + F) to (B, H)
            h = torch.tanh(self.l_hidden(z))
        return carry, self.log_probs(h)


class CharSeqRnnReference(CharReference):
    """`CharSeqRnn`: every output predicts."""

    def __init__(
        self, vocab_size: int, embedding_size: int, hidden_size: int, identity: bool = False
    ) -> None:
        super().__init__(vocab_size, embedding_size, hidden_size)
        self.rnn = nn.RNN(embedding_size, hidden_size)
        # The course's remedy for vanishing gradients: the recurrent weight starts as identity.
        if identity:
            nn.init.eye_(self.rnn.get_parameter("weight_hh_l0"))

    def forward(self, carry: Carry, tokens: Tensor) -> tuple[Carry, Tensor]:
        """(T, B) to (T, B, V)."""
        return carry, self.log_probs(self.rnn(self.e(tokens))[0])


class CharRnnReference(CharSeqRnnReference):
    """`CharRnn`: the last output predicts."""

    def forward(self, carry: Carry, tokens: Tensor) -> tuple[Carry, Tensor]:
        """(T, B) to (B, V)."""
        ys = self.rnn(self.e(tokens))[0]  # (T, B, H)
        return carry, self.log_probs(ys[-1])


class StatefulReference(CharReference):
    """The models whose carry goes on from window to window, cut off from its history."""

    def __init__(
        self,
        cell: str,
        vocab_size: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int,
        dropout: float,
    ) -> None:
        super().__init__(vocab_size, embedding_size, hidden_size)
        self.rnn: nn.Module = LAYERS[cell](embedding_size, hidden_size, num_layers, dropout=dropout)
        self.cell = cell
        self.num_layers = num_layers

    def initial_carry(self, batch_size: int) -> Carry:
        """Zeros, in the precision of the weights."""
        if isinstance(self.rnn, ReferenceRNN):
            return self.rnn.initial_carry(batch_size)
        zeros = self.e.weight.new_zeros(self.num_layers, batch_size, self.hidden_size)  # (L, B, H)
        return (zeros, zeros.clone()) if self.cell == "lstm" else zeros

    def forward(self, carry: Carry, tokens: Tensor) -> tuple[Carry, Tensor]:
        """(T, B) to (T, B, V)."""
        # The gradient stops where the window begins.
        ys, carry = self.rnn(self.e(tokens), repackage(carry))
        return repackage(carry), self.log_probs(ys)


class LoopReference(StatefulReference):
    """`CharSeqStatefulRnn2`: a loop over `nn.RNNCell`."""

    def __init__(self, vocab_size: int, embedding_size: int, hidden_size: int) -> None:
        super().__init__("tanh", vocab_size, embedding_size, hidden_size, 1, 0.0)
        # The loop calls it a step at a time, as the course writes it out.
        self.rnn = nn.RNNCell(embedding_size, hidden_size)

    def forward(self, carry: Carry, tokens: Tensor) -> tuple[Carry, Tensor]:
        """(T, B) to (T, B, V)."""
        h = repackage(carry)[0]  # (1, B, H) to (B, H)
        ys = []
        for c in tokens:
            h = self.rnn(self.e(c), h)
            ys.append(h)
        return repackage(h[None]), self.log_probs(torch.stack(ys))


class TiedReference(StatefulReference):
    """`CharLM` with one table for embedding and output; its bias is called `bias_out`."""

    def __init__(
        self, cell: str, vocab_size: int, hidden_size: int, num_layers: int, dropout: float
    ) -> None:
        super().__init__(cell, vocab_size, hidden_size, hidden_size, num_layers, dropout)
        # The table does its work.
        del self.l_out
        # As a Linear layer of this input size starts, since the table is an output layer, too.
        nn.init.uniform_(self.e.weight, -(hidden_size**-0.5), hidden_size**-0.5)
        self.bias_out = nn.Parameter(torch.zeros(vocab_size))

    def logits(self, outputs: Tensor) -> Tensor:
        """(..., H) to (..., V), with the embedding's table as the kernel."""
        return functional.linear(outputs, self.e.weight, self.bias_out)


def reference_of(model: models.CharModel) -> CharReference:
    """A fresh reference of a model, in float32 and with torch's initialization.

    Raises:
        ValueError: if there is none for this model, or PyTorch has no such layer.
    """
    make = REFERENCES.get(type(model))
    if make is None:
        raise ValueError(
            f"{type(model).__name__} has no reference in PyTorch; add it to REFERENCES."
        )
    return make(model)


def _sizes(model: models.CharModel) -> tuple[int, int, int]:
    return model.vocab_size, model.embedding_size, model.hidden_size


def _char_lm(model: Any) -> CharReference:
    cell = model.cell.name
    if cell not in LAYERS:
        raise ValueError(
            f"The cell {cell!r} has no layer in PyTorch; add its step to REFERENCE_CELLS."
        )
    if model.tied:
        return TiedReference(
            cell, model.vocab_size, model.hidden_size, model.num_layers, model.dropout
        )
    return StatefulReference(cell, *_sizes(model), model.num_layers, model.dropout)


# How to make the reference of each model.
REFERENCES: dict[type[models.CharModel], Callable[[Any], CharReference]] = {
    models.Char3Model: lambda m: CharLoopReference(*_sizes(m)),
    models.CharLoopModel: lambda m: CharLoopReference(*_sizes(m)),
    models.CharLoopConcatModel: lambda m: CharLoopConcatReference(*_sizes(m)),
    models.CharRnn: lambda m: CharRnnReference(*_sizes(m)),
    models.CharSeqRnn: lambda m: CharSeqRnnReference(*_sizes(m), m.identity),
    # From here on the carry goes on from window to window.
    models.CharSeqStatefulRnn: lambda m: StatefulReference("tanh", *_sizes(m), 1, 0.0),
    models.CharSeqStatefulRnn2: lambda m: LoopReference(*_sizes(m)),
    models.CharSeqStatefulGRU: lambda m: StatefulReference("gru", *_sizes(m), 1, 0.0),
    models.CharSeqStatefulLSTM: lambda m: StatefulReference(
        "lstm", *_sizes(m), m.num_layers, m.dropout
    ),
    models.CharLM: _char_lm,
}
