"""One file to hand on: a run's weights with what they belong to, written, and read as a run.

The tensors have PyTorch's names and shapes, so that `load_state_dict` takes them; the header says
the rest: configuration, vocabulary, prompt, and the checksums of all of it and of the user's code.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrnn.data.corpora import CORPORA
from jaxrnn.data.tokenizers import Tokenizer, restore_tokenizer
from jaxrnn.exchange.contents import Contents, TensorFileError
from jaxrnn.exchange.files import SUFFIX, check_suffix, read_contents, write_tensors
from jaxrnn.exchange.identification import EMBEDDING, OUTPUT, OUTPUT_BIAS, TIED_BIAS
from jaxrnn.exchange.weights import WeightMap, WeightMapError
from jaxrnn.files import parse_json
from jaxrnn.output import check_output
from jaxrnn.registry import NotDefinedError, code_files, found_code, is_reference
from jaxrnn.runs.checksums import RunError
from jaxrnn.runs.config import NAMES, Config
from jaxrnn.runs.experiment import Experiment, fresh_state, prepare
from jaxrnn.runs.origin import Origin
from jaxrnn.runs.run import Run
from jaxrnn.runs.transfer import params_from
from jaxrnn.training.records import History
from jaxrnn.training.state import TrainState, check_memory
from jaxrnn.tree import named_leaves

logger = logging.getLogger(__name__)

FORMAT = 2
"""Format of the description; files of format 1, without checksums, are read too."""


class Description(NamedTuple):
    """The description in the header of a file that `export_run` wrote.

    Attributes:
        config: the configuration of the run.
        vocabulary: the vocabulary.
        prompt: the text that samples begin with.
    """

    config: Config
    vocabulary: Tokenizer
    prompt: str


class ExportedRun:
    """A run in one file that `export_run` wrote: its weights, and what is needed to use them.

    It is read as a `Run` is. There is one set of weights; there are no history, no state of an
    optimizer and no text.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path | str) -> None:
        """Read the description; the weights are read when they are asked for.

        Raises:
            TensorFileError: if the file cannot be read, is damaged, or is another one.
            NotDefinedError: if code that it names is not there, or not trusted.
        """
        self.path = Path(path)
        if self.path.suffix.lower() != SUFFIX:
            raise TensorFileError(
                f"{path} is neither a run's folder nor a file that `export` wrote, whose name ends "
                f"in {SUFFIX}. (`import` makes a run of other files of weights.)"
            )
        self._contents = read_contents(self.path)
        found = described(self._contents, self.path)
        if found is None:
            raise TensorFileError(
                f"{path} has weights alone, and no configuration and vocabulary, as a file that "
                "`export` wrote has them. `import` makes a run of it."
            )
        self._description = found

    def __str__(self) -> str:
        return str(self.path)

    @property
    def config(self) -> Config:
        """The configuration."""
        return self._description.config

    @property
    def vocabulary(self) -> Tokenizer:
        """The tokenizer: text to tokens and back."""
        return self._description.vocabulary

    @property
    def prompt(self) -> str:
        """The text that samples begin with when no other is asked for."""
        return self._description.prompt

    @property
    def identity(self) -> None:
        """None: the file does not say which run it was."""
        return None

    @property
    def origin(self) -> Origin | None:
        """None: the file does not say what its run began with."""
        return None

    @property
    def history(self) -> History:
        """No rows: the history stays in the run's folder."""
        return History()

    def load_params(self, name: str = "best") -> Any:
        """The weights, as the model's parameters.

        Args:
            name: "best": there is no other set of weights.

        Raises:
            RunError: if another checkpoint is asked for.
            TensorFileError: if the weights are damaged, or not those of the model.
        """
        if name != "best":
            raise RunError(
                f"{self} has one set of weights, and no {name!r} checkpoint: leave it out."
            )
        return self._params

    def load_state(self, name: str = "best") -> TrainState:
        """The weights as a state to train on from, with a fresh optimizer; see `load_params`."""
        params = self.load_params(name)
        config = self.config
        # The streams of the file's configuration, which may be anyone's.
        check_memory(
            self._shapes(),
            steps=config.bptt,
            batch_size=config.batch_size,
            vocab_size=self.vocabulary.size,
        )
        return fresh_state(config, config.make_model(self.vocabulary.size), params)

    def found(self, name: str) -> str:
        """The checkpoint that `name` stands for: there is one."""
        return name

    def check_text_is_there(self) -> None:
        """Refuse to read a text because the file names its path.

        Raises:
            RunError: if it names one.
        """
        if names_paths(self.config):
            raise RunError(
                f"{self} names the corpus {self.config.corpus!r}, a path that is not opened "
                "because a file says so. Name the text yourself: --corpus FILE."
            )

    def check_same_text(self, experiment: Experiment) -> None:
        """Nothing: the file has no checksum of its text, which is one of the project's own."""

    def experiment(self, *, corpus: str | None = None) -> Experiment:
        """The windows, the optimizer and the schedule, for the file's text or another one.

        Args:
            corpus: the name or the path of the text. None takes that of the run if it is one of
                the project's own.

        Raises:
            RunError: if the file names a path, which is not opened because a file says so.
        """
        config = self.config
        if corpus is not None:
            config = replace(config, corpus=corpus, validation=None)
        else:
            self.check_text_is_there()
        return prepare(config, vocabulary=self.vocabulary)

    @cached_property
    def _params(self) -> Any:
        tensors = {}
        for name, stored in self._contents.tables[()].items():
            tensors[name] = stored.array
        # Checked where the weights are used as they are: `import` takes edited ones.
        _check_checksum(self._contents, tensors, self.path)
        try:
            return params_from(tensors, self._shapes().params)
        except WeightMapError as error:
            raise TensorFileError(f"{self}: {error}") from error

    def _shapes(self) -> TrainState:
        """The shapes of the training state."""
        config = self.config
        model = config.make_model(self.vocabulary.size)
        shapes: TrainState = jax.eval_shape(lambda: fresh_state(config, model))
        return shapes


