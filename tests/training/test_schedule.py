import pytest

from ibviz.config import Halve, TrainingConfig
from ibviz.training.schedule import learning_rate

# The authors' schedules as they were applied, epochs counted from 1.
CONTINUOUS = {1: 0.01, 2: 0.1, 24: 0.1, 25: 0.05, 49: 0.05, 50: 0.025, 175: 0.1 / 128, 199: 0.1 / 128, 200: 0.1 / 256}
QUANTISED = {1: 0.001, 2: 0.01, 3: 0.1, 24: 0.1, 25: 0.05, 199: 0.1 / 128, 200: 0.1 / 256}


@pytest.mark.parametrize(("warmup", "table"), [((0.01,), CONTINUOUS), ((0.001, 0.01), QUANTISED)])
def test_schedule_is_the_authors(warmup, table):
    config = TrainingConfig(lr=0.1, warmup=warmup, schedule=Halve(every=25))
    assert {epoch: learning_rate(epoch, config) for epoch in table} == pytest.approx(table)
