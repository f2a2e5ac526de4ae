"""The course's stateful recipes in plain PyTorch, as its users write them: nothing of this project.

Usage: python plain_torch_job.py TEXT CELL SCHEDULE THREADS [SEED], for example

    python plain_torch_job.py nietzsche.txt gru "6 x 1e-3, 3 x 1e-4" 2

The vocabulary is TorchText's (lower-cased, three occurrences at least), the windows have random
lengths around 8, the carry flows through training and validation and is never reset. A line an
epoch: epoch, training loss (exponential average), validation loss, in nats per character. Losses
stay tensors until the epoch ends, the optimizer is the fused Adam: what a careful user would do.

Shapes: T time steps, B batch.
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

BATCH, BPTT, FACTORS, HIDDEN = 64, 8, 42, 256
TRAINING_LINES = 7999
MIN_FREQUENCY = 3
DECAY = 0.98


class CharModel(nn.Module):
    """Embedding, recurrent layer, output layer, with the carry handed in and out."""

    def __init__(self, vocab_size: int, layer: type[nn.RNN] | type[nn.GRU]) -> None:
        super().__init__()
        self.e = nn.Embedding(vocab_size, FACTORS)
        self.rnn = layer(FACTORS, HIDDEN)
        self.l_out = nn.Linear(HIDDEN, vocab_size)

    def forward(self, tokens: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (T, B, V), and the carry after the tokens."""
        ys, h = self.rnn(self.e(tokens), h)
        return self.l_out(ys), h


def read(path: Path) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Training and validation tokens as (rows, B), and the size of the vocabulary."""
    lines = path.read_text(encoding="utf-8").lower().split("\n")
    texts = ["\n".join(lines[:TRAINING_LINES]), "\n".join(lines[TRAINING_LINES:])]
    counts = Counter(texts[0])
    often = [c for c in counts if counts[c] >= MIN_FREQUENCY]
    itos = ["<unk>", "<pad>", *sorted(often, key=lambda c: (-counts[c], c))]
    stoi = {c: i for i, c in enumerate(itos)}
    matrices = []
    for text in texts:
        tokens = torch.tensor([*(stoi.get(c, 0) for c in text), 0])  # <eos> is rare: <unk>
        rows = len(tokens) // BATCH
        matrices.append(tokens[: rows * BATCH].view(BATCH, rows).T.contiguous())
    return matrices[0], matrices[1], len(itos)


def windows(matrix: torch.Tensor, rng: np.random.Generator):  # type: ignore[no-untyped-def]
    """Inputs and targets of an epoch, of random length."""
    start = 0
    for _ in range(len(matrix) // BPTT - 1):
        base = BPTT if rng.random() < 0.95 else BPTT / 2
        length = min(max(5, int(rng.normal(base, 5))), len(matrix) - 1 - start)
        if length < 1:
            return
        yield matrix[start : start + length], matrix[start + 1 : start + length + 1]
        start += length


def parse(schedule: str) -> list[float]:
    """The learning rate of each epoch of "6 x 1e-3, 3 x 1e-4"."""
    blocks = [block.split("x") for block in schedule.split(",")]
    return [float(rate) for epochs, rate in blocks for _ in range(int(epochs))]


def main() -> None:
    """Train, and print a line an epoch."""
    text, cell, schedule, threads, *seed = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.manual_seed(int(seed[0]) if seed else 0)
    rng = np.random.default_rng(int(seed[0]) if seed else 0)
    training, validation, vocab_size = read(Path(text))
    model = CharModel(vocab_size, {"tanh": nn.RNN, "gru": nn.GRU}[cell])
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    h = torch.zeros(1, BATCH, HIDDEN)
    for epoch, rate in enumerate(parse(schedule), 1):
        optimizer.param_groups[0]["lr"] = rate
        losses = []
        for inputs, targets in windows(training, rng):
            optimizer.zero_grad()
            logits, h = model(inputs, h.detach())
            loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        total, weight = torch.zeros(()), 0
        with torch.inference_mode():
            for inputs, targets in windows(validation, rng):
                logits, h = model(inputs, h)
                loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
                total, weight = total + len(inputs) * loss, weight + len(inputs)
        h = h.clone()  # out of inference mode, so that training can go on from it
        print(f"{epoch:5d}  {average(losses):6.3f}  {float(total) / weight:10.4f}", flush=True)


def average(losses: list[torch.Tensor]) -> float:
    """The exponential average of an epoch's losses, corrected for its start."""
    value = 0.0
    for loss in torch.stack(losses).tolist():
        value = DECAY * value + (1 - DECAY) * loss
    return value / (1 - DECAY ** len(losses))


if __name__ == "__main__":
    main()
