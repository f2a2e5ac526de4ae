"""The configuration of a training run: everything that its result depends on."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jaxrnn.checks import check_at_least_1, check_seed
from jaxrnn.data.tokenizers import TOKENIZERS
from jaxrnn.data.windows import Split
from jaxrnn.nn.model import CharModel
from jaxrnn.nn.models import MODELS
from jaxrnn.recurrent.cells import CELLS
from jaxrnn.registry import check_trusted, is_reference
from jaxrnn.training.optimizers import Optimizer, make_optimizer
from jaxrnn.training.schedules import parse_schedule
from jaxrnn.training.state import CarryPolicy

LARGEST = {
    "embedding_size": 1 << 16,
    "hidden_size": 1 << 16,
    "num_layers": 64,
    "batch_size": 1 << 20,
    "bptt": 1 << 20,
    "min_frequency": 1 << 31,
}
"""Far above what is useful: larger numbers are mistakes, and some would never end."""

EARLIER_NAMES = {
    "embedding": "embedding_size",
    "hidden": "hidden_size",
    "layers": "num_layers",
    "batch": "batch_size",
}
"""Names of fields in runs and exports of versions before 0.2, and today's."""

MODEL_OPTIONS = ("cell", "num_layers", "dropout", "tied", "identity")
"""The fields that only some models have."""


