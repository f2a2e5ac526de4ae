"""Whole runs from and to PyTorch: weights by torch's names and shapes, and what they belong to."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.data.tokenizers import Tokenizer, restore_tokenizer
from jaxrnn.data.vocabulary import Vocabulary
from jaxrnn.exchange.contents import Contents, TensorFileError
from jaxrnn.exchange.files import check_suffix, read_contents, write_tensors
from jaxrnn.exchange.identification import (
    EMBEDDING,
    OUTPUT,
    OUTPUT_BIAS,
    TIED_BIAS,
    Identified,
    identify,
)
from jaxrnn.exchange.weights import WeightMap, WeightMapError
from jaxrnn.files import LARGEST_TEXT, parse_json, read_regular
from jaxrnn.nn.models import MODELS
from jaxrnn.output import check_output
from jaxrnn.runs.config import Config
from jaxrnn.runs.experiment import Experiment
from jaxrnn.runs.run import Run
from jaxrnn.training.history import Position, Progress
from jaxrnn.tree import named_leaves

COURSE_MODELS_OF = {
    "tanh": ("CharRnn", "CharSeqRnn", "CharSeqStatefulRnn", "CharSeqStatefulRnn2"),
    "gru": ("CharSeqStatefulGRU",),
    "lstm": ("CharSeqStatefulLSTM",),
}
"""The course's models with each recurrent cell."""
LOOPS = ("Char3Model", "CharLoopModel", "CharLoopConcatModel")
"""The course's models that are a loop by hand."""


class Description(NamedTuple):
    """What we wrote into an exported file's header.

    Attributes:
        config: the configuration of the run.
        vocabulary: the vocabulary.
        prompt: what samples begin with.
    """

    config: Config
    vocabulary: Tokenizer
    prompt: str


def export_run(run: Run, path: Path | str, *, checkpoint: str = "best") -> dict[str, np.ndarray]:
    """Write a run's weights as a PyTorch module with the course's names would hold them.

    `module.load_state_dict(safetensors.torch.load_file(path), strict=True)` takes them: `e`,
    `l_in`, `l_hidden` and `l_out` are torch's `Embedding` and `Linear`, `rnn` is its `RNN`, `GRU`
    or `LSTM` (an `RNNCell` for CharSeqStatefulRnn2). Where the output is tied, `l_out.weight` is
    there, too, as in the state dict of a module with `l_out.weight = e.weight`. The file's header
    has the configuration and the vocabulary, so that `import_run` needs nothing else.

    Args:
        run: the run.
        path: the safetensors file to write.
        checkpoint: whose weights, "best" or "last".

    Returns:
        The tensors that were written.

    Raises:
        TensorFileError: if the file's name does not end in .safetensors.
        OutputError: if the path is refused, or cannot be written.
    """
    check_suffix(path)
    check_output(path)
    leaves = named_leaves(run.load_params(checkpoint))
    tensors = WeightMap.for_flax(leaves).to_torch(leaves)
    if TIED_BIAS in tensors:
        tensors[OUTPUT] = tensors[EMBEDDING].copy()
        tensors[OUTPUT_BIAS] = tensors.pop(TIED_BIAS)
    vocabulary = run.vocabulary
    about = {
        "config": run.config.to_dict(),
        "prompt": run.prompt,
        "vocabulary": vocabulary.to_dict(),
    }
    write_tensors(path, tensors, about)
    return tensors


def described(contents: Contents, path: Path | str) -> Description | None:
    """The description in a file of `export_run`'s; None in another's.

    Args:
        contents: of the file.
        path: of the file, for messages.

    Raises:
        TensorFileError: if the description does not make sense.
    """
    if contents.about is None:
        return None
    try:
        about = parse_json(contents.about, "its header")
        config = Config.from_dict(about["config"])
        vocabulary = restore_tokenizer(config.tokenizer, about["vocabulary"])
        return Description(config, vocabulary, str(about["prompt"]))
    except KeyError as error:
        raise TensorFileError(
            f"The description in {path} is damaged: {error} is missing."
        ) from error
    except (ValueError, TypeError) as error:
        raise TensorFileError(f"The description in {path} is damaged: {error!s:.300}") from error


