"""A character model in plain PyTorch, as people write it: nothing of this project.

Usage: python plain_torch.py FOLDER: trains on FOLDER/train.txt, writes FOLDER/model.pt,
FOLDER/model.safetensors and FOLDER/tokens.json, and prints the loss on FOLDER/valid.txt.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy

BATCH, BPTT, STEPS = 8, 8, 60


class CharacterModel(nn.Module):
    """Embedding, GRU, output layer, by names of their own."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.encoder = nn.Embedding(vocab_size, 4)
        self.gru = nn.GRU(4, 16)
        self.decoder = nn.Linear(16, vocab_size)

    def forward(self, tokens, h=None):
        """Logits (T, B, V) for tokens (T, B), and the carry."""
        ys, h = self.gru(self.encoder(tokens), h)
        return self.decoder(ys), h


def streams(text, stoi):
    """The text as B parts side by side: (rows, B)."""
    tokens = torch.tensor([stoi[c] for c in text])
    rows = len(tokens) // BATCH
    return tokens[: rows * BATCH].view(BATCH, rows).T


def train(model, matrix):
    """Truncated backpropagation with a carry that goes on, for STEPS windows."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    h = None
    for step in range(STEPS):
        start = step * BPTT % (len(matrix) - BPTT - 1)
        inputs, targets = matrix[start : start + BPTT], matrix[start + 1 : start + BPTT + 1]
        logits, h = model(inputs, None if h is None else h.detach())
        optimizer.zero_grad()
        cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        optimizer.step()


def main():
    """Train, save, validate."""
    torch.manual_seed(0)
    folder = Path(sys.argv[1])
    train_text, valid_text = ((folder / name).read_text() for name in ("train.txt", "valid.txt"))
    itos = sorted(set(train_text))
    stoi = {c: i for i, c in enumerate(itos)}
    model = CharacterModel(len(itos))
    train(model, streams(train_text, stoi))
    torch.save({"model": model.state_dict(), "epoch": 1}, folder / "model.pt")
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "tokens.json").write_text(json.dumps(itos))
    matrix = streams(valid_text, stoi)
    with torch.no_grad():
        logits, _ = model(matrix[:-1])
        print(float(cross_entropy(logits.flatten(0, 1), matrix[1:].flatten())))


if __name__ == "__main__":
    main()