NAMES = ("model", "cell", "optimizer", "tokenizer")
"""The fields that name an object, which may be one of the user's own: FILE.py:NAME."""
LATER_FIELDS = {"tokenizer": "characters"}
"""Fields that configurations of earlier versions lack, and what they meant."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to train, on what, and how. Losses are in nats per character."""

    model: str = "CharSeqStatefulGRU"
    """The model, by the course's name; CharLM is the general one, FILE.py:NAME one of your own."""
    embedding_size: int = 42
    """F, the width of a character's vector (--embedding for short)."""
    hidden_size: int = 256
    """H, the width of the carry (--hidden for short)."""
    cell: str = "gru"
    """CharLM: the recurrent cell, a name of `jaxrnn.CELLS` or FILE.py:NAME."""
    num_layers: int = 1
    """CharLM and CharSeqStatefulLSTM: recurrent layers (--layers for short)."""
    dropout: float = 0.0
    """CharLM and CharSeqStatefulLSTM: share of the outputs dropped between layers."""
    tied: bool = False
    """CharLM: the output layer shares the embedding's table; embedding_size must be hidden_size."""
    identity: bool = False
    """CharSeqRnn: the recurrent weight starts as the identity."""

    corpus: str = "python-docs"
    """python-docs, human-numbers, nietzsche, or the path of a text file, of a folder, or of a .npy
    file of integers."""
    validation: str | None = None
    """The path of a text file or folder to validate on, instead of the corpus's end."""
    validation_fraction: float = 0.2
    """The share of the corpus that is cut off to validate on, where it has no cut of its own."""
    split: Split = "random"
    """Windowed models: which windows validate (random, as the course; contiguous; last)."""
    tokenizer: str = "characters"
    """What the text is cut into: characters, bytes, integers (of a .npy file), or FILE.py:NAME."""
    lowercase: bool = True
    """Stateful models: lower-case the text."""
    min_frequency: int = 3
    """Stateful models: rarer characters become <unk>."""

    batch_size: int = 64
    """B, the sequences trained side by side (--batch for short)."""
    bptt: int = 8
    """The characters of a window; backpropagation goes no further."""
    random_bptt: bool = True
    """Stateful models: draw each window's length around bptt."""
    carry: CarryPolicy = "never"
    """When the carry starts from zeros: never (as the course), each epoch, for each evaluation."""

    schedule: str = "4 x 1e-3, 2 x 1e-4"
    """Phases: 'EPOCHS x RATE', 'sgdr(RATE, CYCLES)', 'one-cycle(EPOCHS, RATE)'."""
    optimizer: str = "adam"
    """The optimizer, with PyTorch's arithmetic: adam, adamw, sgd, rmsprop, or FILE.py:NAME."""
    weight_decay: float = 0.0
    """L2 added to the gradient; decoupled for adamw."""
    momentum: float = 0.0
    """For sgd and rmsprop."""
    clip: float | None = None
    """Largest norm of the gradient; None leaves it as it is."""
    seed: int = 0
    """Of the initial weights, the windows and the dropout masks."""

    def __post_init__(self) -> None:
        self._check_types()
        for name, most in LARGEST.items():
            check_at_least_1(**{name: getattr(self, name)})
            if getattr(self, name) > most:
                raise ValueError(f"{name} must be at most {most}, got {getattr(self, name)}.")
        for name in ("dropout", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}.")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must lie in (0, 1), got {self.validation_fraction}."
            )
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}.")
        check_seed(self.seed)
        for name, kind in (
            ("split", Split),
            ("carry", CarryPolicy),
        ):
            if getattr(self, name) not in get_args(kind):
                named = ", ".join(get_args(kind))
                raise ValueError(f"{name} must be one of {named}; got {getattr(self, name)!r:.60}.")
        parse_schedule(self.schedule)
        self.make_optimizer()
        self._check_model_options()

    def make_model(self, vocab_size: int) -> CharModel:
        """The model, for V = `vocab_size`."""
        model = MODELS.find(self.model)
        known = {field.name for field in fields(model)}
        options = {name: getattr(self, name) for name in MODEL_OPTIONS if name in known}
        if "cell" in options:
            options["cell"] = CELLS.find(self.cell)
        return model(vocab_size, self.embedding_size, self.hidden_size, **options)

    def make_optimizer(self) -> Optimizer:
        """The optimizer, behind the clipping."""
        return make_optimizer(
            self.optimizer,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            clip=self.clip,
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON takes them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """A configuration from its fields, as a run's folder or an exported file has them.

        Sizes may have the names that they had in earlier versions. Code that it names is run only
        if it was run here before.

        Raises:
            NotDefinedError: if something that it names is not defined here.
            ValueError: if a field is unknown or missing, or makes no sense.
        """
        values = {EARLIER_NAMES.get(name, name): value for name, value in values.items()}
        values = LATER_FIELDS | values
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            missing, unknown = sorted(names - set(values)), sorted(set(values) - names)
            raise ValueError(
                f"The configuration does not fit: missing {missing}, unknown {unknown}."
            )
        for name in NAMES:
            if isinstance(values[name], str) and is_reference(values[name]):
                check_trusted(values[name])
        return cls(**values)

    def names(self) -> dict[str, str]:
        """What the configuration names that may be the user's own, by field."""
        return {name: getattr(self, name) for name in NAMES}

    def _check_types(self) -> None:
        """Refuse values of another type, which a file can hold."""
        hints = get_type_hints(type(self))
        for field in fields(self):
            value, allowed = getattr(self, field.name), get_args(hints[field.name])
            kinds = tuple(a for a in allowed if isinstance(a, type)) or (hints[field.name],)
            if get_origin(hints[field.name]) is Literal:
                kinds = (str,)
            if float in kinds:
                kinds = (*kinds, int)
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                named = " or ".join(k.__name__ for k in kinds)
                raise ValueError(f"{field.name} must be of type {named}, got {value!r:.60}.")

    def _check_model_options(self) -> None:
        CELLS.find(self.cell)
        TOKENIZERS.find(self.tokenizer)
        known = {field.name for field in fields(MODELS.find(self.model))}
        for name in MODEL_OPTIONS:
            if name not in known and getattr(self, name) != getattr(Config, name):
                having = [m for m in MODELS if name in {f.name for f in fields(MODELS[m])}]
                raise ValueError(
                    f"{self.model} has no option {name}; it is for {' and '.join(having)}."
                )
        if self.tied and self.embedding_size != self.hidden_size:
            raise ValueError(
                f"tied needs embedding_size = hidden_size, got {self.embedding_size} and "
                f"{self.hidden_size}."
            )
        if self.dropout and self.num_layers == 1:
            raise ValueError(
                "dropout acts between layers: it needs num_layers of at least 2, got 1."
            )
        if self.model == "Char3Model" and self.bptt != 3:
            raise ValueError(f"Char3Model reads 3 characters: bptt must be 3, got {self.bptt}.")
