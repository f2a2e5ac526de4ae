"""Generation in PyTorch, both ways that people write it.

`TorchCells` is a Python loop over `nn.RNNCell`, `nn.GRUCell` or `nn.LSTMCell`; `TorchModule` calls
the stateful module with sequences of one character. Both run under `inference_mode` and sample with
`torch.multinomial` from the softmax, or take the argmax.

Shapes: B batch, V vocabulary.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.baselines.torch_modules import Model, model_of, zeros
from benchmarks.cases import CHECKED_CHARACTERS, EMBEDDING, VOCABULARY, Case
from benchmarks.data import Weights

CELL: dict[str, Any] = {"tanh": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}


class Cells(nn.Module):
    """Embedding, one recurrent cell, output layer."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.e = nn.Embedding(VOCABULARY, EMBEDDING)
        self.rnn = CELL[case.cell](EMBEDDING, case.hidden_size)
        self.l_out = nn.Linear(case.hidden_size, VOCABULARY)

    def forward(self, token: Any, carry: Any) -> tuple[Any, Any]:
        """Logits (B, V), and the carry after one token (B,)."""
        carry = self.rnn(self.e(token), carry)
        return self.l_out(carry[0] if isinstance(carry, tuple) else carry), carry


class OneByOne(nn.Module):
    """The stateful module, called with T = 1."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, token: Any, carry: Any) -> tuple[Any, Any]:
        """Logits (B, V), and the carry after one token (B,)."""
        logits, carry = self.model(token[None], carry)
        return logits[0], carry


class TorchGeneration:
    """Generation in a Python loop over the characters.

    Args:
        cells: whether the loop is over a cell; over the stateful module if False.
    """

    def __init__(self, case: Case, weights: Weights, tokens: np.ndarray, *, cells: bool) -> None:
        if case.num_layers != 1:
            raise ValueError(f"Generation is measured with 1 layer, got {case.num_layers}.")
        self._case = case
        self._prompt = torch.from_numpy(tokens).long()
        carry = zeros(case)
        if cells:
            self._model: nn.Module = Cells(case)
            named = {name.removesuffix("_l0"): a for name, a in weights.items()}
            self._model.load_state_dict({n: torch.from_numpy(a) for n, a in named.items()})
            carry = tuple(c[0] for c in carry) if isinstance(carry, tuple) else carry[0]
        else:
            self._model = OneByOne(model_of(case, weights))
        self._carry = carry

    def check(self) -> list[float]:
        """The first characters generated greedily."""
        length = min(CHECKED_CHARACTERS, self._case.steps)
        tokens = self._generate(length, sampled=False)
        return [float(token) for token in tokens.flatten()]

    def run(self, count: int) -> None:
        """Generate `count` texts."""
        for _ in range(count):
            self._generate(self._case.steps, sampled=self._case.sampled)

    @torch.inference_mode()
    def _generate(self, length: int, *, sampled: bool) -> Any:
        """The tokens (length, B) that follow the prompt."""
        token = self._prompt
        carry = self._carry
        tokens = []
        choose = _sampled if sampled else _greedy
        for _ in range(length):
            logits, carry = self._model(token, carry)
            token = choose(logits)
            tokens.append(token)
        return torch.stack(tokens)


def _greedy(logits: Any) -> Any:
    return logits.argmax(-1)


def _sampled(logits: Any) -> Any:
    return torch.multinomial(logits.softmax(-1), 1)[:, 0]
