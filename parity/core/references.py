"""The course's models in PyTorch, with torch's own modules: the reference that JAX must equal.

Shapes: T time steps, B batch, V vocabulary, F embedding size, H hidden size, L layers.

Every twin is called as the model of the same name, `twin(carry, tokens) -> (carry, log_probs)`,
and has the same attributes. A carry is torch's own: () without memory, h (L, B, H), or (h, c).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from jaxrnn.nn import models
from jaxrnn.recurrent.cells import Cell

Carry = Any

LAYERS: dict[str, Callable[..., nn.RNNBase]] = {
    "tanh": nn.RNN,
    "relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}
"""torch's recurrent layers by the name of our cell."""


def repackage(carry: Carry) -> Carry:
    """The same carry without its history."""
    if isinstance(carry, Tensor):
        return carry.detach()
    return tuple(repackage(part) for part in carry)


class CharTwin(nn.Module):
    """What all the twins share: the embedding `e` and the output layer `l_out`."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.e = nn.Embedding(vocabulary, embedding)
        self.l_out = nn.Linear(hidden, vocabulary)

    def logits(self, outputs: Tensor) -> Tensor:
        """(..., H) to (..., V)."""
        return self.l_out(outputs)

    def log_probs(self, outputs: Tensor) -> Tensor:
        """(..., H) to the log probabilities (..., V)."""
        return functional.log_softmax(self.logits(outputs), dim=-1)

    def initial_carry(self, batch: int) -> Carry:
        """The carry from which a text starts."""
        return ()


class Char3Twin(CharTwin):
    """`Char3Model`."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int) -> None:
        super().__init__(vocabulary, embedding, hidden)
        self.l_in = nn.Linear(embedding, hidden)
        self.l_hidden = nn.Linear(hidden, hidden)

    def forward(self, carry: Carry, tokens: Tensor) -> tuple[Carry, Tensor]:
        """Three characters (3, B)."""
        in1, in2, in3 = (functional.relu(self.l_in(self.e(c))) for c in tokens)
        h = torch.zeros_like(in1)
        h = torch.tanh(self.l_hidden(h + in1))
        h = torch.tanh(self.l_hidden(h + in2))
        h = torch.tanh(self.l_hidden(h + in3))
        return carry, self.log_probs(h)


class CharLoopTwin(Char3Twin):
    """`CharLoopModel`."""

    def forward(self, carry: Carry, tokens: Tensor) -> tuple[Carry, Tensor]:
        """Any number of characters (T, B)."""
        h = self.e.weight.new_zeros(tokens.shape[1], self.hidden)
        for c in tokens:
            h = torch.tanh(self.l_hidden(h + functional.relu(self.l_in(self.e(c)))))
        return carry, self.log_probs(h)


class CharLoopConcatTwin(CharTwin):
    """`CharLoopConcatModel`."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int) -> None:
        super().__init__(vocabulary, embedding, hidden)
        self.l_in = nn.Linear(hidden + embedding, hidden)
        self.l_hidden = nn.Linear(hidden, hidden)

    def forward(self, carry: Carry, tokens: Tensor) -> tuple[Carry, Tensor]:
        """Any number of characters (T, B)."""
        h = self.e.weight.new_zeros(tokens.shape[1], self.hidden)
        for c in tokens:
            z = functional.relu(self.l_in(torch.cat((h, self.e(c)), dim=1)))
            h = torch.tanh(self.l_hidden(z))
        return carry, self.log_probs(h)


class CharRnnTwin(CharTwin):
    """`CharRnn`: the last output predicts."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int) -> None:
        super().__init__(vocabulary, embedding, hidden)
        self.rnn = nn.RNN(embedding, hidden)

    def forward(self, carry: Carry, tokens: Tensor) -> tuple[Carry, Tensor]:
        """(T, B) to (B, V)."""
        ys, _ = self.rnn(self.e(tokens))
        return carry, self.log_probs(ys[-1])


class CharSeqRnnTwin(CharRnnTwin):
    """`CharSeqRnn`: every output predicts."""

    def __init__(
        self, vocabulary: int, embedding: int, hidden: int, identity: bool = False
    ) -> None:
        super().__init__(vocabulary, embedding, hidden)
        if identity:
            nn.init.eye_(self.rnn.get_parameter("weight_hh_l0"))

    def forward(self, carry: Carry, tokens: Tensor) -> tuple[Carry, Tensor]:
        """(T, B) to (T, B, V)."""
        ys, _ = self.rnn(self.e(tokens))
        return carry, self.log_probs(ys)


