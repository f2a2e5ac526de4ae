"""Parity of language models: logits at every position, and the texts that are chosen from them.

Shapes: B texts, P tokens of the prompt, N generated ones, T = P + N - 1 positions, V vocabulary.
"""

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from jaxrnn.exchange.weights import WeightMap
from parity.core.bridge import (
    TORCH_DTYPES,
    check_dtypes,
    is_float,
    jax_of,
    named_leaves,
    numpy_arrays,
    numpy_of,
    rebuilt,
    rounded,
    tensor_of,
    torch_device,
)
from parity.core.compare import (
    MEANING_LIMIT,
    NOISE_FACTOR,
    UNIT_ROUNDOFF,
    Comparison,
    Finding,
    Outcome,
    failures,
    meaning,
    numerics,
    relative_l2,
    structure,
)
from parity.core.roundings import RandomRoundings
from parity.core.runners import precision
from parity.measures.trajectories import perturbed
from parity.report.report import Report

DTYPES = ("float64", "float32")
# Tokens generated after the prompt, unless other many are asked for.
LENGTH = 60
# Runs from perturbed weights and with other roundings, which show the noise of the logits.
PERTURBATIONS = 4
# Round-off of logits in units of the last place of the largest of a row: no error is smaller.
ROUNDINGS = 4
# Up to here two sets of logits are one, where a cause is looked for.
SAME = 1e-9

Logits = Callable[[np.ndarray, str], np.ndarray]


def check_generation(
    jax_logits: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    torch_module: nn.Module,
    weight_map: WeightMap,
    prompt: Any,
    *,
    length: int = LENGTH,
    batch_first: bool = True,
    jax_generate: Callable[[Any, jax.Array, int], jax.Array] | None = None,
    dtypes: Sequence[str] = DTYPES,
    name: str | None = None,
) -> Report:
    """Compare a causal language model: its logits along a text, and greedy generation.

    Both have the weights of `torch_module`. PyTorch generates greedily in float64, one token at a
    time. Along that text the logits of every position are compared (teacher forcing), and the
    choices: a token that is less likely than PyTorch's by no more than twice the round-off of the
    logits is a tie; any other choice fails. After a tie PyTorch's token is fed.

    Args:
        jax_logits: `jax_logits(params, tokens)` gives logits for the token after each position,
            (B, T, V) of tokens (B, T), or (T, V) of (T,).
        params: a tree of parameters as the function takes it; only its structure and shapes count.
        torch_module: `torch_module(tokens)` gives the same; of several results the first, or
            `.logits`. It is run as it is given: `.eval()` turns dropout off.
        weight_map: the module's keys and the paths of `params`.
        prompt: tokens (P,) or (B, P), as both take them.
        length: how many tokens are generated, N.
        batch_first: whether tokens are (B, T); else they are (T, B), and logits (T, B, V).
        jax_generate: `jax_generate(params, prompt, length)` gives the tokens that a program of
            yours generates greedily after the prompt, such as one with a cache: (B, N), or as
            `batch_first` says. The choices are those of `jax_logits` if None.
        dtypes: "float64", "float32".
        name: as the report calls it; the module's class if None.

    Returns:
        The report: its `passed`, its `summary()`, and every number.

    Raises:
        WeightMapError: if the map, the module and the parameters do not fit; all is named.
        ValueError: if a precision is unknown, or the prompt is none, or has other tokens than the
            vocabulary.
    """
    check_dtypes(dtypes, DTYPES)
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}.")
    tokens = np.asarray(prompt)
    if not np.issubdtype(tokens.dtype, np.integer) or tokens.ndim not in (1, 2) or not tokens.size:
        raise ValueError(
            "prompt must be integers of shape (P,) or (B, P), "
            f"got {tokens.dtype} of shape {tokens.shape}."
        )
    name = name or f"JAX against {type(torch_module).__name__}"
    shapes = {path: tuple(np.shape(leaf)) for path, leaf in named_leaves(params).items()}
    weight_map.from_torch(numpy_arrays(torch_module.state_dict()), like=shapes)
    layout = _Layout(batch_first, tokens.ndim)
    sides = _Sides(jax_logits, params, torch_module, weight_map, layout)
    findings, remarks = _compared(name, sides, layout.rows(tokens), length, jax_generate, dtypes)
    remarks += [f"{path}: {lost}." for path, lost in weight_map.inexact.items()]
    return Report(name, tuple(findings), tuple(dict.fromkeys(remarks)))


