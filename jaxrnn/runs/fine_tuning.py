"""A new run that begins with the weights of another one: fine-tuning.

The architecture and the tokens are the old run's; a text with further tokens adds them behind the
old ones, whose numbers stay. All other values are the old run's unless they are given. The new
run's folder needs nothing of the old one's.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.data.tokenizers import Tokenizer, token_name
from jaxrnn.data.vocabulary import Vocabulary
from jaxrnn.registry import absolute_reference
from jaxrnn.runs.config import Config
from jaxrnn.runs.experiment import Experiment, prepare
from jaxrnn.runs.exported import AnyRun, ExportedRun
from jaxrnn.runs.origin import Origin
from jaxrnn.training.state import TrainState
from jaxrnn.tree import named_leaves

ARCHITECTURE = (
    "model",
    "cell",
    "embedding_size",
    "hidden_size",
    "num_layers",
    "tied",
    "identity",
    "tokenizer",
    "lowercase",
)
"""Options that the weights and the vocabulary belong to."""
TEXT = ("validation", "validation_fraction", "min_frequency")
"""Options beside the corpus on which the tokens of a text depend."""
NAMED = 20
"""Maximum number of new characters that a message lists."""


class FineTuning(NamedTuple):
    """What a run begins with that goes on from the weights of another one.

    Attributes:
        experiment: what it trains.
        state: the state that it begins with.
        origin: where that is from.
        notes: what the user should know of it, a sentence each.
    """

    experiment: Experiment
    state: TrainState
    origin: Origin
    notes: tuple[str, ...]


def fine_tuning(
    run: AnyRun,
    options: Mapping[str, Any],
    *,
    corpus: str | None = None,
    checkpoint: str = "best",
    keep_optimizer: bool = False,
) -> FineTuning:
    """Prepare a run that begins with the weights of another one.

    Args:
        run: the other run, or a file that was exported from it.
        options: the values of `Config` that are to differ from its own.
        corpus: the text to train on; the run's own if None.
        checkpoint: the checkpoint with the weights, "best" or "last".
        keep_optimizer: whether the optimizer's state goes on, too, instead of a fresh one.

    Raises:
        ValueError: if an option contradicts the weights, if the text has more tokens than the model
            can be given, or if the optimizer's state does not fit.
        RunError: if the run cannot be read, or its own text has changed.
    """
    old = run.config
    config = _changed(run, old, options)
    if corpus is None:
        run.check_text_is_there()
    else:
        config = replace(config, corpus=corpus)
        # A path of a file's that may be anyone's is not opened.
        if isinstance(run, ExportedRun) and "validation" not in options:
            config = replace(config, validation=None)

    # The text, by the run's own tokens and, on another text, those that it needs in addition.
    vocabulary = run.vocabulary
    same_text = corpus is None and config.validation == old.validation
    same_tokens = same_text and all(getattr(config, name) == getattr(old, name) for name in TEXT)
    experiment = prepare(config, vocabulary=vocabulary, extend=not same_tokens)
    if same_text:
        run.check_same_text(experiment)
    added = _added(vocabulary, experiment.vocabulary)

    # The weights, and with a fresh carry all else that training starts from.
    before = run.load_state(checkpoint)
    fresh = experiment.fresh_state()
    sizes = (vocabulary.size, experiment.vocabulary.size)
    problem = f"The text has {added} that the vocabulary of {run} lacks, and {config.model}"
    params = _extended(before.params, fresh.params, sizes, problem)
    state = fresh._replace(params=params)
    if keep_optimizer:
        _check_same_optimizer(run, config, before, fresh)
        problem = f"The text has {added} that are new, and the optimizer's state"
        opt_state = _extended(before.opt_state, fresh.opt_state, sizes, problem)
        state = state._replace(opt_state=opt_state)
    origin = Origin(
        folder=str(run),
        run=run.identity,
        checkpoint=run.found(checkpoint),
        step=int(before.step),
        tokens_added=sizes[1] - sizes[0],
        optimizer_kept=keep_optimizer,
    )
    notes = []
    if added:
        notes.append(f"The vocabulary of {run} lacks {added}: added, and still untrained.")
    if corpus is not None and getattr(vocabulary, "lowercase", False):
        notes.append(f"The text is lower-cased, as that of {run} was.")
    if corpus is not None and config.validation is not None and "validation" not in options:
        notes.append(f"It validates on {config.validation}, as {run} did.")
    return FineTuning(experiment, state, origin, tuple(notes))


def _changed(run: AnyRun, old: Config, options: Mapping[str, Any]) -> Config:
    """The old run's configuration with other values.

    Raises:
        ValueError: if one is unknown, out of range, or contradicts the weights.
    """
    names = [field.name for field in fields(Config)]
    changed = {}
    for name, value in options.items():
        if name not in names:
            raise ValueError(f"There is no option {name}: take {', '.join(names)}.")
        there = getattr(old, name)
        if name not in ARCHITECTURE:
            changed[name] = value
        elif _comparable(value) != _comparable(there):
            raise ValueError(
                f"{name} of {run} is {there!r}, which its weights and tokens belong to, and "
                f"cannot become {value!r}: leave {name} out, or train from the beginning."
            )
    return replace(old, **changed)


def _comparable(value: Any) -> Any:
    """A value, such that FILE.py:NAME is equal however the file's path is written."""
    return absolute_reference(value) if isinstance(value, str) else value


