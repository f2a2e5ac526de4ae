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

from jaxrnn.array_checks import as_array, as_floats, check_key
from jaxrnn.checks import check_at_least_1, check_not_negative, is_number, shown

# Value in the place of a token where no character has a probability, as NaN leaves none.
NOTHING = -1
# Bounds of the temperature. Below, only the most likely characters are left; above, all characters
# are equally likely, and the inverse would be rounded to zero.
SMALLEST_TEMPERATURE = float(np.finfo(np.float32).tiny)
LARGEST_TEMPERATURE = 1 / SMALLEST_TEMPERATURE


class Rules(NamedTuple):
    """The numbers of a `Sampler` as arrays, so that a program can be used with any of them.

    Attributes:
        temperature: divisor of the log probabilities; None is greedy.
        top_k: number of the most likely characters to sample among; None is all.
        top_p: probability that the characters to sample among reach together; None is all.
        banned: (V,) mask of the tokens that are never sampled.
    """

    temperature: Float[Array | np.ndarray, ""] | None
    top_k: Int[Array | np.ndarray, ""] | None
    top_p: Float[Array | np.ndarray, ""] | None
    banned: Bool[Array | np.ndarray, " V"]


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """The rules by which the next character is sampled from the model's distribution.

    A subclass may sample in another way: override `allowed` or `choose`.

    Attributes:
        temperature: divisor of the log probabilities, at least 0. 1 samples from the model's own
            distribution, less is bolder, 0 is greedy: always the most likely character.
        top_k: number of the most likely characters to sample among; all if None.
        top_p: probability, in (0, 1], that the most likely characters to sample among reach
            together; the first is always among them. All if None. Holtzman et al. 2020,
            https://arxiv.org/abs/1904.09751.
        banned: tokens that are never sampled.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    banned: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_not_negative(temperature=self.temperature)
        if self.top_k is not None:
            check_at_least_1(top_k=self.top_k)
        if self.top_p is not None and not (is_number(self.top_p) and 0 < self.top_p <= 1):
            raise ValueError(f"top_p must lie in (0, 1], got {shown(self.top_p)}.")
        if not isinstance(self.banned, tuple) or not all(map(is_number, self.banned)):
            raise ValueError(f"banned must be a tuple of tokens, got {shown(self.banned)}.")

    def __call__(self, key: Array, log_probs: Float[Array, "B V"]) -> Int[Array, " B"]:
        """Sample one token a row; see `choose`."""
        check_key(key=key)
        log_probs = _as_log_probs(log_probs)
        uniforms = sample_uniforms(key, log_probs.shape[:1], log_probs.dtype)  # (B,)
        return self.choose(uniforms, log_probs)

    def choose(
        self, uniforms: Float[Array, " B"], log_probs: Float[Array, "B V"]
    ) -> Int[Array, " B"]:
        """The tokens that uniform numbers from [0, 1) choose, by inverse transform sampling.

        It is the first token up to which the probabilities, in the order of the tokens, sum to
        more. It is -1 where the log probabilities are NaN or leave nothing to choose: no token.

        Raises:
            ValueError: if `log_probs` has other axes or no floating numbers.
        """
        log_probs = _as_log_probs(log_probs)
        dtype = jnp.result_type(uniforms)
        uniforms = as_floats("uniforms", uniforms, log_probs.shape[:1], dtype)
        return _chosen(uniforms, self.allowed(log_probs), greedy=self.temperature == 0)

    @property
    def plain(self) -> bool:
        """Whether it samples by its numbers alone, without rules of a subclass."""
        return type(self) is Sampler

    def allowed(self, log_probs: Float[Array, "B V"]) -> Float[Array, "B V"]:
        """The log probabilities of what may be sampled, not normalized; -inf for the rest."""
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
        rules = Rules(np.asarray(temperature), None, None, banned)
        # None instead of all, so that a program without top-k and top-p sorts nothing.
        if self.top_k is not None:
            rules = rules._replace(top_k=np.asarray(min(self.top_k, vocab_size), np.int32))
        if self.top_p is not None:
            rules = rules._replace(top_p=np.asarray(float(self.top_p)))
        return rules


def _as_log_probs(log_probs: Any) -> Float[Array, "B V"]:
    log_probs = as_array("log_probs", log_probs, ("B", "V"))
    return as_floats("log_probs", log_probs, log_probs.shape, log_probs.dtype)


def allowed_by(rules: Rules, log_probs: Float[Array, "B V"]) -> Float[Array, "B V"]:
    """As `Sampler.allowed`; NaN in a row that leaves nothing to choose."""
    log_probs = jnp.where(rules.banned, -jnp.inf, log_probs)
    largest = log_probs.max(axis=-1, keepdims=True)  # (B, 1)
    possible = jnp.isfinite(largest)

    # Greedy.
    if rules.temperature is None:
        best = jnp.argmax(log_probs, axis=-1, keepdims=True)
        only = jnp.where(jnp.arange(log_probs.shape[-1]) == best, 0, -jnp.inf)
        return jnp.where(possible, only, jnp.nan)

    # Temperature. Relative to the largest, which stays 0 whatever the divisor.
    dtype = jnp.promote_types(log_probs.dtype, jnp.float32)
    scaled = (log_probs - largest).astype(dtype) / rules.temperature.astype(dtype)
    log_probs = jnp.where(possible, jax.nn.log_softmax(scaled), jnp.nan)
    if rules.top_k is None and rules.top_p is None:
        return log_probs

    # Top-k and top-p, in falling order of the probabilities.
    falling, order = lax.top_k(log_probs, log_probs.shape[-1])  # (B, V)
    allowed = jnp.ones(falling.shape, bool)
    if rules.top_k is not None:
        allowed &= jnp.arange(falling.shape[-1]) < rules.top_k
    if rules.top_p is not None:
        # The probability before a character, without its own: the first is always allowed.
        before = jnp.cumsum(jnp.exp(falling), axis=-1) - jnp.exp(falling)
        allowed &= before < rules.top_p.astype(dtype)
    # Back to the order of the tokens.
    allowed = jnp.take_along_axis(allowed, jnp.argsort(order, axis=-1), axis=-1)
    return jnp.where(allowed | ~possible, log_probs, -jnp.inf)


def _chosen(
    uniforms: Float[Array, " B"], allowed: Float[Array, "B V"], *, greedy: bool
) -> Int[Array, " B"]:
    """As `Sampler.choose`, of what is allowed."""
    largest = allowed.max(axis=-1, keepdims=True)  # (B, 1)
    if greedy:
        found = jnp.argmax(allowed, axis=-1)
    else:
        weights = jnp.exp(allowed - largest).astype(uniforms.dtype)
        # Scaled by the last sum instead of normalized: one rounding less.
        sums = jnp.cumsum(weights, axis=-1)  # (B, V)
        found = (sums <= uniforms[:, None] * sums[:, -1:]).sum(axis=-1)  # (B,)
        # After rounding, no sum may be larger: then it is the last token that is allowed.
        last = weights.shape[-1] - 1 - jnp.argmax(weights[:, ::-1] > 0, axis=-1)
        found = jnp.minimum(found, last)
    return jnp.where(jnp.isfinite(largest[:, 0]), found, NOTHING).astype(jnp.int32)


def choose_token(
    own: Sampler | None, rules: Rules | None, uniforms: Array, log_probs: Float[Array, "B V"]
) -> Int[Array, " B"]:
    """Sample by the rules, or by a sampler with rules of its own, part of the program."""
    if rules is not None:
        return _chosen(uniforms, allowed_by(rules, log_probs), greedy=rules.temperature is None)
    assert own is not None
    known = ~jnp.isnan(log_probs).any(axis=-1)
    return jnp.where(known, own.choose(uniforms, log_probs), NOTHING).astype(jnp.int32)


def sample_uniforms(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Uniform numbers from [0, 1), at least in float32: bfloat16 has too few of them."""
    return jax.random.uniform(key, shape, jnp.promote_types(dtype, jnp.float32))


GREEDY = Sampler(temperature=0.0)
"""Always the most likely character."""