class _Layout(NamedTuple):
    """How a user's arrays lie: a batch of texts, in which axis, or a single text."""

    batch_first: bool
    ndim: int

    def rows(self, array: np.ndarray) -> np.ndarray:
        """The user's (T,), (B, T) or (T, B), maybe with V behind, as (B, T) and so on."""
        if self.ndim == 1:
            return array[None]
        return array if self.batch_first else np.swapaxes(array, 0, 1)

    def users(self, rows: np.ndarray) -> np.ndarray:
        """The way back."""
        if self.ndim == 1:
            return rows[0]
        return rows if self.batch_first else np.swapaxes(rows, 0, 1)


class _Sides:
    """The two models with the same weights."""

    def __init__(
        self,
        jax_logits: Callable[[Any, jax.Array], jax.Array],
        params: Any,
        module: nn.Module,
        weight_map: WeightMap,
        layout: _Layout,
    ) -> None:
        self.program = jax.jit(jax_logits)
        self.params = params
        self.module = module
        self.weight_map = weight_map
        self.layout = layout
        # What float32 can hold is exact in float64, too.
        self.weights = {
            key: rounded(array, "float32") if is_float(array) else array
            for key, array in numpy_arrays(module.state_dict()).items()
        }

    def jax_params(self, dtype: str) -> Any:
        """JAX's parameters; call it within `precision`."""
        by_path = self.weight_map.from_torch(self.weights)
        return rebuilt(self.params, {path: jax_of(array, dtype) for path, array in by_path.items()})

    def in_jax(self, rows: np.ndarray, dtype: str) -> np.ndarray:
        """(B, T) tokens to (B, T, V) logits."""
        with precision(dtype):
            tokens = jnp.asarray(self.layout.users(rows), jnp.int32)
            logits = self.program(self.jax_params(dtype), tokens)
            return self.layout.rows(numpy_of(logits))

    def in_torch(
        self, rows: np.ndarray, dtype: str, seed: int | None = None, samples: int = 0
    ) -> np.ndarray:
        """The same of the module, with perturbed weights and other roundings if there is a seed.

        Args:
            rows: tokens (B, T).
            dtype: the precision.
            seed: of weights, and results of all operations, that are a unit in the last place
                higher or lower.
            samples: of PyTorch's random numbers.
        """
        weights = dict(self.weights)
        rounding: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if seed is not None:
            rounding = RandomRoundings(dtype, seed)
            floats = {key: array for key, array in weights.items() if is_float(array)}
            weights |= perturbed(floats, seed, dtype)
        with precision(dtype), torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(samples)
            module = copy.deepcopy(self.module).to(torch_device()).to(TORCH_DTYPES[dtype])
            module.load_state_dict({key: tensor_of(a, dtype) for key, a in weights.items()})
            tokens = tensor_of(self.layout.users(rows).astype(np.int64), dtype)
            with rounding:
                logits = module(tokens)
            if hasattr(logits, "logits"):
                logits = logits.logits
            if isinstance(logits, tuple | list):
                logits = logits[0]
            return self.layout.rows(numpy_of(logits))


def _compared(
    name: str,
    sides: _Sides,
    prompt: np.ndarray,
    length: int,
    jax_generate: Callable[[Any, jax.Array, int], jax.Array] | None,
    dtypes: Sequence[str],
) -> tuple[list[Finding], list[str]]:
    """Findings and remarks; ABSTAIN with words where the module is no language model."""
    nothing = _no_language_model(sides, prompt)
    if nothing:
        what = Comparison(name, "forward", dtypes[0])
        return [what.finding("C0", "logits", Outcome.ABSTAIN, note=nothing)], [f"{nothing}."]
    text = _generated(sides, prompt, length)  # (B, P + N)
    read = text[:, :-1]  # the last token is chosen, and read by nobody
    reference = sides.in_torch(read, "float64")  # (B, T, V)
    findings: list[Finding] = []
    remarks: list[str] = []
    for dtype in dtypes:
        run = _Run(name, sides, text, prompt.shape[1], reference, dtype)
        found, said = run.compared(jax_generate)
        findings += found
        remarks += said
    return findings, remarks


