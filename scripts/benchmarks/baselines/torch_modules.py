"""PyTorch's own modules: `nn.RNN`, `nn.GRU`, `nn.LSTM`, eager or compiled.

Trained as its documentation recommends: `zero_grad(set_to_none=True)` (the default), cross
entropy, backward, `clip_grad_norm_`, fused Adam; the carry is detached between windows.

`torch.compile` leaves recurrent modules alone unless `torch._dynamo.config.allow_rnn` is set: by
default it captures nothing of this model. It is set here; the loop over time is then unrolled, so
that long windows may run into the time limit.

On a GPU its recurrent modules are cuDNN's; TF32, which they use by default, is off.
"""

import os
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.arithmetic import norm
from benchmarks.cases import CLIP, EMBEDDING, RATE, VOCABULARY, Case
from benchmarks.data import Weights, streams
from benchmarks.process import DEVICE

device = torch.device(os.environ.get(DEVICE, "cpu"))
torch.backends.cudnn.allow_tf32 = False

LAYER: dict[str, Any] = {"tanh": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class Model(nn.Module):
    """Embedding, recurrent module, output layer."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.e = nn.Embedding(VOCABULARY, EMBEDDING)
        self.rnn = LAYER[case.cell](EMBEDDING, case.hidden_size, case.num_layers)
        self.l_out = nn.Linear(case.hidden_size, VOCABULARY)

    def forward(self, tokens: Any, carry: Any) -> tuple[Any, Any]:
        """Logits (T, B, V), and the carry after the tokens (T, B)."""
        ys, carry = self.rnn(self.e(tokens), carry)
        return self.l_out(ys), carry


def model_of(case: Case, weights: Weights) -> Model:
    """The model with the given weights."""
    model = Model(case)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return model.to(device)


def zeros(case: Case) -> Any:
    """The carry from which a text starts."""
    h = torch.zeros(case.num_layers, case.batch_size, case.hidden_size, device=device)
    return (h, torch.zeros_like(h)) if case.cell == "lstm" else h


def detached(carry: Any) -> Any:
    """The carry without its history."""
    return tuple(c.detach() for c in carry) if isinstance(carry, tuple) else carry.detach()


def finish() -> None:
    """Wait for what the GPU was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


class TorchModules:
    """Training, or the forward pass under `inference_mode`."""

    def __init__(
        self, case: Case, weights: Weights, tokens: np.ndarray, *, compiled: bool = False
    ) -> None:
        self._case = case
        self._module = model_of(case, weights)
        self._model: Any = self._module
        if compiled:
            torch._dynamo.config.allow_rnn = True
            self._model = torch.compile(self._module)
        self._adam = torch.optim.Adam(self._module.parameters(), lr=RATE, fused=True)
        inputs, targets = (torch.from_numpy(a).long().to(device) for a in streams(tokens, case))
        self._windows = list(zip(inputs, targets, strict=True))
        self._carry = zeros(case)
        self._next = 0

    def check(self) -> list[float]:
        """The loss on the first window from a zero carry."""
        inputs, targets = self._windows[0]
        with torch.inference_mode():
            logits, _ = self._module(inputs, zeros(self._case))
            return [float(cross_entropy(logits.flatten(0, 1), targets.flatten()))]

    def run(self, count: int) -> None:
        """Make `count` steps."""
        run = self._train if self._case.kind == "training" else self._forward
        for _ in range(count):
            run(*self._windows[self._next])
            self._next = (self._next + 1) % len(self._windows)
        finish()

    def _train(self, inputs: Any, targets: Any) -> None:
        self._adam.zero_grad()
        logits, carry = self._model(inputs, self._carry)
        cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        nn.utils.clip_grad_norm_(self._module.parameters(), CLIP)
        self._adam.step()
        self._carry = detached(carry)

    def _forward(self, inputs: Any, targets: Any) -> None:
        with torch.inference_mode():
            logits, self._carry = self._model(inputs, self._carry)
            cross_entropy(logits.flatten(0, 1), targets.flatten())


class TorchLayer:
    """A module alone, whose inputs are numbers: its outputs, or its gradients too."""

    def __init__(self, case: Case, weights: Weights, inputs: np.ndarray) -> None:
        self._module = LAYER[case.cell](case.hidden_size, case.hidden_size, case.num_layers)
        own = {name.removeprefix("rnn."): torch.from_numpy(w) for name, w in weights.items()}
        self._module.load_state_dict(own)
        self._module.to(device)
        self._inputs = torch.from_numpy(inputs).to(device)
        self._differentiated = case.kind == "layer"
        self._inputs.requires_grad_(self._differentiated)

    def check(self) -> list[float]:
        """The objective, and the norms of the gradients, in the order of their names."""
        found = self._call()
        if not self._differentiated:
            return [norm(found.cpu().numpy())]
        weights = dict(self._module.named_parameters())
        gradients = [*(weights[name].grad for name in sorted(weights)), self._inputs.grad]
        return [float(found), *(norm(array.cpu().numpy()) for array in gradients)]

    def run(self, count: int) -> None:
        """Make `count` calls."""
        for _ in range(count):
            self._call()
        finish()

    def _call(self) -> Any:
        if not self._differentiated:
            with torch.inference_mode():
                return self._module(self._inputs)[0]
        self._module.zero_grad()
        self._inputs.grad = None
        loss = self._module(self._inputs)[0].square().sum()
        loss.backward()
        return loss.detach()