def read_vocabulary(path: Path | str) -> Vocabulary:
    """A vocabulary from JSON: a run's `vocabulary.json`, a list of its tokens, or token to number.

    Raises:
        TensorFileError: if there is no such file, or it is no vocabulary.
    """
    try:
        return _vocabulary(parse_json(read_regular(path, at_most=LARGEST_TEXT), path))
    except OSError as error:
        raise TensorFileError(f"Cannot read {path}: {error.strerror}.") from error
    except KeyError as error:
        raise TensorFileError(f"{path} is no vocabulary: {error} is missing.") from error
    except (ValueError, TypeError) as error:
        raise TensorFileError(f"{path} is no vocabulary: {error}") from error


def _vocabulary(listed: Any) -> Vocabulary:
    """A vocabulary from what JSON says.

    Raises:
        ValueError: if it is none.
        KeyError: if something is missing.
    """
    if isinstance(listed, dict) and "itos" not in listed and listed:
        numbers = [number for number in listed.values() if type(number) is int]
        if sorted(numbers) != list(range(len(listed))):
            raise ValueError("It has no tokens under itos, and gives them no numbers 0, 1, 2, ...")
        listed = sorted(listed, key=listed.__getitem__)
    if isinstance(listed, list):
        listed = {"itos": listed, "lowercase": False}
    if not isinstance(listed, dict):
        raise ValueError("It is neither a list of tokens nor a dictionary.")
    return Vocabulary.from_dict(listed)


def fitted(config: Config, sizes: Mapping[str, Any], *, model: str | None, cell: bool) -> Config:
    """A configuration with the cell and the sizes of a file's weights.

    Args:
        config: where all other values come from.
        sizes: what the shapes tell; see `Identified`.
        model: the model that the user names; None lets the cell decide.
        cell: whether the user names the cell, which only the general model takes.
    """
    if not sizes:
        return config
    named = model or _model_for(config.model, sizes, cell=cell)
    known = {field.name for field in fields(MODELS[named])} & set(sizes) if named in MODELS else ()
    values = {name: sizes[name] for name in known}
    if "cell" in values and values["cell"] == "tanh" and config.cell == "relu":
        values["cell"] = "relu"
    depth = values.get("num_layers", 1)
    usual = {name: getattr(Config, name) for name in ("cell", "num_layers", "tied", "identity")}
    kept_identity = config.identity and named == config.model
    dropout = config.dropout if depth > 1 and named in ("CharLM", "CharSeqStatefulLSTM") else 0.0
    others = {"model": named, "dropout": dropout, "identity": kept_identity}
    return replace(config, **(usual | others | values))


def _model_for(usual: str, sizes: Mapping[str, Any], *, cell: bool) -> str:
    """The model that the weights fit: the usual one, if they do, else the general one."""
    if "cell" not in sizes:
        return usual if usual in LOOPS else str(sizes.get("model", LOOPS[1]))
    several = sizes["num_layers"] > 1 and sizes["cell"] != "lstm"
    course = COURSE_MODELS_OF[sizes["cell"]]
    if usual in course and not several and not sizes.get("tied") and not cell:
        return usual
    return "CharLM"


