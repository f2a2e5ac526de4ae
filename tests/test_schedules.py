"""Learning rates, step by step."""

import math

import numpy as np
import pytest

from jaxrnn.training.schedules import Block, CosineRestarts, OneCycle, parse_schedule


def plain_cosine_restarts(base, steps_per_epoch, count):
    """The course's callback, one step at a time."""
    rates, i, n = [], 0, steps_per_epoch
    for iteration in range(count):
        if iteration < steps_per_epoch / 20:
            rates.append(base / 100)
        else:
            rates.append(base / 2 * (1 + math.cos(math.pi * i / n)))
        i += 1
        if i == n:
            i, n = 0, 2 * n
    return rates


@pytest.mark.parametrize("steps_per_epoch", [1, 7, 963])
def test_cosine_restarts_are_the_courses(steps_per_epoch):
    phase = CosineRestarts(1e-2, 4)
    count = phase.epochs * steps_per_epoch
    assert phase.epochs == 15
    expected = plain_cosine_restarts(1e-2, steps_per_epoch, count)
    rates = phase.rates(np.arange(count), steps_per_epoch)
    np.testing.assert_allclose(rates, expected, rtol=1e-12, atol=1e-18)
    np.testing.assert_array_equal(
        phase.rates(np.arange(count)[count // 2 :], steps_per_epoch), rates[count // 2 :]
    )


def plain_one_cycle(base, count):
    """Smith and Topin's policy with fastai's defaults, step by step."""
    rates = []
    for step in range(count):
        place = step / count
        if place < 0.3:
            begin, end, share = base / 25, base, place / 0.3
        else:
            begin, end, share = base, base / 1e4, (place - 0.3) / 0.7
        rates.append(end + (begin - end) * (1 + math.cos(math.pi * share)) / 2)
    return rates


def test_one_cycle_goes_up_and_down():
    rates = OneCycle(10, 1.0).rates(np.arange(1000), 100)
    np.testing.assert_allclose(rates, plain_one_cycle(1.0, 1000), rtol=1e-12)
    assert rates.argmax() == 300
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[300] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(1e-4, abs=1e-4)
    assert (np.diff(rates[:300]) > 0).all()
    assert (np.diff(rates[300:]) < 0).all()


def test_schedules_are_read_as_written():
    schedule = parse_schedule("2 x 1e-2,sgdr(1e-2, 2) , one-cycle( 3 ,0.5), 1x0")
    assert schedule.phases == (
        Block(2, 1e-2),
        CosineRestarts(1e-2, 2),
        OneCycle(3, 0.5),
        Block(1, 0.0),
    )
    assert schedule.epochs == 9
    assert [schedule.phase(e)[1] for e in range(9)] == [0, 0, 2, 2, 2, 5, 5, 5, 8]
    with pytest.raises(IndexError, match="9 epochs"):
        schedule.phase(9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Cannot read ''"),
        ("4", "Cannot read '4'"),
        ("4 x", "must be a number, got ''"),
        ("0 x 1e-3", "from 1 to .* got '0'"),
        ("-1 x 1e-3", "got '-1'"),
        ("1.5 x 1e-3", "got '1.5'"),
        ("4 x -1", "at least 0"),
        ("4 x nan", "finite, got nan"),
        ("4 x inf", "finite, got inf"),
        ("sgdr(1e-2)", "Cannot read 'sgdr"),
        ("sgdr(1e-2, 13)", "from 1 to 12"),
        ("linear(1, 2)", "Cannot read 'linear"),
        ("4 x 1e-3,", "Cannot read ''"),
    ],
)
def test_unreadable_schedules_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_schedule(text)