def _no_language_model(sides: _Sides, prompt: np.ndarray) -> str:
    """Why the module's logits cannot be compared; empty if they can.

    Raises:
        ValueError: if they have another shape than those of a language model, or the prompt has
            other tokens than the vocabulary.
    """
    # Ids out of range are an error in PyTorch and nothing in JAX, so they are looked for first.
    zeros = np.zeros_like(prompt)
    logits = sides.in_torch(zeros, "float64")
    if logits.ndim != 3 or logits.shape[:2] != prompt.shape:
        raise ValueError(
            f"torch_module must give logits for every position, (B, T, V) with B, T = "
            f"{prompt.shape}; got {logits.shape}. Is batch_first right?"
        )
    vocab_size = logits.shape[-1]
    if prompt.min() < 0 or prompt.max() >= vocab_size:
        raise ValueError(
            f"prompt must have tokens from 0 to {vocab_size - 1}, got {prompt.min()} to "
            f"{prompt.max()}."
        )
    logits = sides.in_torch(prompt, "float64")
    if not np.array_equal(logits, sides.in_torch(prompt, "float64", samples=1), equal_nan=True):
        return "PyTorch's module samples random numbers, as dropout does: give it as .eval()"
    if not np.isfinite(logits).any():
        return "PyTorch's logits are NaN or infinite everywhere"
    if vocab_size < 2 or not np.ptp(np.nan_to_num(logits), axis=-1).any():
        return "PyTorch's logits are the same for every token"
    other = (prompt + 1) % vocab_size
    if np.array_equal(logits, sides.in_torch(other, "float64"), equal_nan=True):
        return "PyTorch's logits do not depend on the tokens"
    extended = np.concatenate([prompt, other[:, :1]], axis=1)
    longer = sides.in_torch(extended, "float64")
    if relative_l2(longer[:, : prompt.shape[1]], logits) > SAME:
        return "PyTorch's logits depend on later tokens, so it is no causal language model"
    return ""


