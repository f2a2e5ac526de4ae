"""PyTorch's layers that compute much in one call, taken apart into calls of their parts.

A stack of recurrent layers becomes a call for each layer and direction, attention the equation of
its paper. Each gives the numbers of the one call.

Shapes: T time steps, B batch, I input size, H hidden size, L layers, D directions, S steps that are
attended to, N heads, E embedding size.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

# (recorder, function, arguments, options) -> the result; None where a call stays as it is.
Layered = Callable[[Any, Any, Any, Any], Any]


def _recurrent(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    """Layer by layer, direction by direction: `torch.lstm` and its like."""
    # (input, hx, weights, has_biases, num_layers, dropout, train, bidirectional, batch_first).
    if options or len(args) != 9 or isinstance(args[3], torch.Tensor):
        return None  # packed sequences have another signature
    xs, carry, weights, has_biases, layers, dropout, train, both, batch_first = args
    directions = 2 if both else 1
    parts = layers * directions
    if parts == 1 or (dropout and train):
        return None
    fields = carry if isinstance(carry, list | tuple) else (carry,)
    per_part = len(weights) // parts  # 4 with biases; 5 with a projection
    last: list[list[torch.Tensor]] = []
    time = 1 if batch_first else 0
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            part = layer * directions + direction
            own = weights[part * per_part : (part + 1) * per_part]
            start = tuple(state[part : part + 1] for state in fields)
            with recorder.part(f"layer {layer}{', backwards' if direction else ''}"):
                given = xs.flip(time) if direction else xs
                result = function(
                    given,
                    start if len(start) > 1 else start[0],
                    own,
                    has_biases,
                    1,
                    0.0,
                    train,
                    False,
                    batch_first,
                )
                outputs.append(result[0].flip(time) if direction else result[0])
            last.append(list(result[1:]))
        xs = torch.cat(outputs, -1) if both else outputs[0]  # (T, B, D * H)
    # The last carries of all layers, (L * D, B, H) each.
    return (xs, *(torch.cat(list(states)) for states in zip(*last, strict=True)))


ATTENTION = (
    "query",
    "key",
    "value",
    "embed_dim_to_check",
    "num_heads",
    "in_proj_weight",
    "in_proj_bias",
    "bias_k",
    "bias_v",
    "add_zero_attn",
    "dropout_p",
    "out_proj_weight",
    "out_proj_bias",
)


def _attention(recorder: Any, function: Any, args: Any, options: Any) -> Any:
    """`torch.nn.functional.multi_head_attention_forward`, by its equation."""
    del recorder
    given = dict(zip(ATTENTION, args, strict=False)) | options
    unusual = ("bias_k", "bias_v", "static_k", "static_v", "q_proj_weight")
    if any(given.get(name) is not None for name in unusual) or given["add_zero_attn"]:
        return None
    if given["dropout_p"] and given.get("training", True):
        return None
    query, key, value = given["query"], given["key"], given["value"]  # (T, B, E), (S, B, E)
    if query.ndim != 3:
        return None
    kernels = given["in_proj_weight"].chunk(3)
    biases = (None,) * 3 if given["in_proj_bias"] is None else given["in_proj_bias"].chunk(3)
    heads = given["num_heads"]
    size = query.shape[-1] // heads

    def split(x: torch.Tensor, k: int) -> torch.Tensor:
        # (T, B, E) to (B, N, T, E / N).
        projected = functional.linear(x, kernels[k], biases[k])
        return projected.unflatten(-1, (heads, size)).permute(1, 2, 0, 3)

    q, k, v = split(query, 0), split(key, 1), split(value, 2)
    scores = torch.mul(q @ k.transpose(-2, -1), 1 / math.sqrt(size))  # (B, N, T, S)
    scores = _masked(scores, given, heads)
    weights = functional.softmax(scores, -1)
    attended = (weights @ v).permute(2, 0, 1, 3).flatten(2)  # (B, N, T, E / N) to (T, B, E)
    outputs = functional.linear(attended, given["out_proj_weight"], given["out_proj_bias"])
    if not given.get("need_weights", True):
        return outputs, None
    return outputs, weights.mean(1) if given.get("average_attn_weights", True) else weights


def _masked(scores: torch.Tensor, given: Any, heads: int) -> torch.Tensor:
    mask = given.get("attn_mask")
    padding = given.get("key_padding_mask")
    if mask is not None:
        if mask.ndim == 3:
            mask = mask.unflatten(0, (-1, heads))  # (B * N, T, S) to (B, N, T, S)
        scores = _with_mask(scores, mask)
    if padding is not None:
        scores = _with_mask(scores, padding[:, None, None])  # (B, S) to (B, 1, 1, S)
    return scores


def _with_mask(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    # A mask of booleans says what is not attended to; one of floats is added.
    if mask.dtype == torch.bool:
        return scores.masked_fill(mask, -torch.inf)
    return scores + mask


LAYERED: dict[str, Layered] = {
    "lstm": _recurrent,
    "gru": _recurrent,
    "rnn_tanh": _recurrent,
    "rnn_relu": _recurrent,
    "multi_head_attention_forward": _attention,
}
"""How the calls of these functions are taken apart."""
