"""What is measured on a trained model, beside its losses: what it writes, how gradients flow.

Shapes: T time steps, B batch, H hidden size.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxrnn.data.windows import WindowSet
from jaxrnn.exchange.weights import WeightMap
from jaxrnn.generation.decoding import get_next
from jaxrnn.generation.sampler import GREEDY, Sampler
from jaxrnn.generation.texts import generate_texts, read_prompt
from jaxrnn.nn.model import StatefulModel, apply_model
from jaxrnn.nn.models import CharSeqStatefulRnn
from jaxrnn.recurrent.cells import Carry
from jaxrnn.runs.experiment import Experiment, prepare, prompt_for
from jaxrnn.runs.recipes import RECIPES
from jaxrnn.training.evaluation import evaluate
from jaxrnn.training.state import cast_floats
from jaxrnn.tree import named_leaves
from reproduction.units import Unit

STEPS_BACK = 100
"""How far back gradients are followed."""
PLACES = 64
"""Places in the text over which their norms are averaged."""
COURSE_ANSWERS: dict[str, dict[str, str]] = {
    "trigrams": {"y. ": "T", "ppl": "e", " th": "e", "and": " "},
    "overlapping": {"for thos": "e", "part of ": "t", "queens a": "n"},
    "non-overlapping": {"for thos": "e", "part of ": "t", "queens a": "n"},
    "streams": {},
}
"""The most likely next character after each prompt, as the course printed it, by what is read.

It asked the models that read eight characters in turn; not each of them about each prompt.
"""
GREEDY_LENGTH = 100
"""Characters that a windowed model writes greedily."""
SAMPLED_LENGTH = 300
"""Characters that are drawn from a stateful model."""


def measured(
    unit: Unit, experiment: Experiment, weights: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """What is measured of a unit: of ours in float32 alone, and by what it is about.

    Args:
        unit: what was trained.
        experiment: made from its configuration.
        weights: at the end, by PyTorch's keys.

    Returns:
        The fields samples, next, shared and flow of the results.
    """
    found: dict[str, Any] = {"samples": [], "next": [], "shared": None, "flow": []}
    if (unit.framework, unit.dtype) != ("jax", "float32"):
        return found
    params = params_of(experiment, weights)
    if not unit.study:
        found |= {"samples": samples(unit, experiment, params), "next": answers(experiment, params)}
    windowed = experiment.model.reads in ("overlapping", "non-overlapping")
    if windowed and unit.study in ("", "split"):
        found["shared"] = loss_on_shared_windows(experiment, params)
    if unit.study == "identity":
        ends = (experiment.fresh_state().params, params)
        found["flow"] = [gradient_flow(experiment, each) for each in ends]
    return found


def params_of(experiment: Experiment, weights: Mapping[str, np.ndarray]) -> Any:
    """The model's tree of parameters from weights by PyTorch's keys."""
    likes = experiment.fresh_state().params
    named = named_leaves(likes)
    moved = WeightMap.for_flax(named).from_torch(weights)
    return jax.tree.unflatten(jax.tree.structure(likes), [jnp.asarray(moved[n]) for n in named])


def samples(unit: Unit, experiment: Experiment, params: Any) -> list[dict[str, str | None]]:
    """A text: greedy by a windowed model, as the course's `get_next_n`, else drawn."""
    prompt = prompt_for(experiment, None, RECIPES[unit.recipe].prompt)
    greedy = experiment.model.reads != "streams"
    (text,) = generate_texts(
        experiment.model,
        params,
        experiment.vocabulary,
        prompt,
        window=experiment.config.bptt,
        length=GREEDY_LENGTH if greedy else SAMPLED_LENGTH,
        sampler=GREEDY if greedy else Sampler(),
        seed=unit.seed,
    )
    how = "greedy" if greedy else "sampled"
    return [{"prompt": prompt, "greedy": None, "sampled": None} | {how: text}]


