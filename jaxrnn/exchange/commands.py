"""The commands that carry weights from and to PyTorch."""

import itertools
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes, Positional

from jaxrnn.data.corpora import CORPORA
from jaxrnn.exchange.runs import described, export_run, import_run, read_vocabulary
from jaxrnn.terminal import command_name
from jaxrnn.training.config import Config
from jaxrnn.training.evaluation import evaluation
from jaxrnn.training.experiment import Experiment, prepare, prompt_for
from jaxrnn.training.recipes import RECIPES
from jaxrnn.training.runs import RUNS, Run, checked_name

logger = logging.getLogger(__name__)

CALLS_TRIED = 1
"""Programs of evaluation, of some thousand characters each, that imported weights are tried on."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a trained model's weights for PyTorch, by its own names and shapes."""

    run: Positional[Path]
    """The run's folder."""
    file: Positional[Path]
    """The safetensors file to write; `load_state_dict(load_file(FILE), strict=True)` takes it."""
    checkpoint: Literal["best", "last"] = "best"
    """Which checkpoint to use."""

    def __call__(self) -> int:
        tensors = export_run(Run(self.run), self.file, checkpoint=self.checkpoint)
        for name, tensor in tensors.items():
            print(f"{name:24} {tensor.dtype}{list(tensor.shape)}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Import:
    """Make a run of weights from PyTorch: a safetensors file or a checkpoint of torch.save.

    The flags say what the weights belong to. For a file that `export` wrote, they are not needed,
    but --corpus (and --validation) where the run was trained on a text of somebody's own: a text
    that a file names is not opened on its word.
    """

    file: Positional[Path]
    """The weights."""
    recipe: str = "python-docs"
    """Where the other values come from; `recipes` lists them."""
    name: str | None = None
    """The run's folder in runs/; the file's name if None."""
    rename: tuple[str, ...] = ()
    """Modules that the file calls otherwise, as THEIRS=OURS: encoder=e decoder=l_out."""
    key: str | None = None
    """Where in a checkpoint the weights are, such as ema.model; the usual places if None."""
    drop: tuple[str, ...] = ()
    """Tensors to leave out, as patterns: 'head.*'."""
    vocabulary: Path | None = None
    """A vocabulary.json, as a run has it, or a JSON list; made from the corpus if None."""
    prompt: str | None = None
    """What samples begin with; the recipe's, or the beginning of the validation text, if None."""
    config: OmitArgPrefixes[Config] = RECIPES["python-docs"].config
    """The values of the recipe."""

    def __call__(self) -> int:
        ours = described(self.file)
        vocabulary = None if ours is None else ours[1]
        if self.vocabulary is not None:
            vocabulary = read_vocabulary(self.vocabulary)
        experiment = prepare(self.config, vocabulary=vocabulary)
        recipe_prompt = RECIPES[self.recipe].prompt if ours is None else ours[2]
        folder = RUNS / checked_name(self.name or self.file.stem)
        run = import_run(
            self.file,
            folder,
            experiment,
            renamed=_pairs(self.rename),
            prompt=prompt_for(experiment, self.prompt, recipe_prompt),
            key=self.key,
            drop=self.drop,
            say=lambda text: logger.warning("%s", text),
        )
        if vocabulary is None:
            logger.warning(
                "The file says nothing of its tokens: they are taken to be the vocabulary of the "
                "corpus %s; --vocabulary names another.",
                self.config.corpus,
            )
        nats, chance = first_loss(run, experiment), math.log(len(experiment.vocabulary))
        print(f"On the beginning of the validation text: {nats:.3f} nats; chance: {chance:.3f}.")
        if not nats < chance:
            logger.warning(
                "These weights predict this text no better than chance. Is it another vocabulary "
                "(--vocabulary), another cell (tanh or relu?), or are they not trained?"
            )
        command = command_name()
        print(f"{run.folder} has the weights of {self.file}. What to type next:")
        print(f"  {command} evaluate {run.folder}\n  {command} sample {run.folder}")
        print(f"  {command} train --resume {run.folder}")
        return 0


def first_loss(run: Run, experiment: Experiment) -> float:
    """The loss of a run's weights on the first characters of its validation text, in nats."""
    source = experiment.validation
    params = run.load_params("last")
    *_, read = itertools.islice(evaluation(experiment.model, params, source), CALLS_TRIED)
    return read.nats


def config_in(given: Sequence[str]) -> Config | None:
    """The configuration that an exported file on the command line brings along."""
    if given[:1] != ["import"]:
        return None
    found = [described(a) for a in given[1:] if a.endswith(".safetensors")]
    config = next((ours[0] for ours in found if ours is not None), None)
    if config is not None:
        flags = {argument.split("=")[0] for argument in given}
        for flag, named in (("--corpus", config.corpus), ("--validation", config.validation)):
            if named is not None and named not in CORPORA and flag not in flags:
                raise ValueError(
                    f"The file was made on a text of somebody's, {named!r}, which is not opened on "
                    f"its word: name the text with {flag}."
                )
    return config


def _pairs(renames: Sequence[str]) -> dict[str, str]:
    wrong = [rename for rename in renames if not re.fullmatch(r"[^=]+=[^=]+", rename)]
    if wrong:
        raise ValueError(f"--rename takes THEIRS=OURS, got {', '.join(wrong)}.")
    return dict(rename.split("=") for rename in renames)
