"""Two models in PyTorch: a transformer of twelve blocks, and a convolutional net; and a loop."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

SIZE, HEADS, HIDDEN, BLOCKS, CLASSES = 16, 4, 32, 12, 5


class Block(nn.Module):
    """Attention and a dense part, each behind a norm and beside what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(SIZE)
        self.attention = nn.MultiheadAttention(SIZE, HEADS, batch_first=True)
        self.norm2 = nn.LayerNorm(SIZE)
        self.wide = nn.Linear(SIZE, HIDDEN)
        self.narrow = nn.Linear(HIDDEN, SIZE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, E) to (B, T, E)."""
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.narrow(nn.functional.gelu(self.wide(self.norm2(x))))


class Transformer(nn.Module):
    """Blocks, a norm, and the scores of each class."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(SIZE)
        self.head = nn.Linear(SIZE, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, E) to (B, classes)."""
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x.mean(1)))


class ConvNet(nn.Module):
    """Two convolutions with group norm, the mean over the picture, and the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.norm1 = nn.GroupNorm(4, 8)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2)
        self.norm2 = nn.GroupNorm(4, 12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, Y, X) to (B, classes)."""
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.norm2(self.conv2(x)))
        return self.head(x.mean((2, 3)))


def training_loop(module: nn.Module) -> Callable[[Any], torch.Tensor]:
    """The body of the loop that trains a model: Adam on the cross-entropy of a batch."""
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)

    def step(batch: Any) -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(batch["x"]), batch["y"])
        loss.backward()
        optimizer.step()
        return loss

    return step