def _extended(before: Any, fresh: Any, sizes: tuple[int, int], problem: str) -> Any:
    """The arrays of a tree, with the entries of `fresh` for tokens that are new.

    Axes that are as long as the vocabulary, and grow with it, have an entry for each token: so they
    are known by the shapes alone, in a model of the user's own, too.

    Args:
        before: the tree.
        fresh: a tree with as many arrays, for the new vocabulary.
        sizes: V before, and V now.
        problem: the beginning of a message.

    Raises:
        ValueError: if an array has another shape for another reason.
    """
    leaves = []
    for old, (name, new) in zip(jax.tree.leaves(before), named_leaves(fresh).items(), strict=True):
        was = jnp.shape(old)
        shape = jnp.shape(new)
        if was == shape:
            leaves.append(old)
            continue
        # One more axis, or an axis that is no list of tokens.
        pairs = list(zip(was, shape, strict=False))
        if len(was) != len(shape) or not all(
            pair == sizes or len(set(pair)) == 1 for pair in pairs
        ):
            raise ValueError(
                f"{problem} cannot take them: its {name} has shape {was} for {sizes[0]} tokens and "
                f"{shape} for {sizes[1]}, which is not one entry a token. Take a text without "
                "them, or a larger min_frequency."
            )
        # On the host, where a new shape compiles nothing.
        grown = np.array(new)
        grown[tuple(map(slice, was))] = old
        leaves.append(jax.device_put(grown))
    return jax.tree.unflatten(jax.tree.structure(fresh), leaves)


def _check_same_optimizer(
    run: AnyRun, config: Config, before: TrainState, fresh: TrainState
) -> None:
    """Refuse to keep the state of another optimizer.

    Raises:
        ValueError: if the optimizer is another one, or its state has other arrays.
    """
    if isinstance(run, ExportedRun):
        raise ValueError(
            f"{run} has weights alone, and no optimizer's state: leave --keep-optimizer out (in "
            "Python, keep_optimizer), and it begins anew."
        )
    old = run.config
    same = _comparable(old.optimizer) == _comparable(config.optimizer)
    # With momentum there is one more array for each parameter.
    count = len(jax.tree.leaves(before.opt_state))
    if not same or count != len(jax.tree.leaves(fresh.opt_state)):
        raise ValueError(
            f"The optimizer's state of {run} is that of {old.optimizer} with momentum "
            f"{old.momentum:g}, and not of {config.optimizer} with momentum {config.momentum:g}: "
            "leave --keep-optimizer out (in Python, keep_optimizer), and it begins anew."
        )


def _added(before: Tokenizer, now: Tokenizer) -> str:
    """The tokens that one tokenizer has beyond another, in words; empty if there are none."""
    count = now.size - before.size
    if not count:
        return ""
    name = token_name(now) if count == 1 else f"{token_name(now)}s"
    if not isinstance(now, Vocabulary):
        return f"{count:,} {name} ({before.size} to {now.size - 1})"
    # A control character is shown by its escape sequence.
    listed = " ".join(map(repr, now.itos[before.size :][:NAMED]))
    more = f" and {count - NAMED:,} more" if count > NAMED else ""
    return f"{count:,} {name} ({listed}{more})"
