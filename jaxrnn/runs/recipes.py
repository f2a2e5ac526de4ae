"""The course's training runs as data, with the losses that the course published.

Source: fast.ai, Deep Learning 2 part 1, lessons 6 and 7, the executed notebook `lesson6-rnn`.
Losses in nats per character: `train` an exponential average over steps, `validation` the mean
over the validation text; one number an epoch, from the first on, unless the epochs are named.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from jaxrnn.data.corpora import CORPORA
from jaxrnn.data.token_files import is_token_file
from jaxrnn.registry import Registry
from jaxrnn.runs.config import Config


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A configuration and what it is known to reach.

    Attributes:
        summary: what it is, in one line.
        config: everything that a run of it depends on.
        prompt: what its samples begin with.
        train: the published training loss at the end of epochs 1, 2, ...
        validation: the published validation loss, likewise.
    """

    summary: str
    config: Config
    prompt: str = "for thos"
    train: Mapping[int, float] = field(default_factory=dict)
    validation: Mapping[int, float] = field(default_factory=dict)


def _epochs(losses: str) -> dict[int, float]:
    """Losses of epochs 1, 2, ..., written as the course prints them."""
    return {epoch: float(loss) for epoch, loss in enumerate(losses.split(), 1)}


# The course's first models read windows of the text, its later ones streams. What the recipes of
# each kind share is written once; every other value is `Config`'s.
_WINDOWS = Config(
    corpus="nietzsche", batch_size=512, schedule="1 x 1e-2, 1 x 1e-3", model="CharRnn"
)
_STREAMS = Config(corpus="nietzsche", schedule="4 x 1e-3, 4 x 1e-4")
_LSTM = replace(
    _STREAMS,
    model="CharSeqStatefulLSTM",
    hidden_size=512,
    num_layers=2,
    dropout=0.5,
    weight_decay=1e-5,
    schedule="2 x 1e-2",
)
# The LSTM recipes begin alike, so they share the losses that were published for these epochs.
_LSTM_START = {1: 1.640, 2: 1.582}
_LSTM_15 = {3: 1.447, 5: 1.399, 9: 1.358, 17: 1.315}

