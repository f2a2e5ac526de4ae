"""Modules in PyTorch that cases are compared with, where torch's own do not answer as they should,
or where another package computes another equation.

Shapes: B batch, S sequence, E embedding, C channels, H hidden size.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Attention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` with the batch first, and without the attention's weights."""

    def __init__(self, embedding_size: int, heads: int, **options: Any) -> None:
        super().__init__(embedding_size, heads, batch_first=True, **options)

    def forward(  # type: ignore[override]
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """The output, (B, S, E)."""
        return super().forward(query, key, value, need_weights=False)[0]


class BatchNormStep(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` in training: the output, and the running statistics after it.

    Args:
        features: C.
        biased: whether the running variance is made from the variance of the batch itself, divided
            by its size n, and not, as PyTorch does, from the estimate that is divided by n - 1.
        normalizes: what the batch is normalized by: its own statistics, as in PyTorch, or the
            "running" ones after the update.
        options: of `torch.nn.BatchNorm1d`.
    """

    def __init__(
        self, features: int, *, biased: bool = False, normalizes: str = "batch", **options: Any
    ) -> None:
        super().__init__(features, **options)
        self.biased = biased
        self.normalizes = normalizes

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        """Of x, (B, C), also the running mean and variance, (C,), which are not updated here."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        # Copies: a comparison runs the module several times from the same statistics.
        mean = self.running_mean.clone()
        var = self.running_var.clone()
        y = functional.batch_norm(
            x, mean, var, self.weight, self.bias, True, self.momentum, self.eps
        )
        if self.biased:
            of_batch = x.var(0, correction=0)
            var = (1 - self.momentum) * self.running_var + self.momentum * of_batch
        if self.normalizes == "running":
            of_batch = x.mean(0)
            mean = (1 - self.momentum) * self.running_mean + self.momentum * of_batch
            y = (x - mean) / torch.sqrt(var + self.eps) * self.weight + self.bias
        return y, mean.detach(), var.detach()


class PaddedConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` whose input is padded by other numbers at its end than at its beginning.

    Args:
        channels_in: input channels.
        channels_out: output channels.
        before_and_after: rows and columns of zeros before and after the image.
        options: of `torch.nn.Conv2d`.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        before_and_after: tuple[int, int],
        **options: Any,
    ) -> None:
        super().__init__(channels_in, channels_out, **options)
        self.before_and_after = before_and_after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of x, (B, C, height, width)."""
        return super().forward(functional.pad(x, self.before_and_after * 2))


class TiedGRU(nn.Module):
    """`torch.nn.GRU` whose reset gate and update gate are one.

    Args:
        features: I.
        hidden_size: H.
    """

    def __init__(self, features: int, hidden_size: int) -> None:
        super().__init__()
        rows = 2 * hidden_size  # of z and n
        # In the order in which `torch.gru` takes them.
        self.weight_ih_l0 = nn.Parameter(torch.zeros(rows, features))
        self.weight_hh_l0 = nn.Parameter(torch.zeros(rows, hidden_size))
        self.bias_ih_l0 = nn.Parameter(torch.zeros(rows))
        self.bias_hh_l0 = nn.Parameter(torch.zeros(rows))

    def forward(self, xs: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `torch.nn.GRU`: (T, B, H) and (1, B, H)."""
        weights = []
        for parameter in self.parameters():
            z = parameter.chunk(2)[0]
            weights.append(torch.cat([z, parameter]))  # r = z, then z and n: (3 * H, ...)
        return torch.gru(xs, h, weights, True, 1, 0.0, False, False, False)


class EarlyResetGRU(nn.GRU):
    """`torch.nn.GRU` of one layer whose reset gate is applied before the matmul, not after it.

    Cho et al., 2014, "Learning Phrase Representations using RNN Encoder-Decoder", equation 8.
    """

    def forward(  # type: ignore[override]
        self, xs: torch.Tensor, h: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `torch.nn.GRU`: (T, B, H) and (1, B, H)."""
        weight_ih, weight_hh, bias_ih, bias_hh = self.parameters()
        x_r, x_z, x_n = functional.linear(xs, weight_ih, bias_ih).chunk(3, -1)  # (T, B, H) each
        w_r, w_z, w_n = weight_hh.chunk(3)
        b_r, b_z, b_n = bias_hh.chunk(3)
        state = h[0]
        ys = []
        for t in range(len(xs)):
            r = torch.sigmoid(x_r[t] + functional.linear(state, w_r, b_r))
            z = torch.sigmoid(x_z[t] + functional.linear(state, w_z, b_z))
            n = torch.tanh(x_n[t] + functional.linear(r * state, w_n, b_n))
            state = (1 - z) * n + z * state
            ys.append(state)
        return torch.stack(ys), state[None]