def import_run(
    path: Path | str,
    folder: Path | str,
    experiment: Experiment,
    *,
    renamed: Mapping[str, str] | None = None,
    prompt: str = "",
    key: str | None = None,
    drop: Sequence[str] = (),
    zero_missing: bool = False,
) -> Run:
    """Make a run that starts from the weights in a file of PyTorch's.

    It evaluates and samples at once; training it starts at the beginning of the schedule, with a
    fresh optimizer.

    Args:
        path: a safetensors file, an index of shards or a PyTorch checkpoint.
        folder: the new run's.
        experiment: what the weights belong to and are to be trained on.
        renamed: modules that the file calls otherwise, its name to ours: {"encoder": "e"}; see
            `jaxrnn.exchange.names`.
        prompt: what samples begin with.
        key: where in a checkpoint the weights are; where they usually are if None.
        drop: patterns of tensors to leave out.
        zero_missing: whether biases that are missing are taken as zeros.

    Raises:
        TensorFileError: if the file cannot be read, or it cannot be told what is what.
        WeightMapError: if weights are missing, unknown, of another shape, NaN or infinite; all
            problems are named, and no run is made.
        RunError: if the folder cannot be made.
    """
    found = identify(read_contents(path), key=key, drop=drop, names=renamed)
    params, _ = params_of(found, experiment, path=path, zero_missing=zero_missing)
    return save_imported(folder, experiment, params, prompt=prompt)


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
        experiment: what they belong to.
        path: of the file, for a hint on what is missing.
        zero_missing: whether biases that are missing are taken as zeros.
        assumed: whether the vocabulary was made from the corpus, for a hint on what is wrong.

    Returns:
        The parameters, and what was assumed, a sentence each.

    Raises:
        WeightMapError: if weights are missing, unknown, of another shape, NaN or infinite; all
            problems are named.
    """
    likes = named_leaves(jax.eval_shape(experiment.fresh_state).params)
    shapes = {name: leaf.shape for name, leaf in likes.items()}
    weight_map = WeightMap.for_flax(likes)
    tensors = _as_model(found.tensors, weight_map.keys)
    notes = []
    if zero_missing:
        zeros = weight_map.to_torch({name: np.zeros(shape) for name, shape in shapes.items()})
        for name in weight_map.keys:
            if name not in tensors and _is_bias(name):
                tensors[name] = zeros[name]
                notes.append(f"{name} is missing and taken as zeros.")
    try:
        weights = weight_map.from_torch(tensors, like=shapes)
    except WeightMapError as error:
        hints = _hints(found, experiment, tensors, weight_map.keys, path=path, assumed=assumed)
        raise WeightMapError(" ".join([str(error), *hints])) from error
    dtype = experiment.dtype
    leaves = [jnp.asarray(weights[name], dtype) for name in likes]
    structure = jax.tree.structure(jax.eval_shape(experiment.fresh_state).params)
    return jax.tree.unflatten(structure, leaves), notes


def save_imported(
    folder: Path | str, experiment: Experiment, params: Any, *, prompt: str = ""
) -> Run:
    """Make a run that starts from `params`.

    Raises:
        RunError: if the folder cannot be made.
    """
    run = Run.create(folder, experiment, prompt=prompt)
    state = experiment.fresh_state()._replace(params=params)
    progress = Progress(state, Position(), experiment.source.steps(0))
    try:
        run.save("last", progress, float("inf"))
    except BaseException:  # without its weights it would be trained from the beginning
        shutil.rmtree(run.folder)
        raise
    return run


def _as_model(tensors: Mapping[str, np.ndarray], keys: Sequence[str]) -> dict[str, np.ndarray]:
    """The weights under the names of one model, where it has others for the same thing."""
    found = dict(tensors)
    if TIED_BIAS in keys:
        if OUTPUT_BIAS in found:
            found[TIED_BIAS] = found.pop(OUTPUT_BIAS)
        embedding = found.get(EMBEDDING)
        if embedding is not None and np.array_equal(embedding, found.get(OUTPUT, embedding)):
            found.pop(OUTPUT, None)
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
    missing = [name for name in keys if name not in tensors]
    known = experiment.vocabulary.size
    if found.vocabulary is not None and found.vocabulary != known:
        whose = f"that of the corpus {experiment.config.corpus}" if assumed else "the one given"
        hints.append(
            f"The weights are for {found.vocabulary} tokens, and the vocabulary ({whose}) has "
            f"{known}: give the right one, --vocabulary FILE, a JSON list of the "
            f"{found.vocabulary} tokens in their order."
        )
    if missing and all(map(_is_bias, missing)):
        hints.append("Missing biases are taken as zeros with --zero-missing.")
    if any(name not in keys for name in tensors):
        hints.append("What the model does not need is left out with --drop NAME.")
    if missing and not all(map(_is_bias, missing)):
        hints.append("--list shows what is in the file, and --rename THEIRS=OURS names it.")
    shard = re.search(r"-\d+-of-(\d+)\.", Path(path).name)
    if missing and shard is not None and int(shard[1]) > 1:
        hints.append(f"This file is one of {int(shard[1])} shards: import their .index.json.")
    return hints
