"""The command that makes a run of weights from PyTorch."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes, Positional, Suppress

from jaxrnn.cli import parse_command
from jaxrnn.cli.flags import flags_in, recipe_in, with_full_names
from jaxrnn.data.tokenizers import token_name
from jaxrnn.exchange.contents import Contents, TensorFileError
from jaxrnn.exchange.files import read_contents
from jaxrnn.exchange.identification import Identified, identify
from jaxrnn.exchange.names import pairs
from jaxrnn.runs.config import Config
from jaxrnn.runs.experiment import Experiment, prepare, prompt_for
from jaxrnn.runs.exported import Description, described, names_paths
from jaxrnn.runs.recipes import RECIPES
from jaxrnn.runs.run import RUNS, Run, checked_name
from jaxrnn.runs.transfer import (
    fitted,
    params_of,
    read_vocabulary,
    save_imported,
)
from jaxrnn.runs.trial import Trial, compared, tried
from jaxrnn.terminal import command_name, printable

logger = logging.getLogger(__name__)

NOT_OPENED = "(named by the file)"
"""Placeholder of a path that a file names: it is not opened unless the user names it."""
LOOK_ALIKES = ("tanh", "relu")
"""Cells whose weights have the same shapes."""
TANH_MODELS = ("CharLM", "CharSeqStatefulRnn", "CharSeqStatefulRnn2")
"""Models that have one of them."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """Make a run of weights from PyTorch: a safetensors file or a checkpoint of torch.save.

    The cell and the sizes are read off the weights. The flags say what else they belong to. For a
    file that `export` wrote, they are not needed.
    """

    file: Positional[Path]
    """The weights: a safetensors file, an index of shards, or what torch.save wrote."""
    listing: Annotated[bool, tyro.conf.arg(name="list")] = False
    """Only list the contents of the file."""
    recipe: str = "python-docs"
    """The recipe with the other values; `recipes` lists them."""
    name: str | None = None
    """The run's folder in runs/; the file's name if None."""
    key: str | None = None
    """The place of the weights in a checkpoint, such as ema.model; the usual places if None."""
    rename: tuple[str, ...] = ()
    """Modules with other names in the file, as THEIRS=OURS: encoder=e decoder=l_out. "*" stands
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
    cell_is_known: Suppress[bool] = False
    """Whether the user or the file names the model or its cell."""

    def __call__(self) -> int:
        contents = read_contents(self.file)
        if self.listing:
            print(printable("\n".join(self._listed(contents))))
            return 0

        # Mistakes of the user's come before the work.
        folder = RUNS / checked_name(self.name or self.file.stem)
        if folder.exists():
            raise TensorFileError(f"{folder} exists: choose another --name.")
        ours = described(contents, self.file)
        self._check_paths(ours)
        found = self._identified(contents, ours)

        # The vocabulary that the user or the file gives; None leaves it to the corpus.
        vocabulary = None if ours is None else ours.vocabulary
        if self.vocabulary is not None:
            vocabulary = read_vocabulary(self.vocabulary)
        assumed = vocabulary is None
        experiment = prepare(self.config, vocabulary=vocabulary)

        # The weights, and what they make of the beginning of the text.
        params, assumptions = params_of(
            found, experiment, path=self.file, zero_missing=self.zero_missing, assumed=assumed
        )
        notes = [*found.notes, *assumptions]
        if ours is None:
            experiment = self._with_cell(experiment, params, notes)
        trial = tried(experiment, experiment.model, params)
        self._check(trial, experiment, notes, assumed=assumed)

        # The run.
        usual = RECIPES.find(self.recipe).prompt if ours is None else ours.prompt
        prompt = prompt_for(experiment, self.prompt, usual)
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

    def _identified(self, contents: Contents, ours: Description | None = None) -> Identified:
        """The weights in the file, by the flags that say where and under which names."""
        # A file that `export` wrote has the model's own names, whatever the model.
        if ours is not None and not (self.key or self.rename or self.drop):
            stored = contents.tables[()]
            return Identified({name: tensor.array for name, tensor in stored.items()})
        names = pairs(self.rename)
        return identify(contents, key=self.key, drop=self.drop, names=names)

    def _listed(self, contents: Contents) -> list[str]:
        """The contents of the file, in lines."""
        lines = [f"{self.file} ({contents.kind})"]
        for keys, table in contents.tables.items():
            if keys:
                lines.append(f"under {'.'.join(keys)}:")
            width = max(map(len, table))
            for name, stored in table.items():
                lines.append(f"  {name:{width}}  {stored.dtype}{list(stored.shape)}")
        if contents.others:
            lines.append(f"no tensors: {', '.join(contents.others)}")
        ours = described(contents, self.file)
        if ours is not None:
            lines.append(f"Exported by jaxrnn from a {ours.config.model}.")
        # What --list is often for: names to --rename and --drop.
        try:
            lines.append(self._identified(contents).summary)
        except ValueError as error:
            lines.append(f"It cannot be imported as it is: {error}")
        return lines

    def _check_paths(self, ours: Description | None) -> None:
        """Refuse to open a text only because somebody's file names it.

        Raises:
            TensorFileError: with the flag that names it.
        """
        # It could be a device, a secret of the user's, or any slow or endless file.
        if self.config.corpus == NOT_OPENED:
            named = "a corpus" if ours is None else f"the corpus {ours.config.corpus!r}"
            raise TensorFileError(
                f"{self.file} names {named}, a path that is not opened because a file says so. "
                "Name the text yourself: --corpus FILE (and --validation FILE)."
            )

    def _with_cell(self, experiment: Experiment, params: Any, notes: list[str]) -> Experiment:
        """The experiment with tanh or relu, whichever predicts better, where neither is named."""
        config = experiment.config
        cell = config.cell if config.model == "CharLM" else "tanh"
        if self.cell_is_known or cell not in LOOK_ALIKES or config.model not in TANH_MODELS:
            return experiment
        # A loop over one cell, whose weights have no number.
        weights = dict(params)
        if config.model == "CharSeqStatefulRnn2":
            weights["rnn"] = {f"{name}_l0": weight for name, weight in params["rnn"].items()}
        losses = compared(experiment, weights, LOOK_ALIKES)

        def rank(name: str) -> tuple[bool, float]:
            """NaN, which compares as no number does, comes last."""
            return not losses[name] < math.inf, losses[name]

        best = min(losses, key=rank)
        shown = ", ".join(f"{loss:.3f} nats with {name}" for name, loss in losses.items())
        notes.append(f"tanh and relu have the same weights: {shown}. {best} is taken (--cell).")
        if best == cell:
            return experiment
        # The course has no relu, but the general model has.
        changed = replace(config, model="CharLM", cell=best)
        model = changed.make_model(experiment.vocabulary.size)
        return experiment._replace(config=changed, model=model)

    def _check(
        self, trial: Trial, experiment: Experiment, notes: list[str], *, assumed: bool
    ) -> None:
        """Refuse weights that predict no better than chance where the vocabulary is a guess.

        Where it is known, that becomes one of the notes.

        Raises:
            TensorFileError: if they do.
        """
        count = experiment.vocabulary.size
        unit = token_name(experiment.vocabulary)
        # NaN is no better, either.
        if trial.nats < math.log(count):
            return
        words = (
            f"The weights predict the text no better than chance: {trial.nats:.2f} nats a {unit}, "
            f"where ln {count} is {math.log(count):.2f}."
        )
        if not assumed:
            notes.append(f"{words} Are they trained, on such a text, with these tokens?")
            return
        # With the tokens in another order, weights that are trained predict at chance or worse.
        raise TensorFileError(
            f"{words} The vocabulary is assumed to be that of the corpus {self.config.corpus}. "
            "Give the right one, also if the weights are not trained: --vocabulary FILE, a JSON "
            f"list of the {count} tokens in their order."
        )

    def _show(self, run: Run, experiment: Experiment, trial: Trial) -> None:
        """Print how well the weights predict, and what to type next."""
        count = experiment.vocabulary.size
        unit = token_name(experiment.vocabulary)
        print(
            f"On the first {trial.characters:,} {unit}s of the validation text: "
            f"{trial.nats:.4f} nats a {unit}; chance, ln {count}, is {math.log(count):.4f}."
        )
        command = command_name()
        print(f"{run.folder} has the weights of {printable(str(self.file))}. What to type next:")
        print(f"  {command} evaluate {run.folder}\n  {command} sample {run.folder}")
        print(f"  {command} train --resume {run.folder}")


