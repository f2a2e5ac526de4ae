"""Recipes and configurations: the course's table as data, and what is refused."""

import jax
import numpy as np
import pytest

from jaxrnn import RECIPES, BpttStream, WindowSet
from jaxrnn.runs.config import Config
from jaxrnn.runs.experiment import prepare
from jaxrnn.training.schedules import parse_schedule


@pytest.mark.parametrize("name", RECIPES)
def test_published_losses_belong_to_epochs_of_the_schedule(name):
    recipe = RECIPES[name]
    epochs = parse_schedule(recipe.config.schedule).epochs
    assert all(1 <= epoch <= epochs for epoch in [*recipe.train, *recipe.validation])
    assert Config.from_dict(recipe.config.to_dict()) == recipe.config


def test_the_courses_table():
    table = {
        "three-characters": ("Char3Model", 512, 2, None),
        "loop": ("CharLoopModel", 512, 2, 1.751),
        "concat": ("CharLoopConcatModel", 512, 2, 1.699),
        "rnn": ("CharRnn", 512, 6, 1.504),
        "many-outputs": ("CharSeqRnn", 512, 5, 2.001),
        "identity": ("CharSeqRnn", 512, 8, 1.838),
        "stateful-rnn": ("CharSeqStatefulRnn", 64, 8, 1.486),
        "stateful-rnn-2": ("CharSeqStatefulRnn2", 64, 4, 1.542),
        "stateful-gru": ("CharSeqStatefulGRU", 64, 9, 1.370),
        "stateful-lstm": ("CharSeqStatefulLSTM", 64, 2, 1.582),
        "stateful-lstm-15": ("CharSeqStatefulLSTM", 64, 17, 1.315),
        "stateful-lstm-63": ("CharSeqStatefulLSTM", 64, 80, 1.2524),
        "early-lstm": ("CharSeqStatefulLSTM", 64, 9, 1.358),
        "early-lstm-31": ("CharSeqStatefulLSTM", 64, 33, 1.263),
    }
    our_own = ("python-docs", "stateful-qrnn")
    assert [name for name in RECIPES if name not in our_own] == list(table)
    for name, (model, batch, epochs, last) in table.items():
        config = RECIPES[name].config
        assert (config.model, config.batch_size) == (model, batch)
        assert parse_schedule(config.schedule).epochs == epochs
        assert list(RECIPES[name].validation.values())[-1:] == ([last] if last else [])


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_a_model_of_its_sizes(name, tmp_path):
    (tmp_path / "text").write_text("some words to read, over and over again\n" * 600)
    config = RECIPES[name].config
    config = Config.from_dict(config.to_dict() | {"corpus": str(tmp_path / "text")})
    experiment = prepare(config)
    state = jax.eval_shape(experiment.fresh_state)
    assert state.params["e"]["embedding"].shape == (
        len(experiment.vocabulary),
        config.embedding_size,
    )
    assert state.params["l_out"]["kernel"].shape == (config.hidden_size, len(experiment.vocabulary))
    streams = experiment.model.reads == "streams"
    assert isinstance(experiment.source, BpttStream if streams else WindowSet)
    assert experiment.source.batch_size == config.batch_size


def test_the_same_seed_makes_the_same_start():
    def start(seed):
        experiment = prepare(Config(corpus="human-numbers", hidden_size=8, seed=seed))
        params = jax.tree.leaves(experiment.fresh_state().params)
        return np.concatenate([np.ravel(p) for p in params]), experiment.source.windows(0, 0, 9)

    (one, read), (two, again), (other, elsewhere) = start(1), start(1), start(2)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(read.lengths, again.lengths)
    assert (one != other).mean() > 0.99
    assert read.lengths.tolist() != elsewhere.lengths.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"bptt": 0}, "bptt must be at least 1, got 0"),
        ({"hidden_size": -1}, "hidden_size must be at least 1"),
        ({"model": "CharTransformer"}, "model must be one of Char3Model"),
        ({"model": "CharLM", "cell": "transformer"}, "cell must be one of tanh, relu, gru, lstm"),
        (
            {"num_layers": 2},
            "CharSeqStatefulGRU has no option num_layers; it is for .*LSTM and CharLM",
        ),
        ({"identity": True}, "no option identity; it is for CharSeqRnn"),
        ({"model": "CharLM", "tied": True}, "embedding_size = hidden_size, got 42 and 256"),
        ({"model": "CharLM", "dropout": 0.5}, "needs num_layers of at least 2"),
        ({"model": "CharLM", "num_layers": 2, "dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"model": "Char3Model"}, "bptt must be 3, got 8"),
        ({"schedule": "fast"}, "Cannot read 'fast'"),
        ({"clip": 0.0}, "clip must be above 0"),
        ({"optimizer": "lion"}, "optimizer must be one of"),
        ({"carry": "always"}, "carry must be one of never, epoch, evaluation"),
        ({"validation_fraction": 1.0}, r"validation_fraction must lie in \(0, 1\)"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"seed": -1}, "seed must lie in"),
        ({"min_frequency": 0}, "min_frequency must be at least 1"),
    ],
)
def test_bad_configurations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)


def test_a_configuration_of_other_fields_is_refused():
    values = Config().to_dict()
    with pytest.raises(ValueError, match=r"missing \['batch_size'\], unknown \['bach'\]"):
        Config.from_dict({("bach" if k == "batch_size" else k): v for k, v in values.items()})
