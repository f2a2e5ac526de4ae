"""The learning-rate range test: what it suggests, and when it suggests nothing."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from jaxrnn.training import range_test as module
from jaxrnn.training.range_test import RangeTest, entropy

RATES = np.geomspace(1e-5, 10, 320)


def curve(fall_at, rise_at=None, *, noise=0.02, rates=RATES, **options):
    """A loss that falls from 4 to 2 around one rate, and rises again around another."""
    x = np.log10(rates)
    losses = 4 - 2 / (1 + np.exp(-6 * (x - np.log10(fall_at))))
    if rise_at is not None:
        losses += 5 / (1 + np.exp(-6 * (x - np.log10(rise_at))))
    losses += noise * np.random.default_rng(0).normal(size=len(x))
    return RangeTest(rates.tolist(), losses.tolist(), **options)


@pytest.mark.parametrize("fall_at", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("steps", [40, 320, 5_000])
def test_the_steepest_fall_is_found_through_noise(fall_at, steps):
    rates = np.geomspace(1e-5, 10, steps)
    found = curve(fall_at, 1.0, rates=rates).suggestion().rate
    assert abs(np.log10(found / fall_at)) < 0.25


def test_the_noise_of_the_first_steps_is_no_fall():
    test = curve(1e-3, 1.0)
    test.losses[:3] = [4.4, 4.2, 3.9]
    assert abs(np.log10(test.suggestion().rate / 1e-3)) < 0.25


def test_a_loss_that_explodes_does_not_hide_the_fall():
    test = curve(1e-2, 1.0, diverged=True)
    test.losses[-3:] = [1e4, 1e20, 1e30]
    assert abs(np.log10(test.suggestion().rate / 1e-2)) < 0.25


def test_what_the_frequencies_explain_is_no_reason_for_a_rate():
    first, second = curve(1e-4, noise=0).losses, curve(1e-2, 1.0, noise=0).losses
    losses = [2 * a + b / 2 for a, b in zip(first, second, strict=True)]  # 10, then 6, then 5
    test = RangeTest(RATES.tolist(), losses)
    assert abs(np.log10(test.suggestion().rate / 1e-4)) < 0.25
    test = test._replace(by_frequency=6.05)
    assert abs(np.log10(test.suggestion().rate / 1e-2)) < 0.25
    test = test._replace(by_frequency=4.0)  # never reached
    assert abs(np.log10(test.suggestion().rate / 1e-4)) < 0.25


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (curve(5.0), "still falling at the highest rate tried, 1.0e+01: raise --highest"),
        (curve(1e-5, 1.0), "fastest at the lowest rate tried, 1.0e-05: lower --lowest"),
        (curve(1e3, 1.0), "falls at no rate tried, from 1.0e-05 on: lower --lowest"),
        (curve(1e3), "hardly changes at any rate tried, up to 1.0e[+]01: raise --highest"),
        (RangeTest([1e-5], [4.0]), "not finite from the first steps on"),
    ],
    ids=["falling", "fallen", "rising", "flat", "short"],
)
def test_an_end_of_the_range_is_not_recommended(test, message):
    rate, sentence = test.suggestion()
    assert rate is None
    assert re.search(message.replace("e+01:", "e[+]01:"), sentence)


def test_a_guess_by_frequency_loses_the_entropy():
    assert entropy(np.array([3, 3, 5, 7])) == pytest.approx(1.5 * np.log(2))


def test_it_ends_before_the_first_average_that_is_far_above_the_lowest(monkeypatch):
    losses = [4.0 * 0.8**k for k in range(30)] + [0.01 * 1.5**k for k in range(60)]
    made = iter(losses)

    def scripted(model, optimizer, state, windows, rates, count):
        found = [next(made) if k < count else np.nan for k in range(len(rates))]
        return state, SimpleNamespace(loss=np.array(found))

    monkeypatch.setattr(module, "train_steps", scripted)
    windows = SimpleNamespace(with_tokens=lambda tokens: None)
    source = SimpleNamespace(
        tokens=np.arange(4), steps=lambda epoch: 7, windows=lambda epoch, first, count: windows
    )
    state = SimpleNamespace(params={"w": np.zeros(1, np.float32)})
    options = {"lowest": 1e-5, "highest": 10, "steps": len(losses)}
    curves = list(module.range_test(None, source, None, state, **options))

    averages = []
    for n in range(1, len(losses) + 1):
        weights = module.AVERAGE_DECAY ** np.arange(n)[::-1]
        averages.append(np.sum(weights * losses[:n]) / np.sum(weights))
    end = next(
        n for n in range(len(losses)) if averages[n] > module.DIVERGED * min(averages[: n + 1])
    )
    assert curves[-1].diverged
    assert not any(curve.diverged for curve in curves[:-1])
    np.testing.assert_allclose(curves[-1].losses, averages[:end], rtol=1e-12)
    np.testing.assert_allclose(curves[-1].rates, np.geomspace(1e-5, 10, len(losses))[:end])