def answers(experiment: Experiment, params: Any) -> list[dict[str, str]]:
    """The most likely next character after each of the course's prompts that can be read."""
    model, vocabulary = experiment.model, experiment.vocabulary
    given = []
    for prompt in COURSE_ANSWERS[model.reads]:
        try:
            tokens = read_prompt(model, vocabulary, prompt, window=experiment.config.bptt)
        except ValueError:  # another text's vocabulary, or a longer window
            continue
        read = jnp.asarray(tokens[-experiment.config.bptt :, None])
        following = np.asarray(get_next(model, params, read))
        given.append({"prompt": prompt, "next": vocabulary.decode(following)})
    return given


def loss_on_shared_windows(experiment: Experiment, params: Any) -> float:
    """The mean loss on the windows that the random and the contiguous split both hold out.

    Two models that were trained on different splits are judged on the same text there. The windows
    lie in the last fifth of the text. Training on the random split has read the text around them,
    training on the contiguous one has not.

    Args:
        experiment: of a windowed model, with either split.
        params: the trained parameters.

    Returns:
        Nats per character.
    """
    held_out = [
        prepare(replace(experiment.config, split=split)).validation
        for split in ("random", "contiguous")
    ]
    assert all(isinstance(source, WindowSet) for source in held_out)
    starts = np.intersect1d(*(source.starts for source in held_out))  # type: ignore[attr-defined]
    source = replace(held_out[0], starts=starts)  # type: ignore[type-var]
    return evaluate(experiment.model, params, source)[1]


def gradient_flow(experiment: Experiment, params: Any) -> list[float]:
    """How much of the last character's loss comes back to each step before it.

    Args:
        experiment: of a `CharSeqRnn`, whose parameters are those of a `CharSeqStatefulRnn`.
        params: the parameters.

    Returns:
        The norm |d loss / d h|₂ of the hidden state 1, 2, ... `STEPS_BACK` steps before the last,
        mean over `PLACES` places spread over the text, each read from a zero carry.
    """
    config, tokens = experiment.config, experiment.validation.tokens
    model = CharSeqStatefulRnn(
        experiment.model.vocab_size, config.embedding_size, config.hidden_size
    )
    length = STEPS_BACK + 2  # the last is only a target
    places = np.linspace(0, len(tokens) - length, PLACES).astype(int)
    read = jnp.asarray(tokens[places + np.arange(length)[:, None]])
    with jax.enable_x64(True):  # a norm may fall below what float32 can hold
        norms = _norms(model, cast_floats(params, "float64"), read[:-1], read[-1])
    return [float(norm) for norm in norms[::-1]]


def _norms(
    model: StatefulModel, params: Any, tokens: Int[Array, "T B"], target: Int[Array, " B"]
) -> Float[Array, " T"]:
    """The mean norm of the gradient of the loss after the last step, by each earlier state."""

    def loss(added: Float[Array, "T B H"]) -> Array:
        """The sum over rows, of which each depends on its own states alone."""

        def step(carry: Carry, given: tuple[Array, Array]) -> tuple[Carry, Array]:
            token, more = given
            carry, log_probs = apply_model(model, params, carry, token[None])
            moved = jax.tree.map(lambda h: h + more, carry)
            return moved, log_probs[0]

        start = model.initial_carry(tokens.shape[1], added.dtype)
        # What is added to a state is seen by the steps after it: the loss is one step later.
        carry, _ = lax.scan(step, start, (tokens[:-1], added))
        _, log_probs = apply_model(model, params, carry, tokens[-1:])
        return -jnp.take_along_axis(log_probs[-1], target[:, None], axis=-1).sum()

    steps, batch = tokens.shape
    nothing = jnp.zeros((steps - 1, batch, model.hidden_size), jax.tree.leaves(params)[0].dtype)
    return jnp.linalg.norm(jax.grad(loss)(nothing), axis=-1).mean(axis=-1)
