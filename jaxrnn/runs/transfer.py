"""Runs from weights of PyTorch's: what they belong to, and how they become parameters."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.data.vocabulary import Vocabulary
from jaxrnn.exchange.contents import TensorFileError
from jaxrnn.exchange.identification import (
    EMBEDDING,
    OUTPUT,
    OUTPUT_BIAS,
    TIED_BIAS,
    Identified,
)
from jaxrnn.exchange.weights import WeightMap, WeightMapError
from jaxrnn.files import LARGEST_TEXT, parse_json, read_regular
from jaxrnn.nn.models import MODELS
from jaxrnn.runs.config import Config, has_field
from jaxrnn.runs.experiment import Experiment
from jaxrnn.runs.run import Run
from jaxrnn.tree import named_leaves

COURSE_MODELS_OF = {
    "tanh": ("CharRnn", "CharSeqRnn", "CharSeqStatefulRnn", "CharSeqStatefulRnn2"),
    "gru": ("CharSeqStatefulGRU",),
    "lstm": ("CharSeqStatefulLSTM",),
}
"""Models of the course with each recurrent cell."""
LOOPS = ("Char3Model", "CharLoopModel", "CharLoopConcatModel")
"""Models of the course that are a loop by hand."""


def read_vocabulary(path: Path | str) -> Vocabulary:
    """A vocabulary from JSON: a run's `vocabulary.json`, a list of its tokens, or token to number.

    Raises:
        TensorFileError: if there is no such file, or it is no vocabulary.
    """
    try:
        data = read_regular(path, at_most=LARGEST_TEXT)
        return _vocabulary(parse_json(data, path))
    except OSError as error:
        raise TensorFileError(f"Cannot read {path}: {error.strerror}.") from error
    except KeyError as error:
        raise TensorFileError(f"{path} is no vocabulary: {error} is missing.") from error
    except (ValueError, TypeError) as error:
        raise TensorFileError(f"{path} is no vocabulary: {error}") from error


def _vocabulary(listed: Any) -> Vocabulary:
    """A vocabulary from parsed JSON.

    Raises:
        ValueError: if it is none.
        KeyError: if something is missing.
    """
    # Token to number, as many scripts save it: {"a": 0, "b": 1, ...}.
    if isinstance(listed, dict) and "itos" not in listed and listed:
        numbers = [number for number in listed.values() if type(number) is int]
        if sorted(numbers) != list(range(len(listed))):
            raise ValueError("It has no tokens under itos, and gives them no numbers 0, 1, 2, ...")
        listed = sorted(listed, key=listed.__getitem__)
    # The tokens in their order.
    if isinstance(listed, list):
        listed = {"itos": listed, "lowercase": False}
    if not isinstance(listed, dict):
        raise ValueError("It is neither a list of tokens nor a dictionary.")
    return Vocabulary.from_dict(listed)


def fitted(config: Config, sizes: Mapping[str, Any], *, model: str | None, cell: bool) -> Config:
    """A configuration with the cell and the sizes of a file's weights.

    Args:
        config: the configuration with all other values.
        sizes: the values that follow from the shapes; see `Identified`.
        model: the model that the user names; None lets the cell decide.
        cell: whether the user names the cell, which only the general model takes.
    """
    # A file whose weights are not known by their shapes: the recipe's values may fit.
    if not sizes:
        return config
    named = model or _model_for(config.model, sizes, cell=cell)
    # Options of the recipe's model mean nothing for another one: they are the defaults again.
    values: dict[str, Any] = {
        "model": named,
        "cell": Config.cell,
        "num_layers": Config.num_layers,
        "tied": Config.tied,
        "identity": config.identity and named == config.model,
        "dropout": 0.0,
    }
    if named in MODELS:
        for name, value in sizes.items():
            if has_field(MODELS[named], name):
                values[name] = value
    # Shapes do not tell tanh from relu, nor a GRU from a coupled LSTM. Where the cell that is named
    # does not fit, the weight map says so.
    if cell or (values["cell"] == "tanh" and config.cell == "relu"):
        values["cell"] = config.cell
    if values["num_layers"] > 1 and has_field(MODELS[named], "dropout"):
        values["dropout"] = config.dropout
    return replace(config, **values)


def _model_for(usual: str, sizes: Mapping[str, Any], *, cell: bool) -> str:
    """The model that the weights fit: the usual one, if they do, else the general one."""
    if "cell" not in sizes:
        return usual if usual in LOOPS else LOOPS[1]
    # Of the course's models, the LSTM alone has several layers, and none is tied.
    too_deep = sizes["num_layers"] > 1 and sizes["cell"] != "lstm"
    if cell or too_deep or sizes.get("tied") or usual not in COURSE_MODELS_OF[sizes["cell"]]:
        return "CharLM"
    return usual


def params_of(
    found: Identified,
    experiment: Experiment,
    *,
    path: Path | str = "",
    zero_missing: bool = False,
    assumed: bool = False,
) -> tuple[Any, list[str]]:
    """The parameters of the model of `experiment` from a file's weights.

    Args:
        found: the weights.
        experiment: the experiment that they belong to.
        path: the file, for a hint on what is missing.
        zero_missing: whether biases that are missing are taken as zeros.
        assumed: whether the vocabulary was made from the corpus, for a hint on what is wrong.

    Returns:
        The parameters, and the assumptions, a sentence each.

    Raises:
        WeightMapError: if weights are missing, unknown, of another shape, NaN or infinite; all
            problems are named.
    """
    like = jax.eval_shape(experiment.fresh_state).params
    leaves = named_leaves(like)
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    weight_map = WeightMap.for_flax(leaves)
    tensors = _as_model(found.tensors, weight_map.keys)
    notes = []
    if zero_missing:
        # Through the map, for torch's names and shapes.
        zeros = weight_map.to_torch({name: np.zeros(shape) for name, shape in shapes.items()})
        for name in weight_map.keys:
            if name not in tensors and _is_bias(name):
                tensors[name] = zeros[name]
                notes.append(f"{name} is missing and taken as zeros.")
    try:
        return params_from(tensors, like, experiment.dtype), notes
    except WeightMapError as error:
        hints = _hints(found, experiment, tensors, weight_map.keys, path=path, assumed=assumed)
        raise WeightMapError(" ".join([str(error), *hints])) from error


def params_from(tensors: Mapping[str, np.ndarray], like: Any, dtype: str = "float32") -> Any:
    """A model's parameters from weights by torch's names.

    Args:
        tensors: the weights.
        like: the parameters' tree, of arrays or their shapes.
        dtype: the precision of the parameters.

    Raises:
        WeightMapError: if weights are missing, unknown, of another shape, NaN or infinite.
    """
    leaves = named_leaves(like)
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    weight_map = WeightMap.for_flax(leaves)
    weights = weight_map.from_torch(_as_model(tensors, weight_map.keys), like=shapes)
    # Back into the tree.
    arrays = [jnp.asarray(weights[name], dtype) for name in leaves]
    return jax.tree.unflatten(jax.tree.structure(like), arrays)


def save_imported(
    folder: Path | str, experiment: Experiment, params: Any, *, prompt: str = ""
) -> Run:
    """Make a run that starts from `params`, at the beginning of the schedule.

    It evaluates and samples at once; training it starts with a fresh optimizer.

    Args:
        folder: the new run's.
        experiment: what the weights belong to and are to be trained on.
        params: the weights.
        prompt: the text that samples begin with.

    Raises:
        RunError: if the folder cannot be made.
    """
    # A run whose only checkpoint is at update 0, with these weights.
    state = experiment.fresh_state()._replace(params=params)
    return Run.create(folder, experiment, prompt=prompt, state=state)


def _as_model(tensors: Mapping[str, np.ndarray], keys: Sequence[str]) -> dict[str, np.ndarray]:
    """The weights under the names of one model, where it has others for the same thing."""
    found = dict(tensors)
    # A tied model has the bias of the output layer alone.
    if TIED_BIAS in keys:
        if OUTPUT_BIAS in found:
            found[TIED_BIAS] = found.pop(OUTPUT_BIAS)
        embedding = found.get(EMBEDDING)
        if embedding is not None and np.array_equal(embedding, found.get(OUTPUT, embedding)):
            found.pop(OUTPUT, None)
    # A model with one cell has torch's `RNNCell`, whose weights have no number.
    for name in list(found):
        of_cell = name.removesuffix("_l0")
        if name not in keys and of_cell in keys:
            found[of_cell] = found.pop(name)
    return found


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[2].startswith("bias")


def _hints(
    found: Identified,
    experiment: Experiment,
    tensors: Mapping[str, np.ndarray],
    keys: Sequence[str],
    *,
    path: Path | str,
    assumed: bool,
) -> list[str]:
    """What to do about weights that do not fit, a sentence each."""
    hints = []

    # Another V.
    known = experiment.vocabulary.size
    if found.vocabulary is not None and found.vocabulary != known:
        whose = f"that of the corpus {experiment.config.corpus}" if assumed else "the one given"
        hints.append(
            f"The weights are for {found.vocabulary} tokens, and the vocabulary ({whose}) has "
            f"{known}: give the right one, --vocabulary FILE, a JSON list of the "
            f"{found.vocabulary} tokens in their order."
        )

    # Names that are missing or unknown.
    missing = [name for name in keys if name not in tensors]
    only_biases = all(map(_is_bias, missing))
    if missing and only_biases:
        hints.append("Missing biases are taken as zeros with --zero-missing.")
    if not tensors.keys() <= set(keys):
        hints.append("What the model does not need is left out with --drop NAME.")
    if missing and not only_biases:
        hints.append("--list shows what is in the file, and --rename THEIRS=OURS names it.")

    # Transformers splits a large model: model-00001-of-00003.safetensors.
    shard = re.search(r"-\d+-of-(\d+)\.", Path(path).name)
    if missing and shard is not None and int(shard[1]) > 1:
        hints.append(f"This file is one of {int(shard[1])} shards: import their .index.json.")
    return hints
