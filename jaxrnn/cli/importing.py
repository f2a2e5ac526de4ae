"""The command that makes a run of weights from PyTorch."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes, Positional, Suppress

from jaxrnn.cli.flags import flags_in, recipe_in, with_full_names
from jaxrnn.data.corpora import CORPORA
from jaxrnn.data.tokenizers import Tokenizer
from jaxrnn.exchange.contents import Contents, TensorFileError
from jaxrnn.exchange.files import read_contents
from jaxrnn.exchange.identification import Identified, identify, summary
from jaxrnn.exchange.names import pairs
from jaxrnn.runs.config import Config
from jaxrnn.runs.experiment import Experiment, prepare, prompt_for
from jaxrnn.runs.recipes import RECIPES
from jaxrnn.runs.run import RUNS, Run, checked_name
from jaxrnn.runs.transfer import (
    Description,
    described,
    fitted,
    params_of,
    read_vocabulary,
    save_imported,
)
from jaxrnn.runs.trial import Trial, compared, tried
from jaxrnn.terminal import command_name, parse, printable

logger = logging.getLogger(__name__)

NOT_OPENED = "(named by the file)"
"""Stands for a path that a file names: it is not opened unless the user names it."""
LOOK_ALIKES = ("tanh", "relu")
"""The cells whose weights have the same shapes."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """Make a run of weights from PyTorch: a safetensors file or a checkpoint of torch.save.

    The cell and the sizes are read off the weights. The flags say what else they belong to. For a
    file that `export` wrote, they are not needed.
    """

    file: Positional[Path]
    """The weights: a safetensors file, an index of shards, or what torch.save wrote."""
    listing: Annotated[bool, tyro.conf.arg(name="list")] = False
    """Only show what is in the file."""
    recipe: str = "python-docs"
    """Where the other values come from; `recipes` lists them."""
    name: str | None = None
    """The run's folder in runs/; the file's name if None."""
    key: str | None = None
    """Where in a checkpoint the weights are, such as ema.model; where they usually are if None."""
    rename: tuple[str, ...] = ()
    """Modules that the file calls otherwise, as THEIRS=OURS: encoder=e decoder=l_out. "*" stands
    for any text without a dot: rnns.*.weight_hh_l0=rnn.weight_hh_l*"""
    drop: tuple[str, ...] = ()
    """Tensors or modules to leave out; "*" stands for any text."""
    zero_missing: bool = False
    """Take biases that are missing as zeros."""
    vocabulary: Path | None = None
    """A vocabulary.json, as a run has it, or a JSON list; made from the corpus if None."""
    prompt: str | None = None
    """What samples begin with; the recipe's, or the beginning of the validation text, if None."""
    config: OmitArgPrefixes[Config] = RECIPES["python-docs"].config
    """The values of the recipe."""
    told: Suppress[bool] = False
    """Whether the user names the model or its cell."""

    def __call__(self) -> int:
        contents = read_contents(self.file)
        if self.listing:
            for line in self._listed(contents):
                print(printable(line))
            return 0
        folder = RUNS / checked_name(self.name or self.file.stem)
        if folder.exists():
            raise TensorFileError(f"{folder} exists: choose another --name.")
        ours = described(contents, self.file)
        self._check_paths(ours)
        found = self._identified(contents)
        vocabulary = self._vocabulary(ours)
        experiment = prepare(self.config, vocabulary=vocabulary)
        assumed = vocabulary is None
        params, assumptions = params_of(
            found, experiment, path=self.file, zero_missing=self.zero_missing, assumed=assumed
        )
        notes = [*found.notes, *assumptions]
        if ours is None:
            experiment = self._with_cell(experiment, params, notes)
        trial = tried(experiment, experiment.model, params)
        self._check(trial, experiment, notes, assumed=assumed)
        prompt = RECIPES[self.recipe].prompt if ours is None else ours.prompt
        prompt = prompt_for(experiment, self.prompt, prompt)
        run = save_imported(folder, experiment, params, prompt=prompt)
        if assumed:
            notes.append(
                f"The vocabulary is assumed to be that of the corpus {self.config.corpus}: "
                f"{experiment.vocabulary.size} tokens. --vocabulary names another."
            )
        for note in notes:
            logger.warning("%s", note)
        self._show(run, experiment, trial)
        return 0

    def _identified(self, contents: Contents) -> Identified:
        names = pairs(self.rename)
        return identify(contents, key=self.key, drop=self.drop, names=names)

    def _listed(self, contents: Contents) -> list[str]:
        """What is in the file, in lines."""
        lines = [f"{self.file} ({contents.kind})"]
        for keys, table in contents.tables.items():
            if keys:
                lines.append(f"under {'.'.join(keys)}:")
            width = max(map(len, table))
            for name, stored in table.items():
                sizes = list(stored.shape)
                lines.append(f"  {name:{width}}  {stored.dtype}{sizes}")
        if contents.others:
            lines.append(f"no tensors: {', '.join(contents.others)}")
        ours = described(contents, self.file)
        if ours is not None:
            lines.append(f"Exported by jaxrnn from a {ours.config.model}.")
        try:
            lines.append(summary(self._identified(contents)))
        except ValueError as error:
            lines.append(f"It cannot be imported as it is: {error}")
        return lines

    def _check_paths(self, ours: Description | None) -> None:
        """Refuse to open a text only because somebody's file names it.

        Raises:
            TensorFileError: with the flag that names it.
        """
        if self.config.corpus == NOT_OPENED:
            named = "a corpus" if ours is None else f"the corpus {ours.config.corpus!r}"
            raise TensorFileError(
                f"{self.file} names {named}, a path that is not opened because a file says so. "
                "Name the text yourself: --corpus FILE (and --validation FILE)."
            )

    def _vocabulary(self, ours: Description | None) -> Tokenizer | None:
        """The vocabulary that the user or the file gives; None leaves it to the corpus."""
        if self.vocabulary is not None:
            return read_vocabulary(self.vocabulary)
        return None if ours is None else ours.vocabulary

    def _with_cell(self, experiment: Experiment, params: Any, notes: list[str]) -> Experiment:
        """The experiment with tanh or relu, whichever predicts better, where nobody says which."""
        config = experiment.config
        recurrent = "rnn" in params and config.model not in ("CharLM",)
        cell = config.cell if config.model == "CharLM" else "tanh"
        course = recurrent and config.model in ("CharSeqStatefulRnn", "CharSeqStatefulRnn2")
        if self.told or cell not in LOOK_ALIKES or not (config.model == "CharLM" or course):
            return experiment
        weights = params
        if config.model == "CharSeqStatefulRnn2":
            weights = params | {"rnn": {f"{name}_l0": w for name, w in params["rnn"].items()}}
        losses = compared(experiment, weights, LOOK_ALIKES)
        best = min(losses, key=lambda name: (not losses[name] < math.inf, losses[name]))
        shown = ", ".join(f"{loss:.3f} nats with {name}" for name, loss in losses.items())
        notes.append(f"tanh and relu have the same weights: {shown}. {best} is taken (--cell).")
        if best == cell:
            return experiment
        changed = replace(config, model="CharLM", cell=best)
        return experiment._replace(
            config=changed, model=changed.make_model(experiment.vocabulary.size)
        )

    def _check(
        self, trial: Trial, experiment: Experiment, notes: list[str], *, assumed: bool
    ) -> None:
        """Refuse weights that predict no better than chance where the vocabulary is a guess.

        Where it is known, that becomes one of the notes.

        Raises:
            TensorFileError: if they do.
        """
        count = experiment.vocabulary.size
        if trial.nats < math.log(count):
            return
        words = (
            f"The weights predict the text no better than chance: {trial.nats:.2f} nats a "
            f"character, where ln {count} is {math.log(count):.2f}."
        )
        if not assumed:
            notes.append(f"{words} Are they trained, on such a text, with these tokens?")
            return
        raise TensorFileError(
            f"{words} The vocabulary is assumed to be that of the corpus {self.config.corpus}. "
            "Give the right one, also if the weights are not trained: --vocabulary FILE, a JSON "
            f"list of the {count} tokens in their order."
        )

    def _show(self, run: Run, experiment: Experiment, trial: Trial) -> None:
        """Print what was made, and what to type next."""
        count = experiment.vocabulary.size
        print(
            f"On the first {trial.characters:,} characters of the validation text: "
            f"{trial.nats:.4f} nats a character; chance, ln {count}, is {math.log(count):.4f}."
        )
        command = command_name()
        print(f"{run.folder} has the weights of {printable(str(self.file))}. What to type next:")
        print(f"  {command} evaluate {run.folder}\n  {command} sample {run.folder}")
        print(f"  {command} train --resume {run.folder}")


