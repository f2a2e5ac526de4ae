"""The course's recipes on the course's text reach the published losses. Slow: minutes each.

Run them with ./scripts/test -m slow
"""

import pytest

from jaxrnn import RECIPES
from jaxrnn.runs.checkpointing import train_experiment
from jaxrnn.runs.experiment import prepare

BAND = 0.02
"""Nats: what the project promises, twice the spread between seeds."""
LEAK = 0.1
"""Nats: a little better than published is fine; so much better would mean that targets leak."""


def validated_rows(name):
    """The rows of history at the ends of epochs, one after the other as training gets there."""
    for progress in train_experiment(prepare(RECIPES[name].config)):
        if progress.row is not None and progress.row.validation is not None:
            yield progress.row


@pytest.mark.slow
@pytest.mark.usefixtures("course_corpus")
@pytest.mark.parametrize(
    "name", ["loop", "concat", "rnn", "many-outputs", "identity", "stateful-rnn", "stateful-gru"]
)
def test_recipe_ends_at_the_published_loss(name):
    losses = [row.validation for row in validated_rows(name)]
    published = RECIPES[name].validation
    assert len(losses) == max(published)
    assert published[len(losses)] - LEAK < losses[-1] < published[len(losses)] + BAND


@pytest.mark.slow
@pytest.mark.usefixtures("course_corpus")
def test_a_qrnn_of_as_many_parameters_ends_as_low_as_the_stateful_rnn():
    losses = [row.validation for row in validated_rows("stateful-qrnn")]
    assert losses[-1] < 1.50


@pytest.mark.usefixtures("course_corpus")
@pytest.mark.slow
def test_first_epoch_of_the_stateful_rnn_is_the_published_one():
    recipe, row = RECIPES["stateful-rnn"], next(validated_rows("stateful-rnn"))
    assert row.validation == pytest.approx(recipe.validation[1], abs=BAND)
    assert row.train == pytest.approx(recipe.train[1], abs=BAND)
