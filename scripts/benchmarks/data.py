"""The same weights and the same inputs for every implementation.

Shapes: T time steps, B batch, V vocabulary, F embedding size, H hidden size, G gates, N tokens.

The weights have torch's names, shapes, gate order and default initialization; each implementation
maps them to its own. The text is sampled from Zipf's distribution, so that five steps of training
already learn something that can be compared.
"""

from pathlib import Path

import numpy as np

from benchmarks.cases import EMBEDDING, VOCABULARY, Case

Weights = dict[str, np.ndarray]

WINDOWS = 64
"""Number of windows in an epoch of the text; after the last, reading starts again at the first."""
GATES = {"tanh": 1, "gru": 3, "lstm": 4}
BIASES = ("bias_ih", "bias_hh")


def make_weights(case: Case, seed: int = 0) -> Weights:
    """The weights of `rnn` and, where characters are read, of `e` and `l_out`.

    Uniform as in torch; standard normal for e.
    """
    rng = np.random.default_rng(seed)
    H = case.hidden_size
    bound = H**-0.5
    shapes: dict[str, tuple[int, ...]] = {}
    input_size = H if case.of_numbers else EMBEDDING
    for layer in range(case.num_layers):
        rows = GATES[case.cell] * H
        shapes[f"rnn.weight_ih_l{layer}"] = (rows, H if layer else input_size)
        shapes[f"rnn.weight_hh_l{layer}"] = (rows, H)
        shapes |= {f"rnn.{bias}_l{layer}": (rows,) for bias in BIASES}
    if not case.of_numbers:
        shapes |= {"l_out.weight": (VOCABULARY, H), "l_out.bias": (VOCABULARY,)}
    weights = {name: rng.uniform(-bound, bound, shape) for name, shape in shapes.items()}
    if not case.of_numbers:
        weights["e.weight"] = rng.standard_normal((VOCABULARY, EMBEDDING))
    return {name: array.astype(np.float32) for name, array in weights.items()}


def make_tokens(case: Case, seed: int = 1) -> np.ndarray:
    """(N,) the text: B streams of `WINDOWS` windows; for generation, the prompt of B characters."""
    rng = np.random.default_rng(seed)
    rows = 1 if case.kind == "generation" else WINDOWS * case.steps + 1
    shares = 1 / np.arange(1, VOCABULARY + 1)
    tokens = rng.choice(VOCABULARY, size=case.batch_size * rows, p=shares / shares.sum())
    return tokens.astype(np.uint8)


def make_inputs(case: Case, seed: int = 1) -> np.ndarray:
    """What the case reads: the text, or (T, B, H) standard normal numbers."""
    if not case.of_numbers:
        return make_tokens(case, seed)
    shape = (case.steps, case.batch_size, case.hidden_size)
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def streams(tokens: np.ndarray, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of every window, (WINDOWS, T, B): window k goes on where k - 1 ended."""
    matrix = tokens.reshape(case.batch_size, -1).T.astype(np.int32)  # (rows, B)
    shape = (WINDOWS, case.steps, case.batch_size)
    return matrix[:-1].reshape(shape), matrix[1:].reshape(shape)


def save(case: Case, path: Path) -> None:
    """Write the weights of a case, and what it reads, for the workers to load."""
    np.savez(path, inputs=make_inputs(case), **make_weights(case))  # type: ignore[arg-type]


def load(path: Path) -> tuple[Weights, np.ndarray]:
    """The weights of a case, and what it reads, as `save` wrote them."""
    with np.load(path) as file:
        weights = {name: file[name] for name in file.files}
    return weights, weights.pop("inputs")
