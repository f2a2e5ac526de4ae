"""How the next token is sampled from the model's distribution.

Shapes: B texts at once, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.array_checks import as_array, as_floats

# Stands in the place of a token where no character has a probability, as NaN leaves none.
NOTHING = -1
# Whatever is below it is drawn as at it: only the most likely characters are left by then.
SMALLEST_TEMPERATURE = float(np.finfo(np.float32).tiny)
# Whatever is above it is drawn as at it: all characters are equally likely by then. The inverse of
# a larger one would be rounded to zero.
LARGEST_TEMPERATURE = 1 / SMALLEST_TEMPERATURE


class Rules(NamedTuple):
    """The numbers of a `Sampler` as arrays, so that a program can be used with any of them.

    Attributes:
        temperature: what log probabilities are divided by; None is greedy.
        top_k: how many of the most likely characters are drawn; None is all.
        top_p: what probability the most likely characters that are drawn reach; None is all.
        banned: which tokens are never drawn.
    """

    temperature: Float[Array | np.ndarray, ""] | None
    top_k: Int[Array | np.ndarray, ""] | None
    top_p: Float[Array | np.ndarray, ""] | None
    banned: Bool[Array | np.ndarray, " V"]


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How the next character is drawn from the model's distribution.

    A subclass may draw in another way: override `allowed` or `choose`.

    Attributes:
        temperature: log probabilities are divided by it; at least 0. 1 draws from the model's own
            distribution, less is bolder, 0 is greedy: always the most likely character.
        top_k: only the k most likely characters are drawn, if given.
        top_p: only the most likely characters that together reach this probability, in (0, 1],
            are drawn, if given; the first is always among them. Holtzman et al. 2020,
            https://arxiv.org/abs/1904.09751.
        banned: tokens that are never drawn.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    banned: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be at least 0, got {self.temperature}.")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}.")

    def __call__(self, key: Array, log_probs: Float[Array, "B V"]) -> Int[Array, " B"]:
        """Draw one token a row; see `choose`."""
        log_probs = _as_log_probs(log_probs)
        return self.choose(sample_uniforms(key, log_probs.shape[:1], log_probs.dtype), log_probs)

    def choose(
        self, uniforms: Float[Array, " B"], log_probs: Float[Array, "B V"]
    ) -> Int[Array, " B"]:
        """The token that each of the numbers from [0, 1) stands for.

        It is the first up to which the probabilities, in the order of the tokens, sum to more. It
        is -1 where the model says NaN or leaves nothing to draw: that is no token.

        Raises:
            ValueError: if `log_probs` has other axes or no floating numbers.
        """
        log_probs = _as_log_probs(log_probs)
        dtype = jnp.result_type(uniforms)
        uniforms = as_floats("uniforms", uniforms, log_probs.shape[:1], dtype)
        return _chosen(uniforms, self.allowed(log_probs), greedy=self.temperature == 0)

    @property
    def plain(self) -> bool:
        """Whether it draws by its numbers alone, without rules of a subclass."""
        return type(self) is Sampler

    def allowed(self, log_probs: Float[Array, "B V"]) -> Float[Array, "B V"]:
        """The log probabilities of what may be drawn, not normalized; -inf for the rest."""
        return allowed_by(self.rules(log_probs.shape[-1]), log_probs)

    def rules(self, vocab_size: int) -> Rules:
        """The numbers as arrays, for V = `vocab_size`.

        Raises:
            ValueError: if a banned token is outside [0, V), or all are banned.
        """
        banned = np.zeros(vocab_size, bool)
        for token in self.banned:
            if not 0 <= token < vocab_size:
                raise ValueError(f"banned tokens must lie in [0, {vocab_size}), got {token}.")
            banned[token] = True
        if banned.all():
            raise ValueError("All tokens are banned: leave at least one to draw.")
        if self.temperature == 0:
            return Rules(None, None, None, banned)
        temperature = float(min(max(self.temperature, SMALLEST_TEMPERATURE), LARGEST_TEMPERATURE))
        return Rules(
            np.asarray(temperature),
            None if self.top_k is None else np.asarray(min(self.top_k, vocab_size), np.int32),
            None if self.top_p is None else np.asarray(float(self.top_p)),
            banned,
        )


def _as_log_probs(log_probs: Any) -> Float[Array, "B V"]:
    log_probs = as_array("log_probs", log_probs, ("B", "V"))
    return as_floats("log_probs", log_probs, log_probs.shape, log_probs.dtype)


def allowed_by(rules: Rules, log_probs: Float[Array, "B V"]) -> Float[Array, "B V"]:
    """As `Sampler.allowed`; NaN in a row that leaves nothing to draw."""
    log_probs = jnp.where(rules.banned, -jnp.inf, log_probs)
    largest = log_probs.max(axis=-1, keepdims=True)
    drawable = jnp.isfinite(largest)
    if rules.temperature is None:
        best = jnp.argmax(log_probs, axis=-1, keepdims=True)
        only = jnp.where(jnp.arange(log_probs.shape[-1]) == best, 0, -jnp.inf)
        return jnp.where(drawable, only, jnp.nan)
    # Counted from the largest, which stays 0 whatever it is divided by.
    dtype = jnp.promote_types(log_probs.dtype, jnp.float32)
    scaled = (log_probs - largest).astype(dtype) / rules.temperature.astype(dtype)
    log_probs = jnp.where(drawable, jax.nn.log_softmax(scaled), jnp.nan)
    if rules.top_k is None and rules.top_p is None:
        return log_probs
    falling, order = lax.top_k(log_probs, log_probs.shape[-1])
    kept = jnp.ones(falling.shape, bool)
    if rules.top_k is not None:
        kept &= jnp.arange(falling.shape[-1]) < rules.top_k
    if rules.top_p is not None:
        before = jnp.cumsum(jnp.exp(falling), axis=-1) - jnp.exp(falling)
        kept &= before < rules.top_p.astype(dtype)
    kept = jnp.take_along_axis(kept, jnp.argsort(order, axis=-1), axis=-1)
    return jnp.where(kept | ~drawable, log_probs, -jnp.inf)


def _chosen(
    uniforms: Float[Array, " B"], allowed: Float[Array, "B V"], *, greedy: bool
) -> Int[Array, " B"]:
    """As `Sampler.choose`, of what is allowed."""
    largest = allowed.max(axis=-1, keepdims=True)
    if greedy:
        found = jnp.argmax(allowed, axis=-1)
    else:
        weights = jnp.exp(allowed - largest).astype(uniforms.dtype)
        sums = jnp.cumsum(weights, axis=-1)
        found = (sums <= uniforms[:, None] * sums[:, -1:]).sum(axis=-1)
        last = weights.shape[-1] - 1 - jnp.argmax(weights[:, ::-1] > 0, axis=-1)
        found = jnp.minimum(found, last)  # rounded, a sum may never be more
    return jnp.where(jnp.isfinite(largest[:, 0]), found, NOTHING).astype(jnp.int32)


def choose_token(
    own: Sampler | None, rules: Rules | None, uniforms: Array, log_probs: Float[Array, "B V"]
) -> Int[Array, " B"]:
    """Draw by the rules, or by a sampler with rules of its own, which is part of the program."""
    if rules is not None:
        return _chosen(uniforms, allowed_by(rules, log_probs), greedy=rules.temperature is None)
    assert own is not None
    known = ~jnp.isnan(log_probs).any(axis=-1)
    return jnp.where(known, own.choose(uniforms, log_probs), NOTHING).astype(jnp.int32)


def sample_uniforms(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Numbers from [0, 1), at least in float32: bfloat16 knows too few of them."""
    return jax.random.uniform(key, shape, jnp.promote_types(dtype, jnp.float32))


GREEDY = Sampler(temperature=0.0)
"""Always the most likely character."""
