"""The configuration of a training run: everything that its result depends on."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jaxrnn.checks import check_at_least_1, check_not_negative, check_seed, check_share
from jaxrnn.data.tokenizers import find_tokenizer
from jaxrnn.data.windows import Split
from jaxrnn.nn.model import CharModel
from jaxrnn.nn.models import MODELS
from jaxrnn.recurrent.catalog import CELLS
from jaxrnn.registry import ForeignReference, is_reference
from jaxrnn.training.optimizers import Optimizer, make_optimizer
from jaxrnn.training.schedules import parse_schedule
from jaxrnn.training.state import CarryPolicy
from jaxrnn.training.timetable import Budget

LARGEST = {
    "embedding_size": 1 << 16,
    "hidden_size": 1 << 16,
    "num_layers": 64,
    "batch_size": 1 << 20,
    "bptt": 1 << 20,
    "min_frequency": 1 << 31,
}
"""Upper limits, far above what is useful: larger numbers are mistakes, and some would never end."""

LARGEST_BUDGET = (1 << 31) - 1
"""Upper limit of a number of updates, which is an int32 in the training state."""

EARLIER_NAMES = {
    "embedding": "embedding_size",
    "hidden": "hidden_size",
    "layers": "num_layers",
    "batch": "batch_size",
}
"""Names of fields in runs and exports of versions before 0.2, and today's."""

MODEL_OPTIONS = ("cell", "num_layers", "dropout", "tied", "identity")
"""Fields that only some models have."""

NAMES = ("model", "cell", "optimizer", "tokenizer")
"""Fields that name an object, which may be one of the user's own: FILE.py:NAME."""

BUDGETS = ("steps", "validate_every", "validation_tokens")
"""Fields that limit a training; a configuration is saved without those that are None."""

LATER_FIELDS = {"tokenizer": "characters", **dict.fromkeys(BUDGETS)}
"""Values of fields that configurations of earlier versions lack."""


