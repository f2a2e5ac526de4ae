"""Whole runs from and to PyTorch: weights by torch's names and shapes, and what they belong to."""

import fnmatch
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.data.vocabulary import Vocabulary
from jaxrnn.exchange.files import COUNTERS, TensorFileError, read_about, read_tensors, write_tensors
from jaxrnn.exchange.weights import WeightMap
from jaxrnn.output import check_output
from jaxrnn.training.chunks import Progress
from jaxrnn.training.config import Config
from jaxrnn.training.experiment import Experiment
from jaxrnn.training.files import parse_json, read_regular
from jaxrnn.training.history import Position
from jaxrnn.training.runs import Run
from jaxrnn.tree import named_leaves

TIED_BIAS = "bias_out"
"""The bias of an output layer whose kernel is the embedding's table."""
LARGEST_VOCABULARY = 1 << 26
"""Bytes that a file with a vocabulary may have."""


def export_run(run: Run, path: Path | str, *, checkpoint: str = "best") -> dict[str, np.ndarray]:
    """Write a run's weights as a PyTorch module with the course's names would hold them.

    `module.load_state_dict(safetensors.torch.load_file(path), strict=True)` takes them: `e`,
    `l_in`, `l_hidden` and `l_out` are torch's `Embedding` and `Linear`, `rnn` is its `RNN`, `GRU`
    or `LSTM` (an `RNNCell` for CharSeqStatefulRnn2). The file's header has the configuration and
    the vocabulary, so that `import_run` needs nothing else.

    Args:
        run: the run.
        path: the safetensors file to write.
        checkpoint: whose weights, "best" or "last".

    Returns:
        The tensors that were written.
    """
    check_output(path)
    leaves = named_leaves(run.load_params(checkpoint))
    tensors = WeightMap.for_flax(leaves).to_torch(leaves)
    if TIED_BIAS in tensors:  # as a tied module of PyTorch's has them
        tensors["l_out.weight"] = tensors["e.weight"].copy()
        tensors["l_out.bias"] = tensors.pop(TIED_BIAS)
    vocabulary = run.vocabulary
    about = {
        "config": run.config.to_dict(),
        "prompt": run.prompt,
        "vocabulary": {"lowercase": vocabulary.lowercase, "itos": vocabulary.itos},
    }
    write_tensors(path, tensors, about)
    return tensors


def described(path: Path | str) -> tuple[Config, Vocabulary, str] | None:
    """The configuration, vocabulary and prompt in a file of `export_run`'s; None in another's.

    Raises:
        TensorFileError: if the description does not make sense.
    """
    about = read_about(path)
    if about is None:
        return None
    try:
        listed = about["vocabulary"]
        vocabulary = Vocabulary(tuple(map(str, listed["itos"])), bool(listed["lowercase"]))
        return Config.from_dict(about["config"]), vocabulary, str(about["prompt"])
    except (ValueError, KeyError, TypeError) as error:
        raise TensorFileError(f"The description in {path} is damaged: {error}") from error


def read_vocabulary(path: Path | str) -> Vocabulary:
    """A vocabulary from JSON: a run's `vocabulary.json`, or just the list of its tokens.

    Raises:
        TensorFileError: if there is no such file, or it is no vocabulary.
    """
    try:
        listed = parse_json(read_regular(path, at_most=LARGEST_VOCABULARY), path)
        if isinstance(listed, list):
            listed = {"itos": listed, "lowercase": False}
        return Vocabulary(tuple(map(str, listed["itos"])), bool(listed["lowercase"]))
    except OSError as error:
        raise TensorFileError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TensorFileError(f"{path} is no vocabulary: {error}.") from error