AnyRun = Run | ExportedRun
"""What a command reads as a run."""


def open_run(path: Path | str) -> AnyRun:
    """A run by its path: its folder, or a file that `export_run` wrote of it.

    Raises:
        TensorFileError: if it is a file and none of ours.
    """
    path = Path(path)
    named_as_file = path.suffix.lower() == SUFFIX and not path.is_dir()
    if path.is_file() or named_as_file:
        return ExportedRun(path)
    return Run(path)


def names_paths(config: Config) -> bool:
    """Whether a file's configuration names texts by paths, which are not opened for that."""
    # It could be a device, a secret of the user's, or any slow or endless file.
    return config.corpus not in CORPORA or config.validation is not None


def export_run(run: AnyRun, path: Path | str, *, checkpoint: str = "best") -> dict[str, np.ndarray]:
    """Write a run's weights as a PyTorch module with the course's names would hold them.

    `module.load_state_dict(safetensors.torch.load_file(path), strict=True)` takes them: `e`,
    `l_in`, `l_hidden` and `l_out` are torch's `Embedding` and `Linear`, `rnn` is its `RNN`, `GRU`
    or `LSTM` (an `RNNCell` for CharSeqStatefulRnn2). Where the output is tied, `l_out.weight` is
    there, too, as in the state dict of a module with `l_out.weight = e.weight`. The file's header
    has the configuration, the vocabulary and the prompt, so that `load_run` and every command take
    the file in place of the run's folder.

    Args:
        run: the run.
        path: the safetensors file to write.
        checkpoint: the checkpoint with the weights, "best" or "last".

    Returns:
        The tensors in the file.

    Raises:
        TensorFileError: if the file's name does not end in .safetensors.
        OutputError: if the path is refused, or cannot be written.
    """
    # Before the checkpoint is read.
    check_suffix(path)
    check_output(path)

    leaves = named_leaves(run.load_params(checkpoint))
    tensors = WeightMap.for_flax(leaves).to_torch(leaves)
    # A tied output layer has a bias and no weight of its own here; torch's state dict lists both.
    if TIED_BIAS in tensors:
        tensors[OUTPUT] = tensors[EMBEDDING].copy()
        tensors[OUTPUT_BIAS] = tensors.pop(TIED_BIAS)
    code = code_files(run.config.names())
    description = {
        "format": FORMAT,
        "config": run.config.to_dict(),
        "prompt": run.prompt,
        "vocabulary": run.vocabulary.to_dict(),
        "code": code,
    }
    # As it will be read: the checksum is that of the text.
    about = json.loads(json.dumps(description))
    about["sha256"] = _checksum(about, tensors)
    write_tensors(path, tensors, about)
    for file in code:
        logger.warning("%s runs the code of %s: hand on both, side by side.", path, file)
    return tensors