def has_field(model: type[CharModel], name: str) -> bool:
    """Whether a class of models has an option."""
    return any(field.name == name for field in fields(model))


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to train, on what, and how. Losses are in nats per character."""

    # The model.
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

    # The text.
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
    """What the text is cut into: characters, bytes, integers (of a .npy file), TOKENIZER.json of
    the package tokenizers (subwords in the run from there on), or FILE.py:NAME."""
    lowercase: bool = True
    """Stateful models: lower-case the text."""
    min_frequency: int = 3
    """Stateful models: rarer characters become <unk>."""

    # Batches of windows: (bptt, B) tokens a step.
    batch_size: int = 64
    """B, the sequences trained side by side (--batch for short)."""
    bptt: int = 8
    """The characters of a window; backpropagation goes no further."""
    random_bptt: bool = True
    """Stateful models: sample each window's length around bptt."""
    carry: CarryPolicy = "never"
    """When the carry starts from zeros: never (as the course), each epoch, for each evaluation."""

    # Optimization.
    schedule: str = "4 x 1e-3, 2 x 1e-4"
    """Phases: 'EPOCHS x RATE', 'sgdr(RATE, CYCLES)', 'one-cycle(EPOCHS, RATE)'."""
    optimizer: str = "adam"
    """The optimizer, with PyTorch's arithmetic: adam, adamw, sgd, rmsprop, or FILE.py:NAME."""
    weight_decay: float = 0.0
    """L2 added to the gradient; decoupled for adamw."""
    momentum: float = 0.0
    """Momentum of sgd and rmsprop."""
    clip: float | None = None
    """Maximum norm of the gradient; None leaves it as it is."""
    seed: int = 0
    """Seed of the initial weights, the windows and the dropout masks."""

    # Budgets, for texts an epoch of which takes long.
    steps: int | None = None
    """Number of updates to make; the epochs of the schedule are then its parts. None: epochs."""
    validate_every: int | None = None
    """Number of updates between validations; None validates after each epoch."""
    validation_tokens: int | None = None
    """Number of tokens after which a validation ends; None reads the whole validation text."""

    def __post_init__(self) -> None:
        self._check_types()

        # Ranges of numbers. They are written so that NaN, which a file can hold, is refused.
        for name, most in LARGEST.items():
            value = getattr(self, name)
            check_at_least_1(**{name: value})
            if value > most:
                raise ValueError(f"{name} must be at most {most}, got {value}.")
        check_share(dropout=self.dropout, momentum=self.momentum)
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must lie in (0, 1), got {self.validation_fraction}."
            )
        check_not_negative(weight_decay=self.weight_decay)
        check_seed(self.seed)

        # Names and schedules: making what they stand for is the check.
        for name, kind in (("split", Split), ("carry", CarryPolicy)):
            value = getattr(self, name)
            if value not in get_args(kind):
                named = ", ".join(get_args(kind))
                raise ValueError(f"{name} must be one of {named}; got {value!r:.60}.")
        parse_schedule(self.schedule)
        self.make_optimizer()
        self._check_budget()
        self._check_model_options()

    def make_model(self, vocab_size: int) -> CharModel:
        """The model, for V = `vocab_size`."""
        # Most models have only some of the options.
        model = MODELS.find(self.model)
        options: dict[str, Any] = {}
        for name in MODEL_OPTIONS:
            if has_field(model, name):
                options[name] = getattr(self, name)
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

    @property
    def budget(self) -> Budget:
        """How many updates to make, and how often to validate."""
        return Budget(**{name: getattr(self, name) for name in BUDGETS})

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON takes them."""
        values = asdict(self)
        # A configuration without budgets is what it was before there were any.
        for name in BUDGETS:
            if values[name] is None:
                del values[name]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """A configuration from its fields, as a run's folder or an exported file has them.

        Sizes may have the names that they had in earlier versions. Code that it names is run only
        if it was run here before.

        Args:
            values: the fields by name.

        Raises:
            NotDefinedError: if something that it names is not defined here.
            ValueError: if a field is unknown or missing, or makes no sense.
        """
        # Bring what earlier versions saved up to date.
        current: dict[str, Any] = dict(LATER_FIELDS)
        for name, value in values.items():
            current[EARLIER_NAMES.get(name, name)] = value

        names = {field.name for field in fields(cls)}
        if current.keys() != names:
            missing = sorted(names - current.keys())
            unknown = sorted(current.keys() - names)
            raise ValueError(
                f"The configuration does not fit: missing {missing}, unknown {unknown}."
            )
        # Checking the fields, and later whatever makes the objects, runs the user's code that they
        # name: only if it is trusted.
        for name in NAMES:
            reference = current[name]
            if isinstance(reference, str) and is_reference(reference):
                current[name] = ForeignReference(reference)
        return cls(**current)

    def names(self) -> dict[str, str]:
        """Names of objects that may be the user's own, by field."""
        return {name: getattr(self, name) for name in NAMES}

    def _check_budget(self) -> None:
        """Refuse budgets out of range."""
        self.budget  # noqa: B018 (making it is the check)
        for name in BUDGETS:
            value = getattr(self, name)
            if value is not None and value > LARGEST_BUDGET:
                raise ValueError(f"{name} must be at most {LARGEST_BUDGET}, got {value}.")

    def _check_types(self) -> None:
        """Refuse values of another type, which a file can hold."""
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            # The members of a union such as `str | None`; a plain type has none.
            kinds = get_args(hint) or (hint,)
            if get_origin(hint) is Literal:
                kinds = (str,)
            if float in kinds:
                kinds = (*kinds, int)
            # A bool is an int in Python, but no size and no rate.
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                named = " or ".join(kind.__name__ for kind in kinds)
                raise ValueError(f"{name} must be of type {named}, got {value!r:.60}.")

    def _check_model_options(self) -> None:
        """Refuse names that are not defined, and options that the model does not have."""
        CELLS.find(self.cell)
        find_tokenizer(self.tokenizer)
        model = MODELS.find(self.model)
        for name in MODEL_OPTIONS:
            # At its default, an option that the model lacks changes nothing.
            if not has_field(model, name) and getattr(self, name) != getattr(Config, name):
                having = [known for known in MODELS if has_field(MODELS[known], name)]
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