def import_run(
    path: Path | str,
    folder: Path | str,
    experiment: Experiment,
    *,
    renamed: Mapping[str, str] | None = None,
    prompt: str = "",
    key: str | None = None,
    drop: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Run:
    """Make a run that starts from the weights in a file of PyTorch's.

    It evaluates and samples at once; training it starts at the beginning of the schedule, with a
    fresh optimizer.

    Args:
        path: a safetensors file or a PyTorch checkpoint; see `read_tensors`.
        folder: the new run's.
        experiment: what the weights belong to and are to be trained on.
        renamed: modules that the file calls otherwise, its name to ours: {"encoder": "e"}.
        prompt: what samples begin with.
        key: where in a checkpoint the weights are; see `read_tensors`.
        drop: tensors to leave out, as patterns: "head.*".
        say: is told, in a sentence, what was left out.

    Raises:
        WeightMapError: if weights are missing, unknown, of another shape, NaN or infinite; all
            problems are named, and no run is made.
        RunError: if the folder cannot be made.
    """
    tensors = _renamed(_dropped(read_tensors(path, key=key, say=say), drop), renamed or {})
    state = experiment.fresh_state()
    likes = named_leaves(state.params)
    shapes = {name: leaf.shape for name, leaf in likes.items()}
    weight_map = WeightMap.for_flax(likes)
    tensors = _fitting(tensors, set(weight_map.keys), say)
    weights = weight_map.from_torch(tensors, like=shapes)
    leaves = [jnp.asarray(weights[name], leaf.dtype) for name, leaf in likes.items()]
    params = jax.tree.unflatten(jax.tree.structure(state.params), leaves)
    run = Run.create(folder, experiment, prompt=prompt)
    progress = Progress(state._replace(params=params), Position(), experiment.source.steps(0))
    try:
        run.save("last", progress, float("inf"))
    except BaseException:  # without its weights it would be trained from the beginning
        shutil.rmtree(run.folder)
        raise
    return run


def _dropped(tensors: Mapping[str, np.ndarray], patterns: Sequence[str]) -> dict[str, np.ndarray]:
    """The tensors that no pattern names.

    Raises:
        TensorFileError: if a pattern names none.
    """
    for pattern in patterns:
        if not fnmatch.filter(tensors, pattern):
            raise TensorFileError(
                f"There is no tensor {pattern} to drop; the file has {', '.join(tensors)}."
            )
    return {
        name: array
        for name, array in tensors.items()
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }


def _renamed(tensors: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The tensors, with modules under their new names.

    A name stands for a whole module or tensor, never for the beginning of another name. With "*" on
    both sides, what stands in its place is carried over.
    """
    renamed: dict[str, Any] = {}
    used = set()
    for name, tensor in tensors.items():
        new = name
        for old, target in names.items():
            found = _pattern(old).fullmatch(name)
            if found is not None:
                *pieces, rest = found.groups()
                for piece in pieces:
                    target = target.replace("*", piece, 1)
                new = target + (rest or "")
                used.add(old)
                break
        if new in renamed:
            raise TensorFileError(f"Two tensors would be called {new}: give each its own name.")
        renamed[new] = tensor
    unused = [old for old in names if old not in used]
    if unused:
        raise TensorFileError(
            f"There is no module {', '.join(unused)} to rename; the file has {', '.join(tensors)}."
        )
    return renamed


def _pattern(name: str) -> re.Pattern[str]:
    """What a module or tensor called `name` matches, what follows it in the last group."""
    return re.compile(r"([^.]*)".join(map(re.escape, name.split("*"))) + r"(\..*)?")


def _fitting(
    tensors: Mapping[str, np.ndarray], wanted: set[str], say: Callable[[str], None]
) -> dict[str, np.ndarray]:
    """The tensors without those that are no weights of their own; what is left out is said.

    Counters, weights that a weight drop has masked (the raw ones are taken), the kernel of an
    output layer that is the embedding's table, and tensors that equal one that is taken.

    Raises:
        TensorFileError: if a tensor that is wanted has integers.
    """
    kept = dict(tensors)
    for name in [name for name in kept if name.endswith("_raw")]:
        plain = name.removesuffix("_raw")
        if name in wanted:
            continue
        kept[plain] = kept.pop(name)
        say(f"{name} is taken as {plain}, which a weight drop had masked.")
    if TIED_BIAS in wanted and TIED_BIAS not in kept and "l_out.bias" in kept:
        kept[TIED_BIAS] = kept.pop("l_out.bias")
    for name in [name for name in kept if name not in wanted]:
        array = kept[name]
        counts = name.rpartition(".")[2] in COUNTERS or (
            array.ndim == 0 and array.dtype.kind in "iu"
        )
        equal = [other for other in kept if other in wanted and _same(kept[other], array)]
        if counts:
            say(f"{name} counts something and is left out.")
        elif equal:
            say(f"{name} equals {equal[0]} and is left out.")
        else:
            continue
        del kept[name]
    integers = [name for name in kept if kept[name].dtype.kind not in "f"]
    if integers:
        raise TensorFileError(
            f"{', '.join(integers)} has integers, which are no weights; leave it out with --drop."
        )
    return kept


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool(np.array_equal(one, other))
