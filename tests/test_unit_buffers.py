"""Running statistics that move otherwise: another momentum, or the biased variance."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from parity.diagnosis.training_steps import diagnose_training
from parity.diagnosis.update_evidence import Case
from parity.measures.envelopes import Center
from parity.measures.training_loops import Step

N = 6
START = {"running_mean": np.array([0.1, 0.2]), "running_var": np.array([1.0, 2.0])}
RNG = np.random.default_rng(1)
BATCHES = [RNG.normal(size=(N, 2)) for _ in range(3)]
MOMENTUM = 0.25


def statistics(*, mean_momentum=MOMENTUM, var_momentum=MOMENTUM, divided_by=N - 1, first=0):
    """The running statistics after each batch; from `first` on as the arguments say."""
    mean, var = START["running_mean"], START["running_var"]
    steps = []
    for t, batch in enumerate(BATCHES):
        own = t >= first
        m, v = (mean_momentum, var_momentum) if own else (MOMENTUM, MOMENTUM)
        square = ((batch - batch.mean(0)) ** 2).sum(0) / (divided_by if own else N - 1)
        mean = (1 - m) * mean + m * batch.mean(0)
        var = (1 - v) * var + v * square
        steps.append(Step(1.0, {"running_mean": mean, "running_var": var}))
    return steps


def diagnosed(got, module=None):
    center = Center(START, statistics(), [], "float64")
    module = module or torch.nn.BatchNorm1d(2, momentum=MOMENTUM)
    loop = SimpleNamespace(module=module)
    case = Case(loop, START, BATCHES, center, got, 0, dict)
    return diagnose_training(case, exact_gradients=True)


@pytest.mark.parametrize("first", [0, 1])
def test_another_momentum_is_a_factor_of_the_moves(first):
    found = diagnosed(statistics(mean_momentum=0.5, first=first))
    assert found.place == f"step {first + 1}, the buffer running_mean"
    assert found.cause == "it moves 2 times as far: another momentum"
    found = diagnosed(statistics(mean_momentum=0.125, var_momentum=0.125, first=first))
    assert found.place == f"step {first + 1}, the buffer running_mean, running_var"
    assert found.cause == "the running mean moves 1/2 times as far: another momentum"
    # The variance with another denominator is not parallel.
    found = diagnosed(statistics(mean_momentum=0.5, var_momentum=0.5, divided_by=N, first=first))
    assert found.cause == "the running mean moves 2 times as far: another momentum"


@pytest.mark.parametrize("first", [0, 1, 2])
def test_the_biased_variance_is_named_with_what_it_is_taken_over(first):
    found = diagnosed(statistics(divided_by=N, first=first))
    assert found.place == f"step {first + 1}, the buffer running_var"
    where = f"(axis 0 of {BATCHES[0].shape})"
    assert found.cause == (
        f"the variance is divided by {N}, PyTorch's by {N - 1} {where}: the biased one"
    )


def test_what_neither_explains_has_no_cause():
    assert diagnosed(statistics(divided_by=N + 1)).cause == ""
    # A mean that is not parallel is no momentum, whatever the variance is.
    got = statistics()
    for step in got:
        step.weights["running_mean"] = step.weights["running_mean"] + np.array([0.3, 0.0])
    assert diagnosed(got).cause == ""


def test_a_module_without_momentum_has_no_running_average():
    module = torch.nn.BatchNorm1d(2, momentum=None)
    assert diagnosed(statistics(divided_by=N), module).cause == ""
    inner = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2, momentum=MOMENTUM))
    # The names of its buffers are those of the state.
    inner.named_buffers = inner[1].named_buffers
    assert "biased" in diagnosed(statistics(divided_by=N), inner).cause
