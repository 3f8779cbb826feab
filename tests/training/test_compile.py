"""`compile = true`: the steps of the eager network, compiled once; and the logits of a network with attention."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

minutes = pytest.mark.skipif("IBVIZ_COMPILE" not in os.environ, reason="compiles C++ for a minute: set IBVIZ_COMPILE=1")


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=minutes)])
def test_compiled_steps_have_the_losses_of_eager_ones_and_are_compiled_once(backend):
    command = [sys.executable, Path(__file__).with_name("compiled.py"), backend]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    (eager, none), (compiled, graphs), logits = map(json.loads, done.stdout.splitlines())
    torch.testing.assert_close(torch.tensor(compiled), torch.tensor(eager), rtol=1e-4, atol=1e-5)
    assert len({total for total, *_ in compiled}) == 4
    assert none == [0] * 4
    assert graphs == [graphs[0]] * 4
    assert 0 < graphs[0] <= 10  # two draws, which are not compiled, part the network into so many
    torch.testing.assert_close(*map(torch.tensor, logits), rtol=1e-4, atol=1e-5)