class StatefulTwin(CharTwin):
    """The models whose carry goes on from window to window, cut off from its history."""

    def __init__(
        self, cell: str, vocabulary: int, embedding: int, hidden: int, layers: int, dropout: float
    ) -> None:
        super().__init__(vocabulary, embedding, hidden)
        self.rnn: nn.Module = LAYERS[cell](embedding, hidden, layers, dropout=dropout)
        self.states = 2 if cell == "lstm" else 1
        self.layers = layers

    def initial_carry(self, batch: int) -> Carry:
        """Zeros, in the precision of the weights."""
        zeros = self.e.weight.new_zeros(self.layers, batch, self.hidden)
        return zeros if self.states == 1 else (zeros, zeros.clone())

    def forward(self, carry: Carry, tokens: Tensor) -> tuple[Carry, Tensor]:
        """(T, B) to (T, B, V)."""
        ys, carry = self.rnn(self.e(tokens), repackage(carry))
        return repackage(carry), self.log_probs(ys)


class LoopTwin(StatefulTwin):
    """`CharSeqStatefulRnn2`: a loop over `nn.RNNCell`."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int) -> None:
        super().__init__("tanh", vocabulary, embedding, hidden, 1, 0.0)
        self.rnn = nn.RNNCell(embedding, hidden)

    def forward(self, carry: Carry, tokens: Tensor) -> tuple[Carry, Tensor]:
        """(T, B) to (T, B, V)."""
        h, ys = repackage(carry)[0], []
        for c in tokens:
            h = self.rnn(self.e(c), h)
            ys.append(h)
        return repackage(h[None]), self.log_probs(torch.stack(ys))


class TiedTwin(StatefulTwin):
    """`CharLM` with one table for embedding and output; its bias is called `bias_out`."""

    def __init__(
        self, cell: str, vocabulary: int, hidden: int, layers: int, dropout: float
    ) -> None:
        super().__init__(cell, vocabulary, hidden, hidden, layers, dropout)
        del self.l_out
        nn.init.uniform_(self.e.weight, -(hidden**-0.5), hidden**-0.5)
        self.bias_out = nn.Parameter(torch.zeros(vocabulary))

    def logits(self, outputs: Tensor) -> Tensor:
        """(..., H) to (..., V), with the embedding's table as the kernel."""
        return functional.linear(outputs, self.e.weight, self.bias_out)


def twin_of(model: models.CharModel) -> CharTwin:
    """A fresh twin, in float32 and with torch's initialisation, of a model of the same sizes."""
    try:
        make = TWINS[type(model)]
    except KeyError:
        raise ValueError(
            f"{type(model).__name__} has no twin in PyTorch; add it to TWINS."
        ) from None
    return make(model)


def _sizes(model: models.CharModel) -> tuple[int, int, int]:
    return model.vocabulary, model.embedding, model.hidden


def _stateful(model: models.CharModel, cell: Cell, layers: int, dropout: float) -> CharTwin:
    if cell.name not in LAYERS:
        raise ValueError(f"torch has no layer for the cell {cell.name!r}.")
    return StatefulTwin(cell.name, *_sizes(model), layers, dropout)


def _char_lm(model: Any) -> CharTwin:
    if model.tied:
        return TiedTwin(model.cell.name, *_sizes(model)[::2], model.layers, model.dropout)
    return _stateful(model, model.cell, model.layers, model.dropout)


TWINS: dict[type[models.CharModel], Callable[[Any], CharTwin]] = {
    models.Char3Model: lambda m: Char3Twin(*_sizes(m)),
    models.CharLoopModel: lambda m: CharLoopTwin(*_sizes(m)),
    models.CharLoopConcatModel: lambda m: CharLoopConcatTwin(*_sizes(m)),
    models.CharRnn: lambda m: CharRnnTwin(*_sizes(m)),
    models.CharSeqRnn: lambda m: CharSeqRnnTwin(*_sizes(m), m.identity),
    models.CharSeqStatefulRnn: lambda m: StatefulTwin("tanh", *_sizes(m), 1, 0.0),
    models.CharSeqStatefulRnn2: lambda m: LoopTwin(*_sizes(m)),
    models.CharSeqStatefulGRU: lambda m: StatefulTwin("gru", *_sizes(m), 1, 0.0),
    models.CharSeqStatefulLSTM: lambda m: StatefulTwin("lstm", *_sizes(m), m.layers, m.dropout),
    models.CharLM: _char_lm,
}
"""How to make the twin of each model."""
