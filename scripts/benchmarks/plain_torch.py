"""A stateful character model in plain PyTorch, as its users write it: nothing of this project.

With its defaults it is the course's stateful recipes; for example, on two threads:

    python -P scripts/benchmarks/plain_torch.py nietzsche.txt --cell gru \
        --schedule "6 x 1e-3, 3 x 1e-4" --threads 2

The vocabulary is TorchText's (lower-cased, three occurrences at least), the windows have random
lengths around 8, the carry flows through training and validation and is never reset. A line an
epoch: epoch, training loss (exponential average), validation loss, in nats per character. Losses
stay tensors until the epoch ends, the optimizer is the fused Adam: what a careful user would do.

Shapes: T time steps, B batch, V vocabulary, H hidden size.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

BPTT = 8
TRAINING_LINES = 7999
"""Lines of the course's text that it is trained on; the rest is for validation."""
MIN_FREQUENCY = 3
DECAY = 0.98
"""Decay of the exponential average of training losses."""
LAYERS: dict[str, type[nn.RNN] | type[nn.GRU]] = {"tanh": nn.RNN, "gru": nn.GRU}


class CharacterModel(nn.Module):
    """Embedding, recurrent layer, output layer, with the carry handed in and out."""

    def __init__(self, vocab_size: int, embedding: int, hidden_size: int, cell: str) -> None:
        super().__init__()
        self.encoder = nn.Embedding(vocab_size, embedding)
        self.recurrent = LAYERS[cell](embedding, hidden_size)
        self.decoder = nn.Linear(hidden_size, vocab_size)

    def forward(self, tokens: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (T, B, V) for tokens (T, B), and the carry (1, B, H) after them."""
        ys, h = self.recurrent(self.encoder(tokens), h)
        return self.decoder(ys), h


def make_vocabulary(text: str) -> list[str]:
    """The tokens: what is frequent enough, by falling frequency, behind two special ones."""
    counts = Counter(text)
    frequent = [character for character in counts if counts[character] >= MIN_FREQUENCY]
    return ["<unk>", "<pad>", *sorted(frequent, key=lambda c: (-counts[c], c))]


def make_streams(text: str, vocabulary: list[str], batch: int) -> torch.Tensor:
    """The text as B parts side by side, (rows, B)."""
    numbers = {token: number for number, token in enumerate(vocabulary)}
    tokens = [numbers.get(character, 0) for character in text]
    tokens.append(0)  # <eos> occurs once, which is rare: <unk>
    rows = len(tokens) // batch
    return torch.tensor(tokens[: rows * batch]).view(batch, rows).T.contiguous()


def windows(
    streams: torch.Tensor, rng: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and targets (T, B) of an epoch, of random length."""
    start = 0
    for _ in range(len(streams) // BPTT - 1):
        mean = BPTT if rng.random() < 0.95 else BPTT / 2
        length = min(max(5, int(rng.normal(mean, 5))), len(streams) - 1 - start)
        if length < 1:
            return
        yield streams[start : start + length], streams[start + 1 : start + length + 1]
        start += length


def parse(schedule: str) -> list[float]:
    """The learning rate of each epoch of "6 x 1e-3, 3 x 1e-4"."""
    rates = []
    for phase in schedule.split(","):
        epochs, rate = phase.split("x")
        rates += [float(rate)] * int(epochs)
    return rates


def average(losses: list[torch.Tensor]) -> float:
    """The exponential average of an epoch's losses, corrected for its start."""
    value = 0.0
    for loss in torch.stack(losses).tolist():
        value = DECAY * value + (1 - DECAY) * loss
    return value / (1 - DECAY ** len(losses))


def loss_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Nats per character."""
    return cross_entropy(logits.flatten(0, 1), targets.flatten())


def save(model: CharacterModel, vocabulary: list[str], folder: Path) -> None:
    """Save the weights in both usual formats, and the tokens."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict()}, folder / "model.pt")
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "tokens.json").write_text(json.dumps(vocabulary))


def read(options: argparse.Namespace) -> tuple[str, str]:
    """The texts for training and validation."""
    text = options.text.read_text(encoding="utf-8")
    if options.validation is not None:
        training = text
        validation = options.validation.read_text(encoding="utf-8")
    else:
        lines = text.split("\n")
        training = "\n".join(lines[:TRAINING_LINES])
        validation = "\n".join(lines[TRAINING_LINES:])
    if options.keep_case:
        return training, validation
    return training.lower(), validation.lower()


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(description="A character model in plain PyTorch.")
    found.add_argument("text", type=Path, help="file to train on")
    found.add_argument("--validation", type=Path, help="file to validate on; else the text's end")
    found.add_argument("--keep-case", action="store_true", help="do not lower-case the text")
    found.add_argument("--cell", choices=sorted(LAYERS), default="gru")
    found.add_argument("--schedule", default="6 x 1e-3, 3 x 1e-4", help="epochs x rate, ...")
    found.add_argument("--embedding-size", "--embedding", type=int, default=42)
    found.add_argument("--hidden-size", "--hidden", type=int, default=256)
    found.add_argument("--batch-size", "--batch", type=int, default=64)
    found.add_argument("--threads", type=int, default=1)
    found.add_argument("--seed", type=int, default=0)
    found.add_argument(
        "--save", type=Path, help="save weights and tokens in this folder, and print the loss on "
        "the whole validation text from a zero carry",
    )  # fmt: skip
    return found


def main() -> None:
    """Train, and print a line an epoch."""
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    training_text, validation_text = read(options)
    vocabulary = make_vocabulary(training_text)
    training = make_streams(training_text, vocabulary, options.batch_size)
    validation = make_streams(validation_text, vocabulary, options.batch_size)
    model = CharacterModel(
        len(vocabulary), options.embedding_size, options.hidden_size, options.cell
    )
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    zeros = torch.zeros(1, options.batch_size, options.hidden_size)
    h = zeros
    for epoch, rate in enumerate(parse(options.schedule), 1):
        optimizer.param_groups[0]["lr"] = rate
        losses = []
        for inputs, targets in windows(training, rng):
            optimizer.zero_grad()
            logits, h = model(inputs, h.detach())
            loss = loss_of(logits, targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        total = torch.zeros(())
        steps = 0
        with torch.inference_mode():
            for inputs, targets in windows(validation, rng):
                logits, h = model(inputs, h)
                total = total + len(inputs) * loss_of(logits, targets)
                steps += len(inputs)
        h = h.clone()  # out of inference mode, so that training can go on from it
        print(f"{epoch:5d}  {average(losses):6.3f}  {float(total) / steps:10.4f}", flush=True)
    if options.save is not None:
        save(model, vocabulary, options.save)
        with torch.inference_mode():
            logits, _ = model(validation[:-1], zeros)
        print(float(loss_of(logits, validation[1:])))


if __name__ == "__main__":
    main()