def described(contents: Contents, path: Path | str) -> Description | None:
    """The description in a file that `export_run` wrote; None in any other.

    Args:
        contents: the file's contents.
        path: the file, for messages, and beside which the user's code is looked for.

    Raises:
        NotDefinedError: if code that it names is not there, or not trusted.
        TensorFileError: if the description does not make sense.
    """
    if contents.about is None:
        return None
    # The header may be anyone's: each of these may fail in its own way.
    try:
        about = parse_json(contents.about, "its header")
        _check_format(about.get("format", 1), path)
        values = _with_code(about["config"], about.get("code", {}), Path(path))
        config = Config.from_dict(values)
        vocabulary = restore_tokenizer(config.tokenizer, about["vocabulary"])
        return Description(config, vocabulary, str(about["prompt"]))
    # These name the remedy already.
    except (NotDefinedError, TensorFileError):
        raise
    except KeyError as error:
        raise TensorFileError(
            f"The description in {path} is damaged: {error} is missing."
        ) from error
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise TensorFileError(f"The description in {path} is damaged: {error!s:.300}") from error


def _check_format(found: Any, path: Path | str) -> None:
    """Refuse a description of a later version's.

    Raises:
        TensorFileError: if it is one.
    """
    if not isinstance(found, int) or not 1 <= found <= FORMAT:
        raise TensorFileError(
            f"The description in {path} has format {found!r:.20}, and this jaxrnn reads formats 1 "
            f"to {FORMAT}: was it written by a newer one?"
        )


def _with_code(values: Mapping[str, Any], code: Mapping[str, str], path: Path) -> dict[str, Any]:
    """A file's configuration, in which the user's code is named where it lies now.

    Args:
        values: the configuration.
        code: the checksum of each file of code when the run was exported.
        path: the file of weights.

    Raises:
        NotDefinedError: if a file of code is not there.
    """
    values = dict(values)
    for name in NAMES:
        reference = values.get(name)
        if isinstance(reference, str) and is_reference(reference):
            values[name] = found_code(reference, code, beside=path)
    return values


def _check_checksum(contents: Contents, tensors: Mapping[str, np.ndarray], path: Path) -> None:
    """Refuse tensors, or a description, of which a bit is not what it was when it was written.

    Raises:
        TensorFileError: if that is so.
    """
    about = parse_json(contents.about or "{}", path)
    expected = about.pop("sha256", None)
    # Format 1 had none.
    if expected is None and about.get("format", 1) == 1:
        return
    found = _checksum(about, tensors)
    if expected != found:
        raise TensorFileError(
            f"{path} is damaged, or was changed since `export` wrote it: expected sha256 "
            f"{expected!r:.70}, got {found}. (`import` takes changed weights.)"
        )


def _checksum(about: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """The sha256 of a description and of its tensors."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
