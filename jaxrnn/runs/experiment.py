"""From a configuration to everything that a run needs: text, model, optimizer, schedule."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrnn.data.corpora import CORPORA, Corpus, load_corpus
from jaxrnn.data.tokenizers import (
    Document,
    Tokenizer,
    encode,
    encode_documents,
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

STARTS = {
    "trigrams": lambda n, length: trigram_starts(n),
    "overlapping": overlapping_starts,
    "non-overlapping": non_overlapping_starts,
}
"""Where windows start in n characters, by the data set that a model reads."""


class Experiment(NamedTuple):
    """A run, ready to start.

    Attributes:
        config: what it was made from.
        corpus_sha256: the checksum of the text.
        vocabulary: text <-> tokens.
        model: the model.
        optimizer: the optimizer.
        schedule: the learning rates.
        source: what to train on.
        validation: what to validate on.
        dtype: of the weights and all that is computed from them. Training in float64 needs
            `jax.enable_x64`.
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


def fresh_state(config: Config, model: CharModel) -> TrainState:
    """The state that a run of `config` starts from."""
    key = jax.random.key(config.seed)
    return make_state(model, config.make_optimizer(), config.batch_size, key)


def prepare(config: Config, *, vocabulary: Tokenizer | None = None) -> Experiment:
    """Load the text and make everything that training needs.

    Args:
        config: the configuration.
        vocabulary: that of an earlier run, to go on with; made from the text if None.

    Raises:
        ValueError: if the corpus cannot be loaded or is too short for the batch, or the run does
            not fit into memory.
    """
    corpus = load_corpus(config.corpus, validation=config.validation)
    streams = config.make_model(1).reads == "streams"
    make = _streams if streams else _windows
    held_out = corpus.split(config.validation_fraction)[1] if streams else corpus.validation
    made, source, validation = make(config, corpus, vocabulary)
    experiment = Experiment(
        config=with_absolute_paths(config),
        corpus_sha256=corpus.sha256,
        vocabulary=made,
        model=config.make_model(made.size),
        optimizer=config.make_optimizer(),
        schedule=parse_schedule(config.schedule),
        source=source,
        validation=validation,
        held_out=held_out or (),
    )
    check_memory(
        jax.eval_shape(experiment.fresh_state),
        steps=max(source.sizes),
        batch_size=config.batch_size,
        vocab_size=made.size,
    )
    return experiment


def with_absolute_paths(config: Config) -> Config:
    """The same configuration, whose texts and code are found from every folder."""
    corpus = config.corpus if config.corpus in CORPORA else os.path.abspath(config.corpus)
    validation = None if config.validation is None else os.path.abspath(config.validation)
    names: dict[str, Any] = {
        field: absolute_reference(name) for field, name in config.names().items()
    }
    return replace(config, corpus=corpus, validation=validation, **names)


def prompt_for(experiment: Experiment, asked: str | None, usual: str) -> str:
    """The prompt that is asked for, or the usual one, or one of the text if that cannot be read."""
    model, vocabulary, window = experiment.model, experiment.vocabulary, experiment.config.bptt
    prompt = usual if asked is None else asked
    try:
        read_prompt(model, vocabulary, prompt, window=window)
        return prompt
    except ValueError:
        if asked is not None:
            raise
    tokens = experiment.validation.tokens
    known = tokens[~np.isin(tokens, unprintable(vocabulary))][:window]
    if not len(known):
        printable = np.setdiff1d(np.arange(vocabulary.size), unprintable(vocabulary))
        known = printable[:1]
    return vocabulary.decode(known)


def _streams(
    config: Config, corpus: Corpus, vocabulary: Tokenizer | None
) -> tuple[Tokenizer, BpttStream, BpttStream]:
    training, held_out = corpus.split(config.validation_fraction)
    if vocabulary is None:
        vocabulary = make_tokenizer(
            config.tokenizer,
            _seen(config, training, held_out),
            min_frequency=config.min_frequency,
            lowercase=config.lowercase,
        )

    def stream(documents: Sequence[Document], batch_size: int | None, seed: int) -> BpttStream:
        """The documents side by side in `batch_size` streams, or as many as they are enough for."""
        tokens = encode_documents(vocabulary, documents)
        return BpttStream(
            tokens,
            batch_size or _fitting_batch(tokens, config.batch_size),
            config.bptt,
            config.random_bptt,
            seed,
        )

    source = stream(training, config.batch_size, 2 * config.seed)
    return vocabulary, source, stream(held_out, None, 2 * config.seed + 1)


def _windows(
    config: Config, corpus: Corpus, vocabulary: Tokenizer | None
) -> tuple[Tokenizer, WindowSet, WindowSet]:
    text = joined(corpus.documents)
    held_out = joined(corpus.validation) if corpus.validation else None
    if vocabulary is None:
        documents = [text] if held_out is None else [text, held_out]
        vocabulary = make_tokenizer(config.tokenizer, documents)
    tokens = encode(vocabulary, text)
    reads = config.make_model(1).reads
    starts: np.ndarray | Progression = STARTS[reads](len(tokens), config.bptt)
    validation_starts: np.ndarray | Progression
    if held_out is not None:
        validation_tokens = encode(vocabulary, held_out)
        validation_starts = STARTS[reads](len(validation_tokens), config.bptt)
    else:
        validation_tokens = tokens
        sampled_from = len(starts) - config.bptt - 1 if reads == "non-overlapping" else None
        starts, validation_starts = split_starts(
            starts, config.bptt, config.split, sampled_from=sampled_from
        )
    return (
        vocabulary,
        WindowSet(tokens, starts, config.bptt, config.batch_size, seed=config.seed),
        WindowSet(
            validation_tokens, validation_starts, config.bptt, config.batch_size, shuffled=False
        ),
    )


def _seen(
    config: Config, training: Sequence[Document], held_out: Sequence[Document]
) -> Sequence[Document]:
    """What a tokenizer is made of: the training text; of integers all, as none may be unknown."""
    if config.tokenizer == "integers":
        return [*training, *held_out]
    return training


def _fitting_batch(tokens: np.ndarray, batch_size: int) -> int:
    """`batch_size`, or as many streams as the text is enough for, with at least 2 tokens each."""
    return max(1, min(batch_size, len(tokens) // 2))
