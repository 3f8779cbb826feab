import pytest

from ibviz.training.recipe import Cosine, Halve, Milestones, StepDecay, TrainingConfig
from ibviz.training.schedule import learning_rate

# The authors' schedules as they were applied, epochs counted from 1.
CONTINUOUS = {1: 0.01, 2: 0.1, 24: 0.1, 25: 0.05, 49: 0.05, 50: 0.025, 175: 0.1 / 128, 199: 0.1 / 128, 200: 0.1 / 256}
QUANTISED = {1: 0.001, 2: 0.01, 3: 0.1, 24: 0.1, 25: 0.05, 199: 0.1 / 128, 200: 0.1 / 256}
WIDE = {1: 0.1, 60: 0.1, 61: 0.02, 120: 0.02, 121: 0.004, 160: 0.004, 161: 0.0008, 200: 0.0008}
BIRDS = {1: 1e-4, 2: 1e-4, 3: 0.97e-4, 4: 0.97e-4, 5: 0.97**2 * 1e-4, 200: 0.97**99 * 1e-4}


@pytest.mark.parametrize(
    ("config", "table"),
    [
        (TrainingConfig(lr=0.1, warmup=(0.01,), schedule=Halve(every=25)), CONTINUOUS),
        (TrainingConfig(lr=0.1, warmup=(0.001, 0.01), schedule=Halve(every=25)), QUANTISED),
        (TrainingConfig(lr=0.1, schedule=Milestones(kind="milestones", after=(60, 120, 160), factor=0.2)), WIDE),
        (TrainingConfig(lr=1e-4, schedule=StepDecay(kind="step", every=2, factor=0.97)), BIRDS),
    ],
    ids=["VGG-32", "VGG-32 quantised", "WRN-28-10", "CUB"],
)
def test_schedule_is_the_authors(config, table):
    assert {epoch: learning_rate(epoch, config) for epoch in table} == pytest.approx(table)
    assert learning_rate(3, config, within=0.9) == learning_rate(3, config)


def test_cosine_falls_within_epochs_from_the_rate_after_warm_up_to_zero():
    config = TrainingConfig(epochs=10, lr=0.8, warmup=(0.1, 0.4), schedule=Cosine(kind="cosine"))
    assert [learning_rate(epoch, config) for epoch in (1, 2, 3)] == [0.1, 0.4, 0.8]
    assert learning_rate(7, config) == pytest.approx(0.4)  # half the way
    assert learning_rate(4, config, within=0.5) == pytest.approx(0.4 * (1 + 0.8314696))  # cos(pi 1.5 / 8)
    assert learning_rate(10, config, within=1.0) == pytest.approx(0, abs=1e-15)
