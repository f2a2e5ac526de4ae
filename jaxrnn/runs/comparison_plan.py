"""What is compared, checked before anything is trained: contenders, sizes, length, text or task."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import jax

from jaxrnn.checks import check_at_least_1, check_seed
from jaxrnn.data.corpora import CORPORA
from jaxrnn.data.tasks import MemoryTask, make_task
from jaxrnn.data.tokenizers import token_name
from jaxrnn.nn.model import param_shapes
from jaxrnn.registry import code_files
from jaxrnn.runs.config import Config
from jaxrnn.runs.contenders import Contender, contenders_of, equal_hidden_size
from jaxrnn.runs.experiment import prepare, with_absolute_paths
from jaxrnn.runs.speed import check_minutes
from jaxrnn.runs.task_training import learner_of

Equal = Literal["characters", "minutes", "parameters"]
"""What is equal for all contenders, besides the data."""
TASK_CONFIG = Config(
    model="CharLM",
    embedding_size=32,
    hidden_size=128,
    batch_size=32,
    schedule="1 x 1e-3",
    clip=1.0,
    steps=2000,
)
"""What is trained on a task where nothing else is asked for."""
VALIDATIONS = 5
"""Number of validations of a training by updates, where nothing else is asked for."""
LONGEST_NAME = 80
"""Maximum number of characters of a folder's name."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is compared, checked.

    Attributes:
        contenders: what is compared; the first is the baseline.
        config: what all have in common; its seed is the first seed.
        hidden_sizes: the hidden size of each contender, by label.
        parameters: the number of parameters of each, by label.
        seeds: number of seeds.
        equal: what is equal besides.
        minutes: the time of a training, or None.
        task: a generated task instead of a text, or None.
        unit: what a token of the text is.
        corpus_sha256: the checksum of the text; empty for a task.
    """

    contenders: tuple[Contender, ...]
    config: Config
    hidden_sizes: dict[str, int]
    parameters: dict[str, int]
    seeds: int
    equal: Equal
    minutes: float | None
    task: MemoryTask | None
    unit: str
    corpus_sha256: str

    def config_of(self, contender: Contender, seed: int, steps: int | None) -> Config:
        """The configuration of one training."""
        changes = sized(self.config, self.hidden_sizes[contender.label])
        changes |= {"seed": seed, "steps": steps}
        if steps is not None and self.config.validate_every is None:
            changes["validate_every"] = -(-steps // VALIDATIONS)
        return contender.config(self.config, **changes)

    @property
    def settings(self) -> dict[str, Any]:
        """What must be the same for the comparison to go on; more seeds may be added."""
        config = self.config.to_dict()
        del config["model"], config["cell"]
        names = {one.label: one.name for one in self.contenders}
        return {
            "contenders": list(names.values()),
            "equal": self.equal,
            "minutes": self.minutes,
            "task": None if self.task is None else self.task.name,
            "task_length": None if self.task is None else self.task.length,
            "text": self.corpus_sha256,
            "code": code_files({**self.config.names(), **names}),
            **config,
        }

    @property
    def name(self) -> str:
        """A name for its folder: the same for the same text and contenders."""
        subject = self.config.corpus if self.task is None else self.task.name
        if subject not in CORPORA:
            subject = Path(subject).stem
        parts = [subject, *(one.label for one in self.contenders)]
        joined = re.sub(r"[^A-Za-z0-9_-]+", "-", "-".join(parts)).strip("-")
        return joined[:LONGEST_NAME] or "comparison"


def plan_comparison(
    given: Any,
    config: Config,
    *,
    seeds: int,
    minutes: float | None,
    equal: str,
    task: str | None,
    task_length: int | None,
) -> Plan:
    """Check everything, read the text, and choose the sizes.

    Args:
        given: the contenders; see `compare`.
        config: what all have in common.
        seeds: number of seeds.
        minutes: the time of a training, or None.
        equal: what is equal besides.
        task: the name of a task, or None.
        task_length: its length; its own if None.

    Raises:
        ValueError: if something does not fit.
    """
    check_at_least_1(seeds=seeds)
    check_seed(config.seed + seeds - 1)
    _check_length(config, minutes, equal, task)
    chosen = None
    if task is not None:
        chosen = make_task(task, task_length)
    elif task_length is not None:
        raise ValueError("task_length is the length of a task: name one with task.")
    contenders = contenders_of(given)
    config = with_absolute_paths(replace(config, model="CharLM", cell="gru"))

    # What the number of parameters depends on besides the sizes.
    vocab_size = 0
    unit = "step"
    checksum = ""
    if chosen is None:
        experiment = prepare(contenders[0].config(config))
        vocab_size = experiment.vocabulary.size
        unit = token_name(experiment.vocabulary)
        checksum = experiment.corpus_sha256
        _check_reads(contenders, config, vocab_size)

    def count(contender: Contender, hidden_size: int) -> int:
        sizes = sized(config, hidden_size)
        return parameter_count(contender.config(config, **sizes), vocab_size, chosen)

    first, *others = contenders
    hidden_sizes = {one.label: config.hidden_size for one in contenders}
    wanted = count(first, config.hidden_size)
    if equal == "parameters":
        for one in others:
            hidden_sizes[one.label] = equal_hidden_size(
                partial(count, one), wanted, config.hidden_size, one.label
            )
    return Plan(
        contenders=contenders,
        config=config,
        hidden_sizes=hidden_sizes,
        parameters={one.label: count(one, hidden_sizes[one.label]) for one in contenders},
        seeds=seeds,
        equal=cast(Equal, equal),
        minutes=minutes,
        task=chosen,
        unit=unit,
        corpus_sha256=checksum,
    )


def sized(config: Config, hidden_size: int) -> dict[str, Any]:
    """The changes of a configuration that give it a hidden size."""
    changes = {"hidden_size": hidden_size}
    if config.tied:
        changes["embedding_size"] = hidden_size
    return changes


def parameter_count(config: Config, vocab_size: int, task: MemoryTask | None) -> int:
    """The number of parameters of a configuration's network."""
    if task is None:
        shapes = param_shapes(config.make_model(vocab_size)).values()
        return sum(map(math.prod, shapes))
    state = jax.eval_shape(learner_of(config, task).init, jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))


def _check_length(config: Config, minutes: float | None, equal: str, task: str | None) -> None:
    """Refuse what does not say how long to train, or says it twice."""
    if equal not in get_args(Equal):
        raise ValueError(f"equal must be one of {', '.join(get_args(Equal))}, got {equal!r:.40}.")
    if task is not None and (minutes is not None or equal == "minutes"):
        raise ValueError("A task is trained by its number of updates: give steps and no minutes.")
    if minutes is not None:
        check_minutes(minutes)
        if config.steps is not None:
            raise ValueError("Say how long to train with minutes or with steps, not with both.")
    elif equal == "minutes":
        raise ValueError("Equal minutes need their number: give minutes, for example 2.")
    if task is not None and config.steps is None:
        raise ValueError("A task has no epochs: say with steps how many updates to make.")


def _check_reads(contenders: Sequence[Contender], config: Config, vocab_size: int) -> None:
    """Refuse models that do not read the same data."""
    first, *others = contenders
    wanted = first.config(config).make_model(vocab_size).reads
    for one in others:
        reads = one.config(config).make_model(vocab_size).reads
        if reads != wanted:
            raise ValueError(
                f"{first.label} reads {wanted} and {one.label} {reads}: compare what reads the "
                "same data."
            )
