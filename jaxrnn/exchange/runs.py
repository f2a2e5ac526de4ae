"""Whole runs from and to PyTorch: weights by torch's names and shapes, and what they belong to."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.data.vocabulary import Vocabulary
from jaxrnn.exchange.files import TensorFileError, read_about, read_tensors, write_tensors
from jaxrnn.exchange.weights import WeightMap
from jaxrnn.training.chunks import Progress
from jaxrnn.training.config import Config
from jaxrnn.training.experiment import Experiment
from jaxrnn.training.history import Position
from jaxrnn.training.runs import Run
from jaxrnn.tree import named_leaves


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
    leaves = named_leaves(run.load_params(checkpoint))
    tensors = WeightMap.for_flax(leaves).to_torch(leaves)
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
        listed = json.loads(Path(path).read_text(encoding="utf-8"))
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

    Raises:
        WeightMapError: if weights are missing, unknown, of another shape, NaN or infinite; all
            problems are named, and no run is made.
        RunError: if the folder cannot be made.
    """
    tensors = _renamed(read_tensors(path), renamed or {})
    state = experiment.fresh_state()
    likes = named_leaves(state.params)
    shapes = {name: leaf.shape for name, leaf in likes.items()}
    weights = WeightMap.for_flax(likes).from_torch(tensors, like=shapes)
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


def _renamed(tensors: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The tensors, with modules under their new names."""
    renamed = {}
    for name, tensor in tensors.items():
        old = next((old for old in names if name == old or name.startswith(f"{old}.")), None)
        new = name if old is None else names[old] + name.removeprefix(old)
        if new in renamed:
            raise TensorFileError(f"Two tensors would be called {new}: give each its own name.")
        renamed[new] = tensor
    unused = [old for old in names if not any(n == old or n.startswith(f"{old}.") for n in tensors)]
    if unused:
        raise TensorFileError(
            f"There is no module {', '.join(unused)} to rename; the file has {', '.join(tensors)}."
        )
    return renamed
