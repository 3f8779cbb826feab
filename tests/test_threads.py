"""The command line lets waiting threads spin less where others need the cores, and only there."""

import os
import subprocess
import sys

import pytest

from ibviz.threads import spin_less_if_busy

HERE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
FREE = (os.cpu_count() or 1) - HERE  # cores that this process may not use


@pytest.mark.parametrize(
    ("others", "given", "expected"),
    [
        (FREE, {}, {}),
        (FREE + 1, {}, {"GOMP_SPINCOUNT": "1000"}),
        (FREE + 1, {"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        (FREE + 1, {"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        (FREE + 1, {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "1"}),
    ],
)
def test_threads_spin_less_if_others_need_a_core_and_the_user_has_not_chosen(others, given, expected, tmp_path):
    counts = tmp_path / "loadavg"
    counts.write_text(f"0.50 0.40 0.30 {others + 1}/86 10310\n")
    environment = dict(given)
    spin_less_if_busy(environment, counts)
    assert environment == expected


def test_without_the_kernels_file_nothing_is_set(tmp_path):
    environment: dict[str, str] = {}
    spin_less_if_busy(environment, tmp_path / "absent")
    assert environment == {}


def test_the_command_line_chooses_before_torch_is_loaded():
    script = (
        "import sys, ibviz.threads, ibviz.__main__ as program\n"
        "seen = []\n"
        "program.spin_less_if_busy = lambda environment: seen.append('torch' in sys.modules)\n"
        "sys.argv = ['ibviz', '--help']\n"
        "try:\n    program.main()\nexcept SystemExit:\n    pass\n"
        "sys.exit(seen != [False])\n"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0
