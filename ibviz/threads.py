"""Decision, before torch loads, how long the threads of OpenMP spin while they wait for each other.

Alone, a long spin can be fastest. Beside processes that need the cores, waiting threads take them from those they wait
for (measured in evaluation/results/neighbours). The choice changes seconds and no result.
"""

import os
import time
from collections.abc import MutableMapping
from pathlib import Path

_CHOSEN_BY_USER = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
_SHORT = "1000"  # spins; libgomp's own number is 300,000
_LOOKS, _PAUSE = 3, 0.005  # a process that is short-lived is not seen every time


def spin_less_if_busy(environment: MutableMapping[str, str], running: Path = Path("/proc/loadavg")) -> None:
    """Set `GOMP_SPINCOUNT` if other processes need some of the cores, unless the user has set a variable of OpenMP.

    Args:
        environment: Variables of this process.
        running: The kernel's file that counts the threads that run or wait for a core; without it nothing is set.
    """
    if not any(name in environment for name in _CHOSEN_BY_USER) and running.exists() and _is_busy(running):
        environment["GOMP_SPINCOUNT"] = _SHORT


def _is_busy(running: Path) -> bool:
    """Return True if the threads that other processes run leave fewer cores than this process may use."""
    cores = os.cpu_count() or 1
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    for look in range(_LOOKS):
        time.sleep(_PAUSE if look else 0)
        others = int(running.read_text().split()[3].partition("/")[0]) - 1  # this thread counts as well
        if others + own <= cores:
            return False
    return True
