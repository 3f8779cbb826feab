"""The doctor sees what is wrong."""

import pytest

from ibviz.workflows import doctor


def test_all_is_well_here():
    assert all(line.sound for line in doctor.diagnose())


def test_a_metric_that_computes_something_else_is_seen(monkeypatch):
    monkeypatch.setattr(doctor, "EXPECTED", {"deletion": 0.3, "insertion": 41.5 / 60})
    assert not doctor.self_test().sound


@pytest.mark.parametrize("name", ["Chromium", "LaTeX", "compiler"])
def test_programs_that_are_not_there_are_said_and_no_fault(monkeypatch, name):
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    [line] = [line for line in doctor.diagnose() if line.name == name]
    assert line.result.startswith("not installed")
    assert line.sound