BUILT_IN: dict[str, Recipe] = {
    # Our own.
    "python-docs": Recipe(
        summary="A GRU that learns to write Python documentation, in about a minute.",
        config=Config(schedule="4 x 2e-3, 1 x 2e-4", bptt=16),
        prompt="an object ",
    ),
    # Windows of the text, each from a carry of zeros.
    "three-characters": Recipe(
        summary="Three characters predict the fourth.",
        config=replace(_WINDOWS, model="Char3Model", bptt=3, split="last"),
        prompt="y. ",
        train=_epochs("2.096 1.845"),
    ),
    "loop": Recipe(
        summary="Eight characters, in a loop.",
        config=replace(_WINDOWS, model="CharLoopModel"),
        train=_epochs("2.030 1.736"),
        validation=_epochs("1.993 1.751"),
    ),
    "concat": Recipe(
        summary="Carry and character side by side instead of added.",
        config=replace(_WINDOWS, model="CharLoopConcatModel", schedule="1 x 1e-3, 1 x 1e-4"),
        train=_epochs("1.817 1.690"),
        validation=_epochs("1.785 1.699"),
    ),
    "rnn": Recipe(
        summary="The library's recurrent layer.",
        config=replace(_WINDOWS, model="CharRnn", schedule="4 x 1e-3, 2 x 1e-4"),
        train=_epochs("1.861 1.680 1.588 1.530 1.468 1.465"),
        validation=_epochs("1.843 1.674 1.592 1.549 1.510 1.504"),
    ),
    "many-outputs": Recipe(
        summary="A prediction after every character.",
        config=replace(_WINDOWS, model="CharSeqRnn", schedule="4 x 1e-3, 1 x 1e-4"),
        train=_epochs("2.592 2.285 2.139 2.049 1.998"),
        validation=_epochs("2.403 2.199 2.088 2.016 2.001"),
    ),
    "identity": Recipe(
        summary="The same with identity initialization, which stands ten times the rate.",
        config=replace(_WINDOWS, model="CharSeqRnn", identity=True, schedule="4 x 1e-2, 4 x 1e-3"),
        train=_epochs("2.394 2.104 1.995 1.935 1.840 1.829 1.819 1.813"),
        validation=_epochs("2.211 2.033 1.964 1.918 1.857 1.849 1.843 1.838"),
    ),
    # Streams, whose carry is kept from window to window.
    "stateful-rnn": Recipe(
        summary="The carry goes on from window to window.",
        config=replace(_STREAMS, model="CharSeqStatefulRnn"),
        train=_epochs("1.820 1.631 1.544 1.486 1.419 1.415 1.410 1.408"),
        validation=_epochs("1.812 1.662 1.578 1.545 1.504 1.494 1.493 1.486"),
    ),
    "stateful-rnn-2": Recipe(
        summary="The same as a loop over one cell.",
        config=replace(_STREAMS, model="CharSeqStatefulRnn2", schedule="4 x 1e-3"),
        train=_epochs("1.810 1.625 1.539 1.487"),
        validation=_epochs("1.797 1.653 1.581 1.542"),
    ),
    "stateful-gru": Recipe(
        summary="The same with a gated recurrent unit.",
        config=replace(_STREAMS, model="CharSeqStatefulGRU", schedule="6 x 1e-3, 3 x 1e-4"),
        train=_epochs("1.684 1.498 1.417 1.364 1.332 1.302 1.227 1.219 1.225"),
        validation=_epochs("1.678 1.527 1.468 1.438 1.418 1.405 1.369 1.370 1.370"),
    ),
    # Our own: the course names it as what comes next. As many parameters as "stateful-gru".
    "stateful-qrnn": Recipe(
        summary="The same with two layers of a quasi-recurrent network.",
        config=replace(
            _STREAMS,
            model="CharLM",
            cell="qrnn",
            num_layers=2,
            hidden_size=176,
            schedule="6 x 1e-3, 3 x 1e-4",
        ),
    ),
    "stateful-lstm": Recipe(
        summary="Two LSTM layers of 512 with dropout 0.5.",
        config=_LSTM,
        train=_epochs("1.720 1.629"),
        validation=_LSTM_START,
    ),
    # sgdr(rate, n) has n cosine cycles, of 1, 2, 4, ... epochs.
    "stateful-lstm-15": Recipe(
        summary="The same, then cosine cycles of 1, 2, 4, 8 epochs.",
        config=replace(_LSTM, schedule="2 x 1e-2, sgdr(1e-2, 4)"),
        train={17: 1.282},
        validation=_LSTM_START | _LSTM_15,
    ),
    "stateful-lstm-63": Recipe(
        summary="The same, then cosine cycles of 1, 2, 4, 8, 16, 32 epochs.",
        config=replace(_LSTM, schedule="2 x 1e-2, sgdr(1e-2, 4), sgdr(1e-2, 6)"),
        train={17: 1.282, 80: 1.132},
        validation=_LSTM_START | _LSTM_15 | {80: 1.2524},
    ),
    # The earlier edition of the course.
    "early-lstm": Recipe(
        summary="Earlier edition: one LSTM layer of 256.",
        config=replace(
            _LSTM,
            hidden_size=256,
            num_layers=1,
            dropout=0.0,
            weight_decay=0.0,
            schedule="6 x 1e-2, 3 x 1e-3",
        ),
        validation={1: 1.548, 6: 1.461, 7: 1.378, 8: 1.363, 9: 1.358},
    ),
    "early-lstm-31": Recipe(
        summary="Earlier edition: two LSTM layers of 256, dropout 0.25, then cosine cycles.",
        config=replace(_LSTM, hidden_size=256, dropout=0.25, schedule="2 x 1e-2, sgdr(1e-2, 5)"),
        validation={1: 1.591, 2: 1.506, 3: 1.385, 5: 1.336, 9: 1.309, 17: 1.279, 33: 1.263},
    ),
}
"""The built-in recipes: first our own for a start, then the course's in the course's order."""


def for_text(config: Config, corpus: str, *, keep_case: bool) -> Config:
    """The values of a recipe that a text asks for; the corpus itself is not set.

    Args:
        config: the recipe's configuration.
        corpus: the name or the path of the text. A .npy file holds tokens.
        keep_case: whether a text of the user's own keeps its letter case; the course lower-cases
            its text.
    """
    if is_token_file(corpus):
        config = replace(config, tokenizer="integers")
    if keep_case and corpus not in CORPORA:
        config = replace(config, lowercase=False)
    return config


def check_recipe(recipe: object) -> None:
    """Refuse what is no recipe.

    Raises:
        ValueError: if it is of another type.
    """
    if isinstance(recipe, Config):
        raise ValueError(
            "it is a Config: a recipe has one and a line about it, jaxrnn.Recipe(summary=..., "
            "config=...)."
        )
    if not isinstance(recipe, Recipe):
        raise ValueError(f"it is of type {type(recipe).__name__}, not a jaxrnn.Recipe.")


RECIPES: Registry[Recipe] = Registry("recipe", check_recipe, BUILT_IN)
"""Recipes by name. One of your own is FILE.py:NAME, or is put in: `RECIPES["mine"] = MINE`."""
