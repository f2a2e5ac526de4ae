"""From a configuration to everything that a run needs: text, model, optimizer, schedule."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrnn.data.corpora import CORPORA, Corpus, load_corpus
from jaxrnn.data.subwords import is_tokenizer_file
from jaxrnn.data.tokenizers import (
    SUBWORDS,
    Document,
    Tokenizer,
    encode,
    encode_documents,
    extended_tokenizer,
    joined,
    make_tokenizer,
    unprintable,
)
from jaxrnn.data.windows import (
    BpttStream,
    Progression,
    WindowSet,
    non_overlapping_starts,
    overlapping_starts,
    split_starts,
    trigram_starts,
)
from jaxrnn.generation.texts import read_prompt
from jaxrnn.nn.model import CharModel
from jaxrnn.registry import absolute_reference
from jaxrnn.runs.config import Config
from jaxrnn.training.evaluation import Source
from jaxrnn.training.optimizers import Optimizer
from jaxrnn.training.schedules import Schedule, parse_schedule
from jaxrnn.training.state import TrainState, cast_floats, check_memory, make_state

STARTS: dict[str, Callable[[int, int], np.ndarray | Progression]] = {
    "trigrams": lambda n, length: trigram_starts(n),
    "overlapping": overlapping_starts,
    "non-overlapping": non_overlapping_starts,
}
"""Starts of the windows in n characters, by the data set that a model reads."""


class Experiment(NamedTuple):
    """A run, ready to start.

    Attributes:
        config: the configuration that it was made from.
        corpus_sha256: the checksum of the text.
        vocabulary: the tokenizer.
        model: the model.
        optimizer: the optimizer.
        schedule: the learning rates.
        source: the windows to train on.
        validation: the windows to validate on.
        dtype: the type of the weights and of all that is computed from them. Training in float64
            needs `jax.enable_x64`.
        held_out: the documents to validate on; empty where windows of the training text do.
    """

    config: Config
    corpus_sha256: str
    vocabulary: Tokenizer
    model: CharModel
    optimizer: Optimizer
    schedule: Schedule
    source: Source
    validation: Source
    dtype: str = "float32"
    held_out: tuple[Document, ...] = ()

    def fresh_state(self) -> TrainState:
        """The state that training starts from: the same numbers in every precision."""
        return cast_floats(fresh_state(self.config, self.model), self.dtype)


def fresh_state(config: Config, model: CharModel, params: Any = None) -> TrainState:
    """The state that a run of `config` starts from; `params` are parameters to start from."""
    key = jax.random.key(config.seed)
    return make_state(model, config.make_optimizer(), config.batch_size, key, params=params)


def prepare(
    config: Config, *, vocabulary: Tokenizer | None = None, extend: bool = False
) -> Experiment:
    """Load the text and make everything that training needs.

    Args:
        config: the configuration.
        vocabulary: the tokenizer of the run that is resumed; made from the text if None.
        extend: whether that tokenizer gets the tokens that it lacks for this text.

    Raises:
        ValueError: if the corpus cannot be loaded or is too short for the batch, or the run does
            not fit into memory.
    """
    corpus = load_corpus(config.corpus, validation=config.validation)
    # Which data set a model reads does not depend on V, which is not known yet.
    reads = config.make_model(1).reads
    if reads == "streams":
        training, held_out = corpus.split(config.validation_fraction)
        if vocabulary is None:
            vocabulary = _make_vocabulary(config, training, held_out)
        elif extend:
            vocabulary = _extended(vocabulary, config, training, held_out)
        source, validation = _streams(config, vocabulary, training, held_out)
    else:
        held_out = corpus.validation or ()
        documents = [joined(corpus.documents)]
        if held_out:
            documents.append(joined(held_out))
        if vocabulary is None:
            vocabulary = make_tokenizer(config.tokenizer, documents)
        elif extend:
            vocabulary = extended_tokenizer(vocabulary, documents)
        source, validation = _windows(config, vocabulary, corpus, STARTS[reads])
    experiment = Experiment(
        config=with_absolute_paths(config),
        corpus_sha256=corpus.sha256,
        vocabulary=vocabulary,
        model=config.make_model(vocabulary.size),
        optimizer=config.make_optimizer(),
        schedule=parse_schedule(config.schedule),
        source=source,
        validation=validation,
        held_out=held_out,
    )
    # Before anything is compiled: the largest step must fit.
    check_memory(
        jax.eval_shape(experiment.fresh_state),
        steps=max(source.sizes),
        batch_size=config.batch_size,
        vocab_size=vocabulary.size,
    )
    return experiment


def with_absolute_paths(config: Config) -> Config:
    """The same configuration, whose texts and code are found from every folder.

    A file of a tokenizer is not named any more: the run holds what is in it.
    """
    values: dict[str, Any] = {}
    for field, name in config.names().items():
        values[field] = absolute_reference(name)
    if is_tokenizer_file(config.tokenizer):
        values["tokenizer"] = SUBWORDS
    if config.corpus not in CORPORA:
        values["corpus"] = os.path.abspath(config.corpus)
    if config.validation is not None:
        values["validation"] = os.path.abspath(config.validation)
    return replace(config, **values)


def prompt_for(experiment: Experiment, asked: str | None, usual: str) -> str:
    """The prompt that is asked for, or the usual one, or one of the text if that cannot be read."""
    vocabulary = experiment.vocabulary
    window = experiment.config.bptt
    prompt = usual if asked is None else asked
    try:
        read_prompt(experiment.model, vocabulary, prompt, window=window)
        return prompt
    except ValueError:
        if asked is not None:
            raise
    # The beginning of the validation text, or any token where that has none to print.
    tokens = experiment.validation.tokens
    hidden = unprintable(vocabulary)
    known = tokens[~np.isin(tokens, hidden)]
    if not len(known):
        known = np.setdiff1d(np.arange(vocabulary.size), hidden)[:1]
    # The text of some subwords may be encoded as fewer of them.
    count = window
    prompt = vocabulary.decode(known[:count])
    while count < len(known) and len(encode(vocabulary, prompt)) < window:
        count *= 2
        prompt = vocabulary.decode(known[:count])
    return prompt


def _make_vocabulary(
    config: Config, training: Sequence[Document], held_out: Sequence[Document]
) -> Tokenizer:
    """The tokenizer of the training text; that of integers knows all, as none may be unknown."""
    documents = list(training)
    if config.tokenizer == "integers":
        documents += held_out
    return make_tokenizer(
        config.tokenizer,
        documents,
        min_frequency=config.min_frequency,
        lowercase=config.lowercase,
    )


def _extended(
    vocabulary: Tokenizer,
    config: Config,
    training: Sequence[Document],
    held_out: Sequence[Document],
) -> Tokenizer:
    """The tokenizer with what the training text has in addition; with all, if none is unknown."""
    documents = list(training)
    # Where there is no <unk>, a character of the validation text would be refused.
    if getattr(vocabulary, "unknown", None) is None:
        documents += held_out
    return extended_tokenizer(vocabulary, documents, min_frequency=config.min_frequency)


def _streams(
    config: Config,
    vocabulary: Tokenizer,
    training: Sequence[Document],
    held_out: Sequence[Document],
) -> tuple[Source, Source]:
    """The texts to train and to validate on as B streams side by side."""
    # Even seeds for training and odd ones for validation: no two runs share a sequence of lengths.
    seed = 2 * config.seed
    tokens = encode_documents(vocabulary, training)
    source = BpttStream(tokens, config.batch_size, config.bptt, config.random_bptt, seed)
    # A short text is enough for fewer streams, of at least 2 tokens each. Only the training text
    # must be long enough for the batch that the user chose.
    tokens = encode_documents(vocabulary, held_out)
    batch_size = max(1, min(config.batch_size, len(tokens) // 2))
    validation = BpttStream(tokens, batch_size, config.bptt, config.random_bptt, seed + 1)
    return source, validation


def _windows(
    config: Config,
    vocabulary: Tokenizer,
    corpus: Corpus,
    starts_in: Callable[[int, int], np.ndarray | Progression],
) -> tuple[Source, Source]:
    """The windows to train and to validate on."""
    tokens = encode(vocabulary, joined(corpus.documents))
    starts = starts_in(len(tokens), config.bptt)
    validation_tokens = tokens
    if corpus.validation:
        validation_tokens = encode(vocabulary, joined(corpus.validation))
        validation_starts = starts_in(len(validation_tokens), config.bptt)
    else:
        # Without a text of its own, validation takes some of the windows. Of those that do not
        # overlap, the course never samples the last ones.
        sampled_from = None
        if starts_in is non_overlapping_starts:
            sampled_from = len(starts) - config.bptt - 1
        starts, validation_starts = split_starts(
            starts, config.bptt, config.split, sampled_from=sampled_from
        )
    source = WindowSet(tokens, starts, config.bptt, config.batch_size, seed=config.seed)
    validation = WindowSet(
        validation_tokens, validation_starts, config.bptt, config.batch_size, shuffled=False
    )
    return source, validation
