"""What a run shows while it trains: numbers that are no numbers are shown as none."""

import math

import pytest

from jaxrnn.cli import watch
from jaxrnn.runs.plots import losses_picture
from jaxrnn.training.display import Display, epoch_line
from jaxrnn.training.history import Position, Progress, Row
from jaxrnn.training.schedules import parse_schedule
from jaxrnn.training.timetable import Budget

NAN, INF = math.nan, math.inf
NO_NUMBERS = (NAN, INF, -INF)


def row(validation=2.0, epoch=1.0, **values):
    given = {
        "step": 10, "train": 2.5, "gradient_norm": 1.0, "rate": 0.1, "update_ratio": 1e-3,
        "characters_per_second": 1e5,
    }  # fmt: skip
    made = Row(**(given | values | {"epoch": epoch}))
    return made if validation is None else made.with_validation(validation)


class Shown:
    """A screen that keeps what it is given."""

    def __init__(self):
        self.lines, self.notes = [], []

    def line(self, text):
        self.lines.append(text)

    def show(self, what, share, note=""):
        assert 0 <= share <= 1
        self.notes.append(note)


def test_a_line_of_an_epoch_keeps_its_columns():
    usual = epoch_line(row())
    assert usual.split() == ["1", "2.500", "2.0000", "2.8854", "7.389", "100,000"]
    for value in (NAN, INF):
        line = epoch_line(row(value, train=value, characters_per_second=None))
        assert line.split() == ["1", "-", "-", "-", "-", "-"]
        assert len(line) == len(usual)
    large = epoch_line(row(800.0))  # its perplexity is beyond all numbers
    assert large.split() == ["1", "2.500", "800.0000", "1154.1560", "-", "100,000"]


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("validating", [None, 0.5])
def test_the_bar_shows_no_nonsense(value, validating):
    screen = Shown()
    display = Display(screen, parse_schedule("3 x 1e-3"), Budget(), "char")
    positions = (Position(), Position(average=value, averaged=3), Position(seconds=value))
    for position in positions:
        display.show(Progress(None, position, 5, validating=validating))
    display.show(Progress(None, Position(), 5, row(value, train=value), ends_section=True))
    for note in screen.notes:
        assert note.startswith("loss -")
        assert "nan" not in note
        assert "inf" not in note
    head, line = screen.lines
    assert head.startswith("epoch")
    assert len(line) == len(head)


def test_a_run_is_worse_only_by_losses_that_are_numbers():
    for value in NO_NUMBERS:
        assert watch._worse([row(value), row(2.0, 2.0)], 9) is None
        assert watch._worse([row(2.0), row(value, 2.0)], 9) is None
        assert watch._worse([row(value), row(value, 2.0)], 9) is None
        rows = [row(2.0), row(value, 2.0), row(3.0, 3.0), row(value, 4.0)]
        assert "2.0000 after epoch 1, 3.0000 after epoch 3" in watch._worse(rows, 9)
    assert watch._worse([row(None), row(2.0, 2.0), row(1.0, 3.0)], 9) is None
    assert watch._worse([], 9) is None


def test_a_run_of_one_validation_is_worse_than_chance_or_not():
    assert watch._worse([row(math.log(9))], 9) is None
    assert "26.7000 after epoch 1, where a guess among 9 tokens has 2.1972" in watch._worse(
        [row(26.7)], 9
    )


@pytest.mark.sample(2)
@pytest.mark.parametrize("value", [*NO_NUMBERS, 1e308, -1e308])
def test_a_picture_is_drawn_of_the_losses_that_are_numbers(value):
    rows = [row(2.0), row(value, 2.0, train=value), row(1.5, value), row(1.0, 4.0)]
    expected = losses_picture([row(2.0), row(None, 2.0, train=NAN), row(1.0, 4.0)], title="t")
    assert losses_picture(rows, title="t") == expected
    assert losses_picture([], title="t").startswith(b"\x89PNG")


def test_a_count_that_no_float_holds_is_no_row():
    with pytest.raises(ValueError, match="step of a row makes no sense"):
        row(step=10**400)