def _gap(rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """How far a chosen token is below the most likely one: (B, N, V) and (B, N) to (B, N)."""
    own = np.take_along_axis(rows, chosen[..., None], -1)[..., 0]
    return rows.max(-1) - own


def _generated(sides: _Sides, prompt: np.ndarray, length: int) -> np.ndarray:
    """The prompt and what PyTorch generates after it in float64, token by token: (B, P + N)."""
    text = prompt
    for _ in range(length):
        chosen = sides.in_torch(text, "float64")[:, -1].argmax(-1)  # (B, V) to (B,)
        text = np.concatenate([text, chosen[:, None]], axis=1)
    return text


class _Run:
    """The comparison in one precision, along one text."""

    def __init__(
        self,
        name: str,
        sides: _Sides,
        text: np.ndarray,
        prompt_length: int,
        reference: np.ndarray,
        dtype: str,
    ) -> None:
        self.name = name
        self.sides = sides
        self.text = text
        self.read = text[:, :-1]
        self.prompt_length = prompt_length
        self.reference = reference
        self.dtype = dtype

    def compared(
        self, jax_generate: Callable[[Any, jax.Array, int], jax.Array] | None
    ) -> tuple[list[Finding], list[str]]:
        """Findings and remarks."""
        what = Comparison(self.name, "forward", self.dtype)
        got = self.sides.in_jax(self.read, self.dtype)
        peer = self.reference
        if self.dtype != "float64":
            peer = self.sides.in_torch(self.read, self.dtype)
        findings = structure(what, {"logits": got}, {"logits": peer})
        if failures(findings):
            return findings, []
        others = [self.sides.in_torch(self.read, self.dtype, seed) for seed in range(PERTURBATIONS)]
        noise = {"logits": max(relative_l2(other, peer) for other in others)}
        sets = {"logits": got}, {"logits": self.reference}
        if self.dtype == "float64":
            findings += meaning(what, *sets, noise)
        else:
            findings += numerics(what, sets[0], {"logits": peer}, sets[1], noise)
        remarks = []
        if self.dtype == "float64" and failures(findings):
            remarks = self._causes(got)
        allowed = self._allowed(peer, others)
        findings.append(self._choices(got, allowed, jax_generate))
        return findings, remarks

    def _allowed(self, peer: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
        """How far round-off may put a logit, row by row: (B, T)."""
        own = np.abs(peer - self.reference).max(-1)
        for other in others:
            own = np.maximum(own, np.abs(other - peer).max(-1))
        smallest = ROUNDINGS * UNIT_ROUNDOFF[self.dtype] * np.abs(self.reference).max(-1)
        factor = NOISE_FACTOR.get(self.dtype, NOISE_FACTOR["float32"])
        # Rows of one text have round-off of about one size: the luck of a single one counts less.
        return factor * np.maximum(np.maximum(own, np.median(own)), smallest)

    def _choices(
        self,
        got: np.ndarray,
        allowed: np.ndarray,
        jax_generate: Callable[[Any, jax.Array, int], jax.Array] | None,
    ) -> Finding:
        """C5: the number of tokens that are chosen otherwise, and are no ties."""
        what = Comparison(self.name, "generation", self.dtype)
        rows = self.reference[:, self.prompt_length - 1 :]  # (B, N, V)
        allowed = allowed[:, self.prompt_length - 1 :]  # (B, N)
        if jax_generate is None:
            chosen = got[:, self.prompt_length - 1 :].argmax(-1)  # (B, N)
        else:
            chosen = self._chosen_by(jax_generate, rows, allowed)
        flips = chosen != self.text[:, self.prompt_length :]
        wrong = flips & (_gap(rows, chosen) >= 2 * allowed)
        top_two = np.sort(rows, axis=-1)[..., -2:]  # (B, N, 2)
        margin = (top_two[..., 1] - top_two[..., 0]).min()
        note = f"margin at least {margin:.1e}, round-off at most {allowed.max():.1e}"
        ties = int((flips & ~wrong).sum())
        if ties:
            note = f"{ties} ties; {note}"
        outcome = Outcome.PASS
        if wrong.any():
            outcome = Outcome.FAIL
            row, step = np.argwhere(wrong)[0]
            note = f"first at token {step + 1} after the prompt, text {row + 1}; {note}"
        elif flips.shape[1] > 1 and len(np.unique(self.text[:, self.prompt_length :])) == 1:
            outcome = Outcome.ABSTAIN
            note = f"PyTorch's text repeats one token; {note}"
        return what.finding(
            "C5", f"{flips.size} tokens", outcome, value=float(wrong.sum()), note=note
        )

    def _chosen_by(
        self,
        jax_generate: Callable[[Any, jax.Array, int], jax.Array],
        rows: np.ndarray,
        allowed: np.ndarray,
    ) -> np.ndarray:
        """What a program chooses, (B, N); after a tie PyTorch's token is fed."""
        right = self.text[:, self.prompt_length :]  # (B, N)
        chosen = right.copy()
        first = 0
        while first < right.shape[1]:
            rest = self._generated_by(jax_generate, first)
            steps = np.flatnonzero((rest != right[:, first:]).any(0))
            if not len(steps):
                break
            # The first step at which any text differs; the others are generated again.
            step = first + int(steps[0])
            chosen[:, step] = rest[:, steps[0]]
            if (_gap(rows, chosen)[:, step] >= 2 * allowed[:, step]).any():
                break
            first = step + 1
        return chosen

    def _generated_by(
        self, jax_generate: Callable[[Any, jax.Array, int], jax.Array], first: int
    ) -> np.ndarray:
        # What a program generates after the prompt and the first tokens of PyTorch's text.
        layout = self.sides.layout
        count = self.text.shape[1] - self.prompt_length - first
        with precision(self.dtype):
            prompt = jnp.asarray(
                layout.users(self.text[:, : self.prompt_length + first]), jnp.int32
            )
            tokens = numpy_of(jax_generate(self.sides.jax_params(self.dtype), prompt, count))
        rows = layout.rows(tokens)
        if rows.shape != (len(self.text), count):
            raise ValueError(
                f"jax_generate must give the {count} tokens after the prompt, without it, for "
                f"{len(self.text)} texts; got shape {tokens.shape}."
            )
        return rows

    def _causes(self, got: np.ndarray) -> list[str]:
        """Where the logits differ first, and what they are instead, if that is known."""
        apart = np.linalg.norm(got - self.reference, axis=-1)  # (B, T)
        size = np.linalg.norm(self.reference, axis=-1)
        wrong = apart > SAME * np.maximum(size, np.finfo(float).tiny)
        words = []
        positions = np.flatnonzero(wrong.any(0))
        if len(positions):
            first = positions[0] + 1
            every = len(positions) == wrong.shape[1]
            where = "at every position" if every else f"first at position {first}"
            words.append(f"The logits differ {where} of {wrong.shape[1]}.")
        cause = self._known_cause(got)
        return words + ([f"{cause}."] if cause else [])

    def _known_cause(self, got: np.ndarray) -> str:
        reference = self.reference
        shifted = np.exp(reference - reference.max(-1, keepdims=True))
        probabilities = shifted / shifted.sum(-1, keepdims=True)
        candidates = [
            ("JAX gives log probabilities, PyTorch logits", np.log(probabilities)),
            ("JAX gives probabilities, PyTorch logits", probabilities),
            ("JAX's vocabulary is in the opposite order", reference[..., ::-1]),
        ]
        for words, array in candidates:
            if relative_l2(got, array) <= MEANING_LIMIT["gradients"]:
                return words
        for ahead, when in ((1, "after"), (-1, "before")):
            here = slice(None, -1) if ahead > 0 else slice(1, None)
            there = slice(1, None) if ahead > 0 else slice(None, -1)
            if relative_l2(got[:, here], reference[:, there]) <= MEANING_LIMIT["gradients"]:
                return f"JAX's logits are PyTorch's of the position {when}"
        factor = float((got * reference).sum() / (reference**2).sum())
        if abs(factor - 1) > SAME and relative_l2(got, factor * reference) <= SAME:
            return f"JAX's logits are {factor:.6g} times PyTorch's, as with another temperature"
        prefix = self.sides.in_jax(self.read[:, : self.prompt_length], "float64")
        if relative_l2(prefix, got[:, : self.prompt_length]) > SAME:
            return "JAX's logits depend on later tokens: the causal mask, or the order of time"
        return ""
