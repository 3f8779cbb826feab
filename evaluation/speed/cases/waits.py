"""How often curves would make the processor wait for a GPU: numbers that the host reads from tensors, by a profiler.

A count that grows with the steps is a wait inside the loop over masked images. It is the same on every device.
"""

import torch

from evaluation.speed.cases.curves import in_cells, ours, scene
from evaluation.speed.records import Case, Row, Run, Settings
from evaluation.speed.timing import seconds
from ibviz.metrics import planned_states

READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2", "aten::unique_dim")
STEPS = (8, 16, 32)


def waits(run: Run) -> int:
    """Return the number of operations of a run whose result the host has to know.

    >>> waits(lambda: [torch.ones(1).item(), torch.ones(1) + 1])
    1
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        run()
    return sum(event.count for event in seen.key_averages() if event.key in READS)


def count(case: Case, settings: Settings) -> list[Row]:
    given, rows = scene("resnet20", settings.device, 8), []
    for steps in STEPS:
        protocol = in_cells(steps=steps)
        run = ours(given, protocol)
        spent = seconds(run, settings.device)
        passes = -(-planned_states(given.maps, given.size, protocol) // given.pace.batch_size)
        note = f"{steps} steps: {waits(run)} waits in {passes} passes"
        rows.append(Row(case.name, "ibviz", "ours", "resnet20", [spent], note=note, size=steps))
    return rows


CASES = [Case("waits/curves", count)]
