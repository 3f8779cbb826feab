"""Progress where nobody watches a bar: a line a minute, with what is left."""

import io
import sys

import pytest

from ibviz import progress as told
from ibviz.progress import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by as many seconds as each item takes."""
    now = [100.0]
    monkeypatch.setattr(told.time, "monotonic", lambda: now[0])

    def slow(count: int, seconds: float):
        for item in range(count):
            now[0] += seconds
            yield item

    return slow


def test_without_a_terminal_a_line_a_minute_says_how_far_it_is(clock, capsys):
    assert list(progress(clock(10, 25.0), "epoch 1", total=10)) == list(range(10))
    assert capsys.readouterr().err.splitlines() == [
        "ibviz: epoch 1: 2 of 10 after 1 min, about 5 min left",
        "ibviz: epoch 1: 5 of 10 after 2 min, about 2 min left",
        "ibviz: epoch 1: 8 of 10 after 4 min, about 1 min left",
    ]


def test_a_length_that_nobody_knows_has_no_time_left(clock, capsys):
    list(progress(clock(3, 3700.0), "files"))
    assert capsys.readouterr().err.splitlines() == [
        "ibviz: files: 1 after 2 h 3 min",
        "ibviz: files: 2 after 3 h 5 min",
    ]


def test_quick_work_and_what_is_not_shown_print_nothing(clock, capsys):
    list(progress(clock(10, 5.0), "quick", total=10))
    list(progress(clock(10, 500.0), "hidden", total=10, show=False))
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_it_is_a_bar_that_goes_away(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress([1, 2], "count")) == [1, 2]
    assert "count" in terminal.getvalue()
    assert "\n" not in terminal.getvalue()