class _UncheckedConfig(Config):
    """A configuration as a command line has it before a file's sizes are known."""

    def __post_init__(self) -> None:
        # The sizes of the recipe need not fit the options of the file's model.
        pass


@dataclass(frozen=True, kw_only=True)
class _FirstLook(Import):
    """The flags of `import`, of which those about the file decide on the defaults of the others."""

    config: OmitArgPrefixes[_UncheckedConfig] = _UncheckedConfig()  # noqa: RUF009 (frozen)


def command(given: Sequence[str]) -> Import:
    """The command of a command line, after its name.

    Raises:
        ValueError: if the file cannot be read, or the command line is wrong.
    """
    given = with_full_names(given)
    return parse_command(Import, "import", given, with_defaults(given))


def with_defaults(given: Sequence[str]) -> Import:
    """The command `import` with the cell and the sizes of the file on the command line."""
    recipe = recipe_in(given)
    config = RECIPES.find(recipe).config
    usual = Import(file=tyro.MISSING, recipe=recipe, config=config)
    # The help shows the defaults of the recipe, whether or not a file is named.
    if not set(given).isdisjoint({"-h", "--help"}):
        return usual

    # Parsed twice: the first time for the file, whose sizes are the defaults of the second.
    unchecked = _UncheckedConfig(**asdict(config))
    first = _FirstLook(file=tyro.MISSING, recipe=recipe, config=unchecked)
    look = parse_command(_FirstLook, "import", given, first)
    if look.listing:
        return usual
    flags = flags_in(given)
    contents = read_contents(look.file)
    # A file that `export` wrote has its own configuration.
    ours = described(contents, look.file)
    if ours is not None:
        return replace(usual, config=_without_paths(ours.config, flags), cell_is_known=True)
    # Of any other file, the shapes tell the sizes, and the recipe the rest.
    found = identify(contents, key=look.key, drop=look.drop, names=pairs(look.rename))
    model = look.config.model if "--model" in flags else None
    cell_is_known = not flags.isdisjoint({"--model", "--cell"})
    values = fitted(config, found.sizes, model=model, cell="--cell" in flags)
    return replace(usual, config=values, cell_is_known=cell_is_known)


def _without_paths(config: Config, flags: set[str]) -> Config:
    """A file's configuration without the paths that it names; see `NOT_OPENED`."""
    if not names_paths(config):
        return config
    # Nothing that matters happens in silence: it validated on another text.
    if config.validation is not None and "--corpus" in flags and "--validation" not in flags:
        logger.warning(
            "The file names the validation text %s, which is not opened: the end of the corpus "
            "validates. --validation names another.",
            config.validation,
        )
    return replace(config, corpus=NOT_OPENED, validation=None)
