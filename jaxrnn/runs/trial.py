"""A short evaluation of imported weights: do they predict this text at all?"""

from dataclasses import replace
from typing import Any, NamedTuple

from jaxrnn.data.windows import BpttStream, WindowSet
from jaxrnn.nn.model import CharModel
from jaxrnn.nn.models import CharLM
from jaxrnn.recurrent.catalog import CELLS
from jaxrnn.runs.experiment import Experiment
from jaxrnn.training.evaluation import Source, evaluate

CHARACTERS = 4096
"""Number of characters of the validation text that are predicted."""
STREAMS = 8
"""Number of streams that they are cut into, if they are enough."""


class Trial(NamedTuple):
    """How well weights predict the beginning of a validation text.

    Attributes:
        nats: the mean loss, in nats per character.
        characters: the number of characters that were read.
    """

    nats: float
    characters: int


def tried(experiment: Experiment, model: CharModel, params: Any) -> Trial:
    """The loss of weights on the beginning of the validation text of `experiment`."""
    source = experiment.validation
    if isinstance(source, WindowSet):
        # About as many characters, in whole windows.
        count = max(1, CHARACTERS // source.length)
        short = replace(source, starts=source.starts[:count])
        return Trial(_loss(model, params, short), len(short.starts) * source.length)
    # Streams are cut from the text: a short one for a short text, at least 2 tokens each.
    stream = _beginning(experiment)
    return Trial(_loss(model, params, stream), len(stream.tokens))


def compared(experiment: Experiment, params: Any, cells: tuple[str, ...]) -> dict[str, float]:
    """The loss, in nats per character, of the same recurrent weights with each of some cells.

    Args:
        experiment: the experiment whose validation text is read, as streams, and whose sizes the
            weights have.
        params: the parameters of an embedding, a recurrent layer and an output layer.
        cells: the names of cells with equally many gates.
    """
    config = experiment.config
    stream = _beginning(experiment)
    # The general model with the same parameters: theirs have its names and shapes.
    losses = {}
    for name in cells:
        model = CharLM(
            experiment.vocabulary.size,
            config.embedding_size,
            config.hidden_size,
            cell=CELLS[name],
            num_layers=config.num_layers,
            tied=config.tied,
        )
        losses[name] = _loss(model, params, stream)
    return losses


def _beginning(experiment: Experiment) -> BpttStream:
    """The beginning of the validation text as streams."""
    tokens = experiment.validation.tokens[:CHARACTERS]
    streams = max(1, min(STREAMS, len(tokens) // 2))
    return BpttStream(tokens, streams, experiment.config.bptt)


def _loss(model: CharModel, params: Any, source: Source) -> float:
    _, nats = evaluate(model, params, source)
    return nats
