"""What a trained model writes, beside what the course's did."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.exchange.weights import WeightMap
from jaxrnn.generation.decoding import get_next
from jaxrnn.generation.sampler import GREEDY, Sampler
from jaxrnn.generation.texts import generate_texts, read_prompt
from jaxrnn.reproduction.units import Unit
from jaxrnn.runs.experiment import Experiment, prompt_for
from jaxrnn.runs.recipes import RECIPES
from jaxrnn.tree import named_leaves

COURSE_ANSWERS: dict[str, dict[str, str]] = {
    "trigrams": {"y. ": "T", "ppl": "e", " th": "e", "and": " "},
    "overlapping": {"for thos": "e", "part of ": "t", "queens a": "n"},
    "non-overlapping": {"for thos": "e", "part of ": "t", "queens a": "n"},
    "streams": {},
}
"""The most likely next character after each prompt, as the course printed it, by what is read.

It asked the models that read eight characters in turn; not each of them about each prompt.
"""

GREEDY_LENGTH, SAMPLED_LENGTH = 100, 300
"""Characters that are written greedily by a windowed model, and drawn by a stateful one."""


def params_of(experiment: Experiment, weights: Mapping[str, np.ndarray]) -> Any:
    """The model's tree of parameters from weights by PyTorch's keys."""
    likes = experiment.fresh_state().params
    named = named_leaves(likes)
    moved = WeightMap.for_flax(named).from_torch(weights)
    return jax.tree.unflatten(jax.tree.structure(likes), [jnp.asarray(moved[n]) for n in named])


def samples(unit: Unit, experiment: Experiment, params: Any) -> list[dict[str, str | None]]:
    """A text: greedy by a windowed model, as the course's `get_next_n`, else drawn."""
    model, vocabulary = experiment.model, experiment.vocabulary
    prompt = prompt_for(experiment, None, RECIPES[unit.recipe].prompt)
    greedy = model.reads != "streams"
    text = generate_texts(
        model,
        params,
        vocabulary,
        prompt,
        window=experiment.config.bptt,
        length=GREEDY_LENGTH if greedy else SAMPLED_LENGTH,
        sampler=GREEDY if greedy else Sampler(),
        seed=unit.seed,
    )[0]
    return [
        {
            "prompt": prompt,
            "greedy": text if greedy else None,
            "sampled": None if greedy else text,
        }
    ]


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