class _UncheckedConfig(Config):
    """A configuration as a command line has it before a file's sizes are known."""

    def __post_init__(self) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class _FirstLook(Import):
    """The flags of `import`, of which the file's decide on the defaults of the others."""

    config: OmitArgPrefixes[_UncheckedConfig] = _UncheckedConfig()  # noqa: RUF009 (frozen)


def command(given: Sequence[str]) -> Import:
    """The command of a command line, after its name.

    Raises:
        ValueError: if the file cannot be read, or the command line is wrong.
    """
    given = with_full_names(given)
    default = with_defaults(given)
    parsed: Import = parse(Import, given, program=f"{command_name()} import", default=default)
    return parsed


def with_defaults(given: Sequence[str]) -> Import:
    """The command `import` with the cell and the sizes of the file on the command line."""
    recipe = recipe_in(given)
    config = RECIPES[recipe].config
    usual = Import(file=tyro.MISSING, recipe=recipe, config=config)
    if not set(given).isdisjoint({"-h", "--help"}):
        return usual
    unchecked = _UncheckedConfig(**asdict(config))
    look: _FirstLook = parse(
        _FirstLook,
        given,
        program=f"{command_name()} import",
        default=_FirstLook(file=tyro.MISSING, recipe=recipe, config=unchecked),
    )
    if look.listing:
        return usual
    flags = flags_in(given)
    contents = read_contents(look.file)
    ours = described(contents, look.file)
    if ours is not None:
        return replace(usual, config=_without_paths(ours.config, flags), told=True)
    found = identify(contents, key=look.key, drop=look.drop, names=pairs(look.rename))
    model = look.config.model if "--model" in flags else None
    told = not flags.isdisjoint({"--model", "--cell"})
    values = fitted(config, found.sizes, model=model, cell="--cell" in flags)
    return replace(usual, config=values, told=told)


def _without_paths(config: Config, flags: set[str]) -> Config:
    """A file's configuration without the paths that it names; see `NOT_OPENED`."""
    if config.corpus in CORPORA and config.validation is None:
        return config
    if config.validation is not None and "--corpus" in flags and "--validation" not in flags:
        logger.warning(
            "The file names the validation text %s, which is not opened: the end of the corpus "
            "validates. --validation names another.",
            config.validation,
        )
    return replace(config, corpus=NOT_OPENED, validation=None)
