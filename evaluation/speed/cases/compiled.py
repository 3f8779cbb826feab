"""Deletion and insertion with the network compiled, beside the network as it is, and what compiling costs."""

import time
from dataclasses import replace
from functools import partial
from statistics import median

from evaluation.speed.cases.curves import in_cells, ours, scene
from evaluation.speed.records import Case, Contestant, Row, Settings
from evaluation.speed.timing import raced
from ibviz.benchmark.compiled import compiled
from ibviz.benchmark.throughput import in_format
from ibviz.metrics import planned_states

COUNTS = {"resnet20": 64, "mobilenet_v2": 4}


def compare(network: str, case: Case, settings: Settings) -> list[Row]:
    """Time both, and say after how many masked images compiling has paid."""
    given, protocol = scene(network, settings.device, COUNTS[network]), in_cells()
    passes = planned_states(given.maps, given.size, protocol)
    with in_format(given.model, given.pace.memory_format):
        begun = time.perf_counter()
        with compiled(given.model, given.formatted, given.pace.batch_size) as forward:
            spent = time.perf_counter() - begun
            if forward is None:
                raise RuntimeError("the network cannot be compiled here")
            contestants = [
                Contestant("compiled", "ours", ours(given, protocol, forward), passes),
                Contestant("as it is", "rival", ours(given, protocol), passes),
            ]
            fast, plain = raced(case, network, contestants, settings, unit="masked image")
    saved = (median(plain.seconds) - median(fast.seconds)) / passes
    paid = f"paid after {spent / saved:,.0f} masked images" if saved > 0 else "never paid"
    return [replace(fast, note=f"{spent:.0f} s to compile, {paid}"), plain]


CASES = [Case(f"compiled/{network}", partial(compare, network), by_name_only=True) for network in COUNTS]
