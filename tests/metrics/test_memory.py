"""The memory of one call is that of its parts, however many images it is given."""

import subprocess
import sys

import pytest

# All images are one image repeated, which takes no memory of its own: what grows is the engine's. Maps and results,
# about a kilobyte an image, are counted in.
PEAK = """
import sys
from pathlib import Path

import torch

from ibviz.metrics import CurveProtocol, faithfulness, scorer

torch.set_num_threads(1)
count = int(sys.argv[1])
network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8, stride=8), torch.nn.Flatten(), torch.nn.Linear(64, 4)).eval()
images, maps = torch.rand(1, 3, 32, 32).expand(count, -1, -1, -1), torch.rand(count, 8, 8)
protocol = CurveProtocol(colour=(0.5, 0.5, 0.5), steps=4, batch_size=64)
score = scorer(network, torch.zeros(count, dtype=torch.long))
faithfulness(score, images[:2], maps[:2], protocol=protocol)  # what is set up once
Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
found = faithfulness(score, images, maps, protocol=protocol)
[line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(line.split()[1], found.forward_passes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak of a process")
def test_ten_times_the_images_take_the_same_memory():
    command = [sys.executable, "-c", PEAK]
    runs = {n: subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in (500, 5000)}
    printed = {n: run.communicate(timeout=300)[0].split() for n, run in runs.items()}
    assert [int(passes) for _, passes in printed.values()] == [500 * 8, 5000 * 8]  # 2 x 4 steps
    small, large = (int(kilobytes) for kilobytes, _ in printed.values())
    assert large < 1.05 * small, f"{small} kB with 500 images, {large} kB with 5,000"
